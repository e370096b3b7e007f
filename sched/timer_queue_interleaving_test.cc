// SPDX-License-Identifier: Apache-2.0
//
// Lazy timers over all interleavings: the shipped queue, inbox and lock, against movers of the
// deadline and servers (the owner and a thief). A wanted instant that has passed when the queue is
// next served must fire.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "sched/testing/explorer.h"
#include "sched/testing/proof.h"
#include "sched/timer_queue.h"

namespace sched {
namespace {

using sched::testing::Expect;
using sched::testing::ExpectProven;
using sched::testing::Exploration;
using sched::testing::Explore;
using sched::testing::Label;
using sched::testing::ModelAtomics;
using sched::testing::NeededOrders;
using sched::testing::OpKind;
using sched::testing::Weakening;

constexpr auto kSeqCst = std::memory_order_seq_cst;

// As netpoll's deadline: wanted at an instant, -1 once fired.
class ModelTimer final : public BasicTimer<ModelAtomics> {
 public:
  explicit ModelTimer(int64_t wanted) : wanted_(wanted) { Label(wanted_, "wanted"); }
  // True: arm it.
  bool Move(int64_t when) {
    wanted_.exchange(when, kSeqCst);
    return NeedsArming(when);
  }
  bool fired() const { return wanted() == -1; }
  int64_t wanted() const { return wanted_.load(kSeqCst); }

 private:
  int64_t Wanted() const override {
    const int64_t when = wanted_.load(kSeqCst);
    return when < 0 ? kNeverNs : when;
  }
  int64_t Fire(int64_t now) override {
    int64_t when = wanted_.load(kSeqCst);
    do {
      if (when < 0 || when > now) return when < 0 ? kNeverNs : when;
    } while (!wanted_.compare_exchange_strong(when, -1, kSeqCst));
    return kNeverNs;
  }
  ModelAtomics::Atomic<int64_t> wanted_;
};

struct World {
  World(int64_t armed_for, int64_t wanted) : timer(wanted) {
    if (armed_for != kNeverNs) queue.Arm(timer, armed_for);
  }
  BasicTimerQueue<ModelAtomics> queue;
  ModelTimer timer;

  void MoveFromElsewhere(int64_t when) {
    if (timer.Move(when)) queue.ArmFromElsewhere(timer);
  }
};

// Whatever happened, the owner wakes in time for the last wanted instant, and then the timer fires.
void FiresInTheEnd(Exploration& run, const std::shared_ptr<World>& world) {
  run.AtEnd([=] {
    Expect(world->timer.fired() || !world->queue.InboxEmpty() ||
               world->queue.Next() <= world->timer.wanted(),
           "the owner would sleep past it");
    (void)world->queue.Serve(1000);
    Expect(world->timer.fired(), "the timer was lost");
    Expect(world->queue.Size() == 0 && world->queue.InboxEmpty(), "and is gone from the queue");
  });
}

auto MovedLaterWhileItFires(int movers, int servers) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(10, 10);
    for (int i = 0; i < servers; ++i) {
      run.Thread("server " + std::to_string(i), [=] { (void)world->queue.Serve(10); });
    }
    for (int i = 0; i < movers; ++i) {
      run.Thread("mover " + std::to_string(i), [=] { world->MoveFromElsewhere(20 + i); });
    }
    FiresInTheEnd(run, world);
  };
}

auto ArmedFromElsewhere(int movers) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(kNeverNs, kNeverNs);
    for (int i = 0; i < movers; ++i) {
      run.Thread("mover " + std::to_string(i), [=] { world->MoveFromElsewhere(20 - i); });
    }
    run.Thread("owner", [=] { (void)world->queue.Serve(5); });
    FiresInTheEnd(run, world);
  };
}

TEST(TimerQueueInterleavingTest, MovedLaterWhileItFires) {
  ExpectProven(Explore(MovedLaterWhileItFires(1, 1)));
}
TEST(TimerQueueInterleavingTest, MovedLaterWhileAThiefFiresIt) {
  ExpectProven(Explore(MovedLaterWhileItFires(1, 2)));
}
TEST(TimerQueueInterleavingTest, TwoMoversAndAServer) {
  ExpectProven(Explore(MovedLaterWhileItFires(2, 1)));
}
TEST(TimerQueueInterleavingTest, ArmedFromElsewhere) {
  ExpectProven(Explore(ArmedFromElsewhere(1)));
}
TEST(TimerQueueInterleavingTest, ArmedByTwoAtOnceWhileTheInboxIsDrained) {
  ExpectProven(Explore(ArmedFromElsewhere(2)));
}

// Two different timers in the inbox while it is drained.
TEST(TimerQueueInterleavingTest, TheInboxLosesNobody) {
  ExpectProven(Explore([](Exploration& run) {
    struct Two {
      BasicTimerQueue<ModelAtomics> queue;
      ModelTimer a{kNeverNs};
      ModelTimer b{kNeverNs};
    };
    auto world = run.Make<Two>();
    for (const bool first : {true, false}) {
      run.Thread(first ? "a" : "b", [=] {
        ModelTimer& timer = first ? world->a : world->b;
        if (timer.Move(20)) world->queue.ArmFromElsewhere(timer);
      });
    }
    run.Thread("owner", [=] { (void)world->queue.Serve(5); });
    run.AtEnd([=] {
      (void)world->queue.Serve(1000);
      Expect(world->a.fired() && world->b.fired(), "lost in the inbox");
    });
  }));
}

// Its deadline was taken away, so the heap still holds it for the old instant, at which nobody
// wants it: the server's look at it is a plain load, and orders nothing by itself.
auto WantedAgainWhileItIsFoundUnwanted() {
  return [](Exploration& run) {
    auto world = run.Make<World>(10, kNeverNs);
    run.Thread("server", [=] { (void)world->queue.Serve(10); });
    run.Thread("mover", [=] { world->MoveFromElsewhere(20); });
    FiresInTheEnd(run, world);
  };
}

TEST(TimerQueueInterleavingTest, WantedAgainWhileItIsFoundUnwanted) {
  ExpectProven(Explore(WantedAgainWhileItIsFoundUnwanted()));
}

// Which accesses lose a timer when weakened: what is done to what. Objects that only the queue sees
// go by the name of their place in the source.
std::set<std::string> Needed(const std::function<void(Exploration&)>& scenario) {
  std::set<std::string> needed;
  for (const Weakening& weakening : NeededOrders(scenario)) {
    const bool load = weakening.site.kind == OpKind::kLoad;
    const bool wanted = weakening.site.object == "wanted";
    needed.insert(std::string(load ? "load" : "store") + (wanted ? " wanted" : " the queue's"));
  }
  return needed;
}

// "Store what is wanted, then load armed_for_" against "store armed_for_, then load what is
// wanted".
TEST(TimerQueueInterleavingTest, EachSeqCstOfTheLazyPairIsNeeded) {
  EXPECT_EQ(Needed(WantedAgainWhileItIsFoundUnwanted()),
            (std::set<std::string>{"store wanted", "load the queue's", "store the queue's",
                                   "load wanted"}));
}

// "Store what is wanted, then exchange in_inbox_" against "clear in_inbox_, then load what is
// wanted".
TEST(TimerQueueInterleavingTest, EachSeqCstOfTheInboxPairIsNeeded) {
  EXPECT_EQ(Needed(ArmedFromElsewhere(2)),
            (std::set<std::string>{"store wanted", "store the queue's", "load wanted"}));
}

}  // namespace
}  // namespace sched
