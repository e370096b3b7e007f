// SPDX-License-Identifier: Apache-2.0
//
// The time of a log line.
#ifndef PARKWAY_SERVER_RFC3339_H_
#define PARKWAY_SERVER_RFC3339_H_

#include <cstddef>
#include <cstdint>

namespace parkway {

// UTC to the microsecond: "2026-11-27T08:40:00.123456Z", kRfc3339Bytes, without an end. Returns
// where it ends. REQUIRES: a year of four digits.
inline constexpr size_t kRfc3339Bytes = 27;
char* WriteRfc3339(int64_t ns_since_1970, char* to);

}  // namespace parkway

#endif  // PARKWAY_SERVER_RFC3339_H_
