// SPDX-License-Identifier: Apache-2.0
#include "server/bandwidth.h"

#include <atomic>
#include <chrono>

#include "gtest/gtest.h"

namespace parkway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const sched::Deadline kStart = sched::FromNs(5'000'000'000);

TEST(BandwidthTest, ALittleAtOnceAndThenAtItsRate) {
  const Bandwidth bandwidth(100'000);
  int64_t due = 0;
  EXPECT_EQ(bandwidth.Charge(5000, kStart, due), milliseconds(0));
  EXPECT_EQ(bandwidth.Charge(1000, kStart, due), milliseconds(10));
  EXPECT_EQ(bandwidth.Charge(1000, kStart + milliseconds(10), due), milliseconds(10));
  EXPECT_EQ(bandwidth.Charge(100'000, kStart + seconds(5), due), milliseconds(950));
}

TEST(BandwidthTest, SharedItIsOneAfterTheOther) {
  const Bandwidth bandwidth(100'000);
  std::atomic<int64_t> due{0};
  EXPECT_EQ(bandwidth.Charge(5000, kStart, due), milliseconds(0));
  EXPECT_EQ(bandwidth.Charge(1000, kStart, due), milliseconds(10));
  EXPECT_EQ(bandwidth.Charge(1000, kStart, due), milliseconds(20));
}

TEST(BandwidthTest, NoLimit) {
  const Bandwidth none(0);
  int64_t due = 0;
  EXPECT_EQ(none.Charge(1 << 30, kStart, due), milliseconds(0));
  EXPECT_EQ(none.Slice(65536), 65536U);
}

TEST(BandwidthTest, SlicesAreTwentyASecond) {
  EXPECT_EQ(Bandwidth(200'000).Slice(65536), 10'000U);
  EXPECT_EQ(Bandwidth(1024).Slice(65536), Bandwidth::kSliceMin);
  EXPECT_EQ(Bandwidth(Bandwidth::kSpliced - 1).Slice(65536), 65535U);
  EXPECT_EQ(Bandwidth(Bandwidth::kSpliced).Slice(65536), 65536U);
}

}  // namespace
}  // namespace parkway
