// SPDX-License-Identifier: Apache-2.0
//
// What a request and a short connection ask of the system, call by call: the real server and the
// real kernel, with a counter between them. A change that adds a call fails here.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "netpoll/endpoint.h"
#include "netpoll/testing/raw_socket.h"
#include "netpoll/testing/scripted_calls.h"
#include "server/config.h"
#include "server/server.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using netpoll::Op;
using netpoll::RawSocket;

constexpr int kTimes = 50;
// A wait may begin before it is looked at, and another be counted after.
constexpr double kPending = 1.0 / kTimes;
// Of a whole connection: how many events come at once is chance.
constexpr double kWaits = 9;

class SyscallBudgetTest : public testing::Test {
 protected:
  void TearDown() override {
    if (server_ == nullptr) return;
    server_->RequestStop();
    running_.join();
  }

  void Start(bool echo, const RouteOptions& options = RouteOptions()) {
    Config config;
    Route route = {.name = "tested", .listen = {{"", {*Endpoint::Parse("127.0.0.1:0")}}}};
    route.options = options;
    route.mode = echo ? Mode::kEcho : Mode::kProxy;
    if (!echo) route.backends = {{.at = {backend_.local()}}};
    config.routes = {route};
    config.workers = 1;
    config.memory_budget = kNoMemoryBudget;
    config.spin = config.stall_report = std::chrono::nanoseconds(0);
    Platform platform;
    platform.simulated = &calls_;
    auto started = Server::Start(config, platform);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    running_ = std::thread([this] { server_->Run(); });
  }

  RawSocket Connect() const {
    const std::string banner = server_->Banner();
    const std::string before = "listening on ";
    const size_t from = banner.find(before) + before.size();
    return RawSocket::Connect(
        *Endpoint::Parse(banner.substr(from, banner.find('\n', from) - from)));
  }

  static void Exchange(RawSocket& client, RawSocket& server) {
    client.Send("ping");
    EXPECT_EQ(server.Receive(4), "ping");
    server.Send("pong");
    EXPECT_EQ(client.Receive(4), "pong");
  }
  static void Exchange(RawSocket& client) {
    client.Send("ping");
    EXPECT_EQ(client.Receive(4), "ping");
  }

  void AwaitNoSessions() const {
    for (int i = 0; i < 10'000 && server_->sessions() > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // tidy: a thread's, not a fiber's
    }
    ASSERT_EQ(server_->sessions(), 0);
  }

  // How often `act` made the server call each, per time; those that wait are asked for apart.
  template <class Act>
  std::map<Op, double> PerTime(Act act) {
    for (int i = 0; i < 3; ++i) act();  // registers, allocates, wakes
    std::map<Op, int64_t> before;
    for (int op = 0; op < static_cast<int>(Op::kCount); ++op) {
      before[static_cast<Op>(op)] = calls_.count(static_cast<Op>(op));
    }
    for (int i = 0; i < kTimes; ++i) act();
    std::map<Op, double> spent;
    for (const auto& [op, count] : before) {
      const auto more = static_cast<double>(calls_.count(op) - count);
      if (more > 0) spent[op] = more / kTimes;
    }
    return spent;
  }

  // No call but these, and none more often.
  static void ExpectWithin(const std::map<Op, double>& spent, const std::map<Op, double>& allowed) {
    for (const auto& [op, count] : spent) {
      const auto most = allowed.find(op);
      EXPECT_LE(count, most == allowed.end() ? 0 : most->second)
          << "operation " << static_cast<int>(op);
    }
  }

  netpoll::ScriptedCalls calls_;
  RawSocket backend_ = RawSocket::Listen(*Endpoint::Parse("127.0.0.1:0"));
  std::unique_ptr<Server> server_;
  std::thread running_;
};

TEST_F(SyscallBudgetTest, AnEcho) {
  Start(/*echo=*/true);
  RawSocket client = Connect();
  ExpectWithin(PerTime([&] { Exchange(client); }),
               {{Op::kRecv, 1}, {Op::kSend, 1}, {Op::kEpollWait, 1 + kPending}});
  client.Close();
  AwaitNoSessions();
}

TEST_F(SyscallBudgetTest, AProxiedRequest) {
  Start(/*echo=*/false);
  RawSocket client = Connect();
  RawSocket server = backend_.Accept();
  ExpectWithin(PerTime([&] { Exchange(client, server); }),
               {{Op::kRecv, 2}, {Op::kSend, 2}, {Op::kEpollWait, 2 + kPending}});
  client.Close();
  server.Close();
  AwaitNoSessions();
}

