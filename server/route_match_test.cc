// SPDX-License-Identifier: Apache-2.0
#include "server/route_match.h"

#include <string>

#include "gtest/gtest.h"

namespace parkway {
namespace {

netpoll::CompactEndpoint At(const char* text) {
  return netpoll::CompactEndpoint(*netpoll::Endpoint::Parse(text));
}

const netpoll::CompactEndpoint kClient = At("10.1.2.3:4");

bool ServesName(const Route& route, const std::string& name) {
  return Serves(route, kClient, {.server_name = name});
}

TEST(RouteMatchTest, WithoutConditionsItServesAll) {
  EXPECT_TRUE(Serves(Route(), kClient, ClientHello()));
  EXPECT_TRUE(Serves(Route(), At("unix:@a"), ClientHello()));
  EXPECT_TRUE(ServesName(Route(), "a.example"));
}

TEST(RouteMatchTest, ByAddress) {
  const Route route = {.from = {*Cidr::Parse("10.0.0.0/8"), *Cidr::Parse("::1")}};
  EXPECT_TRUE(Serves(route, kClient, ClientHello()));
  EXPECT_TRUE(Serves(route, At("[::1]:1"), ClientHello()));
  EXPECT_FALSE(Serves(route, At("11.0.0.1:1"), ClientHello()));
  EXPECT_FALSE(Serves(route, At("unix:@a"), ClientHello()));
}

TEST(RouteMatchTest, ByName) {
  const Route route = {.sni = {"a.example", "*.b.example"}};
  for (const char* const name : {"a.example", "x.b.example", "y.x.b.example"}) {
    EXPECT_TRUE(ServesName(route, name)) << name;
  }
  for (const char* const name :
       {"", "b.example", ".b.example", "xb.example", "x.a.example", "a.example.com", "example"}) {
    EXPECT_FALSE(ServesName(route, name)) << name;
  }
}

TEST(RouteMatchTest, ByProtocol) {
  const Route route = {.alpn = {"h2", "http/1.1"}};
  const auto serves = [&](const std::vector<std::string>& offered) {
    return Serves(route, kClient, {.server_name = "a", .protocols = offered});
  };
  EXPECT_TRUE(serves({"h3", "h2"}));
  EXPECT_TRUE(serves({"http/1.1"}));
  EXPECT_FALSE(serves({}));
  EXPECT_FALSE(serves({"h", "H2"}));
}

TEST(RouteMatchTest, AllConditionsHaveToHold) {
  const Route route = {.from = {*Cidr::Parse("10.0.0.0/8")}, .sni = {"a"}, .alpn = {"h2"}};
  const ClientHello hello = {.server_name = "a", .protocols = {"h2"}};
  EXPECT_TRUE(Serves(route, kClient, hello));
  EXPECT_FALSE(Serves(route, At("11.0.0.1:1"), hello));
  EXPECT_FALSE(Serves(route, kClient, {.server_name = "b", .protocols = {"h2"}}));
  EXPECT_FALSE(Serves(route, kClient, {.server_name = "a"}));
}

TEST(RouteMatchTest, WhatConnectsToItself) {
  struct Case {
    const char* listen;
    const char* backend;
    bool connects;
    bool if_local;
  };
  for (const Case& it : {Case{"10.0.0.1:80", "10.0.0.1:80", true, false},
                         {"10.0.0.1:80", "10.0.0.2:80", false, false},
                         {":80", "127.0.0.1:80", true, true},
                         {":80", "[::1]:80", true, true},
                         {":80", "10.0.0.1:80", false, true},
                         {":80", "10.0.0.1:81", false, false},
                         {":80", "127.0.0.1:81", false, false},
                         {"0.0.0.0:80", "10.0.0.1:80", false, true},
                         {"0.0.0.0:80", "[2001:db8::1]:80", false, false},
                         {"[::]:80", "[2001:db8::1]:80", false, true},
                         {"[::]:80", "10.0.0.1:80", false, false},
                         {"unix:/a", "10.0.0.1:80", false, false},
                         {"unix:/a", "unix:/a", true, false},
                         {":80", "unix:/a", false, false}}) {
    Route route;
    route.listen.push_back({it.listen, {*netpoll::Endpoint::Parse(it.listen)}});
    const netpoll::Endpoint backend = *netpoll::Endpoint::Parse(it.backend);
    EXPECT_EQ(ConnectsTo(backend, route), it.connects) << it.listen << " " << it.backend;
    EXPECT_EQ(ConnectsIfLocal(backend, route), it.if_local) << it.listen << " " << it.backend;
  }
}

}  // namespace
}  // namespace parkway
