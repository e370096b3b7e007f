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

  static testing::AssertionResult Contains(const std::string& text, const std::string& part) {
    if (text.find(part) != text.npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << text;
  }

 private:
  static std::string NewFolder() {
    std::string name = testing::TempDir() + "logs_test.XXXXXX";
    return mkdtemp(name.data());
  }
  const std::string folder_ = NewFolder();
};

TEST_F(LogsTest, AFileGetsTheOperatorsLinesWithTheirTime) {
  Open(Path("log"), "off")->Report("reloaded");
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

TEST_F(LogsTest, SaysWhenAFileCannotBeOpenedAnew) {
  const std::string folder = Path("folder");
  ASSERT_EQ(mkdir(folder.c_str(), 0700), 0);
  auto logs = Open(Path("log"), folder + "/access");
  ASSERT_EQ(rename(folder.c_str(), Path("renamed").c_str()), 0);
  logs->Reopen();
  logs->Access("one\n");
  AwaitContent(Path("renamed/access"), "one\n");  // the old one
  logs.reset();
  EXPECT_TRUE(Contains(Content(Path("log")),
                       "parkway: --access_log=" + folder +
                           "/access: cannot be opened anew: No such file or directory\n"));
}

TEST_F(LogsTest, SaysWhatWasLostAndWhy) {
  auto logs = Open(Path("log"), "/dev/full");
  logs->Access("one\ntwo\n");
  while (logs->Losses().empty()) usleep(1000);  // tidy: until the logging thread has tried
  EXPECT_EQ(logs->Losses(), "parkway: --access_log=/dev/full: 2 lines lost so far\n");
  logs.reset();
  EXPECT_TRUE(Contains(Content(Path("log")),
                       "parkway: --access_log=/dev/full: No space left on device (2 lines lost so "
                       "far)\n"));
}

// Of an access log that nobody reads: the operator's lines have a queue and a thread of their own.
TEST_F(LogsTest, OneLogDoesNotTakeTheOthersPlaces) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  const int reader = open(Path("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  auto logs = Open(Path("log"), Path("pipe"));
  const std::string line = std::string(999, 'x') + "\n";
  while (logs->Losses().empty()) logs->Access(line);
  logs->Report("hello");
  while (!Contains(Content(Path("log")), "Z parkway: hello\n")) {
    usleep(1000);  // tidy: by the operator's thread, soon
  }
  EXPECT_TRUE(Contains(Content(Path("log")), "/pipe: its queue is full ("));
  close(reader);
}

}  // namespace
}  // namespace parkway
