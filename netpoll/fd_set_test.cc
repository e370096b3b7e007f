// SPDX-License-Identifier: Apache-2.0
#include "netpoll/fd_set.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <set>

#include "netpoll/testing/fixture.h"
#include "netpoll/testing/raw_socket.h"
#include "sched/fibers.h"

namespace netpoll {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

class FdSetTest : public NetpollTest {
 protected:
  struct Pair {
    RawSocket ours;
    RawSocket peer;
  };
  static Pair NewPair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    return {RawSocket(fds[0]), RawSocket(fds[1])};
  }
};

INSTANTIATE_TEST_SUITE_P(Workers, FdSetTest, testing::Values(1, 2));

TEST_P(FdSetTest, TellsWhichOfSeveralIsReadable) {
  Pair a = NewPair();
  Pair b = NewPair();
  IoResult result;
  int fd = -1;
  bool writable = true;
  Go(0, [&] {
    FdSet set(poller());
    ASSERT_EQ(set.Watch(a.ours.fd(), true, false), 0);
    ASSERT_EQ(set.Watch(b.ours.fd(), true, false), 0);
    std::span<const FdSet::Ready> ready;
    result = set.Await(sched::kNever, &ready);
    ASSERT_EQ(ready.size(), 1u);
    fd = ready[0].fd;
    writable = ready[0].writable;
  });
  AwaitIdle();
  b.peer.Send("x");
  Join();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(fd, b.ours.fd());
  EXPECT_FALSE(writable);
}

TEST_P(FdSetTest, TellsAgainOfWhatWasNotRead) {
  Pair a = NewPair();
  a.peer.Send("x");
  On(0, [&] {
    FdSet set(poller());
    ASSERT_EQ(set.Watch(a.ours.fd(), true, false), 0);
    std::span<const FdSet::Ready> ready;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(set.Await(sched::kNever, &ready).ok());
      EXPECT_EQ(ready.size(), 1u);
    }
    EXPECT_EQ(a.ours.ReceiveSome(), "x");
    EXPECT_EQ(set.Await(sched::Now() + 10ms, &ready).status, IoStatus::kTimeout);
  });
}

TEST_P(FdSetTest, WakesAgainAndAgain) {
  constexpr int kRounds = 200;
  Pair a = NewPair();
  Pair b = NewPair();
  std::atomic<int> got{0};
  Go(0, [&] {
    FdSet set(poller());
    ASSERT_EQ(set.Watch(a.ours.fd(), true, false), 0);
    ASSERT_EQ(set.Watch(b.ours.fd(), true, false), 0);
    std::span<const FdSet::Ready> ready;
    while (got.load() < kRounds) {
      ASSERT_TRUE(set.Await(sched::Now() + kAtOnce, &ready).ok());
      for (const FdSet::Ready& one : ready) {
        RawSocket& socket = one.fd == a.ours.fd() ? a.ours : b.ours;
        if (socket.ReceiveSome() == "x") ++got;
      }
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    (i % 2 == 0 ? a : b).peer.Send("x");
    AwaitThat("it was read", [&] { return got.load() > i; });
  }
  Join();
}

TEST_P(FdSetTest, WatchingChangesAndEnds) {
  Pair a = NewPair();
  a.peer.Send("x");
  On(0, [&] {
    FdSet set(poller());
    std::span<const FdSet::Ready> ready;
    ASSERT_EQ(set.Watch(a.ours.fd(), false, true), 0);
    ASSERT_TRUE(set.Await(sched::kNever, &ready).ok());
    EXPECT_TRUE(ready[0].writable);
    EXPECT_FALSE(ready[0].readable);
    ASSERT_EQ(set.Watch(a.ours.fd(), false, false), 0);
    EXPECT_EQ(set.Await(sched::Now() + 10ms, &ready).status, IoStatus::kTimeout);
    EXPECT_EQ(set.Watch(a.ours.fd(), false, false), 0);  // it is not there any more
  });
}

TEST_P(FdSetTest, ADescriptorThatIsClosedIsForgotten) {
  Pair a = NewPair();
  a.peer.Send("x");
  On(0, [&] {
    FdSet set(poller());
    ASSERT_EQ(set.Watch(a.ours.fd(), true, false), 0);
    a.ours.Close();
    std::span<const FdSet::Ready> ready;
    EXPECT_EQ(set.Await(sched::Now() + 10ms, &ready).status, IoStatus::kTimeout);
  });
}

}  // namespace
}  // namespace netpoll
