// SPDX-License-Identifier: Apache-2.0
#include "netpoll/conn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include "netpoll/testing/fixture.h"
#include "netpoll/testing/pattern.h"
#include "netpoll/testing/raw_socket.h"
#include "netpoll/testing/scripted_calls.h"
#include "sched/fibers.h"

namespace netpoll {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

enum class Way { kRead, kWrite };
constexpr Way kWays[] = {Way::kRead, Way::kWrite};

void SetDeadline(Conn& conn, Way way, sched::Deadline when) {
  way == Way::kRead ? conn.SetReadDeadline(when) : conn.SetWriteDeadline(when);
}

// More than any socket holds.
std::span<const std::byte> Flood() {
  static const std::vector<std::byte> kFlood(size_t{24} << 20);
  return kFlood;
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

// An address of this machine where nobody listens: the port belongs to a connection.
struct RefusingAddress {
  std::pair<RawSocket, RawSocket> pair = ConnectedPair();
  Endpoint at = pair.first.local();
};

class ConnTest : public NetpollTest {
 protected:
  // Starts an operation that blocks for want of bytes or of room, and waits until it does.
  void Block(int worker, Conn& conn, Way way, IoResult* result) {
    Go(worker, [&conn, way, result] {
      std::byte byte;
      *result = way == Way::kRead ? conn.Read({&byte, 1}) : conn.Write(Flood());
    });
    AwaitIdle();
  }

  // The same for good on one worker, which it returns: it cannot run while another fiber computes
  // there.
  int BlockPinned(Conn& conn, IoResult* result) {
    std::atomic<int> home = -1;
    Go(0, [&conn, &home, result] {
      const sched::PinToWorker pin;
      home = sched::CurrentWorkerIndex();
      std::byte byte;
      *result = conn.Read({&byte, 1});
    });
    AwaitIdle();
    return home;
  }

  std::string ReadOnce(Conn& conn) {
    std::string text;
    On(0, [&] {
      IoResult result;
      text = ReadText(conn, 100, &result);
      EXPECT_TRUE(result.ok()) << result;
    });
    return text;
  }
};

INSTANTIATE_TEST_SUITE_P(Workers, ConnTest, testing::Values(1, 2, 8));

// --- Reading.

TEST_P(ConnTest, ReadReturnsWhatIsThere) {
  End end = Open();
  end.peer.Send("hello");
  EXPECT_EQ(ReadOnce(end.conn), "hello");
}

TEST_P(ConnTest, ReadWaitsForBytes) {
  End end = Open();
  std::string text;
  std::atomic<bool> done = false;
  Go(Elsewhere(), [&] {
    IoResult result;
    text = ReadText(end.conn, 100, &result);
    EXPECT_TRUE(result.ok()) << result;
    done = true;
  });
  AwaitIdle();
  EXPECT_FALSE(done);
  end.peer.Send("late");
  Join();
  EXPECT_EQ(text, "late");
}

TEST_P(ConnTest, AnEmptyBufferReturnsAtOnce) {
  End end = Open();
  On(0, [&] {
    const IoResult read = end.conn.Read({});
    EXPECT_TRUE(read.ok() && read.bytes == 0) << read;
    const IoResult written = end.conn.Write({});
    EXPECT_TRUE(written.ok() && written.bytes == 0) << written;
  });
}

TEST_P(ConnTest, ReadvFillsTheBuffersInOrder) {
  End end = Open();
  end.peer.Send("abcdefg");
  On(0, [&] {
    char first[3];
    char second[10];
    const iovec buffers[] = {{first, sizeof first}, {second, sizeof second}};
    const IoResult result = end.conn.Readv(buffers);
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_EQ(result.bytes, 7u);
    EXPECT_EQ(std::string(first, 3) + std::string(second, 4), "abcdefg");
  });
}

TEST_P(ConnTest, TryReadSaysAgainInsteadOfWaiting) {
  End end = Open();
  On(0, [&] {
    std::byte buffer[10];
    const IoResult nothing = end.conn.TryRead(buffer);
    EXPECT_EQ(nothing.status, IoStatus::kAgain);
    EXPECT_EQ(nothing.bytes, 0u);
    end.peer.Send("now");
    EXPECT_TRUE(end.conn.AwaitReadable().ok());
    const IoResult result = end.conn.TryRead(buffer);
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_EQ(TextOf({buffer, result.bytes}), "now");
  });
}

TEST_P(ConnTest, AwaitReadableWakesForBytesAndForTheEnd) {
  End end = Open();
  std::atomic<int> woken = 0;
  Go(0, [&] {
    Conn::Reader reader(end.conn);
    std::byte buffer[10];
    while (reader.TryRead(buffer).status != IoStatus::kEof) {
      EXPECT_TRUE(reader.AwaitReadable().ok());
      ++woken;
    }
  });
  AwaitIdle();
  const int before = woken;
  end.peer.Send("x");
  AwaitIdle();
  EXPECT_GT(woken, before);
  end.peer.ShutdownWrite();
  Join();
}

TEST_P(ConnTest, TheEndStaysTheEnd) {
  End end = Open();
  end.peer.Send("last");
  end.peer.ShutdownWrite();
  On(0, [&] {
    IoResult result;
    EXPECT_EQ(ReadToEnd(end.conn, &result), "last");
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(result.status, IoStatus::kEof) << result;
      (void)ReadText(end.conn, 10, &result);
    }
    EXPECT_FALSE(end.conn.broken());
  });
}

TEST_P(ConnTest, WhatCameBeforeAResetIsReadFirst) {
  End end = Open();
  end.peer.Send("data");
  end.peer.Reset();
  On(0, [&] {
    IoResult result;
    EXPECT_EQ(ReadToEnd(end.conn, &result), "data");
    EXPECT_EQ(result.status, IoStatus::kReset);
    EXPECT_EQ(result.os_error, ECONNRESET);
  });
}

TEST_P(ConnTest, AResetWakesABlockedReader) {
  End end = Open();
  IoResult result;
  Block(Elsewhere(), end.conn, Way::kRead, &result);
  On(0, [&] { EXPECT_FALSE(end.conn.broken()); });
  end.peer.Reset();
  Join();
  EXPECT_EQ(result.status, IoStatus::kReset);
  EXPECT_EQ(result.os_error, ECONNRESET);
  On(0, [&] { EXPECT_TRUE(end.conn.broken()); });
}

TEST_P(ConnTest, ASecondReaderGetsItsTurn) {
  End end = Open();
  std::atomic<char> got[2] = {};
  for (std::atomic<char>& mine : got) {
    Go(&mine == got ? 0 : Elsewhere(), [&] {
      IoResult result;
      mine = ReadText(end.conn, 1, &result).front();
    });
    AwaitIdle();
  }
  end.peer.Send("a");
  AwaitIdle();
  EXPECT_EQ(got[0], 'a');
  EXPECT_EQ(got[1], 0);
  end.peer.Send("b");
  Join();
  EXPECT_EQ(got[1], 'b');
}

TEST_P(ConnTest, ReadersInLineAreClosedWithTheFirst) {
  End end = Open();
  std::array<IoResult, 4> results;
  for (IoResult& result : results) Block(Elsewhere(), end.conn, Way::kRead, &result);
  On(0, [&] { end.conn.Close(); });
  Join();
  for (const IoResult& result : results) EXPECT_EQ(result.status, IoStatus::kClosed) << result;
}

// --- Waiting without a stack.

// Reads until the end, as text, and hibernates in between.
struct SleepingReader : sched::Continuation {
  explicit SleepingReader(Conn& conn_in) : conn(conn_in) { resume = &Start; }

