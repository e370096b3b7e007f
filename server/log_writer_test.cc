// SPDX-License-Identifier: Apache-2.0
#include "server/log_writer.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace parkway {
namespace {

// A sink that takes nothing while the test holds its lock.
struct Door {
  std::mutex mu;                   // tidy: the writer's thread is no worker
  std::vector<std::string> taken;  // under mu
  std::string refusal;             // under mu
};

class DoorSink final : public LogSink {
 public:
  explicit DoorSink(Door& door) : door_(door) {}
  std::string Write(std::string_view& lines) override {
    const std::lock_guard<std::mutex> lock(door_.mu);  // tidy: as above
    if (!door_.refusal.empty()) return door_.refusal;
    door_.taken.emplace_back(std::exchange(lines, {}));
    return "";
  }

 private:
  Door& door_;
};

class LogWriterTest : public testing::Test {
 protected:
  // Posts `pieces` of `piece` while the sink takes nothing. How many lines were lost.
  int64_t LostOf(int pieces, const std::string& piece) {
    const std::lock_guard<std::mutex> lock(door_.mu);  // tidy: as above
    for (int i = 0; i < pieces; ++i) writer_->Post(piece);
    return writer_->lost();
  }
  void Drain() { EXPECT_TRUE(writer_->DrainUntil(sched::kNever)); }

  Door door_;
  std::atomic<int> told_{0};
  std::string last_;  // written before told_, read after
  const std::unique_ptr<LogWriter> writer_ =
      *LogWriter::Start(std::make_unique<DoorSink>(door_), [this](const std::string& why, bool) {
        last_ = why;
        told_.fetch_add(1);
      });
};

TEST_F(LogWriterTest, TheQueueIsBoundedInBytes) {
  constexpr int kFit = LogWriter::kQueueBytes / (8 << 10);
  const std::string piece = std::string((8 << 10) - 2, 'x') + "\n\n";
  EXPECT_EQ(LostOf(kFit, piece), 0);
  Drain();
  EXPECT_EQ(LostOf(kFit + 3, piece), 6);
  EXPECT_EQ(told_, 3);
  EXPECT_EQ(last_, "its queue is full");
  Drain();
  EXPECT_EQ(door_.taken.size(), size_t{2 * kFit});
}

TEST_F(LogWriterTest, AShortLineCountsForAPiece) {
  constexpr int kFit = LogWriter::kQueueBytes / LogWriter::kPieceBytes;
  EXPECT_EQ(LostOf(kFit + 1, "x\n"), 1);
  Drain();
  EXPECT_EQ(LostOf(kFit, "x\n"), 1);
}

TEST_F(LogWriterTest, CountsWhatTheSinkDoesNotTake) {
  door_.refusal = "full";
  EXPECT_EQ(LostOf(2, "one\ntwo\n"), 0);
  Drain();
  EXPECT_EQ(writer_->lost(), 4);
  EXPECT_EQ(told_, 2);
  EXPECT_EQ(last_, "full");
}

TEST_F(LogWriterTest, DrainingEndsAtItsDeadline) {
  const std::lock_guard<std::mutex> lock(door_.mu);  // tidy: as above
  writer_->Post("x\n");
  EXPECT_FALSE(writer_->DrainUntil(sched::kLongAgo));
}

}  // namespace
}  // namespace parkway
