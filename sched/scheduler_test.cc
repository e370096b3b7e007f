// SPDX-License-Identifier: Apache-2.0
//
// The scheduler on real threads, each test with 1, 2 and 8 workers. TearDown checks that nothing is
// left.
#include "sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <exception>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "sched/fibers.h"
#include "sched/host.h"
#include "sched/internal/futex_source.h"
#include "sched/mutex.h"
#include "sched/park.h"
#include "sched/parking_lot.h"

namespace sched {
namespace {

using std::chrono::milliseconds;

#if defined(__SANITIZE_THREAD__)
constexpr int kScale = 10;  // ThreadSanitizer allows about 8000 fibers at once, and is slow
#else
constexpr int kScale = 1;
#endif

// Burns CPU without coming back to the worker, as a computation would. Not inlined: its name is
// looked for.
[[gnu::noinline]] void ComputeFor(Duration span) {
  const Deadline until = After(Now(), span);
  while (Now() < until) {
  }
}

// Code that may go on on another thread must not let the compiler keep errno's address.
[[gnu::noinline]] int GetErrno() { return errno; }
[[gnu::noinline]] void SetErrno(int value) { errno = value; }

class SchedulerTest : public testing::TestWithParam<int> {
 protected:
  void Start(Scheduler::Options options = {}) {
    sources_.resize(GetParam());
    for (auto& source : sources_) {
      source = std::make_unique<internal::FutexSource>();
      options.event_sources.push_back(source.get());
    }
    scheduler_ = std::make_unique<Scheduler>(options);
  }

  // Runs `main` as the first fiber and waits until all are done.
  void Run(FiberFn main) {
    if (scheduler_ == nullptr) Start();
    ASSERT_TRUE(scheduler_->SpawnOn(0, std::move(main)));
    ASSERT_TRUE(scheduler_->DrainUntil(kNever));
  }

  void TearDown() override {
    if (scheduler_ == nullptr) return;
    const SchedulerStats stats = scheduler_->stats();
    EXPECT_EQ(stats.fibers, 0);
    EXPECT_EQ(stats.timers, 0);
    scheduler_.reset();  // CHECKs fibers, stacks and the parking lot
  }

