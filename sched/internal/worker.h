// SPDX-License-Identifier: Apache-2.0
//
// One worker: its thread's loop, its queues, its timers, and the switch between it and the fibers
// it runs.
#ifndef PARKWAY_SCHED_INTERNAL_WORKER_H_
#define PARKWAY_SCHED_INTERNAL_WORKER_H_

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <optional>

#include "sched/clock.h"
#include "sched/event_source.h"
#include "sched/internal/crash_signals.h"
#include "sched/internal/fiber.h"
#include "sched/internal/idle_set.h"
#include "sched/internal/injected_queue.h"
#include "sched/internal/run_queue.h"
#include "sched/internal/spin_policy.h"
#include "sched/internal/stack_pool.h"
#include "sched/timer_queue.h"
#include "sched/waiter.h"

namespace sched::internal {

struct Core;

class Worker {
 public:
  // Every 61st pick takes from the injected queue first, and at the latest every 61st polls (Go's
  // schedtick; prime, so that it does not beat with a pattern of the program).
  static constexpr uint32_t kFairnessTick = 61;
  // So many picks, less one, may be made on the stack of a fiber that is gone before the loop has
  // its turn, and with it everything that is not in the ring.
  static constexpr uint32_t kLoopTick = 32;
  // The clock is looked at every so many picks, for kPollEvery.
  static constexpr uint32_t kClockTick = 16;
  static constexpr int64_t kPollEveryNs = 1'000'000;
  // A worker that has not polled for so long is served by others.
  static constexpr int64_t kStaleNs = 200'000;
  // Nobody is woken to help with so many that events made ready: running a few takes less than
  // waking (docs/decisions/0021-waking.md).
#ifdef PARKWAY_INTERLEAVE
  static constexpr uint32_t kFew = 1;  // so that more goes from worker to worker
#else
  static constexpr uint32_t kFew = 4;
#endif
  static constexpr int64_t kSentinelWaitNs = 1'000'000;
  // In place of the time of its last poll while it blocks in its event source: it is not stuck.
  static constexpr int64_t kInWait = INT64_MAX / 2;

  Worker(Core& core, int index, EventSource& source);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // --- The worker's own thread.

  // One round: runs one waiter, or waits in the event source. nullopt when the scheduler stops.
  std::optional<Deadline> Step();
  // The thread's first act.
  void BindToThread();

  bool Spawn(FiberFn fn);
  bool Spawn(Continuation& continuation);
  // Queues a waiter here; when more than one waits, another worker may be woken.
  void PushLocal(Waiter waiter);
  // From the fiber that runs here to the worker's loop. Returns when the fiber is resumed, maybe
  // elsewhere.
  void SwitchAway(Departure departure);
  // From a fiber that is gone: what called this is never continued.
  [[noreturn]] void GoOnWithout(Fiber* fiber);
  int64_t now() const { return now_; }
  Fiber* current() const { return current_; }
  EventSource& source() const { return source_; }

  // --- Any thread.

  // Queues a fiber that only this worker may run.
  void PushPinned(Waiter waiter);
  // Queues a waiter that shall run here; others take it if this worker is stuck.
  void PushPlaced(Waiter waiter);
  // Makes a worker that runs fiber after fiber poll at its next pick.
  void PollSoon() { poll_soon_.store(true, std::memory_order_relaxed); }
  // After arming a timer from elsewhere, for `when`.
  void TimerMoved(int64_t when);
  void Interrupt() { source_.Interrupt(); }
  bool IsStale(int64_t now) const {
    return last_poll_.load(std::memory_order_seq_cst) + kStaleNs < now;
  }
  // More than one waits here: worth the help of a worker that is awake and has nothing else to do.
  // A single one is not, since moving it away from its connection's shard costs more than its short
  // wait, unless this worker is stuck.
  bool HasSurplus() const { return ring_.Size() > 1; }
  bool IsStuckWithWork(int64_t now) const { return ring_.Size() > 0 && IsStale(now); }
  int64_t last_poll() const { return last_poll_.load(std::memory_order_seq_cst); }
  uint64_t running_fiber() const { return running_.load(std::memory_order_relaxed); }
  pthread_t thread() const { return thread_; }
  bool bound() const { return bound_.load(std::memory_order_acquire); }