  static void Start(sched::Continuation* self) {
    auto& reader = static_cast<SleepingReader&>(*self);
    Conn::Reader held(reader.conn);
    reader.resume = &Resume;
    reader.ReadOn(held, held.AwaitReadableOr(reader));
  }
  static void Resume(sched::Continuation* self) {
    auto& reader = static_cast<SleepingReader&>(*self);
    ++reader.woken;
    Conn::Reader held(reader.conn, Hibernated());
    reader.ReadOn(held, held.Woken());
  }
  void ReadOn(Conn::Reader& held, IoResult waited) {
    std::array<std::byte, 64> buffer;
    while (waited.ok() || waited.status == IoStatus::kAgain) {
      if (waited.ok()) waited = held.TryRead(buffer);
      text += TextOf(std::span(buffer).first(waited.bytes));
      bytes = text.size();
      if (waited.ok() || waited.status == IoStatus::kAgain) waited = held.AwaitReadableOr(*this);
    }
    result = waited;
  }

  Conn& conn;
  std::string text;  // for after Join
  std::atomic<size_t> bytes = 0;
  std::atomic<int> woken = 0;
  IoResult result;
};

TEST_P(ConnTest, AReaderThatHibernatesIsWokenByBytesAndTheEnd) {
  End end = Open();
  SleepingReader reader(end.conn);
  ASSERT_TRUE(scheduler().SpawnOn(0, reader));
  AwaitIdle();
  EXPECT_EQ(reader.bytes, 0u);
  EXPECT_EQ(reader.woken, 0);
  end.peer.Send("some");
  AwaitIdle();
  EXPECT_EQ(reader.bytes, 4u);
  EXPECT_EQ(reader.woken, 1);
  end.peer.Send(" more");
  AwaitIdle();
  end.peer.ShutdownWrite();
  Join();
  EXPECT_EQ(reader.text, "some more");
  EXPECT_EQ(reader.result.status, IoStatus::kEof);
}

TEST_P(ConnTest, AReaderThatHibernatesIsWokenByCloseAndStillHolds) {
  End end = Open();
  SleepingReader reader(end.conn);
  ASSERT_TRUE(scheduler().SpawnOn(0, reader));
  AwaitIdle();
  IoResult second;
  Block(Elsewhere(), end.conn, Way::kRead, &second);  // in line behind it
  On(Elsewhere(), [&] { end.conn.Close(); });
  Join();
  EXPECT_EQ(reader.result.status, IoStatus::kClosed);
  EXPECT_EQ(second.status, IoStatus::kClosed);
}

TEST_P(ConnTest, AReaderThatHibernatesKeepsItsDeadlineAlsoWhenItMoves) {
  End end = Open();
  SleepingReader reader(end.conn);
  On(0, [&] { end.conn.SetReadDeadline(sched::kNever); });
  ASSERT_TRUE(scheduler().SpawnOn(0, reader));
  AwaitIdle();
  // A passed deadline that is moved before the reader gets to look: it waits on.
  ExactlyOn(0, [&] {
    end.conn.SetReadDeadline(sched::kLongAgo);
    end.conn.SetReadDeadline(sched::kNever);
  });
  AwaitIdle();
  EXPECT_EQ(reader.woken, 1);
  EXPECT_EQ(reader.bytes, 0u);
  end.peer.Send("x");
  AwaitIdle();
  EXPECT_EQ(reader.bytes, 1u);
  On(Elsewhere(), [&] { end.conn.SetReadDeadline(sched::After(sched::Now(), milliseconds(5))); });
  Join();
  EXPECT_EQ(reader.result.status, IoStatus::kTimeout);
}

// --- Writing.

TEST_P(ConnTest, WriteSendsAllThoughThePeerIsSlow) {
  End end = Open();
  std::vector<std::byte> data(size_t{16} << 20);
  FillPattern(1, 0, data);
  IoResult result;
  std::atomic<bool> done = false;
  Go(Elsewhere(), [&] {
    result = end.conn.Write(data);
    done = true;
    EXPECT_TRUE(end.conn.ShutdownWrite().ok());
  });
  AwaitIdle();
  EXPECT_FALSE(done);
  int error;
  const std::string received = end.peer.ReceiveAll(&error);
  Join();
  EXPECT_EQ(error, 0);
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(result.bytes, data.size());
  EXPECT_EQ(received.size(), data.size());
  EXPECT_EQ(PatternMismatch(1, 0, BytesOf(received)), received.size());
}

TEST_P(ConnTest, WritevSendsAllBuffersInOrder) {
  End end = Open();
  // Empty ones among them, and one that cannot go out in one piece.
  std::string parts[] = {"", "ab", "", std::string(12 << 20, 'c'), "de", ""};
  std::string expected;
  std::vector<iovec> buffers;
  for (std::string& part : parts) {
    buffers.push_back({part.data(), part.size()});
    expected += part;
  }
  Go(Elsewhere(), [&] {
    const IoResult result = end.conn.Writev(buffers);
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_EQ(result.bytes, expected.size());
  });
  AwaitIdle();
  EXPECT_TRUE(end.peer.Receive(expected.size()) == expected);
  Join();
}

TEST_P(ConnTest, TryWriteTakesWhatFitsAndThenSaysAgain) {
  End end = Open();
  size_t written = 0;
  On(0, [&] {
    Conn::Writer writer(end.conn);
    IoResult result;
    while ((result = writer.TryWrite(Flood())).ok()) {
      EXPECT_GT(result.bytes, 0u);
      written += result.bytes;
    }
    EXPECT_EQ(result.status, IoStatus::kAgain);
    EXPECT_EQ(result.bytes, 0u);
  });
  Go(0, [&] {
    Conn::Writer writer(end.conn);
    IoResult result;
    while ((result = writer.TryWrite(BytesOf("x"))).status == IoStatus::kAgain) {
      EXPECT_TRUE(writer.AwaitWritable().ok());
    }
    EXPECT_TRUE(result.ok()) << result;
  });
  AwaitIdle();
  const std::string received = end.peer.Receive(written + 1);
  EXPECT_EQ(received.size(), written + 1);
  EXPECT_EQ(received.back(), 'x');
  Join();
}

TEST_P(ConnTest, ShutdownWriteEndsOneDirectionOnly) {
  End end = Open();
  On(0, [&] {
    EXPECT_TRUE(end.conn.Write(BytesOf("question")).ok());
    EXPECT_TRUE(end.conn.ShutdownWrite().ok());
  });
  int error;
  EXPECT_EQ(end.peer.ReceiveAll(&error), "question");
  EXPECT_EQ(error, 0);
  end.peer.Send("answer");
  EXPECT_EQ(ReadOnce(end.conn), "answer");
}

TEST_P(ConnTest, WritingToAPeerThatIsGoneIsAnErrorAndNoSignal) {
  std::signal(SIGPIPE, SIG_DFL);
  End end = Open();
  IoResult read;
  Block(0, end.conn, Way::kRead, &read);
  end.peer.Reset();
  Join();
  On(0, [&] {
    const IoResult written = end.conn.Write(BytesOf("x"));
    EXPECT_EQ(written.status, IoStatus::kReset);
    EXPECT_EQ(written.os_error, EPIPE);
    const iovec buffer = {const_cast<char*>("x"), 1};
    EXPECT_EQ(end.conn.Writev({&buffer, 1}).os_error, EPIPE);
  });
}

TEST_P(ConnTest, AResetWakesABlockedWriterWhichSaysHowMuchWentOut) {
  End end = Open();
  IoResult result;
  Block(Elsewhere(), end.conn, Way::kWrite, &result);
  end.peer.Reset();
  Join();
  EXPECT_EQ(result.status, IoStatus::kReset);
  EXPECT_GT(result.bytes, 0u);
  EXPECT_LT(result.bytes, Flood().size());
}

TEST_P(ConnTest, ReaderAndWriterDoNotWaitForEachOther) {
  End end = Open();
  IoResult read;
  Block(0, end.conn, Way::kRead, &read);
  On(Elsewhere(), [&] { EXPECT_TRUE(end.conn.Write(BytesOf("out")).ok()); });
  EXPECT_EQ(end.peer.Receive(3), "out");
  end.peer.Send("i");
  Join();
  EXPECT_TRUE(read.ok()) << read;
}

// --- Closing.

TEST_P(ConnTest, CloseWakesABlockedReaderAndWriter) {
  for (const int home : {0, Elsewhere()}) {
    End end = Open(home);
    IoResult read, written;
    Block(0, end.conn, Way::kRead, &read);
    Block(0, end.conn, Way::kWrite, &written);
    On(Elsewhere(), [&] { end.conn.Close(); });
    Join();
    EXPECT_EQ(read.status, IoStatus::kClosed);
    EXPECT_EQ(written.status, IoStatus::kClosed);
    EXPECT_GT(written.bytes, 0u);
  }
}

TEST_P(ConnTest, AClosedConnectionRefusesEverything) {
  End end = Open();
  On(0, [&] {
    Conn& conn = end.conn;
    EXPECT_FALSE(conn.closed());
    conn.Close();
    conn.Close();
    conn.Abort();
    EXPECT_TRUE(conn.closed());
    std::byte byte{};
    const iovec buffer = {&byte, 1};
    const IoResult results[] = {conn.Read({&byte, 1}),     conn.TryRead({&byte, 1}),
                                conn.Readv({&buffer, 1}),  conn.AwaitReadable(),
                                conn.Write({&byte, 1}),    conn.TryWrite({&byte, 1}),
                                conn.Writev({&buffer, 1}), conn.AwaitWritable(),
                                conn.ShutdownWrite(),      conn.Connect({}, sched::kNever)};
    for (const IoResult& result : results) EXPECT_EQ(result.status, IoStatus::kClosed) << result;
    conn.SetReadDeadline(sched::kLongAgo);
    EXPECT_EQ(conn.unsent_bytes(), -1);
    EXPECT_FALSE(conn.broken());
    EXPECT_EQ(conn.peer(), Endpoint());
    EXPECT_EQ(conn.local(), Endpoint());
  });
}

TEST_P(ConnTest, ADefaultConnectionIsClosed) {
  Conn conn;
  On(0, [&] {
    EXPECT_TRUE(conn.closed());
    std::byte byte;
    EXPECT_EQ(conn.Read({&byte, 1}).status, IoStatus::kClosed);
    conn.Close();
  });
}

TEST_P(ConnTest, TheLastUserGivesTheDescriptorBack) {
  End end = Open();
  std::atomic<bool> leave = false;
  Go(0, [&] {
    Conn::Reader reader(end.conn);
    while (!leave) sched::SleepFor(milliseconds(1));
    std::byte byte;
    EXPECT_EQ(reader.Read({&byte, 1}).status, IoStatus::kClosed);
  });
  AwaitThat("the reader to hold", [&] { return scheduler().stats().timers > 0; });
  On(Elsewhere(), [&] { end.conn.Close(); });
  EXPECT_TRUE(IsOpen(end.fd));  // the reader might be about to use it
  leave = true;
  Join();
  EXPECT_FALSE(IsOpen(end.fd));
}

TEST_P(ConnTest, CloseGivesTheDescriptorOfBlockedUsersBack) {
  End end = Open();
  IoResult read, written;
  Block(0, end.conn, Way::kRead, &read);
  Block(Elsewhere(), end.conn, Way::kWrite, &written);
  On(Elsewhere(), [&] { end.conn.Close(); });
  Join();
  EXPECT_FALSE(IsOpen(end.fd));
}

TEST_P(ConnTest, CloseSendsFinAndAbortSendsReset) {
  End closed = Open();
  End aborted = Open();
  On(Elsewhere(), [&] {
    EXPECT_TRUE(closed.conn.Write(BytesOf("x")).ok());
    closed.conn.Close();
    aborted.conn.Abort();
  });
  int error;
  EXPECT_EQ(closed.peer.ReceiveAll(&error), "x");
  EXPECT_EQ(error, 0);
  (void)aborted.peer.ReceiveAll(&error);
  EXPECT_EQ(error, ECONNRESET);
}

TEST_P(ConnTest, AMovedConnectionIsTheSame) {
  End end = Open();
  end.peer.Send("a");
  On(0, [&] {
    IoResult result;
    EXPECT_EQ(ReadText(end.conn, 10, &result), "a");
    Conn moved = std::move(end.conn);
    EXPECT_TRUE(end.conn.closed());
    end.peer.Send("b");
    EXPECT_EQ(ReadText(moved, 10, &result), "b");
  });
  EXPECT_FALSE(IsOpen(end.fd));
}

// --- Deadlines.

TEST_P(ConnTest, ADeadlineEndsAWait) {
  for (const Way way : kWays) {
    End end = Open(Elsewhere());
    const sched::Deadline when = Now() + milliseconds(20);
    On(0, [&] { SetDeadline(end.conn, way, when); });
    IoResult result;
    Block(0, end.conn, way, &result);
    Join();
    EXPECT_EQ(result.status, IoStatus::kTimeout) << result;
    EXPECT_GE(Now(), when);
    EXPECT_LT(Now(), when + kAtOnce);
  }
}

TEST_P(ConnTest, APeekLeavesTheBytesForTheNextRead) {
  End end = Open();
  end.peer.Send("kept");
  On(0, [&] {
    Conn::Reader reader(end.conn);
    std::byte buffer[8];
    EXPECT_TRUE(reader.AwaitReadable().ok());
    for (int i = 0; i < 2; ++i) {
      const IoResult seen = reader.TryPeek(buffer);
      EXPECT_EQ(TextOf({buffer, seen.bytes}), "kept");
    }
    EXPECT_TRUE(reader.AwaitReadable().ok()) << "they are still there";
    EXPECT_EQ(end.conn.unread_bytes(), 4);
    EXPECT_EQ(reader.TryRead({buffer, 3}).bytes, 3u);
    EXPECT_EQ(reader.TryRead(buffer).bytes, 1u);
    EXPECT_EQ(reader.TryPeek(buffer).status, IoStatus::kAgain);
  });
  end.peer.ShutdownWrite();
  On(0, [&] {
    Conn::Reader reader(end.conn);
    std::byte byte;
    EXPECT_TRUE(reader.AwaitReadable().ok());
    EXPECT_EQ(reader.TryPeek({&byte, 1}).status, IoStatus::kEof);
  });
}

// Who was told that there is something must get it, however late it comes to ask.
TEST_P(ConnTest, TryReadTakesWhatCameInTimeAlsoAfterTheDeadline) {
  End end = Open();
  end.peer.Send("kept");
  On(0, [&] {
    Conn::Reader reader(end.conn);
    std::byte buffer[8];
    EXPECT_TRUE(reader.AwaitReadable().ok());
    end.conn.SetReadDeadline(sched::kLongAgo);
    EXPECT_EQ(reader.TryRead(buffer).bytes, 4u);
    EXPECT_EQ(reader.TryRead(buffer).status, IoStatus::kAgain);
    EXPECT_EQ(reader.AwaitReadable().status, IoStatus::kTimeout);
  });
}

TEST_P(ConnTest, APastDeadlineFailsAtOnceAndLeavesTheBytes) {
  End end = Open();
  end.peer.Send("kept");
  On(0, [&] {
    std::byte byte;
    end.conn.SetReadDeadline(sched::kLongAgo);
    EXPECT_EQ(end.conn.Read({&byte, 1}).status, IoStatus::kTimeout);
    EXPECT_EQ(end.conn.AwaitReadable().status, IoStatus::kTimeout);
    EXPECT_TRUE(end.conn.Write(BytesOf("the other direction has its own")).ok());
    end.conn.SetReadDeadline(sched::kNever);
    end.conn.SetWriteDeadline(sched::kLongAgo);
    EXPECT_EQ(end.conn.Write({&byte, 1}).status, IoStatus::kTimeout);
    EXPECT_EQ(end.conn.TryWrite({&byte, 1}).status, IoStatus::kTimeout);
    IoResult result;
    EXPECT_EQ(ReadText(end.conn, 10, &result), "kept");
  });
}

TEST_P(ConnTest, ADeadlineMovedToThePastWakesFromAnyWorker) {
  for (const Way way : kWays) {
    for (const int home : {0, Elsewhere()}) {
      End end = Open(home);
      IoResult result;
      Block(0, end.conn, way, &result);
      On(Elsewhere(), [&] { SetDeadline(end.conn, way, sched::kLongAgo); });
      Join();
      EXPECT_EQ(result.status, IoStatus::kTimeout) << result;
    }
  }
}

TEST_P(ConnTest, ADeadlineMovedEarlierWakesFromAnyWorker) {
  for (const Way way : kWays) {
    for (const int home : {0, Elsewhere()}) {
      End end = Open(home);
      On(home, [&] { SetDeadline(end.conn, way, Now() + hours(1)); });
      IoResult result;
      Block(0, end.conn, way, &result);
      const sched::Deadline when = Now() + milliseconds(10);
      On(Elsewhere(), [&] { SetDeadline(end.conn, way, when); });
      Join();
      EXPECT_EQ(result.status, IoStatus::kTimeout) << result;
      EXPECT_GE(Now(), when);
      EXPECT_LT(Now(), when + kAtOnce);
    }
  }
}

TEST_P(ConnTest, ADeadlineMovedLaterOrAwayDoesNotWake) {
  for (const sched::Deadline later : {Now() + hours(1), sched::kNever}) {
    for (const Way way : kWays) {
      // On a stalled machine the first deadline passes before it is moved; then it is tried again.
      for (sched::Duration span = milliseconds(50);; span *= 2) {
        End end = Open(Elsewhere());
        const sched::Deadline first = Now() + span;
        On(0, [&] { SetDeadline(end.conn, way, first); });
        IoResult result = {.status = IoStatus::kAgain};
        Block(0, end.conn, way, &result);
        On(Elsewhere(), [&] { SetDeadline(end.conn, way, later); });
        if (Now() < first) {
          On(0, [&] { sched::SleepUntil(first + milliseconds(5)); });
          AwaitIdle();
          EXPECT_EQ(result.status, IoStatus::kAgain) << result;  // still blocked
          On(0, [&] { end.conn.Close(); });
          Join();
          EXPECT_EQ(result.status, IoStatus::kClosed) << result;
          break;
        }
        On(0, [&] { end.conn.Close(); });
        Join();
      }
    }
  }
}

TEST_P(ConnTest, ADeadlineMovedLaterPassesThen) {
  End end = Open(Elsewhere());
  On(0, [&] {
    const sched::Deadline first = Now() + milliseconds(10);
    const sched::Deadline second = first + milliseconds(20);
    end.conn.SetReadDeadline(first);
    end.conn.SetReadDeadline(second);
    std::byte byte;
    EXPECT_EQ(end.conn.Read({&byte, 1}).status, IoStatus::kTimeout);
    EXPECT_GE(Now(), second);
    EXPECT_LT(Now(), second + kAtOnce);
  });
}

TEST_P(ConnTest, ADeadlineThatFiredAndWasMovedIsInvisible) {
  End end = Open();
  IoResult result;
  const int home = BlockPinned(end.conn, &result);
  // The reader's worker is busy here, so it sees only how it ends.
  ExactlyOn(home, [&] {
    end.conn.SetReadDeadline(sched::kLongAgo);
    end.conn.SetReadDeadline(sched::kNever);
  });
  AwaitIdle();
  end.peer.Send("x");
  Join();
  EXPECT_TRUE(result.ok()) << result;
}

TEST_P(ConnTest, BytesThatCameInTimeAreReadThoughTheWorkerWasBusyPastTheDeadline) {
  End end = Open();
  IoResult result;
  const sched::Deadline when = Now() + milliseconds(500);
  On(0, [&] { end.conn.SetReadDeadline(when); });
  const int home = BlockPinned(end.conn, &result);
  ExactlyOn(home, [&] {
    end.peer.Send("x");
    EXPECT_LT(Now(), when);
    while (Now() < when + milliseconds(5)) {
    }
  });
  Join();
  EXPECT_TRUE(result.ok()) << result;
  On(0, [&] {
    std::byte byte;
    EXPECT_EQ(end.conn.Read({&byte, 1}).status, IoStatus::kTimeout);
  });
}

TEST_P(ConnTest, ATimedOutConnectionGoesOnWithANewDeadline) {
  End end = Open();
  On(0, [&] {
    IoResult result;
    for (int i = 0; i < 5; ++i) {
      end.conn.SetReadDeadline(Now() + milliseconds(1));
      (void)ReadText(end.conn, 10, &result);
      EXPECT_EQ(result.status, IoStatus::kTimeout);
      end.peer.Send("x");
      end.conn.SetReadDeadline(sched::kNever);
      EXPECT_EQ(ReadText(end.conn, 10, &result), "x");
    }
  });
}

TEST_P(ConnTest, ATimedOutWriteSaysHowMuchWentOut) {
  End end = Open();
  IoResult result;
  Block(0, end.conn, Way::kWrite, &result);
  On(Elsewhere(), [&] { end.conn.SetWriteDeadline(sched::kLongAgo); });
  Join();
  EXPECT_EQ(result.status, IoStatus::kTimeout);
  On(0, [&] { end.conn.Close(); });
  int error;
  EXPECT_EQ(end.peer.ReceiveAll(&error).size(), result.bytes);
}

// --- Connecting.

TEST_P(ConnTest, ConnectReachesAListener) {
  for (const std::string& at :
       {std::string("127.0.0.1:0"), std::string("[::1]:0"), UniqueUnixName()}) {
    const Endpoint endpoint = Endpoint::Parse(at).value();
    RawSocket listener = RawSocket::Listen(endpoint);
    const Endpoint to = listener.local();
    Conn& conn = NewConn(Elsewhere());
    On(Elsewhere(), [&] {
      const IoResult result = conn.Connect(to, Now() + kAtOnce);
      EXPECT_TRUE(result.ok()) << at << " " << result;
      EXPECT_EQ(conn.peer(), to);
      EXPECT_TRUE(conn.Write(BytesOf("hello")).ok());
    });
    EXPECT_EQ(listener.Accept().Receive(5), "hello");
  }
}

TEST_P(ConnTest, ConnectsFromItsSource) {
  const RawSocket listener = RawSocket::Listen(Endpoint::Parse("127.0.0.1:0").value());
  const ConnectOptions options = {.source = Endpoint::ParseAddress("127.0.0.2").value()};
  Conn& conn = NewConn(0);
  On(Elsewhere(), [&] {
    EXPECT_TRUE(conn.Connect(listener.local(), Now() + kAtOnce, options).ok());
    EXPECT_EQ(conn.local().AddressToString(), "127.0.0.2");
  });
}

TEST_P(ConnTest, ARefusedOptionFailsTheConnect) {
  const RawSocket listener = RawSocket::Listen(Endpoint::Parse("127.0.0.1:0").value());
  Conn& conn = NewConn(0);
  On(Elsewhere(), [&] {
    const ConnectOptions options = {.socket = {.congestion = "none_such"}};
    EXPECT_EQ(conn.Connect(listener.local(), Now() + kAtOnce, options).os_error, ENOENT);
    const ConnectOptions lost = {.source = Endpoint::ParseAddress("192.0.2.1").value()};
    EXPECT_EQ(conn.Connect(listener.local(), Now() + kAtOnce, lost).os_error, EADDRNOTAVAIL);
  });
}

TEST_P(ConnTest, ARefusedConnectSaysSoAndCanBeTriedAgain) {
  const RefusingAddress nobody;
  RawSocket listener = RawSocket::Listen(Endpoint::Parse("127.0.0.1:0").value());
  Conn& conn = NewConn(0);
  On(Elsewhere(), [&] {
    for (int i = 0; i < 3; ++i) {
      const IoResult refused = conn.Connect(nobody.at, Now() + kAtOnce);
      EXPECT_EQ(refused.status, IoStatus::kError) << refused;
      EXPECT_EQ(refused.os_error, ECONNREFUSED);
    }
    const IoResult result = conn.Connect(listener.local(), Now() + kAtOnce);
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_FALSE(conn.broken());  // that was the descriptor before
  });
  RawSocket peer = listener.Accept();
  peer.Send("works");
  EXPECT_EQ(ReadOnce(conn), "works");
}

TEST_P(ConnTest, ConnectTimesOutAtItsDeadline) {
  for (const std::string& at : {std::string("127.0.0.1:0"), UniqueUnixName()}) {
    const FullListener full(Endpoint::Parse(at).value());
    Conn& conn = NewConn(Elsewhere());
    On(0, [&] {
      const sched::Deadline when = Now() + milliseconds(20);
      EXPECT_EQ(conn.Connect(full.at(), when).status, IoStatus::kTimeout);
      EXPECT_GE(Now(), when);
      EXPECT_LT(Now(), when + kAtOnce);
    });
  }
}

TEST_P(ConnTest, CloseEndsAConnect) {
  for (const std::string& at : {std::string("127.0.0.1:0"), UniqueUnixName()}) {
    const FullListener full(Endpoint::Parse(at).value());
    Conn& conn = NewConn(Elsewhere());
    IoResult result;
    Go(0, [&] { result = conn.Connect(full.at(), sched::kNever); });
    // For a Unix socket it polls, and the workers never all sleep for long.
    if (full.at().is_unix()) {
      AwaitThat("it to poll", [&] { return scheduler().stats().timers > 0; });
    } else {
      AwaitIdle();
    }
    On(Elsewhere(), [&] { conn.Close(); });
    Join();
    EXPECT_EQ(result.status, IoStatus::kClosed) << at;
  }
}

TEST_P(ConnTest, ASpuriousWakeUpDoesNotEndAConnect) {
  FullListener full;
  Conn& conn = NewConn(0);
  End source = Open(Elsewhere());
  IoResult read;
  Block(0, source.conn, Way::kRead, &read);  // so that the poller watches it
  On(0, [&] { conn.AlsoWakeFor(source.conn); });
  IoResult result;
  std::atomic<bool> done = false;
  Go(0, [&] {
    result = conn.Connect(full.at(), sched::kNever);
    done = true;
  });
  AwaitIdle();
  source.peer.Reset();  // wakes the connecter, whom it does not concern
  AwaitIdle();
  EXPECT_EQ(read.status, IoStatus::kReset);
  EXPECT_FALSE(done);
  full.MakeRoom();
  Join();
  EXPECT_TRUE(result.ok()) << result;
}

TEST_P(ConnTest, AMovedDeadlineEndsAConnect) {
  const FullListener full;
  Conn& conn = NewConn(Elsewhere());
  IoResult result;
  Go(0, [&] { result = conn.Connect(full.at(), sched::kNever); });
  AwaitIdle();
  On(Elsewhere(), [&] { conn.SetWriteDeadline(sched::kLongAgo); });
  Join();
  EXPECT_EQ(result.status, IoStatus::kTimeout);
}

TEST_P(ConnTest, ATurnEndsTheWaitForIt) {
  Conn& conn = NewConn(0);
  IoResult result{.status = IoStatus::kError};
  std::atomic<bool> done = false;
  Go(0, [&] {
    result = conn.AwaitTurn(sched::kNever);
    done = true;
  });
  AwaitIdle();
  EXPECT_FALSE(done);
  On(Elsewhere(), [&] { conn.GiveTurn(); });
  Join();
  EXPECT_TRUE(result.ok()) << result;
}

TEST_P(ConnTest, ATurnGivenBeforeIsNotLostAndDoesNotEndAConnect) {
  FullListener full;
  Conn& conn = NewConn(0);
  IoResult result;
  std::atomic<bool> done = false;
  Go(0, [&] {
    conn.GiveTurn();
    EXPECT_TRUE(conn.AwaitTurn(sched::kNever).ok());
    EXPECT_EQ(conn.AwaitTurn(Now() + milliseconds(1)).status, IoStatus::kTimeout);
    conn.GiveTurn();
    result = conn.Connect(full.at(), sched::kNever);
    done = true;
  });
  AwaitIdle();
  EXPECT_FALSE(done);
  full.MakeRoom();
  Join();
  EXPECT_TRUE(result.ok()) << result;
}

TEST_P(ConnTest, CloseEndsTheWaitForATurn) {
  Conn& conn = NewConn(Elsewhere());
  IoResult result;
  Go(0, [&] { result = conn.AwaitTurn(sched::kNever); });
  AwaitIdle();
  On(Elsewhere(), [&] {
    conn.Close();
    conn.GiveTurn();  // means nothing any more
  });
  Join();
  EXPECT_EQ(result.status, IoStatus::kClosed);
}

// Deadlines may be set by any fiber at any time, also while Connect brings the descriptor.
TEST_P(ConnTest, DeadlinesMoveWhileConnecting) {
  RawSocket listener = RawSocket::Listen(Endpoint::Parse("127.0.0.1:0").value());
  Conn& conn = NewConn(0);
  std::atomic<int> moves = 0;
  std::atomic<bool> connected = false;
  Go(Elsewhere(), [&] {
    while (!connected) {
      conn.SetReadDeadline(Now() + hours(1));
      ++moves;
      sched::Yield();
    }
  });
  On(0, [&] {
    for (int i = 0; i < 100 || moves < 1000; ++i) {
      EXPECT_TRUE(conn.Connect(listener.local(), Now() + kAtOnce).ok());
      (void)listener.Accept();
      sched::Yield();
    }
    connected = true;
  });
  Join();
}

// --- The rest.

TEST_P(ConnTest, ABreakingSourceWakesTheWriterThatIsToKnow) {
  End source = Open(0);
  End target = Open(Elsewhere());
  IoResult read;
  Block(0, source.conn, Way::kRead, &read);
  std::atomic<bool> noticed = false;
  Go(0, [&] {
    target.conn.AlsoWakeFor(source.conn);
    Conn::Writer writer(target.conn);
    while (!source.conn.broken()) {
      while (writer.TryWrite(Flood()).ok()) {
      }
      EXPECT_TRUE(writer.AwaitWritable().ok());
    }
    noticed = true;
  });
  AwaitIdle();
  EXPECT_FALSE(noticed);
  source.peer.Reset();
  Join();
  EXPECT_TRUE(noticed);
  EXPECT_EQ(read.status, IoStatus::kReset);
}

TEST_P(ConnTest, ABlockedWriterAlsoWakesForASourceThatNobodyHasWaitedFor) {
  End source = Open(Elsewhere());
  End target = Open();
  Go(0, [&] {
    target.conn.AlsoWakeFor(source.conn);
    Conn::Writer writer(target.conn);
    while (!source.conn.broken()) {
      while (writer.TryWrite(Flood()).ok()) {
      }
      EXPECT_TRUE(writer.AwaitWritable().ok());
    }
  });
  AwaitIdle();
  source.peer.Reset();
  Join();
}

TEST_P(ConnTest, AResetIsKnownAlsoWhenItWasTheWriterWhoWasTold) {
  End end = Open();
  End other = Open();
  EXPECT_TRUE(end.peer.Send("the last words"));
  end.peer.Reset();
  other.peer.ShutdownWrite();
  On(0, [&] {
    EXPECT_EQ(end.conn.Write(BytesOf("too late")).status, IoStatus::kReset);
    IoResult result;
    EXPECT_EQ(ReadToEnd(end.conn, &result), "the last words");
    EXPECT_EQ(result.status, IoStatus::kEof) << "the kernel tells of a reset once";
    EXPECT_TRUE(end.conn.was_reset());
    EXPECT_EQ(ReadToEnd(other.conn, &result), "");
    EXPECT_FALSE(other.conn.was_reset());
  });
}

TEST_P(ConnTest, UnsentBytesAreThoseThePeerHasNotAcknowledged) {
  End end = Open();
  size_t written = 0;
  On(0, [&] {
    EXPECT_EQ(end.conn.unsent_bytes(), 0);
    for (IoResult result; (result = end.conn.TryWrite(Flood())).ok();) written += result.bytes;
    EXPECT_GT(end.conn.unsent_bytes(), 0);
  });
  EXPECT_EQ(end.peer.Receive(written).size(), written);
  AwaitThat("the acknowledgement", [&] {
    int64_t unsent = -1;
    On(0, [&] { unsent = end.conn.unsent_bytes(); });
    return unsent == 0;
  });
}

TEST_P(ConnTest, PeerAndLocalAreTheTwoAddresses) {
  for (const int family : {AF_INET, AF_INET6}) {
    End end = Open(0, family);
    On(0, [&] {
      EXPECT_EQ(end.conn.peer(), end.peer.local());
      EXPECT_EQ(end.conn.local().family(), family);
      EXPECT_TRUE(end.conn.local().is_loopback());
    });
  }
}

TEST_P(ConnTest, PeerIsEmptyWhenItIsGone) {
  End end = Open();
  end.peer.Reset();
  On(0, [&] { EXPECT_EQ(end.conn.peer(), Endpoint()); });
}

// Both ways at once, so that readiness of one direction and waits of the other mix.
TEST_P(ConnTest, LongStreamsArriveExactlyBothWays) {
  constexpr size_t kBytes = size_t{16} << 20;
  for (const int family : {AF_INET, AF_UNIX}) {
    auto [left, right] = ConnectedPair(family);
    Conn* const ends[] = {&Adopt(0, left.Release(), family),
                          &Adopt(Elsewhere(), right.Release(), family)};
    for (const uint64_t seed : {0, 1}) {
      Go(0, [&, seed] {
        std::vector<std::byte> chunk(100'003);
        Conn::Writer writer(*ends[seed]);
        for (size_t sent = 0; sent < kBytes;) {
          const auto part = std::span(chunk).first(std::min(chunk.size(), kBytes - sent));
          FillPattern(seed, sent, part);
          const IoResult result = writer.Write(part);
          ASSERT_TRUE(result.ok()) << result;
          sent += result.bytes;
        }
        EXPECT_TRUE(writer.ShutdownWrite().ok());
      });
      Go(Elsewhere(), [&, seed] {
        std::vector<std::byte> chunk(70'001);
        Conn::Reader reader(*ends[1 - seed]);
        size_t received = 0;
        IoResult result;
        while ((result = reader.Read(chunk)).ok()) {
          const auto part = std::span(chunk).first(result.bytes);
          ASSERT_EQ(PatternMismatch(seed, received, part), part.size()) << "after " << received;
          received += part.size();
        }
        EXPECT_EQ(result.status, IoStatus::kEof) << result;
        EXPECT_EQ(received, kBytes);
      });
    }
    Join();
  }
}

// --- System calls and the short-read rule.

class ConnCallsTest : public ConnTest {
 protected:
  void SetUp() override {
    ConnTest::SetUp();
    Start(&calls_);
  }

  // Echoes what comes in, until the end.
  void Echo(Conn& conn) {
    Go(0, [&conn] {
      std::byte buffer[1000];
      for (IoResult got; (got = conn.Read(buffer)).ok();) {
        EXPECT_TRUE(conn.Write({buffer, got.bytes}).ok());
      }
    });
  }

  ScriptedCalls calls_;
};

INSTANTIATE_TEST_SUITE_P(Workers, ConnCallsTest, testing::Values(1, 2, 8));

TEST_P(ConnCallsTest, ARequestCostsOneReceiveAndOneSend) {
  End end = Open();
  Echo(end.conn);
  AwaitIdle();
  // The first wait asks once, and registers.
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), 1);
  constexpr int kRequests = 50;
  for (int i = 0; i < kRequests; ++i) {
    end.peer.Send("request");
    ASSERT_EQ(end.peer.Receive(7), "request");
  }
  AwaitIdle();
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), 1 + kRequests);
  EXPECT_EQ(calls_.count(Op::kSend, end.fd), kRequests);
  EXPECT_EQ(calls_.count(Op::kEpollCtl, end.fd), 1);
  end.peer.ShutdownWrite();
  Join();
}

