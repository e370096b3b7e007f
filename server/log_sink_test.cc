// SPDX-License-Identifier: Apache-2.0
#include "server/log_sink.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace parkway {
namespace {

std::unique_ptr<LogSink> Open(const std::string& target) {
  absl::StatusOr<std::unique_ptr<LogSink>> sink = OpenLogSink(target, 0);
  EXPECT_TRUE(sink.ok()) << sink.status();
  return *std::move(sink);
}

// What was not taken, and why.
std::string Write(LogSink& sink, std::string_view lines) {
  const std::string why = sink.Write(lines);
  EXPECT_EQ(why.empty(), lines.empty());
  return why.empty() ? "" : why + ": " + std::string(lines);
}

class LogSinkTest : public testing::Test {
 protected:
  LogSinkTest() {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string Content(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

 private:
  static std::string NewFolder() {
    std::string name = testing::TempDir() + "log_sink_test.XXXXXX";
    return mkdtemp(name.data());
  }
  const std::string folder_ = NewFolder();
};

// A pipe instead of stderr, read as it was written: in packets (pipe2(2), O_DIRECT).
class StderrPipe {
 public:
  StderrPipe() : stderr_(dup(STDERR_FILENO)) {
    EXPECT_EQ(pipe2(ends_, O_DIRECT | O_NONBLOCK | O_CLOEXEC), 0);
    EXPECT_EQ(dup2(ends_[1], STDERR_FILENO), STDERR_FILENO);
  }
  ~StderrPipe() {
    dup2(stderr_, STDERR_FILENO);
    for (const int fd : {ends_[0], ends_[1], stderr_}) close(fd);
  }
  std::vector<std::string> Packets() const {
    std::vector<std::string> packets;
    char packet[PIPE_BUF];
    ssize_t size = 0;
    while ((size = read(ends_[0], packet, sizeof packet)) > 0) {
      packets.emplace_back(packet, static_cast<size_t>(size));
    }
    return packets;
  }
  void Fill() const {
    while (write(ends_[1], "x", 1) == 1) {
    }
  }

 private:
  const int stderr_;
  int ends_[2];
};

TEST_F(LogSinkTest, SaysWhatIsWrongWithAFile) {
  const auto error = [](const std::string& path) {
    return std::string(OpenLogSink(path, 0).status().message());
  };
  EXPECT_EQ(error("/nowhere/a"), "No such file or directory");
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(error(Path("pipe")), "nobody reads this pipe");
}

// Others may write there as well: what is more than a pipe takes at once is parted between lines.
TEST_F(LogSinkTest, APipeGetsWholeLines) {
  const StderrPipe pipe;
  const auto sink = Open("stderr");
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += std::string(99 + i % 7, 'x') + "\n";
  EXPECT_EQ(Write(*sink, lines), "");
  const std::vector<std::string> packets = pipe.Packets();
  EXPECT_EQ(packets.size(), lines.size() / PIPE_BUF + 1);
  std::string together;
  for (const std::string& packet : packets) {
    EXPECT_EQ(packet.back(), '\n');
    together += packet;
  }
  EXPECT_EQ(together, lines);
}

TEST_F(LogSinkTest, AStuckPipeLosesWhatComesUntilItTakesSomethingAgain) {
  const StderrPipe pipe;
  const auto sink = Open("stderr");
  pipe.Fill();
  EXPECT_EQ(Write(*sink, "one\n"), "takes nothing: one\n");  // after kPatience
  EXPECT_EQ(Write(*sink, "two\n"), "takes nothing: two\n");  // at once
  (void)pipe.Packets();
  EXPECT_EQ(Write(*sink, "three\n"), "");
  EXPECT_EQ(pipe.Packets(), std::vector<std::string>{"three\n"});
}

// The disk takes `room` bytes more of a file.
class FullDisk {
 public:
  explicit FullDisk(rlim_t room) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {.rlim_cur = room, .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

TEST_F(LogSinkTest, ALineThatWasCutShortIsEnded) {
  const auto sink = Open(Path("log"));
  // Behind a hole, since the limit is also that of the test's own output.
  constexpr off_t kHole = 100 << 20;
  ASSERT_EQ(truncate(Path("log").c_str(), kHole), 0);
  {
    const FullDisk disk(kHole + 9);
    EXPECT_EQ(Write(*sink, "one\ntwo\nthree\n"), "File too large: hree\n");
    EXPECT_EQ(Write(*sink, "four\n"), "File too large: four\n");
    EXPECT_EQ(sink->Reopen(), "");  // it is the same file
  }
  EXPECT_EQ(Write(*sink, "five\n"), "");
  EXPECT_EQ(Content(Path("log")).substr(kHole), "one\ntwo\nt\nfive\n");
}

TEST_F(LogSinkTest, AFileThatIsOpenedAnewBeginsWithAWholeLine) {
  const auto sink = Open(Path("log"));
  constexpr off_t kHole = 100 << 20;
  ASSERT_EQ(truncate(Path("log").c_str(), kHole), 0);
  {
    const FullDisk disk(kHole + 2);
    EXPECT_EQ(Write(*sink, "one\n"), "File too large: e\n");
  }
  ASSERT_EQ(rename(Path("log").c_str(), Path("log.1").c_str()), 0);
  EXPECT_EQ(sink->Reopen(), "");
  EXPECT_EQ(Write(*sink, "two\n"), "");
  EXPECT_EQ(Content(Path("log")), "two\n");
}

}  // namespace
}  // namespace parkway
