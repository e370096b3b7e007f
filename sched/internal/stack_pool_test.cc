// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/stack_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "sched/host.h"

namespace sched::internal {
namespace {

constexpr size_t kStackBytes = 64 << 10;

// The real memory calls, counted, on a kernel that may be older.
class CountingHost final : public Host {
 public:
  int guard_error = 0;
  size_t mappings_max = 65530;
  bool out_of_memory = false;
  int guards = 0;
  int protects = 0;
  int discards = 0;

  Deadline Now() override { return real_.Now(); }
  int64_t WallNow() override { return real_.WallNow(); }
  uint64_t Random(uint64_t stream) override { return real_.Random(stream); }
  std::unique_ptr<Thread> StartThread(const std::string& name, int cpu, Step step) override {
    return real_.StartThread(name, cpu, std::move(step));
  }
  std::unique_ptr<Event> NewEvent() override { return real_.NewEvent(); }
  void* MapStacks(size_t bytes) override {
    return out_of_memory ? nullptr : real_.MapStacks(bytes);
  }
  void UnmapStacks(void* start, size_t bytes) override { real_.UnmapStacks(start, bytes); }
  int InstallGuard(void* start, size_t bytes) override {
    ++guards;
    return guard_error != 0 ? guard_error : real_.InstallGuard(start, bytes);
  }
  bool Protect(void* start, size_t bytes) override {
    ++protects;
    return real_.Protect(start, bytes);
  }
  void Discard(void* start, size_t bytes) override {
    ++discards;
    real_.Discard(start, bytes);
  }
  size_t MappingsMax() override { return mappings_max; }

 private:
  Host& real_ = Host::Real();
};

// Takes until the pool refuses or `count` are there.
std::vector<StackBase> TakeMany(StackPool& pool, size_t count) {
  std::vector<StackBase> all;
  std::array<StackBase, StackPool::kBatch> batch;
  while (all.size() < count) {
    const size_t got = pool.Take(batch);
    all.insert(all.end(), batch.begin(), batch.begin() + got);
    if (got < StackPool::kBatch) break;
  }
  return all;
}

TEST(StackPoolTest, StacksAreDistinctWritableAndReused) {
  CountingHost host;
  StackPool pool(host, kStackBytes);
  std::vector<StackBase> first = TakeMany(pool, 1024);
  EXPECT_EQ(std::set<StackBase>(first.begin(), first.end()).size(), 1024u);
  for (StackBase stack : first) std::memset(stack + kPageBytes, 1, kStackBytes - kPageBytes);
  pool.Give(first.data(), first.size());
  const std::vector<StackBase> second = TakeMany(pool, 1024);
  EXPECT_EQ(pool.mapped(), 1024);
  pool.Give(second.data(), second.size());
}

TEST(StackPoolTest, BeyondTheWarmOnesMemoryGoesBack) {
  CountingHost host;
  StackPool pool(host, kStackBytes);
  const std::vector<StackBase> stacks = TakeMany(pool, StackPool::kWarmMax + 256);
  for (StackBase stack : stacks) stack[kStackBytes - 1] = std::byte{1};
  pool.Give(stacks.data(), stacks.size());
  EXPECT_EQ(host.discards, 256);
  // A trimmed stack reads as zeroes and is good for use.
  EXPECT_EQ(stacks.back()[kStackBytes - 1], std::byte{0});
}

TEST(StackPoolTest, WithoutGuardInstallPagesAreProtectedWithinTheMappingLimit) {
  CountingHost host;
  host.guard_error = EINVAL;
  host.mappings_max = 4000;
  StackPool pool(host, kStackBytes);
  const std::vector<StackBase> stacks = TakeMany(pool, 5000);
  EXPECT_EQ(stacks.size(), 1000u);  // two mappings each, half of the limit
  EXPECT_EQ(host.protects, 1000);
  EXPECT_EQ(host.guards, 1);  // it is not asked again
  pool.Give(stacks.data(), stacks.size());
  EXPECT_EQ(TakeMany(pool, 32).size(), 32u);  // those that exist serve again
  pool.Give(stacks.data(), 32);
}

TEST(StackPoolTest, OutOfMemoryIsRefusedAndNotFatal) {
  CountingHost host;
  host.out_of_memory = true;
  StackPool pool(host, kStackBytes);
  StackCache cache(pool);
  EXPECT_EQ(cache.Take(), nullptr);
  host.out_of_memory = false;
  const StackBase stack = cache.Take();
  EXPECT_NE(stack, nullptr);
  cache.Give(stack);
}

// Page tables for guards can be refused for a moment; mprotect for ever after would be the end at
// 16000 stacks.
TEST(StackPoolTest, AGuardRefusedForLackOfMemoryIsTriedAgain) {
  CountingHost host;
  host.guard_error = ENOMEM;
  StackPool pool(host, kStackBytes);
  StackCache cache(pool);
  EXPECT_EQ(cache.Take(), nullptr);
  host.guard_error = 0;
  const StackBase stack = cache.Take();
  EXPECT_NE(stack, nullptr);
  EXPECT_EQ(host.protects, 0);
  cache.Give(stack);
}

TEST(StackCacheTest, LastInIsFirstOut) {
  CountingHost host;
  StackPool pool(host, kStackBytes);
  StackCache cache(pool);
  const StackBase a = cache.Take();
  const StackBase b = cache.Take();
  cache.Give(a);
  cache.Give(b);
  EXPECT_EQ(cache.Take(), b);
  EXPECT_EQ(cache.Take(), a);
  cache.Give(a);
  cache.Give(b);
}

TEST(StackCacheTest, KeepsABoundedNumber) {
  CountingHost host;
  StackPool pool(host, kStackBytes);
  StackCache cache(pool);
  std::vector<StackBase> all;
  for (size_t i = 0; i < 10 * StackCache::kStacksMax; ++i) all.push_back(cache.Take());
  for (StackBase stack : all) cache.Give(stack);
  EXPECT_GE(host.discards, 1);  // the pool got them, and trimmed what was beyond its own bound
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
class StackPoolDeathTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(GuardInstall, StackPoolDeathTest, testing::Bool());

TEST_P(StackPoolDeathTest, TheGuardPageIsFatal) {
  CountingHost host;
  host.guard_error = GetParam() ? 0 : EINVAL;
  StackPool pool(host, kStackBytes);
  StackCache cache(pool);
  const StackBase stack = cache.Take();
  EXPECT_EXIT(*const_cast<volatile std::byte*>(stack + kPageBytes - 1) = std::byte{1},
              testing::KilledBySignal(SIGSEGV), "");
  cache.Give(stack);
}
#endif

TEST(StackPoolDeathTest2, ALostStackIsABug) {
  EXPECT_DEATH(
      {
        StackPool pool(Host::Real(), kStackBytes);
        (void)TakeMany(pool, 1);
      },
      "CHECK failed: taken_ == 0");
}

}  // namespace
}  // namespace sched::internal
