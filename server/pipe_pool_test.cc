// SPDX-License-Identifier: Apache-2.0
//
// Fibers as a relay uses the pool. What becomes of a pipe that still holds bytes is for the
// simulation, where it would reach another session (server/sim/mutants).
#include "server/pipe_pool.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "netpoll/poller.h"
#include "sched/fibers.h"
#include "sched/scheduler.h"

namespace parkway {
namespace {

class PipePoolTest : public testing::Test {
 protected:
  void SetUp() override {
    auto poller = netpoll::Poller::Create({.shards = 1});
    ASSERT_TRUE(poller.ok()) << poller.status();
    poller_ = *std::move(poller);
    sched::Scheduler::Options options;
    options.event_sources = poller_->event_sources();
    scheduler_ = std::make_unique<sched::Scheduler>(options);
  }

  void Run(sched::FiberFn main) {
    ASSERT_TRUE(scheduler_->SpawnOn(0, std::move(main)));
    ASSERT_TRUE(scheduler_->DrainUntil(sched::kNever));
  }

  std::unique_ptr<netpoll::Poller> poller_;
  std::unique_ptr<sched::Scheduler> scheduler_;
};

TEST_F(PipePoolTest, FlowsThatAreNotBlockedShareOne) {
  PipePool pool(netpoll::Kernel(), /*pipes=*/8, /*workers=*/1);
  Run([&] {
    netpoll::Pipe* const pipe = pool.Scratch();
    ASSERT_NE(pipe, nullptr);
    EXPECT_TRUE(pipe->is_open());
    sched::Yield();
    EXPECT_EQ(pool.Scratch(), pipe);
  });
  EXPECT_EQ(pool.open(), 1);
}

TEST_F(PipePoolTest, KeptOnesCountAndThereIsABound) {
  PipePool pool(netpoll::Kernel(), /*pipes=*/3, /*workers=*/1);
  Run([&] {
    std::vector<PipePool::Kept> kept;
    for (int i = 0; i < 3; ++i) {
      ASSERT_NE(pool.Scratch(), nullptr) << i;
      kept.push_back(pool.KeepScratch());
    }
    EXPECT_EQ(pool.Scratch(), nullptr);
    kept.pop_back();
    EXPECT_NE(pool.Scratch(), nullptr);
  });
  EXPECT_EQ(pool.open(), 1) << "of those given back the worker keeps one";
}

TEST_F(PipePoolTest, NoneIsNone) {
  PipePool pool(netpoll::Kernel(), /*pipes=*/0, /*workers=*/1);
  Run([&] { EXPECT_EQ(pool.Scratch(), nullptr); });
}

}  // namespace
}  // namespace parkway
