// SPDX-License-Identifier: Apache-2.0
//
// The ways to choose a backend, against what their authors promise.
#include "server/lineup.h"

#include <cmath>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parkway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Answer = Lineup::Answer;

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

// Backends 10.0.0.1:80, 10.0.0.2:80, ... of these weights.
class Pool {
 public:
  explicit Pool(const std::vector<int>& weights, int max = 0) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::string at =
          "10.0." + std::to_string((i + 1) / 256) + "." + std::to_string((i + 1) % 256) + ":80";
      upstreams_.emplace_back(*netpoll::Endpoint::Parse(at));
      members_.push_back({&upstreams_.back(), weights[i], max});
    }
  }

  Upstream& upstream(size_t index) { return upstreams_[index]; }
  // Without one of them.
  Lineup Without(size_t index, Balance balance, int factor = 0) const {
    std::vector<Member> members = members_;
    members.erase(members.begin() + static_cast<ptrdiff_t>(index));
    return {members, balance, factor};
  }
  Lineup All(Balance balance, int factor = 0) const { return {members_, balance, factor}; }

  // The index of who was chosen, -1 if all are full, -2 if nobody is left.
  int Take(const Lineup& lineup, const Asking& asking) {
    Upstream* taken = nullptr;
    const Answer answer = lineup.Take(asking, &taken);
    if (answer != Answer::kTaken) return answer == Answer::kFull ? -1 : -2;
    for (size_t i = 0; i < upstreams_.size(); ++i) {
      if (&upstreams_[i] == taken) return static_cast<int>(i);
    }
    return -3;
  }
  // Those that a session of turn `turn` tries, in order.
  std::vector<int> Tries(const Lineup& lineup, uint32_t turn) {
    std::vector<int> order;
    Asking asking{.turn = turn};
    for (int chosen; (chosen = Take(lineup, asking)) >= 0;) {
      order.push_back(chosen);
      upstream(static_cast<size_t>(chosen)).Leave();
      asking.tried.Add(&upstream(static_cast<size_t>(chosen)));
    }
    return order;
  }
  void LeaveAll() {
    for (Upstream& upstream : upstreams_) {
      while (upstream.sessions() > 0) upstream.Leave();
    }
  }

 private:
  std::deque<Upstream> upstreams_;
  std::vector<Member> members_;
};

uint64_t HashOfClient(const std::string& at) {
  return ClientHash(netpoll::CompactEndpoint(*netpoll::Endpoint::Parse(at)));
}

uint64_t Client(int number) {
  return HashOfClient("10." + std::to_string(number >> 16) + "." +
                      std::to_string(number >> 8 & 255) + "." + std::to_string(number & 255) +
                      ":1");
}

TEST(LineupTest, NobodyServesAnEmptyOne) {
  Pool pool({});
  for (const Balance balance : {Balance::kRoundRobin, Balance::kLeastConn, Balance::kRandom2,
                                Balance::kSource, Balance::kMaglev, Balance::kFirst}) {
    EXPECT_EQ(pool.Take(pool.All(balance), {}), -2);
  }
  EXPECT_EQ(pool.Take(Lineup(), {}), -2);
}

TEST(LineupTest, ASessionTriesEverybodyOnce) {
  for (const Balance balance : {Balance::kRoundRobin, Balance::kLeastConn, Balance::kRandom2,
                                Balance::kSource, Balance::kMaglev, Balance::kFirst}) {
    Pool pool({3, 1, 2});
    std::vector<int> order = pool.Tries(pool.All(balance), 5);
    EXPECT_THAT(order, ::testing::UnorderedElementsAre(0, 1, 2));
  }
}

TEST(LineupTest, WhoHasHisMostIsPassedOverAndThenAllAreFull) {
  for (const Balance balance : {Balance::kRoundRobin, Balance::kLeastConn, Balance::kRandom2,
                                Balance::kSource, Balance::kMaglev, Balance::kFirst}) {
    Pool pool({1, 1, 1}, /*max=*/2);
    const Lineup lineup = pool.All(balance);
    for (uint32_t i = 0; i < 6; ++i) EXPECT_GE(pool.Take(lineup, {.turn = i, .client = 7}), 0);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(pool.upstream(i).sessions(), 2);
    EXPECT_EQ(pool.Take(lineup, {}), -1);
    pool.upstream(1).Leave();
    EXPECT_EQ(pool.Take(lineup, {}), 1);
    // Who has tried all of them need not wait for one.
    Asking asking;
    for (size_t i = 0; i < 3; ++i) asking.tried.Add(&pool.upstream(i));
    EXPECT_EQ(pool.Take(lineup, asking), -2);
  }
}

