// SPDX-License-Identifier: Apache-2.0
//
// The daemon's two logs: its own, for the operator, and the access log. Neither takes room or time
// from the other, unless both go to syslog, which is one for the process.
#ifndef PARKWAY_SERVER_LOGS_H_
#define PARKWAY_SERVER_LOGS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace parkway {

class Logs {
 public:
  // Of --log and --access_log (log_target.h). Opens the files, for appending, and starts the
  // threads; they inherit the caller's signal mask.
  // BLOCKS THE THREAD on files. Errors name the flag and the value.
  static absl::StatusOr<std::unique_ptr<Logs>> Open(const std::string& log,
                                                    const std::string& access_log);
  ~Logs();
  Logs(const Logs&) = delete;
  Logs& operator=(const Logs&) = delete;

  // A line for the operator, without its end. Files get it with the time before it. Any thread;
  // never blocks.
  void Report(const std::string& line);
  // Whole lines of the access log. Likewise.
  void Access(std::string_view lines);
  bool has_access_log() const;

  // Files are opened anew before the next line is written: somebody has renamed them. Any thread.
  void Reopen();

  // What was lost so far, a line for each log that lost any; empty: nothing was. Any thread.
  std::string Losses() const;

  // For the end, also the destructor's: writes what waits, for LogSink::kPatience at most. BLOCKS
  // THE THREAD. False: something is left.
  bool Drain();

 private:
  class Impl;
  explicit Logs(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_LOGS_H_
