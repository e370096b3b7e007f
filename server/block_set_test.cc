// SPDX-License-Identifier: Apache-2.0
#include "server/block_set.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace parkway {
namespace {

netpoll::Endpoint At(const std::string& text) { return *netpoll::Endpoint::ParseAddress(text); }

std::string Problem(const std::string& text) {
  return std::string(BlockList::Parse(text).status().message());
}

std::vector<Cidr> Blocks(std::string_view text) {
  std::vector<Cidr> blocks;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    blocks.push_back(*Cidr::Parse(part));
    text.remove_prefix(std::min(part.size() + 1, text.size()));
  }
  return blocks;
}

TEST(BlockListTest, ReadsBlocks) {
  const BlockList list = *BlockList::Parse("10.0.0.0/8,::1,192.0.2.1");
  EXPECT_EQ(list.text, "10.0.0.0/8,::1/128,192.0.2.1/32");
  EXPECT_EQ(*list.set, BlockSet(Blocks("10.0.0.0/8,::1,192.0.2.1")));
  EXPECT_EQ(*BlockList::Parse(list.text), list);
  EXPECT_TRUE(BlockList::Parse("")->empty());
}

TEST(BlockListTest, ReadsFiles) {
  const std::string path = testing::TempDir() + "blocks";
  std::ofstream(path) << "# our own\n10.0.0.0/8\n\n  ::1\t# loopback\n192.0.2.1";
  const BlockList list = *BlockList::Parse("172.16.0.0/12,@" + path);
  EXPECT_EQ(list.text, "172.16.0.0/12,@" + path);
  EXPECT_EQ(*list.set, BlockSet(Blocks("172.16.0.0/12,10.0.0.0/8,::1,192.0.2.1")));
  std::ofstream(path) << "10.0.0.0/9\n";
  EXPECT_NE(*BlockList::Parse(list.text), list);
  std::ofstream(path) << "10.0.0.0/8\n10.0.0.1/8\n";
  EXPECT_EQ(Problem("@" + path),
            path + ":2: has bits beyond its prefix; widen the prefix or clear them");
  std::ofstream(path) << "";
  EXPECT_FALSE(BlockList::Parse("@" + path)->empty());  // it lets nobody pass
  std::remove(path.c_str());
}

TEST(BlockListTest, AnErrorNamesThePart) {
  EXPECT_EQ(Problem("::1,,::2"), "\"\": not an address; write for example 10.0.0.0/8 or ::1");
  EXPECT_EQ(Problem("10.0.0.0/33"), "10.0.0.0/33: the prefix must be 0 to 32");
  EXPECT_EQ(Problem("@"), "@: No such file or directory");
  std::string many = "::1";
  for (size_t i = 1; i < kInlineBlocksMax; ++i) many += ",::1";
  EXPECT_EQ(Problem(many), "");
  EXPECT_EQ(Problem(many + ",::1"), "more than 1024 blocks; write them into a file, @PATH");
}

TEST(BlockSetTest, BlocksWithinOthers) {
  const BlockSet set(Blocks("10.1.0.0/16,10.0.0.0/8,10.0.0.0/8,10.255.255.255,11.0.0.0/16"));
  for (const char* const in : {"10.0.0.0", "10.1.2.3", "10.2.0.0", "10.255.255.255", "11.0.9.9"}) {
    EXPECT_TRUE(set.Contains(At(in))) << in;
  }
  for (const char* const out : {"9.255.255.255", "11.1.0.0", "::a00:1"}) {
    EXPECT_FALSE(set.Contains(At(out))) << out;
  }
  EXPECT_FALSE(set.Contains(*netpoll::Endpoint::Parse("unix:/a")));
  EXPECT_FALSE(BlockSet({}).Contains(At("10.0.0.1")));
}

TEST(BlockSetTest, FamiliesAreApart) {
  EXPECT_FALSE(BlockSet(Blocks("::/0")).Contains(At("10.0.0.1")));
  EXPECT_FALSE(BlockSet(Blocks("0.0.0.0/0")).Contains(At("::1")));
  const BlockSet both(Blocks("::/0,0.0.0.0/0"));
  EXPECT_TRUE(both.Contains(At("10.0.0.1")));
  EXPECT_TRUE(both.Contains(At("2001:db8::1")));
}

// As one block after the other says.
TEST(BlockSetTest, AgreesWithALinearSearch) {
  std::mt19937 dice(1);  // tidy: a test's own, with a fixed seed
  for (int round = 0; round < 200; ++round) {
    std::string text;
    for (int i = 0; i < 20; ++i) {
      const unsigned prefix = 20 + dice() % 13;
      const unsigned address = dice() % 65536 >> (32 - prefix) << (32 - prefix);
      text += (text.empty() ? "10.0." : ",10.0.") + std::to_string(address >> 8) + "." +
              std::to_string(address & 255) + "/" + std::to_string(prefix);
    }
    const std::vector<Cidr> blocks = Blocks(text);
    const BlockSet set(blocks);
    for (int i = 0; i < 200; ++i) {
      const unsigned number = dice() % 65536;
      const netpoll::Endpoint at =
          At("10.0." + std::to_string(number >> 8) + "." + std::to_string(number & 255));
      const bool expected = std::any_of(blocks.begin(), blocks.end(),
                                        [&](const Cidr& block) { return block.Contains(at); });
      ASSERT_EQ(set.Contains(at), expected) << at.AddressToString() << " in " << text;
    }
  }
}

}  // namespace
}  // namespace parkway
