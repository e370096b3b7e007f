// SPDX-License-Identifier: Apache-2.0
#include "netpoll/socket_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <string>

#include "netpoll/listener.h"
#include "netpoll/testing/raw_socket.h"
#include "netpoll/testing/scripted_calls.h"

namespace netpoll {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

int Option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  EXPECT_EQ(Kernel().GetSockOpt(fd, level, name, &value, &size), 0) << name;
  return value;
}

std::string Congestion(int fd) {
  char name[16] = {};
  socklen_t size = sizeof name;
  EXPECT_EQ(Kernel().GetSockOpt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size), 0);
  return name;
}

bool MayMark() {
  const RawSocket socket(Kernel().Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return SetSocketOptions(Kernel(), socket.fd(), {.mark = 1}) == 0;
}

SocketOptions All() {
  return {.keepalive_idle = 70s,
          .user_timeout = 5s,
          .congestion = "reno",  // which every kernel has
          .mark = MayMark() ? 77u : 0,
          .rcvbuf = 100'000,
          .sndbuf = 90'000};
}

void ExpectAll(int fd) {
  EXPECT_EQ(Option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(Option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 70);
  EXPECT_EQ(Option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 15);
  EXPECT_EQ(Option(fd, IPPROTO_TCP, TCP_KEEPCNT), 4);
  EXPECT_EQ(Option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 5000);
  EXPECT_EQ(Congestion(fd), "reno");
  EXPECT_EQ(Option(fd, SOL_SOCKET, SO_MARK), MayMark() ? 77 : 0);
  EXPECT_EQ(Option(fd, SOL_SOCKET, SO_RCVBUF), 200'000);  // the kernel doubles it
  EXPECT_EQ(Option(fd, SOL_SOCKET, SO_SNDBUF), 180'000);
}

class SocketOptionsTest : public testing::Test {
 protected:
  absl::Status Check(const ConnectOptions& options, int family = AF_INET) {
    return CheckConnectOptions(Kernel(&calls_), family, options);
  }
  std::string Problem(const ConnectOptions& options, int family = AF_INET) {
    return std::string(Check(options, family).message());
  }

  ScriptedCalls calls_;
};

TEST_F(SocketOptionsTest, WhatIsNotSetCostsNoCall) {
  EXPECT_TRUE(Check({}).ok());
  EXPECT_EQ(calls_.count(Op::kSetSockOpt), 0);
  EXPECT_EQ(calls_.count(Op::kBind), 0);
}

TEST_F(SocketOptionsTest, AllAreSet) {
  const RawSocket socket(Kernel().Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(SetSocketOptions(Kernel(), socket.fd(), All()), 0);
  ExpectAll(socket.fd());
}

TEST_F(SocketOptionsTest, AcceptedConnectionsInheritAll) {
  for (const char* at : {"127.0.0.1:0", "[::1]:0"}) {
    const auto bound = Bind(Kernel(), *Endpoint::Parse(at), 1, {.socket = All()});
    ASSERT_TRUE(bound.ok()) << bound.status();
    RawSocket listener(bound->front().fd);
    const RawSocket client = RawSocket::Connect(bound->front().at);
    const RawSocket server = listener.Accept();
    ASSERT_TRUE(server.valid());
    ExpectAll(server.fd());
    EXPECT_EQ(Option(server.fd(), IPPROTO_TCP, TCP_NODELAY), 1);
  }
}

TEST_F(SocketOptionsTest, OfAListenerAlone) {
  const auto bound =
      Bind(Kernel(), *Endpoint::Parse("127.0.0.1:0"), 1, {.fastopen = 12, .defer_accept = 3s});
  ASSERT_TRUE(bound.ok()) << bound.status();
  const RawSocket listener(bound->front().fd);
  EXPECT_EQ(Option(listener.fd(), IPPROTO_TCP, TCP_FASTOPEN), 12);
  EXPECT_GE(Option(listener.fd(), IPPROTO_TCP, TCP_DEFER_ACCEPT), 3);
}

TEST_F(SocketOptionsTest, ARefusalNamesOptionValueAndReason) {
  EXPECT_THAT(Problem({.socket = {.congestion = "none_such"}}),
              StartsWith("congestion=none_such: the kernel has no such algorithm"));
  EXPECT_EQ(Problem({.socket = {.rcvbuf = 1 << 30}}),
            "rcvbuf=1073741824B: more than net.core.rmem_max");
  EXPECT_EQ(Problem({.socket = {.sndbuf = 1 << 30}}),
            "sndbuf=1073741824B: more than net.core.wmem_max");
  calls_.Fail(Op::kSetSockOpt, EPERM);
  EXPECT_EQ(Problem({.socket = {.mark = 7}}), "mark=7: needs CAP_NET_ADMIN");
  calls_.Fail(Op::kSetSockOpt, EPERM);
  EXPECT_THAT(Problem({.socket = {.congestion = "reno"}}),
              HasSubstr("net.ipv4.tcp_allowed_congestion_control"));
  calls_.Fail(Op::kSetSockOpt, ENOPROTOOPT);
  EXPECT_EQ(Problem({.socket = {.user_timeout = 1500ms}}),
            "user_timeout=1500ms: Protocol not available");
}

TEST_F(SocketOptionsTest, ASourceIsAnAddressOfThisMachine) {
  const auto from = [](const char* text) {
    return ConnectOptions{.source = *Endpoint::ParseAddress(text)};
  };
  EXPECT_TRUE(Check(from("127.0.0.7")).ok());
  EXPECT_TRUE(Check(from("::1"), AF_INET6).ok());
  EXPECT_EQ(Problem(from("192.0.2.1")), "source=192.0.2.1: not an address of this machine");
  EXPECT_EQ(Problem(from("2001:db8::1"), AF_INET6),
            "source=2001:db8::1: not an address of this machine");
}

// IP_TRANSPARENT.
TEST_F(SocketOptionsTest, WithTheRightItConnectsFromAnybodysAddress) {
  for (const char* text : {"192.0.2.1", "2001:db8::1"}) {
    const Endpoint source = *Endpoint::ParseAddress(text);
    const RawSocket socket(Kernel().Socket(source.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (SetTransparent(Kernel(), socket.fd()) == -EPERM) GTEST_SKIP() << "needs CAP_NET_RAW";
    EXPECT_EQ(SetConnectOptions(Kernel(), socket.fd(), {.source = source, .transparent = true}), 0);
    EXPECT_EQ(socket.local().AddressToString(), text);
    EXPECT_TRUE(Check({.transparent = true}, source.family()).ok());
  }
}

TEST_F(SocketOptionsTest, WithoutTheRightItSaysSo) {
  calls_.Fail(Op::kSetSockOpt, EPERM);
  EXPECT_EQ(Problem({.transparent = true}), "source=client: needs CAP_NET_RAW or CAP_NET_ADMIN");
  calls_.Fail(Op::kSetSockOpt, ENOPROTOOPT);
  EXPECT_EQ(Problem({.transparent = true}), "source=client: Protocol not available");
}

TEST_F(SocketOptionsTest, ATransparentListener) {
  for (const char* text : {"127.0.0.1:0", "[::1]:0", ":0"}) {
    const Endpoint at = *Endpoint::Parse(text);
    const auto bound = Bind(Kernel(), at, 1, {.transparent = true});
    if (absl::IsPermissionDenied(bound.status())) GTEST_SKIP() << bound.status();
    ASSERT_TRUE(bound.ok()) << bound.status();
    const RawSocket listener(bound->front().fd);
    EXPECT_EQ(Option(listener.fd(), IPPROTO_IP, IP_TRANSPARENT), 1);
  }
  class NotTransparent : public ScriptedCalls {
    int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) override {
      if (level == IPPROTO_IP && name == IP_TRANSPARENT) return -EPERM;
      return ScriptedCalls::SetSockOpt(fd, level, name, value, size);
    }
  } refusing;
  const Endpoint at = *Endpoint::Parse("127.0.0.1:0");
  EXPECT_EQ(std::string(Bind(Kernel(&refusing), at, 1, {.transparent = true}).status().message()),
            "127.0.0.1:0: transparent=true: needs CAP_NET_RAW or CAP_NET_ADMIN");
}

TEST_F(SocketOptionsTest, AListenerSaysWhatItIsRefused) {
  const Endpoint at = *Endpoint::Parse("127.0.0.1:0");
  EXPECT_THAT(
      std::string(
          Bind(Kernel(), at, 1, {.socket = {.congestion = "none_such"}}).status().message()),
      StartsWith("127.0.0.1:0: congestion=none_such: the kernel has no such algorithm"));
  calls_.Fail(Op::kSocket, ENOPROTOOPT);
  EXPECT_EQ(std::string(Bind(Kernel(&calls_), at, 1, {.mptcp = true}).status().message()),
            "127.0.0.1:0: mptcp=true: the kernel has none, or net.mptcp.enabled is 0");
}

}  // namespace
}  // namespace netpoll
