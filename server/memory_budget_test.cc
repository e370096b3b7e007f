// SPDX-License-Identifier: Apache-2.0
#include "server/memory_budget.h"

#include <gtest/gtest.h>

#include <string>

#include "server/config.h"

namespace parkway {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kMiB = 1 << 20;

class FakeMeter : public MemoryMeter {
 public:
  int64_t GroupLimit() const override { return limit; }
  int64_t GroupUsed(int64_t enough_in) const override {
    enough = enough_in;
    return ++asked, used_by_group;
  }
  int64_t OwnUsed() const override { return ++asked, used; }

  int64_t limit = 0;
  int64_t used = 0;
  int64_t used_by_group = 0;
  mutable int64_t enough = -1;
  mutable int asked = 0;
};

class MemoryBudgetTest : public testing::Test {
 protected:
  MemoryBudget Make(size_t setting) {
    return MemoryBudget(setting, &meter_,
                        [this](const std::string& line) { said_ += line + "\n"; });
  }
  // At that many milliseconds.
  static bool Admits(MemoryBudget& budget, int ms) {
    return budget.Admits(sched::FromNs(0) + milliseconds(ms));
  }

  FakeMeter meter_;
  std::string said_;
};

TEST_F(MemoryBudgetTest, OfTheGroupItIs90PercentOfItsLimit) {
  EXPECT_FALSE(Make(kMemoryBudgetOfGroup).is_set());
  meter_.limit = 100 * kMiB;
  EXPECT_EQ(Make(kMemoryBudgetOfGroup).bytes(), 90 * kMiB);
  EXPECT_EQ(Make(5 * kMiB).bytes(), 5 * kMiB);
  EXPECT_FALSE(Make(kNoMemoryBudget).is_set());
}

TEST_F(MemoryBudgetTest, OfTheGroupItIsWhatTheGroupUsesThatCounts) {
  meter_.limit = 100 * kMiB;
  meter_.used = 99 * kMiB;
  MemoryBudget budget = Make(kMemoryBudgetOfGroup);
  EXPECT_TRUE(Admits(budget, 0));
  EXPECT_EQ(meter_.enough, 90 * kMiB / 100 * 95);  // where clients are let in again
  meter_.used_by_group = 91 * kMiB;
  EXPECT_FALSE(Admits(budget, 100));
}

TEST_F(MemoryBudgetTest, BeyondItNobodyIsLetInUntil95PercentOfIt) {
  MemoryBudget budget = Make(100 * kMiB);
  meter_.used = 100 * kMiB;
  EXPECT_TRUE(Admits(budget, 0));
  meter_.used = 101 * kMiB;
  EXPECT_FALSE(Admits(budget, 100));
  meter_.used = 95 * kMiB;
  EXPECT_FALSE(Admits(budget, 200));
  meter_.used = 94 * kMiB;
  EXPECT_TRUE(Admits(budget, 300));
  meter_.used = 100 * kMiB;
  EXPECT_TRUE(Admits(budget, 400));
}

TEST_F(MemoryBudgetTest, ItIsLookedAtNowAndThen) {
  MemoryBudget budget = Make(100 * kMiB);
  EXPECT_EQ(meter_.asked, 0);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(Admits(budget, i));
  EXPECT_EQ(meter_.asked, 1);
  EXPECT_TRUE(Admits(budget, 100));
  EXPECT_EQ(meter_.asked, 2);
  // Of a storm every 64th client.
  for (int i = 0; i < 640; ++i) EXPECT_TRUE(Admits(budget, 101));
  EXPECT_EQ(meter_.asked, 12);
}

TEST_F(MemoryBudgetTest, TheOperatorIsToldOnceASecondAndInPairs) {
  MemoryBudget budget = Make(100 * kMiB);
  int at = 0;
  const auto use = [&](int64_t mib) {
    meter_.used = mib * kMiB;
    (void)Admits(budget, at += 100);
  };
  use(120);
  use(130);
  EXPECT_EQ(said_,
            "no new clients for now: 120MiB of memory in use, the budget is 100MiB (1 times so "
            "far)\n");
  use(50);
  EXPECT_EQ(said_.substr(said_.find('\n') + 1),
            "new clients again: 50MiB of memory in use, the budget is 100MiB\n");
  said_.clear();
  use(120);
  use(50);
  EXPECT_EQ(said_, "");
  at += 1000;
  use(120);
  EXPECT_EQ(said_,
            "no new clients for now: 120MiB of memory in use, the budget is 100MiB (3 times so "
            "far)\n");
}

}  // namespace
}  // namespace parkway
