// SPDX-License-Identifier: Apache-2.0
//
// How a route connects to its backends: from which of its source addresses, with which options.
#ifndef PARKWAY_SERVER_CONNECTOR_H_
#define PARKWAY_SERVER_CONNECTOR_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "netpoll/conn.h"
#include "netpoll/endpoint.h"
#include "netpoll/io_result.h"
#include "netpoll/kernel.h"
#include "netpoll/socket_options.h"
#include "sched/clock.h"
#include "server/route.h"

namespace parkway {

// What the sockets to clients and to backends are told alike, with the keepalive of the one side.
netpoll::SocketOptions SocketOptionsOf(const RouteOptions& options, sched::Duration keepalive_idle);

// Who wants a connection.
struct Caller {
  netpoll::CompactEndpoint client{};             // for whom; names nothing: a check
  const std::function<void()>* begun = nullptr;  // as Conn::Connect has it
};

class Connector {
 public:
  explicit Connector(const RouteOptions& options);
  Connector(const Connector&) = delete;
  Connector& operator=(const Connector&) = delete;

  // Whether this machine grants what connects need that the route makes. The error names the
  // option, its value and the reason. Any thread.
  absl::Status Check(const netpoll::Kernel& kernel, const Route& route) const;

  // Connects as Conn::Connect does, each time from the next source address of the family of `to`,
  // if there are any. One that has no free port is passed over: EADDRNOTAVAIL is the error only
  // when all have none; other fibers have their turn between two. From any fiber, which it blocks.
  // Where the client is the source, from its address, if something may lead from there to `to`:
  // not of another family, nor IsSpecial, but from loopback to loopback.
  netpoll::IoResult Connect(netpoll::Conn& conn, const netpoll::Endpoint& to,
                            sched::Deadline deadline, const Caller& caller = Caller());

 private:
  using Ways = std::vector<netpoll::ConnectOptions>;

  // One for each source address of the family, at least one.
  static Ways WaysOf(int family, const RouteOptions& options);
  // To a Unix socket they mean nothing.
  const Ways& WaysTo(int family) const { return family == AF_INET6 ? inet6_ : inet_; }

  const bool from_client_;
  const Ways inet_;
  const Ways inet6_;
  std::atomic<uint32_t> turn_{0};  // relaxed: any order of turns will do
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_CONNECTOR_H_
