// SPDX-License-Identifier: Apache-2.0
#include "server/relay.h"

#include <cerrno>
#include <cstring>

#include "sched/fibers.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoResult;
using netpoll::IoStatus;

namespace {

// The kernel does not splice, at all (a seccomp filter) or this socket. Any other error is the
// connection's own, told once: who reads again finds an end without a reason.
bool IsForbidden(const IoResult& spliced) {
  return spliced.os_error == EPERM || spliced.os_error == ENOSYS || spliced.os_error == EINVAL;
}

}  // namespace

// --- One direction.

void Relay::Run() {
  // A half that is not closed already holds both until it ends, also while it hibernates.
  const bool held = reader_ && writer_;
  // A proxied client has waited for its backend's connect, and mostly has sent something by now.
  const bool is_unread = session_.arrival() == nullptr;
  if (session_.is_local() && is_unread) reader_.ExpectNothing();
  MoveUntilItEnds(held ? reader_.AwaitReadableOr(half_) : IoResult{.status = IoStatus::kClosed});
}

// The path of every request, in one piece.
[[gnu::flatten]] void Relay::Woken() { MoveUntilItEnds(reader_.Woken()); }

// `waited`: whether the source can be read.
void Relay::MoveUntilItEnds(IoResult waited) {
  for (;;) {
    Step step = {waited, /*reading=*/true};
    if (waited.ok()) {
      // Before the read: who finds nothing unread any more finds this (NoteUnreadBytes).
      Session::NoteActivity(half_, sched::RoundTime());
      step = Move();
    }
    if (step.result.ok()) {
      if (++moves_ % sched::kOperationsPerTurn == 0) sched::Yield();
    } else if (!GoesOn(step)) {
      return Ended(step);
    }
    waited = reader_.AwaitReadableOr(half_);
  }
}

// The source's silence is not over its limit.
[[gnu::noinline]] bool Relay::GoesOn(const Step& step) {
  if (!step.reading) return false;
  if (step.result.status == IoStatus::kAgain) return true;
  return step.result.status == IoStatus::kTimeout &&
         session_.KeepWaiting(source_, &Conn::SetReadDeadline);
}

Relay::Step Relay::Move() {
  if (__builtin_expect(half_.ways != 0, false)) return MoveByOtherWays();
  return Copy(buffers().Scratch());
}

[[gnu::noinline]] Relay::Step Relay::MoveByOtherWays() {
  const std::span<std::byte> scratch = buffers().Scratch().first(session_.route().slice);
  const Step step = (half_.ways & Session::kDrops) != 0     ? Drop(scratch)
                    : (half_.ways & Session::kSplices) != 0 ? Splice(scratch)
                                                            : Copy(scratch);
  NoteFirst();
  if (step.result.ok() && (half_.ways & Session::kPaces) != 0) Throttle();
  return step;
}

// When the first bytes for the client were sent; before the fiber parks, and the time is another.
void Relay::NoteFirst() {
  if ((half_.ways & Session::kIsFirst) == 0) return;
  if (half_.bytes.load(std::memory_order_relaxed) == 0) return;
  half_.ways &= ~Session::kIsFirst;
  session_.NoteFirst(sched::RoundTime());
}

// Until it may move more; in short naps, since the session may end meanwhile.
[[gnu::noinline]] void Relay::Throttle() {
  constexpr sched::Duration kNap = std::chrono::milliseconds(20);
  SessionRoute& route = session_.route();
  Session::Pace& pace = session_.pace(half_);
  const sched::Deadline now = sched::Now();
  const int64_t bytes = half_.bytes.load(std::memory_order_relaxed);
  const auto moved = static_cast<size_t>(bytes - std::exchange(pace.charged, bytes));
  const sched::Duration wait =
      std::max(route.bandwidth.Charge(moved, now, pace.due),
               route.shared_bandwidth.Charge(moved, now, route.shared_due[half_.index]));
  while (sched::Now() < now + wait && !session_.ending()) {
    sched::SleepFor(std::min(now + wait - sched::Now(), kNap));
    Session::NoteActivity(half_, sched::RoundTime());
  }
}

