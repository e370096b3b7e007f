// SPDX-License-Identifier: Apache-2.0
//
// How much CPU time the cgroups of this process grant it: what `docker run --cpus`, Kubernetes
// limits and systemd's CPUQuota= set.
#ifndef PARKWAY_SCHED_INTERNAL_CPU_QUOTA_H_
#define PARKWAY_SCHED_INTERNAL_CPU_QUOTA_H_

#include <optional>
#include <string>

namespace sched::internal {

// In CPUs: the least quota between the process's cgroup and the top of what is mounted, of either
// version of cgroups (cgroups(7)); nullopt where none holds. `root` is put before every path, for
// tests. Blocks the thread on files.
std::optional<double> CpuQuota(const std::string& root = "");

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_CPU_QUOTA_H_
