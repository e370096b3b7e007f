// SPDX-License-Identifier: Apache-2.0
//
// How many connections the process can serve with the descriptors it may open.
#ifndef PARKWAY_SERVER_LIMITS_H_
#define PARKWAY_SERVER_LIMITS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace parkway {

// Descriptors kept back: at least so many, for files and for connections on their way out, and more
// where workers and addresses are many: each worker has an epoll and an eventfd, and per address a
// socket, a reserve and, at max_conns, a client that waits for its place. Where there are names, so
// much for each lookup at a time as its sockets need.
inline constexpr int64_t kReservedDescriptorsMin = 256;
int64_t ReservedDescriptors(const Config& config, int workers);

// How many pipes large flows may use: what --splice_memory allows, and no more than a 32nd of the
// descriptors, two each. They are kept back, too.
int64_t Pipes(const Config& config, int64_t descriptors);

// Descriptors a client takes at most, and as many fibers: one for echo, two for a proxied session,
// and one more where the daemon is its own backend.
int64_t DescriptorsPerClient(const Config& config);

// Raises RLIMIT_NOFILE to its hard limit; returns the limit that holds then.
int64_t RaiseDescriptorLimit();

// --max_conns, or, where it is 0, what `descriptors` allow without those kept back, and never less
// than 1. An error names the flag if it asks for more.
absl::StatusOr<int64_t> MaxConns(const Config& config, int workers, int64_t descriptors);

}  // namespace parkway

#endif  // PARKWAY_SERVER_LIMITS_H_
