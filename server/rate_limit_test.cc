// SPDX-License-Identifier: Apache-2.0
#include "server/rate_limit.h"

#include <chrono>

#include "gtest/gtest.h"

namespace parkway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const sched::Deadline kStart = sched::FromNs(5'000'000'000);

int TakenAt(RateLimit& limit, sched::Deadline now, int tries) {
  int taken = 0;
  for (int i = 0; i < tries; ++i) taken += limit.Take(now) ? 1 : 0;
  return taken;
}

TEST(RateLimitTest, ASecondsWorthAtOnceAndThenOneByOne) {
  RateLimit limit(10);
  EXPECT_EQ(TakenAt(limit, kStart, 100), 10);
  EXPECT_EQ(TakenAt(limit, kStart + milliseconds(99), 5), 0);
  EXPECT_EQ(TakenAt(limit, kStart + milliseconds(100), 5), 1);
  EXPECT_EQ(TakenAt(limit, kStart + milliseconds(550), 9), 4);
  EXPECT_EQ(TakenAt(limit, kStart + seconds(60), 100), 10);  // no more are saved up
}

TEST(RateLimitTest, NoLimit) {
  EXPECT_FALSE(RateLimit(0).is_set());
  EXPECT_TRUE(RateLimit(1).is_set());
}

TEST(RateLimitTest, OneASecond) {
  RateLimit limit(1);
  EXPECT_EQ(TakenAt(limit, kStart, 3), 1);
  EXPECT_EQ(TakenAt(limit, kStart + milliseconds(999), 3), 0);
  EXPECT_EQ(TakenAt(limit, kStart + seconds(1), 3), 1);
}

TEST(RateLimitTest, SaysWhenTheNextMayCome) {
  RateLimit limit(4);
  EXPECT_EQ(limit.When(kStart), kStart);
  EXPECT_EQ(TakenAt(limit, kStart, 4), 4);
  EXPECT_EQ(limit.When(kStart), kStart + milliseconds(250));
  limit.GiveBack();
  EXPECT_EQ(TakenAt(limit, kStart, 4), 1);
}

}  // namespace
}  // namespace parkway
