// SPDX-License-Identifier: Apache-2.0
//
// Fibers as a relay uses the pool, with 1, 2 and 8 workers.
#include "server/buffer_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "netpoll/poller.h"
#include "sched/fibers.h"
#include "sched/scheduler.h"

namespace parkway {
namespace {

constexpr int64_t kLargest = BufferPool::kBufferBytes;

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

  // A pool without room once `buffers` are leased.
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

  // While there is room.
  std::vector<BufferPool::Lease> LeaseAll() {
    std::vector<BufferPool::Lease> leases;
    leases.reserve(limit_);
    while (pool_->HasRoom()) leases.push_back(pool_->Take(BufferPool::kBufferBytes));
    return leases;
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
    EXPECT_EQ(pool_->leased(), limit_ * kLargest);
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

TEST_P(BufferPoolTest, ALeaseIsAsLargeAsItHasToBe) {
  MakePool(16);
  Run([&] {
    for (const auto& [bytes, size] : {std::pair<size_t, size_t>(1, 4096),
                                      {4096, 4096},
                                      {4097, 16384},
                                      {16384, 16384},
                                      {16385, 65536},
                                      {65536, 65536}}) {
      const BufferPool::Lease lease = pool_->Take(bytes);
      EXPECT_EQ(lease.bytes().size(), size) << bytes;
      EXPECT_EQ(pool_->leased(), static_cast<int64_t>(size));
      lease.bytes().back() = std::byte{1};
    }
  });
}

TEST_P(BufferPoolTest, SixteenSmallLeasesTakeTheRoomOfALargeOne) {
  MakePool(GetParam());
  Run([&] {
    std::vector<BufferPool::Lease> leases;
    while (pool_->HasRoom()) leases.push_back(pool_->Take(100));
    EXPECT_EQ(leases.size(), size_t{16} * static_cast<size_t>(limit_));
  });
}

TEST_P(BufferPoolTest, WhatItKeepsIsWithinItsBound) {
  MakePool(16);
  Run([&] {
    for (const size_t bytes : BufferPool::kLeaseBytes) {
      std::vector<BufferPool::Lease> leases;
      while (pool_->HasRoom()) {
        leases.push_back(pool_->Take(bytes));
        EXPECT_LE(pool_->leased() + pool_->kept(), limit_ * kLargest);
      }
    }
    const int64_t kept = pool_->kept();
    EXPECT_GE(kept, kLargest);
    const BufferPool::Lease lease = pool_->Take(BufferPool::kBufferBytes);
    EXPECT_EQ(pool_->kept(), kept - kLargest);
  });
}

TEST_P(BufferPoolTest, ThereIsRoomAgainWithTheFirstLeaseThatEnds) {
  MakePool(16);
  Run([&] {
    auto leases = LeaseAll();
    EXPECT_FALSE(pool_->HasRoom());
    leases.pop_back();
    EXPECT_TRUE(pool_->HasRoom());
  });
}

TEST_P(BufferPoolTest, EachWorkerMayTakeTheOneItSawRoomFor) {
  MakePool(2);
  constexpr int kFibers = 64;
  constexpr int kRounds = 100;
  Run([&] {
    sched::FiberScope scope;
    for (int i = 0; i < kFibers; ++i) {
      const bool spawned = scope.Spawn([&, i] {
        for (int round = 0; round < kRounds; ++round) {
          if (pool_->HasRoom()) {
            const size_t bytes = 1 + static_cast<size_t>(i + round) % BufferPool::kBufferBytes;
            const BufferPool::Lease lease = pool_->Take(round % 2 == 0 ? kLargest : bytes);
            EXPECT_LE(pool_->leased(), (limit_ + GetParam()) * kLargest);
            lease.bytes()[0] = static_cast<std::byte>(i);
            sched::Yield();
            EXPECT_EQ(lease.bytes()[0], static_cast<std::byte>(i));
          }
          sched::Yield();
        }
      });
      ASSERT_TRUE(spawned);
    }
  });
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
