// SPDX-License-Identifier: Apache-2.0
#include "server/limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>

namespace parkway {
namespace {

TEST(LimitsTest, AProxiedSessionTakesTwoDescriptorsAndEchoOne) {
  EXPECT_EQ(SessionsFor(1024, Mode::kEcho), 1024 - kReservedDescriptors);
  EXPECT_EQ(SessionsFor(1024, Mode::kProxy), (1024 - kReservedDescriptors) / 2);
  EXPECT_EQ(SessionsFor(1'048'576, Mode::kProxy), (1'048'576 - kReservedDescriptors) / 2);
}

TEST(LimitsTest, AtLeastOneSessionIsServed) {
  for (const int64_t descriptors : {0, 3, 255, 256, 257}) {
    EXPECT_EQ(SessionsFor(descriptors, Mode::kProxy), 1) << descriptors;
    EXPECT_EQ(SessionsFor(descriptors, Mode::kEcho), 1) << descriptors;
  }
}

TEST(LimitsTest, MaxConnsFollowsFromTheDescriptorsUnlessGiven) {
  Config config;
  EXPECT_EQ(*MaxConns(config, 1256), 500);
  config.max_conns = 7;
  EXPECT_EQ(*MaxConns(config, 1256), 7);
  config.max_conns = 500;
  EXPECT_EQ(*MaxConns(config, 1256), 500);
}

TEST(LimitsTest, MaxConnsAboveTheDescriptorsIsRefusedWithTheWayOut) {
  Config config;
  config.max_conns = 501;
  const absl::StatusOr<int64_t> refused = MaxConns(config, 1256);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message(),
            "--max_conns=501: the limit of 1256 open files allows 500; raise it (ulimit -n, "
            "LimitNOFILE) or lower the flag");
  config.mode = Mode::kEcho;
  EXPECT_EQ(*MaxConns(config, 1256), 501);
}

TEST(LimitsTest, RaisesTheSoftLimitToTheHardOne) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const int64_t raised = RaiseDescriptorLimit();
  rlimit after = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  EXPECT_EQ(static_cast<rlim_t>(raised), after.rlim_cur);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace parkway
