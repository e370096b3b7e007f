// SPDX-License-Identifier: Apache-2.0
#include "server/discovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "server/resolver.h"

namespace parkway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

constexpr Discovery::Bounds kBounds = {.ttl_min = 1s, .ttl_max = 30s};

Found Host(int number) {
  return {.at = *netpoll::Endpoint::ParseAddress("10.0." + std::to_string(number / 256) + "." +
                                                 std::to_string(number % 256))};
}

NameAnswer Of(const std::vector<int>& numbers, sched::Duration ttl = 5s) {
  NameAnswer answer;
  answer.ttl = ttl;
  for (const int number : numbers) answer.found.push_back(Host(number));
  if (numbers.empty()) answer.why_none = "no such name";
  return answer;
}

NameAnswer Part(const std::vector<int>& numbers) {
  NameAnswer answer = Of(numbers);
  answer.why_partial = "a.test: silence";
  return answer;
}

absl::Status Silence() { return absl::UnavailableError("silence"); }

std::vector<int> NumbersOf(const std::vector<Found>& found) {
  std::vector<int> numbers;
  for (const Found& one : found) {
    const std::string text = one.at.AddressToString();
    numbers.push_back(std::stoi(text.substr(text.rfind('.') + 1)));
  }
  return numbers;
}

class DiscoveryTest : public testing::Test {
 protected:
  // What is used after these came.
  std::vector<int> After(const std::vector<absl::StatusOr<NameAnswer>>& answers) {
    for (const auto& answer : answers) (void)discovery_.Note(answer);
    return NumbersOf(discovery_.current());
  }

  Discovery discovery_{kBounds};
};

TEST_F(DiscoveryTest, AddressesComeAtOnceAndGoAfterTwoAbsences) {
  EXPECT_THAT(After({Of({1, 2})}), ElementsAre(1, 2));
  EXPECT_THAT(After({Of({2, 3})}), ElementsAre(1, 2, 3));
  EXPECT_THAT(After({Of({2, 3})}), ElementsAre(2, 3));
}

TEST_F(DiscoveryTest, OneThatComesBackHasNotBeenAway) {
  EXPECT_THAT(After({Of({1, 2}), Of({2}), Of({1, 2}), Of({2})}), ElementsAre(1, 2));
}

TEST_F(DiscoveryTest, ErrorsChangeNothingHoweverMany) {
  std::vector<absl::StatusOr<NameAnswer>> answers = {Of({1})};
  for (int i = 0; i < 100; ++i) answers.push_back(Silence());
  EXPECT_THAT(After(answers), ElementsAre(1));
}

TEST_F(DiscoveryTest, ErrorsBetweenAbsencesCountForNothing) {
  EXPECT_THAT(After({Of({1, 2}), Of({2}), Silence(), Silence()}), ElementsAre(1, 2));
  EXPECT_THAT(After({Of({2})}), ElementsAre(2));
}

TEST_F(DiscoveryTest, PartsOfAnAnswerAddAndDoNotRemove) {
  EXPECT_THAT(After({Of({1, 2}), Part({3}), Part({3}), Part({3})}), ElementsAre(1, 2, 3));
}

TEST_F(DiscoveryTest, ANameWithoutAddressesLosesThemWhenThatIsConfirmed) {
  EXPECT_THAT(After({Of({1, 2}), Of({})}), ElementsAre(1, 2));
  EXPECT_THAT(After({Of({})}), IsEmpty());
}

TEST_F(DiscoveryTest, TellsWhatChanges) {
  Discovery::Change change = discovery_.Note(Of({1, 2}));
  EXPECT_TRUE(change.any);
  EXPECT_THAT(NumbersOf(change.added), ElementsAre(1, 2));
  change = discovery_.Note(Of({2, 1}));  // name servers turn the order round
  EXPECT_FALSE(change.any);
  EXPECT_THAT(change.added, IsEmpty());
  (void)discovery_.Note(Of({2}));
  change = discovery_.Note(Of({2}));
  EXPECT_TRUE(change.any);
  EXPECT_THAT(NumbersOf(change.removed), ElementsAre(1));
}

TEST_F(DiscoveryTest, AnAddressThatComesTwiceIsOne) {
  NameAnswer answer = Of({1, 1});
  answer.found[0].priority = 2;
  answer.found[1].priority = 1;
  (void)discovery_.Note(answer);
  ASSERT_EQ(discovery_.current().size(), 1u);
  EXPECT_EQ(discovery_.current()[0].priority, 1);
}

TEST_F(DiscoveryTest, WeightsAndRanksChangeInPlace) {
  (void)discovery_.Note(Of({1}));
  NameAnswer answer = Of({1});
  answer.found[0].weight = 7;
  const Discovery::Change change = discovery_.Note(answer);
  EXPECT_TRUE(change.any);
  EXPECT_THAT(change.added, IsEmpty());
  EXPECT_EQ(discovery_.current()[0].weight, 7);
}

TEST_F(DiscoveryTest, StatesAreToldOnce) {
  EXPECT_EQ(discovery_.Note(Silence()).news, "does not resolve: silence");
  EXPECT_EQ(discovery_.Note(Silence()).news, "");
  EXPECT_EQ(discovery_.Note(Of({1})).news, "resolves again");
  EXPECT_EQ(discovery_.Note(Of({1, 2})).news, "");
  EXPECT_EQ(discovery_.Note(Silence()).news, "does not resolve: silence; its 2 addresses stay");
  EXPECT_EQ(discovery_.Note(Of({})).news,
            "does not resolve: no such name; its 2 addresses stay until that is confirmed");
  EXPECT_EQ(discovery_.Note(Of({})).news, "");
}

