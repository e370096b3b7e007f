// SPDX-License-Identifier: Apache-2.0
//
// A worker's bounded ring of runnable waiters. Its owner pushes and pops; any worker may steal half
// of it.
//
// After the local run queue of Go's scheduler (runtime/proc.go: runqput, runqget, runqgrab),
// without `runnext`: a fiber made ready runs in its turn.
//
//   head_   next to take; owner and thieves advance it by CAS
//   tail_   next to fill; only the owner stores it
//
// The elements are atomics because a thief may read one while the owner, a whole lap later,
// overwrites it; the thief's CAS on head_ then fails and what it read is dropped.
#ifndef PARKWAY_SCHED_INTERNAL_RUN_QUEUE_H_
#define PARKWAY_SCHED_INTERNAL_RUN_QUEUE_H_

#include <array>
#include <cstdint>

#include "sched/atomics.h"

namespace sched::internal {

template <class Atomics, uint32_t kCapacityParam = 256>
class BasicRunQueue {
 public:
  static constexpr uint32_t kCapacity = kCapacityParam;
  static_assert((kCapacity & (kCapacity - 1)) == 0, "indices wrap by masking");

  // Owner only. False when full: the caller moves work to the injected queue.
  bool Push(uintptr_t waiter) {
    // Pairs with the CAS of Pop and StealInto: what they took has been read before it is
    // overwritten here.
    const uint32_t head = head_.load(std::memory_order_acquire);
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head == kCapacity) return false;
    ring_[tail % kCapacity].store(waiter, std::memory_order_relaxed);
    // Publishes the element to thieves. seq_cst: "push, then look for sleepers"
    // (IdleSet::ClaimSearcher) races with "announce sleep, then look at the queues" (Size); one of
    // the two must see the other.
    tail_.store(tail + 1, std::memory_order_seq_cst);
    return true;
  }

  // Owner only. 0 when empty.
  uintptr_t Pop() {
    uint32_t head = head_.load(std::memory_order_acquire);
    for (;;) {
      if (head == tail_.load(std::memory_order_relaxed)) return 0;
      const uintptr_t waiter = ring_[head % kCapacity].load(std::memory_order_relaxed);
      if (head_.compare_exchange_strong(head, head + 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        return waiter;
      }
    }
  }

  // Moves half of the elements, rounded up, to `thief`, which must be empty and the calling
  // worker's own. Returns how many were moved; 0 also when another thief was faster.
  uint32_t StealInto(BasicRunQueue& thief) {
    uint32_t head = head_.load(std::memory_order_acquire);
    // Pairs with Push: the elements below this tail are visible.
    const uint32_t tail = tail_.load(std::memory_order_acquire);
    const uint32_t count = (tail - head) - (tail - head) / 2;
    // head and tail are not one snapshot: a head read long before its tail may span more than the
    // ring.
    if (count == 0 || count > kCapacity / 2) return 0;
    const uint32_t to = thief.tail_.load(std::memory_order_relaxed);
    for (uint32_t i = 0; i < count; ++i) {
      const uintptr_t waiter = ring_[(head + i) % kCapacity].load(std::memory_order_relaxed);
      thief.ring_[(to + i) % kCapacity].store(waiter, std::memory_order_relaxed);
    }
    // Release: the reads above come before the owner's next overwrite. Acquire: a chain of thieves.
    if (!head_.compare_exchange_strong(head, head + count, std::memory_order_acq_rel,
                                       std::memory_order_relaxed)) {
      return 0;
    }
    thief.tail_.store(to + count, std::memory_order_seq_cst);  // as in Push
    return count;
  }

  // Any thread; exact only for the owner while nobody steals.
  uint32_t Size() const {
    const uint32_t head = head_.load(std::memory_order_seq_cst);
    const uint32_t tail = tail_.load(std::memory_order_seq_cst);  // pairs with Push, see there
    return tail - head;
  }

 private:
  alignas(64) typename Atomics::template Atomic<uint32_t> head_{0};
  alignas(64) typename Atomics::template Atomic<uint32_t> tail_{0};
  std::array<typename Atomics::template Atomic<uintptr_t>, kCapacity> ring_{};
};

using RunQueue = BasicRunQueue<StdAtomics>;

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_RUN_QUEUE_H_
