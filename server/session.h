// SPDX-License-Identifier: Apache-2.0
//
// One client's session: a record with a half for each direction, which a fiber relays (relay.h).
//
// A half that is silent, with nothing buffered, has no fiber: it hibernates, and its record, which
// is a continuation, lies in the poller's slot until something comes or ends it. So an idle session
// costs its record and what the poller knows of its descriptors, and no stack.
//
// docs/endings.md has the table of how a session ends: reason, what is on its way, what each peer
// sees. Here, what a half does, by what it meets:
//
//   a half meets           what it does
//   source: FIN            sends FIN to the target; the other half goes on, from here under
//                          half_close_timeout
//   source: reset          waits until the target has taken what came before it (at most
//                          reset_linger), resets the target, and closes both
//   target: write fails    leaves; the other half still delivers what the target sent before it
//                          broke, reads the reset, and passes it on
//   silence both ways      for idle_timeout or half_close_timeout: ends the session. A receiver
//                          that takes bytes out of its kernel's queue, while a half is blocked
//                          there, is not silent; nor are bytes that came and were not read yet
//   the session is ended   (silence, drain deadline, second SIGTERM) sends the target FIN if its
//                          kernel has all that came, else a reset as above; then reads and drops
//                          what the source still sends, for reset_linger, so that closing does not
//                          reset what is on its way there
//
// Bytes that arrived before a FIN are delivered first, those before a reset within reset_linger.
// The last half to leave closes both; the record lives until then.
#ifndef PARKWAY_SERVER_SESSION_H_
#define PARKWAY_SERVER_SESSION_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "netpoll/conn.h"
#include "netpoll/endpoint.h"
#include "sched/clock.h"
#include "sched/waiter.h"
#include "server/bandwidth.h"
#include "server/buffer_pool.h"
#include "server/end_reason.h"
#include "server/listening.h"
#include "server/own_connections.h"
#include "server/pipe_pool.h"
#include "server/proxy_header.h"
#include "server/session_memory.h"

namespace parkway {

class Session;
class SessionOwner;
class Upstream;

// Spans, 0 for none.
struct SessionTimeouts {
  sched::Duration idle;
  sched::Duration half_close;
  sched::Duration reset_linger;
};

// What the sessions of one route have in common. Outlives them.
struct SessionRoute {
  SessionOwner& owner;
  const SessionTimeouts timeouts;
  // The daemon serves the client itself: it is its own target.
  const bool local;
  // What it sends is dropped. Local.
  const bool discards;
  // Of each direction of a session, and of all sessions together.
  const Bandwidth bandwidth{0};
  const Bandwidth shared_bandwidth{0};

  const bool throttled = bandwidth.is_set() || shared_bandwidth.is_set();
  // Bytes to move at a time.
  const size_t slice = std::min(bandwidth.Slice(BufferPool::kBufferBytes),
                                shared_bandwidth.Slice(BufferPool::kBufferBytes));
  std::array<std::atomic<int64_t>, 2> shared_due{};  // relaxed: any order will do
};

// What all sessions have in common, and who serves them. Outlives them.
class SessionOwner {
 public:
  struct Memory {
    size_t buffers;  // bytes
    int64_t pipes;   // of PipePool::kPipeBytes each
  };

  SessionOwner(const LargeFlows& large_flows_in, const Memory& memory,
               const netpoll::Kernel& kernel, int workers)
      : large_flows(large_flows_in),
        buffers(memory.buffers, workers),
        pipes(kernel, memory.pipes, workers),
        records(workers) {}

  // The first thing on the session's first fiber: opens it, and ends with session.Run() or
  // session.Refuse().
  virtual void Serve(Session& session) = 0;
  // The last half has left, and both connections are closed: the record is the owner's again.
  virtual void Ended(Session& session) = 0;

  const LargeFlows large_flows;
  BufferPool buffers;
  PipePool pipes;
  SessionMemory records;

 protected:
  ~SessionOwner() = default;
};

// What the access log tells of a session besides how it went on. Spans are those of scheduling
// rounds, exact to about a millisecond.
struct SessionFacts {
  using Span = std::chrono::duration<uint32_t, std::micro>;
  // Each worker has rounds of its own, so that one which takes a fiber over may be behind; and
  // nobody asks for more than an hour.
  static Span SpanOf(sched::Duration span) {
    return std::chrono::duration_cast<Span>(
        std::clamp<sched::Duration>(span, sched::Duration(0), Span::max()));
  }

  uint64_t id = 0;  // counts the daemon's connections
  netpoll::CompactEndpoint client{};
  Listening* listener = nullptr;  // where it came to
  sched::Deadline began = sched::kLongAgo;
};

// Of a client that had to say something first, or that brought its destination along.
struct SessionArrival {
  struct Destination {
    std::string name{};
    OwnConnections::Note accepted{};
    OwnConnections::Note made{};
  };

