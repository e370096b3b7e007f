// SPDX-License-Identifier: Apache-2.0
//
// Deadlines over all interleavings and all values the memory model allows: the shipped
// DeadlineTimer, in the shipped TimerQueue where its arming matters, against the shipped slot and
// waiter's loop. No reader may outsleep its deadline, none may see one that was moved away, and
// none may leave readiness behind when it times out.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "netpoll/internal/await_slot.h"
#include "netpoll/internal/deadline_timer.h"
#include "netpoll/internal/poll_slot.h"
#include "sched/check.h"
#include "sched/testing/explorer.h"
#include "sched/testing/proof.h"
#include "sched/timer_queue.h"

namespace netpoll::internal {
namespace {

using sched::kNeverNs;
using sched::testing::BlockUntil;
using sched::testing::Expect;
using sched::testing::ExpectProven;
using sched::testing::Exploration;
using sched::testing::Explore;
using sched::testing::Ghost;
using sched::testing::Label;
using sched::testing::ModelAtomics;
using sched::testing::NeededOrders;
using sched::testing::OpKind;
using sched::testing::RememberOnly;
using sched::testing::Weakening;

constexpr auto kSeqCst = std::memory_order_seq_cst;
constexpr uintptr_t kReader = 8;  // any word that is a waiter
constexpr int64_t kSoon = 100;
constexpr int64_t kLater = 200;
constexpr int64_t kStart = 0;

// What can be wrong on purpose.
enum class Fault {
  kNone,
  kDeadlineBeforeWait,   // the waiter looks at the deadline before it announces kWait
  kCancelBeforePublish,  // the slot is cancelled before kExpired is there
  kDropReadiness,        // a waiter that times out forgets that readiness came
  kNoSecondLook,         // a waiter that was cancelled takes that for the end of its time
};

struct State {
  bool expired = false;
  bool ok() const { return !expired; }
};

// A reader's slot and its deadline, whose Expired() is what DirectionDeadline does.
struct World {
  struct Timer final : BasicDeadlineTimer<ModelAtomics> {
    explicit Timer(World& world_in) : world(world_in) {}
    void Expired() override {
      if (world.fault != Fault::kCancelBeforePublish) world.Wake(world.slot.Cancel());
    }
    World& world;
  };

  explicit World(Fault fault_in) : fault(fault_in) {
    Label(socket, "socket");
    Label(resumed, "resumed");
    Label(done, "done");
    Label(moved, "moved");
  }

  const Fault fault;
  ModelAtomics::Atomic<int> socket{0};  // as in poll_slot_interleaving_test.cc
  BasicPollSlot<ModelAtomics> slot;
  Timer timer{*this};
  sched::BasicTimerQueue<ModelAtomics> queue;
  ModelAtomics::Atomic<int> resumed{0};
  Ghost<bool> done{false};  // the reader

  // Whether the reader's worker runs it only after `moved`.
  bool busy = false;
  ModelAtomics::Atomic<bool> moved{false};
  bool slept = false;  // the reader's

  void Wake(uintptr_t waiter) {
    if (waiter == 0) return;
    Expect(waiter == kReader, "a waiter nobody put there");
    Expect(resumed.fetch_add(1, std::memory_order_acq_rel) == 0, "woken twice");
  }

  void Park() {
    if (!slot.Commit(kReader)) return;
    slept = true;
    BlockUntil([this] { return resumed.load(kSeqCst) > 0 && (!busy || moved.load(kSeqCst)); });
    (void)moved.load(std::memory_order_acquire);
    resumed.exchange(0, std::memory_order_acq_rel);
  }

  State Check() const { return {timer.expired()}; }

  State Await() {
    if (fault == Fault::kDropReadiness) return AwaitAndDropReadiness();
    const State early = Check();
    int looks = 0;
    return AwaitSlot(
        slot,
        [&] {
          ++looks;
          if (fault == Fault::kDeadlineBeforeWait && looks == 1) return early;
          if (fault == Fault::kNoSecondLook && looks == 2) return State{.expired = true};
          return Check();
        },
        [&] { Park(); });
  }

  State AwaitAndDropReadiness() {
    if (slot.BeginWait()) return {};
    if (const State state = Check(); !state.ok()) {
      (void)slot.EndWait();
      return state;
    }
    Park();
    return slot.EndWait() ? State() : Check();
  }

  // Conn::Read after the kernel said that nothing is there: waits, then asks. False: timed out.
  bool Read() {
    for (;;) {
      if (!Await().ok()) return false;
      slot.Reset();
      if (socket.exchange(0, std::memory_order_acq_rel) > 0) return true;
    }
  }

