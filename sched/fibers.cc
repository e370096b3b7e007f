// SPDX-License-Identifier: Apache-2.0
#include "sched/fibers.h"

#include <utility>

#include "sched/check.h"
#include "sched/internal/core.h"
#include "sched/internal/fiber.h"
#include "sched/internal/worker.h"
#include "sched/park.h"
#include "sched/parking_lot.h"

namespace sched {
namespace {

using internal::CurrentWorker;
using internal::Departure;
using internal::Worker;

Fiber* RequireFiber() {
  const Worker* const worker = CurrentWorker();
  PARKWAY_CHECK(worker != nullptr && worker->current() != nullptr, 0);  // fibers only
  return worker->current();
}

bool CommitSleep(Fiber* self, void*) {
  CurrentWorker()->timers.Arm(self->sleep, self->sleep.until);
  return true;
}

}  // namespace

const char* ToString(WaitReason why) {
  switch (why) {
    case WaitReason::kNone:
      return "none";
    case WaitReason::kRead:
      return "read";
    case WaitReason::kWrite:
      return "write";
    case WaitReason::kAccept:
      return "accept";
    case WaitReason::kConnect:
      return "connect";
    case WaitReason::kSleep:
      return "sleep";
    case WaitReason::kJoin:
      return "join";
    case WaitReason::kLock:
      return "lock";
  }
  return "?";
}

// --- park.h

void Park(WaitReason why, ParkCommit commit, void* arg) {
  Fiber* const self = RequireFiber();
  self->why = why;
  self->park_commit = commit;
  self->commit_arg = arg;
  CurrentWorker()->SwitchAway(Departure::kPark);
  self->why = WaitReason::kNone;
}

void Hibernate(Continuation* continuation, HibernateCommit commit, void* arg) {
  Fiber* const self = RequireFiber();
  if (commit(continuation, arg)) CurrentWorker()->GoOnWithout(self);
}

void Ready(Waiter waiter) {
  Worker* const worker = CurrentWorker();
  if (!waiter.is_continuation()) {
    Fiber* const fiber = waiter.fiber();
    if (fiber->pinned != nullptr) return fiber->pinned->PushPinned(waiter);
    if (worker == nullptr || &worker->core != fiber->core) return fiber->core->Inject(waiter);
  }
  PARKWAY_CHECK(worker != nullptr, 0);
  worker->PushLocal(waiter);
}

Fiber* CurrentFiber() {
  const Worker* const worker = CurrentWorker();
  return worker == nullptr ? nullptr : worker->current();
}

EventSource* CurrentEventSource() {
  const Worker* const worker = CurrentWorker();
  return worker == nullptr ? nullptr : &worker->source();
}

int CurrentWorkerIndex() {
  const Worker* const worker = CurrentWorker();
  return worker == nullptr ? -1 : worker->index;
}

void ChargeOperation() {
  Fiber* const self = RequireFiber();
  if (++self->operations < kOperationsPerTurn) return;
  self->operations = 0;
  Yield();
}

Deadline RoundTime() { return FromNs(CurrentWorker()->now()); }

void ArmTimer(int home, Timer& timer, int64_t when) {
  Worker* const worker = CurrentWorker();
  if (worker->index == home) return worker->timers.Arm(timer, when);
  Worker& owner = *worker->core.workers[home];
  owner.timers.ArmFromElsewhere(timer);
  owner.TimerMoved(when);
}

ParkingLot& CurrentParkingLot() { return CurrentWorker()->core.lot; }

// --- fibers.h

bool Spawn(FiberFn fn) { return CurrentWorker()->Spawn(std::move(fn)); }

bool Spawn(Continuation& continuation) { return CurrentWorker()->Spawn(continuation); }

void Yield() {
  Fiber* const self = RequireFiber();
  (void)self;
  CurrentWorker()->SwitchAway(Departure::kYield);
}

void SleepUntil(Deadline when) {
  Fiber* const self = RequireFiber();
  self->sleep.fiber = self;
  self->sleep.until = ToNs(when);
  Park(WaitReason::kSleep, &CommitSleep, nullptr);
}

void SleepFor(Duration span) { SleepUntil(After(Now(), span)); }

Deadline Now() { return CurrentWorker()->core.host.Now(); }

uint64_t CurrentFiberId() { return RequireFiber()->id; }

PinToWorker::PinToWorker() : was_pinned_(RequireFiber()->pinned != nullptr) {
  RequireFiber()->pinned = CurrentWorker();
}

PinToWorker::~PinToWorker() {
  if (!was_pinned_) RequireFiber()->pinned = nullptr;
}

bool FiberScope::Spawn(FiberFn fn) {
  running_.fetch_add(1, std::memory_order_relaxed);
  const bool spawned = sched::Spawn([this, fn = std::move(fn)]() mutable {
    std::move(fn)();
    fn = nullptr;  // before the parent goes on: what it captured may lie on the parent's stack
    // Release: the child's work is seen by the parent that reads 0 in Join. From here on `this` may
    // be gone; its address is only a key.
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) CurrentParkingLot().WakeAll(this);
  });
  if (!spawned) running_.fetch_sub(1, std::memory_order_relaxed);
  return spawned;
}

void FiberScope::Join() {
  constexpr auto still = [](void* scope) {
    return static_cast<FiberScope*>(scope)->running_.load(std::memory_order_acquire) != 0;
  };
  while (still(this)) CurrentParkingLot().Wait(this, WaitReason::kJoin, still, this);
}

}  // namespace sched
