// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/cpu_quota.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace sched::internal {
namespace {

bool ListHas(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// Where the process stands: its path in the hierarchy of version 2 and in the one of version 1 that
// has the cpu controller. A line is "ID:CONTROLLERS:PATH", without controllers for version 2.
struct Paths {
  std::optional<std::string> v1, v2;
};

Paths OwnPaths(const std::string& root) {
  Paths paths;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) paths.v2 = line.substr(second + 1);
    if (ListHas(controllers, "cpu")) paths.v1 = line.substr(second + 1);
  }
  return paths;
}

// One cgroup's own quota.
std::optional<double> QuotaOf(const std::string& folder, bool v2) {
  std::string quota;
  double period = 0;
  if (v2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  const double microseconds = std::atof(quota.c_str());  // "max", "-1" and "" are no quota
  if (microseconds <= 0 || period <= 0) return std::nullopt;
  return microseconds / period;
}

// The least from the process's cgroup up to the mount point.
std::optional<double> LeastQuota(const std::string& mount_point, std::string path, bool v2) {
  std::optional<double> least;
  for (;;) {
    if (const auto quota = QuotaOf(mount_point + path, v2)) {
      least = std::min(least.value_or(*quota), *quota);
    }
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return least;
    path.resize(slash);
  }
}

}  // namespace

std::optional<double> CpuQuota(const std::string& root) {
  const Paths paths = OwnPaths(root);
  std::optional<double> least;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // "id parent device ROOT POINT options ... - TYPE source OPTIONS" (proc(5)).
    std::istringstream words(line);
    std::string word, mount_root, mount_point, type, options;
    words >> word >> word >> word >> mount_root >> mount_point;
    while (words >> word && word != "-") {
    }
    words >> type >> word >> options;
    const bool v2 = type == "cgroup2";
    const bool v1 = type == "cgroup" && ListHas(options, "cpu");
    const std::optional<std::string>& path = v2 ? paths.v2 : paths.v1;
    if ((!v1 && !v2) || !path) continue;
    // Within a container only the part below the mount's root can be seen.
    const std::string above = mount_root == "/" ? "" : mount_root;
    const bool below = (*path + "/").compare(0, above.size() + 1, above + "/") == 0;
    const auto quota = LeastQuota(root + mount_point, below ? path->substr(above.size()) : "", v2);
    if (quota) least = std::min(least.value_or(*quota), *quota);
  }
  return least;
}

}  // namespace sched::internal