// server/e2e/original_dst_test.py has connections that were redirected.
TEST_P(ConnCallsTest, WhereAConnectionWasGoingMayBeUnknown) {
  for (const int family : {AF_INET, AF_INET6}) {
    End end = Open(0, family);
    On(0, [&] {
      calls_.Fail(Op::kGetSockOpt, ENOENT);  // nothing tracks connections
      EXPECT_EQ(end.conn.original_destination(family), Endpoint());
      end.conn.Close();
      EXPECT_EQ(end.conn.original_destination(family), Endpoint());
    });
  }
}

TEST_P(ConnCallsTest, AConnectionThatNeverWaitsIsNeverRegistered) {
  End end = Open();
  end.peer.Send("x");
  EXPECT_EQ(ReadOnce(end.conn), "x");
  On(0, [&] {
    EXPECT_TRUE(end.conn.Write(BytesOf("y")).ok());
    end.conn.Close();
  });
  EXPECT_EQ(calls_.count(Op::kEpollCtl, end.fd), 0);
}

TEST_P(ConnCallsTest, DeadlinesCostNoSystemCall) {
  End end = Open();
  Echo(end.conn);
  AwaitIdle();
  ExactlyOn(0, [&] {
    const int64_t before = calls_.count(Op::kWriteEvent);
    end.conn.SetReadDeadline(Now() + hours(1));
    for (int i = 2; i < 100; ++i) end.conn.SetReadDeadline(Now() + hours(i));
    EXPECT_EQ(calls_.count(Op::kWriteEvent), before);
  });
  EXPECT_EQ(calls_.count(Op::kEpollCtl, end.fd), 1);
  end.peer.ShutdownWrite();
  Join();
}