Relay::Step Relay::Drop(std::span<std::byte> scratch) {
  const IoResult read = reader_.TryRead(scratch);
  half_.Count(read.bytes);
  return {read, /*reading=*/true};
}

Relay::Step Relay::Copy(std::span<std::byte> scratch) {
  return buffers().HasRoom() ? CopyByBuffer(scratch) : CopyInPlace(scratch);
}

// No park between the read and the end of the write or the copy into a lease: the scratch buffer
// belongs to the worker.
Relay::Step Relay::CopyByBuffer(std::span<std::byte> scratch) {
  const IoResult read = reader_.TryRead(scratch);
  if (!read.ok()) return {read, /*reading=*/true};
  if (read.bytes == BufferPool::kBufferBytes) NoteFullRead();
  const IoResult sent = Send(scratch.first(read.bytes));
  if (sent.ok() && sent.bytes == read.bytes) return {sent, /*reading=*/false};
  if (!sent.ok() && sent.status != IoStatus::kAgain) return {sent, /*reading=*/false};
  return {SendRest(scratch.subspan(sent.bytes, read.bytes - sent.bytes)), /*reading=*/false};
}

// Now and then one is splicing's trial: a flow that turns out small is copied again.
[[gnu::noinline]] void Relay::NoteFullRead() {
  if (++half_.full_reads % Session::kFullReadsToSplice == 0) {
    half_.splices_left = Session::kSmallSplicesMax;
    half_.ways |= Session::kSplices;
  }
}

// While the buffer pool is used up. What the target does not take at once stays with the source's
// kernel, which costs a system call more per turn and no memory. Waiting for a buffer before
// reading would let slow receivers stop everybody, and two halves of one session, through a backend
// that answers as it reads, each other.
[[gnu::noinline]] Relay::Step Relay::CopyInPlace(std::span<std::byte> scratch) {
  const IoResult seen = reader_.TryPeek(scratch);
  if (!seen.ok()) return {seen, /*reading=*/true};
  const IoResult sent = Send(scratch.first(seen.bytes));
  if (sent.status == IoStatus::kAgain) return {AwaitTarget(), /*reading=*/false};
  if (!sent.ok()) return {sent, /*reading=*/false};
  TargetIsWritable();
  Session::NoteActivity(half_, sched::RoundTime());
  return {reader_.TryRead(scratch.first(sent.bytes)), /*reading=*/true};
}

// While there is no pipe to have, it copies.
Relay::Step Relay::Splice(std::span<std::byte> scratch) {
  netpoll::Pipe* const pipe = reader_.CanSplice() ? pipes().Scratch() : nullptr;
  return pipe != nullptr ? SpliceBy(*pipe, scratch) : Copy(scratch);
}

// As CopyByBuffer, with a pipe in place of the buffer. What it holds when the half ends is closed
// with it.
Relay::Step Relay::SpliceBy(netpoll::Pipe& pipe, std::span<std::byte> scratch) {
  const IoResult read = reader_.TrySplice(pipe);
  if (read.status == IoStatus::kEof || IsForbidden(read)) {
    // Or an urgent mark before the end, which nobody has told of yet. Reading finds what is true.
    half_.ways &= ~Session::kSplices;
    return Copy(scratch);
  }
  if (!read.ok()) return {read, /*reading=*/true};
  NoteSplice(read.bytes);
  IoResult sent = Send(pipe);
  if (!pipe.empty()) {
    const PipePool::Kept kept = pipes().KeepScratch();
    if (sent.ok() || sent.status == IoStatus::kAgain) sent = SendRest(*kept);
  }
  if (sent.ok()) sched::Yield();  // a fill is a turn's worth
  return {sent, /*reading=*/false};
}

