// SPDX-License-Identifier: Apache-2.0
#include "server/logs.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/syslog_sink.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "sched/clock.h"
#include "sched/host.h"
#include "server/log_target.h"
#include "server/report_limit.h"
#include "server/rfc3339.h"

namespace parkway {
namespace {

constexpr std::string_view kTitle = "parkway: ";

// Owner and group may read: lines name clients.
constexpr mode_t kFileMode = 0640;

// Without O_NONBLOCK a pipe that nobody reads would stop the start.
int OpenForAppending(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, kFileMode);
}

std::string OpenError(int error) {
  return error == ENXIO ? "nobody reads this pipe" : std::strerror(error);
}

int64_t CountLines(std::string_view lines) { return std::count(lines.begin(), lines.end(), '\n'); }

// Where lines go. Of the logging thread alone, where not said otherwise.
class Target : public spdlog::sinks::sink {
 public:
  // `on_lost` is told how many lines were lost, and why.
  using OnLost = std::function<void(int64_t lines, const std::string& why)>;

  explicit Target(OnLost on_lost) : on_lost_(std::move(on_lost)) {}

  // Writes whole lines. 0, or the errno that kept some of them from being written, which are lost.
  virtual int Write(std::string_view& lines) = 0;
  virtual void Reopen() {}

  // Any thread.
  void RequestReopen() { reopen_.store(true, std::memory_order_seq_cst); }

  void log(const spdlog::details::log_msg& message) final {
    if (reopen_.exchange(false, std::memory_order_seq_cst)) Reopen();
    std::string_view rest(message.payload.data(), message.payload.size());
    const int error = Write(rest);
    if (!rest.empty()) Lose(CountLines(rest), std::strerror(error));
    on_written_();
  }
  void set_on_written(std::function<void()> on_written) { on_written_ = std::move(on_written); }
  void flush() final {}
  void set_pattern(const std::string&) final {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) final {}

 protected:
  void Lose(int64_t lines, const std::string& why) const { on_lost_(lines, why); }

 private:
  const OnLost on_lost_;
  std::function<void()> on_written_;
  std::atomic<bool> reopen_{false};
};

class NoTarget final : public Target {
 public:
  using Target::Target;
  int Write(std::string_view& lines) override {
    lines = {};
    return 0;
  }
};

// A descriptor: stdout, stderr or a file's own.
class Stream : public Target {
 public:
  Stream(int fd, OnLost on_lost) : Target(std::move(on_lost)), fd_(fd) {}

  int Write(std::string_view& lines) override {
    if (is_torn_ && WriteAll("\n") == 0) is_torn_ = false;
    const size_t size = lines.size();
    const int error = WriteAll(lines);
    if (!lines.empty() && lines.size() < size) is_torn_ = true;
    return error;
  }

 protected:
  int fd() const { return fd_; }
  void set_fd(int fd) { fd_ = fd; }

 private:
  int WriteAll(std::string_view&& lines) { return WriteAll(lines); }
  // In pieces of which a pipe takes the whole at once, once it takes any: others may share it, so
  // that it cannot be made non-blocking.
  int WriteAll(std::string_view& lines) {
    while (!lines.empty()) {
      if (!IsReady()) return EAGAIN;
      const ssize_t written = write(fd_, lines.data(), std::min<size_t>(lines.size(), PIPE_BUF));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return errno;
      lines.remove_prefix(static_cast<size_t>(written));
    }
    return 0;
  }

  bool IsReady() {
    pollfd asked = {.fd = fd_, .events = POLLOUT, .revents = 0};
    is_stuck_ = poll(&asked, 1, is_stuck_ ? 0 : Logs::kPatienceMs) <= 0;
    return !is_stuck_;
  }

  int fd_;
  bool is_stuck_ = false;  // it took nothing when it was last waited for
  bool is_torn_ = false;   // what it took last is not a whole line
};

class File final : public Stream {
 public:
  File(std::string path, int fd, OnLost on_lost)
      : Stream(fd, std::move(on_lost)), path_(std::move(path)) {}
  ~File() override { close(fd()); }

  // What cannot be opened leaves the old one.
  void Reopen() override {
    const int opened = OpenForAppending(path_);
    if (opened < 0) return Lose(0, "cannot be opened anew: " + OpenError(errno));
    close(fd());
    set_fd(opened);
  }

 private:
  const std::string path_;
};

class Syslog final : public Target {
 public:
  Syslog(spdlog::level::level_enum level, OnLost on_lost)
      : Target(std::move(on_lost)), level_(level) {}

  int Write(std::string_view& lines) override {
    while (!lines.empty()) {
      std::string_view line = lines.substr(0, lines.find('\n'));
      lines.remove_prefix(std::min(line.size() + 1, lines.size()));
      if (line.starts_with(kTitle)) line.remove_prefix(kTitle.size());
      sink_.log({"", level_, line});
    }
    return 0;
  }

 private:
  const spdlog::level::level_enum level_;
  spdlog::sinks::syslog_sink_st sink_{"parkway", LOG_PID, LOG_DAEMON, /*enable_formatting=*/false};
};

absl::StatusOr<std::shared_ptr<Target>> OpenTarget(const std::string& flag,
                                                   const std::string& target,
                                                   spdlog::level::level_enum level,
                                                   Target::OnLost on_lost) {
  if (target == "stdout") return std::make_shared<Stream>(STDOUT_FILENO, std::move(on_lost));
  if (target == "stderr") return std::make_shared<Stream>(STDERR_FILENO, std::move(on_lost));
  if (target == "syslog") return std::make_shared<Syslog>(level, std::move(on_lost));
  if (!IsLogFile(target)) return std::make_shared<NoTarget>(std::move(on_lost));
  const int fd = OpenForAppending(target);
  if (fd < 0) return absl::InvalidArgumentError(flag + target + ": " + OpenError(errno));
  return std::make_shared<File>(target, fd, std::move(on_lost));
}

}  // namespace