// Accepting ends with EAGAIN, reading may begin with it, and ends with the FIN.
TEST_F(SyscallBudgetTest, AConnectionForOneEcho) {
  Start(/*echo=*/true);
  const auto spent = PerTime([&] {
    RawSocket client = Connect();
    Exchange(client);
    client.ShutdownWrite();
    int error = 0;
    EXPECT_EQ(client.ReceiveAll(&error), "");
    EXPECT_EQ(error, 0);
    AwaitNoSessions();
  });
  ExpectWithin(spent, {{Op::kAccept, 2},
                       {Op::kRecv, 3},
                       {Op::kSend, 1},
                       {Op::kEpollCtl, 1},
                       {Op::kClose, 1},
                       {Op::kEpollWait, kWaits}});
}

TEST_F(SyscallBudgetTest, AProxiedConnectionThatItsClientFinishes) {
  Start(/*echo=*/false);
  const auto spent = PerTime([&] {
    RawSocket client = Connect();
    RawSocket server = backend_.Accept();
    Exchange(client, server);
    client.ShutdownWrite();
    int error = 0;
    EXPECT_EQ(server.ReceiveAll(&error), "");
    EXPECT_EQ(error, 0);
    server.ShutdownWrite();
    EXPECT_EQ(client.ReceiveAll(&error), "");
    EXPECT_EQ(error, 0);
    AwaitNoSessions();
  });
  ExpectWithin(spent, {{Op::kAccept, 2},
                       {Op::kSocket, 1},
                       {Op::kSetSockOpt, 1},  // no delay
                       {Op::kConnect, 1},
                       {Op::kRecv, 5},
                       {Op::kSend, 2},
                       {Op::kEpollCtl, 2},
                       {Op::kShutdown, 1},
                       {Op::kClose, 2},
                       {Op::kEpollWait, kWaits}});
}

// The header is looked at and taken, and one is sent.
TEST_F(SyscallBudgetTest, AConnectionWithAHeaderOnBothSides) {
  Start(/*echo=*/false, {.accept_proxy = AcceptProxy::kV1,
                         .trusted = *BlockList::Parse("127.0.0.1"),
                         .send_proxy = SendProxy::kV1});
  const std::string header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
  const auto spent = PerTime([&] {
    RawSocket client = Connect();
    client.Send(header);
    RawSocket server = backend_.Accept();
    EXPECT_EQ(server.Receive(header.size()), header);
    Exchange(client, server);
    client.ShutdownWrite();
    int error = 0;
    EXPECT_EQ(server.ReceiveAll(&error), "");
    server.ShutdownWrite();
    EXPECT_EQ(client.ReceiveAll(&error), "");
    AwaitNoSessions();
  });
  ExpectWithin(spent, {{Op::kAccept, 2},
                       {Op::kSocket, 1},
                       {Op::kSetSockOpt, 1},  // no delay
                       {Op::kConnect, 1},
                       {Op::kRecv, 8},  // the first may find that the header is not there yet
                       {Op::kSend, 3},
                       {Op::kEpollCtl, 2},
                       {Op::kShutdown, 1},
                       {Op::kClose, 2},
                       {Op::kEpollWait, kWaits}});
}

TEST_F(SyscallBudgetTest, AProxiedConnectionThatItsClientResets) {
  Start(/*echo=*/false);
  const auto spent = PerTime([&] {
    RawSocket client = Connect();
    RawSocket server = backend_.Accept();
    Exchange(client, server);
    client.Reset();
    int error = 0;
    EXPECT_EQ(server.ReceiveAll(&error), "");
    EXPECT_EQ(error, ECONNRESET);
    AwaitNoSessions();
  });
  ExpectWithin(spent, {{Op::kAccept, 2},
                       {Op::kSocket, 1},
                       {Op::kSetSockOpt, 2},  // no delay; close with a reset
                       {Op::kConnect, 1},
                       {Op::kRecv, 4},
                       {Op::kSend, 2},
                       {Op::kEpollCtl, 2},
                       {Op::kIoctl, 1},  // whether all that came before the reset was taken
                       {Op::kClose, 2},
                       {Op::kEpollWait, kWaits}});
}

}  // namespace
}  // namespace parkway
