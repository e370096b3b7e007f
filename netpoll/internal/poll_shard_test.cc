// SPDX-License-Identifier: Apache-2.0
#include "netpoll/internal/poll_shard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "netpoll/testing/raw_socket.h"
#include "netpoll/testing/scripted_calls.h"
#include "sched/host.h"
#include "sched/waiter.h"

namespace netpoll::internal {
namespace {

using std::chrono::milliseconds;

constexpr Direction kBoth[] = {Direction::kRead, Direction::kWrite};

// Lets a test act after events were taken from the kernel and before they are handled.
class InterruptibleCalls : public ScriptedCalls {
 public:
  int EpollWait(int epfd, epoll_event* events, int count, const timespec* timeout) override {
    const int result = ScriptedCalls::EpollWait(epfd, events, count, timeout);
    if (const auto hook = std::exchange(after_wait, nullptr)) hook();
    return result;
  }

  int EpollCtl(int epfd, int operation, int fd, epoll_event* event) override {
    if (operation == EPOLL_CTL_ADD && std::exchange(fail_add, false)) return -ENOSPC;
    return ScriptedCalls::EpollCtl(epfd, operation, fd, event);
  }

  std::function<void()> after_wait;  // once
  bool fail_add = false;             // once
};

// The shard alone, on one thread; the waiters are records that never run.
class PollShardTest : public testing::Test {
 protected:
  PollShardTest() { EXPECT_TRUE(shard_->Open().ok()); }

  static sched::Deadline Now() { return sched::Host::Real().Now(); }

  void Park(PollDesc& desc, Direction direction, sched::Continuation& waiter) {
    ASSERT_FALSE(desc.slot(direction).BeginWait());
    ASSERT_TRUE(desc.slot(direction).Commit(sched::Waiter(&waiter).word()));
  }
  // Ends the wait of a waiter that was not woken.
  void Unpark(PollDesc& desc, Direction direction) {
    EXPECT_NE(desc.slot(direction).Cancel(), 0u);
    EXPECT_FALSE(desc.slot(direction).EndWait());
  }

  // Which directions of a descriptor with two waiters an event wakes.
  std::set<Direction> WokenBy(uint32_t events) {
    PollDesc& desc = *shard_->Take();
    sched::Continuation waiters[2];
    for (const Direction d : kBoth) Park(desc, d, waiters[static_cast<int>(d)]);
    sched::WaiterList ready;
    desc.OnEvent(desc.generation(), events, ready);
    std::set<sched::Continuation*> woken;
    while (!ready.empty()) woken.insert(ready.PopFront().continuation());
    std::set<Direction> directions;
    for (const Direction d : kBoth) {
      if (woken.contains(&waiters[static_cast<int>(d)])) {
        directions.insert(d);
        EXPECT_TRUE(desc.slot(d).EndWait());
      } else {
        Unpark(desc, d);
      }
    }
    bits_ = desc.event_bits();
    shard_->Give(&desc);
    return directions;
  }

  // Leaves one PollDesc to take: what a test gives back is what it takes next.
  void TakeAllButOne() {
    for (size_t i = 1; i < PollShard::kChunk; ++i) taken_.push_back(shard_->Take());
  }
  void TearDown() override {
    for (PollDesc* const desc : taken_) shard_->Give(desc);
  }

  std::vector<PollDesc*> taken_;
  uint32_t bits_ = 0;  // after WokenBy
  InterruptibleCalls calls_;
  const Kernel kernel_{&calls_};
  PollShard* AddShard() {
    const int index = static_cast<int>(shards_.size());
    shards_.push_back(std::make_unique<PollShard>(kernel_, sched::Host::Real(), index, shards_));
    return shards_.back().get();
  }

