// SPDX-License-Identifier: Apache-2.0
#include "netpoll/listener.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "netpoll/testing/fixture.h"
#include "netpoll/testing/raw_socket.h"
#include "netpoll/testing/scripted_calls.h"
#include "sched/fibers.h"

namespace netpoll {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::StartsWith;

// A folder with a name short enough for a Unix socket.
class ShortFolder {
 public:
  ShortFolder() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
  ~ShortFolder() { std::filesystem::remove_all(path_); }
  std::string File(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_ = "/tmp/netpoll-XXXXXX";
};

Endpoint At(std::string_view text) { return Endpoint::Parse(text).value(); }

// A listening socket of somebody who shares the port.
RawSocket ListenShared() {
  RawSocket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  EXPECT_EQ(::setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), 0);
  const Endpoint any_port = At("127.0.0.1:0");
  EXPECT_EQ(::bind(socket.fd(), any_port.data(), any_port.size()), 0);
  EXPECT_EQ(::listen(socket.fd(), 1), 0);
  return socket;
}

class ListenerTest : public NetpollTest {
 protected:
  void SetUp() override {
    NetpollTest::SetUp();
    Start(&calls_);
  }

  // Accepts one connection, sends it `text` and closes it.
  void Serve(Listener& listener, std::string_view text) {
    Conn conn;
    const IoResult accepted = listener.Accept(conn);
    ASSERT_TRUE(accepted.ok()) << accepted;
    EXPECT_TRUE(conn.Write(BytesOf(text)).ok());
  }

  // A fiber in Accept until that fails.
  void AcceptAll(Listener& listener, IoResult* result) {
    Go(0, [&listener, result] {
      Conn conn;
      while ((*result = listener.Accept(conn)).ok()) {
      }
    });
  }

  absl::StatusOr<std::vector<BoundSocket>> BindTo(const Endpoint& at, int count) {
    return Bind(poller().kernel(), at, count, {});
  }

  void ExpectRefused(const Endpoint& at, int count) {
    const auto bound = BindTo(at, count);
    ASSERT_FALSE(bound.ok());
    EXPECT_THAT(std::string(bound.status().message()), StartsWith(at.ToString() + ": "));
  }

  ScriptedCalls calls_;
};

INSTANTIATE_TEST_SUITE_P(Workers, ListenerTest, testing::Values(1, 2, 8));

// --- Binding.

TEST_P(ListenerTest, EachKindOfAddressAccepts) {
  const ShortFolder folder;
  for (const std::string& at : {std::string("127.0.0.1:0"), std::string("[::1]:0"),
                                "unix:" + folder.File("s"), UniqueUnixName()}) {
    Listener& listener = Listen(at);
    EXPECT_TRUE(listener.at().is_unix() || listener.at().port() != 0);
    RawSocket client = RawSocket::Connect(listener.at());
    On(Elsewhere(), [&] { Serve(listener, "hello"); });
    EXPECT_EQ(client.Receive(5), "hello") << at;
  }
}

TEST_P(ListenerTest, ADualStackListenerAcceptsBothFamilies) {
  Listener& listener = Listen(":0");
  for (const char* address : {"127.0.0.1:1", "[::1]:1"}) {
    RawSocket client = RawSocket::Connect(At(address).WithPort(listener.at().port()));
    On(0, [&] { Serve(listener, "hello"); });
    EXPECT_EQ(client.Receive(5), "hello") << address;
  }
}

TEST_P(ListenerTest, AnIpv6ListenerLeavesIpv4ToOthers) {
  // Another program may have that port; not ten in a row.
  for (int attempt = 0; attempt < 10; ++attempt) {
    Listener& ipv6 = Listen("[::]:0");
    const auto ipv4 = BindTo(At("0.0.0.0:1").WithPort(ipv6.at().port()), 1);
    if (ipv4.ok()) return CloseBound(poller().kernel(), ipv4->front());
  }
  ADD_FAILURE() << "the IPv4 port was never free";
}

TEST_P(ListenerTest, WithoutIpv6DualStackIsEveryIpv4Address) {
  calls_.Fail(Op::kSocket, EAFNOSUPPORT, 2);
  const auto bound = BindTo(At(":0"), 1);
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_EQ(bound->front().at, At("0.0.0.0:1").WithPort(bound->front().at.port()));
  CloseBound(poller().kernel(), bound->front());
}

TEST_P(ListenerTest, AGroupSharesOnePortAndLosesNoConnection) {
  constexpr int kSockets = 4;
  constexpr int kClients = 100;
  const auto bound = BindTo(At("127.0.0.1:0"), kSockets);
  ASSERT_TRUE(bound.ok()) << bound.status();
  ASSERT_EQ(bound->size(), size_t{kSockets});
  std::deque<Listener> listeners;
  std::atomic<int> accepted = 0;
  for (const BoundSocket& socket : *bound) {
    EXPECT_EQ(socket.at, bound->front().at);
    const int worker = static_cast<int>(listeners.size()) % workers();
    On(worker, [&] { listeners.emplace_back(poller(), socket); });
    Go(worker, [&accepted, &listener = listeners.back()] {
      Conn conn;
      while (listener.Accept(conn).ok()) ++accepted;
    });
  }
  std::vector<RawSocket> clients;
  clients.reserve(kClients);
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(RawSocket::Connect(bound->front().at));
  }
  AwaitThat("all to be accepted", [&] { return accepted == kClients; });
  On(0, [&] {
    for (Listener& listener : listeners) listener.Close();
  });
  Join();
  On(0, [&] { listeners.clear(); });
}

