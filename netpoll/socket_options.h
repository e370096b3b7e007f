// SPDX-License-Identifier: Apache-2.0
//
// What TCP sockets are told beyond what the kernel does by itself.
#ifndef PARKWAY_NETPOLL_SOCKET_OPTIONS_H_
#define PARKWAY_NETPOLL_SOCKET_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "netpoll/endpoint.h"
#include "netpoll/kernel.h"
#include "sched/clock.h"

namespace netpoll {

// A probe every so often once a connection has been silent for keepalive_idle; it is dead after so
// many unanswered ones.
inline constexpr sched::Duration kKeepaliveInterval = std::chrono::seconds(15);
inline constexpr int kKeepaliveProbes = 4;

// What is 0 or empty is left to the kernel, and costs no system call.
struct SocketOptions {
  sched::Duration keepalive_idle{0};  // whole seconds
  // What was sent, and probes, may be unacknowledged for so long; then the connection is dead.
  // Whole milliseconds.
  sched::Duration user_timeout{0};
  std::string congestion{};  // the name of an algorithm
  uint32_t mark = 0;         // for routing and packet filters (SO_MARK)
  int rcvbuf = 0;            // bytes of the receive queue
  int sndbuf = 0;            // bytes of the send queue
};

// Of one that connects.
struct ConnectOptions {
  // The address to connect from, with port 0: the kernel chooses the port when it knows where to.
  // Empty: it chooses the address, too.
  Endpoint source{};
  SocketOptions socket{};
  // The source may be another machine's, of which the answers have to be led back here. Needs
  // CAP_NET_RAW or CAP_NET_ADMIN.
  bool transparent = false;
};

// Sets them on a TCP socket that neither listens nor is connected; what a listener accepts inherits
// them. 0, or the -errno of the first that the kernel refuses.
int SetSocketOptions(const Kernel& kernel, int fd, const SocketOptions& options);

// Sets them likewise, for start-up. The error names option, value and reason: "mark=1: needs
// CAP_NET_ADMIN"; there is one also where the kernel takes a smaller buffer without a word.
absl::Status CheckSocketOptions(const Kernel& kernel, int fd, const SocketOptions& options);

// Lets an IPv4 or IPv6 socket be bound to addresses that are not this machine's, and accept what
// was sent to them (IP_TRANSPARENT). 0 or -errno; -EPERM without CAP_NET_RAW
// and CAP_NET_ADMIN.
int SetTransparent(const Kernel& kernel, int fd);

// As SetSocketOptions, and binds the socket to its source. -EADDRNOTAVAIL: that is no address of
// this machine.
int SetConnectOptions(const Kernel& kernel, int fd, const ConnectOptions& options);
// What that would meet, as CheckSocketOptions says it: on a socket of `family` that it opens and
// closes.
absl::Status CheckConnectOptions(const Kernel& kernel, int family, const ConnectOptions& options);

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_SOCKET_OPTIONS_H_
