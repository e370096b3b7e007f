// SPDX-License-Identifier: Apache-2.0
//
// All connections on one worker's shard, more than it can serve: the others take their work, and
// then the connections themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "netpoll/conn.h"
#include "netpoll/testing/fixture.h"
#include "netpoll/testing/raw_socket.h"
#include "sched/fibers.h"

namespace netpoll {
namespace {

constexpr int kConnections = 32;
constexpr int kRoundsMax = 20'000;
constexpr sched::Duration kWork = std::chrono::microseconds(20);  // per request

class SkewTest : public NetpollTest {
 protected:
  void Echo(Conn& conn) {
    std::array<std::byte, 100> buffer;
    for (IoResult got; (got = conn.Read(buffer)).ok();) {
      const sched::Deadline until = Now() + kWork;
      while (Now() < until) {
      }
      served_[sched::CurrentWorkerIndex()].fetch_add(1, std::memory_order_relaxed);
      (void)conn.Write(std::span(buffer).first(got.bytes));  // the peer compares what comes back
    }
  }

  std::vector<std::atomic<int>> served_ = std::vector<std::atomic<int>>(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Workers, SkewTest, testing::Values(2, 3));

TEST_P(SkewTest, ConnectionsMoveToWorkersThatHaveTime) {
  std::vector<End> ends;
  ends.reserve(kConnections);
  ExactlyOn(0, [] {});
  for (int i = 0; i < kConnections; ++i) {
    ends.push_back(Open(0));
    Go(0, [this, &conn = ends.back().conn] { Echo(conn); });
  }
  int rounds = 0;
  for (; poller().moves() < kConnections / 4; ++rounds) {
    ASSERT_LT(rounds, kRoundsMax) << poller().moves() << " moves";
    for (End& end : ends) end.peer.Send("ping");
    for (End& end : ends) ASSERT_EQ(end.peer.Receive(4), "ping");
  }
  const auto idle = std::count_if(served_.begin(), served_.end(),
                                  [](const std::atomic<int>& count) { return count.load() == 0; });
  EXPECT_LE(idle, workers() - 2);
  RecordProperty("rounds", rounds);
  for (End& end : ends) end.peer.Close();
  Join();
}

// One worker, and always more connections ready than it collects at once: what it collects later
// must not overtake what waits.
class CrowdTest : public SkewTest {};

INSTANTIATE_TEST_SUITE_P(OneWorker, CrowdTest, testing::Values(1));

TEST_P(CrowdTest, EveryConnectionHasItsTurn) {
  constexpr int kCrowd = 700;
  constexpr int kTurns = 40;  // of each, on average
  std::vector<End> ends;
  ends.reserve(kCrowd);
  for (int i = 0; i < kCrowd; ++i) {
    ends.push_back(Open(0));
    Go(0, [this, &conn = ends.back().conn] { Echo(conn); });
  }
  std::vector<int> turns(kCrowd);
  for (End& end : ends) end.peer.Send("ping");
  const sched::Deadline until = Now() + std::chrono::seconds(60);
  for (int total = 0; total < kCrowd * kTurns;) {
    ASSERT_LT(Now(), until);
    for (int i = 0; i < kCrowd; ++i) {
      if (ends[i].peer.ReceiveSome().empty()) continue;
      ++turns[i];
      ++total;
      ends[i].peer.Send("ping");
    }
  }
  const auto [fewest, most] = std::minmax_element(turns.begin(), turns.end());
  EXPECT_GE(3 * *fewest, *most) << *fewest << " to " << *most;
  for (End& end : ends) end.peer.Close();
  Join();
}

}  // namespace
}  // namespace netpoll
