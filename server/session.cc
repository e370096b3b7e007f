// SPDX-License-Identifier: Apache-2.0
#include "server/session.h"

#include <algorithm>
#include <new>
#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/park.h"
#include "server/relay.h"

namespace parkway {

using netpoll::Conn;

namespace {

// The limit of a session that is told to end: has always passed.
constexpr sched::Duration kNoMore(-1);

}  // namespace

// --- The record.

Session::Session(SessionRoute& route, const SessionFacts& facts,
                 std::unique_ptr<SessionArrival> arrival)
    : alive_(route.local ? 1 : 2),
      connecting_(!route.local),
      has_extra_(!route.local || arrival != nullptr),
      route_(route),
      facts_(facts) {
  static_assert(sizeof(Session) % alignof(Half) == 0 && alignof(Half) == alignof(Extra) &&
                alignof(Extra) == alignof(Pace));
  for (int i = 0; i < halves(); ++i) new (&half(i)) Half(i);
  if (has_extra_) new (&AllExtra()) Extra{.arrival = std::move(arrival)};
  for (int i = 0; i < halves() && route.throttled; ++i) new (&pace(half(i))) Pace;
  half(0).resume = &Start;
}

Session::~Session() {
  if (has_extra_) AllExtra().~Extra();
  for (int i = 0; i < halves(); ++i) half(i).~Half();
}

// Idle ones are counted by the million. An allocator adds 8 bytes and rounds up to 16.
static_assert(sizeof(Session) + sizeof(Session::Half) <= 152 &&
              sizeof(Session) + 2 * sizeof(Session::Half) + sizeof(Session::Extra) <= 264);

size_t Session::MemorySize(const SessionRoute& route, bool has_extra) {
  const size_t of_a_half = sizeof(Half) + (route.throttled ? sizeof(Pace) : 0);
  return sizeof(Session) + (route.local ? 1 : 2) * of_a_half + (has_extra ? sizeof(Extra) : 0);
}

Session::Pointer Session::New(SessionRoute& route, Conn&& client, const SessionFacts& facts,
                              std::unique_ptr<SessionArrival> arrival) {
  const bool has_extra = !route.local || arrival != nullptr;
  void* const memory =
      route.owner.records.Take(MemoryKind(route, has_extra), MemorySize(route, has_extra));
  Pointer session(new (memory) Session(route, facts, std::move(arrival)));
  session->client() = std::move(client);
  return session;
}

void Session::Deleter::operator()(Session* session) const {
  SessionMemory& records = session->route_.owner.records;
  const int kind = MemoryKind(session->route_, session->has_extra_);
  session->~Session();
  records.Give(session, kind);
}

// --- Its life.

void Session::Start(sched::Continuation* half) {
  Session& session = static_cast<Half*>(half)->session();
  session.route_.owner.Serve(session);
}

// "Store connecting_, load ending_" here against "store ending_, load connecting_" in End: one of
// them sees the other.
bool Session::Connected() {
  connecting_.store(false, std::memory_order_seq_cst);
  return !ending();
}

void Session::Run() {
  if (!is_local()) {
    half(1).resume = &RunNew;
    const bool spawned = sched::Spawn(half(1));
    PARKWAY_CHECK(spawned, 0);
  }
  RunNew(&half(0));
}

void Session::RunNew(sched::Continuation* continuation) {
  Half& half = static_cast<Half&>(*continuation);
  Session& session = half.session();
  half.resume = &RunWoken;
  if (session.route_.owner.large_flows.from_start) {
    half.ways |= kSplices;
    half.splices_left = kSmallSplicesMax;
  }
  if (session.route_.discards) {
    half.ways |= kDrops;
  } else if (half.index == session.halves() - 1) {
    half.ways |= kIsFirst;
  }
  if (session.route_.throttled) half.ways |= kPaces;
  NoteActivity(half, sched::RoundTime());
  // The client's half looks after the silence of both until it ends (LimitTheOtherHalf).
  if (half.index == 0) session.LimitReading(half.source);
  Relay(half).Run();
  session.Leave();
}

void Session::RunWoken(sched::Continuation* continuation) {
  Half& half = static_cast<Half&>(*continuation);
  Relay(half, netpoll::Hibernated()).Woken();
  half.session().Leave();
}

void Session::Leave() {
  // Acquire and release: the last one out sees all the other half did.
  if (alive_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  SetReason(half_closed_.load(std::memory_order_relaxed));
  Close();
  route_.owner.Ended(*this);
}

void Session::Refuse(EndReason reason) {
  SetReason(reason);
  for (int i = 0; i < halves(); ++i) half(i).source.Abort();
  route_.owner.Ended(*this);
}

void Session::End(EndReason reason) {
  SetReason(reason);
  const Ending how = reason == EndReason::kStop ? Ending::kAtOnce : Ending::kLingering;
  Ending before = Ending::kNo;
  while (!ending_.compare_exchange_strong(before, how, std::memory_order_seq_cst)) {
    if (before >= how) return;  // its halves know
  }
  if (connecting_.load(std::memory_order_seq_cst)) return backend().Close();
  for (int i = 0; i < halves(); ++i) {
    half(i).source.SetReadDeadline(sched::kLongAgo);
    half(i).source.SetWriteDeadline(sched::kLongAgo);
  }
}

void Session::Close() {
  for (int i = 0; i < halves(); ++i) half(i).source.Close();
}

void Session::SetReason(EndReason reason) {
  EndReason none = EndReason::kNone;
  (void)reason_.compare_exchange_strong(none, reason, std::memory_order_relaxed);
}

// From here on half_close_timeout holds. Before the target is told, whose answer is not the first.
void Session::NoteHalfClosed(Half& half) {
  NoteActivity(half, sched::RoundTime());
  EndReason none = EndReason::kNone;
  const bool by_client = &half.source == &client();
  (void)half_closed_.compare_exchange_strong(
      none, by_client ? EndReason::kClientFin : EndReason::kUpstreamFin, std::memory_order_seq_cst);
}

// --- Timeouts.

bool Session::HalfCloseLimits() const {
  if (half_closed_.load(std::memory_order_seq_cst) == EndReason::kNone) return false;
  if (route_.timeouts.half_close == sched::Duration(0)) return false;
  return route_.timeouts.idle == sched::Duration(0) ||
         route_.timeouts.half_close <= route_.timeouts.idle;
}

// How long both directions may be silent, 0 without limit.
sched::Duration Session::Limit() const {
  if (ending()) return kNoMore;
  return HalfCloseLimits() ? route_.timeouts.half_close : route_.timeouts.idle;
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

// A half that is blocked there has something to send, whatever the kernel says by now.
int32_t Session::UnsentTo(Conn& target) {
  return static_cast<int32_t>(std::max<int64_t>(target.unsent_bytes(), 1));
}

void Session::NoteFirst(sched::Deadline at) {
  const SessionFacts::Span span = SessionFacts::SpanOf(at - facts_.began);
  first_byte_us_.store(std::max<uint32_t>(span.count(), 1), std::memory_order_relaxed);
}

void Session::NoteActivity(Half& half, sched::Deadline at) {
  half.last_activity.store(sched::ToNs(at), std::memory_order_relaxed);
}

sched::Deadline Session::LastActivity() const {
  int64_t last = half(0).last_activity.load(std::memory_order_relaxed);
  if (!is_local()) last = std::max(last, half(1).last_activity.load(std::memory_order_relaxed));
  return sched::FromNs(last);
}

// A send queue that a half is blocked at and that has become shorter since the last look is
// activity. The kernel calls it writable only when a third of it is free, which a slow receiver may
// take longer for than the limit.
void Session::NoteTakenBytes(sched::Deadline now) {
  for (int i = 0; i < halves(); ++i) {
    Half& it = half(i);
    // Who finds the other half's newer look here finds its last_activity too (acquire, release).
    const int32_t before = it.unsent.load(std::memory_order_seq_cst);
    if (before == 0) continue;
    const int32_t left = UnsentTo(Target(it));
    if (left >= before) continue;
    NoteActivity(it, now);
    it.unsent.store(left, std::memory_order_seq_cst);
  }
}

// Bytes that wait for a half that is not blocked are activity, which only has not been seen yet:
// the process was stopped, or the worker busy, when both the bytes and the timer came. If that half
// has just read them, it noted that before: the socket's lock in the kernel orders its note and its
// read before the look here and the caller's load after it.
void Session::NoteUnreadBytes(sched::Deadline now) {
  for (int i = 0; i < halves(); ++i) {
    Half& it = half(i);
    if (it.unsent.load(std::memory_order_seq_cst) != 0) continue;
    if (it.target_broke.load(std::memory_order_seq_cst)) continue;  // it reads no more
    if (it.source.unread_bytes() <= 0) continue;
    NoteActivity(it, now);
  }
}

}  // namespace parkway
