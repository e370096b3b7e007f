// SPDX-License-Identifier: Apache-2.0
//
// Where the daemon's lines go: its own, for the operator, and those of the access log. Behind them
// are spdlog's bounded queue and its thread, so that no worker ever waits for a file, a pipe or a
// syslog daemon. What the queue has no room for, or the target does not take, is lost, and counted.
#ifndef PARKWAY_SERVER_LOGS_H_
#define PARKWAY_SERVER_LOGS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace parkway {

class Logs {
 public:
  // Pieces that may wait: a line of the operator's each, or up to some 8 KiB of the access log.
  static constexpr int kQueueMax = 512;
  // How long a target may take no more, once it took something, before what comes is lost.
  static constexpr int kPatienceMs = 1000;

  // Of --log and --access_log (log_target.h). Opens the files, for appending, and starts the
  // thread; it inherits the caller's signal mask.
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

  // Lines that were lost so far. Any thread.
  int64_t lost() const;

  // For the end, also the destructor's: writes what waits, for kPatienceMs at most. BLOCKS THE
  // THREAD. False: something is left.
  bool Drain();

 private:
  class Impl;
  explicit Logs(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_LOGS_H_
