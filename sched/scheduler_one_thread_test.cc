// SPDX-License-Identifier: Apache-2.0
//
// The real scheduler on simulated threads and a virtual clock: what the seams are for. A seed
// decides which worker runs next, and gives the same run again.
#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <string>
#include <vector>

#include "sched/fibers.h"
#include "sched/scheduler.h"
#include "sched/testing/one_thread_host.h"

namespace sched {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using testing::OneThreadHost;

constexpr int kWorkers = 3;
constexpr int kChildren = 8;  // more than a worker keeps to itself

// Fibers that sleep, yield, spawn and join; what happened, in order, with the time.
std::string LogOf(uint64_t seed) {
  OneThreadHost host(seed);
  std::deque<OneThreadHost::Source> sources;
  Scheduler::Options options;
  options.host = &host;
  for (int i = 0; i < kWorkers; ++i) {
    options.event_sources.push_back(&sources.emplace_back(host));
  }
  Scheduler scheduler(options);
  std::string log;
  const auto note = [&](int fiber, const char* what) {
    log += std::to_string(ToNs(Now()) / 1000) + " " + std::to_string(fiber) + " " + what + " on " +
           std::to_string(CurrentWorkerIndex()) + "\n";
  };
  for (int i = 0; i < kWorkers; ++i) {
    EXPECT_TRUE(scheduler.SpawnOn(i, [&, i] {
      FiberScope scope;
      for (int child = 10 * i; child < 10 * i + kChildren; ++child) {
        EXPECT_TRUE(scope.Spawn([&, child] {
          SleepFor(microseconds(child));
          note(child, "slept");
          Yield();
          note(child, "yielded");
        }));
      }
      SleepFor(hours(1));
      scope.Join();
      note(i, "joined");
    }));
  }
  EXPECT_TRUE(scheduler.DrainUntil(kNever));
  return log;
}

TEST(SchedulerOnOneThreadTest, ASeedGivesTheSameRunAgain) {
  std::set<std::string> logs;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const std::string log = LogOf(seed);
    EXPECT_EQ(log, LogOf(seed)) << "seed " << seed;
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), kWorkers * (kChildren * 2 + 1));
    logs.insert(log);
  }
  EXPECT_GT(logs.size(), 10u) << "seeds choose";
}

TEST(SchedulerOnOneThreadTest, WithoutMemoryForStacksContinuationsWaitForOne) {
  OneThreadHost::Options limited;
  limited.stack_slabs_max = 1;
  OneThreadHost host(1, limited);
  OneThreadHost::Source source(host);
  Scheduler scheduler({.event_sources = {&source}, .host = &host});
  struct Waiting : Continuation {
    bool ran = false;
  };
  std::vector<Waiting> waiting(1000);  // a slab has 256
  for (Waiting& one : waiting) {
    one.resume = [](Continuation* self) {
      SleepFor(std::chrono::seconds(1));
      static_cast<Waiting*>(self)->ran = true;
    };
    ASSERT_TRUE(scheduler.SpawnOn(0, one));
  }
  ASSERT_TRUE(scheduler.DrainUntil(kNever));
  for (const Waiting& one : waiting) EXPECT_TRUE(one.ran);
  EXPECT_LE(scheduler.stats().stacks_mapped, 256);
}

TEST(SchedulerOnOneThreadTest, DrainGivesUpAtItsDeadlineInVirtualTime) {
  OneThreadHost host(1);
  OneThreadHost::Source source(host);
  Scheduler scheduler({.event_sources = {&source}, .host = &host});
  const Deadline start = host.Now();
  ASSERT_TRUE(scheduler.SpawnOn(0, [] { SleepFor(hours(2)); }));
  EXPECT_FALSE(scheduler.DrainUntil(start + hours(1)));
  EXPECT_LE(host.Now(), start + hours(1));
  EXPECT_TRUE(scheduler.DrainUntil(kNever));
  EXPECT_GE(host.Now(), start + hours(2));
}

}  // namespace
}  // namespace sched
