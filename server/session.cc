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
  if (!echo_) half.target->AlsoWakeFor(*half.source);
  if (timeouts_.idle > sched::Duration(0)) {
    half.source->SetReadDeadline(sched::After(sched::RoundTime(), Limit()));
  }
  Relay(half);
  half.reader.reset();
  half.writer.reset();
  // Acquire and release: the last one out sees all the other half did.
  if (alive_.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
  End(EndReason::kFinished);
  return true;
}

void Session::End(EndReason reason) {
  EndReason none = EndReason::kNone;
  (void)reason_.compare_exchange_strong(none, reason, std::memory_order_relaxed);
  client_.Close();
  backend_.Close();
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
    if (result.status == IoStatus::kTimeout) {
      sched::Deadline next;
      if (!Expired(&next)) {
        half.source->SetReadDeadline(next);
        continue;
      }
    }
    return HalfEnded(half, result, /*reading=*/true);
  }
}

void Session::HalfEnded(Half& half, const IoResult& result, bool reading) {
  switch (result.status) {
    case IoStatus::kEof: {
      (void)half.writer->ShutdownWrite();  // fails only if the target broke, which its reader sees
      half.last_activity.store(sched::ToNs(sched::RoundTime()), std::memory_order_relaxed);
      LimitTheOtherHalf(half);
      return;
    }
    case IoStatus::kTimeout:
      return End(EndReason::kIdle);
    case IoStatus::kClosed:
      return End(EndReason::kShutdown);  // whoever closed it has set the reason
    default:
      break;
  }
  Conn* const broken = reading ? half.source : half.target;
  EndReason none = EndReason::kNone;
  (void)reason_.compare_exchange_strong(
      none, broken == &client_ ? EndReason::kClientReset : EndReason::kBackendReset,
      std::memory_order_relaxed);
  if (reading) {
    if (!echo_) PassResetOn(*half.target);
    return End(EndReason::kNone);
  }
  // The target broke. Its own reader delivers what it sent before that and meets the same end; in
  // case it does not, the half-close limit holds.
  if (!echo_ && alive_.load(std::memory_order_acquire) == 1) return PassResetOn(*half.source);
  LimitTheOtherHalf(half);
}

// From now on half_close_timeout holds. The other half reads what this one's target sends.
void Session::LimitTheOtherHalf(Half& half) {
  half_closed_.store(true, std::memory_order_seq_cst);
  if (echo_ || Limit() == sched::Duration(0)) return;
  half.target->SetReadDeadline(sched::After(sched::RoundTime(), Limit()));
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
  if (!result.ok() && result.status != IoStatus::kAgain) return result;
  return WriteRest(half, room, data.subspan(result.bytes));
}

// The target takes no more for now: from here on the fiber parks, so the bytes need a place of
// their own.
[[gnu::noinline]] IoResult Session::WriteRest(Half& half, BufferPool::Room& room,
                                              std::span<const std::byte> rest) {
  const BufferPool::Lease lease = room.Take();
  std::memcpy(lease.bytes().data(), rest.data(), rest.size());
  rest = lease.bytes().first(rest.size());
  bool hurried = false;
  for (;;) {
    IoResult result = half.writer->TryWrite(rest);
    if (result.bytes > 0) {
      half.last_activity.store(sched::ToNs(sched::RoundTime()), std::memory_order_relaxed);
      rest = rest.subspan(result.bytes);
      if (rest.empty()) {
        half.target->SetWriteDeadline(sched::kNever);
        return result;
      }
    }
    if (result.status == IoStatus::kAgain) {
      if (!hurried && !echo_ && half.source->broken()) {
        // Nobody is left to answer to: the target has reset_linger to take the rest.
        hurried = true;
        half.target->SetWriteDeadline(sched::After(sched::Now(), timeouts_.reset_linger));
      } else if (!hurried && Limit() > sched::Duration(0)) {
        sched::Deadline next;
        if (Expired(&next)) return {.status = IoStatus::kTimeout};
        half.target->SetWriteDeadline(next);
      }
      result = half.writer->AwaitWritable();
    }
    if (result.ok()) continue;
    sched::Deadline next;
    const bool moved = result.status == IoStatus::kTimeout && !hurried && !Expired(&next);
    if (!moved) return result;
    half.target->SetWriteDeadline(next);
  }
}

// --- Timeouts.

sched::Duration Session::Limit() const {
  if (!half_closed_.load(std::memory_order_seq_cst)) return timeouts_.idle;
  if (timeouts_.half_close == sched::Duration(0)) return timeouts_.idle;
  if (timeouts_.idle == sched::Duration(0)) return timeouts_.half_close;
  return std::min(timeouts_.idle, timeouts_.half_close);
}

// Whether neither half moved a byte for the limit; else when that will be. Deadlines are not moved
// per read: they fire, find later activity here, and are set anew.
bool Session::Expired(sched::Deadline* next) {
  const int64_t last = std::max(half_[0].last_activity.load(std::memory_order_relaxed),
                                half_[1].last_activity.load(std::memory_order_relaxed));
  *next = Limit() > sched::Duration(0) ? sched::After(sched::FromNs(last), Limit()) : sched::kNever;
  return *next <= sched::Now();
}

}  // namespace parkway
