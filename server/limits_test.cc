// SPDX-License-Identifier: Apache-2.0
#include "server/limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>

namespace parkway {
namespace {

Config Proxy(int addresses = 1) {
  Config config;
  config.splice_memory = 0;
  config.routes.resize(1);
  config.routes[0].listen.resize(1);
  config.routes[0].listen[0].at.resize(addresses);
  return config;
}

Config Echo() {
  Config config = Proxy();
  config.routes[0].mode = Mode::kEcho;
  return config;
}

TEST(LimitsTest, AProxiedSessionTakesTwoDescriptorsAndEchoOne) {
  EXPECT_EQ(*MaxConns(Echo(), 2, 1024), 1024 - 256);
  EXPECT_EQ(*MaxConns(Proxy(), 2, 1024), (1024 - 256) / 2);
  EXPECT_EQ(*MaxConns(Proxy(), 2, 1'048'576), (1'048'576 - 256) / 2);
}

TEST(LimitsTest, AClientOfATrialRunTakesItsBackendsDescriptorToo) {
  Config trial = Proxy();
  trial.embedded_backends = true;
  EXPECT_EQ(*MaxConns(trial, 2, 1024), (1024 - 256) / 3);
}

TEST(LimitsTest, AtLeastOneSessionIsServed) {
  for (const int64_t descriptors : {0, 3, 255, 256, 257}) {
    EXPECT_EQ(*MaxConns(Proxy(), 2, descriptors), 1) << descriptors;
    EXPECT_EQ(*MaxConns(Echo(), 2, descriptors), 1) << descriptors;
  }
}

TEST(LimitsTest, ManyWorkersAndAddressesNeedMoreThemselves) {
  EXPECT_EQ(ReservedDescriptors(Proxy(), 38), 256);
  EXPECT_EQ(ReservedDescriptors(Proxy(), 128), 64 + 128 * (2 + 3));
  EXPECT_EQ(ReservedDescriptors(Proxy(3), 128), 64 + 128 * (2 + 9));
  Config trial = Proxy();
  trial.embedded_backends = true;
  EXPECT_EQ(ReservedDescriptors(trial, 128), ReservedDescriptors(Proxy(3), 128));
}

TEST(LimitsTest, NamesNeedDescriptorsToBeLookedUp) {
  Config config = Proxy();
  config.routes[0].backends.resize(100);
  for (Backend& backend : config.routes[0].backends) backend.at.resize(1);
  EXPECT_EQ(ReservedDescriptors(config, 128), 64 + 128 * (2 + 3));
  for (int names = 0; names < 2; ++names) {  // however many
    config.routes[0].backends[names].at.clear();
    config.routes[0].backends[names].question.name = "db.example.com";
    EXPECT_EQ(ReservedDescriptors(config, 128), 64 + 128 * (2 + 3) + 3 * 64);
  }
  config.routes[0].options.health = Health::kTcp;
  EXPECT_EQ(ReservedDescriptors(config, 128), 64 + 128 * (2 + 3) + 3 * 64 + 98 + 2 * 64);
}

TEST(LimitsTest, PipesTakeNoMoreThanTheirShareOfTheDescriptors) {
  Config config = Proxy();
  config.splice_memory = size_t{64} << 20;
  EXPECT_EQ(Pipes(config, 20'000), 128);
  EXPECT_EQ(*MaxConns(config, 2, 20'000), (20'000 - 256 - 2 * 128) / 2);
  EXPECT_EQ(Pipes(config, 1024), 16);
  EXPECT_EQ(*MaxConns(config, 2, 1024), (1024 - 256 - 2 * 16) / 2);
  EXPECT_EQ(Pipes(config, 63), 0);
}

TEST(LimitsTest, MaxConnsFollowsFromTheDescriptorsUnlessGiven) {
  Config config = Proxy();
  EXPECT_EQ(*MaxConns(config, 2, 1256), 500);
  config.max_conns = 7;
  EXPECT_EQ(*MaxConns(config, 2, 1256), 7);
  config.max_conns = 500;
  EXPECT_EQ(*MaxConns(config, 2, 1256), 500);
}

TEST(LimitsTest, MaxConnsAboveTheDescriptorsIsRefusedWithTheWayOut) {
  Config config = Proxy();
  config.max_conns = 501;
  const absl::StatusOr<int64_t> refused = MaxConns(config, 2, 1256);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message(),
            "--max_conns=501: the limit of 1256 open files allows 500; raise it (ulimit -n, "
            "LimitNOFILE) or lower the flag");
  config.routes[0].mode = Mode::kEcho;
  EXPECT_EQ(*MaxConns(config, 2, 1256), 501);
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
