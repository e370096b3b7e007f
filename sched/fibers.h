// SPDX-License-Identifier: Apache-2.0
//
// What code that runs on a fiber uses. A fiber is straight-line code with its own small stack (64
// KiB by default); where it blocks, its worker runs another. It may go on on another worker after
// any call that can block.
#ifndef PARKWAY_SCHED_FIBERS_H_
#define PARKWAY_SCHED_FIBERS_H_

#include <atomic>
#include <cstdint>

#include "absl/functional/any_invocable.h"
#include "sched/clock.h"

namespace sched {

using FiberFn = absl::AnyInvocable<void() &&>;

// Starts a fiber on the calling fiber's worker. Never blocks. False, with `fn` not run, at the
// scheduler's fiber_count_max or out of memory for stacks. Fiber only.
[[nodiscard]] bool Spawn(FiberFn fn);

// Lets the other runnable fibers of this worker go first. Fiber only.
void Yield();

// Blocks the calling fiber until `when`; may be late by the scheduler's latency, never early. Fiber
// only.
void SleepUntil(Deadline when);
void SleepFor(Duration span);

// The clock itself, not the round's (sched::RoundTime).
Deadline Now();

// The instant of this scheduling round: read once per poll, so up to about 1 ms old, and as old as
// the current fiber's computation. Costs no clock call. Worker only.
Deadline RoundTime();

// The index of the worker that runs here, or -1. Changes whenever the fiber may have parked: never
// keep it across a call that can block.
int CurrentWorkerIndex();

// Counts one operation that completed without parking; every 32nd yields, so that a fiber whose
// peer is always ready does not keep the worker to itself. Fiber only.
inline constexpr int kOperationsPerTurn = 32;
void ChargeOperation();

// While one exists, the calling fiber stays on the worker it is on (for libraries that keep
// thread-local state). Nesting is allowed. Fiber only.
class PinToWorker {
 public:
  PinToWorker();
  ~PinToWorker();
  PinToWorker(const PinToWorker&) = delete;
  PinToWorker& operator=(const PinToWorker&) = delete;

 private:
  bool was_pinned_;
};

// A group of fibers that may borrow from their parent's stack: the destructor blocks until the last
// has returned. Created, used and destroyed by one fiber; its children may call Spawn on it too.
class FiberScope {
 public:
  FiberScope() = default;
  ~FiberScope() { Join(); }
  FiberScope(const FiberScope&) = delete;
  FiberScope& operator=(const FiberScope&) = delete;

  // As sched::Spawn.
  [[nodiscard]] bool Spawn(FiberFn fn);
  // Blocks the calling fiber until all children have returned.
  void Join();

 private:
  std::atomic<int64_t> running_{0};
};

// The number of the calling fiber, unique within its scheduler. Fiber only.
uint64_t CurrentFiberId();

}  // namespace sched

#endif  // PARKWAY_SCHED_FIBERS_H_