class Logs::Impl {
 public:
  absl::Status Open(const std::string& log, const std::string& access_log) {
    const auto count = [this](int64_t lines, const std::string&) { Lose(lines); };
    auto target = OpenTarget("--log=", log, spdlog::level::warn, count);
    if (!target.ok()) return target.status();
    operator_ = *std::move(target);
    has_time_ = IsLogFile(log);
    const auto tell = [this, access_log](int64_t lines, const std::string& why) {
      Lose(lines);
      if (lost_reports_.Note(sched::Host::Real().Now()) == 0) return;
      Report(std::string(kTitle) + "--access_log=" + access_log + ": " + why + " (" +
             std::to_string(lost()) + " lines lost so far)");
    };
    target = OpenTarget("--access_log=", access_log, spdlog::level::info, tell);
    if (!target.ok()) return target.status();
    access_ = *std::move(target);
    has_access_log_ = access_log != "off";
    for (const auto& it : {operator_, access_}) it->set_on_written([this] { Written(); });
    pool_ = std::make_shared<spdlog::details::thread_pool>(
        kQueueMax, 1, [] { (void)pthread_setname_np(pthread_self(), "log"); });
    operator_log_ = NewLog(operator_);
    access_log_ = NewLog(access_);
    return absl::OkStatus();
  }

  void Report(const std::string& line) {
    std::string text;
    if (has_time_) {
      text.resize(kRfc3339Bytes);
      WriteRfc3339(sched::Host::Real().WallNow(), text.data());
      text += ' ';
    }
    Post(*operator_log_, text.append(line).append("\n"));
  }

  void Access(std::string_view lines) { Post(*access_log_, lines); }
  bool has_access_log() const { return has_access_log_; }

  void Reopen() {
    for (const auto& it : {operator_, access_}) it->RequestReopen();
    Post(*operator_log_, "");
    Post(*access_log_, "");
  }

  int64_t lost() const { return lost_.load(std::memory_order_relaxed); }

  bool Drain() {
    const sched::Deadline until =
        sched::After(sched::Host::Real().Now(), std::chrono::milliseconds(kPatienceMs));
    bool in_time = true;
    while (waiting_.load(std::memory_order_seq_cst) > 0 && in_time) {
      in_time = written_->WaitUntil(until);
    }
    return waiting_.load(std::memory_order_seq_cst) == 0;
  }

 private:
  std::shared_ptr<spdlog::async_logger> NewLog(const std::shared_ptr<Target>& target) const {
    return std::make_shared<spdlog::async_logger>("", target, pool_,
                                                  spdlog::async_overflow_policy::overrun_oldest);
  }

  // spdlog's queue is as long as the count here allows, so it never drops anything itself: that
  // would be the oldest, of which it is not known how many lines it holds.
  void Post(spdlog::async_logger& log, std::string_view lines) {
    if (waiting_.fetch_add(1, std::memory_order_seq_cst) >= kQueueMax) {
      waiting_.fetch_sub(1, std::memory_order_seq_cst);
      return Lose(CountLines(lines));
    }
    log.log(spdlog::level::info, lines);
  }

  void Written() {
    waiting_.fetch_sub(1, std::memory_order_seq_cst);
    written_->Set();
  }

  void Lose(int64_t lines) { lost_.fetch_add(lines, std::memory_order_relaxed); }

  std::shared_ptr<Target> operator_;
  std::shared_ptr<Target> access_;
  std::shared_ptr<spdlog::async_logger> operator_log_;
  std::shared_ptr<spdlog::async_logger> access_log_;
  bool has_time_ = false;
  bool has_access_log_ = false;
  const std::unique_ptr<sched::Host::Event> written_ = sched::Host::Real().NewEvent();
  ReportLimit lost_reports_;
  std::atomic<int64_t> lost_{0};                        // statistics
  std::atomic<int> waiting_{0};                         // posted and not yet written
  std::shared_ptr<spdlog::details::thread_pool> pool_;  // last: its thread uses the others
};

Logs::Logs(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// The thread may be blocked in a target for ever: then it is left to the end of the process, with
// all that it uses.
Logs::~Logs() {
  if (!impl_->Drain()) (void)impl_.release();
}

absl::StatusOr<std::unique_ptr<Logs>> Logs::Open(const std::string& log,
                                                 const std::string& access_log) {
  auto impl = std::make_unique<Impl>();
  if (const absl::Status opened = impl->Open(log, access_log); !opened.ok()) return opened;
  return std::unique_ptr<Logs>(new Logs(std::move(impl)));
}

void Logs::Report(const std::string& line) { impl_->Report(line); }
void Logs::Access(std::string_view lines) { impl_->Access(lines); }
bool Logs::has_access_log() const { return impl_->has_access_log(); }
void Logs::Reopen() { impl_->Reopen(); }
int64_t Logs::lost() const { return impl_->lost(); }
bool Logs::Drain() { return impl_->Drain(); }

}  // namespace parkway
