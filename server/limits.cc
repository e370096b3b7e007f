// SPDX-License-Identifier: Apache-2.0
#include "server/limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <string>

#include "absl/status/status.h"

namespace parkway {

int64_t RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;  // what every system grants
  const rlim_t soft = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = soft;
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT32_MAX));
}

int64_t SessionsFor(int64_t descriptors, Mode mode) {
  const int64_t each = mode == Mode::kProxy ? 2 : 1;
  return std::max<int64_t>((descriptors - kReservedDescriptors) / each, 1);
}

absl::StatusOr<int64_t> MaxConns(const Config& config, int64_t descriptors) {
  const int64_t allowed = SessionsFor(descriptors, config.mode);
  if (config.max_conns == 0) return allowed;
  if (config.max_conns <= allowed) return config.max_conns;
  return absl::InvalidArgumentError("--max_conns=" + std::to_string(config.max_conns) +
                                    ": the limit of " + std::to_string(descriptors) +
                                    " open files allows " + std::to_string(allowed) +
                                    "; raise it (ulimit -n, LimitNOFILE) or lower the flag");
}

}  // namespace parkway