  netpoll::CompactEndpoint proxy{};            // that came for the client, if one did
  std::unique_ptr<ProxyHeader> header{};       // what it said, until the backend has been told
  std::unique_ptr<std::string> server_name{};  // of the ClientHello, if it has one
  std::unique_ptr<Destination> destination{};  // where it was going, if its route asks
  bool heard = false;                          // it had to say something
};

class Session {
 public:
  // One direction: what `source` sends. While a fiber runs it, a Relay has its reader and writer.
  struct Half : sched::Continuation {
    explicit Half(int index_in) : index(static_cast<uint8_t>(index_in)) {}

    Session& session();

    // On the half's own fiber: no addition that locks the bus.
    void Count(size_t more) {
      bytes.store(bytes.load(std::memory_order_relaxed) + static_cast<int64_t>(more),
                  std::memory_order_relaxed);
    }

    // Its last bytes are unused: `unsent` lies there.
    [[no_unique_address]] netpoll::Conn source;
    // Bytes in the target's send queue when this half was last seen blocked there, at least 1;
    // else 0.
    std::atomic<int32_t> unsent{0};
    // When bytes last moved, in nanoseconds; stored and loaded by both halves. Relaxed: a late look
    // only delays a timeout, and where it must not be late something else orders it
    // (NoteUnreadBytes, NoteTakenBytes).
    std::atomic<int64_t> last_activity{0};
    // What the target's kernel has taken. Stored by this half (Count), loaded by the log, too;
    // relaxed: the last look comes after the half has left.
    std::atomic<int64_t> bytes{0};
    // A FIN was sent to the target.
    std::atomic<bool> finished{false};
    // A write told this half that the target broke; the other half, which reads there, may not be.
    std::atomic<bool> target_broke{false};
    // The session's end reset the source, of which bytes were unread.
    std::atomic<bool> source_had_more{false};
    // The half's own. Of kDrops, kSplices, kPaces and kIsFirst: what is not done plainly. Mostly 0,
    // so that a request pays for one look at all of them.
    uint8_t ways = 0;
    // The half's own. Reads that filled the buffer, while it is copied.
    uint8_t full_reads = 0;
    // The half's own. While it is spliced: small splices until it is copied again.
    uint8_t splices_left = 0;
    const uint8_t index;  // 0: what the client sends
  };

  // What is known of a session that is not local, or whose client said something first. An echo's
  // record has none.
  struct Extra {
    std::unique_ptr<SessionArrival> arrival{};
    Upstream* backend = nullptr;  // its route's, tried last, of which it is a user
    // Where it is counted (ServedRoute), nullptr: nowhere. Stored by its fiber; relaxed, since
    // others only compare it with a backend whose sessions they end, and one that connects to it
    // just then is meant to be missed.
    std::atomic<Upstream*> upstream{nullptr};
    SessionFacts::Span queued{0};   // waited for a backend below its most sessions, in all
    SessionFacts::Span connect{0};  // the last connect took
    uint8_t connects = 0;
  };

  // What a half knows of its bandwidth, where that is limited.
  struct Pace {
    int64_t charged = 0;  // of `bytes`
    int64_t due = 0;      // until when those suffice
  };

  struct Deleter {
    void operator()(Session* session) const;
  };
  using Pointer = std::unique_ptr<Session, Deleter>;

  // A local session has one half. `arrival`: nullptr, if there is nothing to know of it.
  static Pointer New(SessionRoute& route, netpoll::Conn&& client, const SessionFacts& facts,
                     std::unique_ptr<SessionArrival> arrival);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  SessionRoute& route() const { return route_; }
  bool is_local() const { return route_.local; }
  netpoll::Conn& client() { return half(0).source; }
  // Not of a local session. Closed, until the owner makes it one.
  netpoll::Conn& backend() { return half(1).source; }

  const SessionFacts& facts() const { return facts_; }
  // nullptr: there is none. The session's first fiber writes there until it is connected, others
  // read afterwards.
  Extra* extra() { return has_extra_ ? &AllExtra() : nullptr; }
  const SessionArrival* arrival() { return has_extra_ ? AllExtra().arrival.get() : nullptr; }
  // The backend where it is counted, or nullptr. Any thread.
  Upstream* upstream() {
    return has_extra_ ? AllExtra().upstream.load(std::memory_order_relaxed) : nullptr;
  }
  // From the client, and to it. Any thread.
  int64_t bytes_up() const { return half(0).bytes.load(std::memory_order_relaxed); }
  int64_t bytes_down() const {
    if (route_.discards) return 0;
    return half(halves() - 1).bytes.load(std::memory_order_relaxed);
  }
  // From the beginning to the first byte for the client; 0: there was none. Any thread.
  SessionFacts::Span first_byte() const {
    return SessionFacts::Span(first_byte_us_.load(std::memory_order_relaxed));
  }

