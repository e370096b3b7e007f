// SPDX-License-Identifier: Apache-2.0
#include "sched/control_groups.h"

#include <fstream>
#include <optional>
#include <sstream>

namespace sched {
namespace {

bool ListHas(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// Where the process stands: its path in the hierarchy of version 2 and in the one of version 1 that
// has the controller. A line is "ID:CONTROLLERS:PATH", without controllers for version 2.
struct Paths {
  std::optional<std::string> v1, v2;
};

Paths OwnPaths(const std::string& controller, const std::string& root) {
  Paths paths;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) paths.v2 = line.substr(second + 1);
    if (ListHas(controllers, controller)) paths.v1 = line.substr(second + 1);
  }
  return paths;
}

// From the process's own up to the mount point.
void AddUpwards(const std::string& mount_point, std::string path, bool v2,
                std::vector<ControlGroup>& groups) {
  for (;;) {
    groups.push_back({mount_point + path, v2});
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return;
    path.resize(slash);
  }
}

}  // namespace

std::vector<ControlGroup> ControlGroups(const std::string& controller, const std::string& root) {
  const Paths paths = OwnPaths(controller, root);
  std::vector<ControlGroup> groups;
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
    const bool v1 = type == "cgroup" && ListHas(options, controller);
    const std::optional<std::string>& path = v2 ? paths.v2 : paths.v1;
    if ((!v1 && !v2) || !path) continue;
    // Within a container only the part below the mount's root can be seen.
    const std::string above = mount_root == "/" ? "" : mount_root;
    const bool below = (*path + "/").compare(0, above.size() + 1, above + "/") == 0;
    AddUpwards(root + mount_point, below ? path->substr(above.size()) : "", v2, groups);
  }
  return groups;
}

}  // namespace sched