  PollShard::Shards shards_;
  PollShard* const shard_ = AddShard();
};

using Directions = std::set<Direction>;

// --- What an event does.

TEST_F(PollShardTest, AnEventWakesWhomItConcerns) {
  EXPECT_EQ(WokenBy(EPOLLIN), Directions{Direction::kRead});
  EXPECT_EQ(bits_, 0u);
  EXPECT_EQ(WokenBy(EPOLLOUT), Directions{Direction::kWrite});
  EXPECT_EQ(bits_, uint32_t{kWritable});
  EXPECT_EQ(WokenBy(EPOLLIN | EPOLLOUT), (Directions{Direction::kRead, Direction::kWrite}));
}

TEST_F(PollShardTest, ThePeersEndAndUrgentDataWakeTheReaderAndStay) {
  EXPECT_EQ(WokenBy(EPOLLRDHUP), Directions{Direction::kRead});
  EXPECT_EQ(bits_, uint32_t{kReadClosed});
  EXPECT_EQ(WokenBy(EPOLLPRI), Directions{Direction::kRead});
  EXPECT_EQ(bits_, uint32_t{kUrgent});
}

TEST_F(PollShardTest, AnErrorAloneWakesBothAndStays) {
  EXPECT_EQ(WokenBy(EPOLLERR), (Directions{Direction::kRead, Direction::kWrite}));
  EXPECT_EQ(bits_, uint32_t{kBroken});
  EXPECT_EQ(WokenBy(EPOLLHUP), (Directions{Direction::kRead, Direction::kWrite}));
  EXPECT_EQ(bits_, uint32_t{kHangUp});
}

TEST_F(PollShardTest, BitsAddUpUntilTheDescriptorIsRenewed) {
  PollDesc& desc = *shard_->Take();
  sched::WaiterList ready;
  desc.OnEvent(desc.generation(), EPOLLRDHUP, ready);
  desc.OnEvent(desc.generation(), EPOLLERR, ready);
  desc.OnEvent(desc.generation(), EPOLLIN, ready);
  EXPECT_EQ(desc.event_bits(), uint32_t{kReadClosed | kBroken});
  desc.Renew();
  EXPECT_EQ(desc.event_bits(), 0u);
  shard_->Give(&desc);
}

TEST_F(PollShardTest, ABreakingDescriptorWakesTheWriterThatDependsOnIt) {
  PollDesc& source = *shard_->Take();
  PollDesc& target = *shard_->Take();
  source.WakeWriterWhenBroken(&target);
  sched::Continuation writer;
  sched::WaiterList ready;
  Park(target, Direction::kWrite, writer);
  source.OnEvent(source.generation(), EPOLLIN | EPOLLRDHUP, ready);
  EXPECT_TRUE(ready.empty());
  source.OnEvent(source.generation(), EPOLLERR, ready);
  EXPECT_EQ(ready.PopFront().continuation(), &writer);
  EXPECT_TRUE(target.slot(Direction::kWrite).EndWait());

  // Its next use has nothing to do with that writer.
  source.Recycle();
  Park(target, Direction::kWrite, writer);
  source.OnEvent(source.generation(), EPOLLERR, ready);
  EXPECT_TRUE(ready.empty());
  Unpark(target, Direction::kWrite);
  shard_->Give(&source);
  shard_->Give(&target);
}

// --- Stale events.

constexpr uint32_t kEverything = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI;

TEST_F(PollShardTest, AnEventOfAnEarlierUseDoesNothing) {
  PollDesc& desc = *shard_->Take();
  const uint32_t old_generation = desc.generation();
  desc.Recycle();
  sched::Continuation waiters[2];
  for (const Direction d : kBoth) Park(desc, d, waiters[static_cast<int>(d)]);

  sched::WaiterList ready;
  desc.OnEvent(old_generation, kEverything, ready);
  EXPECT_TRUE(ready.empty());
  EXPECT_EQ(desc.event_bits(), 0u);
  for (const Direction d : kBoth) Unpark(desc, d);
  shard_->Give(&desc);
}

// The whole way: the kernel reported the old descriptor, and before that is handled the same number
// and the same PollDesc belong to a new connection.
TEST_F(PollShardTest, AnEventOnItsWayDoesNotReachTheNextUserOfNumberAndPollDesc) {
  TakeAllButOne();
  auto old_pair = ConnectedPair();
  RawSocket& ours = old_pair.first;
  PollDesc* const old_use = shard_->Take();
  ASSERT_EQ(shard_->Register(*old_use, ours.fd(), Direction::kRead), 0);
  old_pair.second.Reset();

  auto next_pair = ConnectedPair();
  RawSocket& next = next_pair.first;
  const int number = ours.fd();
  sched::Continuation reader;
  PollDesc* new_use = nullptr;
  calls_.after_wait = [&] {
    ours.Close();
    shard_->Give(old_use);
    new_use = shard_->Take();
    ASSERT_EQ(::dup3(next.fd(), number, O_CLOEXEC), number);
    next.Close();
    ASSERT_EQ(shard_->Register(*new_use, number, Direction::kRead), 0);
    Park(*new_use, Direction::kRead, reader);
  };
  sched::WaiterList ready;
  shard_->Wait(sched::kNever, ready);
  EXPECT_EQ(new_use, old_use);
  EXPECT_TRUE(ready.empty());
  EXPECT_EQ(new_use->event_bits(), kRegistered);

  // Its own events do reach it.
  next_pair.second.Send("x");
  while (ready.empty()) shard_->Wait(sched::kNever, ready);
  EXPECT_EQ(ready.PopFront().continuation(), &reader);
  EXPECT_TRUE(new_use->slot(Direction::kRead).EndWait());
  shard_->Give(new_use);
  ::close(number);
}

// --- Registering.

TEST_F(PollShardTest, RegisteringReportsWhatIsReadyAlready) {
  auto [ours, theirs] = ConnectedPair();
  theirs.Send("x");
  PollDesc& desc = *shard_->Take();
  sched::Continuation reader;
  Park(desc, Direction::kRead, reader);
  EXPECT_EQ(desc.event_bits(), 0);
  ASSERT_EQ(shard_->Register(desc, ours.fd(), Direction::kRead), 0);
  EXPECT_EQ(desc.event_bits(), kRegistered);
  sched::WaiterList ready;
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_EQ(ready.PopFront().continuation(), &reader);
  EXPECT_TRUE(desc.slot(Direction::kRead).EndWait());
  ours.Close();
  shard_->Give(&desc);
}

TEST_F(PollShardTest, RegisteringTwiceIsOnce) {
  auto [ours, theirs] = ConnectedPair();
  PollDesc& desc = *shard_->Take();
  EXPECT_EQ(shard_->Register(desc, ours.fd(), Direction::kRead), 0);
  EXPECT_EQ(shard_->Register(desc, ours.fd(), Direction::kRead), 0);
  ours.Close();
  shard_->Give(&desc);
}

// One event less for each connection that is never blocked in writing.
TEST_F(PollShardTest, WritableIsToldOnceAWriterHasRegistered) {
  auto [ours, theirs] = ConnectedPair();
  PollDesc& desc = *shard_->Take();
  sched::Continuation writer;
  Park(desc, Direction::kWrite, writer);
  ASSERT_EQ(shard_->Register(desc, ours.fd(), Direction::kRead), 0);
  sched::WaiterList ready;
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_TRUE(ready.empty());
  ASSERT_EQ(shard_->Register(desc, ours.fd(), Direction::kWrite), 0);
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_EQ(ready.PopFront().continuation(), &writer);
  EXPECT_EQ(desc.event_bits(), kRegistered | kWatchedOut | kWritable);
  EXPECT_TRUE(desc.slot(Direction::kWrite).EndWait());
  ours.Close();
  shard_->Give(&desc);
}

TEST_F(PollShardTest, AFailedRegistrationCanBeRepeated) {
  auto [ours, theirs] = ConnectedPair();
  PollDesc& desc = *shard_->Take();
  calls_.Fail(Op::kEpollCtl, ENOSPC);
  EXPECT_EQ(shard_->Register(desc, ours.fd(), Direction::kRead), ENOSPC);
  EXPECT_EQ(desc.event_bits(), 0);
  EXPECT_EQ(shard_->Register(desc, ours.fd(), Direction::kRead), 0);
  ours.Close();
  shard_->Give(&desc);
}

TEST_F(PollShardTest, MoreEventsThanOneWaitTakesComeWithTheNext) {
  constexpr int kCount = 2 * PollShard::kEventsMax + 1;
  std::vector<int> fds;
  std::vector<PollDesc*> descs;
  std::vector<sched::Continuation> readers(kCount);
  for (sched::Continuation& reader : readers) {
    fds.push_back(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
    descs.push_back(shard_->Take());
    Park(*descs.back(), Direction::kRead, reader);
    ASSERT_EQ(shard_->Register(*descs.back(), fds.back(), Direction::kRead), 0);
  }
  sched::WaiterList ready;
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_EQ(ready.size(), PollShard::kEventsMax);
  while (ready.size() < kCount) shard_->Wait(sched::kNever, ready);
  for (int i = 0; i < kCount; ++i) {
    EXPECT_TRUE(descs[i]->slot(Direction::kRead).EndWait());
    ::close(fds[i]);
    shard_->Give(descs[i]);
  }
}

// --- Interrupts.

TEST_F(PollShardTest, AnInterruptEndsTheNextWait) {
  sched::WaiterList ready;
  shard_->Interrupt();
  shard_->Wait(sched::kNever, ready);  // or it would block for ever
  EXPECT_TRUE(ready.empty());
}

TEST_F(PollShardTest, AnInterruptIsConsumedOnlyByAWaitThatCanBlock) {
  sched::WaiterList ready;
  shard_->Interrupt();
  shard_->Wait(sched::kLongAgo, ready);
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_EQ(calls_.count(Op::kReadEvent), 0);
  shard_->Wait(sched::kNever, ready);
  EXPECT_EQ(calls_.count(Op::kReadEvent), 1);
  const sched::Deadline until = Now() + milliseconds(5);
  shard_->Wait(until, ready);
  EXPECT_GE(Now(), until);
}

TEST_F(PollShardTest, InterruptsBeforeTheWaitCountAsOne) {
  sched::WaiterList ready;
  for (int i = 0; i < 5; ++i) shard_->Interrupt();
  EXPECT_EQ(calls_.count(Op::kWriteEvent), 1);
  shard_->Wait(sched::kNever, ready);
  shard_->Interrupt();
  EXPECT_EQ(calls_.count(Op::kWriteEvent), 2);
  shard_->Wait(sched::kNever, ready);
}

TEST_F(PollShardTest, AWaitIsNeverShorterThanAsked) {
  sched::WaiterList ready;
  for (const auto span : {std::chrono::microseconds(1), std::chrono::microseconds(300),
                          std::chrono::microseconds(1500)}) {
    const sched::Deadline until = Now() + span;
    shard_->Wait(until, ready);
    EXPECT_GE(Now(), until);
  }
  shard_->Wait(Now() - milliseconds(1), ready);  // long past: does not block
}

// --- Thieves.

TEST_F(PollShardTest, AThiefIsRefusedWhileAnotherPolls) {
  sched::WaiterList ready;
  bool second = true;
  calls_.after_wait = [&] { second = shard_->Poll(ready); };
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_FALSE(second);
  EXPECT_TRUE(shard_->Poll(ready));
}

TEST_F(PollShardTest, TheOwnerIsNotRefusedWhileAThiefPolls) {
  sched::WaiterList ready;
  calls_.after_wait = [&] {
    shard_->Interrupt();
    shard_->Wait(sched::kNever, ready);
  };
  EXPECT_TRUE(shard_->Poll(ready));
  EXPECT_EQ(calls_.count(Op::kReadEvent), 1);
}

// --- Taking over.

class TakeOverTest : public PollShardTest {
 protected:
  TakeOverTest() {
    EXPECT_TRUE(other_->Open().ok());
    EXPECT_EQ(shard_->Register(desc_, pair_.first.fd(), Direction::kRead), 0);
    for (const Direction d : kBoth) Park(desc_, d, waiters_[static_cast<int>(d)]);
  }
  void TearDown() override {
    pair_.first.Close();
    shard_->Give(&desc_);
    PollShardTest::TearDown();
  }

  // Which waiters a poll of that shard wakes.
  std::set<Direction> Polled(PollShard* by) {
    sched::WaiterList ready;
    EXPECT_TRUE(by->Poll(ready));
    std::set<Direction> directions;
    while (!ready.empty()) {
      const bool reads = ready.PopFront().continuation() == &waiters_[0];
      const Direction d = reads ? Direction::kRead : Direction::kWrite;
      EXPECT_TRUE(desc_.slot(d).EndWait());
      directions.insert(d);
    }
    return directions;
  }

  PollShard* const other_ = AddShard();
  std::pair<RawSocket, RawSocket> pair_ = ConnectedPair();
  PollDesc& desc_ = *shard_->Take();
  sched::Continuation waiters_[2];
};

TEST_F(TakeOverTest, FromThenOnTheOtherShardReports) {
  other_->TakeOver(desc_, pair_.first.fd());
  EXPECT_EQ(other_->taken_over(), 1);
  // Who registers for writing meanwhile finds nothing to widen, and relies on this.
  EXPECT_EQ(Polled(other_), Directions{Direction::kWrite});
  pair_.second.Send("x");
  EXPECT_EQ(Polled(shard_), Directions{});
  EXPECT_EQ(Polled(other_), Directions{Direction::kRead});
}

TEST_F(TakeOverTest, WhatCameMeanwhileIsReported) {
  pair_.second.Send("x");
  other_->TakeOver(desc_, pair_.first.fd());
  EXPECT_EQ(Polled(other_), (Directions{Direction::kRead, Direction::kWrite}));
}

TEST_F(TakeOverTest, OnFailureTheOneBeforeGoesOn) {
  calls_.fail_add = true;
  other_->TakeOver(desc_, pair_.first.fd());
  EXPECT_EQ(other_->taken_over(), 0);
  pair_.second.Send("x");
  EXPECT_EQ(Polled(other_), Directions{});
  EXPECT_EQ(Polled(shard_), (Directions{Direction::kRead, Direction::kWrite}));
}

TEST_F(TakeOverTest, TheNextUseBeginsAtHome) {
  other_->TakeOver(desc_, pair_.first.fd());
  EXPECT_EQ(desc_.watched_by(), other_->index);
  EXPECT_EQ(Polled(other_), Directions{Direction::kWrite});
  Unpark(desc_, Direction::kRead);
  desc_.Recycle();
  EXPECT_EQ(desc_.watched_by(), shard_->index);
}

// --- The pool.

TEST_F(PollShardTest, ThePoolGrowsAndKeepsEveryPollDesc) {
  constexpr size_t kCount = 3 * PollShard::kChunk;
  std::set<PollDesc*> descs;
  for (size_t i = 0; i < kCount; ++i) {
    PollDesc* const desc = shard_->Take();
    ASSERT_NE(desc, nullptr);
    descs.insert(desc);
  }
  EXPECT_EQ(descs.size(), kCount);
  EXPECT_EQ(shard_->in_use(), int64_t{kCount});

  // An event finds the one with the highest address.
  PollDesc& last = **descs.rbegin();
  auto [ours, theirs] = ConnectedPair();
  sched::Continuation writer;
  Park(last, Direction::kWrite, writer);
  ASSERT_EQ(shard_->Register(last, ours.fd(), Direction::kWrite), 0);
  sched::WaiterList ready;
  shard_->Wait(sched::kNever, ready);
  EXPECT_EQ(ready.PopFront().continuation(), &writer);
  EXPECT_TRUE(last.slot(Direction::kWrite).EndWait());
  ours.Close();

  for (PollDesc* const desc : descs) shard_->Give(desc);
  EXPECT_EQ(shard_->in_use(), 0);
  PollDesc* const again = shard_->Take();
  EXPECT_TRUE(descs.contains(again));  // reused, not made anew
  shard_->Give(again);
}

TEST_F(PollShardTest, EachUseHasItsOwnGeneration) {
  TakeAllButOne();
  std::set<uint32_t> generations;
  PollDesc* const desc = shard_->Take();
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(generations.insert(desc->generation()).second);
    shard_->Give(desc);
    ASSERT_EQ(shard_->Take(), desc);
  }
  shard_->Give(desc);
}

TEST(PollShardOpenTest, RunningOutOfDescriptorsIsAnErrorThatSaysWhichCall) {
  ScriptedCalls calls;
  const Kernel kernel(&calls);
  for (const auto& [op, name] :
       {std::pair(Op::kEpollCreate, "epoll_create1"), std::pair(Op::kEventFd, "eventfd"),
        std::pair(Op::kEpollCtl, "epoll_ctl")}) {
    const PollShard::Shards all;
    PollShard shard(kernel, sched::Host::Real(), 0, all);
    calls.Fail(op, EMFILE);
    const absl::Status opened = shard.Open();
    EXPECT_FALSE(opened.ok());
    EXPECT_EQ(opened.message().find(name), 0u) << opened;
  }
}

// Whose call to watch a descriptor returns late.
class SlowToReturn : public ScriptedCalls {
 public:
  int EpollCtl(int epfd, int operation, int fd, epoll_event* event) override {
    const int result = ScriptedCalls::EpollCtl(epfd, operation, fd, event);
    while (waits && !told.load(std::memory_order_relaxed)) {
    }
    return result;
  }

