// SPDX-License-Identifier: Apache-2.0
#include "server/log_sink.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "server/log_target.h"

namespace parkway {
namespace {

class NoSink final : public LogSink {
 public:
  std::string Write(std::string_view& lines) override {
    lines = {};
    return "";
  }
};

// A descriptor, of which others may hold copies, so that it cannot be made non-blocking.
class StreamSink : public LogSink {
 public:
  explicit StreamSink(int fd) { Use(fd); }

  std::string Write(std::string_view& lines) override {
    std::string_view end_of_torn = is_torn_ ? "\n" : "";
    int error = WriteAll(end_of_torn);
    if (error == 0) {
      const size_t size = lines.size();
      error = WriteAll(lines);
      is_torn_ = !lines.empty() && lines.size() < size && *(lines.data() - 1) != '\n';
    }
    if (error == 0) return "";
    return error == EAGAIN ? "takes nothing" : std::strerror(error);
  }

 protected:
  int fd() const { return fd_; }
  // From here on; what was torn or stuck before was the other one.
  void Use(int fd) {
    fd_ = fd;
    struct stat status;
    is_file_ = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    is_stuck_ = is_torn_ = false;
  }
  bool is_torn() const { return is_torn_; }

 private:
  int WriteAll(std::string_view& text) {
    while (!text.empty()) {
      if (!is_file_ && !IsReady()) return EAGAIN;
      const ssize_t written = write(fd_, text.data(), NextWrite(text));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return errno;
      text.remove_prefix(static_cast<size_t>(written));
    }
    return 0;
  }

  // Whole lines, as far as possible, so that those of others who write there come between them; and
  // no more than a pipe takes at once if it takes anything (pipe(7)).
  size_t NextWrite(std::string_view text) const {
    if (is_file_ || text.size() <= PIPE_BUF) return text.size();
    const size_t last_end = text.rfind('\n', PIPE_BUF - 1);
    return last_end == text.npos ? PIPE_BUF : last_end + 1;
  }

  bool IsReady() {
    constexpr auto kMs = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience).count();
    pollfd asked = {.fd = fd_, .events = POLLOUT, .revents = 0};
    int ready = 0;
    do {
      ready = poll(&asked, 1, is_stuck_ ? 0 : static_cast<int>(kMs));
    } while (ready < 0 && errno == EINTR);
    is_stuck_ = ready <= 0;
    return !is_stuck_;
  }

  int fd_ = -1;
  bool is_file_ = false;
  bool is_stuck_ = false;  // it took nothing when it was last waited for
  bool is_torn_ = false;   // what it took last is not a whole line
};

// Owner and group may read: lines name clients. Without O_NONBLOCK a pipe that nobody reads would
// stop the start.
int OpenForAppending(const std::string& path) {
  constexpr mode_t kMode = 0640;
  constexpr int kFlags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  return open(path.c_str(), kFlags, kMode);
}

std::string OpenError(const std::string& path, int error) {
  struct stat status;
  const bool is_pipe = stat(path.c_str(), &status) == 0 && S_ISFIFO(status.st_mode);
  return error == ENXIO && is_pipe ? "nobody reads this pipe" : std::strerror(error);
}

bool IsSameFile(int one, int other) {
  struct stat a;
  struct stat b;
  return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

class FileSink final : public StreamSink {
 public:
  FileSink(std::string path, int fd) : StreamSink(fd), path_(std::move(path)) {}
  ~FileSink() override { close(fd()); }

  std::string Reopen() override {
    const int opened = OpenForAppending(path_);
    if (opened < 0) return "cannot be opened anew: " + OpenError(path_, errno);
    if (is_torn() && IsSameFile(opened, fd())) {
      close(opened);
      return "";
    }
    close(fd());
    Use(opened);
    return "";
  }

 private:
  const std::string path_;
};

// By glibc's syslog(3), which tells nobody what it loses.
class SyslogSink final : public LogSink {
 public:
  explicit SyslogSink(int priority) : priority_(priority) {
    openlog("parkway", LOG_PID, LOG_DAEMON);
  }

  std::string Write(std::string_view& lines) override {
    while (!lines.empty()) {
      const std::string_view line = lines.substr(0, lines.find('\n'));
      syslog(priority_, "%.*s", static_cast<int>(line.size()), line.data());
      lines.remove_prefix(std::min(line.size() + 1, lines.size()));
    }
    return "";
  }

 private:
  const int priority_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LogSink>> OpenLogSink(const std::string& target,
                                                     int syslog_priority) {
  if (target == "stdout") return std::make_unique<StreamSink>(STDOUT_FILENO);
  if (target == "stderr") return std::make_unique<StreamSink>(STDERR_FILENO);
  if (target == "syslog") return std::make_unique<SyslogSink>(syslog_priority);
  if (!IsLogFile(target)) return std::make_unique<NoSink>();
  const int fd = OpenForAppending(target);
  if (fd < 0) return absl::InvalidArgumentError(OpenError(target, errno));
  return std::make_unique<FileSink>(target, fd);
}

}  // namespace parkway