TEST(RoundRobinTest, TurnsGoRoundByWeight) {
  Pool pool({2, 1, 1});
  const Lineup lineup = pool.All(Balance::kRoundRobin);
  EXPECT_THAT(pool.Tries(lineup, 0), ElementsAre(0, 1, 2));
  EXPECT_THAT(pool.Tries(lineup, 1), ElementsAre(1, 0, 2));
  EXPECT_THAT(pool.Tries(lineup, 2), ElementsAre(0, 2, 1));
  EXPECT_THAT(pool.Tries(lineup, 3), ElementsAre(2, 0, 1));
}

TEST(RoundRobinTest, WhoIsFullLeavesHisTurnsToTheOthersByWeight) {
  Pool pool({8, 1, 4});
  const Lineup lineup = pool.All(Balance::kRoundRobin);
  std::map<int, int> count;
  for (uint32_t turn = 0; turn < 1300; ++turn) {
    Asking asking{.turn = turn};
    asking.tried.Add(&pool.upstream(0));
    ++count[pool.Take(lineup, asking)];
  }
  EXPECT_GT(count[2], 2 * count[1]);
  EXPECT_EQ(count[1] + count[2], 1300);
}

TEST(FirstTest, TheNextIsTakenWhenTheFirstIsFull) {
  Pool pool({1, 1, 1}, /*max=*/2);
  const Lineup lineup = pool.All(Balance::kFirst);
  std::vector<int> chosen;
  for (uint32_t i = 0; i < 5; ++i) chosen.push_back(pool.Take(lineup, {.turn = i}));
  EXPECT_THAT(chosen, ElementsAre(0, 0, 1, 1, 2));
}

TEST(LeastConnTest, SessionsAreSharedByWeightHoweverLongTheyLast) {
  Pool pool({1, 2, 5});
  const Lineup lineup = pool.All(Balance::kLeastConn);
  std::mt19937 random(1);  // tidy: the same sessions each time
  std::vector<int> open;
  for (uint32_t i = 0; i < 20000; ++i) {
    open.push_back(pool.Take(lineup, {.turn = i}));
    if (open.size() <= 800) continue;
    const size_t leaves = random() % open.size();
    pool.upstream(static_cast<size_t>(open[leaves])).Leave();
    open[leaves] = open.back();
    open.pop_back();
  }
  EXPECT_NEAR(pool.upstream(0).sessions(), 100, 2);
  EXPECT_NEAR(pool.upstream(1).sessions(), 200, 2);
  EXPECT_NEAR(pool.upstream(2).sessions(), 500, 2);
}

TEST(LeastConnTest, EqualsTakeTurns) {
  Pool pool({1, 1, 1});
  const Lineup lineup = pool.All(Balance::kLeastConn);
  EXPECT_THAT(pool.Tries(lineup, 0), ElementsAre(0, 1, 2));
  EXPECT_THAT(pool.Tries(lineup, 1), ElementsAre(1, 2, 0));
}

// Of n sessions that stay, on n backends, the fullest has ln ln n / ln 2 + O(1) (Azar and others
// 1999), where one choice would give about ln n / ln ln n.
TEST(Random2Test, TheFullestIsHardlyFullerThanTheRest) {
  constexpr int kBackends = 200;
  Pool pool(std::vector<int>(kBackends, 1));
  const Lineup lineup = pool.All(Balance::kRandom2);
  for (uint32_t i = 0; i < kBackends; ++i) (void)pool.Take(lineup, {.turn = i});
  int fullest = 0;
  int used = 0;
  for (size_t i = 0; i < kBackends; ++i) {
    fullest = std::max(fullest, pool.upstream(i).sessions());
    used += pool.upstream(i).sessions() > 0 ? 1 : 0;
  }
  EXPECT_LE(fullest, 4);
  EXPECT_GE(fullest, 2);  // it is not leastconn
  EXPECT_GE(used, kBackends * 6 / 10);
}

TEST(ClientHashTest, IsTheSameInEveryProcessAndWithoutThePort) {
  // XXH3_64bits of c0 00 02 01, by xxhsum -H3 0.8.1.
  const uint64_t hash = HashOfClient("192.0.2.1:1");
  EXPECT_EQ(hash, 0x2c1c901eed9adc4au);
  EXPECT_EQ(HashOfClient("192.0.2.1:65535"), hash);
  EXPECT_EQ(HashOfClient("[::ffff:192.0.2.1]:1"), hash);
  EXPECT_NE(HashOfClient("[2001:db8::1]:1"), hash);
  EXPECT_EQ(HashOfClient("unix:@x"), 0u);
}

class HashTest : public ::testing::TestWithParam<Balance> {
 protected:
  static constexpr int kClients = 20000;

