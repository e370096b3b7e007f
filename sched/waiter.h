// SPDX-License-Identifier: Apache-2.0
//
// What can be parked in a slot and put into a run queue: a fiber, or a continuation that becomes
// one.
#ifndef PARKWAY_SCHED_WAITER_H_
#define PARKWAY_SCHED_WAITER_H_

#include <cstdint>
#include <utility>

namespace sched {

class Fiber;

// The link of anything that waits in an intrusive list. Aligned so that a pointer to it leaves
// three bits free.
struct alignas(8) Runnable {
  uintptr_t next_waiter = 0;  // a Waiter's word; owned by the list that holds this
};

// A fiber without a stack: one that is still to start, or ended while it waited (hibernation). A
// record, typically inside a session, that goes on on a fresh stack. The run queue carries the
// record; a stack is taken only when it is dequeued. It counts as a fiber from Spawn until a fiber
// that it became returns.
struct Continuation : Runnable {
  // Runs on the fresh stack. The continuation is then no longer queued anywhere.
  void (*resume)(Continuation* self) = nullptr;
};

// One word: Fiber* or tagged Continuation*, or nothing. Slots, lists and run queues hold such
// words. The three smallest values are never waiters (PollSlot uses them).
class Waiter {
 public:
  constexpr Waiter() = default;
  explicit Waiter(Fiber* fiber) : word_(reinterpret_cast<uintptr_t>(fiber)) {}
  explicit Waiter(Continuation* c) : word_(reinterpret_cast<uintptr_t>(c) | kContinuationTag) {}
  static Waiter FromWord(uintptr_t word) {
    Waiter waiter;
    waiter.word_ = word;
    return waiter;
  }

  uintptr_t word() const { return word_; }
  explicit operator bool() const { return word_ != 0; }
  bool is_continuation() const { return (word_ & kContinuationTag) != 0; }
  // REQUIRES: it is the one asked for.
  Fiber* fiber() const { return reinterpret_cast<Fiber*>(word_); }
  Continuation* continuation() const { return static_cast<Continuation*>(runnable()); }
  // Fiber starts with its Runnable (asserted in fiber.h), so the word without its tag is one in
  // either case.
  Runnable* runnable() const { return reinterpret_cast<Runnable*>(word_ & ~kContinuationTag); }

 private:
  static constexpr uintptr_t kContinuationTag = 4;
  uintptr_t word_ = 0;
};

// A FIFO of waiters, handed around in batches; not thread-safe. Unbounded, since a waiter is in one
// list at most and their number is bounded by the scheduler.
class WaiterList {
 public:
  bool empty() const { return !head_; }
  int size() const { return size_; }

  void PushBack(Waiter waiter) {
    waiter.runnable()->next_waiter = 0;
    if (tail_) {
      tail_.runnable()->next_waiter = waiter.word();
    } else {
      head_ = waiter;
    }
    tail_ = waiter;
    ++size_;
  }

  // The one that it holds; empty when it holds none or several.
  Waiter only() const { return size_ == 1 ? head_ : Waiter(); }

  // An empty Waiter when there is none.
  Waiter PopFront() {
    const Waiter first = head_;
    if (!first) return first;
    head_ = Waiter::FromWord(first.runnable()->next_waiter);
    if (!head_) tail_ = Waiter();
    --size_;
    return first;
  }

  void Append(WaiterList&& other) {
    if (other.empty()) return;
    if (tail_) {
      tail_.runnable()->next_waiter = other.head_.word();
    } else {
      head_ = other.head_;
    }
    tail_ = other.tail_;
    size_ += other.size_;
    other = WaiterList();
  }

 private:
  Waiter head_;
  Waiter tail_;
  int size_ = 0;
};

}  // namespace sched

#endif  // PARKWAY_SCHED_WAITER_H_
