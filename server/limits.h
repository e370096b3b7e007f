// SPDX-License-Identifier: Apache-2.0
//
// How many connections the process can serve with the descriptors it may open.
#ifndef PARKWAY_SERVER_LIMITS_H_
#define PARKWAY_SERVER_LIMITS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace parkway {

// Descriptors kept for listeners, epolls, files and the short life of connects that are retried.
inline constexpr int64_t kReservedDescriptors = 256;

// Raises RLIMIT_NOFILE to its hard limit; returns the limit that holds then.
int64_t RaiseDescriptorLimit();

// Sessions that `descriptors` allow: (descriptors - 256) / 2 for a proxy, which needs two each,
// descriptors - 256 for echo. Never less than 1.
int64_t SessionsFor(int64_t descriptors, Mode mode);

// --max_conns, or the above where it is 0. An error names the flag if it asks for more than the
// descriptors allow.
absl::StatusOr<int64_t> MaxConns(const Config& config, int64_t descriptors);

}  // namespace parkway

#endif  // PARKWAY_SERVER_LIMITS_H_