  // Where each client goes, when nobody stays.
  static std::vector<int> Places(Pool& pool, const Lineup& lineup, uint32_t turn = 0) {
    std::vector<int> places;
    for (int i = 0; i < kClients; ++i) {
      places.push_back(pool.Take(lineup, {.turn = turn, .client = Client(i)}));
      pool.LeaveAll();
    }
    return places;
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, HashTest, ::testing::Values(Balance::kSource, Balance::kMaglev),
                         [](const auto& info) {
                           return info.param == Balance::kSource ? "source" : "maglev";
                         });

TEST_P(HashTest, AClientStaysWhereItIs) {
  Pool pool({1, 1, 1, 1});
  const std::vector<int> before = Places(pool, pool.All(GetParam()), 1);
  EXPECT_EQ(Places(pool, pool.All(GetParam()), 2), before);
  Pool other({1, 1, 1, 1});  // another process
  EXPECT_EQ(Places(other, other.All(GetParam()), 3), before);
}

// Five standard deviations of a binomial draw; maglev's table adds a hundredth.
TEST_P(HashTest, SharesFollowTheWeights) {
  const std::vector<int> weights = {1, 2, 3, 4};
  Pool pool(weights);
  std::map<int, int> count;
  for (const int place : Places(pool, pool.All(GetParam()))) ++count[place];
  for (size_t i = 0; i < weights.size(); ++i) {
    const double share = weights[i] / 10.0;
    const double spread = 5 * std::sqrt(kClients * share * (1 - share)) + kClients * 0.01;
    EXPECT_NEAR(count[static_cast<int>(i)], kClients * share, spread) << i;
  }
}

// Who leaves moves his own clients. With maglev so few others move as the paper measured.
TEST_P(HashTest, OnlyTheClientsOfWhoLeavesMove) {
  Pool pool(std::vector<int>(10, 1));
  const std::vector<int> before = Places(pool, pool.All(GetParam()));
  const std::vector<int> after = Places(pool, pool.Without(3, GetParam()));
  int others = 0;
  std::map<int, int> heirs;
  for (int i = 0; i < kClients; ++i) {
    EXPECT_NE(after[i], 3);
    if (before[i] == 3) {
      ++heirs[after[i]];
    } else if (before[i] != after[i]) {
      ++others;
    }
  }
  EXPECT_EQ(heirs.size(), 9u);  // not all to one
  EXPECT_LE(others, GetParam() == Balance::kSource ? 0 : kClients / 20);
}

// Consistent hashing with bounded loads: nobody has more than the factor times his share, however
// the clients are.
TEST_P(HashTest, TheBoundHoldsForOneBusyClient) {
  Pool pool({1, 1, 2});
  const Lineup lineup = pool.All(GetParam(), 125);
  for (int i = 1; i <= 400; ++i) {
    EXPECT_GE(pool.Take(lineup, {.client = Client(7)}), 0);
    for (size_t who = 0; who < 3; ++who) {
      const double share = (who == 2 ? 0.5 : 0.25) * i;
      EXPECT_LE(pool.upstream(who).sessions(), std::ceil(1.25 * share)) << i;
    }
  }
}

// Waiting for it would help nobody: it is a matter of balance alone.
TEST_P(HashTest, WhoIsBeyondTheBoundServesIfNobodyElseCan) {
  Pool pool({1, 1});
  const Lineup lineup = pool.All(GetParam(), 125);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(pool.upstream(1).Enter(0));
  Asking asking{.client = Client(7)};
  asking.tried.Add(&pool.upstream(0));
  EXPECT_EQ(pool.Take(lineup, asking), 1);
}

TEST_P(HashTest, ATinyWeightServesWhenItIsTheOnlyOne) {
  Pool pool({256, 256, 256, 256, 256, 256, 256, 256, 256, 256, 256, 256, 1});
  const Lineup lineup = pool.All(GetParam());
  Asking asking{.client = Client(7)};
  for (size_t i = 0; i < 12; ++i) asking.tried.Add(&pool.upstream(i));
  EXPECT_EQ(pool.Take(lineup, asking), 12);
}

TEST_P(HashTest, WithoutABoundAClientNeverMoves) {
  Pool pool({1, 1, 2});
  const Lineup lineup = pool.All(GetParam());
  const int place = pool.Take(lineup, {.client = Client(7)});
  for (int i = 0; i < 400; ++i) EXPECT_EQ(pool.Take(lineup, {.client = Client(7)}), place);
}

// As many clients as the table of a hundred backends has places, one at each.
TEST(MaglevTest, EveryBackendHasItsPartOfTheTable) {
  Pool pool(std::vector<int>(100, 1));
  const Lineup lineup = pool.All(Balance::kMaglev);
  for (uint64_t i = 0; i < 16381; ++i) EXPECT_GE(pool.Take(lineup, {.client = i}), 0);
  for (size_t i = 0; i < 100; ++i) EXPECT_NEAR(pool.upstream(i).sessions(), 163.81, 1) << i;
}

}  // namespace
}  // namespace parkway