  std::vector<std::unique_ptr<internal::FutexSource>> sources_;
  std::unique_ptr<Scheduler> scheduler_;
};

INSTANTIATE_TEST_SUITE_P(Workers, SchedulerTest, testing::Values(1, 2, 8),
                         testing::PrintToStringParamName());

// What is defined on one worker only, such as an order, and what needs somebody else.
class OneWorkerTest : public SchedulerTest {};
INSTANTIATE_TEST_SUITE_P(Workers, OneWorkerTest, testing::Values(1),
                         testing::PrintToStringParamName());
class ManyWorkersTest : public SchedulerTest {};
INSTANTIATE_TEST_SUITE_P(Workers, ManyWorkersTest, testing::Values(2, 8),
                         testing::PrintToStringParamName());

TEST_P(SchedulerTest, EveryFiberRunsOnce) {
  std::atomic<int> ran{0};
  Run([&] {
    for (int i = 0; i < 3000 / kScale; ++i) {
      ASSERT_TRUE(Spawn([&] { ran.fetch_add(1); }));
    }
  });
  EXPECT_EQ(ran.load(), 3000 / kScale);
}

TEST_P(SchedulerTest, ScopeWaitsForChildrenOfChildren) {
  int64_t sum = 0;
  Run([&] {
    std::atomic<int64_t> total{0};
    {
      FiberScope scope;
      for (int i = 1; i <= 100; ++i) {
        ASSERT_TRUE(scope.Spawn([&scope, &total, i] {
          Yield();
          ASSERT_TRUE(scope.Spawn([&total, i] {
            SleepFor(milliseconds(i % 3));
            total.fetch_add(i);
          }));
        }));
      }
    }
    sum = total.load();
  });
  EXPECT_EQ(sum, 5050);
}

TEST_P(OneWorkerTest, YieldLetsTheOthersGoFirst) {
  std::string order;
  Run([&] {
    FiberScope scope;
    for (const char name : {'a', 'b', 'c'}) {
      ASSERT_TRUE(scope.Spawn([&order, name] {
        order += name;
        Yield();
        order += static_cast<char>(name - 'a' + 'A');
      }));
    }
  });
  EXPECT_EQ(order, "abcABC");
}

TEST_P(SchedulerTest, SleepIsNeverEarlyAndKeepsOrder) {
  constexpr Duration kMostLead = std::chrono::minutes(1);
  Mutex mu;
  std::vector<int> woken;
  std::atomic<int> early{0};
  std::atomic<bool> late{true};
  Run([&] {
    // Until all of them sleep before the first is due: who comes later cannot be in order.
    for (Duration lead = milliseconds(5); late.load() && lead < kMostLead; lead *= 2) {
      woken.clear();
      late.store(false);
      FiberScope scope;
      const Deadline base = After(Now(), lead);
      for (int i = 20; i >= 1; --i) {
        ASSERT_TRUE(scope.Spawn([&, i] {
          const Deadline until = base + milliseconds(5 * i);
          if (Now() >= base) late.store(true);
          SleepUntil(until);
          if (Now() < until) early.fetch_add(1);
          MutexLock lock(mu);
          woken.push_back(i);
        }));
      }
      scope.Join();
    }
  });
  EXPECT_EQ(early.load(), 0);
  EXPECT_FALSE(late.load());
  EXPECT_EQ(woken.size(), 20u);
  if (GetParam() == 1) {
    EXPECT_TRUE(std::is_sorted(woken.begin(), woken.end()));
  }
}

TEST_P(SchedulerTest, SleepingUntilThePastReturns) {
  bool done = false;
  Run([&] {
    SleepUntil(kLongAgo);
    SleepUntil(Now() - milliseconds(1));
    done = true;
  });
  EXPECT_TRUE(done);
}

TEST_P(SchedulerTest, SpawnFromOtherThreadsWakesASleepingWorker) {
  Start();
  std::atomic<int> ran{0};
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(scheduler_->SpawnOn(i % GetParam(), [&] { ran.fetch_add(1); }));
    if (i % 10 == 0) {
      ASSERT_TRUE(scheduler_->DrainUntil(kNever));  // so that the workers go to sleep
    }
  }
  ASSERT_TRUE(scheduler_->DrainUntil(kNever));
  EXPECT_EQ(ran.load(), 200);
}

TEST_P(SchedulerTest, DrainGivesUpAtItsDeadline) {
  Start();
  std::atomic<bool> stop{false};
  ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
    while (!stop.load()) SleepFor(milliseconds(1));
  }));
  EXPECT_FALSE(scheduler_->DrainUntil(Host::Real().Now() + milliseconds(20)));
  stop.store(true);
  EXPECT_TRUE(scheduler_->DrainUntil(kNever));
}

TEST_P(SchedulerTest, SpawnFailsAtTheBoundAndWorksAgainBelowIt) {
  Scheduler::Options options;
  options.fiber_count_max = 10;
  Start(options);
  int spawned = 0;
  Run([&] {
    std::atomic<bool> stop{false};
    {
      FiberScope scope;
      while (scope.Spawn([&] {
        while (!stop.load()) SleepFor(milliseconds(1));
      })) {
        ++spawned;
      }
      stop.store(true);
    }
    while (!Spawn([] {}))
      Yield();  // a child counts until it has left its stack, shortly after Join
  });
  EXPECT_EQ(spawned, 9);  // the parent is one of the ten
}

