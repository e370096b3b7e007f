// SPDX-License-Identifier: Apache-2.0
//
// How a fiber blocks and is unblocked, for builders of blocking things (netpoll, ParkingLot,
// timers). Nothing else blocks a fiber.
#ifndef PARKWAY_SCHED_PARK_H_
#define PARKWAY_SCHED_PARK_H_

#include <cstdint>

#include "sched/clock.h"
#include "sched/event_source.h"
#include "sched/timer_queue.h"
#include "sched/waiter.h"

namespace sched {

// Why a fiber is parked: shown to whoever asks what the process waits for.
enum class WaitReason : uint8_t { kNone, kRead, kWrite, kAccept, kConnect, kSleep, kJoin, kLock };
const char* ToString(WaitReason why);

// Runs on the worker's own stack after the parking fiber's registers are saved. It publishes `self`
// where somebody will find it, and returns true; from that store on another worker may be running
// the fiber, so neither the commit nor its argument may live on the fiber's stack (hence no
// lambda), unless a lock that the waker also takes keeps them alive. False: nothing was published,
// and the fiber goes on at once.
using ParkCommit = bool (*)(Fiber* self, void* arg);

// Blocks the calling fiber until Ready(). Fiber only.
void Park(WaitReason why, ParkCommit commit, void* arg);

// Blocks the calling fiber without its stack and leaves `continuation` in its place: the commit
// publishes that instead, and its later Ready() runs `continuation->resume` on a fresh stack, as a
// fiber with a number of its own. Returns only if the commit returned false, and then the fiber
// goes on. Nothing on the old stack is destroyed: call it where the frames above hold nothing. The
// commit runs where it is called, since nobody will continue there: what it published may already
// be running elsewhere, but on another stack. Fiber only.
using HibernateCommit = bool (*)(Continuation* continuation, void* arg);
void Hibernate(Continuation* continuation, HibernateCommit commit, void* arg);

// Starts a fiber as sched::Spawn does, but without an allocation or, until it runs, a stack. False
// at the scheduler's fiber_count_max. `continuation` must live until it runs. Fiber only.
[[nodiscard]] bool Spawn(Continuation& continuation);

// Makes a parked waiter runnable: exactly once per commit that returned true. On a worker it goes
// to that worker's queue; from another thread to the injected queue, and then it must be a fiber.
// Never blocks. A pinned fiber goes to its worker.
void Ready(Waiter waiter);
inline void Ready(Fiber* fiber) { Ready(Waiter(fiber)); }

// The fiber that runs here, or nullptr.
Fiber* CurrentFiber();
// What the calling worker waits in; nullptr on other threads.
EventSource* CurrentEventSource();
// Arms `timer` in worker `home`'s queue for `when`, which must be what the timer then wants. Any
// worker.
void ArmTimer(int home, Timer& timer, int64_t when);

}  // namespace sched

#endif  // PARKWAY_SCHED_PARK_H_
