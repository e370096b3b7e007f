// SPDX-License-Identifier: Apache-2.0
//
// Seeded stress of stealing, of park and ready across workers, and of lost wake-ups. Prints its
// seed; PARKWAY_SEED replays one (the choices, not the threads' timing). PARKWAY_STRESS_SECONDS
// makes it longer.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <vector>

#include "sched/fibers.h"
#include "sched/internal/futex_source.h"
#include "sched/park.h"
#include "sched/scheduler.h"

namespace sched {
namespace {

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::atoll(text) : otherwise;
}

uint64_t Seed() {
  static const uint64_t seed = FromEnvironment("PARKWAY_SEED", std::random_device()());
  return seed;
}

// A slot with one waiter and many senders: the smallest thing that parks.
class Mailbox {
 public:
  void Send() {
    const uintptr_t waiter = state_.exchange(kMail);
    if (waiter > kMail) Ready(Waiter::FromWord(waiter));
  }
  void Receive() {
    if (state_.load() != kMail) Park(WaitReason::kLock, &Commit, &state_);
    state_.store(kEmpty);
  }

 private:
  static constexpr uintptr_t kEmpty = 0;
  static constexpr uintptr_t kMail = 1;
  static bool Commit(Fiber* self, void* arg) {
    uintptr_t empty = kEmpty;
    return static_cast<std::atomic<uintptr_t>*>(arg)->compare_exchange_strong(empty,
                                                                              Waiter(self).word());
  }
  std::atomic<uintptr_t> state_{kEmpty};
};

class SchedulerStressTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    std::cout << "PARKWAY_SEED=" << Seed() << "\n";
    Scheduler::Options options;
    for (int i = 0; i < GetParam(); ++i) {
      sources_.push_back(std::make_unique<internal::FutexSource>());
      options.event_sources.push_back(sources_.back().get());
    }
    options.stall_after = Duration(0);  // a loaded machine stalls
    scheduler_ = std::make_unique<Scheduler>(options);
    until_ = Host::Real().Now() +
             std::chrono::milliseconds(FromEnvironment("PARKWAY_STRESS_SECONDS", 1) * 1000);
  }
  void TearDown() override {
    EXPECT_TRUE(scheduler_->DrainUntil(kNever));
    EXPECT_EQ(scheduler_->stats().fibers, 0);
  }
  bool Over() const { return Host::Real().Now() >= until_; }

  std::vector<std::unique_ptr<internal::FutexSource>> sources_;
  std::unique_ptr<Scheduler> scheduler_;
  Deadline until_;
};
INSTANTIATE_TEST_SUITE_P(Workers, SchedulerStressTest, testing::Values(1, 2, 8),
                         testing::PrintToStringParamName());

// Tokens travel a ring of fibers; a lost wake-up stops one for ever, a doubled one crashes.
TEST_P(SchedulerStressTest, TokensTravelARing) {
  constexpr int kFibers = 40;
  std::vector<Mailbox> boxes(kFibers);
  std::atomic<bool> stop{false};
  std::atomic<int64_t> hops{0};
  for (int i = 0; i < kFibers; ++i) {
    ASSERT_TRUE(scheduler_->SpawnOn(i % GetParam(), [&, i] {
      std::mt19937_64 random(Seed() + i);
      if (i % 8 == 0) boxes[i].Send();
      for (;;) {
        boxes[i].Receive();
        hops.fetch_add(1, std::memory_order_relaxed);
        if (random() % 64 == 0) Yield();
        if (random() % 512 == 0) SleepFor(std::chrono::microseconds(random() % 200));
        if (i == 0 && Over()) stop.store(true);
        boxes[(i + 1) % kFibers].Send();
        if (stop.load()) return;
      }
    }));
  }
  // Whoever still waits when the tokens have merged is let go by its neighbour's last Send.
  EXPECT_TRUE(scheduler_->DrainUntil(Host::Real().Now() + std::chrono::seconds(60)));
  EXPECT_GT(hops.load(), kFibers);
}

// Bursts of work from one fiber, so that the others have to steal; every task runs once.
TEST_P(SchedulerStressTest, BurstsAreSharedAndRunOnce) {
  std::atomic<int64_t> spawned{0};
  std::atomic<int64_t> ran{0};
  ASSERT_TRUE(scheduler_->SpawnOn(0, [&] {
    std::mt19937_64 random(Seed());
    while (!Over()) {
      FiberScope scope;
      const int burst = 1 + random() % 400;
      for (int i = 0; i < burst; ++i) {
        const uint64_t kind = random();
        spawned.fetch_add(1);
        ASSERT_TRUE(scope.Spawn([&ran, kind] {
          if (kind % 3 == 0) Yield();
          if (kind % 50 == 0) SleepFor(std::chrono::microseconds(kind % 300));
          ran.fetch_add(1);
        }));
      }
    }
  }));
  EXPECT_TRUE(scheduler_->DrainUntil(Host::Real().Now() + std::chrono::seconds(60)));
  EXPECT_EQ(ran.load(), spawned.load());
}

// The classic lost wake-up: every worker just about to sleep when work arrives from outside.
TEST_P(SchedulerStressTest, WorkFromOutsideWakesWorkersThatFallAsleep) {
  std::mt19937_64 random(Seed());
  std::atomic<int64_t> ran{0};
  int64_t sent = 0;
  while (!Over()) {
    const int worker = random() % GetParam();
    ASSERT_TRUE(scheduler_->SpawnOn(worker, [&] { ran.fetch_add(1); }));
    ++sent;
    if (random() % 2 == 0) {
      ASSERT_TRUE(scheduler_->DrainUntil(Host::Real().Now() + std::chrono::seconds(60)))
          << "lost after " << sent;
    }
  }
  EXPECT_TRUE(scheduler_->DrainUntil(Host::Real().Now() + std::chrono::seconds(60)));
  EXPECT_EQ(ran.load(), sent);
}

}  // namespace
}  // namespace sched
