// SPDX-License-Identifier: Apache-2.0
//
// Instants and spans. A `Deadline` is an instant of the steady clock, so that it survives a step of
// the wall clock; a `Duration` is a span. No instant is ever called a timeout.
#ifndef PARKWAY_SCHED_CLOCK_H_
#define PARKWAY_SCHED_CLOCK_H_

#include <chrono>
#include <cstdint>

namespace sched {

using Duration = std::chrono::nanoseconds;
using Deadline = std::chrono::time_point<std::chrono::steady_clock, Duration>;

// Never comes.
inline constexpr Deadline kNever = Deadline::max();
// Has always passed.
inline constexpr Deadline kLongAgo = Deadline::min();

// Atomics and heaps hold deadlines as nanoseconds of the steady clock.
inline constexpr int64_t kNeverNs = INT64_MAX;
inline constexpr int64_t ToNs(Deadline at) { return at.time_since_epoch().count(); }
inline constexpr Deadline FromNs(int64_t ns) { return Deadline(Duration(ns)); }

// `from` + `span`, or kNever where that would overflow.
inline constexpr Deadline After(Deadline from, Duration span) {
  return span > kNever - from && from > Deadline() ? kNever : from + span;
}

}  // namespace sched

#endif  // PARKWAY_SCHED_CLOCK_H_
