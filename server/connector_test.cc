// SPDX-License-Identifier: Apache-2.0
#include "server/connector.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "netpoll/testing/fixture.h"
#include "netpoll/testing/scripted_calls.h"

namespace parkway {
namespace {

using netpoll::Conn;
using netpoll::Endpoint;
using netpoll::IoResult;
using netpoll::Op;
using netpoll::RawSocket;

Endpoint From(const char* text) { return *Endpoint::ParseAddress(text); }

class ConnectorTest : public netpoll::NetpollTest {
 protected:
  void SetUp() override {
    NetpollTest::SetUp();
    Start(&calls_);
  }

  // The address from which the backend is connected to; empty: it is not, for want of one.
  std::string Connect(Connector& connector, const RawSocket& backend,
                      const netpoll::CompactEndpoint& client = netpoll::CompactEndpoint()) {
    std::string source;
    On(0, [&] {
      Conn conn(poller());
      const IoResult result = connector.Connect(
          conn, backend.local(), sched::Now() + netpoll::kAtOnce, {.client = client});
      if (result.ok()) source = conn.local().AddressToString();
      EXPECT_EQ(result.os_error, result.ok() ? 0 : EADDRNOTAVAIL);
    });
    return source;
  }

  netpoll::ScriptedCalls calls_;
  RawSocket backend_ = RawSocket::Listen(*Endpoint::Parse("127.0.0.1:0"));
  RawSocket backend6_ = RawSocket::Listen(*Endpoint::Parse("[::1]:0"));
};

INSTANTIATE_TEST_SUITE_P(Workers, ConnectorTest, testing::Values(1, 2));

TEST_P(ConnectorTest, SourcesOfTheBackendsFamilyTakeTurns) {
  Connector connector({.source = {From("127.0.0.2"), From("::1"), From("127.0.0.3")}});
  const std::string first = Connect(connector, backend_);
  const std::string second = Connect(connector, backend_);
  EXPECT_EQ((std::set<std::string>{first, second}),
            (std::set<std::string>{"127.0.0.2", "127.0.0.3"}));
  EXPECT_EQ(Connect(connector, backend_), first);
  EXPECT_EQ(Connect(connector, backend6_), "::1");
}

TEST_P(ConnectorTest, WithoutASourceOfItsFamilyTheKernelChooses) {
  Connector connector({.source = {From("127.0.0.2")}});
  EXPECT_EQ(Connect(connector, backend6_), "::1");
}

TEST_P(ConnectorTest, ASourceWithoutAPortIsPassedOver) {
  Connector connector({.source = {From("127.0.0.2"), From("127.0.0.3"), From("127.0.0.4")}});
  std::set<std::string> seen;
  for (int i = 0; i < 3; ++i) {
    calls_.Fail(Op::kConnect, EADDRNOTAVAIL, 2);
    seen.insert(Connect(connector, backend_));
  }
  EXPECT_EQ(seen, (std::set<std::string>{"127.0.0.2", "127.0.0.3", "127.0.0.4"}));
  // An address that went away has none either.
  calls_.Fail(Op::kBind, EADDRNOTAVAIL);
  EXPECT_NE(Connect(connector, backend_), "");
}

TEST_P(ConnectorTest, EachIsTriedOnce) {
  Connector connector({.source = {From("127.0.0.2"), From("127.0.0.3")}});
  calls_.Fail(Op::kConnect, EADDRNOTAVAIL, 2);
  EXPECT_EQ(Connect(connector, backend_), "");
  EXPECT_EQ(calls_.count(Op::kConnect), 2);
  Connector without((RouteOptions()));
  calls_.Fail(Op::kConnect, EADDRNOTAVAIL);
  EXPECT_EQ(Connect(without, backend_), "");
  EXPECT_EQ(calls_.count(Op::kConnect), 3);
}

TEST_P(ConnectorTest, TheSourceMayBeTheClients) {
  const Route route = {.allow_dst = *Destinations::Parse("::/0")};
  Connector connector({.source_is_client = true});
  const absl::Status granted = connector.Check(poller().kernel(), route);
  if (!granted.ok()) GTEST_SKIP() << granted;
  const auto client = [](const char* text) {
    return netpoll::CompactEndpoint(*Endpoint::Parse(text));
  };
  EXPECT_EQ(Connect(connector, backend_, client("127.0.0.9:80")), "127.0.0.9");
  EXPECT_EQ(Connect(connector, backend6_, client("[::1]:80")), "::1");
  EXPECT_EQ(Connect(connector, backend_, client("[::ffff:127.0.0.8]:80")), "127.0.0.8");
  // Of another family, or nobody's: a check, or who came over a Unix socket.
  EXPECT_EQ(Connect(connector, backend6_, client("127.0.0.9:80")), "::1");
  EXPECT_EQ(Connect(connector, backend_, client("[::1]:80")), "127.0.0.1");
  EXPECT_EQ(Connect(connector, backend_, client("unix:/a")), "127.0.0.1");
  // Nor can a connection come from there to here.
  EXPECT_EQ(Connect(connector, backend_, client("169.254.1.1:80")), "127.0.0.1");
  EXPECT_EQ(Connect(connector, backend6_, client("[fe80::1%1]:80")), "::1");
  EXPECT_EQ(Connect(connector, backend_), "127.0.0.1");
}

TEST_P(ConnectorTest, WhatTheMachineRefusesIsSaidBefore) {
  Route route = {.backends = {{.text = "", .at = {backend_.local()}}}};
  const auto problem = [&](const RouteOptions& options) {
    return std::string(Connector(options).Check(poller().kernel(), route).message());
  };
  EXPECT_EQ(problem({}), "");
  EXPECT_EQ(problem({.source = {From("127.0.0.2"), From("::1")}}), "");
  EXPECT_EQ(problem({.source = {From("127.0.0.2"), From("192.0.2.1")}}),
            "source=192.0.2.1: not an address of this machine");
  calls_.Fail(Op::kSetSockOpt, EPERM);
  EXPECT_EQ(problem({.mark = 5}), "mark=5: needs CAP_NET_ADMIN");
  calls_.Fail(Op::kSetSockOpt, EPERM);
  EXPECT_EQ(problem({.source_is_client = true}),
            "source=client: needs CAP_NET_RAW or CAP_NET_ADMIN");
  // It is not known where clients are going: both families are asked for.
  route = {.allow_dst = *Destinations::Parse("10.0.0.0/8")};
  EXPECT_EQ(problem({.source = {From("2001:db8::1")}}),
            "source=2001:db8::1: not an address of this machine");
}

}  // namespace
}  // namespace parkway
