// SPDX-License-Identifier: Apache-2.0
//
// Of a storm of equal events, one line a second.
#ifndef PARKWAY_SERVER_REPORT_LIMIT_H_
#define PARKWAY_SERVER_REPORT_LIMIT_H_

#include <atomic>
#include <chrono>
#include <cstdint>

#include "sched/clock.h"

namespace parkway {

class ReportLimit {
 public:
  static constexpr sched::Duration kEvery = std::chrono::seconds(1);

  // Counts an event at `now`. How many there were so far, if it is to be reported; else 0. Any
  // thread.
  int64_t Note(sched::Deadline now) {
    const int64_t count = count_.fetch_add(1, std::memory_order_relaxed) + 1;
    int64_t due = due_.load(std::memory_order_relaxed);
    if (sched::ToNs(now) < due) return 0;
    const int64_t next = sched::ToNs(now) + kEvery.count();
    return due_.compare_exchange_strong(due, next, std::memory_order_relaxed) ? count : 0;
  }

 private:
  std::atomic<int64_t> count_{0};        // statistics
  std::atomic<int64_t> due_{INT64_MIN};  // relaxed: of several at once, one wins
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_REPORT_LIMIT_H_