TEST_F(DiscoveryTest, ThatAnswersArePartialIsToldOnceAndThatTheyAreWholeAgain) {
  const std::string in_part =
      "resolves in part: a.test: silence; nothing is removed until it resolves as a whole";
  struct Case {
    absl::StatusOr<NameAnswer> answer;
    std::string news;
  };
  for (const Case& it : std::vector<Case>{
           {Part({1}), in_part},  // also the first one
           {Part({2}), ""},
           {Of({1}), "resolves as a whole again"},
           {Part({1}), in_part},
           {Silence(), "does not resolve: silence; its 2 addresses stay"},
           {Part({1}), in_part},
           {Silence(), "does not resolve: silence; its 2 addresses stay"},
           {Of({1, 2}), "resolves again"},
           {Of({1, 2}), ""},
       }) {
    EXPECT_EQ(discovery_.Note(it.answer).news, it.news);
  }
}

TEST_F(DiscoveryTest, TheFirstAnswerIsNoNews) { EXPECT_EQ(discovery_.Note(Of({1})).news, ""); }

TEST_F(DiscoveryTest, BeyondTheMostAddressesAreIgnoredAndThatIsToldOnce) {
  std::vector<int> many(kFoundMax + 1);
  std::iota(many.begin(), many.end(), 0);
  const std::string news = "has more than 1024 addresses; others are ignored";
  EXPECT_EQ(discovery_.Note(Of(many)).news, news);
  EXPECT_EQ(discovery_.current().size(), kFoundMax);
  const Discovery::Change change = discovery_.Note(Of(many));
  EXPECT_EQ(change.news, "");
  EXPECT_FALSE(change.any);  // the same ones
}

TEST_F(DiscoveryTest, ThatThereAreTooManyHidesNoOtherNews) {
  (void)discovery_.Note(Silence());
  std::vector<int> many(kFoundMax + 1);
  std::iota(many.begin(), many.end(), 0);
  EXPECT_EQ(discovery_.Note(Of(many)).news,
            "resolves again; has more than 1024 addresses; others are ignored");
}

TEST_F(DiscoveryTest, WaitsForTheTtlWithinItsBounds) {
  for (const auto& [ttl, wait] :
       std::vector<std::pair<sched::Duration, sched::Duration>>{{0s, 1s},
                                                                {500ms, 1s},
                                                                {7s, 7s},
                                                                {30s, 30s},
                                                                {24h, 30s},
                                                                {sched::Duration::max(), 30s}}) {
    (void)discovery_.Note(Of({1}, ttl));
    EXPECT_EQ(discovery_.Wait(0), wait);
    EXPECT_GT(discovery_.Wait(999), wait);
    EXPECT_LE(discovery_.Wait(999), wait + wait / 10);
  }
}

TEST_F(DiscoveryTest, FailuresAreRepeatedEverMoreSeldom) {
  for (const absl::StatusOr<NameAnswer>& bad :
       {absl::StatusOr<NameAnswer>(Silence()), {Of({}, 0s)}}) {
    Discovery discovery(kBounds);
    for (const sched::Duration wait : {1s, 2s, 4s, 8s, 16s, 30s, 30s}) {
      (void)discovery.Note(bad);
      EXPECT_EQ(discovery.Wait(0), wait);
    }
    (void)discovery.Note(Of({1}, 20s));
    EXPECT_EQ(discovery.Wait(0), 20s);
    (void)discovery.Note(Silence());
    EXPECT_EQ(discovery.Wait(0), 1s);
  }
}

// Else it would be the cache that said so, which confirms it.
TEST_F(DiscoveryTest, ThatThereIsNoSuchNameIsConfirmedAfterTheLongestWait) {
  (void)discovery_.Note(Of({1}));
  (void)discovery_.Note(Of({}, 0s));
  EXPECT_EQ(discovery_.Wait(0), 30s);
  (void)discovery_.Note(Silence());
  EXPECT_LT(discovery_.Wait(0), 30s);
  (void)discovery_.Note(Of({}, 0s));
  EXPECT_THAT(discovery_.current(), IsEmpty());
  EXPECT_LT(discovery_.Wait(0), 30s);  // it may come back
}

TEST(SharesOfTest, KeepProportionsWithinTheMost) {
  struct Case {
    std::vector<int> weights;
    int factor;
    std::vector<int> shares;
  };
  for (const Case& it : std::vector<Case>{
           {{}, 1, {}},
           {{1, 1}, 1, {1, 1}},
           {{30, 10}, 1, {3, 1}},
           {{30, 10}, 4, {12, 4}},
           {{0, 0}, 1, {1, 1}},
           {{0, 0}, 3, {3, 3}},
           {{0, 10}, 1, {1, 256}},
           {{0, 10}, 3, {1, 256}},
           {{0, 30, 10}, 1, {1, 256, 85}},
           {{0, 65535, 1}, 1, {1, 256, 1}},
           {{65535, 1}, 1, {256, 1}},
           {{65535, 32768}, 9, {256, 128}},
       }) {
    std::vector<Found> found;
    for (const int weight : it.weights) found.push_back({.weight = weight});
    EXPECT_EQ(SharesOf(found, it.factor, 256), it.shares);
  }
}

}  // namespace
}  // namespace parkway