TEST_P(ConnCallsTest, AwaitReadableAsksNothingWhenSomethingMayBeLeft) {
  End end = Open();
  end.peer.Send("abc");
  On(0, [&] {
    Conn::Reader reader(end.conn);
    std::byte byte;
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(reader.AwaitReadable().ok());
      EXPECT_TRUE(reader.TryRead({&byte, 1}).ok());
    }
  });
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), 3);
  EXPECT_EQ(calls_.count(Op::kEpollCtl, end.fd), 0);
}

TEST_P(ConnCallsTest, AShortReadMakesTheNextWaitWithoutAsking) {
  End end = Open();
  end.peer.Send("x");
  EXPECT_EQ(ReadOnce(end.conn), "x");
  IoResult result;
  Block(0, end.conn, Way::kRead, &result);
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), 1);
  end.peer.ShutdownWrite();
  Join();
  EXPECT_EQ(result.status, IoStatus::kEof);
}

TEST_P(ConnCallsTest, AUnixSocketIsAskedUntilItWouldBlock) {
  End end = Open(0, AF_UNIX);
  Echo(end.conn);
  AwaitIdle();
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), 1);
  end.peer.Send("request");
  ASSERT_EQ(end.peer.Receive(7), "request");
  AwaitIdle();
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), 3);
  end.peer.ShutdownWrite();
  Join();
}

