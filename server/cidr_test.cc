// SPDX-License-Identifier: Apache-2.0
#include "server/cidr.h"

#include "gtest/gtest.h"

namespace parkway {
namespace {

Cidr Good(std::string_view text) {
  const absl::StatusOr<Cidr> cidr = Cidr::Parse(text);
  EXPECT_TRUE(cidr.ok()) << text << ": " << cidr.status();
  return cidr.ok() ? *cidr : Cidr();
}

bool Holds(std::string_view block, std::string_view endpoint) {
  return Good(block).Contains(*netpoll::Endpoint::Parse(endpoint));
}

TEST(CidrTest, HoldsWhatLiesInIt) {
  EXPECT_TRUE(Holds("10.0.0.0/8", "10.255.1.2:80"));
  EXPECT_FALSE(Holds("10.0.0.0/8", "11.0.0.0:80"));
  EXPECT_TRUE(Holds("10.1.2.128/25", "10.1.2.129:1"));
  EXPECT_FALSE(Holds("10.1.2.128/25", "10.1.2.127:1"));
  EXPECT_TRUE(Holds("192.0.2.1", "192.0.2.1:5"));
  EXPECT_FALSE(Holds("192.0.2.1", "192.0.2.2:5"));
  EXPECT_TRUE(Holds("2001:db8::/33", "[2001:db8:7fff::1]:80"));
  EXPECT_FALSE(Holds("2001:db8::/33", "[2001:db8:8000::1]:80"));
  EXPECT_TRUE(Holds("::1", "[::1]:80"));
}

TEST(CidrTest, AClientOfADualStackListenerIsIPv4) {
  EXPECT_TRUE(Holds("10.0.0.0/8", "[::ffff:10.0.0.1]:80"));
  EXPECT_TRUE(Holds("0.0.0.0/0", "[::ffff:10.0.0.1]:80"));
  EXPECT_FALSE(Holds("::/0", "[::ffff:10.0.0.1]:80"));
}

TEST(CidrTest, TheFamiliesAreApart) {
  EXPECT_TRUE(Holds("0.0.0.0/0", "1.2.3.4:5"));
  EXPECT_FALSE(Holds("0.0.0.0/0", "[2001:db8::1]:5"));
  EXPECT_TRUE(Holds("::/0", "[2001:db8::1]:5"));
  EXPECT_FALSE(Holds("::/0", "1.2.3.4:5"));
  EXPECT_FALSE(Holds("0.0.0.0/0", "unix:/a"));
  EXPECT_FALSE(Holds("::/0", "unix:/a"));
}

TEST(CidrTest, PrintsWhatItReads) {
  for (const char* const text :
       {"10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0", "::1/128"}) {
    EXPECT_EQ(Good(text).ToString(), text);
  }
  EXPECT_EQ(Good("192.0.2.1").ToString(), "192.0.2.1/32");
  EXPECT_EQ(Good("::1").ToString(), "::1/128");
}

TEST(CidrTest, RefusesTheRest) {
  const std::pair<std::string_view, std::string_view> table[] = {
      {"", "not an address; write for example 10.0.0.0/8 or ::1"},
      {"10.0.0/8", "not an address; write for example 10.0.0.0/8 or ::1"},
      {"localhost", "not an address; write for example 10.0.0.0/8 or ::1"},
      {"10.0.0.0:80", "not an address; write for example 10.0.0.0/8 or ::1"},
      {std::string_view("::1\0x", 5), "not an address; write for example 10.0.0.0/8 or ::1"},
      {"10.0.0.0/", "the prefix must be 0 to 32"},
      {"10.0.0.0/33", "the prefix must be 0 to 32"},
      {"10.0.0.0/08", "the prefix must be 0 to 32"},
      {"10.0.0.0/-1", "the prefix must be 0 to 32"},
      {"10.0.0.0/8/8", "the prefix must be 0 to 32"},
      {"::/129", "the prefix must be 0 to 128"},
      {"10.0.0.1/8", "has bits beyond its prefix; widen the prefix or clear them"},
      {"2001:db8::1/32", "has bits beyond its prefix; widen the prefix or clear them"},
      {"::ffff:10.0.0.1", "write it as IPv4"},
  };
  for (const auto& [text, problem] : table) {
    EXPECT_EQ(std::string(Cidr::Parse(text).status().message()), problem) << text;
  }
}

}  // namespace
}  // namespace parkway
