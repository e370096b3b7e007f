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

const char* ToString(EndReason reason) {
  switch (reason) {
    case EndReason::kNone:
      return "none";
    case EndReason::kFinished:
      return "finished";
    case EndReason::kClientReset:
      return "client_reset";
    case EndReason::kBackendReset:
      return "backend_reset";
    case EndReason::kNoBackend:
      return "no_backend";
    case EndReason::kIdle:
      return "idle";
    case EndReason::kOverload:
      return "overload";
    case EndReason::kShutdown:
      return "shutdown";
  }
  return "?";
}

Session::Session(Conn client, Conn backend, bool echo, BufferPool& buffers,
                 const SessionTimeouts& timeouts)
    : client_(std::move(client)),
      backend_(std::move(backend)),
      half_{{&client_, echo ? &client_ : &backend_, {}, {}}, {&backend_, &client_, {}, {}}},
      echo_(echo),
      buffers_(buffers),
      timeouts_(timeouts),
      alive_(halves()) {}

bool Session::RunHalf(int which) {
  Half& half = half_[which];
  half.last_activity.store(sched::ToNs(sched::RoundTime()), std::memory_order_relaxed);
  half.reader.emplace(*half.source);
  half.writer.emplace(*half.target);
  sched::Duration limit;
  do {
    limit = Limit();
    if (limit > sched::Duration(0)) {
      half.source->SetReadDeadline(sched::After(sched::RoundTime(), limit));
    }
  } while (limit != Limit());  // else this has overwritten the deadline of a half that ended
  Relay(half);
  half.reader.reset();
  half.writer.reset();
  // Acquire and release: the last one out sees all the other half did.
  if (alive_.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
  End(EndReason::kFinished);
  return true;
}

void Session::End(EndReason reason) {
  SetReason(reason);
  client_.Close();
  backend_.Close();
}

void Session::SetReason(EndReason reason) {
  EndReason none = EndReason::kNone;
  (void)reason_.compare_exchange_strong(none, reason, std::memory_order_relaxed);
}

EndReason Session::ResetBy(const Conn& broken) const {
  return &broken == &client_ ? EndReason::kClientReset : EndReason::kBackendReset;
}

// --- One half.

void Session::Relay(Half& half) {
  for (;;) {
    IoResult result = half.reader->AwaitReadable();
    if (result.ok()) {
      BufferPool::Room room(buffers_);
      // No park between here and the end of the write or the copy into a lease: the scratch buffer
      // belongs to the worker.
      const std::span<std::byte> scratch = buffers_.Scratch();
      result = half.reader->TryRead(scratch);
      if (result.status == IoStatus::kAgain) continue;
      if (result.ok()) {
        half.last_activity.store(sched::ToNs(sched::RoundTime()), std::memory_order_relaxed);
        const IoResult written = WriteAll(half, room, scratch.first(result.bytes));
        if (!written.ok()) return HalfEnded(half, written, /*reading=*/false);
        sched::ChargeOperation();
        continue;
      }
    }
    if (result.status == IoStatus::kTimeout && KeepWaiting(*half.source, &Conn::SetReadDeadline)) {
      continue;
    }
    return HalfEnded(half, result, /*reading=*/true);
  }
}

void Session::HalfEnded(Half& half, const IoResult& result, bool reading) {
  switch (result.status) {
    case IoStatus::kEof:
      if (EndedByReset(half)) break;
      half.finished.store(true, std::memory_order_seq_cst);
      (void)half.writer->ShutdownWrite();  // fails only if the target broke, which its reader sees
      half.last_activity.store(sched::ToNs(sched::RoundTime()), std::memory_order_relaxed);
      LimitTheOtherHalf(half);
      return;
    case IoStatus::kTimeout:
      if (!reading && !echo_ && half.source->broken()) {
        SetReason(ResetBy(*half.source));  // reset_linger is over
        half.target->Abort();
      }
      return End(EndReason::kIdle);
    case IoStatus::kClosed:
      return End(EndReason::kShutdown);  // whoever closed it has set the reason
    default:
      break;
  }
  SetReason(ResetBy(reading ? *half.source : *half.target));
  if (reading) {
    if (!echo_) PassResetOn(*half.target);
    return End(EndReason::kNone);
  }
  // The target broke. Its own reader delivers what it sent before that and meets the same end; in
  // case it does not, the half-close limit holds.
  if (!echo_ && alive_.load(std::memory_order_acquire) == 1) return PassResetOn(*half.source);
  LimitTheOtherHalf(half);
}

// The source's reset may have been told to the other half, which was writing to it; the end that
// this half then reads looks like a FIN.
bool Session::EndedByReset(const Half& half) const {
  const Half& other = &half == &half_[0] ? half_[1] : half_[0];
  return !echo_ && !other.finished.load(std::memory_order_seq_cst) && half.source->was_reset();
}

// From now on half_close_timeout holds. The other half reads what this one's target sends, and may
// be blocked writing it to this one's source: there a passed deadline makes it look at its limit
// anew.
void Session::LimitTheOtherHalf(Half& half) {
  half_closed_.store(true, std::memory_order_seq_cst);
  if (echo_ || Limit() == sched::Duration(0)) return;
  half.target->SetReadDeadline(sched::After(sched::RoundTime(), Limit()));
  half.source->SetWriteDeadline(sched::kLongAgo);
}

// A reset throws the send queue away, so it waits until the peer's kernel has taken everything.
// There is no event for that.
void Session::PassResetOn(Conn& target) {
  const sched::Deadline until = sched::After(sched::Now(), timeouts_.reset_linger);
  sched::Duration pause = std::chrono::milliseconds(1);
  while (target.unsent_bytes() > 0 && sched::Now() < until) {
    sched::SleepFor(pause);
    pause = std::min<sched::Duration>(2 * pause, std::chrono::milliseconds(16));
  }
  target.Abort();
}

// --- Writing.

IoResult Session::WriteAll(Half& half, BufferPool::Room& room, std::span<const std::byte> data) {
  const IoResult result = half.writer->TryWrite(data);
  if (result.ok() && result.bytes == data.size()) return result;
  const bool waits = result.status == IoStatus::kAgain || result.status == IoStatus::kTimeout;
  if (!result.ok() && !waits) return result;
  return WriteRest(half, room, data.subspan(result.bytes));
}

// The target takes no more for now: from here on the fiber parks, so the bytes need a place of
// their own.
[[gnu::noinline]] IoResult Session::WriteRest(Half& half, BufferPool::Room& room,
                                              std::span<const std::byte> rest) {
  const BufferPool::Lease lease = room.Take();
  std::memcpy(lease.bytes().data(), rest.data(), rest.size());
  rest = lease.bytes().first(rest.size());
  if (!echo_) half.target->AlsoWakeFor(*half.source);
  sched::Deadline give_up = sched::kNever;
  for (;;) {
    IoResult result = half.writer->TryWrite(rest);
    if (result.bytes > 0) {
      half.last_activity.store(sched::ToNs(sched::RoundTime()), std::memory_order_relaxed);
      rest = rest.subspan(result.bytes);
      if (rest.empty()) {
        half.target->SetWriteDeadline(sched::kNever);
        half.unsent.store(0, std::memory_order_seq_cst);
        return result;
      }
    }
    if (result.status == IoStatus::kAgain) {
      if (give_up == sched::kNever && !echo_ && half.source->broken()) {
        // Nobody is left to answer to: the target has reset_linger to take the rest.
        give_up = sched::After(sched::Now(), timeouts_.reset_linger);
      }
      half.unsent.store(half.target->unsent_bytes(), std::memory_order_seq_cst);
      if (!KeepWriting(half, give_up)) return {.status = IoStatus::kTimeout};
      result = half.writer->AwaitWritable();
    }
    if (result.ok()) continue;
    if (result.status != IoStatus::kTimeout || !KeepWriting(half, give_up)) return result;
  }
}

bool Session::KeepWriting(Half& half, sched::Deadline give_up) {
  if (give_up == sched::kNever) return KeepWaiting(*half.target, &Conn::SetWriteDeadline);
  if (give_up <= sched::Now()) return false;
  half.target->SetWriteDeadline(give_up);
  return true;
}

// --- Timeouts.

sched::Duration Session::Limit() const {
  if (!half_closed_.load(std::memory_order_seq_cst)) return timeouts_.idle;
  if (timeouts_.half_close == sched::Duration(0)) return timeouts_.idle;
  if (timeouts_.idle == sched::Duration(0)) return timeouts_.half_close;
  return std::min(timeouts_.idle, timeouts_.half_close);
}

// False after silence for the limit; else sets the connection's deadline to when that will be.
// Deadlines are not moved per read: they fire, find later activity here, and are set anew.
bool Session::KeepWaiting(Conn& conn, void (Conn::*set_deadline)(sched::Deadline)) {
  for (;;) {
    const sched::Duration limit = Limit();
    sched::Deadline next;
    if (Expired(limit, &next)) return false;
    (conn.*set_deadline)(next);
    // The other half may have ended meanwhile, and its earlier deadline been overwritten here.
    if (limit == Limit()) return true;
  }
}

bool Session::Expired(sched::Duration limit, sched::Deadline* next) {
  *next = sched::kNever;
  if (limit == sched::Duration(0)) return false;
  const sched::Deadline now = sched::Now();
  *next = sched::After(LastActivity(), limit);
  if (*next > now) return false;
  NoteTakenBytes(now);
  *next = sched::After(LastActivity(), limit);
  return *next <= now;
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
    half_[i].last_activity.store(sched::ToNs(now), std::memory_order_relaxed);
    half_[i].unsent.store(left, std::memory_order_seq_cst);
  }
}

}  // namespace parkway