// errno and the exception state belong to the fiber, even when it goes on on another worker.
TEST_P(SchedulerTest, ErrnoAndExceptionsMigrateWithTheFiber) {
  std::atomic<int> wrong{0};
  std::atomic<int> moved{0};
  Run([&] {
    FiberScope scope;
    for (int i = 0; i < 64; ++i) {
      ASSERT_TRUE(scope.Spawn([&, i] {
        const int first = CurrentWorkerIndex();
        try {
          throw std::runtime_error(std::to_string(i));
        } catch (const std::exception& e) {
          for (int round = 0; round < 50; ++round) {
            SetErrno(1000 + i);
            Yield();
            if (round % 8 == 0) SleepFor(std::chrono::microseconds(50));
            if (round % 8 != 0 && GetErrno() != 1000 + i) wrong.fetch_add(1);
            if (std::current_exception() == nullptr) wrong.fetch_add(1);
            try {
              std::rethrow_exception(std::current_exception());
            } catch (const std::exception& same) {
              if (std::string(same.what()) != std::to_string(i)) wrong.fetch_add(1);
            }
          }
          if (std::string(e.what()) != std::to_string(i)) wrong.fetch_add(1);
        }
        if (CurrentWorkerIndex() != first) moved.fetch_add(1);
      }));
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

TEST_P(SchedulerTest, PinnedFiberStays) {
  std::atomic<int> strayed{0};
  Run([&] {
    FiberScope scope;
    for (int i = 0; i < 32; ++i) {
      ASSERT_TRUE(scope.Spawn([&] {
        PinToWorker pin;
        const int home = CurrentWorkerIndex();
        for (int round = 0; round < 50; ++round) {
          if (round % 10 == 0) SleepFor(std::chrono::microseconds(100));
          Yield();
          if (CurrentWorkerIndex() != home) strayed.fetch_add(1);
        }
      }));
    }
  });
  EXPECT_EQ(strayed.load(), 0);
}

// A continuation that hibernates and is made ready by another fiber, many times.
struct Hibernator : Continuation {
  std::atomic<uintptr_t> slot{0};
  std::atomic<int> rounds{0};
  std::atomic<bool> done{false};
  int limit = 0;

  static bool Publish(Continuation* self, void*) {
    static_cast<Hibernator*>(self)->slot.store(Waiter(self).word());
    return true;
  }
  static void Resume(Continuation* c) {
    auto* const self = static_cast<Hibernator*>(c);
    if (self->rounds.fetch_add(1) + 1 == self->limit) {
      self->done.store(true);
      return;
    }
    Hibernate(self, &Publish, nullptr);
  }
};

TEST_P(SchedulerTest, HibernationGivesTheStackBackAndComesBack) {
  Hibernator hibernator;
  hibernator.resume = &Hibernator::Resume;
  hibernator.limit = 500;
  Run([&] {
    ASSERT_TRUE(Spawn([&] { Hibernator::Resume(&hibernator); }));
    while (!hibernator.done.load()) {
      const uintptr_t word = hibernator.slot.exchange(0);
      if (word != 0) Ready(Waiter::FromWord(word));
      Yield();
    }
  });
  EXPECT_EQ(hibernator.rounds.load(), 500);
}

// Started without a fiber of its own before; ends when made ready.
struct Sleeper : Continuation {
  static bool Publish(Continuation*, void* asleep) {
    static_cast<std::atomic<bool>*>(asleep)->store(true);
    return true;
  }
  static void Start(Continuation* c) {
    auto* const self = static_cast<Sleeper*>(c);
    self->resume = [](Continuation* woken) { static_cast<Sleeper*>(woken)->done.store(true); };
    Hibernate(self, &Publish, &self->asleep);
  }

  Sleeper() { resume = &Start; }
  std::atomic<bool> asleep{false};
  std::atomic<bool> done{false};
};

TEST_P(SchedulerTest, AHibernatingFiberCountsAndIsWaitedFor) {
  Start({.fiber_count_max = 2});
  Sleeper sleeper;
  ASSERT_TRUE(scheduler_->SpawnOn(0, sleeper));
  while (!sleeper.asleep.load()) {
  }
  EXPECT_EQ(scheduler_->stats().fibers, 1);
  EXPECT_FALSE(scheduler_->DrainUntil(After(Host::Real().Now(), milliseconds(20))));
  ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
    Sleeper another;
    EXPECT_FALSE(Spawn(another));
    EXPECT_FALSE(scheduler_->SpawnOn(0, another));
    Ready(Waiter(&sleeper));
  }));
  ASSERT_TRUE(scheduler_->DrainUntil(kNever));
  EXPECT_TRUE(sleeper.done.load());
}

TEST_P(SchedulerTest, ContinuationsTakeAStackOnlyWhenTheyRun) {
  constexpr int kCount = 2000 / kScale;
  std::vector<Sleeper> sleepers(kCount);
  Run([&] {
    for (Sleeper& sleeper : sleepers) ASSERT_TRUE(Spawn(sleeper));
    for (Sleeper& sleeper : sleepers) {
      while (!sleeper.asleep.load()) Yield();
      Ready(Waiter(&sleeper));
    }
  });
  for (Sleeper& sleeper : sleepers) EXPECT_TRUE(sleeper.done.load());
  // However many sleep: what the workers keep at hand.
  EXPECT_LE(scheduler_->stats().stacks_mapped, 64 * GetParam() + 64);
}

TEST_P(SchedulerTest, HibernationThatFailsToPublishGoesOn) {
  bool went_on = false;
  Run([&] {
    Continuation continuation;
    Hibernate(
        &continuation, [](Continuation*, void*) { return false; }, nullptr);
    went_on = true;
  });
  EXPECT_TRUE(went_on);
}

TEST_P(SchedulerTest, ParkingLotWakesInOrderAndLosesNoWakeUp) {
  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  std::atomic<int> served{0};
  Run([&] {
    // A lock for fibers: one inside at a time.
    struct FiberLock {
      std::atomic<bool> held{false};
      void Lock() {
        while (held.exchange(true)) {
          CurrentParkingLot().Wait(
              this, WaitReason::kLock,
              [](void* self) { return static_cast<FiberLock*>(self)->held.load(); }, this);
        }
      }
      void Unlock() {
        held.store(false);
        CurrentParkingLot().Wake(this, 1);
      }
    } lock;
    FiberScope scope;
    for (int i = 0; i < 50; ++i) {
      ASSERT_TRUE(scope.Spawn([&] {
        for (int round = 0; round < 20; ++round) {
          lock.Lock();
          most.store(std::max(most.load(), inside.fetch_add(1) + 1));
          Yield();
          inside.fetch_sub(1);
          served.fetch_add(1);
          lock.Unlock();
        }
      }));
    }
  });
  EXPECT_EQ(most.load(), 1);
  EXPECT_EQ(served.load(), 1000);
}

// A ring holds 256; the rest overflows into the injected queue and still runs, and injected work is
// not starved by a fiber that yields for ever.
TEST_P(SchedulerTest, OverflowAndInjectedWorkRunBesideYieldingFibers) {
  std::atomic<int> ran{0};
  Run([&] {
    for (int i = 0; i < 600; ++i) ASSERT_TRUE(Spawn([&] { ran.fetch_add(1); }));
    while (ran.load() != 600) Yield();
  });
  EXPECT_EQ(ran.load(), 600);
}

TEST_P(OneWorkerTest, ChargedOperationsYieldEvery32nd) {
  int operations = 0;
  int seen_by_other = -1;
  Run([&] {
    FiberScope scope;
    ASSERT_TRUE(scope.Spawn([&] {
      for (; operations < 100; ++operations) ChargeOperation();
    }));
    ASSERT_TRUE(scope.Spawn([&] { seen_by_other = operations; }));
  });
  EXPECT_EQ(seen_by_other, kOperationsPerTurn - 1);
}

TEST_P(SchedulerTest, IdsRestartWithEachScheduler) {
  uint64_t first = 0;
  uint64_t second = 0;
  Run([&] { first = CurrentFiberId(); });
  TearDown();
  sources_.clear();
  Start();
  Run([&] { second = CurrentFiberId(); });
  EXPECT_EQ(first, second);
}

TEST_P(SchedulerTest, StallIsReportedWithTheCulpritsStack) {
  std::vector<StallReport> reports;
  std::atomic<bool> reported{false};
  Scheduler::Options options;
  options.on_stall = [&](const StallReport& report) {
    reports.push_back(report);
    reported.store(true);
  };
  Start(options);
  uint64_t culprit = 0;
  Run([&] {
    culprit = CurrentFiberId();
    // Again where the watchdog got no CPU meanwhile.
    for (int i = 0; i < 100 && !reported.load(); ++i) {
      ComputeFor(milliseconds(60 * kScale));
      Yield();
    }
  });
  TearDown();  // nobody reports any more
  ASSERT_FALSE(reports.empty());
  EXPECT_EQ(reports[0].fiber_id, culprit);
  EXPECT_GE(reports[0].blocked_for, milliseconds(10));
  EXPECT_THAT(reports[0].stack, testing::Contains(testing::HasSubstr("ComputeFor")));
}

// Timers of a worker that computes are fired by another within about 10 ms.
TEST_P(ManyWorkersTest, TimersOfAStuckWorkerFireElsewhere) {
  Duration late{0};
  Run([&] {
    FiberScope scope;
    const Deadline due = Now() + milliseconds(100);
    ASSERT_TRUE(scope.Spawn([&] {
      SleepUntil(due);
      late = Now() - due;
    }));
    Yield();  // it arms its timer, here
    ComputeFor(milliseconds(600));
  });
  // The aim is 10 ms; a loaded two-core machine needs room. Without the sentinel it is 500 ms.
  EXPECT_LT(late, milliseconds(200));
}

TEST_P(ManyWorkersTest, QueuedFibersOfAStuckWorkerRunElsewhere) {
  Duration waited{0};
  Run([&] {
    FiberScope scope;
    const Deadline start = Now();
    ASSERT_TRUE(scope.Spawn([&] { waited = Now() - start; }));
    ComputeFor(milliseconds(600));
  });
  EXPECT_LT(waited, milliseconds(200));
}

TEST_P(ManyWorkersTest, FibersPlacedOnAStuckWorkerRunElsewhere) {
  const auto stuck = Host::Real().NewEvent();
  std::atomic<bool> computing{true};
  Start();
  ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
    stuck->Set();
    while (computing.load()) {
    }
  }));
  ASSERT_TRUE(stuck->WaitUntil(kNever));
  std::atomic<int> ran{0};
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
      if (++ran == 10) computing.store(false);  // else worker 0 would never be free
    }));
  }
  EXPECT_TRUE(scheduler_->DrainUntil(kNever));
}

