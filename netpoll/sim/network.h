// SPDX-License-Identifier: Apache-2.0
//
// A simulated TCP network: connections whose ends behave at the edges as Linux's do (measured:
// sim_kernel_test.cc holds the two against each other), packets with latency, and the agenda on
// which they and scripted peers live. No descriptors here: sim_kernel.h gives an end one, scripts
// hold theirs directly.
#ifndef PARKWAY_NETPOLL_SIM_NETWORK_H_
#define PARKWAY_NETPOLL_SIM_NETWORK_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "netpoll/endpoint.h"
#include "sched/clock.h"
#include "sched/testing/one_thread_host.h"

namespace netpoll::sim {

class Network;

// One end of a connection; it lives as long as its network. The operations mean what the system
// calls of a non-blocking socket mean and return the value or -errno.
class TcpEnd final {
 public:
  TcpEnd(Network& network, int number, size_t send_buffer, size_t receive_buffer);

  ssize_t Receive(void* buffer, size_t size, bool peek);
  // What Receive finds, but not behind an urgent mark.
  ssize_t Splice(void* buffer, size_t size);
  ssize_t Send(const void* data, size_t size);
  void SendUrgent(char byte);
  int ShutdownWrite();
  // The owner lets go. What was sent is still delivered, unless input lies unread or `reset` asks
  // for it: then the peer gets a reset and the send queue is lost.
  void Close(bool reset);
  // The machine gives the connection up under its owner, who is told `error`: ECONNABORTED after
  // `ss -K`, what the network last said when it ends retransmissions (ECONNREFUSED: it rejects).
  // What has arrived can still be read; the peer gets a reset.
  void Break(int error);

  uint32_t Events();  // EPOLL* bits that hold now
  int TakeError();    // SO_ERROR
  int PeerNameError() const;
  bool is_closed_state() const { return state_ == State::kClosed; }
  int64_t unread() const { return static_cast<int64_t>(in_.size()); }
  int64_t unsent() const { return static_cast<int64_t>(out_.size() + unacked_); }

  // From here on nothing arrives any more in either direction, and nobody is told.
  void CutOff();
  bool fin_received() const { return fin_received_at_ != sched::kNever; }
  bool reset_received() const { return reset_received_at_ != sched::kNever; }
  // A reset, and no FIN before it, is how this end was closed.
  bool reset_sent() const { return reset_sent_ && !fin_wanted_; }
  // By Break, and no FIN had come before.
  bool broken() const { return broken_ && !fin_received(); }
  // Bytes that ever arrived here, read or not.
  int64_t arrived() const { return arrived_; }
  TcpEnd* peer() const { return peer_; }
  bool owned() const { return closed_at_ == sched::kNever; }  // by a process
  sched::Deadline reset_received_at() const { return reset_received_at_; }
  sched::Deadline fin_received_at() const { return fin_received_at_; }
  sched::Deadline shut_down_at() const { return shut_down_at_; }  // kNever: it was not, or closed
  sched::Deadline closed_at() const { return closed_at_; }        // when its owner let go

  // Of the end that connects: to what address its owner did, and from which. The network goes by
  // the port that it is told; where that is another one's, a packet filter led the connection
  // there.
  Endpoint dialed{};
  Endpoint name{};

  // Called when something changed, with the EPOLL* bits it may have changed, 0 for any. The owner
  // sets it; it may come from within the owner's own operations.
  std::function<void(uint32_t)> on_change;

  const int number;

 private:
  friend class Network;
  enum class State : uint8_t { kConnecting, kConnected, kClosed };

  bool IsWritable() const;
  void Change(uint32_t events);
  void Transmit();
  void Deliver(const std::string& bytes, bool urgent);
  void DeliverFin();
  void DeliverReset();
  void DeliverAck(size_t bytes);
  void Done();
  void SendReset();
  void ToPeer(std::function<void(TcpEnd&)> packet);

  Network& network_;
  TcpEnd* peer_ = nullptr;
  State state_ = State::kConnecting;
  const size_t send_buffer_;
  const size_t receive_buffer_;
  std::string in_;          // arrived, unread
  int64_t urgent_at_ = -1;  // the urgent byte's place in in_
  std::string out_;         // sent, waits for the peer's window
  size_t unacked_ = 0;      // on its way, or arrived with the news of it on its way
  size_t flying_ = 0;       // on its way
  sched::Deadline reset_received_at_ = sched::kNever;
  sched::Deadline fin_received_at_ = sched::kNever;
  sched::Deadline shut_down_at_ = sched::kNever;
  sched::Deadline closed_at_ = sched::kNever;
  bool read_shut_ = false;  // a FIN came, or all is over
  bool write_shut_ = false;
  bool fin_wanted_ = false;
  bool fin_sent_ = false;
  bool fin_acked_ = false;
  bool reset_sent_ = false;
  bool broken_ = false;
  bool cut_off_ = false;
  int64_t arrived_ = 0;
  bool no_space_ = false;  // somebody found it not writable since it last was
  int error_ = 0;
  sched::Deadline last_arrival_ = sched::kLongAgo;  // at the peer: packets keep their order
};

// A port that accepts.
struct TcpListener {
  size_t backlog = 0;
  std::deque<TcpEnd*> queue;
  std::function<void()> on_connection;
};

class Network final : public sched::testing::OneThreadHost::Activity {
 public:
  struct Options {
    sched::Duration latency_min = std::chrono::microseconds(5);
    sched::Duration latency_max = std::chrono::microseconds(50);
    size_t send_buffer = size_t{16} << 10;
    size_t receive_buffer = size_t{16} << 10;
    size_t segment_max = size_t{64} << 10;
    // Chance in 1024 that a send finds no memory though there is room; room is announced later.
    int no_memory_chance = 0;
  };

  Network(sched::testing::OneThreadHost& host, const Options& options);

  // A connection attempt; the end is told of the outcome by its on_change.
  TcpEnd* Connect(int port);

  // Listeners of one port share its connections (SO_REUSEPORT).
  void AddListener(int port, TcpListener* listener) { listeners_[port].push_back(listener); }
  void RemoveListener(int port, TcpListener* listener);
  // Packets to the port vanish.
  void BlackHole(int port) { black_holes_.push_back(port); }

  // Runs `action` at `when`, which may be now but is never before this returns.
  void At(sched::Deadline when, std::function<void()> action);
  void After(sched::Duration span, std::function<void()> action) {
    At(host_.Now() + span, std::move(action));
  }
  sched::Duration Latency();

  // Activity.
  sched::Deadline next() const override {
    return agenda_.empty() ? sched::kNever : agenda_.front().when;
  }
  void Run() override;

  sched::testing::OneThreadHost& host() { return host_; }
  const Options& options() const { return options_; }

 private:
  friend class TcpEnd;
  struct Entry {
    sched::Deadline when;
    uint64_t number;
    std::function<void()> action;
    bool operator<(const Entry& other) const {  // the heap's front is the earliest
      return when != other.when ? when > other.when : number > other.number;
    }
  };

  TcpEnd* NewEnd();
  void ArriveAtPort(TcpEnd* client, int port, int tries);

  sched::testing::OneThreadHost& host_;
  const Options options_;
  std::vector<Entry> agenda_;
  uint64_t next_entry_ = 0;
  std::vector<std::unique_ptr<TcpEnd>> ends_;
  std::map<int, std::vector<TcpListener*>> listeners_;
  std::vector<int> black_holes_;
};

}  // namespace netpoll::sim

#endif  // PARKWAY_NETPOLL_SIM_NETWORK_H_
