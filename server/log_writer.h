// SPDX-License-Identifier: Apache-2.0
//
// A log: a sink, its thread and the bounded queue before it, both spdlog's, so that nobody waits
// for a file, a pipe or a syslog daemon. What the queue has no room for, or the sink does not take,
// is lost, and counted.
#ifndef PARKWAY_SERVER_LOG_WRITER_H_
#define PARKWAY_SERVER_LOG_WRITER_H_

#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "sched/clock.h"
#include "sched/host.h"
#include "server/log_sink.h"

namespace parkway {

class LogWriter final : private spdlog::sinks::sink {
 public:
  // What may wait. A piece counts for kPieceBytes at least, so that their number is bounded, too.
  static constexpr size_t kQueueBytes = 4 << 20;
  static constexpr size_t kPieceBytes = 4 << 10;

  // Told what went wrong, and whether lines were lost by it. Any thread; must not block.
  using OnTrouble = std::function<void(const std::string& why, bool lost_lines)>;

  // Starts the thread; it inherits the caller's signal mask. Errors: there are too many threads.
  static absl::StatusOr<std::unique_ptr<LogWriter>> Start(std::unique_ptr<LogSink> sink,
                                                          OnTrouble on_trouble);
  // What still waits is written, which BLOCKS THE THREAD for as long as the sink does (DrainUntil).
  ~LogWriter() override = default;

  // Whole lines, each with its end. Any thread; never blocks.
  void Post(std::string_view lines);
  // The sink is opened anew before the next lines are written. Likewise.
  void Reopen();
  // Lines that were lost so far. Any thread.
  int64_t lost() const { return lost_.load(std::memory_order_relaxed); }

  // BLOCKS THE THREAD until nothing waits. False: something did at `deadline`.
  bool DrainUntil(sched::Deadline deadline);

 private:
  LogWriter(std::unique_ptr<LogSink> sink, OnTrouble on_trouble);
  void StartThread();
  void Lose(std::string_view lines, const std::string& why);

  // By spdlog, on its thread.
  void log(const spdlog::details::log_msg& message) override;
  void flush() override {}
  void set_pattern(const std::string& /*pattern*/) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter> /*formatter*/) override {}

  const std::unique_ptr<LogSink> sink_;
  const OnTrouble on_trouble_;
  const std::unique_ptr<sched::Host::Event> written_;
  std::atomic<int64_t> lost_{0};     // statistics
  std::atomic<size_t> waiting_{0};   // the weight of what was posted and is not yet written
  std::atomic<bool> reopen_{false};  // asked for; the next piece sees it
  std::shared_ptr<spdlog::async_logger> logger_;
  std::shared_ptr<spdlog::details::thread_pool> pool_;  // last: its thread uses the others
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_LOG_WRITER_H_
