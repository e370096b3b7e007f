// SPDX-License-Identifier: Apache-2.0
//
// The timers of one worker: a heap behind a normally uncontended lock, so that another worker can
// fire them when the owner is stuck, and an inbox for timers armed from elsewhere.
//
// A timer is lazy. Whoever moves its deadline stores the wanted instant where Wanted() finds it and
// then asks NeedsArming(): if the heap already holds the timer for an earlier or equal instant
// there is nothing to do. It fires then, sees that it is wanted later, and is put back. So moving a
// deadline later costs one store and one load.
//
//   mover:  store the wanted instant, then load armed_for_
//   server: store armed_for_ = never, then load the wanted instant (Fire)
// Both seq_cst, or both could miss the other and the timer would be lost.
//
//   remote arming:  store the wanted instant; in_inbox_ 0 -> 1: push
//   drain:          in_inbox_ = 0, then load the wanted instant
// Again a store, then a load, on both sides.
#ifndef PARKWAY_SCHED_TIMER_QUEUE_H_
#define PARKWAY_SCHED_TIMER_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sched/atomics.h"
#include "sched/clock.h"

namespace sched {

template <class Atomics>
class BasicTimerQueue;

// Something that is to happen at an instant. It must outlive its stay in a queue: until Fire
// returned kNeverNs with no one moving it, or the queue is gone.
template <class Atomics>
class BasicTimer {
 public:
  BasicTimer() = default;
  BasicTimer(const BasicTimer&) = delete;
  BasicTimer& operator=(const BasicTimer&) = delete;

  // Whether, after its wanted instant became `when`, the timer has to be armed. Any thread.
  bool NeedsArming(int64_t when) const {
    return when < armed_for_.load(std::memory_order_seq_cst);  // see the top of this file
  }

 protected:
  ~BasicTimer() = default;

  // The instant at which it is wanted now, or kNeverNs. Any thread; must be a seq_cst load.
  virtual int64_t Wanted() const = 0;
  // It is due: acts, or returns the later instant at which it is wanted. After kNeverNs the queue
  // does not touch the timer again, so its memory may be gone. On the serving worker's own stack,
  // without a lock held; two servers may be in Fire of one timer at once if it is armed again
  // meanwhile.
  virtual int64_t Fire(int64_t now) = 0;

 private:
  friend class BasicTimerQueue<Atomics>;
  static constexpr uint32_t kNotInHeap = UINT32_MAX;

  // The key in the heap, kNeverNs outside; stored under the queue's lock, read by anyone.
  typename Atomics::template Atomic<int64_t> armed_for_{kNeverNs};
  typename Atomics::template Plain<BasicTimer*> inbox_next_{nullptr};
  uint32_t heap_index_ = kNotInHeap;  // guarded by the queue's lock
  typename Atomics::template Atomic<bool> in_inbox_{false};
};

template <class Atomics>
class BasicTimerQueue {
 public:
  using Timer = BasicTimer<Atomics>;

  // Puts `timer` in for `when`, or moves it there if that is earlier. The owner, or a worker that
  // serves the queue.
  void Arm(Timer& timer, int64_t when) {
    Lock lock(mu_);
    Insert(timer, when);
  }

  // Asks the owner to arm `timer` for what it then wants. Any thread; the caller then sees to it
  // that an owner asleep past that instant wakes up. Bounded: a timer is in the inbox once.
  void ArmFromElsewhere(Timer& timer) {
    if (timer.in_inbox_.exchange(true, std::memory_order_seq_cst)) return;
    Timer* head = inbox_.load(std::memory_order_relaxed);
    do {
      timer.inbox_next_ = head;
      // Release publishes inbox_next_ to Drain; seq_cst because the owner, about to sleep,
      // announces that and then looks here, while the caller pushes and then looks whether the
      // owner sleeps.
    } while (!inbox_.compare_exchange_strong(head, &timer, std::memory_order_seq_cst,
                                             std::memory_order_relaxed));
  }

  bool InboxEmpty() const { return inbox_.load(std::memory_order_seq_cst) == nullptr; }

  // When the earliest timer is due, kNeverNs if there is none. Any thread.
  int64_t Next() const { return next_.load(std::memory_order_seq_cst); }

