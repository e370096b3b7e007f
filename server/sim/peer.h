// SPDX-License-Identifier: Apache-2.0
//
// A scripted client or backend. It lives on the network's agenda and not on fibers, so that a bug
// of ours does not hide on both sides.
#ifndef PARKWAY_SERVER_SIM_PEER_H_
#define PARKWAY_SERVER_SIM_PEER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "netpoll/sim/network.h"
#include "server/sim/plan.h"

namespace parkway::sim {

class Peer {
 public:
  // Its stream is number `id`: eight bytes that say so, then bytes that follow from the number and
  // their place.
  Peer(netpoll::sim::Network& network, netpoll::sim::TcpEnd& end, const Script& script,
       uint32_t id);
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // All of its script was played, and it saw the connection's end or ended it itself.
  bool done() const { return done_; }

  uint32_t id() const { return id_; }
  int64_t sent() const { return sent_; }
  bool finished() const { return finished_; }
  bool left() const { return left_; }  // by kReset, kLeave or kBreak
  int64_t received() const { return received_; }
  const std::string& told() const {
    return told_;
  }                                             // the PROXY header or ClientHello that came first
  int64_t partner() const { return partner_; }  // whose stream it receives; -1: not known yet
  bool saw_fin() const { return saw_fin_; }
  bool saw_reset() const { return saw_reset_; }
  sched::Deadline started_at() const { return started_at_; }
  sched::Deadline last_act() const { return last_act_; }
  sched::Deadline ended_at() const { return ended_at_; }
  const Script& script() const { return script_; }
  netpoll::sim::TcpEnd& end() const { return end_; }
  // The first byte that was not what its sender sent, or "".
  const std::string& wrong() const { return wrong_; }

 private:
  void Schedule(sched::Duration span);
  void Act();
  void Read();
  void Take(const char* bytes, size_t size);
  size_t TakeHeader(const char* bytes, size_t size);
  bool HeaderIsComplete() const;
  size_t ByteOfTold(size_t at) const { return static_cast<unsigned char>(told_[at]); }
  bool Say(int64_t* left);
  void Write();
  bool SendSome(int64_t* left);
  bool SendBack();
  bool Play(Op& op);
  void SeeEnd();
  void GiveUpWriting();
  void PlayFinale();
  void Leave(bool reset);

  netpoll::sim::Network& network_;
  netpoll::sim::TcpEnd& end_;
  Script script_;
  const uint32_t id_;
  const sched::Deadline started_at_;
  size_t next_op_ = 0;
  bool scheduled_ = false;
  bool pausing_ = false;
  bool finale_to_come_ = false;
  bool done_ = false;
  int64_t sent_ = 0;
  bool finished_ = false;
  bool left_ = false;
  std::string echo_;  // read, and still to be sent back
  size_t said_ = 0;   // of the preamble
  std::string told_;
  int64_t received_ = 0;
  int64_t partner_ = -1;
  uint64_t header_ = 0;
  bool saw_fin_ = false;
  bool saw_reset_ = false;
  sched::Deadline next_read_ = sched::kLongAgo;
  sched::Deadline last_act_ = sched::kLongAgo;
  sched::Deadline ended_at_ = sched::kNever;
  std::string wrong_;
};

}  // namespace parkway::sim

#endif  // PARKWAY_SERVER_SIM_PEER_H_
