// SPDX-License-Identifier: Apache-2.0
//
// Fibers as a relay uses the pool, with 1, 2 and 8 workers.
#include "server/buffer_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "netpoll/poller.h"
#include "sched/fibers.h"
#include "sched/scheduler.h"

namespace parkway {
namespace {

class BufferPoolTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    auto poller = netpoll::Poller::Create({.shards = GetParam()});
    ASSERT_TRUE(poller.ok()) << poller.status();
    poller_ = *std::move(poller);
    sched::Scheduler::Options options;
    options.event_sources = poller_->event_sources();
    scheduler_ = std::make_unique<sched::Scheduler>(options);
  }

  // A pool at which readers wait once `buffers` are leased.
  void MakePool(int buffers) {
    const size_t count = static_cast<size_t>(buffers) + static_cast<size_t>(GetParam());
    pool_ = std::make_unique<BufferPool>(count * BufferPool::kBufferBytes, GetParam());
    limit_ = std::max(buffers, GetParam());
  }

  // Runs `main` as the first fiber and waits until all are done.
  void Run(sched::FiberFn main) {
    ASSERT_TRUE(scheduler_->SpawnOn(0, std::move(main)));
    ASSERT_TRUE(scheduler_->DrainUntil(sched::kNever));
    EXPECT_EQ(pool_->leased(), 0);
  }

  // Leases every buffer below the limit.
  std::vector<BufferPool::Lease> LeaseAll() {
    std::vector<BufferPool::Lease> leases;
    leases.reserve(limit_);
    for (int i = 0; i < limit_; ++i) leases.push_back(BufferPool::Room(*pool_).Take());
    return leases;
  }

  void AwaitInLine(int count) {
    while (pool_->in_line() < count) sched::Yield();
  }

  std::unique_ptr<netpoll::Poller> poller_;
  std::unique_ptr<sched::Scheduler> scheduler_;
  std::unique_ptr<BufferPool> pool_;
  int limit_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Workers, BufferPoolTest, testing::Values(1, 2, 8),
                         testing::PrintToStringParamName());

TEST_P(BufferPoolTest, LeasesBuffersOfTheirOwn) {
  MakePool(16);
  Run([&] {
    const auto leases = LeaseAll();
    EXPECT_EQ(pool_->leased(), limit_);
    int number = 0;
    for (const auto& lease : leases) {
      ASSERT_EQ(lease.bytes().size(), BufferPool::kBufferBytes);
      std::fill(lease.bytes().begin(), lease.bytes().end(), static_cast<std::byte>(number++));
    }
    number = 0;
    for (const auto& lease : leases) {
      EXPECT_EQ(lease.bytes().front(), static_cast<std::byte>(number));
      EXPECT_EQ(lease.bytes().back(), static_cast<std::byte>(number++));
    }
  });
}

TEST_P(BufferPoolTest, ReadersWaitWhileAllIsLeased) {
  MakePool(4);
  std::atomic<int> through{0};
  Run([&] {
    auto leases = LeaseAll();
    sched::FiberScope scope;
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(scope.Spawn([&] {
        BufferPool::Room room(*pool_);
        through.fetch_add(1);
      }));
    }
    AwaitInLine(20);
    EXPECT_EQ(through.load(), 0);
    EXPECT_EQ(pool_->leased(), limit_);
    leases.clear();
  });
  EXPECT_EQ(through.load(), 20);
}

// Each buffer that comes back wakes one reader; one that needs no buffer must wake the next.
TEST_P(BufferPoolTest, ReadersThatNeedNoBufferPassTheRoomOn) {
  MakePool(4);
  std::atomic<int> through{0};
  Run([&] {
    auto leases = LeaseAll();
    sched::FiberScope scope;
    for (int i = 0; i < 50; ++i) {
      ASSERT_TRUE(scope.Spawn([&] {
        BufferPool::Room room(*pool_);
        through.fetch_add(1);
      }));
    }
    AwaitInLine(50);
    leases.pop_back();  // a single one; the others stay leased meanwhile
    while (through.load() < 50) sched::Yield();
  });
}

class BufferPoolOrderTest : public BufferPoolTest {};

// One worker: with more, two that come at the same time have no order.
INSTANTIATE_TEST_SUITE_P(Workers, BufferPoolOrderTest, testing::Values(1),
                         testing::PrintToStringParamName());

TEST_P(BufferPoolOrderTest, TheLineKeepsItsOrder) {
  MakePool(4);
  std::vector<int> order;
  Run([&] {
    auto leases = LeaseAll();
    sched::FiberScope scope;
    for (int i = 0; i < 10; ++i) {
      ASSERT_TRUE(scope.Spawn([&, i] {
        BufferPool::Room room(*pool_);
        order.push_back(i);
      }));
      AwaitInLine(i + 1);
    }
    leases.pop_back();
    scope.Join();
  });
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

// Many that lease, hold, and return, beside many that only look: nobody is left behind, and the
// bound holds.
TEST_P(BufferPoolTest, RecoversFromExhaustionAgainAndAgain) {
  MakePool(2);
  std::atomic<int> rounds{0};
  constexpr int kFibers = 64;
  constexpr int kRounds = 100;
  Run([&] {
    sched::FiberScope scope;
    for (int i = 0; i < kFibers; ++i) {
      const bool spawned = scope.Spawn([&, i] {
        for (int round = 0; round < kRounds; ++round) {
          BufferPool::Room room(*pool_);
          if ((i + round) % 3 != 0) {
            const BufferPool::Lease lease = room.Take();
            EXPECT_LE(pool_->leased(), limit_ + GetParam());
            lease.bytes()[0] = static_cast<std::byte>(i);
            sched::Yield();
            EXPECT_EQ(lease.bytes()[0], static_cast<std::byte>(i));
          }
          rounds.fetch_add(1);
        }
      });
      ASSERT_TRUE(spawned);
    }
  });
  EXPECT_EQ(rounds.load(), kFibers * kRounds);
}

TEST_P(BufferPoolTest, ScratchBelongsToTheWorker) {
  MakePool(2);
  std::atomic<int> mixed{0};
  Run([&] {
    sched::FiberScope scope;
    for (int i = 0; i < 100; ++i) {
      const bool spawned = scope.Spawn([&, i] {
        const auto scratch = pool_->Scratch();
        std::fill(scratch.begin(), scratch.end(), static_cast<std::byte>(i));
        for (const std::byte byte : scratch) mixed += byte != static_cast<std::byte>(i);
        sched::Yield();
      });
      ASSERT_TRUE(spawned);
    }
  });
  EXPECT_EQ(mixed.load(), 0);
}

}  // namespace
}  // namespace parkway
