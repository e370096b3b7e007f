// SPDX-License-Identifier: Apache-2.0
#include "server/memory_meter.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

namespace parkway {
namespace {

class MemoryMeterTest : public testing::Test {
 protected:
  MemoryMeterTest() : root_(std::string(testing::TempDir()) + "/memory_meter_test") {
    std::filesystem::remove_all(root_);
  }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void MountV2() {
    Write("/proc/self/cgroup", "0::/a/b\n");
    Write("/proc/self/mountinfo", "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\n");
  }
  std::unique_ptr<MemoryMeter> Meter() const { return MemoryMeter::OfThisProcess(root_); }

 private:
  const std::string root_;
};

TEST_F(MemoryMeterTest, WithoutControlGroupsThereIsNoLimit) {
  EXPECT_EQ(Meter()->GroupLimit(), 0);
  EXPECT_EQ(Meter()->GroupUsed(0), 0);
  EXPECT_EQ(Meter()->OwnUsed(), 0);
}

TEST_F(MemoryMeterTest, TheGroupWithTheLeastRoomCounts) {
  MountV2();
  Write("/cg/a/b/memory.max", "max\n");
  Write("/cg/a/b/memory.current", "1\n");
  Write("/cg/a/memory.max", "1000\n");
  Write("/cg/a/memory.current", "700\n");
  Write("/cg/a/memory.stat", "anon 300\nfile 400\ninactive_file 250\nactive_file 1\n");
  EXPECT_EQ(Meter()->GroupLimit(), 1000);
  EXPECT_EQ(Meter()->GroupUsed(0), 449);
  Write("/cg/a/b/memory.max", "900\n");
  EXPECT_EQ(Meter()->GroupLimit(), 900);
  EXPECT_EQ(Meter()->GroupUsed(0), 900 - 551);  // others fill the one around it
  Write("/cg/a/b/memory.current", "800\n");
  EXPECT_EQ(Meter()->GroupUsed(0), 800);
}

// The kernel keeps both kinds as long as nobody needs the room.
TEST_F(MemoryMeterTest, FilesThatAreReadAgainAreRoomToo) {
  MountV2();
  Write("/cg/a/memory.max", "1000\n");
  Write("/cg/a/memory.current", "990\n");
  Write("/cg/a/memory.stat", "anon 100\nfile 890\ninactive_file 90\nactive_file 800\n");
  EXPECT_EQ(Meter()->GroupUsed(0), 100);
}

TEST_F(MemoryMeterTest, WhereTheKernelSlowsAGroupDownIsItsLimit) {
  MountV2();
  Write("/cg/a/memory.high", "800\n");
  Write("/cg/a/memory.max", "max\n");
  EXPECT_EQ(Meter()->GroupLimit(), 800);
  Write("/cg/a/memory.max", "1000\n");
  EXPECT_EQ(Meter()->GroupLimit(), 800);
  Write("/cg/a/memory.high", "max\n");
  EXPECT_EQ(Meter()->GroupLimit(), 1000);
}

TEST_F(MemoryMeterTest, WhatIsInUseIsReadAnew) {
  MountV2();
  Write("/cg/a/memory.max", "1000\n");
  Write("/cg/a/memory.current", "700\n");
  const auto meter = Meter();
  EXPECT_EQ(meter->GroupUsed(0), 700);
  Write("/cg/a/memory.current", "20\n");
  EXPECT_EQ(meter->GroupUsed(0), 20);
}

TEST_F(MemoryMeterTest, BelowEnoughFilesAreNotAskedFor) {
  MountV2();
  Write("/cg/a/memory.max", "1000\n");
  Write("/cg/a/memory.current", "700\n");
  Write("/cg/a/memory.stat", "anon 300\ninactive_file 250\n");
  EXPECT_EQ(Meter()->GroupUsed(701), 700);
  EXPECT_EQ(Meter()->GroupUsed(700), 450);
}

TEST_F(MemoryMeterTest, Version1CountsWhatIsBelowToo) {
  Write("/proc/self/cgroup", "4:memory:/a\n0::/\n");
  Write("/proc/self/mountinfo",
        "32 31 0:29 / /cg/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n");
  Write("/cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/cg/memory/a/memory.limit_in_bytes", "2000\n");
  Write("/cg/memory/a/memory.usage_in_bytes", "1500\n");
  Write("/cg/memory/a/memory.stat", "cache 9\ninactive_file 9\ntotal_inactive_file 500\n");
  EXPECT_EQ(Meter()->GroupLimit(), 2000);
  EXPECT_EQ(Meter()->GroupUsed(0), 1000);
}

TEST_F(MemoryMeterTest, FilesOfTheProcessAreNotItsOwn) {
  Write("/proc/self/statm", "900 120 20 1 0 50 0\n");
  EXPECT_EQ(Meter()->OwnUsed(), 100 * sysconf(_SC_PAGESIZE));
}

TEST(MemoryMeter, SeesWhatIsTouched) {
  const auto meter = MemoryMeter::OfThisProcess();
  const int64_t before = meter->OwnUsed();
  ASSERT_GT(before, 0);
  constexpr size_t kBytes = size_t{32} << 20;
  const auto block = std::make_unique<char[]>(kBytes);
  std::memset(block.get(), 1, kBytes);
  EXPECT_GT(meter->OwnUsed() - before, int64_t{30} << 20);
}

}  // namespace
}  // namespace parkway
