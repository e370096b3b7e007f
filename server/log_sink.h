// SPDX-License-Identifier: Apache-2.0
//
// Where lines of a log end up: a stream, a file, syslog or nowhere. Each sink belongs to one
// thread, which it may block.
#ifndef PARKWAY_SERVER_LOG_SINK_H_
#define PARKWAY_SERVER_LOG_SINK_H_

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "sched/clock.h"

namespace parkway {

class LogSink {
 public:
  // How long a pipe or a terminal may take nothing before what comes is lost, until it takes
  // something again.
  static constexpr sched::Duration kPatience = std::chrono::seconds(1);

  virtual ~LogSink() = default;

  // Writes whole lines and removes them from `lines`; what is left in it is lost, for the reason
  // returned: the first of them may be cut short, and is ended before the next is written.
  // Syslog may block for as long as its daemon stands still.
  virtual std::string Write(std::string_view& lines) = 0;
  // Opens a file anew, which somebody has renamed. Why it cannot be, which leaves the old one; else
  // empty.
  virtual std::string Reopen() { return ""; }
};

// Of a target that CheckLogTarget (log_target.h) has found good. A file is opened, for appending.
// An error says what is wrong, without the target.
absl::StatusOr<std::unique_ptr<LogSink>> OpenLogSink(const std::string& target,
                                                     int syslog_priority);

}  // namespace parkway

#endif  // PARKWAY_SERVER_LOG_SINK_H_
