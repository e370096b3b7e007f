// SPDX-License-Identifier: Apache-2.0
#include "server/served_route.h"

#include <string_view>

#include "gtest/gtest.h"

namespace parkway {
namespace {

// Of a route that serves nobody here.
class NoOwner final : public RouteOwner {
  netpoll::Poller& poller() override { __builtin_trap(); }
  void Report(const std::string& /*line*/) override {}
  void EndSessionsOf(const Upstream& /*upstream*/) override {}
};

netpoll::CompactEndpoint At(std::string_view text) {
  return netpoll::CompactEndpoint(*netpoll::Endpoint::Parse(text));
}

TEST(ServedRouteTest, ServesTheClientsItIsFor) {
  NoOwner owner;
  Route config;
  EXPECT_TRUE(ServedRoute(config, owner, 1, nullptr).Serves(netpoll::CompactEndpoint()));
  config.from = {*Cidr::Parse("10.0.0.0/8"), *Cidr::Parse("::1")};
  const ServedRoute route(config, owner, 1, nullptr);
  EXPECT_TRUE(route.Serves(At("10.1.2.3:5")));
  EXPECT_TRUE(route.Serves(At("[::1]:5")));
  EXPECT_FALSE(route.Serves(At("11.1.2.3:5")));
  EXPECT_FALSE(route.Serves(netpoll::CompactEndpoint()));
}

}  // namespace
}  // namespace parkway
