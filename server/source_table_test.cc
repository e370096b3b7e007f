// SPDX-License-Identifier: Apache-2.0
#include "server/source_table.h"

#include <chrono>
#include <string>

#include "gtest/gtest.h"

namespace parkway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const sched::Deadline kStart = sched::FromNs(5'000'000'000);

netpoll::CompactEndpoint At(const std::string& text) {
  return netpoll::CompactEndpoint(*netpoll::Endpoint::Parse(text));
}
netpoll::CompactEndpoint Source(unsigned number) {
  return At("10." + std::to_string(number >> 16) + "." + std::to_string(number >> 8 & 255) + "." +
            std::to_string(number & 255) + ":1");
}

EndReason Enter(SourceTable& table, const std::string& text, sched::Deadline now = kStart) {
  return table.Enter(At(text), now);
}

TEST(SourceTableTest, SoManyOfEachSource) {
  SourceTable table(2, 0, /*seed=*/7);
  EXPECT_EQ(Enter(table, "10.0.0.1:1"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:2"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:3"), EndReason::kSourceTooMany);
  EXPECT_EQ(Enter(table, "10.0.0.2:3"), EndReason::kNone);
  table.Leave(At("10.0.0.1:1"));
  EXPECT_EQ(Enter(table, "10.0.0.1:4"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:5"), EndReason::kSourceTooMany);
}

TEST(SourceTableTest, SoFastOfEachSource) {
  SourceTable table(0, 2, /*seed=*/7);
  for (const EndReason expected : {EndReason::kNone, EndReason::kNone, EndReason::kSourceTooFast}) {
    EXPECT_EQ(Enter(table, "10.0.0.1:1"), expected);
    if (expected == EndReason::kNone) table.Leave(At("10.0.0.1:1"));
  }
  EXPECT_EQ(Enter(table, "10.0.0.2:1"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:1", kStart + milliseconds(499)), EndReason::kSourceTooFast);
  EXPECT_EQ(Enter(table, "10.0.0.1:1", kStart + milliseconds(500)), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:1", kStart + seconds(9)), EndReason::kNone);
}

TEST(SourceTableTest, WhoIsUnheardTakesOnlyWhatIsLeft) {
  SourceTable table(2, 0, /*seed=*/7);
  const auto client = At("10.0.0.1:1");
  EXPECT_EQ(table.EnterUnheard(client), EndReason::kNone);
  EXPECT_EQ(table.EnterUnheard(client), EndReason::kNone);
  EXPECT_EQ(table.EnterUnheard(client), EndReason::kSourceTooMany);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(table.Enter(client, kStart), EndReason::kNone);
  EXPECT_EQ(table.Enter(client, kStart), EndReason::kSourceTooMany);
  for (int i = 0; i < 3; ++i) table.LeaveUnheard(client);
  EXPECT_EQ(table.EnterUnheard(client), EndReason::kSourceTooMany);
  table.Leave(client);
  EXPECT_EQ(table.EnterUnheard(client), EndReason::kNone);
}

TEST(SourceTableTest, WhoIsUnheardUsesNothingOfTheRate) {
  SourceTable table(0, 1, /*seed=*/7);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(table.EnterUnheard(At("10.0.0.1:1")), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:2"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "10.0.0.1:3"), EndReason::kSourceTooFast);
}

TEST(SourceTableTest, ASourceIsAnAddressOrANetworkOf64Bits) {
  SourceTable table(1, 0, /*seed=*/7);
  EXPECT_EQ(Enter(table, "[2001:db8:0:1::1]:1"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "[2001:db8:0:1:ffff::2]:1"), EndReason::kSourceTooMany);
  EXPECT_EQ(Enter(table, "[2001:db8:0:2::1]:1"), EndReason::kNone);
  // The same client over a dual-stack socket.
  EXPECT_EQ(Enter(table, "10.0.0.1:1"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "[::ffff:10.0.0.1]:2"), EndReason::kSourceTooMany);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Enter(table, "unix:@a"), EndReason::kNone);
}

TEST(SourceTableTest, WhenFullNewSourcesAreNotLimited) {
  SourceTable table(1, 0, /*seed=*/7);
  constexpr unsigned kMany = 4 * SourceTable::kSources;
  for (unsigned i = 0; i < kMany; ++i) ASSERT_EQ(table.Enter(Source(i), kStart), EndReason::kNone);
  unsigned limited = 0;
  for (unsigned i = 0; i < kMany; ++i) {
    if (table.Enter(Source(i), kStart) != EndReason::kNone) ++limited;
  }
  EXPECT_EQ(limited, SourceTable::kSources);  // a set is full when it has four times its room
  // Its room comes back.
  for (unsigned i = 0; i < kMany; ++i) table.Leave(Source(i));
  EXPECT_EQ(Enter(table, "192.0.2.1:1"), EndReason::kNone);
  EXPECT_EQ(Enter(table, "192.0.2.1:1"), EndReason::kSourceTooMany);
}

// One that would have to wait long is remembered, others make room.
TEST(SourceTableTest, WhoCameTooFastIsRemembered) {
  SourceTable table(0, 1, /*seed=*/7);
  EXPECT_EQ(Enter(table, "192.0.2.1:1"), EndReason::kNone);
  table.Leave(At("192.0.2.1:1"));
  for (unsigned i = 0; i < 4 * SourceTable::kSources; ++i) {
    (void)table.Enter(Source(i), kStart - seconds(2));
    table.Leave(Source(i));
  }
  EXPECT_EQ(Enter(table, "192.0.2.1:1"), EndReason::kSourceTooFast);
}

}  // namespace
}  // namespace parkway
