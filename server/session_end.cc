// SPDX-License-Identifier: Apache-2.0
//
// How a session ends: see the table in session.h.
#include <algorithm>

#include "sched/fibers.h"
#include "server/session.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoStatus;

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
  return &broken == &client_ ? EndReason::kClientReset : EndReason::kUpstreamReset;
}

void Session::HalfEnded(Half& half, const Step& step) {
  switch (step.result.status) {
    case IoStatus::kEof:
      if (EndedByReset(half)) break;
      NoteHalfClosed(half);
      half.finished.store(true, std::memory_order_seq_cst);
      (void)half.writer->ShutdownWrite();  // fails only if the target broke, which its reader sees
      return LimitTheOtherHalf(half);
    case IoStatus::kTimeout:
      if (half.give_up != sched::kNever) {  // reset_linger is over
        SetReason(ResetBy(*half.source));
        half.target->Abort();
      }
      return End(HalfCloseLimits() ? EndReason::kHalfCloseTimeout : EndReason::kIdleTimeout);
    case IoStatus::kClosed:
      return End(EndReason::kNone);  // whoever closed it has set the reason
    default:
      break;
  }
  SetReason(ResetBy(step.reading ? *half.source : *half.target));
  if (step.reading) {
    if (!echo_) PassResetOn(*half.target);
    return End(EndReason::kNone);
  }
  // The target broke. Its own reader delivers what it sent before that and meets the same end; in
  // case it does not, the half-close limit holds.
  half.target_broke.store(true, std::memory_order_seq_cst);
  if (!echo_ && alive_.load(std::memory_order_acquire) == 1) return PassResetOn(*half.source);
  NoteHalfClosed(half);
  LimitTheOtherHalf(half);
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

}  // namespace parkway