// Three kinds of work that never ends, each of which must let the others have their turns.
TEST_P(SchedulerTest, NeitherPinnedNorPlacedNorOrdinaryFibersStarveTheOthers) {
  constexpr int kPlacedMost = 100;
  std::atomic<int> left{3};
  std::atomic<int> placed{0};
  const auto take_turns = [&] {
    for (int turns = 0; turns < 1000; ++turns) Yield();
    --left;
    while (left > 0) Yield();
  };
  Start();
  ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
    const PinToWorker pin;
    take_turns();
  }));
  ASSERT_TRUE(scheduler_->SpawnOn(0, take_turns));
  ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
    while (left > 1) {  // something is placed all the time
      if (placed < kPlacedMost) {
        ++placed;
        ASSERT_TRUE(scheduler_->SpawnOn(0, [&] { --placed; }));
      }
      Yield();
    }
    --left;
  }));
  EXPECT_TRUE(scheduler_->DrainUntil(kNever));
}

// Fibers on their way hold their places themselves; they must not need one more to start.
TEST_P(SchedulerTest, AsManyFibersAsAllowedCanBePlacedAtOnce) {
  Start({.fiber_count_max = 4});
  std::atomic<int> ran{0};
  int placed = 0;
  for (int i = 0; i < 100; ++i) {
    placed += scheduler_->SpawnOn(i % GetParam(), [&] {
      ++ran;
      SleepFor(milliseconds(1));
    });
  }
  EXPECT_GE(placed, 4);
  EXPECT_TRUE(scheduler_->DrainUntil(kNever));
  EXPECT_EQ(ran, placed);
}