  // Takes in the inbox and fires what is due at `now`. Any worker. Returns the earliest instant
  // that was put back, for a server that is not the owner: it must wake an owner that sleeps past
  // that.
  int64_t Serve(int64_t now) {
    int64_t earliest = DrainInbox();
    while (Next() <= now) {
      Timer* due[kBatch];
      const size_t count = PopDue(now, due);
      if (count == 0) break;
      for (size_t i = 0; i < count; ++i) {
        const int64_t again = due[i]->Fire(now);
        if (again == kNeverNs) continue;
        Arm(*due[i], again);
        if (again < earliest) earliest = again;
      }
    }
    return earliest;
  }

  // How many timers it holds; statistics and tests.
  size_t Size() const {
    Lock lock(mu_);
    return heap_.size();
  }

 private:
  using Lock = BasicMutexLock<typename Atomics::Mutex>;
  static constexpr size_t kBatch = 32;
  static constexpr size_t kArity = 4;  // shallower than binary, and the children share a cache line

  struct Entry {
    int64_t when;
    Timer* timer;
  };

  int64_t DrainInbox() {
    if (InboxEmpty()) return kNeverNs;
    int64_t earliest = kNeverNs;
    Timer* timer = inbox_.exchange(nullptr, std::memory_order_seq_cst);
    while (timer != nullptr) {
      Timer* const next = timer->inbox_next_;
      timer->in_inbox_.store(false, std::memory_order_seq_cst);
      const int64_t when = timer->Wanted();
      if (when != kNeverNs) Arm(*timer, when);
      if (when < earliest) earliest = when;
      timer = next;
    }
    return earliest;
  }

  size_t PopDue(int64_t now, Timer** due) {
    Lock lock(mu_);
    size_t count = 0;
    while (count < kBatch && !heap_.empty() && heap_.front().when <= now) {
      Timer* const timer = heap_.front().timer;
      RemoveFirst();
      timer->armed_for_.store(kNeverNs, std::memory_order_seq_cst);  // before Fire's load
      due[count++] = timer;
    }
    PublishNext();
    return count;
  }

  void Insert(Timer& timer, int64_t when) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    size_t at = timer.heap_index_;
    if (at == Timer::kNotInHeap) {
      at = heap_.size();
      heap_.push_back({when, &timer});
    } else if (heap_[at].when <= when) {
      return;
    }
    heap_[at].when = when;
    timer.armed_for_.store(when, std::memory_order_seq_cst);
    SiftUp(at);
    PublishNext();
  }

  void RemoveFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    heap_.front().timer->heap_index_ = Timer::kNotInHeap;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (heap_.empty()) return;
    heap_.front() = last;
    SiftDown(0);
  }

  void SiftUp(size_t at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const Entry entry = heap_[at];
    while (at > 0 && entry.when < heap_[(at - 1) / kArity].when) {
      Place(at, heap_[(at - 1) / kArity]);
      at = (at - 1) / kArity;
    }
    Place(at, entry);
  }

  void SiftDown(size_t at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const Entry entry = heap_[at];
    for (;;) {
      const size_t first = at * kArity + 1;
      if (first >= heap_.size()) break;
      size_t least = first;
      for (size_t child = first + 1; child < first + kArity && child < heap_.size(); ++child) {
        if (heap_[child].when < heap_[least].when) least = child;
      }
      if (entry.when <= heap_[least].when) break;
      Place(at, heap_[least]);
      at = least;
    }
    Place(at, entry);
  }

  void Place(size_t at, const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    heap_[at] = entry;
    entry.timer->heap_index_ = static_cast<uint32_t>(at);
  }

  void PublishNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const int64_t next = heap_.empty() ? kNeverNs : heap_.front().when;
    if (next != next_.load(std::memory_order_relaxed)) {
      // seq_cst: a thief puts a timer back and then looks whether the owner sleeps past it; the
      // owner announces its sleep and then looks here.
      next_.store(next, std::memory_order_seq_cst);
    }
  }

  mutable typename Atomics::Mutex mu_;
  std::vector<Entry> heap_ ABSL_GUARDED_BY(mu_);
  typename Atomics::template Atomic<int64_t> next_{kNeverNs};
  typename Atomics::template Atomic<Timer*> inbox_{nullptr};
};

using Timer = BasicTimer<StdAtomics>;
using TimerQueue = BasicTimerQueue<StdAtomics>;

}  // namespace sched

#endif  // PARKWAY_SCHED_TIMER_QUEUE_H_
