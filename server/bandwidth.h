// SPDX-License-Identifier: Apache-2.0
//
// So many bytes a second.
#ifndef PARKWAY_SERVER_BANDWIDTH_H_
#define PARKWAY_SERVER_BANDWIDTH_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "sched/clock.h"
#include "server/rate.h"

namespace parkway {

class Bandwidth {
 public:
  // What may come at once, and is moved at a time.
  static constexpr sched::Duration kAtOnce = std::chrono::milliseconds(50);
  static constexpr size_t kSliceMin = 512;
  // From here on a flow may be spliced: a pipe full of it takes no longer than kAtOnce.
  static constexpr size_t kSpliced = 16 << 20;

  // 0: no limit.
  explicit Bandwidth(size_t per_second) : rate_(static_cast<int64_t>(per_second), kAtOnce) {}

  bool is_set() const { return rate_.is_set(); }

  // How many bytes to move at a time, of at most `size`; all of it only where it may be spliced.
  size_t Slice(size_t size) const {
    const auto per_second = static_cast<size_t>(rate_.per_second());
    if (per_second == 0 || per_second >= kSpliced) return size;
    const auto slices = static_cast<size_t>(std::chrono::seconds(1) / kAtOnce);
    return std::clamp(per_second / slices, kSliceMin, size - 1);
  }

  // Counts `bytes` at `now`, after those that led to `due`. How long to move no more.
  sched::Duration Charge(size_t bytes, sched::Deadline now, int64_t& due) const {
    if (!is_set()) return sched::Duration(0);
    due = DueAfter(due, bytes, now);
    return WaitFor(due, now);
  }
  // The same where others count, too.
  sched::Duration Charge(size_t bytes, sched::Deadline now, std::atomic<int64_t>& due) const {
    if (!is_set()) return sched::Duration(0);
    int64_t before = due.load(std::memory_order_relaxed);
    int64_t after;
    do {
      after = DueAfter(before, bytes, now);
    } while (!due.compare_exchange_weak(before, after, std::memory_order_relaxed));
    return WaitFor(after, now);
  }

 private:
  int64_t DueAfter(int64_t due, size_t bytes, sched::Deadline now) const {
    return rate_.DueAfter(due, sched::ToNs(now), static_cast<int64_t>(bytes));
  }
  sched::Duration WaitFor(int64_t due, sched::Deadline now) const {
    return sched::FromNs(rate_.When(due, sched::ToNs(now))) - now;
  }

  Rate rate_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_BANDWIDTH_H_
