// SPDX-License-Identifier: Apache-2.0
//
// Everything at once, for ThreadSanitizer and for luck: connections that are read, written, closed
// and given other deadlines by several fibers on several workers, and descriptors that are reused
// as fast as they come back. Whatever happens, each operation ends in a way that is allowed, what
// arrives is a prefix of what was sent, and nobody waits for ever.
//
// PARKWAY_SEED repeats a run's decisions, if not its timing.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "netpoll/conn.h"
#include "netpoll/listener.h"
#include "netpoll/testing/fixture.h"
#include "netpoll/testing/pattern.h"
#include "netpoll/testing/raw_socket.h"
#include "sched/fibers.h"

namespace netpoll {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr sched::Duration kRunFor = milliseconds(1500);

uint64_t Seed() {
  static const uint64_t kSeed = [] {
    const char* const given = std::getenv("PARKWAY_SEED");
    const uint64_t seed =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::cout << "PARKWAY_SEED=" << seed << std::endl;
    return seed;
  }();
  return kSeed;
}

// Decisions of one fiber.
class Dice {
 public:
  explicit Dice(uint64_t stream) {
    std::seed_seq seed{Seed(), stream};
    random_.seed(seed);
  }
  size_t Below(size_t n) { return random_() % n; }
  size_t UpTo(size_t n) { return 1 + Below(n); }
  bool OneIn(size_t n) { return Below(n) == 0; }

 private:
  std::minstd_rand random_;
};

// One direction of a connection: the stream that goes from one end to the other.
struct Stream {
  Conn& from;
  Conn& to;
  const uint64_t seed;
  const size_t bytes;
  const bool closed_early;  // somebody will close or abort one of the ends
  size_t sent = 0;
  size_t received = 0;
  bool sender_ended = false;
  bool receiver_ended = false;
};

class NetpollStressTest : public NetpollTest {
 protected:
  void SetUp() override {
    (void)Seed();
    NetpollTest::SetUp();
  }

  void Dump(std::ostream& out) override {
    for (const Stream& stream : streams_) {
      out << "  stream " << stream.seed << ": sent " << stream.sent << " of " << stream.bytes
          << (stream.sender_ended ? ", ended" : "") << "; received " << stream.received
          << (stream.receiver_ended ? ", ended" : "")
          << (stream.closed_early ? "; closed\n" : "\n");
    }
  }

