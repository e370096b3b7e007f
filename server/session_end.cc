// SPDX-License-Identifier: Apache-2.0
//
// How a session ends: docs/endings.md has the table.
#include <algorithm>
#include <chrono>
#include <cstddef>

#include "sched/fibers.h"
#include "server/session.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoStatus;

namespace {

// At most so much is read and dropped of each peer whose session is ended: more than a request has
// on its way, and little work for who floods.
constexpr size_t kLingerBytes = 1 << 20;

}  // namespace

// --- From outside.

// "Store connecting_, load ending_" here against "store ending_, load connecting_" in End: one of
// them sees the other.
bool Session::Connected() {
  connecting_.store(false, std::memory_order_seq_cst);
  return !ending();
}

void Session::Refuse(EndReason reason) {
  SetReason(reason);
  client_.Abort();
  backend_.Abort();
}

void Session::End(EndReason reason) {
  SetReason(reason);
  const Ending how = reason == EndReason::kStop ? Ending::kAtOnce : Ending::kLingering;
  Ending before = Ending::kNo;
  while (!ending_.compare_exchange_strong(before, how, std::memory_order_seq_cst)) {
    if (before >= how) return;  // its halves know
  }
  if (connecting_.load(std::memory_order_seq_cst)) return backend_.Close();
  for (Conn* const conn : {&client_, &backend_}) {
    conn->SetReadDeadline(sched::kLongAgo);
    conn->SetWriteDeadline(sched::kLongAgo);
  }
}

void Session::Close() {
  client_.Close();
  backend_.Close();
}

void Session::SetReason(EndReason reason) {
  EndReason none = EndReason::kNone;
  (void)reason_.compare_exchange_strong(none, reason, std::memory_order_relaxed);
}

EndReason Session::ResetBy(const Conn& broken) const {
  return &broken == &client_ ? EndReason::kClientReset : EndReason::kUpstreamReset;
}

// --- A half's last act.

void Session::HalfEnded(Half& half, const Step& step) {
  switch (step.result.status) {
    case IoStatus::kEof:
      if (EndedByReset(half)) break;
      NoteHalfClosed(half);
      Finish(half);
      return LimitTheOtherHalf(half);
    case IoStatus::kTimeout:
      if (half.give_up != sched::kNever && !ending()) {  // reset_linger is over
        half.target->Abort();
        return Close();
      }
      End(HalfCloseLimits() ? EndReason::kHalfCloseTimeout : EndReason::kIdleTimeout);
      return CutOff(half, /*holds_bytes=*/!step.reading);
    case IoStatus::kClosed:  // by the other half
      return ending() ? CutOff(half, /*holds_bytes=*/!step.reading) : Close();
    default:
      break;
  }
  SetReason(ResetBy(step.reading ? *half.source : *half.target));
  if (step.reading) {
    if (!echo_) PassResetOn(*half.target, LingerFromNow());
    return Close();
  }
  // The target broke. Its own reader delivers what it sent before that and meets the same end; in
  // case it does not, the half-close limit holds.
  half.target_broke.store(true, std::memory_order_seq_cst);
  const bool alone = !echo_ && alive_.load(std::memory_order_acquire) == 1;
  if (alone) return PassResetOn(*half.source, LingerFromNow());
  NoteHalfClosed(half);
  LimitTheOtherHalf(half);
}

void Session::Finish(Half& half) {
  half.finished.store(true, std::memory_order_seq_cst);
  (void)half.writer->ShutdownWrite();  // fails only if the target broke, which its reader sees
}

// The session is told to end. A target that did not get everything is reset, so that what it got is
// not taken for the whole.
void Session::CutOff(Half& half, bool holds_bytes) {
  const sched::Deadline until = LingerFromNow();
  if (!holds_bytes && HandedAllOn(half)) {
    Finish(half);
  } else {
    PassResetOn(*half.target, until);
  }
  DropInput(half, until);
}

