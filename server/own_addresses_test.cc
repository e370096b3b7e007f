// SPDX-License-Identifier: Apache-2.0
#include "server/own_addresses.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "netpoll/endpoint.h"
#include "netpoll/local_address.h"
#include "netpoll/testing/scripted_calls.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using netpoll::Kernel;
using netpoll::Op;

class OwnAddressesTest : public testing::Test {
 protected:
  void Own(const std::vector<std::string>& texts) {
    std::vector<Endpoint> addresses;
    addresses.reserve(texts.size());
    for (const std::string& text : texts) addresses.push_back(*Endpoint::Parse(text));
    own_.Set(addresses);
  }
  bool Has(const std::string& text) { return own_.Has(*Endpoint::Parse(text)); }

  netpoll::ScriptedCalls calls_;
  OwnAddresses own_{Kernel(&calls_)};
};

TEST_F(OwnAddressesTest, AnAddressIsOne) {
  EXPECT_FALSE(Has("127.0.0.1:80"));
  Own({"127.0.0.1:80", "[::1]:81", "unix:/a"});
  EXPECT_TRUE(Has("127.0.0.1:80"));
  EXPECT_TRUE(Has("[::1]:81"));
  EXPECT_FALSE(Has("127.0.0.1:81"));
  EXPECT_FALSE(Has("127.0.0.2:80"));
  EXPECT_FALSE(Has("[::1]:80"));
  Own({});
  EXPECT_FALSE(Has("127.0.0.1:80"));
  EXPECT_EQ(calls_.count(Op::kSocket), 0);
}

TEST_F(OwnAddressesTest, AWildcardStandsForAddressesOfThisMachine) {
  Own({"0.0.0.0:80", "[::]:81", ":82"});
  EXPECT_TRUE(Has("127.0.0.7:80"));
  EXPECT_TRUE(Has("[::1]:81"));
  EXPECT_TRUE(Has("127.0.0.1:82"));
  EXPECT_TRUE(Has("[::1]:82"));
  EXPECT_FALSE(Has("192.0.2.1:80"));
  EXPECT_FALSE(Has("[2001:db8::1]:81"));
  EXPECT_FALSE(Has("192.0.2.1:82"));
  EXPECT_FALSE(Has("127.0.0.1:81"));  // IPv6 alone
  EXPECT_FALSE(Has("[::1]:80"));
}

TEST_F(OwnAddressesTest, TheKernelIsAskedOnlyWhereThePortIsOne) {
  Own({":80", "127.0.0.1:81"});
  EXPECT_FALSE(Has("192.0.2.1:443"));
  EXPECT_FALSE(Has("192.0.2.1:81"));
  EXPECT_EQ(calls_.count(Op::kSocket), 0);
  EXPECT_FALSE(Has("192.0.2.1:80"));
  EXPECT_EQ(calls_.count(Op::kSocket), 1);
  EXPECT_EQ(calls_.count(Op::kClose), 1);
}

TEST_F(OwnAddressesTest, WhoCannotBeAskedCountsAsLocal) {
  Own({":80"});
  calls_.Fail(Op::kSocket, EMFILE);
  EXPECT_TRUE(Has("192.0.2.1:80"));
  EXPECT_FALSE(Has("192.0.2.1:80"));
  calls_.Fail(Op::kBind, EACCES);
  EXPECT_TRUE(Has("192.0.2.1:80"));
}

}  // namespace
}  // namespace parkway
