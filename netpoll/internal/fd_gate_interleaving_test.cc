// SPDX-License-Identifier: Apache-2.0
//
// The gate over all interleavings and all values the memory model allows: the shipped FdGate, used
// as Socket uses it. Nobody may touch a descriptor that was given back, it is given back exactly
// once, one fiber reads at a time, and nobody waits for ever.
#include <gtest/gtest.h>

#include <array>
#include <string>

#include "netpoll/internal/fd_gate.h"
#include "sched/check.h"
#include "sched/testing/explorer.h"
#include "sched/testing/proof.h"

namespace netpoll::internal {
namespace {

using sched::testing::BlockUntil;
using sched::testing::Expect;
using sched::testing::ExpectProven;
using sched::testing::Exploration;
using sched::testing::Explore;
using sched::testing::Label;
using sched::testing::ModelAtomics;
using sched::testing::NeededOrders;
using sched::testing::RememberOnly;
using sched::testing::ToString;
using sched::testing::Weakening;

// What can be wrong on purpose.
enum class Fault {
  kNone,
  kWakeBeforeClear,   // the unlocker wakes those in line before it clears their bit
  kParkWithoutLook,   // who found the lock taken parks without looking again
  kLookOutsideLot,    // or looks before it takes the lot's lock
  kCloserFrees,       // the closer frees the descriptor under its users
  kCloseForgetsLine,  // the closer does not wake those in line
};

// Where fibers wait for the gate: as sched::ParkingLot, with one key.
struct Lot {
  static constexpr int kFibersMax = 3;

  Lot() {
    for (auto& flag : resumed) Label(flag, "resumed");
  }

  template <class Still>
  void Wait(int fiber, Still still) {
    mu.Lock();
    const bool parks = still();
    if (parks) parked[fiber] = true;
    mu.Unlock();
    if (!parks) return;
    BlockUntil([&] { return resumed[fiber].load(std::memory_order_seq_cst); });
    resumed[fiber].exchange(false, std::memory_order_acq_rel);
  }

  void WakeAll() {
    mu.Lock();
    for (int fiber = 0; fiber < kFibersMax; ++fiber) {
      if (!parked[fiber]) continue;
      parked[fiber] = false;
      resumed[fiber].exchange(true, std::memory_order_acq_rel);
    }
    mu.Unlock();
  }

  ModelAtomics::Mutex mu;
  std::array<ModelAtomics::Plain<bool>, kFibersMax> parked;
  std::array<ModelAtomics::Atomic<bool>, kFibersMax> resumed;
};

// A socket as far as its gate goes.
struct World {
  explicit World(Fault fault_in) : fault(fault_in) {}

  const Fault fault;
  BasicFdGate<ModelAtomics> gate;
  Lot lot;
  // Of one holder after the other, without a lock of their own.
  ModelAtomics::Plain<int> reads{0};
  ModelAtomics::Plain<int> writes{0};
  // Freed by the last user, and touched by nobody then.
  ModelAtomics::Plain<bool> freed{false};
  ModelAtomics::Atomic<int> times_freed{0};

  void Free() {
    freed = true;
    Expect(times_freed.fetch_add(1, std::memory_order_relaxed) == 0, "freed twice");
  }

  void Wake(const typename BasicFdGate<ModelAtomics>::Leave& leave) {
    if (leave.wake) lot.WakeAll();
  }

  // Socket::Hold.
  bool Enter(int fiber, Direction direction) {
    using Entry = BasicFdGate<ModelAtomics>::Entry;
    for (;;) {
      const Entry entry = gate.Lock(direction);
      if (entry != Entry::kBusy) return entry == Entry::kEntered;
      WaitInLine(fiber, direction);
      RememberOnly();
    }
  }

  void WaitInLine(int fiber, Direction direction) {
    const bool early = fault != Fault::kLookOutsideLot || gate.StillBusy(direction);
    lot.Wait(fiber, [&] {
      if (fault == Fault::kParkWithoutLook) return true;
      return fault == Fault::kLookOutsideLot ? early : gate.StillBusy(direction);
    });
  }

  void Leave(Direction direction) {
    if (fault == Fault::kWakeBeforeClear) lot.WakeAll();
    const auto leave = gate.Unlock(direction);
    if (fault != Fault::kWakeBeforeClear) Wake(leave);
    if (leave.last && fault != Fault::kCloserFrees) Free();
  }

  // One read or write.
  void Operate(int fiber, Direction direction) {
    if (!Enter(fiber, direction)) return;
    Expect(!freed, "used after it was freed");
    auto& count = direction == Direction::kRead ? reads : writes;
    count = count + 1;  // a race, if two hold the direction at once
    Leave(direction);
  }

  // Socket::Use.
  void UseShortly() {
    if (!gate.Enter()) return;
    Expect(!freed, "used after it was freed");
    if (gate.Exit()) Free();
  }

