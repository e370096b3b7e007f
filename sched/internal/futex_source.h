// SPDX-License-Identifier: Apache-2.0
//
// An event source without events, for tests of the scheduler alone: a worker sleeps in a futex.
#ifndef PARKWAY_SCHED_INTERNAL_FUTEX_SOURCE_H_
#define PARKWAY_SCHED_INTERNAL_FUTEX_SOURCE_H_

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>

#include "sched/event_source.h"

namespace sched::internal {

class FutexSource final : public EventSource {
 public:
  void Wait(Deadline until, WaiterList&) override {
    if (until == kLongAgo) return;  // a poll leaves the interrupt for a wait that can block
    if (interrupted_.load(std::memory_order_seq_cst) == 0) Block(until);
    interrupted_.store(0, std::memory_order_seq_cst);
  }

  bool Poll(WaiterList&) override { return true; }

  void Interrupt() override {
    interrupted_.store(1, std::memory_order_seq_cst);
    syscall(SYS_futex, &interrupted_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }

 private:
  void Block(Deadline until) {
    // FUTEX_WAIT_BITSET takes an absolute instant of the monotonic clock.
    timespec at = {};
    if (until != kNever) {
      const int64_t ns = std::max<int64_t>(ToNs(until), 0);
      at.tv_sec = ns / 1'000'000'000;
      at.tv_nsec = ns % 1'000'000'000;
    }
    syscall(SYS_futex, &interrupted_, FUTEX_WAIT_BITSET_PRIVATE, 0, until == kNever ? nullptr : &at,
            nullptr, FUTEX_BITSET_MATCH_ANY);
  }

  std::atomic<uint32_t> interrupted_{0};
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_FUTEX_SOURCE_H_
