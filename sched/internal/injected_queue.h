// SPDX-License-Identifier: Apache-2.0
//
// Waiters that came from outside a worker's ring: other threads, overflow. Any worker takes from
// it.
#ifndef PARKWAY_SCHED_INTERNAL_INJECTED_QUEUE_H_
#define PARKWAY_SCHED_INTERNAL_INJECTED_QUEUE_H_

#include <atomic>

#include "sched/mutex.h"
#include "sched/waiter.h"

namespace sched::internal {

// A FIFO behind a lock, with a count that is read without it. Unbounded by itself: every waiter is
// in one list at most.
class InjectedQueue {
 public:
  void Push(Waiter waiter) {
    MutexLock lock(mu_);
    list_.PushBack(waiter);
    // seq_cst: "push, then look for sleepers" against "announce sleep, then look here"
    // (idle_set.h).
    size_.store(list_.size(), std::memory_order_seq_cst);
  }

  // An empty Waiter when there is none.
  Waiter Pop() { return empty() ? Waiter() : PopLocked(); }

  bool empty() const { return size_.load(std::memory_order_seq_cst) == 0; }

 private:
  [[gnu::noinline]] Waiter PopLocked() {
    MutexLock lock(mu_);
    const Waiter first = list_.PopFront();
    size_.store(list_.size(), std::memory_order_seq_cst);
    return first;
  }

  Mutex mu_;
  WaiterList list_ ABSL_GUARDED_BY(mu_);
  std::atomic<int> size_{0};
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_INJECTED_QUEUE_H_