// Once a flow has become small, a buffer does with fewer system calls.
void Relay::NoteSplice(size_t moved) {
  if (moved >= session_.route().owner.large_flows.splice) {
    half_.splices_left = Session::kSmallSplicesMax;
  } else if (--half_.splices_left == 0) {
    half_.ways &= ~Session::kSplices;
  }
}

// --- Writing.

// What the target takes now, or kAgain. Whether it is waited for is for AwaitTarget to say.
template <class Try>
IoResult Relay::SendBy(Try try_once) {
  for (;;) {
    const IoResult sent = try_once();
    if (sent.status != IoStatus::kTimeout) {
      half_.Count(sent.bytes);
      return sent;
    }
    target_.SetWriteDeadline(sched::kNever);
  }
}

IoResult Relay::Send(std::span<const std::byte> data) {
  return SendBy([&] { return writer_.TryWrite(data); });
}

IoResult Relay::Send(netpoll::Pipe& pipe) {
  return SendBy([&] { return writer_.TrySplice(pipe); });
}

// The target takes no more for now: from here on the fiber parks, so the bytes need a place of
// their own.
[[gnu::noinline]] IoResult Relay::SendRest(std::span<const std::byte> rest) {
  const BufferPool::Lease lease = buffers().Take(rest.size());
  std::memcpy(lease.bytes().data(), rest.data(), rest.size());
  rest = lease.bytes().first(rest.size());
  const auto send_some = [&] {
    const IoResult sent = Send(rest);
    rest = rest.subspan(sent.bytes);
    return sent;
  };
  return SendAll(send_some, [&] { return rest.empty(); });
}

IoResult Relay::SendRest(netpoll::Pipe& pipe) {
  return SendAll([&] { return Send(pipe); }, [&] { return pipe.empty(); });
}

// Calls send_some, which sends what the target takes now, until all_sent; waits in between.
template <class SendSome, class AllSent>
IoResult Relay::SendAll(SendSome send_some, AllSent all_sent) {
  for (;;) {
    const IoResult sent = send_some();
    if (sent.status == IoStatus::kAgain) {
      if (const IoResult waited = AwaitTarget(); !waited.ok()) return waited;
      continue;
    }
    if (!sent.ok()) return sent;
    Session::NoteActivity(half_, sched::RoundTime());
    if (!all_sent()) continue;
    TargetIsWritable();
    return sent;
  }
}

// Blocks until the target may take more; kTimeout when the session's patience with it is over.
IoResult Relay::AwaitTarget() {
  NoteFirst();
  if (!session_.is_local()) target_.AlsoWakeFor(source_);
  for (;;) {
    if (give_up_ == sched::kNever && SourceBroke()) {
      session_.SetReason(ResetBy(source_));
      give_up_ = LingerFromNow();
    }
    const int32_t left = Session::UnsentTo(target_);
    if (left < half_.unsent.load(std::memory_order_seq_cst)) {
      Session::NoteActivity(half_, sched::RoundTime());  // as NoteTakenBytes would, later
    }
    // Then half_closed_ is loaded, in KeepWriting: see LimitTheOtherHalf.
    half_.unsent.store(left, std::memory_order_seq_cst);
    if (!KeepWriting()) return {.status = IoStatus::kTimeout};
    const IoResult waited = writer_.AwaitWritable();
    if (waited.status != IoStatus::kTimeout) return waited;
  }
}

void Relay::TargetIsWritable() {
  if (half_.unsent.load(std::memory_order_seq_cst) == 0) return;  // it has not been waited for
  target_.SetWriteDeadline(sched::kNever);
  half_.unsent.store(0, std::memory_order_seq_cst);
}

bool Relay::KeepWriting() {
  if (give_up_ == sched::kNever) return session_.KeepWaiting(target_, &Conn::SetWriteDeadline);
  target_.SetWriteDeadline(give_up_);
  return give_up_ > sched::Now() && !session_.ending();
}

}  // namespace parkway
