// SPDX-License-Identifier: Apache-2.0
//
// A listening socket. For fibers only.
#ifndef PARKWAY_NETPOLL_LISTENER_H_
#define PARKWAY_NETPOLL_LISTENER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netpoll/conn.h"
#include "netpoll/endpoint.h"
#include "netpoll/internal/socket.h"
#include "netpoll/io_result.h"
#include "netpoll/socket_options.h"
#include "sched/clock.h"

namespace netpoll {

class Poller;

struct ListenOptions {
  // Connections the kernel completes and queues per socket; it cuts this to net.core.somaxconn.
  int backlog = 4096;
  // TCP_NODELAY on the accepted connections.
  bool nodelay = true;
  // Clients that have connected before may send their first bytes with the first packet (TCP Fast
  // Open); so many may be queued before their addresses are proved. 0: none.
  int fastopen = 0;
  // A client is accepted when its first bytes are there, or after about so long. Whole seconds;
  // 0: at once.
  sched::Duration defer_accept{0};
  // Clients may use Multipath TCP.
  bool mptcp = false;
  // What a packet filter hands over (tproxy) is accepted, whatever address it was sent to, which is
  // then the connection's local() one. Needs CAP_NET_RAW or CAP_NET_ADMIN.
  bool transparent = false;
  // Of the accepted connections.
  SocketOptions socket{.keepalive_idle = std::chrono::seconds(60)};
};

// A bound and listening socket that belongs to nobody yet: made on any thread at start-up, then
// given to a Listener on a fiber. Closing several of one address while connections arrive resets
// those in its queue, so they are closed together, after accepting until none is left.
struct BoundSocket {
  int fd = -1;
  Endpoint at;  // with the port the kernel chose
};

// Binds `count` sockets to one address, among which the kernel spreads connections (SO_REUSEPORT);
// one where that is not possible (Unix). Fails if anybody else listens there, another Parkway too.
// A Unix socket left behind by a process that is gone is replaced, any other file is not; to it
// only the backlog matters. Errors begin with the address: "127.0.0.1:80: Permission denied", and
// name the option if one was refused. The caller closes what it does not give to a Listener
// (CloseBound).
absl::StatusOr<std::vector<BoundSocket>> Bind(const Kernel& kernel, const Endpoint& at, int count,
                                              const ListenOptions& options);
// Closes, and removes the path of a Unix socket.
void CloseBound(const Kernel& kernel, const BoundSocket& socket);

class Listener {
 public:
  // Accepts of one batch; then the fiber yields.
  static constexpr int kAcceptsPerTurn = 16;
  // When descriptors or memory run out, or it is not permitted: the pause before the next attempt,
  // for no event will tell.
  static constexpr sched::Duration kPause = std::chrono::milliseconds(100);
  // After so long without a descriptor, connections are accepted on a reserve and closed, one per
  // pause, so that clients learn of it instead of waiting in the queue.
  static constexpr sched::Duration kShedAfter = std::chrono::seconds(1);

  struct Stats {
    int64_t accepted = 0;
    int64_t pauses = 0;  // for lack of descriptors or memory
    int64_t shed = 0;    // closed unserved on the reserve descriptor
  };

  // Is told, by the accepting fiber, why the listener pauses, each time. Must not block.
  using OnPause = std::function<void(const IoResult&)>;

  // Takes the socket over, on the calling worker's shard.
  Listener(Poller& poller, const BoundSocket& socket, OnPause on_pause = nullptr);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Blocks until a connection came: it is in `conn`, on the calling worker's shard, and whose it
  // is in `*peer`. Survives EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC and EPERM (see kPause) and
  // connections that broke before they were accepted. Errors: kClosed; kError is the listener's own
  // and final. One fiber at a time; Close() from any.
  IoResult Accept(Conn& conn, CompactEndpoint* peer = nullptr);
  // As Accept, but kAgain when the queue is empty, and errors for lack of descriptors are returned.
  IoResult TryAccept(Conn& conn, CompactEndpoint* peer = nullptr);

  // Makes Accept return kTimeout, now and ever after; TryAccept goes on. For a drain, which empties
  // the queue before it closes. From any fiber.
  void StopWaiting();
  void Close();

  const Endpoint& at() const { return bound_.at; }
  // Of the accepting fiber.
  const Stats& stats() const { return stats_; }

 private:
  IoResult AcceptOne(Conn& conn, CompactEndpoint* peer);
  IoResult Pause(const IoResult& why);
  void NoteNotStarved();
  void Shed();

  Poller& poller_;
  const BoundSocket bound_;
  const OnPause on_pause_;
  internal::Socket socket_;
  // Stored before the deadline moves into the past; read after Pause moved it back.
  std::atomic<bool> stop_waiting_{false};
  Stats stats_;
  int reserve_ = -1;
  int accepts_in_turn_ = 0;
  sched::Deadline starved_since_ = sched::kNever;  // kNever: not starved
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_LISTENER_H_