  const int index;
  Core& core;
  TimerQueue timers;

  // Statistics: written by the owner only, read by anyone.
  std::atomic<int64_t> switches{0};
  std::atomic<int64_t> steals{0};
  std::atomic<int64_t> waits{0};
  std::atomic<int64_t> spins{0};

 private:
  static void FiberMain(void* arg);

  Waiter Pick();
  bool TakeForSameStack();
  void NoteRunning(const Fiber* fiber);
  Waiter PopOwn();
  Waiter FindElsewhere();
  Waiter Steal();
  void ServeStale();
  Waiter PollOwn();
  void WaitAtMost(int64_t ns);
  void AfterPoll();
  void ServeTimers();
  // For a batch of events. While there is none it does not poll: what finds no place in the ring
  // goes to the injected queue, where later batches would overtake it for ever.
  bool HasRoom() const { return ring_.Size() <= RunQueue::kCapacity / 2; }
  void Dispatch(WaiterList& ready);
  void Sleep();
  bool BecomeSentinel();
  bool MustStayAwake(int64_t wake_at) const;
  bool OthersNeedHelp() const;
  bool SpinForWork();
  void StopSearching();
  void NoteWoken(Woken woken, bool has_work);

  void Run(Waiter waiter);
  Fiber* FiberFor(Waiter waiter);
  void SwitchTo(Fiber* fiber);
  // Does what the fiber asked for when it left. True: the fiber goes on at once.
  bool Depart(Fiber* fiber);
  Fiber* NewFiber();
  uint64_t NextFiberId();
  void Recycle(Fiber* fiber);
  void DropSpare();

  EventSource& source_;

  // Owner only.
  Fiber* current_ = nullptr;
  void* loop_sp_ = nullptr;  // where the loop stands while a fiber runs
  SanitizedStack loop_sanitized_;
  std::optional<SignalStack> signal_stack_;
  StackCache stacks_;
  SpinPolicy spin_;
  Fiber* spare_ = nullptr;                  // ended, and kept with its warm stack for the next one
  ExceptionGlobals* exceptions_ = nullptr;  // of this thread, as is
  int* errno_ = nullptr;
  int64_t now_ = 0;
  // Picks, and where they were when it last did what is due every so many.
  uint32_t tick_ = 0;
  uint32_t polled_tick_ = 0;
  uint32_t clock_tick_ = 0;
  uint32_t injected_tick_ = 0;
  bool placed_first_ = false;
  Waiter next_;  // taken from the ring already
  bool searching_ = false;
  uint64_t next_id_ = 0;
  uint64_t random_;
  pthread_t thread_{};  // published by bound_
  std::atomic<bool> bound_{false};

  RunQueue ring_;
  InjectedQueue pinned_;
  InjectedQueue placed_;
  std::atomic<bool> poll_soon_{false};  // a hint: nothing hangs on when it is seen
  // When it last polled, or kInWait. seq_cst only so that the watchdog's and the thieves' looks are
  // recent.
  alignas(64) std::atomic<int64_t> last_poll_{0};
  // The instant until which it sleeps; pairs with TimerMoved, see there.
  std::atomic<int64_t> wake_at_{kNeverNs};
  std::atomic<uint64_t> running_{0};  // the fiber's number, for the watchdog's report
};

// The worker that runs on this thread, or nullptr. Never inlined: a fiber may be on another thread
// after any call that can park, and the compiler would keep the thread-local's address.
// SetCurrentWorker serves simulations, which run all workers on one thread.
Worker* CurrentWorker();
void SetCurrentWorker(Worker* worker);

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_WORKER_H_
