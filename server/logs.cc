// SPDX-License-Identifier: Apache-2.0
#include "server/logs.h"

#include <syslog.h>

#include <atomic>
#include <utility>

#include "sched/clock.h"
#include "sched/host.h"
#include "server/log_target.h"
#include "server/log_writer.h"
#include "server/report_limit.h"
#include "server/rfc3339.h"

namespace parkway {
namespace {

constexpr std::string_view kTitle = "parkway: ";

sched::Deadline Now() { return sched::Host::Real().Now(); }

std::string TimeNow() {
  std::string text(kRfc3339Bytes, ' ');
  WriteRfc3339(sched::Host::Real().WallNow(), text.data());
  return text;
}

absl::StatusOr<std::unique_ptr<LogWriter>> Open(const std::string& flag, const std::string& target,
                                                int syslog_priority,
                                                LogWriter::OnTrouble on_trouble) {
  const auto error = [&](const absl::Status& status) {
    return absl::InvalidArgumentError(flag + ": " + std::string(status.message()));
  };
  absl::StatusOr<std::unique_ptr<LogSink>> sink = OpenLogSink(target, syslog_priority);
  if (!sink.ok()) return error(sink.status());
  auto writer = LogWriter::Start(*std::move(sink), std::move(on_trouble));
  if (!writer.ok()) return error(writer.status());
  return writer;
}

}  // namespace

class Logs::Impl {
 public:
  Impl(const std::string& log, const std::string& access_log)
      : log_flag_("--log=" + log),
        access_flag_("--access_log=" + access_log),
        before_line_(log == "syslog" ? "" : kTitle),  // which syslog adds itself
        has_time_(IsLogFile(log)) {}

  absl::Status Open(const std::string& log, const std::string& access_log) {
    // Of its own losses the next line tells.
    const auto log_trouble = [this](const std::string& why, bool lost_lines) {
      if (!lost_lines) Report(log_flag_ + ": " + why);
    };
    auto writer = parkway::Open(log_flag_, log, LOG_WARNING, log_trouble);
    if (!writer.ok()) return writer.status();
    log_ = *std::move(writer);
    if (access_log == "off") return absl::OkStatus();
    const auto access_trouble = [this](const std::string& why, bool lost_lines) {
      if (!lost_lines) return Report(access_flag_ + ": " + why);
      if (losses_.Note(Now()) > 0)
        Report(access_flag_ + ": " + why + " (" + Lost(*access_log_) + ")");
    };
    writer = parkway::Open(access_flag_, access_log, LOG_INFO, access_trouble);
    if (!writer.ok()) return writer.status();
    access_log_ = *std::move(writer);
    return absl::OkStatus();
  }

  void Report(const std::string& line) {
    std::string lines;
    const int64_t lost = log_->lost();
    if (lost_told_.exchange(lost, std::memory_order_relaxed) != lost) {
      AddLine(log_flag_ + ": " + Lost(*log_), lines);
    }
    AddLine(line, lines);
    log_->Post(lines);
  }

  LogWriter* access_log() const { return access_log_.get(); }

  void Reopen() {
    log_->Reopen();
    if (access_log_ != nullptr) access_log_->Reopen();
  }

  bool Drain() {
    const sched::Deadline until = sched::After(Now(), LogSink::kPatience);
    const bool access_drained = access_log_ == nullptr || access_log_->DrainUntil(until);
    return log_->DrainUntil(until) && access_drained;  // which may have told of losses
  }

  // What was lost, a line for each log.
  std::string Losses() const {
    std::string lines;
    for (const auto& [flag, writer] :
         {std::pair(&log_flag_, &log_), {&access_flag_, &access_log_}}) {
      if (*writer == nullptr || (*writer)->lost() == 0) continue;
      lines += std::string(kTitle) + *flag + ": " + Lost(**writer) + "\n";
    }
    return lines;
  }

 private:
  static std::string Lost(const LogWriter& writer) {
    return std::to_string(writer.lost()) + " lines lost so far";
  }
  void AddLine(const std::string& line, std::string& lines) const {
    if (has_time_) lines.append(TimeNow()).append(" ");
    lines.append(before_line_).append(line).append("\n");
  }

  const std::string log_flag_;
  const std::string access_flag_;
  const std::string before_line_;
  const bool has_time_;
  ReportLimit losses_;                 // of the access log
  std::atomic<int64_t> lost_told_{0};  // relaxed: of the operator's log, as it said last
  std::unique_ptr<LogWriter> log_;
  std::unique_ptr<LogWriter> access_log_;  // nullptr: off. Goes first: it reports to the other
};

Logs::Logs(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// A thread may be blocked in its sink for ever: then it is left to the end of the process, with all
// that it uses.
Logs::~Logs() {
  if (!impl_->Drain()) (void)impl_.release();
}

absl::StatusOr<std::unique_ptr<Logs>> Logs::Open(const std::string& log,
                                                 const std::string& access_log) {
  auto impl = std::make_unique<Impl>(log, access_log);
  if (const absl::Status opened = impl->Open(log, access_log); !opened.ok()) return opened;
  return std::unique_ptr<Logs>(new Logs(std::move(impl)));
}

void Logs::Report(const std::string& line) { impl_->Report(line); }
void Logs::Access(std::string_view lines) { impl_->access_log()->Post(lines); }
bool Logs::has_access_log() const { return impl_->access_log() != nullptr; }
void Logs::Reopen() { impl_->Reopen(); }
std::string Logs::Losses() const { return impl_->Losses(); }
bool Logs::Drain() { return impl_->Drain(); }

}  // namespace parkway
