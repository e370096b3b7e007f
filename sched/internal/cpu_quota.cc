// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/cpu_quota.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "sched/control_groups.h"

namespace sched::internal {
namespace {

// One cgroup's own quota.
std::optional<double> QuotaOf(const ControlGroup& group) {
  std::string quota;
  double period = 0;
  if (group.v2) {
    std::ifstream(group.folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(group.folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group.folder + "/cpu.cfs_period_us") >> period;
  }
  const double microseconds = std::atof(quota.c_str());  // "max", "-1" and "" are no quota
  if (microseconds <= 0 || period <= 0) return std::nullopt;
  return microseconds / period;
}

}  // namespace

std::optional<double> CpuQuota(const std::string& root) {
  std::optional<double> least;
  for (const ControlGroup& group : ControlGroups("cpu", root)) {
    const std::optional<double> quota = QuotaOf(group);
    if (quota) least = std::min(least.value_or(*quota), *quota);
  }
  return least;
}

}  // namespace sched::internal
