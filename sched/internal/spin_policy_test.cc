// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/spin_policy.h"

#include <gtest/gtest.h>

#include <array>

namespace sched::internal {
namespace {

constexpr int64_t kMost = 50'000;
constexpr int64_t kSoon = 20'000;

class SpinPolicyTest : public testing::Test {
 protected:
  // As many waits as make a streak, each with one of the waiters, in turn.
  void MakeStreak(int waiters, int64_t waited = kSoon) {
    for (int i = 0; i < SpinPolicy::kStreak + waiters; ++i) {
      policy_.Slept(Waiter(&continuations_[i % waiters]), waited);
    }
  }
  bool Pays() const { return policy_.Pays(/*now=*/0); }

  std::array<Continuation, 3> continuations_;
  SpinPolicy policy_{kMost};
};

TEST_F(SpinPolicyTest, PaysForALoneConnectionAndForBothItsDirections) {
  EXPECT_FALSE(Pays());
  MakeStreak(1);
  EXPECT_TRUE(Pays());
  policy_ = SpinPolicy(kMost);
  MakeStreak(2);
  EXPECT_TRUE(Pays());
}

TEST_F(SpinPolicyTest, NotForMore) {
  MakeStreak(3);
  EXPECT_FALSE(Pays());
}

TEST_F(SpinPolicyTest, NotForOneThatIsSlowerThanSpinningMayTake) {
  MakeStreak(1, 2 * kMost + 1);
  EXPECT_FALSE(Pays());
}

TEST_F(SpinPolicyTest, EndsWithASpinInVain) {
  MakeStreak(1);
  policy_.Spun(Waiter(&continuations_[0]), kMost);
  EXPECT_TRUE(Pays());
  policy_.Spun(Waiter(), kMost);
  EXPECT_FALSE(Pays());
}

TEST_F(SpinPolicyTest, EndsWithAWaitThatBroughtSeveralOrNothing) {
  MakeStreak(1);
  policy_.Slept(Waiter(), kSoon);
  EXPECT_FALSE(Pays());
}

TEST_F(SpinPolicyTest, PausesWhileOthersNeedTheCpu) {
  MakeStreak(1);
  constexpr int64_t kNow = 1'000'000;
  EXPECT_TRUE(policy_.GoesOn(SpinPolicy::kInterruptedNs, kNow));
  EXPECT_TRUE(policy_.Pays(kNow));
  EXPECT_FALSE(policy_.GoesOn(SpinPolicy::kInterruptedNs + 1, kNow));
  EXPECT_FALSE(policy_.Pays(kNow + SpinPolicy::kPauseNs - 1));
  EXPECT_TRUE(policy_.Pays(kNow + SpinPolicy::kPauseNs));
}

TEST_F(SpinPolicyTest, NeverWithoutTimeForIt) {
  policy_ = SpinPolicy(0);
  MakeStreak(1, 0);
  EXPECT_FALSE(Pays());
}

}  // namespace
}  // namespace sched::internal