  std::deque<Stream> streams_;  // of this round
};

INSTANTIATE_TEST_SUITE_P(Workers, NetpollStressTest, testing::Values(1, 2, 8));

// --- Deadlines, readiness, closes.

// How an operation may end. After any of these but kOk and kTimeout the direction is over.
void ExpectLegal(const Stream& stream, const IoResult& result) {
  switch (result.status) {
    case IoStatus::kOk:
    case IoStatus::kTimeout:
    case IoStatus::kEof:
      break;
    case IoStatus::kClosed:
    case IoStatus::kReset:
      EXPECT_TRUE(stream.closed_early) << result;
      break;
    default:
      ADD_FAILURE() << result;
  }
}

bool IsOver(const IoResult& result) {
  return !result.ok() && result.status != IoStatus::kTimeout && result.status != IoStatus::kAgain;
}

void Send(Stream& stream) {
  Dice dice(stream.seed * 4);
  std::vector<std::byte> chunk(20'000);
  IoResult result;
  while (stream.sent < stream.bytes && !IsOver(result)) {
    const size_t size = std::min(dice.UpTo(chunk.size()), stream.bytes - stream.sent);
    const auto part = std::span(chunk).first(size);
    FillPattern(stream.seed, stream.sent, part);
    const iovec halves[] = {{part.data(), size / 2}, {part.data() + size / 2, size - size / 2}};
    result = dice.OneIn(3) ? stream.from.Writev(halves) : stream.from.Write(part);
    ExpectLegal(stream, result);
    EXPECT_LE(result.bytes, size);
    EXPECT_EQ(result.ok(), result.bytes == size) << result;
    stream.sent += result.bytes;
    if (!result.ok()) sched::Yield();
  }
  if (!IsOver(result)) ExpectLegal(stream, stream.from.ShutdownWrite());
  stream.sender_ended = true;
}

// A read in one of its forms; kAgain is turned into another try.
IoResult ReadSomehow(Conn& conn, std::span<std::byte> buffer, Dice& dice) {
  if (!dice.OneIn(3)) return conn.Read(buffer);
  Conn::Reader reader(conn);
  for (;;) {
    const IoResult got = reader.TryRead(buffer);
    if (got.status != IoStatus::kAgain) return got;
    if (const IoResult waited = reader.AwaitReadable(); !waited.ok()) return waited;
  }
}

void Receive(Stream& stream) {
  Dice dice(stream.seed * 4 + 1);
  std::vector<std::byte> chunk(30'000);
  IoResult result;
  while (!IsOver(result)) {
    result = ReadSomehow(stream.to, std::span(chunk).first(dice.UpTo(chunk.size())), dice);
    ExpectLegal(stream, result);
    const auto part = std::span(chunk).first(result.bytes);
    EXPECT_EQ(PatternMismatch(stream.seed, stream.received, part), part.size())
        << "after " << stream.received;
    stream.received += result.bytes;
    if (!result.ok()) sched::Yield();
  }
  stream.receiver_ended = true;
}

sched::Deadline SomeDeadline(Dice& dice) {
  switch (dice.Below(4)) {
    case 0:
      return sched::kLongAgo;
    case 1:
      return sched::kNever;
    default:
      return sched::Now() + microseconds(dice.UpTo(2000));
  }
}

void SetSomeDeadline(Conn& conn, Dice& dice, sched::Deadline when) {
  if (!dice.OneIn(3)) conn.SetReadDeadline(when);
  if (!dice.OneIn(3)) conn.SetWriteDeadline(when);
}

// Moves the deadlines of both ends about, and in the end away.
void Meddle(Conn& left, Conn& right, Dice dice, bool close) {
  for (size_t turns = dice.UpTo(40); turns > 0; --turns) {
    SetSomeDeadline(dice.OneIn(2) ? left : right, dice, SomeDeadline(dice));
    dice.OneIn(2) ? sched::Yield() : sched::SleepFor(microseconds(dice.Below(500)));
  }
  if (close) {
    Conn& closed = dice.OneIn(2) ? left : right;
    dice.OneIn(3) ? closed.Abort() : closed.Close();
  }
  for (Conn* const conn : {&left, &right}) {
    conn->SetReadDeadline(sched::kNever);
    conn->SetWriteDeadline(sched::kNever);
  }
}

// So that writers block often. The receiving buffer stays: with one that shrinks after its window
// was announced, Linux drops segments, and a closed peer may give up for good.
void ShrinkSendBuffer(int fd) {
  const int bytes = 8192;
  (void)::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

TEST_P(NetpollStressTest, DeadlinesReadinessAndCloses) {
  constexpr int kConnections = 16;
  const sched::Deadline until = Now() + kRunFor;
  Dice dice(0);
  uint64_t seed = 0;
  for (int round = 0; round == 0 || Now() < until; ++round) {
    streams_.clear();
    for (int i = 0; i < kConnections; ++i) {
      const int family = dice.OneIn(3) ? AF_UNIX : AF_INET;
      auto [left_end, right_end] = ConnectedPair(family);
      ShrinkSendBuffer(left_end.fd());
      ShrinkSendBuffer(right_end.fd());
      Conn& left = Adopt(dice.Below(workers()), left_end.Release(), family);
      Conn& right = Adopt(dice.Below(workers()), right_end.Release(), family);
      const bool close = dice.OneIn(2);
      const size_t bytes = dice.UpTo(200'000);
      for (const auto& [from, to] : {std::pair(&left, &right), std::pair(&right, &left)}) {
        Stream& stream = streams_.emplace_back(Stream{*from, *to, ++seed, bytes, close});
        Go(dice.Below(workers()), [&stream] { Send(stream); });
        Go(dice.Below(workers()), [&stream] { Receive(stream); });
      }
      for (const int meddler : {2, 3}) {
        Go(dice.Below(workers()), [&left, &right, meddler, close, seed] {
          Meddle(left, right, Dice(seed * 4 + meddler), close && meddler == 2);
        });
      }
    }
    Join();
    for (const Stream& stream : streams_) {
      EXPECT_LE(stream.received, stream.sent);
      EXPECT_TRUE(stream.closed_early || stream.received == stream.bytes) << stream.received;
    }
    if (HasFailure()) break;
  }
}

// --- Churn.

// Echoes until the end or an error.
void Echo(Conn conn) {
  std::vector<std::byte> buffer(3000);
  for (IoResult got; (got = conn.Read(buffer)).ok();) {
    if (!conn.Write(std::span(buffer).first(got.bytes)).ok()) return;
  }
}

void AcceptAndEcho(Listener& listener, std::atomic<int>& echoes) {
  for (;;) {
    Conn conn;
    const IoResult result = listener.Accept(conn);
    if (!result.ok()) {
      EXPECT_EQ(result.status, IoStatus::kClosed) << result;
      return;
    }
    ++echoes;
    // Not started: refused like a client too many, by closing.
    (void)sched::Spawn([conn = std::move(conn)]() mutable { Echo(std::move(conn)); });
  }
}

// A few requests with bytes that are this connection's alone, and one of the ways to end it.
void Visit(Poller& poller, const Endpoint& at, uint64_t seed, Dice& dice) {
  Conn conn(poller);
  const auto deadline =
      dice.OneIn(20) ? sched::Now() + microseconds(dice.Below(50)) : sched::kNever;
  const IoResult connected = conn.Connect(at, deadline);
  if (!connected.ok()) {
    // Those of this test's making, and no more free ports because of earlier ones.
    EXPECT_TRUE(connected.status == IoStatus::kTimeout || connected.os_error == EADDRNOTAVAIL)
        << connected;
    return;
  }
  std::vector<std::byte> chunk(dice.UpTo(2000));
  uint64_t position = 0;
  for (size_t requests = dice.Below(4); requests > 0; --requests) {
    FillPattern(seed, position, chunk);
    EXPECT_TRUE(conn.Write(chunk).ok());
    IoResult result;
    const std::string reply = ReadExactly(conn, chunk.size(), &result);
    ASSERT_EQ(reply.size(), chunk.size()) << result;
    ASSERT_EQ(PatternMismatch(seed, position, BytesOf(reply)), reply.size()) << "a mix-up";
    position += chunk.size();
  }
  switch (dice.Below(4)) {
    case 0: {
      IoResult result;
      EXPECT_TRUE(conn.ShutdownWrite().ok());
      EXPECT_EQ(ReadToEnd(conn, &result), "");
      EXPECT_EQ(result.status, IoStatus::kEof) << result;
      break;
    }
    case 1: {  // closed by another fiber, under its reader
      sched::FiberScope scope;
      EXPECT_TRUE(scope.Spawn([&conn] { conn.Abort(); }));
      std::byte byte;
      EXPECT_EQ(conn.Read({&byte, 1}).status, IoStatus::kClosed);
      break;
    }
    default:  // RST leaves no port in TIME_WAIT
      conn.Abort();
  }
}

TEST_P(NetpollStressTest, ConnectAcceptAndCloseWithReuse) {
  constexpr int kClients = 24;
  std::deque<Listener> listeners;
  const auto bound = Bind(poller().kernel(), Endpoint::Parse("127.0.0.1:0").value(), workers(), {});
  ASSERT_TRUE(bound.ok()) << bound.status();
  const Endpoint at = bound->front().at;
  std::atomic<int> echoes = 0;
  for (const BoundSocket& socket : *bound) {
    const int worker = static_cast<int>(listeners.size());
    On(worker, [&] { listeners.emplace_back(poller(), socket); });
    Go(worker, [&, listener = &listeners.back()] { AcceptAndEcho(*listener, echoes); });
  }

  const sched::Deadline until = Now() + kRunFor;
  std::atomic<int> clients = kClients;
  std::atomic<int> visits = 0;
  for (int client = 0; client < kClients; ++client) {
    Go(client % workers(), [&, client] {
      Dice dice(1000 + client);
      for (uint64_t i = 0; i == 0 || Now() < until; ++i) {
        Visit(poller(), at, client * 1'000'000 + i, dice);
        ++visits;
      }
      --clients;
    });
  }
  AwaitThat("the clients to end", [&] { return clients == 0; });
  On(Elsewhere(), [&] {
    for (Listener& listener : listeners) listener.Close();
  });
  Join();
  On(0, [&] { listeners.clear(); });
  EXPECT_GE(visits, kClients);
  EXPECT_GT(echoes, 0);
}

}  // namespace
}  // namespace netpoll
