// SPDX-License-Identifier: Apache-2.0
//
// One direction of a session while a fiber runs it: reads the source and writes the target, until
// its source has ended or the session has (relay_end.cc), or there is nothing to do and it
// hibernates.
#ifndef PARKWAY_SERVER_RELAY_H_
#define PARKWAY_SERVER_RELAY_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "netpoll/conn.h"
#include "netpoll/io_result.h"
#include "netpoll/pipe.h"
#include "sched/clock.h"
#include "server/buffer_pool.h"
#include "server/end_reason.h"
#include "server/pipe_pool.h"
#include "server/session.h"

namespace parkway {

// Lives on the fiber's stack, and is given up with it when the half hibernates: then the half still
// holds its source's reader and its target's writer, and a Relay made with Hibernated() goes on.
class Relay {
 public:
  explicit Relay(Session::Half& half) : half_(half), reader_(source_), writer_(target_) {}
  Relay(Session::Half& half, netpoll::Hibernated hibernated)
      : half_(half), reader_(source_, hibernated), writer_(target_, hibernated) {}
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Returns when the half has ended; does not return when it hibernates.
  void Run();
  // As Run, for one that hibernated.
  void Woken();

 private:
  // What the half met: the result of reading its source, or of writing its target what it has read
  // or seen there.
  struct Step {
    netpoll::IoResult result;
    bool reading;
  };

  BufferPool& buffers() { return session_.route().owner.buffers; }
  PipePool& pipes() { return session_.route().owner.pipes; }
  void MoveUntilItEnds(netpoll::IoResult waited);
  bool GoesOn(const Step& step);
  Step Move();
  Step MoveByOtherWays();
  Step Drop(std::span<std::byte> scratch);
  Step Copy(std::span<std::byte> scratch);
  Step CopyByBuffer(std::span<std::byte> scratch);
  Step CopyInPlace(std::span<std::byte> scratch);
  Step Splice(std::span<std::byte> scratch);
  Step SpliceBy(netpoll::Pipe& pipe, std::span<std::byte> scratch);
  void NoteFirst();
  void Throttle();
  void NoteFullRead();
  void NoteSplice(size_t moved);
  template <class Try>
  netpoll::IoResult SendBy(Try try_once);
  netpoll::IoResult Send(std::span<const std::byte> data);
  netpoll::IoResult Send(netpoll::Pipe& pipe);
  netpoll::IoResult SendRest(std::span<const std::byte> rest);
  netpoll::IoResult SendRest(netpoll::Pipe& pipe);
  template <class SendSome, class AllSent>
  netpoll::IoResult SendAll(SendSome send_some, AllSent all_sent);
  netpoll::IoResult AwaitTarget();
  void TargetIsWritable();
  bool KeepWriting();

  // relay_end.cc
  void Ended(const Step& step);
  void Finish();
  void CutOff(bool holds_bytes);
  bool HandedAllOn();
  void DropInput(sched::Deadline until);
  bool AwaitInput(sched::Deadline until);
  void PassResetOn(netpoll::Conn& target);
  void AwaitTaken(netpoll::Conn& target, sched::Deadline until);
  void LimitTheOtherHalf();
  bool IsAlone() const;
  sched::Deadline LingerFromNow() const;
  EndReason ResetBy(const netpoll::Conn& broken) const;
  bool SourceBroke();
  bool EndedByReset();

  Session::Half& half_;
  Session& session_ = half_.session();
  netpoll::Conn& source_ = half_.source;
  netpoll::Conn& target_ = session_.Target(half_);
  netpoll::Conn::Reader reader_;  // nobody else reads the source
  netpoll::Conn::Writer writer_;  // nor writes the target
  uint32_t moves_ = 0;            // on this fiber, which has not waited for the source: as
                                  // ChargeOperation, which would look it up
  // The source broke while the target was blocked: until when the target may take the rest.
  sched::Deadline give_up_ = sched::kNever;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_RELAY_H_
