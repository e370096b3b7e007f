// SPDX-License-Identifier: Apache-2.0
#include "server/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sched/fibers.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoResult;
using netpoll::IoStatus;

namespace {

// The limit of a session that is told to end: has always passed.
constexpr sched::Duration kNoMore(-1);

}  // namespace

Session::Session(Conn client, Conn backend, bool echo, BufferPool& buffers,
                 const SessionTimeouts& timeouts)
    : client_(std::move(client)),
      backend_(std::move(backend)),
      half_{{&client_, echo ? &client_ : &backend_, {}, {}}, {&backend_, &client_, {}, {}}},
      echo_(echo),
      buffers_(buffers),
      timeouts_(timeouts),
      alive_(halves()),
      connecting_(!echo) {}

bool Session::RunHalf(int which) {
  Half& half = half_[which];
  NoteActivity(half, sched::RoundTime());
  half.reader.emplace(*half.source);
  half.writer.emplace(*half.target);
  LimitReading(*half.source);
  Relay(half);
  half.reader.reset();
  half.writer.reset();
  // Acquire and release: the last one out sees all the other half did.
  if (alive_.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
  SetReason(half_closed_.load(std::memory_order_relaxed));
  Close();
  return true;
}

// --- One half.

void Session::Relay(Half& half) {
  for (;;) {
    Step step = {half.reader->AwaitReadable(), /*reading=*/true};
    if (step.result.ok()) {
      // Before the read: who finds nothing unread any more finds this (NoteUnreadBytes).
      NoteActivity(half, sched::RoundTime());
      step = buffers_.HasRoom() ? Move(half) : MoveInPlace(half);
    }
    if (step.result.ok()) {
      sched::ChargeOperation();
      continue;
    }
    if (step.reading && step.result.status == IoStatus::kAgain) continue;
    const bool timed_out = step.reading && step.result.status == IoStatus::kTimeout;
    if (timed_out && KeepWaiting(*half.source, &Conn::SetReadDeadline)) continue;
    return HalfEnded(half, step);
  }
}

// No park between the read and the end of the write or the copy into a lease: the scratch buffer
// belongs to the worker.
Session::Step Session::Move(Half& half) {
  const std::span<std::byte> scratch = buffers_.Scratch();
  const IoResult read = half.reader->TryRead(scratch);
  if (!read.ok()) return {read, /*reading=*/true};
  const IoResult sent = Send(half, scratch.first(read.bytes));
  if (sent.ok() && sent.bytes == read.bytes) return {sent, /*reading=*/false};
  if (!sent.ok() && sent.status != IoStatus::kAgain) return {sent, /*reading=*/false};
  return {SendRest(half, scratch.subspan(sent.bytes, read.bytes - sent.bytes)), /*reading=*/false};
}

// While the buffer pool is used up. What the target does not take at once stays with the source's
// kernel, which costs a system call more per turn and no memory. Waiting for a buffer before
// reading would let slow receivers stop everybody, and two halves of one session, through a backend
// that answers as it reads, each other.
Session::Step Session::MoveInPlace(Half& half) {
  const std::span<std::byte> scratch = buffers_.Scratch();
  const IoResult seen = half.reader->TryPeek(scratch);
  if (!seen.ok()) return {seen, /*reading=*/true};
  const IoResult sent = Send(half, scratch.first(seen.bytes));
  if (sent.status == IoStatus::kAgain) return {AwaitTarget(half), /*reading=*/false};
  if (!sent.ok()) return {sent, /*reading=*/false};
  TargetIsWritable(half);
  NoteActivity(half, sched::RoundTime());
  return {half.reader->TryRead(scratch.first(sent.bytes)), /*reading=*/true};
}

// --- Writing.

// What the target takes now, or kAgain. Whether it is waited for is for AwaitTarget to say.
IoResult Session::Send(Half& half, std::span<const std::byte> data) {
  for (;;) {
    const IoResult sent = half.writer->TryWrite(data);
    if (sent.status != IoStatus::kTimeout) return sent;
    half.target->SetWriteDeadline(sched::kNever);
  }
}

// The target takes no more for now: from here on the fiber parks, so the bytes need a place of
// their own.
[[gnu::noinline]] IoResult Session::SendRest(Half& half, std::span<const std::byte> rest) {
  const BufferPool::Lease lease = buffers_.Take();
  std::memcpy(lease.bytes().data(), rest.data(), rest.size());
  rest = lease.bytes().first(rest.size());
  for (;;) {
    const IoResult sent = Send(half, rest);
    if (sent.status == IoStatus::kAgain) {
      if (const IoResult waited = AwaitTarget(half); !waited.ok()) return waited;
      continue;
    }
    if (!sent.ok()) return sent;
    NoteActivity(half, sched::RoundTime());
    rest = rest.subspan(sent.bytes);
    if (!rest.empty()) continue;
    TargetIsWritable(half);
    return sent;
  }
}

// Blocks until the target may take more; kTimeout when the session's patience with it is over.
IoResult Session::AwaitTarget(Half& half) {
  if (!echo_) half.target->AlsoWakeFor(*half.source);
  for (;;) {
    if (half.give_up == sched::kNever && SourceBroke(half)) {
      SetReason(ResetBy(*half.source));
      half.give_up = LingerFromNow();
    }
    const int64_t left = half.target->unsent_bytes();
    if (left >= 0 && left < half.unsent.load(std::memory_order_seq_cst)) {
      NoteActivity(half, sched::RoundTime());  // as NoteTakenBytes would, later
    }
    half.unsent.store(left, std::memory_order_seq_cst);
    if (!KeepWriting(half)) return {.status = IoStatus::kTimeout};
    const IoResult waited = half.writer->AwaitWritable();
    if (waited.status != IoStatus::kTimeout) return waited;
  }
}

void Session::TargetIsWritable(Half& half) {
  if (half.unsent.load(std::memory_order_seq_cst) == 0) return;  // it has not been waited for
  half.target->SetWriteDeadline(sched::kNever);
  half.unsent.store(0, std::memory_order_seq_cst);
}

bool Session::KeepWriting(Half& half) {
  if (half.give_up == sched::kNever) return KeepWaiting(*half.target, &Conn::SetWriteDeadline);
  half.target->SetWriteDeadline(half.give_up);
  return half.give_up > sched::Now() && !ending();
}

// --- Timeouts.

bool Session::HalfCloseLimits() const {
  if (half_closed_.load(std::memory_order_seq_cst) == EndReason::kNone) return false;
  if (timeouts_.half_close == sched::Duration(0)) return false;
  return timeouts_.idle == sched::Duration(0) || timeouts_.half_close <= timeouts_.idle;
}

// How long both directions may be silent, 0 without limit.
sched::Duration Session::Limit() const {
  if (ending()) return kNoMore;
  return HalfCloseLimits() ? timeouts_.half_close : timeouts_.idle;
}

// Gives the source's reader the whole limit, from now on.
void Session::LimitReading(Conn& source) {
  sched::Duration limit;
  do {
    limit = Limit();
    if (limit != sched::Duration(0)) {
      source.SetReadDeadline(sched::After(sched::RoundTime(), limit));
    }
  } while (limit != Limit());  // else this has overwritten a deadline that another half has set
}

// False after silence for the limit; else sets the connection's deadline to when that will be.
// Deadlines are not moved per read: they fire, find later activity here, and are set anew.
bool Session::KeepWaiting(Conn& conn, void (Conn::*set_deadline)(sched::Deadline)) {
  for (;;) {
    const sched::Duration limit = Limit();
    sched::Deadline next;
    if (Expired(limit, &next)) return false;
    (conn.*set_deadline)(next);
    // The other half or the session may have ended meanwhile, and their earlier deadline been
    // overwritten here.
    if (limit == Limit()) return true;
  }
}

bool Session::Expired(sched::Duration limit, sched::Deadline* next) {
  *next = sched::kNever;
  if (limit == sched::Duration(0)) return false;
  if (limit == kNoMore) return true;
  const sched::Deadline now = sched::Now();
  *next = sched::After(LastActivity(), limit);
  if (*next > now) return false;
  NoteTakenBytes(now);
  NoteUnreadBytes(now);
  *next = sched::After(LastActivity(), limit);
  return *next <= now;
}

void Session::NoteActivity(Half& half, sched::Deadline at) {
  half.last_activity.store(sched::ToNs(at), std::memory_order_relaxed);
}

sched::Deadline Session::LastActivity() const {
  return sched::FromNs(std::max(half_[0].last_activity.load(std::memory_order_relaxed),
                                half_[1].last_activity.load(std::memory_order_relaxed)));
}

// A send queue that a half is blocked at and that has become shorter since the last look is
// activity. The kernel calls it writable only when a third of it is free, which a slow receiver may
// take longer for than the limit.
void Session::NoteTakenBytes(sched::Deadline now) {
  for (int i = 0; i < halves(); ++i) {
    // Who finds the other half's newer look here finds its last_activity too (acquire, release).
    const int64_t before = half_[i].unsent.load(std::memory_order_seq_cst);
    if (before == 0) continue;
    const int64_t left = half_[i].target->unsent_bytes();
    if (left < 0 || left >= before) continue;
    NoteActivity(half_[i], now);
    half_[i].unsent.store(left, std::memory_order_seq_cst);
  }
}

// Bytes that wait for a half that is not blocked are activity, which only has not been seen yet:
// the process was stopped, or the worker busy, when both the bytes and the timer came. If that half
// has just read them, it noted that before: the socket's lock in the kernel orders its note and its
// read before the look here and the caller's load after it.
void Session::NoteUnreadBytes(sched::Deadline now) {
  for (int i = 0; i < halves(); ++i) {
    Half& half = half_[i];
    if (half.unsent.load(std::memory_order_seq_cst) != 0) continue;
    if (half.target_broke.load(std::memory_order_seq_cst)) continue;  // it reads no more
    if (half.source->unread_bytes() <= 0) continue;
    NoteActivity(half, now);
  }
}

}  // namespace parkway
