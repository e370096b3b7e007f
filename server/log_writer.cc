// SPDX-License-Identifier: Apache-2.0
#include "server/log_writer.h"

#include <pthread.h>

#include <algorithm>
#include <system_error>
#include <utility>

namespace parkway {
namespace {

size_t Weight(std::string_view lines) { return std::max(lines.size(), LogWriter::kPieceBytes); }

}  // namespace

LogWriter::LogWriter(std::unique_ptr<LogSink> sink, OnTrouble on_trouble)
    : sink_(std::move(sink)),
      on_trouble_(std::move(on_trouble)),
      written_(sched::Host::Real().NewEvent()) {}

absl::StatusOr<std::unique_ptr<LogWriter>> LogWriter::Start(std::unique_ptr<LogSink> sink,
                                                            OnTrouble on_trouble) {
  std::unique_ptr<LogWriter> writer(new LogWriter(std::move(sink), std::move(on_trouble)));
  try {
    writer->StartThread();
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(std::string("cannot start its thread: ") + error.what());
  }
  return writer;
}

void LogWriter::StartThread() {
  pool_ = std::make_shared<spdlog::details::thread_pool>(
      kQueueBytes / kPieceBytes, 1, [] { (void)pthread_setname_np(pthread_self(), "log"); });
  const std::shared_ptr<spdlog::sinks::sink> self(std::shared_ptr<void>(), this);
  logger_ = std::make_shared<spdlog::async_logger>("", self, pool_,
                                                   spdlog::async_overflow_policy::overrun_oldest);
}

// spdlog's queue is as long as the weights allow here, so it never drops anything itself: that
// would be the oldest, of which it is not known how many lines it holds.
void LogWriter::Post(std::string_view lines) {
  const size_t weight = Weight(lines);
  if (waiting_.fetch_add(weight, std::memory_order_seq_cst) + weight > kQueueBytes) {
    waiting_.fetch_sub(weight, std::memory_order_seq_cst);
    return Lose(lines, "its queue is full");
  }
  logger_->log(spdlog::level::info, lines);
}

void LogWriter::Reopen() {
  reopen_.store(true, std::memory_order_seq_cst);
  Post("");
}

void LogWriter::log(const spdlog::details::log_msg& message) {
  if (reopen_.exchange(false, std::memory_order_seq_cst)) {
    if (const std::string why = sink_->Reopen(); !why.empty()) on_trouble_(why, false);
  }
  const std::string_view lines(message.payload.data(), message.payload.size());
  std::string_view rest = lines;
  const std::string why = sink_->Write(rest);
  if (!rest.empty()) Lose(rest, why);
  waiting_.fetch_sub(Weight(lines), std::memory_order_seq_cst);
  written_->Set();
}

void LogWriter::Lose(std::string_view lines, const std::string& why) {
  const int64_t count = std::count(lines.begin(), lines.end(), '\n');
  lost_.fetch_add(count, std::memory_order_relaxed);
  if (count > 0) on_trouble_(why, true);
}

bool LogWriter::DrainUntil(sched::Deadline deadline) {
  bool in_time = true;
  while (waiting_.load(std::memory_order_seq_cst) > 0 && in_time) {
    in_time = written_->WaitUntil(deadline);
  }
  return waiting_.load(std::memory_order_seq_cst) == 0;
}

}  // namespace parkway