  // A byte arrives and epoll reports it.
  void Arrive() {
    socket.fetch_add(1, std::memory_order_acq_rel);
    Wake(slot.Notify());
  }

  // Socket::SetDeadline at the instant `now`, from the worker that serves the queue or from
  // another.
  void Set(int64_t when, int64_t now) {
    if (fault == Fault::kCancelBeforePublish && when <= now) Wake(slot.Cancel());
    if (timer.Set(when, now)) queue.Arm(timer, when);
  }
  void SetFromElsewhere(int64_t when, int64_t now) {
    if (timer.Set(when, now)) queue.ArmFromElsewhere(timer);
  }

  // Its worker, at the instant `now`, as long as there is something to serve and the reader waits.
  void ServeUntilDone(int64_t now) {
    for (;;) {
      BlockUntil([&] { return done.Get() || queue.Next() <= now || !queue.InboxEmpty(); });
      if (done.Get()) return;
      (void)queue.Serve(now);
      RememberOnly();
    }
  }
};

void ReadNothing(World& world) {
  Expect(!world.Read(), "nothing came");
  world.done.Set(true);
}

// --- Scenarios.

// A deadline in the past is set while somebody reads; nothing ever comes.
auto Expiry(Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(fault);
    run.Thread("reader", [=] { ReadNothing(*world); });
    run.Thread("setter", [=] { world->Set(kStart, kStart); });
  };
}

// The timer passes the deadline instead.
auto Firing() {
  return [=](Exploration& run) {
    auto world = run.Make<World>(Fault::kNone);
    world->Set(kSoon, kStart);
    run.Thread("reader", [=] { ReadNothing(*world); });
    run.Thread("worker", [=] { world->ServeUntilDone(kSoon); });
  };
}

// A byte and the end of the time come together. Whatever the first read says, the byte is there for
// one that follows.
auto ExpiryAndByte(Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(fault);
    run.Thread("reader", [=] {
      while (!world->Read()) world->timer.Set(kNeverNs, kStart);
    });
    run.Thread("setter", [=] { world->Set(kStart, kStart); });
    run.Thread("poller", [=] { world->Arrive(); });
  };
}

// The time ends and is prolonged at once by a fiber of the reader's own, busy worker; then a byte
// comes. A reader that slept through both sees the byte, not the end of a time that was moved away.
auto ExpiryMovedAway(Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(fault);
    world->busy = true;
    run.Thread("reader", [=] {
      const bool read = world->Read();
      Expect(read || !world->slept, "saw a deadline that was moved away");
    });
    run.Thread("mover", [=] {
      world->Set(kStart, kStart);
      world->timer.Set(kNeverNs, kStart);
      world->moved.store(true, std::memory_order_release);
      world->Arrive();
    });
  };
}

// The deadline moves while its worker fires the timer that is armed for the old one. Without a byte
// the reader must time out in either case.
auto MovedWhileFiring(int64_t from, int64_t to, bool elsewhere, Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(fault);
    world->Set(from, kStart);
    run.Thread("reader", [=] { ReadNothing(*world); });
    run.Thread("mover",
               [=] { elsewhere ? world->SetFromElsewhere(to, kStart) : world->Set(to, kStart); });
    run.Thread("worker", [=] {
      (void)world->queue.Serve(kSoon);
      world->ServeUntilDone(kLater);
    });
  };
}

// The same without the reader, and with the deadline away before it is moved to `to`, so that a
// look at the old one would be the last. In the end the timer is in the queue or on its way there.
auto ArmedInTheEnd(int64_t from, int64_t to, bool elsewhere) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(Fault::kNone);
    const auto set = [=](int64_t when) {
      elsewhere ? world->SetFromElsewhere(when, kStart) : world->Set(when, kStart);
    };
    set(from);
    set(kNeverNs);
    run.Thread("mover", [=] { set(to); });
    run.Thread("worker", [=] { (void)world->queue.Serve(kSoon); });
    run.AtEnd([=] {
      Expect(world->Check().expired || world->queue.Next() <= to || !world->queue.InboxEmpty(),
             "nobody will fire the timer");
    });
  };
}

class DeadlineTimerInterleavingTest : public testing::Test {
 protected:
  DeadlineTimerInterleavingTest() { sched::check_hook = &sched::testing::Fail; }
  ~DeadlineTimerInterleavingTest() override { sched::check_hook = nullptr; }
};

