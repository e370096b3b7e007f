// SPDX-License-Identifier: Apache-2.0
//
// Durations and sizes as people write them: a number and its unit. A bare number is refused, since
// what it means (seconds? milliseconds?) differs from program to program; only 0 needs no unit.
#ifndef PARKWAY_SERVER_UNITS_H_
#define PARKWAY_SERVER_UNITS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace parkway {

// Reads 500ms, 1.5s, 2m, 1h, 1h30m: numbers with a unit of d, h, m, s, ms, us or ns, the larger
// unit first. Never negative, exact to the nanosecond, at most about 292 years. The errors
// (kInvalidArgument) say what is wrong without repeating the text: the caller knows which flag it
// came from.
absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text);

// The shortest text of whole numbers from which ParseDuration() reads `duration`: 90s is
// "1m30s", 1.5 s "1s500ms", zero "0". REQUIRES: not negative.
std::string FormatDuration(std::chrono::nanoseconds duration);

// Reads 512B, 64KiB (also 64k, 64K, 64Ki), 1MiB, 2GiB, 1TiB, in bytes: a whole number and a power
// of 1024. KB and MB are refused, because half of their readers take them for powers of 1000.
// Errors as for ParseDuration().
absl::StatusOr<uint64_t> ParseSize(std::string_view text);

// The text with the largest unit that leaves a whole number: "64KiB", "1025B", zero "0".
std::string FormatSize(uint64_t bytes);

// For what is measured: whole MiB, rounded down, "57MiB".
std::string InMebibytes(int64_t bytes);

}  // namespace parkway

#endif  // PARKWAY_SERVER_UNITS_H_