TEST_P(ConnCallsTest, BytesBetweenTwoReadsAreNotLost) {
  End end = Open();
  IoResult first;
  Block(0, end.conn, Way::kRead, &first);
  end.peer.Send("x");
  Join();
  On(0, [&] {
    for (int i = 0; i < 300; ++i) {
      IoResult result;
      end.peer.Send("ab");
      // With and without a look of the poller between the bytes and the read.
      if (i % 3 == 1) sched::SleepFor(sched::Duration(1));
      if (i % 3 == 2) sched::Yield();
      EXPECT_EQ(ReadText(end.conn, 10, &result), "ab") << result;
    }
  });
}

TEST_P(ConnCallsTest, AnEndRightBehindTheBytesIsFoundWithoutAnotherEdge) {
  enum class Ending { kFin, kReset };
  for (const Ending ending : {Ending::kFin, Ending::kReset}) {
    for (const bool registered : {false, true}) {
      for (int turn = 0; turn < 30; ++turn) {
        End end = Open();
        const auto finish = [&] {
          ending == Ending::kFin ? end.peer.ShutdownWrite() : end.peer.Reset();
        };
        std::string text;
        IoResult result;
        const auto read = [&] { text = ReadToEnd(end.conn, &result); };
        if (registered) {
          Go(0, read);
          AwaitIdle();
        }
        // At once, or with time for the reader and the poller to come between.
        On(Elsewhere(), [&] {
          end.peer.Send("data");
          if (turn % 3 == 1) sched::Yield();
          if (turn % 3 == 2) sched::SleepFor(sched::Duration(1));
          finish();
        });
        if (!registered) Go(0, read);
        Join();
        EXPECT_EQ(text, "data");
        EXPECT_EQ(result.status, ending == Ending::kFin ? IoStatus::kEof : IoStatus::kReset);
        On(0, [&] { end.conn.Close(); });
      }
    }
  }
}

