// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/worker.h"

#include <cxxabi.h>

#include <cerrno>
#include <utility>

#include "sched/check.h"
#include "sched/internal/core.h"

namespace sched::internal {
namespace {

thread_local Worker* current_worker = nullptr;

}  // namespace

[[gnu::noinline]] Worker* CurrentWorker() {
  asm volatile("");  // or the call might be merged with an earlier one as a pure function
  return current_worker;
}

[[gnu::noinline]] void SetCurrentWorker(Worker* worker) { current_worker = worker; }

Worker::Worker(Core& core_in, int index_in, EventSource& source)
    : index(index_in),
      core(core_in),
      source_(source),
      stacks_(core_in.stacks),
      spin_(core_in.options.spin.count()),
      random_(core_in.host.Random(index_in) | 1) {}

void Worker::BindToThread() {
  SetCurrentWorker(this);
  loop_sanitized_.AdoptThread();
  signal_stack_.emplace();
  exceptions_ = reinterpret_cast<ExceptionGlobals*>(abi::__cxa_get_globals());
  errno_ = &errno;
  thread_ = pthread_self();
  now_ = ToNs(core.host.Now());
  last_poll_.store(now_, std::memory_order_seq_cst);
  bound_.store(true, std::memory_order_release);
}

// --- The loop.

std::optional<Deadline> Worker::Step() {
  if (!bound_.load(std::memory_order_relaxed)) BindToThread();
  Waiter waiter = Pick();
  if (!waiter) waiter = FindElsewhere();
  if (waiter) {
    if (searching_) StopSearching();
    Run(waiter);
    return kLongAgo;
  }
  if (core.stopping.load(std::memory_order_seq_cst)) {
    signal_stack_.reset();
    DropSpare();
    return std::nullopt;
  }
  if (!SpinForWork()) Sleep();
  return kLongAgo;
}

Waiter Worker::Pick() {
  if (next_) return std::exchange(next_, Waiter());
  ++tick_;
  const bool due =
      tick_ - polled_tick_ >= kFairnessTick || poll_soon_.load(std::memory_order_relaxed);
  if (due && HasRoom()) {
    PollOwn();
  } else if (tick_ - clock_tick_ >= kClockTick) {
    clock_tick_ = tick_;
    if (ToNs(core.host.Now()) - now_ >= kPollEveryNs) HasRoom() ? (void)PollOwn() : ServeTimers();
  }
  if (tick_ - injected_tick_ >= kFairnessTick) {
    injected_tick_ = tick_;
    if (const Waiter waiter = core.injected.Pop()) return waiter;
  }
  // What is meant for this worker and the ring take turns, so that neither starves the other.
  if (tick_ % 2 == 0) {
    if (const Waiter waiter = PopOwn()) return waiter;
  }
  if (const uintptr_t word = ring_.Pop()) return Waiter::FromWord(word);
  return PopOwn();
}

// These take turns, too: a pinned fiber that yields is back at once.
Waiter Worker::PopOwn() {
  if (placed_.empty() && pinned_.empty()) return Waiter();
  placed_first_ = !placed_first_;
  InjectedQueue& first = placed_first_ ? placed_ : pinned_;
  InjectedQueue& second = placed_first_ ? pinned_ : placed_;
  if (const Waiter waiter = first.Pop()) return waiter;
  return second.Pop();
}

Waiter Worker::FindElsewhere() {
  if (const Waiter waiter = core.injected.Pop()) return waiter;
  // With nothing to help with elsewhere, the blocking wait itself is the poll: one system call, not
  // two.
  if (!OthersNeedHelp()) return Waiter();
  PollOwn();
  if (const uintptr_t word = ring_.Pop()) return Waiter::FromWord(word);
  if (!searching_) searching_ = core.idle.TryStartSearching();
  if (!searching_) return Waiter();
  if (const Waiter waiter = Steal()) return waiter;
  ServeStale();
  if (const uintptr_t word = ring_.Pop()) return Waiter::FromWord(word);
  return core.injected.Pop();
}

bool Worker::OthersNeedHelp() const {
  for (const auto& other : core.workers) {
    if (other.get() == this) continue;
    if (other->HasSurplus()) return true;
    if (other->IsStale(now_)) return true;
  }
  return false;
}

Waiter Worker::Steal() {
  const size_t count = core.workers.size();
  random_ ^=
      random_
      << 13;  // xorshift64 (Marsaglia 2003): any victim order will do, if it differs per worker
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  const size_t start = random_ % count;
  for (size_t i = 0; i < count; ++i) {
    Worker& victim = *core.workers[(start + i) % count];
    if (&victim == this || (!victim.HasSurplus() && !victim.IsStuckWithWork(now_))) continue;
    if (victim.ring_.StealInto(ring_) == 0) continue;
    steals.store(steals.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return Waiter::FromWord(ring_.Pop());
  }
  return Waiter();
}

// Polls, fires timers and starts what was placed there, for workers that are too busy to.
void Worker::ServeStale() {
  for (const auto& other : core.workers) {
    if (other.get() == this || !other->IsStale(now_)) continue;
    WaiterList ready;
    (void)other->source_.Poll(ready);  // false: yet another worker is at it
    while (const Waiter placed = other->placed_.Pop()) ready.PushBack(placed);
    Dispatch(ready);
    const int64_t put_back = other->timers.Serve(now_);
    if (put_back != kNeverNs) other->TimerMoved(put_back);
  }
}

// Returns the one waiter that was ready, or none if there were several or none.
Waiter Worker::PollOwn() {
  WaiterList ready;
  source_.Wait(kLongAgo, ready);
  AfterPoll();
  const Waiter only = ready.only();
  Dispatch(ready);
  return only;
}

void Worker::WaitAtMost(int64_t ns) {
  WaiterList ready;
  source_.Wait(FromNs(now_ + ns), ready);
  AfterPoll();
  Dispatch(ready);
}

// One clock call per poll, and none elsewhere.
void Worker::AfterPoll() {
  ServeTimers();
  polled_tick_ = clock_tick_ = tick_;
  last_poll_.store(now_, std::memory_order_seq_cst);
  if (poll_soon_.load(std::memory_order_relaxed))
    poll_soon_.store(false, std::memory_order_relaxed);
}

void Worker::ServeTimers() {
  now_ = ToNs(core.host.Now());
  (void)timers.Serve(now_);
}

// Queues a batch. The first runs here next; for more than a few one more worker is woken, at most.
void Worker::Dispatch(WaiterList& ready) {
  if (ready.empty()) return;
  while (!ready.empty()) {
    const Waiter waiter = ready.PopFront();
    if (!waiter.is_continuation() && waiter.fiber()->pinned != nullptr) {
      waiter.fiber()->pinned->PushPinned(waiter);
    } else if (!ring_.Push(waiter.word())) {
      core.injected.Push(waiter);
    }
  }
  if (ring_.Size() > kFew || !core.injected.empty()) core.WakeSearcher();
}

// Announce, look at everything again, block: see idle_set.h for why in this order.
void Worker::Sleep() {
  int64_t wake_at = timers.Next();
  const bool sentinel = BecomeSentinel();
  if (sentinel && wake_at > now_ + kSentinelWaitNs) wake_at = now_ + kSentinelWaitNs;

  wake_at_.store(wake_at, std::memory_order_seq_cst);
  core.idle.AnnounceSleep(index);
  if (searching_) {
    searching_ = false;
    (void)core.idle.StopSearching();  // nothing found, and the look below is everybody's last
  }
  WaiterList ready;
  if (MustStayAwake(wake_at)) {
    source_.Wait(kLongAgo, ready);
  } else {
    waits.store(waits.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    last_poll_.store(kInWait, std::memory_order_seq_cst);
    source_.Wait(FromNs(wake_at), ready);
  }
  NoteWoken(core.idle.EndSleep(index), !ready.empty());
  if (sentinel) core.sentinel.store(-1, std::memory_order_seq_cst);
  core.watchdog.WorkerWoke();
  const int64_t before = now_;
  AfterPoll();
  spin_.Slept(ready.only(), now_ - before);
  Dispatch(ready);
}

// While another worker is stale, one sleeper wakes every millisecond to serve it.
bool Worker::BecomeSentinel() {
  for (const auto& other : core.workers) {
    if (other.get() == this || !other->IsStale(now_)) continue;
    int nobody = -1;
    return core.sentinel.compare_exchange_strong(nobody, index, std::memory_order_seq_cst);
  }
  return false;
}

bool Worker::MustStayAwake(int64_t wake_at) const {
  return core.AnySurplus() || !pinned_.empty() || !placed_.empty() || !timers.InboxEmpty() ||
         timers.Next() < wake_at || core.stopping.load(std::memory_order_seq_cst);
}

void Worker::NoteWoken(Woken woken, bool has_work) {
  if (woken == Woken::kToSearch) {
    searching_ = true;
  } else if (!has_work && core.AnySurplus()) {
    // It sees work lying about: it may look, however many search.
    core.idle.StartSearching();
    searching_ = true;
  }
}

// Having found work. Who published more while this worker searched relied on it, so the last
// searcher passes that on.
void Worker::StopSearching() {
  searching_ = false;
  if (core.idle.StopSearching() && core.AnySurplus()) core.WakeSearcher();
}

// True if something came while it was worth looking.
bool Worker::SpinForWork() {
  if (!spin_.Pays(now_)) return false;
  const int64_t from = ToNs(core.host.Now());
  int64_t before = from;
  do {
    const Waiter only = PollOwn();
    spins.store(spins.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (ring_.Size() > 0 || !pinned_.empty() || !placed_.empty() || core.AnySurplus()) {
      spin_.Spun(only, now_ - from);
      return true;
    }
    if (!spin_.GoesOn(now_ - std::exchange(before, now_), now_)) return false;
  } while (now_ - from < spin_.most());
  spin_.Spun(Waiter(), now_ - from);
  return false;
}

void Worker::PushLocal(Waiter waiter) {
  if (!ring_.Push(waiter.word())) core.injected.Push(waiter);
  if (HasSurplus()) core.WakeSearcher();
}

void Worker::PushPinned(Waiter waiter) {
  pinned_.Push(waiter);
  if (core.idle.ClaimWorker(index)) Interrupt();
}

void Worker::PushPlaced(Waiter waiter) {
  placed_.Push(waiter);
  if (core.idle.ClaimWorker(index)) Interrupt();
}

// seq_cst pairs: the caller has put the timer where the owner looks before it sleeps, and looks now
// whether the owner sleeps and until when; the owner stores wake_at_, announces its sleep and then
// looks at the timers.
void Worker::TimerMoved(int64_t when) {
  if (when < wake_at_.load(std::memory_order_seq_cst) && core.idle.ClaimWorker(index)) Interrupt();
}

// --- Fibers.

bool Worker::Spawn(FiberFn fn) {
  if (!core.ReserveFiber()) return false;
  Fiber* const fiber = NewFiber();
  if (fiber == nullptr) {
    core.ReleaseFiber();
    return false;
  }
  fiber->fn = std::move(fn);
  PushLocal(Waiter(fiber));
  return true;
}

bool Worker::Spawn(Continuation& continuation) {
  if (!core.ReserveFiber()) return false;
  PushLocal(Waiter(&continuation));
  return true;
}

// nullptr: no stack to be had.
Fiber* Worker::NewFiber() {
  if (spare_ != nullptr) {
    Fiber* const fiber = std::exchange(spare_, nullptr);
    fiber->Reuse(NextFiberId());
    fiber->Prepare(&Worker::FiberMain);
    return fiber;
  }
  const StackBase stack = stacks_.Take();
  if (stack == nullptr) return nullptr;
  return Fiber::Create(&core, stack, core.stacks.stack_bytes(), NextFiberId(), &Worker::FiberMain);
}

uint64_t Worker::NextFiberId() {
  constexpr uint64_t kIdBlock =
      1024;  // numbers are drawn in blocks, so that spawning shares no cache line
  if (next_id_ % kIdBlock == 0)
    next_id_ = core.next_id.fetch_add(1, std::memory_order_relaxed) * kIdBlock;
  return next_id_++;
}

// The fiber has switched away for good.
void Worker::Recycle(Fiber* fiber) {
  if (spare_ == nullptr) {
    spare_ = fiber;
  } else {
    stacks_.Give(fiber->Destroy());
  }
}

void Worker::DropSpare() {
  if (spare_ != nullptr) stacks_.Give(std::exchange(spare_, nullptr)->Destroy());
}

void Worker::FiberMain(void* arg) {
  auto* const fiber = static_cast<Fiber*>(arg);
  fiber->sanitized.AfterSwitch(CurrentWorker()->loop_sanitized_);
  if (fiber->continuation != nullptr) {
    fiber->continuation->resume(fiber->continuation);
  } else {
    std::move(fiber->fn)();
    fiber->fn = nullptr;  // what it captured is destroyed here, on the fiber
  }
  Worker* const worker = CurrentWorker();
  worker->core.ReleaseFiber();
  worker->GoOnWithout(fiber);
}

Fiber* Worker::FiberFor(Waiter waiter) {
  if (!waiter.is_continuation()) return waiter.fiber();
  Fiber* const fiber = NewFiber();
  if (fiber != nullptr) fiber->continuation = waiter.continuation();
  return fiber;
}

void Worker::Run(Waiter waiter) {
  Fiber* const fiber = FiberFor(waiter);
  if (fiber == nullptr) {
    // No stack: some fiber has to end first. It is never dropped; with nothing else to do here,
    // look again in a while.
    core.injected.Push(waiter);
    if (ring_.Size() == 0) WaitAtMost(kPollEveryNs);
    return;
  }
  NoteRunning(fiber);
  do {
    SwitchTo(fiber);
  } while (Depart(fiber));
}

void Worker::NoteRunning(const Fiber* fiber) {
  switches.store(switches.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  running_.store(fiber->id, std::memory_order_relaxed);
}

// The next continuation runs on the stack that the last one left, without a way through the loop.
void Worker::GoOnWithout(Fiber* fiber) {
  if (TakeForSameStack()) {
    Continuation* const continuation = std::exchange(next_, Waiter()).continuation();
    fiber->Reuse(NextFiberId());
    fiber->continuation = continuation;
    NoteRunning(fiber);
    parkway_enter_stack(fiber, &Worker::FiberMain, fiber);
  }
  SwitchAway(Departure::kGone);
  PARKWAY_CHECK(false, 0);
}

// Sanitizers want to see a fiber end before another begins.
bool Worker::TakeForSameStack() {
  if (kSanitized || (tick_ + 1) % kLoopTick == 0) return false;
  next_ = Waiter::FromWord(ring_.Pop());
  if (!next_ || !next_.is_continuation()) return false;
  ++tick_;
  return true;
}

void Worker::SwitchTo(Fiber* fiber) {
  current_ = fiber;
  *exceptions_ = fiber->exceptions;  // the loop's own are always empty
  *errno_ = fiber->saved_errno;
  loop_sanitized_.BeforeSwitch(fiber->sanitized, /*last=*/false);
  parkway_switch_context(&loop_sp_, fiber->sp);
  loop_sanitized_.AfterSwitch(fiber->sanitized);
  fiber->saved_errno = *errno_;
  fiber->exceptions = *exceptions_;
  current_ = nullptr;
}

void Worker::SwitchAway(Departure departure) {
  Fiber* const fiber = current_;
  fiber->departure = departure;
  fiber->sanitized.BeforeSwitch(loop_sanitized_, departure == Departure::kGone);
  parkway_switch_context(&fiber->sp, loop_sp_);
  // Another worker may have continued it: `this` is stale from here.
  fiber->sanitized.AfterSwitch(CurrentWorker()->loop_sanitized_);
}

bool Worker::Depart(Fiber* fiber) {
  switch (fiber->departure) {
    case Departure::kPark:
      fiber->operations = 0;
      // After a true commit the fiber may be running elsewhere, or be gone.
      return !fiber->park_commit(fiber, fiber->commit_arg);
    case Departure::kYield:
      if (fiber->pinned != nullptr) {
        fiber->pinned->PushPinned(Waiter(fiber));
      } else if (!ring_.Push(Waiter(fiber).word())) {
        core.injected.Push(Waiter(fiber));
      }
      return false;
    case Departure::kGone:
      Recycle(fiber);
      return false;
  }
  PARKWAY_CHECK(false, static_cast<int>(fiber->departure));
}

}  // namespace sched::internal