TEST_P(ListenerTest, AUnixAddressIsOneSocketHoweverManyAreAskedFor) {
  const auto bound = BindTo(At(UniqueUnixName()), 4);
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_EQ(bound->size(), 1u);
  CloseBound(poller().kernel(), bound->front());
}

TEST_P(ListenerTest, APortInUseIsAnErrorThatNamesIt) {
  const RawSocket other = RawSocket::Listen(At("127.0.0.1:0"));
  ExpectRefused(other.local(), 1);
  ExpectRefused(other.local(), 3);
}

TEST_P(ListenerTest, ASharedPortInUseIsAnErrorToo) {
  const RawSocket other = ListenShared();
  ExpectRefused(other.local(), 1);
  ExpectRefused(other.local(), 3);
}

TEST_P(ListenerTest, AnAddressOfAnotherMachineIsAnErrorThatNamesIt) {
  ExpectRefused(At("192.0.2.1:80"), 1);
}

TEST_P(ListenerTest, AFailedGroupLeavesNoSocket) {
  const int before = OpenDescriptors();
  calls_.Fail(Op::kListen, EADDRINUSE);
  EXPECT_FALSE(BindTo(At("127.0.0.1:0"), 3).ok());
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_P(ListenerTest, AStaleUnixPathIsReplaced) {
  const ShortFolder folder;
  const Endpoint at = At("unix:" + folder.File("s"));
  { const RawSocket gone = RawSocket::Listen(at); }
  Listener& listener = Listen(at.ToString());
  RawSocket client = RawSocket::Connect(at);
  On(0, [&] { Serve(listener, "hello"); });
  EXPECT_EQ(client.Receive(5), "hello");
}

TEST_P(ListenerTest, AUnixPathInUseIsAnErrorThatNamesIt) {
  const ShortFolder folder;
  const RawSocket other = RawSocket::Listen(At("unix:" + folder.File("s")));
  ExpectRefused(other.local(), 1);
  EXPECT_TRUE(RawSocket::Connect(other.local()).valid());
  ExpectRefused(RawSocket::Listen(At(UniqueUnixName())).local(), 1);
}

TEST_P(ListenerTest, AFileThatIsNoSocketIsNotReplaced) {
  const ShortFolder folder;
  std::ofstream(folder.File("s")) << "precious";
  ExpectRefused(At("unix:" + folder.File("s")), 1);
  std::string content;
  std::ifstream(folder.File("s")) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_P(ListenerTest, ClosingRemovesTheUnixPath) {
  const ShortFolder folder;
  Listener& listener = Listen("unix:" + folder.File("s"));
  EXPECT_TRUE(std::filesystem::exists(folder.File("s")));
  On(Elsewhere(), [&] { listener.Close(); });
  EXPECT_FALSE(std::filesystem::exists(folder.File("s")));
}

// --- Accepting.

TEST_P(ListenerTest, AcceptWaitsForAConnection) {
  Listener& listener = Listen("127.0.0.1:0");
  Go(Elsewhere(), [&] { Serve(listener, "hello"); });
  AwaitIdle();
  RawSocket client = RawSocket::Connect(listener.at());
  EXPECT_EQ(client.Receive(5), "hello");
  Join();
}

TEST_P(ListenerTest, TryAcceptSaysAgainInsteadOfWaiting) {
  Listener& listener = Listen("127.0.0.1:0");
  Conn conn;
  On(0, [&] { EXPECT_EQ(listener.TryAccept(conn).status, IoStatus::kAgain); });
  const RawSocket client = RawSocket::Connect(listener.at());
  On(0, [&] {
    EXPECT_TRUE(listener.TryAccept(conn).ok());
    EXPECT_EQ(conn.peer(), client.local());
    conn.Close();
  });
}

TEST_P(ListenerTest, AfterSixteenAcceptsItYields) {
  constexpr int kClients = 3 * Listener::kAcceptsPerTurn;
  Listener& listener = Listen("127.0.0.1:0");
  std::vector<RawSocket> clients;
  clients.reserve(kClients);
  for (int i = 0; i < kClients; ++i) clients.push_back(RawSocket::Connect(listener.at()));
  // Both on one worker for good; what the first sees between two of its turns is one turn.
  std::atomic<int> home = -1;
  std::atomic<int> accepted = 0;
  int most = 0;
  Go(0, [&] {
    const sched::PinToWorker pin;
    home = sched::CurrentWorkerIndex();
    for (int last = 0; last < kClients;) {
      const int now = accepted;
      most = std::max(most, now - last);
      last = now;
      sched::Yield();
    }
  });
  AwaitThat("the watcher", [&] { return home >= 0; });
  ExactlyOn(home, [&] {
    const sched::PinToWorker pin;
    for (Conn conn; accepted < kClients; ++accepted) EXPECT_TRUE(listener.Accept(conn).ok());
  });
  Join();
  EXPECT_EQ(most, Listener::kAcceptsPerTurn);
}

TEST_P(ListenerTest, ConnectionsThatBrokeInTheQueueAreSkipped) {
  Listener& listener = Listen("127.0.0.1:0");
  for (const int error : {ECONNABORTED, EPROTO, ENONET, ENETDOWN, EHOSTUNREACH}) {
    RawSocket client = RawSocket::Connect(listener.at());
    calls_.Fail(Op::kAccept, error, 3);
    On(0, [&] { Serve(listener, "hello"); });
    EXPECT_EQ(client.Receive(5), "hello") << error;
  }
  EXPECT_EQ(listener.stats().pauses, 0);
  EXPECT_EQ(listener.stats().accepted, 5);
}

TEST_P(ListenerTest, AConnectionThatWasResetInTheQueueDoesNotDisturbTheNext) {
  Listener& listener = Listen("127.0.0.1:0");
  RawSocket::Connect(listener.at()).Reset();
  RawSocket client = RawSocket::Connect(listener.at());
  On(0, [&] {
    Conn conn;
    EXPECT_TRUE(listener.Accept(conn).ok());  // Linux hands it out
    std::byte byte;
    EXPECT_EQ(conn.Read({&byte, 1}).status, IoStatus::kReset);
    Serve(listener, "hello");
  });
  EXPECT_EQ(client.Receive(5), "hello");
}

TEST_P(ListenerTest, AnErrorOfItsOwnIsFinal) {
  Listener& listener = Listen("127.0.0.1:0");
  calls_.Fail(Op::kAccept, EINVAL);
  On(0, [&] {
    Conn conn;
    const IoResult result = listener.Accept(conn);
    EXPECT_EQ(result.status, IoStatus::kError);
    EXPECT_EQ(result.os_error, EINVAL);
  });
}

// --- Running out.

TEST_P(ListenerTest, RunningOutIsAPause) {
  Listener& listener = Listen("127.0.0.1:0");
  int64_t pauses = 0;
  for (const int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, EPERM}) {
    RawSocket client = RawSocket::Connect(listener.at());
    calls_.Fail(Op::kAccept, error);
    const sched::Deadline start = Now();
    On(0, [&] { Serve(listener, "hello"); });
    EXPECT_GE(Now(), start + Listener::kPause);
    EXPECT_EQ(client.Receive(5), "hello") << error;
    EXPECT_EQ(listener.stats().pauses, ++pauses) << error;
  }
  EXPECT_EQ(listener.stats().shed, 0);
}

// Whoever else runs out takes the descriptor that shedding frees for a moment.
TEST_P(ListenerTest, AReserveThatWasLostIsOpenedAgain) {
  Listener& listener = Listen("127.0.0.1:0");
  calls_.Fail(Op::kOpenReserve, EMFILE);  // when the first client was shed
  RawSocket shed = RawSocket::Connect(listener.at());
  calls_.Fail(Op::kAccept, EMFILE, 1'000'000);
  Go(0, [&] { Serve(listener, "hello"); });
  AwaitThat("the reserve to be used", [&] { return calls_.count(Op::kOpenReserve) >= 2; });
  calls_.Fail(Op::kAccept, 0, 0);
  EXPECT_EQ(shed.Receive(5), "hello");  // the script let nobody be shed
  Join();
  EXPECT_EQ(calls_.count(Op::kOpenReserve), 3);
}

// epoll may refuse a watch (ENOSPC: fs.epoll.max_user_watches). Then nothing can be waited for but
// time.
TEST_P(ListenerTest, AListenerThatCannotBeWatchedTriesAgain) {
  Listener& listener = Listen("127.0.0.1:0");
  calls_.Fail(Op::kEpollCtl, ENOSPC, 3);
  const int64_t before = calls_.count(Op::kEpollCtl);
  Go(0, [&] { Serve(listener, "hello"); });
  AwaitThat("the refusals", [&] { return calls_.count(Op::kEpollCtl) > before + 3; });
  RawSocket client = RawSocket::Connect(listener.at());
  EXPECT_EQ(client.Receive(5), "hello");
  Join();
  EXPECT_GT(listener.stats().pauses, 0);
}

TEST_P(ListenerTest, ArrivalsDoNotEndAPause) {
  Listener& listener = Listen("127.0.0.1:0");
  calls_.Fail(Op::kAccept, EMFILE);
  const sched::Deadline start = Now();
  Go(0, [&] { Serve(listener, "hello"); });
  std::vector<RawSocket> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(RawSocket::Connect(listener.at()));
    AwaitIdle();
  }
  Join();
  EXPECT_GE(Now(), start + Listener::kPause);
  EXPECT_EQ(listener.stats().pauses, 1);
}

