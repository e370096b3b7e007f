// SPDX-License-Identifier: Apache-2.0
//
// One direction of a descriptor: the place where at most one waiter waits for readiness. Go's rg
// and wg (runtime/netpoll.go), re-derived.
//
//   state    meaning                           left by
//   kNil     nothing pending, nobody waits     BeginWait -> kWait (T3), Notify -> kReady (T10)
//   kReady   readiness came first              BeginWait -> kNil (T2), Reset -> kNil (T1)
//   kWait    a waiter is about to park         Commit -> waiter (T4), Notify -> kReady (T5),
//                                              Cancel -> kNil (T6)
//   waiter   a Fiber* or tagged Continuation*  Notify -> kReady (T7), Cancel -> kNil (T8);
//            is parked                         both make it runnable
//
//            Reset            BeginWait     Commit (worker's stack)
//   kReady ---------> kNil ------------> kWait -----------------> waiter
//     ^  ^              |  ^               | |                     |  |
//     |  +-- Notify ----+  +--- Cancel ----+ |                     |  |
//     |  |                 +--- Cancel ------|---------------------+  |
//     |  +----------------- Notify ----------+                        |
//     +-------------------- Notify -----------------------------------+
//
// A waiter calls Reset directly before a system call, the call, and on EAGAIN: BeginWait, then
// *reads the event bits and the deadline*, parks with Commit, and ends with EndWait (T9) whether or
// not it parked. The closer and the timer publish their bit first and Cancel after. "Store kWait,
// then load the bits" against "store the bits, then load the slot": if both loads missed, the
// waiter would sleep for ever. So all accesses here are seq_cst but Reset's.
//
// Only Notify creates kReady; readiness is a hint that may be spurious. One waiter per slot: FdGate
// sees to that.
#ifndef PARKWAY_NETPOLL_INTERNAL_POLL_SLOT_H_
#define PARKWAY_NETPOLL_INTERNAL_POLL_SLOT_H_

#include <cstdint>

#include "sched/atomics.h"
#include "sched/check.h"

namespace netpoll::internal {

template <class Atomics>
class BasicPollSlot {
 public:
  static constexpr uintptr_t kNil = 0;
  static constexpr uintptr_t kReady = 1;
  static constexpr uintptr_t kWait = 2;

  // T1: drops readiness noted earlier. Waiter only, and only directly before a system call in this
  // direction: the kernel's own socket lock orders this store before that call's look at the
  // socket, so an edge whose Notify still saw kReady (T11) is not lost; the call finds what it
  // announced.
  void Reset() {
    if (state_.load(std::memory_order_relaxed) != kNil) {
      state_.store(kNil, std::memory_order_relaxed);
    }
  }

  // T2, T3. True: readiness was there and is consumed, go on without waiting. False: kWait is
  // announced; the caller reads the event bits and the deadline now, and ends with EndWait.
  bool BeginWait() {
    uintptr_t state = state_.load(std::memory_order_seq_cst);
    for (;;) {
      PARKWAY_CHECK(state == kNil || state == kReady, state);  // else two waiters share a slot
      const uintptr_t next = state == kReady ? kNil : kWait;
      // Pairs with Cancel's load: see the top of this file.
      if (state_.compare_exchange_strong(state, next, std::memory_order_seq_cst)) {
        return next == kNil;
      }
    }
  }

  // T4: on the worker's own stack, after the waiter's registers are saved. False: T5 or T6 came
  // first, the waiter goes on. Once true, the waiter may already be running elsewhere.
  bool Commit(uintptr_t waiter) {
    uintptr_t state = kWait;
    // Publishes the saved registers to Notify and Cancel.
    return state_.compare_exchange_strong(state, waiter, std::memory_order_seq_cst);
  }

  // T9: ends a wait, parked or not. True if readiness came.
  bool EndWait() {
    const uintptr_t state = state_.exchange(kNil, std::memory_order_seq_cst);
    PARKWAY_CHECK(state <= kWait, state);  // a waiter word here is someone else's
    return state == kReady;
  }

  // T5, T7, T10, T11: the poller saw readiness. Returns the waiter that the caller must make
  // runnable, or 0.
  uintptr_t Notify() {
    // The load, too, is seq_cst: when it finds kReady (T11), the event bits this poller set before
    // are seen by the waiter that consumes that kReady.
    uintptr_t state = state_.load(std::memory_order_seq_cst);
    for (;;) {
      if (state == kReady) return 0;
      if (state_.compare_exchange_strong(state, kReady, std::memory_order_seq_cst)) {
        return state > kWait ? state : 0;
      }
    }
  }

  // T6, T8, T12: a deadline passed or the descriptor closes, and the caller has published that.
  // Returns the waiter that the caller must make runnable, or 0.
  uintptr_t Cancel() {
    uintptr_t state = state_.load(std::memory_order_seq_cst);  // pairs with BeginWait
    for (;;) {
      if (state == kNil || state == kReady) return 0;
      if (state_.compare_exchange_strong(state, kNil, std::memory_order_seq_cst)) {
        return state > kWait ? state : 0;
      }
    }
  }

  // For a slot nobody uses: a recycled descriptor starts anew, and a leak check looks. REQUIRES: no
  // waiter.
  void Recycle() {
    const uintptr_t state = state_.exchange(kNil, std::memory_order_seq_cst);
    PARKWAY_CHECK(state == kNil || state == kReady, state);
  }

 private:
  typename Atomics::template Atomic<uintptr_t> state_{kNil};
};

using PollSlot = BasicPollSlot<sched::StdAtomics>;

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_POLL_SLOT_H_
