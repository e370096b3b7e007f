// SPDX-License-Identifier: Apache-2.0
//
// Bytes that go from one connection to another through a pipe.
#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <string>

#include "netpoll/conn.h"
#include "netpoll/pipe.h"
#include "netpoll/testing/fixture.h"
#include "netpoll/testing/raw_socket.h"
#include "netpoll/testing/scripted_calls.h"

namespace netpoll {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPipeBytes = 16 * kPage;

class SpliceTest : public NetpollTest {
 protected:
  void SetUp() override {
    NetpollTest::SetUp();
    signal(SIGPIPE, SIG_IGN);
  }

  Pipe NewPipe(size_t bytes = kPipeBytes) { return Pipe(poller().kernel(), bytes); }
};

INSTANTIATE_TEST_SUITE_P(Workers, SpliceTest, testing::Values(1, 2));

TEST_P(SpliceTest, MovesWhatIsThereAndWaitsForMore) {
  End from = Open();
  End to = Open();
  from.peer.Send("hello");
  std::string got;
  Go(0, [&] {
    Pipe pipe = NewPipe();
    Conn::Reader reader(from.conn);
    Conn::Writer writer(to.conn);
    ASSERT_TRUE(reader.CanSplice());
    while (reader.AwaitReadable().ok()) {
      const IoResult moved = reader.TrySplice(pipe);
      if (moved.status == IoStatus::kAgain) continue;
      if (moved.status == IoStatus::kEof) break;
      ASSERT_TRUE(moved.ok()) << moved;
      EXPECT_EQ(pipe.held(), moved.bytes);
      while (!pipe.empty()) ASSERT_TRUE(writer.TrySplice(pipe).ok());
    }
    EXPECT_TRUE(writer.ShutdownWrite().ok());
  });
  EXPECT_EQ(to.peer.Receive(5), "hello");
  AwaitIdle();
  from.peer.Send("late");
  from.peer.ShutdownWrite();
  int error = 0;
  EXPECT_EQ(to.peer.ReceiveAll(&error), "late");
  EXPECT_EQ(error, 0);
  Join();
}

// A pipe is full when its slots are, however little they hold: no edge tells of what was left.
TEST_P(SpliceTest, AShortOneLeavesNothingBehind) {
  End from = Open();
  const std::string data(5 * kPage, 'x');
  from.peer.Send(data);
  On(0, [&] {
    Conn::Reader reader(from.conn);
    size_t total = 0;
    while (total < data.size()) {
      Pipe pipe = NewPipe(kPage);
      ASSERT_TRUE(reader.AwaitReadable().ok());
      const IoResult moved = reader.TrySplice(pipe);
      ASSERT_TRUE(moved.ok() || moved.status == IoStatus::kAgain) << moved;
      total += moved.bytes;
    }
    EXPECT_EQ(total, data.size());
  });
}

TEST_P(SpliceTest, AFullTargetTakesTheRestLater) {
  End from = Open();
  End to = Open();
  const std::string data(kPipeBytes / 4, 'y');
  from.peer.Send(data);
  size_t before = 0;
  Go(0, [&] {
    Pipe pipe = NewPipe();
    Conn::Reader reader(from.conn);
    Conn::Writer writer(to.conn);
    const std::string flood(size_t{1} << 20, 'x');
    for (IoResult sent; (sent = writer.TryWrite(BytesOf(flood))).ok();) before += sent.bytes;
    while (pipe.empty()) {
      ASSERT_TRUE(reader.AwaitReadable().ok());
      (void)reader.TrySplice(pipe);
    }
    const size_t held = pipe.held();
    EXPECT_EQ(writer.TrySplice(pipe).status, IoStatus::kAgain);
    EXPECT_EQ(pipe.held(), held);
    while (!pipe.empty()) {
      ASSERT_TRUE(writer.AwaitWritable().ok());
      const IoResult sent = writer.TrySplice(pipe);
      ASSERT_TRUE(sent.ok() || sent.status == IoStatus::kAgain) << sent;
    }
    to.conn.Close();
  });
  AwaitIdle();
  EXPECT_EQ(to.peer.Receive(before).size(), before);
  int error = 0;
  const std::string rest = to.peer.ReceiveAll(&error);
  EXPECT_EQ(rest.find_first_not_of('y'), std::string::npos);
  EXPECT_FALSE(rest.empty());
  Join();
}

TEST_P(SpliceTest, EndsAsReadingAndWritingDo) {
  End from = Open();
  End to = Open();
  from.peer.Send("data");
  On(0, [&] {
    Pipe pipe = NewPipe();
    Conn::Reader reader(from.conn);
    Conn::Writer writer(to.conn);
    ASSERT_TRUE(reader.AwaitReadable().ok());
    ASSERT_TRUE(reader.TrySplice(pipe).ok());
    to.conn.SetWriteDeadline(sched::kLongAgo);
    EXPECT_EQ(writer.TrySplice(pipe).status, IoStatus::kTimeout);
    to.conn.SetWriteDeadline(sched::kNever);
    to.peer.Reset();
    (void)writer.AwaitWritable();
    EXPECT_EQ(writer.TrySplice(pipe).status, IoStatus::kReset);
    EXPECT_EQ(pipe.held(), 4u);
    from.conn.Close();
    to.conn.Close();
    EXPECT_EQ(writer.TrySplice(pipe).status, IoStatus::kClosed);
    Pipe another = NewPipe();
    EXPECT_EQ(reader.TrySplice(another).status, IoStatus::kClosed);
  });
}

TEST_P(SpliceTest, NotWithAnUrgentMark) {
  End from = Open();
  IoResult result;
  Go(0, [&] {
    EXPECT_TRUE(Conn::Reader(from.conn).CanSplice());
    EXPECT_EQ(ReadText(from.conn, 100, &result), "behind");  // it has waited: the mark is known
    EXPECT_FALSE(Conn::Reader(from.conn).CanSplice());
  });
  AwaitIdle();
  from.peer.SendUrgent('!');
  from.peer.Send("behind");
  Join();
}

// What the kernel refuses.
class ScriptedSpliceTest : public SpliceTest {
 protected:
  ScriptedCalls calls_;
};

INSTANTIATE_TEST_SUITE_P(Workers, ScriptedSpliceTest, testing::Values(1));

TEST_P(ScriptedSpliceTest, APipeThatIsRefusedIsNotOpen) {
  Start(&calls_);
  calls_.Fail(Op::kPipe2, EMFILE);
  EXPECT_FALSE(NewPipe().is_open());
  calls_.Fail(Op::kSetPipeSize, EPERM);
  EXPECT_FALSE(NewPipe().is_open()) << "smaller than asked for";
  EXPECT_TRUE(NewPipe().is_open());
}

}  // namespace
}  // namespace netpoll
