// SPDX-License-Identifier: Apache-2.0
#include "server/destinations.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "netpoll/endpoint.h"

namespace parkway {
namespace {

using netpoll::Endpoint;

Destinations Allowing(const std::string& text) {
  const absl::StatusOr<Destinations> parsed = Destinations::Parse(text);
  EXPECT_TRUE(parsed.ok()) << text << ": " << parsed.status();
  return parsed.value_or(Destinations());
}

bool Allows(const std::string& list, const std::string& to) {
  return Allowing(list).Allow(*Endpoint::Parse(to));
}

TEST(DestinationsTest, WhatIsListedIsAllowed) {
  EXPECT_TRUE(Allows("10.0.0.0/8,2001:db8::/32", "10.1.2.3:80"));
  EXPECT_TRUE(Allows("10.0.0.0/8,2001:db8::/32", "[2001:db8::1]:80"));
  EXPECT_FALSE(Allows("10.0.0.0/8,2001:db8::/32", "11.1.2.3:80"));
  EXPECT_FALSE(Allows("10.0.0.0/8,2001:db8::/32", "[2001:db9::1]:80"));
  EXPECT_FALSE(Allows("0.0.0.0/0", "[2001:db8::1]:80"));
  EXPECT_FALSE(Allows("::/0", "10.1.2.3:80"));
}

// The blocks that nobody means who allows everything.
TEST(DestinationsTest, SpecialAddressesMustBeListedThemselves) {
  const std::pair<const char*, const char*> specials[] = {
      {"127.0.0.1:80", "127.0.0.0/8"},
      {"127.255.0.9:80", "127.255.0.0/16"},
      {"169.254.169.254:80", "169.254.0.0/16"},
      {"0.0.0.0:80", "0.0.0.0"},
      {"0.1.2.3:80", "0.0.0.0/8"},
      {"224.0.0.1:80", "224.0.0.0/4"},
      {"255.255.255.255:80", "255.255.255.255"},
      {"[::1]:80", "::1"},
      {"[::]:80", "::"},
      {"[::7f00:1]:80", "::/96"},
      {"[fe80::1%1]:80", "fe80::/10"},
      {"[ff02::1]:80", "ff00::/8"},
      {"100.100.100.200:80", "100.100.100.200"},
      {"[fd00:ec2::254]:80", "fd00:ec2::254"},
      {"[fd20:ce::254]:80", "fd20:ce::254"},
      // NAT64 makes IPv4 addresses of them.
      {"[64:ff9b::a9fe:a9fe]:80", "169.254.169.254"},
      {"[64:ff9b::7f00:1]:80", "127.0.0.0/8"},
  };
  for (const auto& [to, block] : specials) {
    EXPECT_FALSE(Allows("0.0.0.0/0,::/0", to)) << to;
    EXPECT_TRUE(Allows(block, to)) << to;
    EXPECT_TRUE(Allows(std::string("0.0.0.0/0,::/0,") + block, to)) << to;
  }
  // Next to them.
  for (const char* to : {"126.255.255.255:80", "128.0.0.0:80", "169.253.255.255:80", "1.0.0.0:80",
                         "223.255.255.255:80", "255.255.255.254:80", "[::1:0:1]:80",
                         "[64:ff9b::a00:1]:80", "[64:ff9b:0:1::7f00:1]:80"}) {
    EXPECT_TRUE(Allows("0.0.0.0/0,::/0", to)) << to;
  }
}

TEST(DestinationsTest, AWiderBlockDoesNotListASpecialOne) {
  EXPECT_FALSE(Allows("126.0.0.0/7", "127.0.0.1:80"));
  EXPECT_TRUE(Allows("126.0.0.0/7", "126.0.0.1:80"));
  EXPECT_FALSE(Allows("::/95", "[::1]:80"));
  EXPECT_FALSE(Allows("127.0.0.2", "127.0.0.1:80"));
}

TEST(DestinationsTest, AMappedAddressIsTheIPv4One) {
  EXPECT_FALSE(Allows("0.0.0.0/0,::/0", "[::ffff:127.0.0.1]:80"));
  EXPECT_TRUE(Allows("127.0.0.1", "[::ffff:127.0.0.1]:80"));
  EXPECT_TRUE(Allows("10.0.0.0/8", "[::ffff:10.0.0.1]:80"));
  EXPECT_FALSE(Allows("::/0", "[::ffff:10.0.0.1]:80"));
}

TEST(DestinationsTest, NothingElseIsADestination) {
  EXPECT_FALSE(Allows("0.0.0.0/0,::/0", "unix:/a"));
  EXPECT_FALSE(Allowing("0.0.0.0/0,::/0").Allow(Endpoint()));
  EXPECT_FALSE(Destinations().Allow(*Endpoint::Parse("10.0.0.1:80")));
}

TEST(DestinationsTest, IsReadAndPrinted) {
  EXPECT_EQ(Allowing("10.0.0.0/8,::1").text(), "10.0.0.0/8,::1/128");
  EXPECT_TRUE(Destinations().empty());
  EXPECT_FALSE(Allowing("::1").empty());
  EXPECT_EQ(Destinations::Parse("").status().message(), "names no block; 0.0.0.0/0,::/0 are all");
  EXPECT_EQ(Destinations::Parse("::1,").status().message(),
            "\"\": not an address; write for example 10.0.0.0/8 or ::1");
}

// A reload compares routes.
TEST(DestinationsTest, ListsAreEqualThatAllowTheSame) {
  EXPECT_EQ(Allowing("10.0.0.0/8"), Allowing("10.0.0.0/8"));
  EXPECT_FALSE(Allowing("10.0.0.0/8") == Allowing("10.0.0.0/9"));
  EXPECT_FALSE(Allowing("10.0.0.0/8") == Destinations());
  EXPECT_EQ(Destinations(), Destinations());
  const std::string path = testing::TempDir() + "destinations";
  const auto from_file = [&](const char* text) {
    std::ofstream(path) << text;
    return Allowing("@" + path);
  };
  const Destinations all = from_file("0.0.0.0/0\n");
  EXPECT_EQ(all, from_file("0.0.0.0/0\n10.0.0.1  # of no consequence\n"));
  EXPECT_FALSE(all == from_file("0.0.0.0/0\n127.0.0.1\n"));  // the same addresses, but explicitly
  EXPECT_FALSE(from_file("").Allow(*Endpoint::Parse("10.0.0.1:80")));
}

}  // namespace
}  // namespace parkway