  bool waits = false;
  std::atomic<bool> told{false};  // relaxed, so that it orders nothing
};

// A thief that is told before the owner's call has returned: nothing but the kernel orders what the
// owner wrote before what it reads, and ThreadSanitizer must know that.
TEST(PollShardThiefTest, FindsWhatTheOwnerMade) {
  SlowToReturn calls;
  const Kernel kernel(&calls);
  PollShard::Shards shards;
  shards.push_back(std::make_unique<PollShard>(kernel, sched::Host::Real(), 0, shards));
  PollShard& shard = *shards.back();
  ASSERT_TRUE(shard.Open().ok());
  calls.waits = true;
  std::thread thief([&] {
    sched::WaiterList ready;
    while (ready.empty()) (void)shard.Poll(ready);
    (void)ready.PopFront();
    calls.told.store(true, std::memory_order_relaxed);
  });
  auto [ours, theirs] = ConnectedPair();
  theirs.Send("x");
  PollDesc& desc = *shard.Take();
  sched::Continuation waiter;
  PollSlot& slot = desc.slot(Direction::kRead);
  EXPECT_FALSE(slot.BeginWait());
  EXPECT_TRUE(slot.Commit(sched::Waiter(&waiter).word()));
  EXPECT_EQ(shard.Register(desc, ours.fd(), Direction::kRead), 0);
  thief.join();
  EXPECT_TRUE(slot.EndWait());
  shard.Give(&desc);
}

}  // namespace
}  // namespace netpoll::internal
