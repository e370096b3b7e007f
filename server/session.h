// SPDX-License-Identifier: Apache-2.0
//
// One client's session: a record with the two connections and two halves, one per direction, each
// relayed by a fiber of its own.
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

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "netpoll/conn.h"
#include "netpoll/io_result.h"
#include "sched/clock.h"
#include "server/buffer_pool.h"
#include "server/end_reason.h"

namespace parkway {

// Spans, 0 for none.
struct SessionTimeouts {
  sched::Duration idle;
  sched::Duration half_close;
  sched::Duration reset_linger;
};

class Session {
 public:
  // An echo session: the client is its own target. Otherwise `backend` is still to be connected.
  Session(netpoll::Conn client, netpoll::Conn backend, bool echo, BufferPool& buffers,
          const SessionTimeouts& timeouts);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  netpoll::Conn& client() { return client_; }
  netpoll::Conn& backend() { return backend_; }

  // Relays one half until it ends: 0 is what the client sends, 1 what the backend sends. True for
  // the last half to leave: the caller then frees the record. Fiber only; the frame below should
  // hold nothing.
  [[nodiscard]] bool RunHalf(int which);
  int halves() const { return echo_ ? 1 : 2; }

  // The backend is connected and the halves may run. False: End() came first.
  [[nodiscard]] bool Connected();
  // Instead of its halves: resets the client.
  void Refuse(EndReason reason);

  // Tells the halves to end it in order, or ends the connect. kStop: without waiting for anything,
  // also if told to end before. The first reason stays. From any fiber, and never blocks.
  void End(EndReason reason);
  EndReason reason() const { return reason_.load(std::memory_order_relaxed); }

  // The server's list of sessions; guarded by its lock.
  Session* previous = nullptr;
  Session* next = nullptr;
  int list = 0;

 private:
  struct Half {
    netpoll::Conn* source;
    netpoll::Conn* target;
    // From its start to its end: nobody else reads the source or writes the target.
    std::optional<netpoll::Conn::Reader> reader;
    std::optional<netpoll::Conn::Writer> writer;
    // A FIN was sent to the target.
    std::atomic<bool> finished{false};
    // A write told this half that the target broke; the other half, which reads there, may not be.
    std::atomic<bool> target_broke{false};
    // When bytes last moved, in nanoseconds; stored and loaded by both halves. Relaxed: a late look
    // only delays a timeout, and where it must not be late something else orders it
    // (NoteUnreadBytes, NoteTakenBytes).
    std::atomic<int64_t> last_activity{0};
    // Bytes in the target's send queue when this half was last seen blocked there, else 0.
    std::atomic<int64_t> unsent{0};
    // The session's end reset the source, of which bytes were unread.
    std::atomic<bool> source_had_more{false};
    // The source broke while the target was blocked: until when the target may take the rest.
    sched::Deadline give_up = sched::kNever;
  };

  // What a half met: the result of reading its source, or of writing its target what it has read
  // or seen there.
  struct Step {
    netpoll::IoResult result;
    bool reading;
  };

  enum class Ending : uint8_t { kNo, kLingering, kAtOnce };

  void Relay(Half& half);
  Step Move(Half& half);
  Step MoveInPlace(Half& half);
  netpoll::IoResult Send(Half& half, std::span<const std::byte> data);
  netpoll::IoResult SendRest(Half& half, std::span<const std::byte> rest);
  netpoll::IoResult AwaitTarget(Half& half);
  void TargetIsWritable(Half& half);
  bool KeepWriting(Half& half);
  bool KeepWaiting(netpoll::Conn& conn, void (netpoll::Conn::*set_deadline)(sched::Deadline));
  bool Expired(sched::Duration limit, sched::Deadline* next);
  void NoteTakenBytes(sched::Deadline now);
  void NoteUnreadBytes(sched::Deadline now);
  static void NoteActivity(Half& half, sched::Deadline at);
  void LimitReading(netpoll::Conn& source);
  bool HalfCloseLimits() const;
  sched::Duration Limit() const;
  sched::Deadline LastActivity() const;

  // session_end.cc
  void HalfEnded(Half& half, const Step& step);
  void Finish(Half& half);
  void CutOff(Half& half, bool holds_bytes);
  bool HandedAllOn(Half& half);
  void DropInput(Half& half, sched::Deadline until);
  bool AwaitInput(Half& half, sched::Deadline until);
  void PassResetOn(netpoll::Conn& target, sched::Deadline until);
  sched::Deadline LingerFromNow() const;
  void Close();
  void SetReason(EndReason reason);
  EndReason ResetBy(const netpoll::Conn& broken) const;
  void NoteHalfClosed(Half& half);
  void LimitTheOtherHalf(Half& half);
  const Half& Other(const Half& half) const { return half_[&half == &half_[0] ? 1 : 0]; }
  bool ending() const { return ending_.load(std::memory_order_seq_cst) != Ending::kNo; }
  bool stopping() const { return ending_.load(std::memory_order_seq_cst) == Ending::kAtOnce; }
  bool SourceBroke(const Half& half) const;
  bool EndedByReset(const Half& half) const;

  netpoll::Conn client_;
  netpoll::Conn backend_;
  Half half_[2];
  const bool echo_;
  BufferPool& buffers_;
  const SessionTimeouts& timeouts_;
  std::atomic<int> alive_;
  // Once one half has ended: which peer's FIN came first, and so the reason if nothing else ends
  // it.
  std::atomic<EndReason> half_closed_{EndReason::kNone};
  std::atomic<bool> connecting_;
  // Published by End before it moves the deadlines to the past. A half that has moved one looks
  // here afterwards (Limit).
  std::atomic<Ending> ending_{Ending::kNo};
  std::atomic<EndReason> reason_{EndReason::kNone};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_SESSION_H_
