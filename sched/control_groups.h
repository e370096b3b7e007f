// SPDX-License-Identifier: Apache-2.0
//
// Where the kernel keeps what the control groups of this process may use: what `docker run`,
// Kubernetes limits and systemd's CPUQuota= and MemoryMax= set (cgroups(7)).
#ifndef PARKWAY_SCHED_CONTROL_GROUPS_H_
#define PARKWAY_SCHED_CONTROL_GROUPS_H_

#include <string>
#include <vector>

namespace sched {

struct ControlGroup {
  std::string folder;
  bool v2;  // of the version of cgroups, which name their files differently
};

// The process's own group and those that it is within, up to the top of what is mounted, in which
// the named controller ("cpu", "memory") may set limits; of either version. `root` is put before
// every path, for tests. Blocks the thread on files.
std::vector<ControlGroup> ControlGroups(const std::string& controller,
                                        const std::string& root = "");

}  // namespace sched

#endif  // PARKWAY_SCHED_CONTROL_GROUPS_H_
