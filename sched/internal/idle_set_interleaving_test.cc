// SPDX-License-Identifier: Apache-2.0
//
// The idle set over all interleavings: workers that fall asleep, in the order of Worker::Sleep,
// against producers that publish work and claim a sleeper. No work may lie while all sleep.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <set>
#include <string>

#include "sched/internal/idle_set.h"
#include "sched/testing/explorer.h"
#include "sched/testing/proof.h"

namespace sched::internal {
namespace {

using sched::testing::BlockUntil;
using sched::testing::Expect;
using sched::testing::ExpectProven;
using sched::testing::Exploration;
using sched::testing::Explore;
using sched::testing::Label;
using sched::testing::ModelAtomics;
using sched::testing::NeededOrders;
using sched::testing::OpKind;
using sched::testing::RememberOnly;
using sched::testing::Weakening;

constexpr auto kSeqCst = std::memory_order_seq_cst;

enum class Fault { kNone, kNoRecheck, kRecheckBeforeAnnounce, kSearchAfterRecheck };

struct World {
  explicit World(int workers) : idle(workers) {
    Label(queue, "queue");
    Label(done, "done");
  }

  BasicIdleSet<ModelAtomics> idle;
  ModelAtomics::Atomic<int> queue{0};  // injected work, by number
  ModelAtomics::Atomic<int> done{0};
  std::array<ModelAtomics::Atomic<bool>, 2> interrupted;

  void Interrupt(int worker) {
    if (worker >= 0) interrupted[worker].store(true, kSeqCst);
  }

  // From another thread: Core::Inject.
  void Produce() {
    queue.fetch_add(1, kSeqCst);
    RememberOnly();
    Interrupt(idle.ClaimSearcher());
  }

  bool Take() {
    int left = queue.load(kSeqCst);
    while (left > 0) {
      if (queue.compare_exchange_strong(left, left - 1, kSeqCst)) return true;
    }
    return false;
  }

  // The order of Worker::Step and Worker::Sleep. Ends when all `items` are done.
  void Work(int self, int items, Fault fault) {
    bool searching = false;
    for (;;) {
      RememberOnly({searching});
      if (Take()) {
        if (searching) {
          searching = false;
          if (idle.StopSearching() && queue.load(kSeqCst) > 0) Interrupt(idle.ClaimSearcher());
        }
        done.fetch_add(1, kSeqCst);
        continue;
      }
      RememberOnly({searching});
      const bool early = fault == Fault::kRecheckBeforeAnnounce && queue.load(kSeqCst) > 0;
      idle.AnnounceSleep(self);
      if (searching && fault != Fault::kSearchAfterRecheck) (void)idle.StopSearching();
      const bool stay_awake = fault == Fault::kRecheckBeforeAnnounce ? early
                              : fault == Fault::kNoRecheck           ? false
                                                                     : queue.load(kSeqCst) > 0;
      if (searching && fault == Fault::kSearchAfterRecheck) (void)idle.StopSearching();
      searching = false;
      RememberOnly({stay_awake});
      if (!stay_awake) {
        BlockUntil([&] { return interrupted[self].load(kSeqCst) || done.load(kSeqCst) == items; });
        interrupted[self].store(false, kSeqCst);
      }
      RememberOnly();
      const Woken woken = idle.EndSleep(self);
      RememberOnly({woken});
      if (woken == Woken::kToSearch) {
        searching = true;
      } else if (queue.load(kSeqCst) > 0) {
        idle.StartSearching();
        searching = true;
      }
      RememberOnly({searching});
      if (done.load(kSeqCst) == items) {
        if (searching) (void)idle.StopSearching();
        return;
      }
    }
  }
};

auto Scenario(int workers, int producers, Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(workers);
    for (int i = 0; i < workers; ++i) {
      run.Thread("worker " + std::to_string(i), [=] { world->Work(i, producers, fault); });
    }
    for (int i = 0; i < producers; ++i) {
      run.Thread("producer " + std::to_string(i), [=] { world->Produce(); });
    }
    run.AtEnd([=] {
      Expect(world->done.load(kSeqCst) == producers, "all done");
      world->idle.AnnounceSleep(0);
      Expect(world->idle.ClaimSearcher() == 0,
             "a search token is left: nobody is ever woken again");
    });
  };
}

TEST(IdleSetInterleavingTest, OneWorkerOneProducer) { ExpectProven(Explore(Scenario(1, 1))); }
TEST(IdleSetInterleavingTest, OneWorkerTwoProducers) { ExpectProven(Explore(Scenario(1, 2))); }
TEST(IdleSetInterleavingTest, TwoWorkersOneProducer) { ExpectProven(Explore(Scenario(2, 1))); }

// Work that only one worker can take (a pinned fiber, an armed timer) against its falling asleep.
TEST(IdleSetInterleavingTest, AClaimOfOneWorkerIsNotLost) {
  ExpectProven(Explore([](Exploration& run) {
    auto world = run.Make<World>(1);
    run.Thread("worker", [=] { world->Work(0, 2, Fault::kNone); });
    for (int i = 0; i < 2; ++i) {
      run.Thread("pusher " + std::to_string(i), [=] {
        world->queue.fetch_add(1, kSeqCst);
        if (world->idle.ClaimWorker(0)) world->Interrupt(0);
      });
    }
  }));
}

// Canaries.
TEST(IdleSetInterleavingTest, WithoutTheRecheckWorkIsLost) {
  EXPECT_FALSE(Explore(Scenario(1, 1, Fault::kNoRecheck)).ok);
}
TEST(IdleSetInterleavingTest, ARecheckBeforeTheAnnouncementIsTooEarly) {
  EXPECT_FALSE(Explore(Scenario(1, 1, Fault::kRecheckBeforeAnnounce)).ok);
}
TEST(IdleSetInterleavingTest, ASearcherThatLeavesAfterItsLastLookStrandsWork) {
  EXPECT_FALSE(Explore(Scenario(1, 2, Fault::kSearchAfterRecheck)).ok);
}

// "Publish work, then load the sleeping bits" against "set the bit, then look at the queue".
TEST(IdleSetInterleavingTest, EachSeqCstOfThePairIsNeeded) {
  std::set<std::string> needed;
  for (const Weakening& weakening : NeededOrders(Scenario(1, 1))) {
    const bool queue = weakening.site.object == "queue";
    const bool load = weakening.site.kind == OpKind::kLoad;
    needed.insert(std::string(load ? "load" : "store") + (queue ? " the queue" : " the bits"));
  }
  EXPECT_EQ(needed, (std::set<std::string>{"store the queue", "load the bits", "store the bits",
                                           "load the queue"}));
}

}  // namespace
}  // namespace sched::internal