TEST_P(ListenerTest, TryAcceptReportsRunningOut) {
  Listener& listener = Listen("127.0.0.1:0");
  calls_.Fail(Op::kAccept, EMFILE);
  On(0, [&] {
    Conn conn;
    EXPECT_EQ(listener.TryAccept(conn).os_error, EMFILE);
  });
}

// While one exists, the process gets no descriptor with a number that is free now.
class NoMoreDescriptors {
 public:
  NoMoreDescriptors() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const int lowest = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::close(lowest);
    const rlimit none = {.rlim_cur = static_cast<rlim_t>(lowest), .rlim_max = before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoMoreDescriptors() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_;
};

TEST_P(ListenerTest, WhoIsOutForASecondShedsOnTheReserveAndThenRecovers) {
  Listener& listener = Listen("127.0.0.1:0");
  IoResult result;
  std::vector<RawSocket> clients;
  clients.reserve(3);
  for (int i = 0; i < 3; ++i) clients.push_back(RawSocket::Connect(listener.at()));
  {
    const NoMoreDescriptors limit;
    const sched::Deadline start = Now();
    Go(0, [&] {
      for (Conn conn; (result = listener.Accept(conn)).ok();) {
        EXPECT_TRUE(conn.Write(BytesOf("served")).ok());
      }
    });
    for (RawSocket& client : clients) {
      int error;
      EXPECT_EQ(client.ReceiveAll(&error), "");  // closed unserved
      EXPECT_EQ(error, 0);
    }
    // One per pause, the first after kShedAfter.
    EXPECT_GE(Now(), start + Listener::kShedAfter + 2 * Listener::kPause);
  }
  EXPECT_EQ(RawSocket::Connect(listener.at()).Receive(6), "served");
  On(0, [&] { listener.Close(); });
  Join();
  EXPECT_EQ(result.status, IoStatus::kClosed);
  EXPECT_EQ(listener.stats().shed, 3);
  EXPECT_EQ(listener.stats().accepted, 1);
  EXPECT_GE(listener.stats().pauses, 12);
}

// --- Ending.

TEST_P(ListenerTest, StopWaitingEndsAcceptAndTryAcceptDrains) {
  Listener& listener = Listen("127.0.0.1:0");
  IoResult result;
  AcceptAll(listener, &result);
  AwaitIdle();
  On(Elsewhere(), [&] { listener.StopWaiting(); });
  Join();
  EXPECT_EQ(result.status, IoStatus::kTimeout);

  std::vector<RawSocket> clients;
  clients.reserve(40);
  for (int i = 0; i < 40; ++i) clients.push_back(RawSocket::Connect(listener.at()));
  On(0, [&] {
    Conn conn;
    EXPECT_EQ(listener.Accept(conn).status, IoStatus::kTimeout);  // though many wait
    for (size_t i = 0; i < clients.size(); ++i) EXPECT_TRUE(listener.TryAccept(conn).ok());
    EXPECT_EQ(listener.TryAccept(conn).status, IoStatus::kAgain);
  });
}

TEST_P(ListenerTest, StopWaitingAndCloseEndAPause) {
  for (const bool close : {false, true}) {
    Listener& listener = Listen("127.0.0.1:0");
    IoResult result;
    calls_.Fail(Op::kAccept, EMFILE, 1'000'000);
    AcceptAll(listener, &result);
    AwaitIdle();
    On(Elsewhere(), [&] { close ? listener.Close() : listener.StopWaiting(); });
    Join();
    EXPECT_EQ(result.status, close ? IoStatus::kClosed : IoStatus::kTimeout);
    calls_.Fail(Op::kAccept, 0, 0);
  }
}

TEST_P(ListenerTest, CloseWakesABlockedAccept) {
  Listener& listener = Listen("127.0.0.1:0");
  IoResult result;
  AcceptAll(listener, &result);
  AwaitIdle();
  On(Elsewhere(), [&] {
    listener.Close();
    listener.Close();
    Conn conn;
    EXPECT_EQ(listener.Accept(conn).status, IoStatus::kClosed);
    EXPECT_EQ(listener.TryAccept(conn).status, IoStatus::kClosed);
  });
  Join();
  EXPECT_EQ(result.status, IoStatus::kClosed);
}

// The fixture counts PollDescs and descriptors at the end.
TEST_P(ListenerTest, ClosingUnderLoadLosesNothing) {
  for (int turn = 0; turn < 10; ++turn) {
    Listener& listener = Listen("127.0.0.1:0");
    const Endpoint at = listener.at();
    IoResult result;
    AcceptAll(listener, &result);
    std::atomic<int> connected = 0;
    for (int i = 0; i < 8; ++i) {
      Go(i % workers(), [&] {
        Conn conn(poller());
        while (conn.Connect(at, sched::kNever).ok()) ++connected;
      });
    }
    AwaitThat("some connections", [&] { return connected > 50; });
    On(Elsewhere(), [&] { listener.Close(); });
    Join();
    EXPECT_EQ(result.status, IoStatus::kClosed);
  }
}

}  // namespace
}  // namespace netpoll
