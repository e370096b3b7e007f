// SPDX-License-Identifier: Apache-2.0
#include "server/logs.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace parkway {
namespace {

class LogsTest : public testing::Test {
 protected:
  LogsTest() { signal(SIGPIPE, SIG_IGN); }

  std::unique_ptr<Logs> Open(const std::string& log, const std::string& access_log) {
    absl::StatusOr<std::unique_ptr<Logs>> logs = Logs::Open(log, access_log);
    EXPECT_TRUE(logs.ok()) << logs.status();
    return logs.ok() ? *std::move(logs) : nullptr;
  }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string Content(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  // By the logging thread, soon.
  static void AwaitContent(const std::string& path, const std::string& expected) {
    while (Content(path) != expected) usleep(1000);  // tidy: a test that hangs says where
  }

 private:
  static std::string NewFolder() {
    std::string name = testing::TempDir() + "logs_test.XXXXXX";
    return mkdtemp(name.data());
  }
  const std::string folder_ = NewFolder();
};

TEST_F(LogsTest, AFileGetsTheOperatorsLinesWithTheirTime) {
  Open(Path("log"), "off")->Report("parkway: reloaded");
  const std::string text = Content(Path("log"));
  const std::string line = "Z parkway: reloaded\n";
  ASSERT_EQ(text.size(), std::string_view("2026-11-27T08:40:00.123456").size() + line.size());
  EXPECT_EQ(text.substr(0, 2), "20");
  EXPECT_EQ(text.substr(text.size() - line.size()), line);
}

TEST_F(LogsTest, AFileGetsTheAccessLogAsItIsBehindWhatItHolds) {
  std::ofstream(Path("access")) << "before\n";
  auto logs = Open("off", Path("access"));
  logs->Access("one\ntwo\n");
  logs.reset();
  EXPECT_EQ(Content(Path("access")), "before\none\ntwo\n");
}

TEST_F(LogsTest, OpensAFileAnewThatWasRenamed) {
  auto logs = Open("off", Path("access"));
  ASSERT_EQ(rename(Path("access").c_str(), Path("access.1").c_str()), 0);
  logs->Access("one\n");
  AwaitContent(Path("access.1"), "one\n");
  logs->Reopen();
  logs->Access("two\n");
  AwaitContent(Path("access"), "two\n");
  EXPECT_EQ(Content(Path("access.1")), "one\n");
}

TEST_F(LogsTest, SaysWhichTargetCannotBeOpened) {
  EXPECT_EQ(std::string(Logs::Open("stderr", "/nowhere/a").status().message()),
            "--access_log=/nowhere/a: No such file or directory");
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(std::string(Logs::Open(Path("pipe"), "off").status().message()),
            "--log=" + Path("pipe") + ": nobody reads this pipe");
}

// Its reader sleeps: after kPatienceMs and with the queue full lines are lost, and nobody waits.
TEST_F(LogsTest, CountsWhatAPipeDoesNotTake) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  const int reader = open(Path("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  auto logs = Open(Path("log"), Path("pipe"));
  const std::string line(999, 'x');
  constexpr int kLines = 2000;
  for (int i = 0; i < kLines; ++i) logs->Access(line + "\n");
  while (logs->lost() == 0) usleep(1000);  // tidy: until the logging thread has lost its patience
  close(reader);
  const Logs& it = *logs;
  logs->Access("last\n");
  EXPECT_GT(it.lost(), 0);
  EXPECT_LT(it.lost(), kLines);
}

TEST_F(LogsTest, SaysWhatWasLostAndWhy) {
  auto logs = Open(Path("log"), "/dev/full");
  logs->Access("one\ntwo\n");
  while (logs->lost() < 2) usleep(1000);  // tidy: until the logging thread has tried
  logs.reset();
  const std::string text = Content(Path("log"));
  EXPECT_NE(text.find("parkway: --access_log=/dev/full: No space left on device (2 lines lost so "
                      "far)\n"),
            text.npos)
      << text;
}

}  // namespace
}  // namespace parkway
