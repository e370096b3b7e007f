// SPDX-License-Identifier: Apache-2.0
//
// A half's last acts: docs/endings.md has the table.
#include <algorithm>
#include <chrono>
#include <cstddef>

#include "sched/fibers.h"
#include "server/relay.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoStatus;

namespace {

// At most so much is read and dropped of each peer whose session is ended: more than a request has
// on its way, and little work for who floods.
constexpr size_t kLingerBytes = 1 << 20;

}  // namespace

[[gnu::noinline]] void Relay::Ended(const Step& step) {
  switch (step.result.status) {
    case IoStatus::kEof:
      if (EndedByReset()) break;
      session_.NoteHalfClosed(half_);
      Finish();
      return LimitTheOtherHalf();
    case IoStatus::kTimeout:
      if (give_up_ != sched::kNever && !session_.ending()) {  // reset_linger is over
        target_.Abort();
        return session_.Close();
      }
      session_.End(session_.HalfCloseLimits() ? EndReason::kHalfCloseTimeout
                                              : EndReason::kIdleTimeout);
      return CutOff(/*holds_bytes=*/!step.reading);
    case IoStatus::kClosed:  // by the other half
      return session_.ending() ? CutOff(/*holds_bytes=*/!step.reading) : session_.Close();
    case IoStatus::kError:
      if (step.reading || !step.result.is_local()) break;
      // It cannot be written to, but did not break: its reader would not meet that end.
      session_.End(ResetBy(target_));
      return CutOff(/*holds_bytes=*/true);
    default:
      break;
  }
  session_.SetReason(ResetBy(step.reading ? source_ : target_));
  if (step.reading) {
    if (!session_.is_local()) PassResetOn(target_);
    return session_.Close();
  }
  // The target broke. Its own reader delivers what it sent before that and meets the same end; in
  // case it does not, the half-close limit holds.
  half_.target_broke.store(true, std::memory_order_seq_cst);
  if (!session_.is_local() && IsAlone()) return PassResetOn(source_);
  session_.NoteHalfClosed(half_);
  LimitTheOtherHalf();
}

void Relay::Finish() {
  half_.finished.store(true, std::memory_order_seq_cst);
  // Once both halves have ended by FIN, closing sends the second: all input was read.
  const bool both = IsAlone() && session_.Other(half_).finished.load(std::memory_order_seq_cst);
  if (both && !session_.ending()) return;
  (void)writer_.ShutdownWrite();  // fails only if the target broke, which its reader sees
}

// The session is told to end. A target that did not get everything is reset, so that what it got is
// not taken for the whole.
void Relay::CutOff(bool holds_bytes) {
  const sched::Deadline until = LingerFromNow();
  if (!holds_bytes && HandedAllOn()) {
    Finish();
  } else {
    AwaitTaken(target_, until);
    // For HandedAllOn of the half that reads there, which can ask no more.
    session_.Other(half_).source_had_more.store(target_.unread_bytes() > 0,
                                                std::memory_order_seq_cst);
    target_.Abort();
  }
  DropInput(until);
}

// All that has come from the source is in the target's kernel.
bool Relay::HandedAllOn() {
  const int64_t unread = source_.unread_bytes();
  // < 0: it is closed, by the other half
  if (unread > 0 || (unread < 0 && half_.source_had_more.load(std::memory_order_seq_cst))) {
    return false;
  }
  return !SourceBroke() && !EndedByReset();
}

// Closing a connection with unread input resets it, and a reset destroys what its peer has not read
// yet. So until the peer has ended, too, its input is read and dropped, within bounds.
void Relay::DropInput(sched::Deadline until) {
  size_t dropped = 0;
  while (dropped < kLingerBytes) {
    const netpoll::IoResult got = reader_.TryRead(buffers().Scratch());
    if (got.status == IoStatus::kAgain) {
      if (!AwaitInput(until)) return;
      continue;
    }
    if (!got.ok()) return;
    dropped += got.bytes;
    sched::ChargeOperation();
  }
}

// True when there may be more. What is there already is told of in any case.
bool Relay::AwaitInput(sched::Deadline until) {
  for (;;) {
    const bool is_there = source_.unread_bytes() > 0;
    source_.SetReadDeadline(is_there ? sched::kNever : until);
    if (!is_there && (session_.stopping() || until <= sched::Now())) return false;
    const netpoll::IoResult waited = reader_.AwaitReadable();
    // Who told the half to end may move its deadline to the past later than it has seen that.
    if (waited.status != IoStatus::kTimeout) return waited.ok();
  }
}

// Nobody is left to answer to. The kernel tells of a reset once, and may have told the writer.
bool Relay::SourceBroke() {
  return !session_.is_local() &&
         (source_.broken() || session_.Other(half_).target_broke.load(std::memory_order_seq_cst));
}

// The source's reset may have been told to the other half, which was writing to it; the end that
// this half then reads looks like a FIN. After our own FIN the connection's state says nothing, and
// that may come at any moment: so it is asked for before and after.
bool Relay::EndedByReset() {
  const auto fin_sent = [&] {
    return session_.Other(half_).finished.load(std::memory_order_seq_cst);
  };
  return !session_.is_local() && !fin_sent() && source_.was_reset() && !fin_sent();
}

// Makes it look at half_close_timeout. The other half reads what this one's target sends, and may
// be blocked writing it to this one's source: there a passed deadline makes it look at its limit
// anew. "Store half_closed_, load unsent" here, "store unsent, load half_closed_" in AwaitTarget:
// one of the two sees the other.
void Relay::LimitTheOtherHalf() {
  if (IsAlone()) return;
  session_.LimitReading(target_);
  if (session_.Other(half_).unsent.load(std::memory_order_seq_cst) != 0) {
    source_.SetWriteDeadline(sched::kLongAgo);
  }
}

// The other half has left, or never was.
bool Relay::IsAlone() const { return session_.alive_.load(std::memory_order_acquire) == 1; }

sched::Deadline Relay::LingerFromNow() const {
  return sched::After(sched::Now(), session_.route_.timeouts.reset_linger);
}

EndReason Relay::ResetBy(const Conn& broken) const {
  return &broken == &session_.client() ? EndReason::kClientReset : EndReason::kUpstreamReset;
}

// The other peer has reset its connection.
void Relay::PassResetOn(Conn& target) {
  if (target.unsent_bytes() > 0) AwaitTaken(target, LingerFromNow());
  target.Abort();
}

// A reset throws the send queue away, so before one it waits until the peer's kernel has taken
// everything. There is no event for that.
void Relay::AwaitTaken(Conn& target, sched::Deadline until) {
  sched::Duration pause = std::chrono::milliseconds(1);
  while (target.unsent_bytes() > 0 && sched::Now() < until && !session_.stopping()) {
    sched::SleepFor(pause);
    pause = std::min<sched::Duration>(2 * pause, std::chrono::milliseconds(16));
  }
}

}  // namespace parkway
