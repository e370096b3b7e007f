// SPDX-License-Identifier: Apache-2.0
#include "server/served_route.h"

#include <cmath>
#include <map>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parkway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RotationTest, EqualWeightsFollowOneAnother) {
  EXPECT_THAT(Rotation({1, 1, 1}), ElementsAre(0, 1, 2));
  EXPECT_THAT(Rotation({256, 256}), ElementsAre(0, 1));
  EXPECT_THAT(Rotation({7}), ElementsAre(0));
}

TEST(RotationTest, TurnsAreSpread) {
  EXPECT_THAT(Rotation({3, 1}), ElementsAre(0, 0, 1, 0));
  EXPECT_THAT(Rotation({2, 0, 4}), ElementsAre(2, 0, 2));
  EXPECT_THAT(Rotation({2, 1, 1}), ElementsAre(0, 1, 0, 2));
  EXPECT_THAT(Rotation({0}), IsEmpty());
  EXPECT_THAT(Rotation({}), IsEmpty());
}

// Of any stretch, a weight's part is off by less than two turns from its share.
TEST(RotationTest, SharesHoldInEveryStretch) {
  std::mt19937 random(1);  // tidy: the same weights each time
  for (int round = 0; round < 50; ++round) {
    std::vector<int> weights(2 + random() % 9);
    for (int& weight : weights) weight = 1 + static_cast<int>(random() % 256);
    const std::vector<uint32_t> rotation = Rotation(weights);
    const double total = static_cast<double>(rotation.size());
    std::map<uint32_t, double> share;
    for (const uint32_t index : rotation) share[index] += 1 / total;
    std::map<uint32_t, int> count;
    for (size_t i = 0; i < rotation.size(); ++i) {
      ++count[rotation[i]];
      for (const auto& [index, part] : share) {
        const double expected = part * static_cast<double>(i + 1);
        EXPECT_LT(std::abs(count[index] - expected), 2) << round << " " << index << " " << i;
      }
    }
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_EQ(count[i] * weights[0], count[0] * weights[i]);
    }
  }
}

Backend At(const std::string& text) {
  return {.text = text, .at = {*netpoll::Endpoint::Parse(text)}};
}

std::string Tried(ServedRoute& route) {
  std::string text;
  ServedRoute::Attempts attempts(route);
  while (const netpoll::Endpoint* const at = attempts.Next()) {
    text += " " + std::to_string(at->port());
  }
  return text;
}

TEST(ServedRouteTest, EachSessionTriesEveryBackendOnce) {
  Route config;
  config.backends = {At("10.0.0.1:1"), At("10.0.0.1:2"), At("10.0.0.1:3")};
  ServedRoute route(config);
  EXPECT_EQ(Tried(route), " 1 2 3");
  EXPECT_EQ(Tried(route), " 2 3 1");
  EXPECT_EQ(Tried(route), " 3 1 2");
  EXPECT_EQ(Tried(route), " 1 2 3");
}

TEST(ServedRouteTest, BackupsComeLastAndDrainedOnesNever) {
  Route config;
  config.backends = {At("10.0.0.1:1"), At("10.0.0.1:2"), At("10.0.0.1:3"),
                     At("10.0.0.1:4"), At("10.0.0.1:5"), At("10.0.0.1:6")};
  config.backends[1].backup = true;
  config.backends[2].drain = true;
  config.backends[3].backup = true;
  config.backends[4].weight = 0;
  ServedRoute route(config);
  EXPECT_EQ(Tried(route), " 1 6 2 4");
  EXPECT_EQ(Tried(route), " 6 1 4 2");
}

TEST(ServedRouteTest, ANameTakesTurnsWithItself) {
  Route config;
  config.backends = {At("10.0.0.1:1")};
  config.backends[0].at.push_back(*netpoll::Endpoint::Parse("10.0.0.2:2"));
  config.backends[0].weight = 5;
  ServedRoute route(config);
  EXPECT_EQ(Tried(route), " 1 2");
  EXPECT_EQ(Tried(route), " 2 1");
}

TEST(ServedRouteTest, ServesTheClientsItIsFor) {
  Route config;
  EXPECT_TRUE(ServedRoute(config).Serves(netpoll::Endpoint()));
  config.from = {*Cidr::Parse("10.0.0.0/8"), *Cidr::Parse("::1")};
  ServedRoute route(config);
  EXPECT_TRUE(route.Serves(*netpoll::Endpoint::Parse("10.1.2.3:5")));
  EXPECT_TRUE(route.Serves(*netpoll::Endpoint::Parse("[::1]:5")));
  EXPECT_FALSE(route.Serves(*netpoll::Endpoint::Parse("11.1.2.3:5")));
  EXPECT_FALSE(route.Serves(netpoll::Endpoint()));
}

}  // namespace
}  // namespace parkway