TEST_F(DeadlineTimerInterleavingTest, APastDeadlineWakesTheReader) {
  ExpectProven(Explore(Expiry()));
}
TEST_F(DeadlineTimerInterleavingTest, AFiringTimerWakesTheReader) {
  ExpectProven(Explore(Firing()));
}
TEST_F(DeadlineTimerInterleavingTest, AByteBesideATimeoutIsNotLost) {
  ExpectProven(Explore(ExpiryAndByte()));
}
TEST_F(DeadlineTimerInterleavingTest, ADeadlineThatFiredAndWasMovedIsInvisible) {
  ExpectProven(Explore(ExpiryMovedAway()));
}
TEST_F(DeadlineTimerInterleavingTest, ADeadlineMovedLaterWhileItFiresStillPasses) {
  ExpectProven(Explore(MovedWhileFiring(kSoon, kLater, /*elsewhere=*/false)));
}
TEST_F(DeadlineTimerInterleavingTest, ADeadlineMovedLaterFromElsewhereStillPasses) {
  ExpectProven(Explore(MovedWhileFiring(kSoon, kLater, /*elsewhere=*/true)));
}
TEST_F(DeadlineTimerInterleavingTest, ADeadlineMovedEarlierFromElsewherePasses) {
  ExpectProven(Explore(MovedWhileFiring(kLater, kSoon, /*elsewhere=*/true)));
}
TEST_F(DeadlineTimerInterleavingTest, AMovedTimerIsArmedInTheEnd) {
  for (const bool elsewhere : {false, true}) {
    ExpectProven(Explore(ArmedInTheEnd(kSoon, kLater, elsewhere)));
    ExpectProven(Explore(ArmedInTheEnd(kLater, kSoon, elsewhere)));
  }
}

// Canaries: each must be caught.
TEST_F(DeadlineTimerInterleavingTest, ALookBeforeTheAnnouncementMissesTheDeadline) {
  EXPECT_FALSE(Explore(Expiry(Fault::kDeadlineBeforeWait)).ok);
}
TEST_F(DeadlineTimerInterleavingTest, ACancelBeforeThePublicationIsCaught) {
  EXPECT_FALSE(Explore(Expiry(Fault::kCancelBeforePublish)).ok);
}
TEST_F(DeadlineTimerInterleavingTest, ATimeoutThatForgetsReadinessLosesTheByte) {
  EXPECT_FALSE(Explore(ExpiryAndByte(Fault::kDropReadiness)).ok);
}
TEST_F(DeadlineTimerInterleavingTest, WithoutTheSecondLookAMovedDeadlineIsSeen) {
  EXPECT_FALSE(Explore(ExpiryMovedAway(Fault::kNoSecondLook)).ok);
}

const char* NameOf(OpKind kind) {
  switch (kind) {
    case OpKind::kLoad:
      return "load";
    case OpKind::kStore:
      return "store";
    case OpKind::kExchange:
      return "exchange";
    case OpKind::kCompareExchange:
      return "compare_exchange";
    default:
      return "?";
  }
}

using Names = std::set<std::string>;

// The accesses whose seq_cst the scenario needs, as "file: kind".
Names NeededSeqCst(const std::function<void(Exploration&)>& scenario) {
  Names needed;
  for (const Weakening& weakening : NeededOrders(scenario)) {
    const std::string file = weakening.site.file;
    needed.insert(file.substr(file.rfind('/') + 1) + ": " + NameOf(weakening.site.kind));
  }
  return needed;
}

// The waiter stores kWait and loads the deadline; the setter exchanges that and loads the slot.
TEST_F(DeadlineTimerInterleavingTest, EachSeqCstBetweenWaiterAndDeadlineIsNeeded) {
  EXPECT_EQ(NeededSeqCst(Expiry()),
            (Names{"poll_slot.h: compare_exchange", "deadline_timer.h: load",
                   "deadline_timer.h: exchange", "poll_slot.h: load"}));
}

// The mover exchanges the deadline and loads the armed instant; the worker stores that and loads
// the deadline.
TEST_F(DeadlineTimerInterleavingTest, EachSeqCstBetweenMoverAndHeapIsNeeded) {
  EXPECT_EQ(NeededSeqCst(ArmedInTheEnd(kSoon, kLater, /*elsewhere=*/false)),
            (Names{"deadline_timer.h: exchange", "timer_queue.h: load", "timer_queue.h: store",
                   "deadline_timer.h: load"}));
}

// The mover exchanges the deadline and then the inbox mark; the worker clears that and loads the
// deadline.
TEST_F(DeadlineTimerInterleavingTest, EachSeqCstBetweenMoverAndInboxIsNeeded) {
  EXPECT_EQ(NeededSeqCst(ArmedInTheEnd(kSoon, kLater, /*elsewhere=*/true)),
            (Names{"deadline_timer.h: exchange", "timer_queue.h: exchange", "timer_queue.h: store",
                   "deadline_timer.h: load"}));
}

}  // namespace
}  // namespace netpoll::internal