// All that has come from the source is in the target's kernel.
bool Session::HandedAllOn(Half& half) {
  const int64_t unread = half.source->unread_bytes();
  // < 0: it is closed, by the other half
  if (unread > 0 || (unread < 0 && half.source_had_more.load(std::memory_order_seq_cst))) {
    return false;
  }
  return !SourceBroke(half) && !EndedByReset(half);
}

// Closing a connection with unread input resets it, and a reset destroys what its peer has not read
// yet. So until the peer has ended, too, its input is read and dropped, within bounds.
void Session::DropInput(Half& half, sched::Deadline until) {
  size_t dropped = 0;
  while (dropped < kLingerBytes) {
    const netpoll::IoResult got = half.reader->TryRead(buffers_.Scratch());
    if (got.status == IoStatus::kAgain) {
      if (!AwaitInput(half, until)) return;
      continue;
    }
    if (!got.ok()) return;
    dropped += got.bytes;
    sched::ChargeOperation();
  }
}

// True when there may be more. What is there already is told of in any case.
bool Session::AwaitInput(Half& half, sched::Deadline until) {
  for (;;) {
    const bool is_there = half.source->unread_bytes() > 0;
    half.source->SetReadDeadline(is_there ? sched::kNever : until);
    if (!is_there && (stopping() || until <= sched::Now())) return false;
    const netpoll::IoResult waited = half.reader->AwaitReadable();
    // Who told the half to end may move its deadline to the past later than it has seen that.
    if (waited.status != IoStatus::kTimeout) return waited.ok();
  }
}

// Nobody is left to answer to. The kernel tells of a reset once, and may have told the writer.
bool Session::SourceBroke(const Half& half) const {
  return !echo_ &&
         (half.source->broken() || Other(half).target_broke.load(std::memory_order_seq_cst));
}

// The source's reset may have been told to the other half, which was writing to it; the end that
// this half then reads looks like a FIN. After our own FIN the connection's state says nothing, and
// that may come at any moment: so it is asked for before and after.
bool Session::EndedByReset(const Half& half) const {
  const auto fin_sent = [&] { return Other(half).finished.load(std::memory_order_seq_cst); };
  return !echo_ && !fin_sent() && half.source->was_reset() && !fin_sent();
}

// From here on half_close_timeout holds. Before the target is told, whose answer is not the first.
void Session::NoteHalfClosed(Half& half) {
  NoteActivity(half, sched::RoundTime());
  EndReason none = EndReason::kNone;
  const bool by_client = half.source == &client_;
  (void)half_closed_.compare_exchange_strong(
      none, by_client ? EndReason::kClientFin : EndReason::kUpstreamFin, std::memory_order_seq_cst);
}

// Makes it look at half_close_timeout. The other half reads what this one's target sends, and may
// be blocked writing it to this one's source: there a passed deadline makes it look at its limit
// anew.
void Session::LimitTheOtherHalf(Half& half) {
  if (echo_) return;
  LimitReading(*half.target);
  half.source->SetWriteDeadline(sched::kLongAgo);
}

sched::Deadline Session::LingerFromNow() const {
  return sched::After(sched::Now(), timeouts_.reset_linger);
}

// A reset throws the send queue away, so it waits until the peer's kernel has taken everything.
// There is no event for that.
void Session::PassResetOn(Conn& target, sched::Deadline until) {
  sched::Duration pause = std::chrono::milliseconds(1);
  while (target.unsent_bytes() > 0 && sched::Now() < until && !stopping()) {
    sched::SleepFor(pause);
    pause = std::min<sched::Duration>(2 * pause, std::chrono::milliseconds(16));
  }
  // For HandedAllOn of the half that reads there, which can ask no more.
  Half& reader = &target == half_[0].source ? half_[0] : half_[1];
  reader.source_had_more.store(target.unread_bytes() > 0, std::memory_order_seq_cst);
  target.Abort();
}

}  // namespace parkway
