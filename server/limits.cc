// SPDX-License-Identifier: Apache-2.0
#include "server/limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "server/pipe_pool.h"
#include "server/question.h"

namespace parkway {

int64_t RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;  // what every system grants
  const rlim_t soft = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = soft;
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT32_MAX));
}

int64_t ReservedDescriptors(const Config& config, int workers) {
  const auto addresses = static_cast<int64_t>(ListenAddresses(config.routes).size()) +
                         (config.embedded_backends ? 2 : 0);
  int64_t checks = 0;
  int64_t lookups = 0;
  for (const Route& route : config.routes) {
    for (const Backend& backend : route.backends) {
      constexpr size_t kOfName = 64;  // addresses at a time, which are not known yet
      if (backend.is_discovered()) lookups = 3 * int64_t{kLookupsMax};
      if (route.options.health < Health::kTcp) continue;
      checks += static_cast<int64_t>(backend.is_discovered() ? kOfName : backend.at.size());
    }
  }
  return std::max(kReservedDescriptorsMin, 64 + workers * (2 + 3 * addresses) + checks + lookups);
}

int64_t Pipes(const Config& config, int64_t descriptors) {
  const auto pipes = static_cast<int64_t>(config.splice_memory / PipePool::kPipeBytes);
  return std::min(pipes, descriptors / 64);
}

int64_t DescriptorsPerClient(const Config& config) {
  if (config.embedded_backends) return 3;
  return ModeOf(config.routes) == Mode::kProxy ? 2 : 1;
}

absl::StatusOr<int64_t> MaxConns(const Config& config, int workers, int64_t descriptors) {
  const int64_t left =
      descriptors - ReservedDescriptors(config, workers) - 2 * Pipes(config, descriptors);
  const int64_t allowed = std::max<int64_t>(left / DescriptorsPerClient(config), 1);
  if (config.max_conns == 0) return allowed;
  if (config.max_conns <= allowed) return config.max_conns;
  return absl::InvalidArgumentError("--max_conns=" + std::to_string(config.max_conns) +
                                    ": the limit of " + std::to_string(descriptors) +
                                    " open files allows " + std::to_string(allowed) +
                                    "; raise it (ulimit -n, LimitNOFILE) or lower the flag");
}

}  // namespace parkway
