// SPDX-License-Identifier: Apache-2.0
//
// The run queue over all interleavings: whatever is pushed is popped or stolen exactly once, and
// what it points to is visible to who got it. The ring is shrunk to 4, so that it wraps.
#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "sched/internal/run_queue.h"
#include "sched/testing/explorer.h"
#include "sched/testing/proof.h"

namespace sched::internal {
namespace {

using sched::testing::Expect;
using sched::testing::ExpectProven;
using sched::testing::Exploration;
using sched::testing::Explore;
using sched::testing::ExploreOptions;
using sched::testing::ModelAtomics;
using sched::testing::RememberOnly;
using sched::testing::Site;

using Ring = BasicRunQueue<ModelAtomics, 4>;
constexpr int kItems = 6;

struct World {
  Ring ring;
  std::array<Ring, 2> thieves;
  // What the n-th waiter is: written by who pushes it, read by who runs it.
  std::array<ModelAtomics::Plain<int>, kItems + 1> payload;
  std::array<ModelAtomics::Atomic<int>, kItems + 1> ran;

  void Push(uintptr_t item) {
    payload[item] = static_cast<int>(item);
    Expect(ring.Push(item), "there is room");
  }
  void Run(uintptr_t item) {
    Expect(item >= 1 && item <= kItems, "an item nobody pushed");
    Expect(payload[item] == static_cast<int>(item), "its payload");
    Expect(ran[item].fetch_add(1, std::memory_order_relaxed) == 0, "ran twice");
  }
  void RunAll(Ring& from) {
    while (const uintptr_t item = from.Pop()) {
      Run(item);
      RememberOnly();
    }
  }
};

// The owner pushes two, pops one, pushes more, then pops all; thieves steal meanwhile.
auto Scenario(int thieves, int steals, int items) {
  return [=](Exploration& run) {
    auto world = run.Make<World>();
    run.Thread("owner", [=] {
      world->Push(1);
      world->Push(2);
      if (const uintptr_t item = world->ring.Pop()) world->Run(item);
      for (int i = 3; i <= items; ++i) world->Push(i);
      RememberOnly();
      world->RunAll(world->ring);
    });
    for (int t = 0; t < thieves; ++t) {
      run.Thread("thief " + std::to_string(t), [=] {
        for (int i = 0; i < steals; ++i) {
          (void)world->ring.StealInto(world->thieves[t]);
          world->RunAll(world->thieves[t]);
          RememberOnly();
        }
      });
    }
    run.AtEnd([=] {
      for (int i = 1; i <= items; ++i) {
        Expect(world->ran[i].load(std::memory_order_relaxed) == 1, "lost");
      }
    });
  };
}

TEST(RunQueueInterleavingTest, OneThiefAndARingThatWraps) {
  ExpectProven(Explore(Scenario(1, 2, 5)));
}
TEST(RunQueueInterleavingTest, TwoThieves) { ExpectProven(Explore(Scenario(2, 1, 4))); }

TEST(RunQueueInterleavingTest, AThiefThatIsRobbedItself) {
  ExpectProven(Explore([](Exploration& run) {
    auto world = run.Make<World>();
    run.Thread("owner", [=] {
      for (int i = 1; i <= 4; ++i) world->Push(i);
      RememberOnly();
      world->RunAll(world->ring);
    });
    run.Thread("thief 0", [=] {
      (void)world->ring.StealInto(world->thieves[0]);
      world->RunAll(world->thieves[0]);
    });
    run.Thread("thief 1", [=] {
      (void)world->thieves[0].StealInto(world->thieves[1]);
      world->RunAll(world->thieves[1]);
    });
    run.AtEnd([=] {
      for (int i = 1; i <= 4; ++i) {
        Expect(world->ran[i].load(std::memory_order_relaxed) == 1, "lost");
      }
    });
  }));
}

// Canary: a tail that does not release hands out waiters whose contents are not there yet.
TEST(RunQueueInterleavingTest, ATailThatDoesNotPublishIsCaught) {
  ExploreOptions options;
  options.weaken = [](const Site& site) {
    return site.kind == sched::testing::OpKind::kStore ? std::memory_order_relaxed : site.order;
  };
  EXPECT_FALSE(Explore(Scenario(1, 1, 3), options).ok);
}

// Canary: a head that does not release lets the owner overwrite what a thief still reads.
TEST(RunQueueInterleavingTest, AHeadThatDoesNotReleaseIsCaught) {
  ExploreOptions options;
  options.weaken = [](const Site& site) {
    return site.kind == sched::testing::OpKind::kCompareExchange ? std::memory_order_relaxed
                                                                 : site.order;
  };
  EXPECT_FALSE(Explore(Scenario(1, 2, 6), options).ok);
}

}  // namespace
}  // namespace sched::internal
