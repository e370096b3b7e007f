// SPDX-License-Identifier: Apache-2.0
//
// So many events a second, and as many at once: the generic cell rate algorithm in its form of
// virtual scheduling (ITU-T I.371, annex A).
#ifndef PARKWAY_SERVER_RATE_LIMIT_H_
#define PARKWAY_SERVER_RATE_LIMIT_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "sched/clock.h"

namespace parkway {

class Rate {
 public:
  // 0: no limit, which asks nobody.
  explicit Rate(int per_second)
      : interval_(per_second > 0 ? kSecond / per_second : 0), tolerance_(kSecond - interval_) {}

  bool is_set() const { return interval_ > 0; }

  // An event at `now`, in nanoseconds, after those that led to `due`: when it may happen, now or
  // later; and, if it does, what `due` is then.
  int64_t WhenAfter(int64_t due, int64_t now) const { return std::max(now, due - tolerance_); }
  int64_t DueAfter(int64_t due, int64_t now) const { return std::max(now, due) + interval_; }
  int64_t interval() const { return interval_; }

 private:
  static constexpr int64_t kSecond = 1'000'000'000;

  int64_t interval_;
  int64_t tolerance_;
};

// Of all threads.
class RateLimit {
 public:
  explicit RateLimit(int per_second) : rate_(per_second) {}

  bool is_set() const { return rate_.is_set(); }

  // REQUIRES of all that follow: is_set(). Counts an event, if it may happen at `now`.
  bool Take(sched::Deadline now) {
    const int64_t at = sched::ToNs(now);
    int64_t due = due_.load(std::memory_order_relaxed);
    do {
      if (rate_.WhenAfter(due, at) > at) return false;
    } while (!due_.compare_exchange_weak(due, rate_.DueAfter(due, at), std::memory_order_relaxed));
    return true;
  }

  // When the next one may happen, as it looks now.
  sched::Deadline When(sched::Deadline now) const {
    return sched::FromNs(rate_.WhenAfter(due_.load(std::memory_order_relaxed), sched::ToNs(now)));
  }
  // An event that was counted did not happen.
  void GiveBack() { due_.fetch_sub(rate_.interval(), std::memory_order_relaxed); }

 private:
  const Rate rate_;
  std::atomic<int64_t> due_{0};  // relaxed: any order of events will do
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_RATE_LIMIT_H_
