// SPDX-License-Identifier: Apache-2.0
//
// So many events a second: the generic cell rate algorithm in its form of virtual scheduling (ITU-T
// I.371, annex A). All that is known of those that came is an instant, `due`: until when they
// suffice.
#ifndef PARKWAY_SERVER_RATE_H_
#define PARKWAY_SERVER_RATE_H_

#include <algorithm>
#include <cstdint>

#include "sched/clock.h"

namespace parkway {

class Rate {
 public:
  // 0 a second: no limit, which asks nobody. As many events as come in `at_once` may come together.
  Rate(int64_t per_second, sched::Duration at_once)
      : per_second_(per_second), at_once_(at_once.count()) {}

  bool is_set() const { return per_second_ > 0; }
  int64_t per_second() const { return per_second_; }

  // REQUIRES of all that follow: is_set(). Instants and spans are in nanoseconds.

  // What `due` becomes by so many events at `now`.
  int64_t DueAfter(int64_t due, int64_t now, int64_t events = 1) const {
    return std::max(due, now) + SpanOf(events);
  }
  // When the events that led to `due` are within the rate: now or later.
  int64_t When(int64_t due, int64_t now) const { return std::max(now, due - at_once_); }
  int64_t SpanOf(int64_t events) const { return events * kSecond / per_second_; }

 private:
  static constexpr int64_t kSecond = 1'000'000'000;

  int64_t per_second_;
  int64_t at_once_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_RATE_H_