TEST_P(ConnCallsTest, AnEndThatThePollerSawBetweenTwoReadsIsFound) {
  End end = Open();
  IoResult first;
  Block(0, end.conn, Way::kRead, &first);
  end.peer.Send("x");
  Join();
  end.peer.Send("last");
  EXPECT_EQ(ReadOnce(end.conn), "last");
  end.peer.ShutdownWrite();
  AwaitIdle();  // its event is in, and nobody waited
  On(0, [&] {
    std::byte byte;
    EXPECT_EQ(end.conn.Read({&byte, 1}).status, IoStatus::kEof);
  });
}

TEST_P(ConnCallsTest, UrgentDataStallsNothing) {
  for (int turn = 0; turn < 20; ++turn) {
    End end = Open();
    std::string text;
    Go(0, [&] {
      IoResult result;
      text = ReadExactly(end.conn, 6, &result);
    });
    AwaitIdle();
    // The read stops at the mark, and what is behind it gets no edge of its own.
    On(Elsewhere(), [&] {
      end.peer.Send("abc");
      if (turn % 2 == 1) sched::Yield();
      end.peer.SendUrgent('!');
      end.peer.Send("def");
    });
    Join();
    EXPECT_EQ(text, "abcdef");
  }
}

TEST_P(ConnCallsTest, AnUrgentMarkEndsTheShortReadRule) {
  End end = Open();
  Echo(end.conn);
  AwaitIdle();
  end.peer.SendUrgent('!');
  AwaitIdle();
  const int64_t before = calls_.count(Op::kRecv, end.fd);
  end.peer.Send("request");
  ASSERT_EQ(end.peer.Receive(7), "request");
  AwaitIdle();
  EXPECT_EQ(calls_.count(Op::kRecv, end.fd), before + 2);  // asked until it would block
  end.peer.ShutdownWrite();
  Join();
}

TEST_P(ConnCallsTest, AFailedRegistrationIsAnError) {
  End end = Open();
  calls_.Fail(Op::kEpollCtl, ENOSPC);
  On(0, [&] {
    std::byte byte;
    const IoResult result = end.conn.Read({&byte, 1});
    EXPECT_EQ(result.status, IoStatus::kError);
    EXPECT_EQ(result.os_error, ENOSPC);
  });
}

TEST_P(ConnCallsTest, OutOfDescriptorsAConnectFails) {
  RawSocket listener = RawSocket::Listen(Endpoint::Parse("127.0.0.1:0").value());
  Conn& conn = NewConn(0);
  calls_.Fail(Op::kSocket, EMFILE);
  On(0, [&] {
    EXPECT_EQ(conn.Connect(listener.local(), sched::kNever).os_error, EMFILE);
    EXPECT_TRUE(conn.Connect(listener.local(), sched::kNever).ok());
  });
}

}  // namespace
}  // namespace netpoll