// A worker that comes back between short turns is late, not stuck.
TEST_P(OneWorkerTest, ManyTurnsWithoutAPollAreNoStall) {
  std::atomic<int> reports{0};
  Scheduler::Options options;
  options.stall_after = milliseconds(1000);  // a busy machine interrupts a turn, but not that long
  options.on_stall = [&](const StallReport&) { ++reports; };
  Start(std::move(options));
  Run([] {
    FiberScope scope;
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(scope.Spawn([] { ComputeFor(milliseconds(70)); }));
    }
  });
  EXPECT_EQ(reports, 0);
}

// After a second of all asleep the watchdog sleeps too, and the workers that the destructor wakes
// wake it.
TEST_P(SchedulerTest, ItCanBeDestroyedWhileItsWatchdogSleeps) {
  std::vector<std::unique_ptr<internal::FutexSource>> sources;
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  for (int i = 0; i < 8; ++i) {
    Scheduler::Options options;
    for (int worker = 0; worker < GetParam(); ++worker) {
      sources.push_back(std::make_unique<internal::FutexSource>());
      options.event_sources.push_back(sources.back().get());
    }
    schedulers.push_back(std::make_unique<Scheduler>(options));
  }
  // Time is what puts the watchdog to sleep.
  (void)Host::Real().NewEvent()->WaitUntil(Host::Real().Now() + milliseconds(1500));
  schedulers.clear();
}

using SchedulerDeathTest = SchedulerTest;
INSTANTIATE_TEST_SUITE_P(Workers, SchedulerDeathTest, testing::Values(1));

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
[[gnu::noinline]] int Recurse(int depth) {
  volatile char frame[512];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? 0 : Recurse(depth - 1) + frame[0];
}

TEST_P(SchedulerDeathTest, StackOverflowNamesTheFiber) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(Run([] { (void)Recurse(1000); }), "parkway: fiber [0-9]+ overflowed its stack");
}
#endif

TEST_P(SchedulerDeathTest, DestroyingASchedulerWithFibersIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Start();
        (void)scheduler_->SpawnOn(0, [] { SleepUntil(kNever); });
        scheduler_.reset();
      },
      "CHECK failed: left == 0");
}

TEST(SchedulerOptionsTest, DefaultWorkerCountIsWithinTheAffinityMask) {
  EXPECT_GE(Scheduler::DefaultWorkerCount(), 1);
  EXPECT_LE(Scheduler::DefaultWorkerCount(), static_cast<int>(Scheduler::AllowedCpus().size()));
}

}  // namespace
}  // namespace sched
