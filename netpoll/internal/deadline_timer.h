// SPDX-License-Identifier: Apache-2.0
//
// The deadline of one direction: a word that holds the instant, kNeverNs or kExpired, and the timer
// that watches it.
//
//   word        meaning                       left by
//   kNeverNs    no deadline                   Set
//   an instant  fires then, or when found     Set, by exchange;
//               to have passed                Fire, by CAS of the value it read -> kExpired
//   kExpired    passed; waits fail at once    Set
//
// Fire publishes kExpired *before* it cancels the slot; the waiter announces kWait in the slot
// *before* it reads the word (poll_slot.h). A deadline moved after it fired is invisible: the
// waiter wakes, sees the new instant and waits again. Whoever moves it to the past does what Fire
// does.
#ifndef PARKWAY_NETPOLL_INTERNAL_DEADLINE_TIMER_H_
#define PARKWAY_NETPOLL_INTERNAL_DEADLINE_TIMER_H_

#include <cstdint>

#include "sched/clock.h"
#include "sched/timer_queue.h"

namespace netpoll::internal {

template <class Atomics>
class BasicDeadlineTimer : public sched::BasicTimer<Atomics> {
 public:
  static constexpr int64_t kExpired = INT64_MIN;

  // Moves the deadline; `now` decides whether it has passed already, and then the waiter is
  // cancelled here. True: the caller must arm this timer in its queue.
  bool Set(int64_t when, int64_t now) {
    const bool past = when <= now;
    // seq_cst: then the armed instant is read (timer_queue.h), or the slot (poll_slot.h).
    word_.exchange(past ? kExpired : when, std::memory_order_seq_cst);
    if (past) {
      Expired();
      return false;
    }
    return when != sched::kNeverNs && this->NeedsArming(when);
  }

  // Seq_cst, for the waiter's look after kWait.
  bool expired() const { return word_.load(std::memory_order_seq_cst) == kExpired; }

  // Starts anew for a recycled descriptor. An armed timer may stay in its heap: it finds nothing
  // wanted.
  void Recycle() { word_.store(sched::kNeverNs, std::memory_order_seq_cst); }

 protected:
  ~BasicDeadlineTimer() = default;

  // kExpired is published: cancel the slot and make its waiter runnable. Any worker, no lock held.
  virtual void Expired() = 0;

 private:
  int64_t Wanted() const override {
    const int64_t when = word_.load(std::memory_order_seq_cst);
    return when == kExpired ? sched::kNeverNs : when;
  }

  int64_t Fire(int64_t now) override {
    int64_t when = word_.load(std::memory_order_seq_cst);
    do {
      if (when == kExpired || when > now) return when == kExpired ? sched::kNeverNs : when;
    } while (!word_.compare_exchange_strong(when, kExpired, std::memory_order_seq_cst));
    Expired();
    return sched::kNeverNs;
  }

  typename Atomics::template Atomic<int64_t> word_{sched::kNeverNs};
};

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_DEADLINE_TIMER_H_
