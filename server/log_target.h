// SPDX-License-Identifier: Apache-2.0
//
// What the flags of logs say. --log and --access_log name a target: off, stdout, stderr, syslog, or
// the path of a file, with a '/'.
#ifndef PARKWAY_SERVER_LOG_TARGET_H_
#define PARKWAY_SERVER_LOG_TARGET_H_

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace parkway {

// How a line of the access log is written.
enum class AccessFormat : uint8_t { kText, kJson };

inline bool IsLogFile(std::string_view target) { return target.find('/') != target.npos; }

// The error says what there is.
inline absl::Status CheckLogTarget(std::string_view target) {
  for (const std::string_view name : {"off", "stdout", "stderr", "syslog"}) {
    if (target == name) return absl::OkStatus();
  }
  const auto is_control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  if (std::any_of(target.begin(), target.end(), is_control)) {
    return absl::InvalidArgumentError("holds a control character");
  }
  if (IsLogFile(target)) return absl::OkStatus();
  return absl::InvalidArgumentError("must be off, stdout, stderr, syslog or a path with a /");
}

}  // namespace parkway

#endif  // PARKWAY_SERVER_LOG_TARGET_H_