  // Socket::Close.
  void Close() {
    BasicFdGate<ModelAtomics>::Leave leave;
    if (!gate.Close(&leave)) return;
    if (fault != Fault::kCloseForgetsLine) Wake(leave);
    if (gate.Exit() || fault == Fault::kCloserFrees) Free();
  }
};

struct Threads {
  int readers = 0;
  int writers = 0;
  int users = 0;
  int closers = 0;
};

auto Scenario(const Threads& threads, Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>(fault);
    for (int i = 0; i < threads.readers; ++i) {
      run.Thread("reader " + std::to_string(i), [=] { world->Operate(i, Direction::kRead); });
    }
    for (int i = 0; i < threads.writers; ++i) {
      run.Thread("writer " + std::to_string(i),
                 [=] { world->Operate(threads.readers + i, Direction::kWrite); });
    }
    for (int i = 0; i < threads.users; ++i) {
      run.Thread("user " + std::to_string(i), [=] { world->UseShortly(); });
    }
    for (int i = 0; i < threads.closers; ++i) {
      run.Thread("closer " + std::to_string(i), [=] { world->Close(); });
    }
    run.AtEnd([=] {
      Expect(world->gate.unused(), "somebody is still in it");
      const int freed = threads.closers > 0 ? 1 : 0;
      Expect(world->times_freed.load(std::memory_order_relaxed) == freed, "not freed");
      if (threads.closers == 0) {
        Expect(world->reads == threads.readers && world->writes == threads.writers,
               "somebody had no turn");
      }
    });
  };
}

class FdGateInterleavingTest : public testing::Test {
 protected:
  FdGateInterleavingTest() { sched::check_hook = &sched::testing::Fail; }
  ~FdGateInterleavingTest() override { sched::check_hook = nullptr; }
};

TEST_F(FdGateInterleavingTest, EveryReaderGetsItsTurn) {
  ExpectProven(Explore(Scenario({.readers = 2})));
#if !defined(__SANITIZE_THREAD__)  // it would take minutes, and an exploration has one thread
  ExpectProven(Explore(Scenario({.readers = 3})));
#endif
}
TEST_F(FdGateInterleavingTest, ReadersAndWritersPassEachOther) {
  ExpectProven(Explore(Scenario({.readers = 2, .writers = 1})));
}
TEST_F(FdGateInterleavingTest, CloseEndsThoseInLineAndTheLastFrees) {
  ExpectProven(Explore(Scenario({.readers = 1, .closers = 1})));
  ExpectProven(Explore(Scenario({.readers = 2, .closers = 1})));
}
// All four kinds at once are too many schedules; every three of them are not.
TEST_F(FdGateInterleavingTest, CloseAmidOtherKindsOfUsers) {
  ExpectProven(Explore(Scenario({.readers = 1, .writers = 1, .closers = 1})));
  ExpectProven(Explore(Scenario({.readers = 1, .users = 1, .closers = 1})));
  ExpectProven(Explore(Scenario({.users = 2, .closers = 1})));
}
TEST_F(FdGateInterleavingTest, OneOfTwoClosersCloses) {
  ExpectProven(Explore(Scenario({.users = 1, .closers = 2})));
  ExpectProven(Explore(Scenario({.readers = 1, .closers = 2})));
}

// Canaries: each must be caught.
TEST_F(FdGateInterleavingTest, AWakeBeforeTheBitIsClearedIsLost) {
  EXPECT_FALSE(Explore(Scenario({.readers = 2}, Fault::kWakeBeforeClear)).ok);
}
TEST_F(FdGateInterleavingTest, ParkingWithoutALookMissesTheWake) {
  EXPECT_FALSE(Explore(Scenario({.readers = 2}, Fault::kParkWithoutLook)).ok);
}
TEST_F(FdGateInterleavingTest, ALookOutsideTheLotMissesTheWake) {
  EXPECT_FALSE(Explore(Scenario({.readers = 2}, Fault::kLookOutsideLot)).ok);
}
TEST_F(FdGateInterleavingTest, ACloserThatFreesPullsItFromUnderItsUsers) {
  EXPECT_FALSE(Explore(Scenario({.readers = 1, .closers = 1}, Fault::kCloserFrees)).ok);
}
TEST_F(FdGateInterleavingTest, ACloserThatForgetsTheLineLeavesItThere) {
  EXPECT_FALSE(Explore(Scenario({.readers = 2, .closers = 1}, Fault::kCloseForgetsLine)).ok);
}

// The gate has no pair that stores and then loads: it is one word, and who parks looks under the
// lock that the waker takes. So acquire and release would do. That they are needed shows that the
// scenarios would notice.
TEST_F(FdGateInterleavingTest, AcquireAndReleaseAreNeededAndSeqCstIsNot) {
  bool weaker_needed = false;
  for (const Threads& threads : {Threads{.readers = 2}, Threads{.readers = 1, .closers = 1},
                                 Threads{.users = 1, .closers = 1}}) {
    for (const Weakening& weakening : NeededOrders(Scenario(threads), /*below_seq_cst=*/true)) {
      EXPECT_NE(weakening.order, std::memory_order_acq_rel) << ToString(weakening.site);
      weaker_needed = true;
    }
  }
  EXPECT_TRUE(weaker_needed);
}

}  // namespace
}  // namespace netpoll::internal
