// SPDX-License-Identifier: Apache-2.0
//
// The wait slot over all interleavings and all values the memory model allows: the shipped PollSlot
// and the shipped waiter's loop (AwaitSlot) against pollers and a closer, who closes the shipped
// FdGate. No byte may lie unread while its reader sleeps, no reader may be woken twice, none may
// outsleep a close.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "netpoll/internal/await_slot.h"
#include "netpoll/internal/fd_gate.h"
#include "netpoll/internal/poll_slot.h"
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
using sched::testing::OpKind;
using sched::testing::Weakening;

constexpr auto kSeqCst = std::memory_order_seq_cst;
constexpr uintptr_t kReader = 8;  // any word that is a waiter

// What can be wrong on purpose.
enum class Fault { kNone, kNoRecheck, kCommitBeforeSave, kCancelBeforePublish, kResetAfterRead };

struct State {
  bool closed = false;
  bool ok() const { return !closed; }
};

struct World {
  World() {
    Label(socket, "socket");
    Label(resumed, "resumed");
  }

  // The kernel's receive queue. Its lock orders everything, hence an atomic update per access.
  ModelAtomics::Atomic<int> socket{0};
  BasicFdGate<ModelAtomics> gate;
  BasicPollSlot<ModelAtomics> slot;
  // The run queue: hands the reader from its waker to the worker that continues it.
  ModelAtomics::Atomic<int> resumed{0};
  // What the context switch saved; whoever continues the reader loads it.
  ModelAtomics::Plain<int> registers{0};

  void Wake(uintptr_t waiter) {
    if (waiter == 0) return;
    Expect(waiter == kReader, "a waiter nobody put there");
    const int saved = registers;  // its new worker continues it
    Expect(saved > 0, "continued before its registers were saved");
    Expect(resumed.fetch_add(1, std::memory_order_acq_rel) == 0, "woken twice");
  }

  void Park(Fault fault) {
    if (fault != Fault::kCommitBeforeSave) registers = registers + 1;
    const bool parked = slot.Commit(kReader);
    if (fault == Fault::kCommitBeforeSave) registers = registers + 1;
    if (!parked) return;
    BlockUntil([this] { return resumed.load(kSeqCst) > 0; });
    resumed.exchange(0, std::memory_order_acq_rel);
  }

  // Reads until it has `bytes`, or until it finds the connection closed.
  void Read(int bytes, Fault fault) {
    const auto check = [&] { return State{gate.closed()}; };
    int looked = 0;
    while (bytes > 0 && check().ok()) {
      if (fault != Fault::kResetAfterRead) slot.Reset();
      const int got = socket.exchange(0, std::memory_order_acq_rel);
      if (fault == Fault::kResetAfterRead) slot.Reset();
      bytes -= got;
      if (got > 0) continue;
      const State state = AwaitSlot(
          slot, [&] { return fault == Fault::kNoRecheck && looked++ == 0 ? State{} : check(); },
          [&] { Park(fault); });
      if (!state.ok()) return;
    }
  }

  // A byte arrives and epoll reports it.
  void Arrive() {
    socket.fetch_add(1, std::memory_order_acq_rel);
    Wake(slot.Notify());
  }

  void Close(Fault fault) {
    if (fault == Fault::kCancelBeforePublish) Wake(slot.Cancel());
    BasicFdGate<ModelAtomics>::Leave leave;
    Expect(gate.Close(&leave), "closed by somebody else");
    if (fault != Fault::kCancelBeforePublish) Wake(slot.Cancel());
  }
};

auto Scenario(int pollers, bool closer, Fault fault = Fault::kNone) {
  return [=](Exploration& run) {
    auto world = run.Make<World>();
    // With a closer it asks for one byte more than ever comes.
    run.Thread("reader", [=] { world->Read(pollers + (closer ? 1 : 0), fault); });
    for (int i = 0; i < pollers; ++i) {
      run.Thread("poller " + std::to_string(i), [=] { world->Arrive(); });
    }
    if (closer) run.Thread("closer", [=] { world->Close(fault); });
  };
}

class PollSlotInterleavingTest : public testing::Test {
 protected:
  PollSlotInterleavingTest() { sched::check_hook = &sched::testing::Fail; }
  ~PollSlotInterleavingTest() override { sched::check_hook = nullptr; }
};

TEST_F(PollSlotInterleavingTest, OnePoller) { ExpectProven(Explore(Scenario(1, false))); }
TEST_F(PollSlotInterleavingTest, TwoPollers) { ExpectProven(Explore(Scenario(2, false))); }
TEST_F(PollSlotInterleavingTest, Closer) { ExpectProven(Explore(Scenario(0, true))); }
TEST_F(PollSlotInterleavingTest, PollerAndCloser) { ExpectProven(Explore(Scenario(1, true))); }
TEST_F(PollSlotInterleavingTest, TwoPollersAndCloser) { ExpectProven(Explore(Scenario(2, true))); }

// Canaries: each must be caught.
TEST_F(PollSlotInterleavingTest, WithoutTheRecheckACloseIsMissed) {
  EXPECT_FALSE(Explore(Scenario(0, true, Fault::kNoRecheck)).ok);
}
TEST_F(PollSlotInterleavingTest, ACommitBeforeTheSaveIsCaught) {
  EXPECT_FALSE(Explore(Scenario(1, false, Fault::kCommitBeforeSave)).ok);
}
TEST_F(PollSlotInterleavingTest, ACancelBeforeThePublicationIsCaught) {
  EXPECT_FALSE(Explore(Scenario(0, true, Fault::kCancelBeforePublish)).ok);
}
TEST_F(PollSlotInterleavingTest, AResetAfterTheReadErasesAnEdge) {
  EXPECT_FALSE(Explore(Scenario(1, false, Fault::kResetAfterRead)).ok);
}

// Each access of the two "store, then load" pairs has to be seq_cst.
TEST_F(PollSlotInterleavingTest, EachSeqCstOfThePairsIsNeeded) {
  std::set<std::string> needed;
  for (const Weakening& weakening : NeededOrders(Scenario(0, true))) {
    const bool on_bits = std::string_view(weakening.site.file).ends_with("fd_gate.h");
    switch (weakening.site.kind) {
      case OpKind::kLoad:
        needed.insert(on_bits ? "waiter: load the bits" : "closer: load the slot");
        break;
      case OpKind::kStore:
        needed.insert("?");
        break;
      default:
        needed.insert(on_bits ? "closer: store the bits" : "waiter: store kWait");
    }
  }
  EXPECT_EQ(needed, (std::set<std::string>{"waiter: store kWait", "waiter: load the bits",
                                           "closer: store the bits", "closer: load the slot"}));
}

}  // namespace
}  // namespace netpoll::internal
