// SPDX-License-Identifier: Apache-2.0
//
// So many events a second, and as many at once, counted by all threads together.
#ifndef PARKWAY_SERVER_RATE_LIMIT_H_
#define PARKWAY_SERVER_RATE_LIMIT_H_

#include <atomic>
#include <chrono>
#include <cstdint>

#include "sched/clock.h"
#include "server/rate.h"

namespace parkway {

class RateLimit {
 public:
  explicit RateLimit(int per_second) : rate_(per_second, std::chrono::seconds(1)) {}

  bool is_set() const { return rate_.is_set(); }

  // REQUIRES of all that follow: is_set(). Counts an event, if it may happen at `now`.
  bool Take(sched::Deadline now) {
    const int64_t at = sched::ToNs(now);
    int64_t due = due_.load(std::memory_order_relaxed);
    int64_t next;
    do {
      next = rate_.DueAfter(due, at);
      if (rate_.When(next, at) > at) return false;
    } while (!due_.compare_exchange_weak(due, next, std::memory_order_relaxed));
    return true;
  }

  // When the next one may happen, as it looks now.
  sched::Deadline When(sched::Deadline now) const {
    const int64_t at = sched::ToNs(now);
    const int64_t next = rate_.DueAfter(due_.load(std::memory_order_relaxed), at);
    return sched::FromNs(rate_.When(next, at));
  }
  // An event that was counted did not happen.
  void GiveBack() { due_.fetch_sub(rate_.SpanOf(1), std::memory_order_relaxed); }

 private:
  const Rate rate_;
  std::atomic<int64_t> due_{0};  // relaxed: any order of events will do
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_RATE_LIMIT_H_
