// SPDX-License-Identifier: Apache-2.0
#include "netpoll/conn.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <climits>
#include <vector>

#include "sched/fibers.h"
#include "sched/park.h"

namespace netpoll {
namespace {

constexpr IoResult kIsClosed = {.status = IoStatus::kClosed};
using internal::EventBits;

// Not SPLICE_F_MORE, which would hold a last part of a segment back for 200 ms.
constexpr unsigned int kSpliceFlags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;

size_t TotalSize(std::span<const iovec> buffers) {
  size_t total = 0;
  for (const iovec& buffer : buffers) total += buffer.iov_len;
  return total;
}

// Drops the first `bytes` of `buffers`.
std::span<iovec> Advance(std::span<iovec> buffers, size_t bytes) {
  while (!buffers.empty() && bytes >= buffers.front().iov_len) {
    bytes -= buffers.front().iov_len;
    buffers = buffers.subspan(1);
  }
  if (bytes > 0) {
    buffers.front().iov_base = static_cast<char*>(buffers.front().iov_base) + bytes;
    buffers.front().iov_len -= bytes;
  }
  return buffers;
}

}  // namespace

// --- Reading.

// After the peer's end, an error or an urgent mark, what is still queued is announced by no further
// edge.
bool Conn::NoMoreEdges() const {
  constexpr uint32_t kEnds = EventBits::kReadClosed | EventBits::kHangUp | EventBits::kBroken;
  return (socket_.desc()->event_bits() & (kEnds | EventBits::kUrgent)) != 0;
}

template <class Call>
IoResult Conn::TryReadHeld(size_t asked, Call call) {
  if (socket_.closed()) return kIsClosed;
  return asked == 0 ? IoResult() : ReceiveHeld(asked, call);
}

template <class Call>
IoResult Conn::ReceiveHeld(size_t asked, Call call) {
  if (queue_ != Queue::kUnknown) return {.status = IoStatus::kAgain};
  // T1 here and nowhere else: with the queue drained, it would erase an edge that came since.
  socket_.ResetReadiness(Direction::kRead);
  const ssize_t got = call();
  if (got > 0) {
    // The bits are loaded after the read; the poller sets them before the slot (the short-read
    // rule).
    if (static_cast<size_t>(got) < asked && is_tcp_ && !NoMoreEdges()) queue_ = Queue::kDrained;
    return {.bytes = static_cast<size_t>(got)};
  }
  if (got == 0) return {.status = IoStatus::kEof};
  if (got == -EAGAIN) queue_ = Queue::kWouldBlock;
  return IoResult::FromErrno(static_cast<int>(-got));
}

template <class Wait>
IoResult Conn::AwaitReadableBy(Wait wait) {
  if (queue_ == Queue::kUnknown) return socket_.Check(Direction::kRead);
  const IoResult waited = wait();
  if (!waited.ok()) return waited;
  queue_ = Queue::kUnknown;
  if (__builtin_expect(++wakes_ % kWakesPerLook == 0, false)) LookWhereItRuns();
  return waited;
}

// Others run what its shard's worker cannot get to. Where that is so again and again, moving costs
// less: two system calls.
[[gnu::noinline]] void Conn::LookWhereItRuns() {
  const bool away = socket_.desc()->watched_by() != sched::CurrentWorkerIndex();
  if (away && away_) socket_.WatchHere();
  away_ = away && !away_;
}

IoResult Conn::AwaitReadableHeld() {
  return AwaitReadableBy(
      [this] { return socket_.Await(Direction::kRead, sched::WaitReason::kRead); });
}

// After a wait the deadline is not looked at again: bytes that came in time are read, however late
// a busy worker gets to it.
template <class Call>
IoResult Conn::ReadHeld(size_t asked, Call call) {
  if (const IoResult state = socket_.Check(Direction::kRead); !state.ok()) return state;
  IoResult got = TryReadHeld(asked, call);
  while (got.status == IoStatus::kAgain) {
    if (const IoResult waited = AwaitReadableHeld(); !waited.ok()) return waited;
    got = ReceiveHeld(asked, call);
  }
  if (got.bytes > 0) sched::ChargeOperation();
  return got;
}

IoResult Conn::Reader::Read(std::span<std::byte> buffer) {
  if (!hold_) return kIsClosed;
  return conn_.ReadHeld(buffer.size(), [&] {
    const internal::Socket& socket = conn_.socket_;
    return socket.kernel().Recv(socket.fd(), buffer.data(), buffer.size(), 0);
  });
}

IoResult Conn::Reader::Readv(std::span<const iovec> buffers) {
  if (!hold_) return kIsClosed;
  buffers = buffers.first(std::min<size_t>(buffers.size(), IOV_MAX));
  return conn_.ReadHeld(TotalSize(buffers), [&] {
    const internal::Socket& socket = conn_.socket_;
    return socket.kernel().Readv(socket.fd(), buffers.data(), static_cast<int>(buffers.size()));
  });
}

IoResult Conn::Reader::AwaitReadable() { return hold_ ? conn_.AwaitReadableHeld() : kIsClosed; }

IoResult Conn::Reader::AwaitReadableOr(sched::Continuation& hibernate) {
  if (!hold_) return kIsClosed;
  return conn_.AwaitReadableBy([&] { return conn_.socket_.AwaitOr(Direction::kRead, hibernate); });
}

IoResult Conn::Reader::Woken() {
  return conn_.AwaitReadableBy([this] { return conn_.socket_.Woken(Direction::kRead); });
}

IoResult Conn::Reader::TryRead(std::span<std::byte> buffer) {
  if (!hold_) return kIsClosed;
  return conn_.TryReadHeld(buffer.size(), [&] {
    const internal::Socket& socket = conn_.socket_;
    return socket.kernel().Recv(socket.fd(), buffer.data(), buffer.size(), 0);
  });
}

IoResult Conn::Reader::TryPeek(std::span<std::byte> buffer) {
  if (!hold_) return kIsClosed;
  const IoResult seen = conn_.TryReadHeld(buffer.size(), [&] {
    const internal::Socket& socket = conn_.socket_;
    return socket.kernel().Recv(socket.fd(), buffer.data(), buffer.size(), MSG_PEEK);
  });
  if (seen.bytes > 0) conn_.queue_ = Queue::kUnknown;  // not drained: all of it is still there
  return seen;
}

// An edge that came since the peek is in the slot: the peek reset it before it looked.
IoResult Conn::Reader::AwaitMore() {
  if (!hold_) return kIsClosed;
  if (conn_.NoMoreEdges()) return {.status = IoStatus::kEof};
  conn_.queue_ = Queue::kDrained;
  return conn_.AwaitReadableHeld();
}

void Conn::Reader::WakeAt(size_t bytes) {
  if (!hold_) return;
  const auto value = static_cast<int>(bytes);
  const internal::Socket& socket = conn_.socket_;
  (void)socket.kernel().SetSockOpt(socket.fd(), SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value);
}

// At an urgent mark the kernel splices nothing, and says EAGAIN whatever lies behind it.
bool Conn::CanSplice() const {
  return is_tcp_ && (socket_.desc()->event_bits() & EventBits::kUrgent) == 0;
}

// A short splice says nothing about the socket, since a pipe is also full when its slots are, each
// by a byte: so the short-read rule does not hold, and only EAGAIN says that all was read.
IoResult Conn::Reader::TrySplice(Pipe& pipe) {
  if (!hold_ || conn_.socket_.closed()) return kIsClosed;
  const IoResult moved = conn_.ReceiveHeld(/*asked=*/0, [&] {
    const internal::Socket& socket = conn_.socket_;
    return socket.kernel().Splice(socket.fd(), pipe.write_fd_, pipe.capacity_, kSpliceFlags);
  });
  pipe.held_ += moved.bytes;
  return moved;
}

// --- Writing.

// One attempt. Writing skips T1: after EAGAIN a readiness noted long ago costs one more attempt,
// while T1 would cost a store per write, since every segment that comes in reports the socket
// writable too.
IoResult Conn::SendHeld(std::span<const std::byte> data) {
  if (const IoResult state = socket_.Check(Direction::kWrite); !state.ok()) return state;
  if (data.empty()) return {};
  const ssize_t sent = socket_.kernel().Send(socket_.fd(), data.data(), data.size(), MSG_NOSIGNAL);
  if (sent >= 0) return {.bytes = static_cast<size_t>(sent)};
  return IoResult::FromErrno(static_cast<int>(-sent));
}

IoResult Conn::SendvHeld(std::span<iovec> buffers) {
  if (const IoResult state = socket_.Check(Direction::kWrite); !state.ok()) return state;
  msghdr message = {};
  message.msg_iov = buffers.data();
  message.msg_iovlen = std::min<size_t>(buffers.size(), IOV_MAX);
  const ssize_t sent = socket_.kernel().Sendmsg(socket_.fd(), &message, MSG_NOSIGNAL);
  if (sent >= 0) return {.bytes = static_cast<size_t>(sent)};
  return IoResult::FromErrno(static_cast<int>(-sent));
}

IoResult Conn::Writer::Write(std::span<const std::byte> data) {
  if (!hold_) return kIsClosed;
  size_t written = 0;
  while (written < data.size()) {
    IoResult result = conn_.SendHeld(data.subspan(written));
    written += result.bytes;
    if (result.status == IoStatus::kAgain) result = AwaitWritable();
    if (!result.ok()) return {written, result.status, result.os_error};
  }
  sched::ChargeOperation();
  return {.bytes = written};
}

IoResult Conn::Writer::Writev(std::span<const iovec> buffers) {
  if (!hold_) return kIsClosed;
  std::vector<iovec> copy(buffers.begin(), buffers.end());  // it is consumed as bytes go out
  std::span<iovec> left = Advance(copy, 0);
  size_t written = 0;
  while (!left.empty()) {
    IoResult result = conn_.SendvHeld(left);
    written += result.bytes;
    left = Advance(left, result.bytes);
    if (result.status == IoStatus::kAgain) result = AwaitWritable();
    if (!result.ok()) return {written, result.status, result.os_error};
  }
  sched::ChargeOperation();
  return {.bytes = written};
}

IoResult Conn::Writer::TryWrite(std::span<const std::byte> data) {
  return hold_ ? conn_.SendHeld(data) : kIsClosed;
}

IoResult Conn::Writer::TrySplice(Pipe& pipe) {
  if (!hold_) return kIsClosed;
  const internal::Socket& socket = conn_.socket_;
  if (const IoResult state = socket.Check(Direction::kWrite); !state.ok()) return state;
  const ssize_t sent = socket.kernel().Splice(pipe.read_fd_, socket.fd(), pipe.held_, kSpliceFlags);
  if (sent < 0) return IoResult::FromErrno(static_cast<int>(-sent));
  pipe.held_ -= static_cast<size_t>(sent);
  return {.bytes = static_cast<size_t>(sent)};
}

IoResult Conn::Writer::AwaitWritable() {
  return hold_ ? conn_.socket_.Await(Direction::kWrite, sched::WaitReason::kWrite) : kIsClosed;
}

IoResult Conn::Writer::ShutdownWrite() {
  if (!hold_) return kIsClosed;
  const int result = conn_.socket_.kernel().Shutdown(conn_.socket_.fd(), SHUT_WR);
  return result < 0 ? IoResult::FromErrno(-result) : IoResult();
}

// --- Connecting.

IoResult Conn::Connect(const Endpoint& to, sched::Deadline deadline, const ConnectOptions& options,
                       const std::function<void()>* begun) {
  const internal::Socket::Hold hold(socket_, Direction::kWrite);
  if (!hold) return kIsClosed;
  socket_.SetDeadlineHeld(Direction::kWrite, deadline);
  const IoResult result = ConnectHeld(to, deadline, options, begun);
  socket_.SetDeadlineHeld(Direction::kWrite, sched::kNever);
  return result;
}

// The slot is the one in which Connect waits later; a turn that nobody took is a spurious wake-up
// there.
IoResult Conn::AwaitTurn(sched::Deadline deadline) {
  const internal::Socket::Hold hold(socket_, Direction::kWrite);
  if (!hold) return kIsClosed;
  if (socket_.fd() >= 0) socket_.Adopt(-1);  // of a connect that failed, and may still succeed
  socket_.SetDeadlineHeld(Direction::kWrite, deadline);
  const IoResult result = socket_.AwaitTurn(Direction::kWrite);
  socket_.SetDeadlineHeld(Direction::kWrite, sched::kNever);
  return result;
}

void Conn::GiveTurn() {
  socket_.Use(
      [this] { internal::PollDesc::Wake(socket_.desc()->slot(Direction::kWrite).Notify()); });
}

IoResult Conn::ConnectHeld(const Endpoint& to, sched::Deadline deadline,
                           const ConnectOptions& options, const std::function<void()>* begun) {
  const Kernel& kernel = socket_.kernel();
  const int fd = kernel.Socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return IoResult::FromErrno(-fd);
  socket_.Adopt(fd);
  queue_ = Queue::kUnknown;  // another one's may have been connected before
  is_tcp_ = !to.is_unix();
  if (is_tcp_) {
    const int on = 1;
    (void)kernel.SetSockOpt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (const int error = SetConnectOptions(kernel, fd, options); error < 0) {
      return IoResult::FromErrno(-error);
    }
  }
  int started = kernel.Connect(fd, to.data(), to.size());
  while (started == -EAGAIN) {
    // A Unix listener's queue is full. The kernel announces no room there, so it is asked again, a
    // millisecond later.
    if (sched::Now() >= deadline) return {.status = IoStatus::kTimeout};
    sched::SleepFor(std::chrono::milliseconds(1));
    if (const IoResult state = socket_.Check(Direction::kWrite); !state.ok()) return state;
    started = kernel.Connect(fd, to.data(), to.size());
  }
  if (started != 0 && started != -EINPROGRESS) return IoResult::FromErrno(-started);
  if (begun != nullptr) (*begun)();
  if (started == 0) return {};
  for (;;) {
    const IoResult waited = socket_.Await(Direction::kWrite, sched::WaitReason::kConnect);
    if (!waited.ok()) return waited;
    const uint32_t bits = socket_.desc()->event_bits();
    // A connecting socket is not writable. Without that bit the wake-up was spurious
    // (golang/go#14548), and with it no system call need ask.
    if ((bits & EventBits::kWritable) == 0) continue;
    if ((bits & (EventBits::kBroken | EventBits::kHangUp)) == 0) {
      // It has been watched since before it was connected: what came was announced, or will be.
      if (!NoMoreEdges()) queue_ = Queue::kDrained;
      return {};
    }
    int error = 0;
    socklen_t size = sizeof error;
    const int got = kernel.GetSockOpt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return IoResult::FromErrno(got < 0 ? -got : error);
  }
}

// --- The rest.

void Conn::AlsoWakeFor(Conn& source) {
  source.socket_.Use([&] {
    source.socket_.desc()->WakeWriterWhenBroken(socket_.desc());
    // Out of memory: then its own reader notices, or a deadline.
    (void)source.socket_.Register(Direction::kRead);
  });
}

bool Conn::broken() {
  uint32_t bits = 0;
  socket_.Use([&] { bits = socket_.desc()->event_bits(); });
  return (bits & EventBits::kBroken) != 0;
}

bool Conn::was_reset() {
  bool reset = false;
  socket_.Use([&] {
    constexpr uint32_t kOver = EventBits::kHangUp | EventBits::kBroken;
    const uint32_t bits = socket_.desc()->event_bits();
    if (!is_tcp_ || (bits & (EventBits::kReadClosed | kOver)) == EventBits::kReadClosed) return;
    sockaddr_storage peer;
    socklen_t size = sizeof peer;
    const int error =
        socket_.kernel().GetPeerName(socket_.fd(), reinterpret_cast<sockaddr*>(&peer), &size);
    reset = error == -ENOTCONN;  // TCP_CLOSE
  });
  return reset;
}

int64_t Conn::BytesIn(unsigned long queue) {
  int bytes = 0;
  int error = -EBADF;
  socket_.Use([&] { error = socket_.kernel().Ioctl(socket_.fd(), queue, &bytes); });
  return error < 0 ? -1 : bytes;
}

int64_t Conn::unsent_bytes() { return BytesIn(SIOCOUTQ); }

int64_t Conn::unread_bytes() { return BytesIn(SIOCINQ); }

Endpoint Conn::Name(int (Kernel::*ask)(int, sockaddr*, socklen_t*) const) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  auto* const raw = reinterpret_cast<sockaddr*>(&address);
  int error = -EBADF;
  socket_.Use([&] { error = (socket_.kernel().*ask)(socket_.fd(), raw, &size); });
  return error < 0 ? Endpoint() : Endpoint::FromSockaddr(raw, size);
}

Endpoint Conn::peer() { return Name(&Kernel::GetPeerName); }

Endpoint Conn::local() { return Name(&Kernel::GetSockName); }

Endpoint Conn::original_destination(int family) {
  constexpr int kOriginalDestination = 80;  // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
  const int level = family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  int error = -EBADF;
  socket_.Use([&] {
    error = socket_.kernel().GetSockOpt(socket_.fd(), level, kOriginalDestination, &address, &size);
  });
  return error < 0 ? Endpoint()
                   : Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&address), size);
}

}  // namespace netpoll