  // What starts it, by sched::Spawn or SpawnOn. REQUIRES of the scheduler: fiber_count_max has room
  // for both halves.
  sched::Continuation& start() { return half(0); }
  // The backend is connected and the halves may run. False: End() came first.
  [[nodiscard]] bool Connected();
  // Runs the halves until they end or hibernate: the client's on the calling fiber, whose frames
  // above should hold nothing.
  void Run();
  // Instead of that: resets the client and ends.
  void Refuse(EndReason reason);

  // Tells the halves to end it in order, or ends the connect. kStop: without waiting for anything,
  // also if told to end before. The first reason stays. From any fiber, and never blocks.
  void End(EndReason reason);
  // Acquire: who finds it connected finds its facts, too (Connected).
  bool connecting() const { return connecting_.load(std::memory_order_acquire); }
  EndReason reason() const { return reason_.load(std::memory_order_relaxed); }

  // The server's list of sessions; guarded by its lock.
  Session* previous = nullptr;
  Session* next = nullptr;
  // When its progress was logged last, in seconds from its beginning; guarded by that lock.
  uint32_t logged_s = 0;
  int16_t list = 0;

 private:
  friend class Relay;
  // Every so many reads that fill the buffer, a flow that is copied is tried with splicing.
  static constexpr uint8_t kFullReadsToSplice = 8;
  // So many splices in a row that are not large, and the flow is copied again.
  static constexpr uint8_t kSmallSplicesMax = 8;
  // Half::ways
  static constexpr uint8_t kDrops = 1;
  static constexpr uint8_t kSplices = 2;
  static constexpr uint8_t kPaces = 4;
  static constexpr uint8_t kIsFirst = 8;  // what it sends next is the first for the client
  enum class Ending : uint8_t { kNo, kLingering, kAtOnce };

  Session(SessionRoute& route, const SessionFacts& facts, std::unique_ptr<SessionArrival> arrival);
  ~Session();

  static void Start(sched::Continuation* half);
  static void RunNew(sched::Continuation* continuation);
  static void RunWoken(sched::Continuation* continuation);
  void Leave();

  // Behind the record lie the halves, behind them Extra, if there is one, and a pace for each half
  // where bandwidth is limited.
  Half& half(int which) { return *(reinterpret_cast<Half*>(this + 1) + which); }
  const Half& half(int which) const { return *(reinterpret_cast<const Half*>(this + 1) + which); }
  Extra& AllExtra() { return *reinterpret_cast<Extra*>(&half(halves())); }
  Pace& pace(const Half& it) {
    Extra* const behind = &AllExtra() + (has_extra_ ? 1 : 0);
    return reinterpret_cast<Pace*>(behind)[it.index];
  }
  int halves() const { return is_local() ? 1 : 2; }
  static int MemoryKind(const SessionRoute& route, bool has_extra) {
    return (route.local ? 0 : 1) + (has_extra ? 1 : 0) + (route.throttled ? 3 : 0);
  }
  static size_t MemorySize(const SessionRoute& route, bool has_extra);
  Half& Other(const Half& it) { return half(it.index == 0 ? halves() - 1 : 0); }
  netpoll::Conn& Target(const Half& it) { return Other(it).source; }

  bool Expired(sched::Duration limit, sched::Deadline* next);
  void NoteTakenBytes(sched::Deadline now);
  void NoteUnreadBytes(sched::Deadline now);
  static void NoteActivity(Half& half, sched::Deadline at);
  void NoteFirst(sched::Deadline at);
  static int32_t UnsentTo(netpoll::Conn& target);
  bool KeepWaiting(netpoll::Conn& conn, void (netpoll::Conn::*set_deadline)(sched::Deadline));
  void LimitReading(netpoll::Conn& source);
  bool HalfCloseLimits() const;
  sched::Duration Limit() const;
  sched::Deadline LastActivity() const;

  void Close();
  void SetReason(EndReason reason);
  void NoteHalfClosed(Half& half);
  bool ending() const { return ending_.load(std::memory_order_seq_cst) != Ending::kNo; }
  bool stopping() const { return ending_.load(std::memory_order_seq_cst) == Ending::kAtOnce; }

  // Small members fill the gaps between the others: there are a million of these records.
  std::atomic<uint8_t> alive_;  // halves that have not left
  // Once one half has ended: which peer's FIN came first, and so the reason if nothing else ends
  // it.
  std::atomic<EndReason> half_closed_{EndReason::kNone};
  std::atomic<uint32_t> first_byte_us_{0};  // relaxed: for the log
  std::atomic<bool> connecting_;
  const bool has_extra_;
  // Published by End before it moves the deadlines to the past. A half that has moved one looks
  // here afterwards (Limit).
  std::atomic<Ending> ending_{Ending::kNo};
  std::atomic<EndReason> reason_{EndReason::kNone};
  SessionRoute& route_;
  const SessionFacts facts_;
};

inline Session& Session::Half::session() { return *(reinterpret_cast<Session*>(this - index) - 1); }

}  // namespace parkway

#endif  // PARKWAY_SERVER_SESSION_H_
