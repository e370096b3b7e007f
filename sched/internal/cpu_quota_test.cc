// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/cpu_quota.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace sched::internal {
namespace {

class CpuQuotaTest : public testing::Test {
 protected:
  CpuQuotaTest() : root_(std::string(testing::TempDir()) + "/cpu_quota_test") {
    std::filesystem::remove_all(root_);
  }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::optional<double> Quota() const { return CpuQuota(root_); }

  static constexpr const char* kMountV2 =
      "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

 private:
  const std::string root_;
};

TEST_F(CpuQuotaTest, WithoutCgroupsThereIsNone) { EXPECT_EQ(Quota(), std::nullopt); }

TEST_F(CpuQuotaTest, TheLeastOfOneselfAndTheAncestorsHolds) {
  Write("/proc/self/cgroup", "0::/system.slice/parkway.service\n");
  Write("/proc/self/mountinfo", kMountV2);
  Write("/sys/fs/cgroup/system.slice/parkway.service/cpu.max", "400000 100000\n");
  EXPECT_EQ(Quota(), 4);
  Write("/sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n");
  EXPECT_EQ(Quota(), 1.5);
  Write("/sys/fs/cgroup/system.slice/parkway.service/cpu.max", "max 100000\n");
  EXPECT_EQ(Quota(), 1.5);
  Write("/sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
  EXPECT_EQ(Quota(), std::nullopt);
}

TEST_F(CpuQuotaTest, AContainerSeesItsOwnAtTheMountPoint) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/proc/self/mountinfo", kMountV2);
  Write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(Quota(), 0.5);
}

TEST_F(CpuQuotaTest, TheRootOfAMountIsCutOff) {
  Write("/proc/self/cgroup", "4:memory:/elsewhere\n3:cpu,cpuacct:/docker/abc/inner\n0::/\n");
  Write("/proc/self/mountinfo",
        "40 30 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        "41 30 0:34 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n");
  Write("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(), std::nullopt);
  Write("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "250000\n");
  EXPECT_EQ(Quota(), 2.5);
}

TEST_F(CpuQuotaTest, ANameThatBeginsLikeTheRootIsAnother) {
  Write("/proc/self/cgroup", "0::/docker/xy\n");
  Write("/proc/self/mountinfo", "41 30 0:34 /docker/x /cg ro - cgroup2 cgroup2 rw\n");
  Write("/cgy/cpu.max", "100000 100000\n");
  Write("/cg/cpu.max", "300000 100000\n");
  EXPECT_EQ(Quota(), 3);
}

TEST_F(CpuQuotaTest, BothVersionsAtOnce) {
  Write("/proc/self/cgroup", "1:cpu:/a\n0::/b\n");
  Write("/proc/self/mountinfo", std::string("32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n") +
                                    "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n");
  Write("/cg/cpu/a/cpu.cfs_quota_us", "300000");
  Write("/cg/cpu/a/cpu.cfs_period_us", "100000");
  EXPECT_EQ(Quota(), 3);
  Write("/cg/unified/b/cpu.max", "200000 100000");
  EXPECT_EQ(Quota(), 2);
}

}  // namespace
}  // namespace sched::internal
