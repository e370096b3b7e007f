// SPDX-License-Identifier: Apache-2.0
//
// One million fibers asleep at once, each on its own stack with a guard page, under the default
// vm.max_map_count. Takes about 4.3 GB: a page and a timer entry per fiber, page tables for a
// mostly untouched 64 GiB, and the guards.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>

#include "sched/fibers.h"
#include "sched/host.h"
#include "sched/internal/futex_source.h"
#include "sched/scheduler.h"

namespace sched {
namespace {

constexpr int64_t kFibers = 1'000'000;
constexpr int64_t kNeededKiB = 6 << 20;

// A field of a file under /proc in KiB, or 0.
int64_t ProcKiB(const char* file, const std::string& field) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field)) return std::stoll(line.substr(field.size()));
  }
  return 0;
}

int64_t Mappings() {
  std::ifstream in("/proc/self/maps");
  return std::count(std::istreambuf_iterator<char>(in), {}, '\n');
}

TEST(MillionFibersTest, SleepAndWake) {
  const int64_t available = ProcKiB("/proc/meminfo", "MemAvailable:");
  if (available < kNeededKiB) {
    GTEST_SKIP() << "a million fibers need about 4.3 GB, available are " << available / 1024
                 << " MiB";
  }
  internal::FutexSource sources[2];
  Scheduler::Options options;
  options.event_sources = {&sources[0], &sources[1]};
  Scheduler scheduler(options);
  std::atomic<int64_t> asleep{0};
  std::atomic<int64_t> woken{0};
  std::atomic<bool> failed{false};
  // When they wake: postponed while not all are asleep yet, however slow the machine.
  std::atomic<int64_t> wake_at{ToNs(Host::Real().Now() + std::chrono::seconds(12))};
  const auto postpone = [&] {
    const int64_t soonest = ToNs(Now() + std::chrono::seconds(3));
    if (wake_at.load() < soonest) wake_at.store(soonest + 5'000'000'000);
  };
  ASSERT_TRUE(scheduler.SpawnOn(0, [&] {
    for (int64_t i = 0; i < kFibers; ++i) {
      const bool spawned = Spawn([&] {
        asleep.fetch_add(1);
        while (ToNs(Now()) < wake_at.load()) SleepUntil(FromNs(wake_at.load()));
        woken.fetch_add(1);
      });
      if (!spawned) failed.store(true);
      if (i % 200 != 0) continue;
      postpone();
      Yield();
    }
    while (asleep.load() < kFibers && !failed.load()) {
      postpone();
      SleepFor(std::chrono::milliseconds(5));
    }
    const Deadline until = FromNs(wake_at.load());
    std::cout << "asleep: " << asleep.load() << " fibers, "
              << ProcKiB("/proc/self/status", "VmRSS:") / 1024 << " MiB resident, "
              << ProcKiB("/proc/self/status", "VmPTE:") / 1024 << " MiB of page tables, "
              << Mappings() << " mappings, " << (until - Now()).count() / 1'000'000
              << " ms before the first wakes\n";
    EXPECT_EQ(asleep.load() - woken.load(), kFibers);
    EXPECT_LT(Mappings(), 65530);
  }));
  EXPECT_TRUE(scheduler.DrainUntil(kNever));
  EXPECT_FALSE(failed.load());
  EXPECT_EQ(woken.load(), kFibers);
}

}  // namespace
}  // namespace sched
