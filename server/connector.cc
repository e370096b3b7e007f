// SPDX-License-Identifier: Apache-2.0
#include "server/connector.h"

#include <algorithm>
#include <cerrno>
#include <optional>

#include "sched/fibers.h"
#include "server/destinations.h"

namespace parkway {

using netpoll::ConnectOptions;
using netpoll::Endpoint;
using netpoll::IoResult;

namespace {

// The client's address. None from where nothing leads to `to`: the kernel would refuse to connect,
// which is no word of the backend's.
std::optional<Endpoint> SourceOf(const netpoll::CompactEndpoint& client, const Endpoint& to) {
  if (to.is_unix() || client.family() != to.family()) return std::nullopt;
  const Endpoint source = client.Expand().WithPort(0);
  const bool leads = source.is_loopback() ? to.is_loopback() : !IsSpecial(source);
  return leads ? std::optional(source) : std::nullopt;
}

}  // namespace

netpoll::SocketOptions SocketOptionsOf(const RouteOptions& options,
                                       sched::Duration keepalive_idle) {
  return {.keepalive_idle = keepalive_idle,
          .user_timeout = options.user_timeout,
          .congestion = options.congestion,
          .mark = static_cast<uint32_t>(options.mark),
          .rcvbuf = static_cast<int>(options.rcvbuf),
          .sndbuf = static_cast<int>(options.sndbuf)};
}

Connector::Connector(const RouteOptions& options)
    : from_client_(options.source_is_client),
      inet_(WaysOf(AF_INET, options)),
      inet6_(WaysOf(AF_INET6, options)) {}

Connector::Ways Connector::WaysOf(int family, const RouteOptions& options) {
  const netpoll::SocketOptions socket = SocketOptionsOf(options, options.backend_keepalive_idle);
  Ways ways;
  for (const Endpoint& source : options.source) {
    if (source.family() == family) ways.push_back({.source = source, .socket = socket});
  }
  if (ways.empty()) ways.push_back({.socket = socket, .transparent = options.source_is_client});
  return ways;
}

absl::Status Connector::Check(const netpoll::Kernel& kernel, const Route& route) const {
  for (const int family : {AF_INET, AF_INET6}) {
    const auto is_of_it = [&](const Backend& backend) {
      // What a name will stand for is not known: IPv4 addresses, or those that sources fit.
      if (backend.is_discovered()) {
        return family == AF_INET || WaysTo(family).front().source.family() == family;
      }
      return backend.at.front().family() == family;  // all addresses of a name are of one
    };
    const bool is_needed = route.to_original_dst() ||
                           std::any_of(route.backends.begin(), route.backends.end(), is_of_it);
    if (!is_needed) continue;
    for (const ConnectOptions& way : WaysTo(family)) {
      const absl::Status status = netpoll::CheckConnectOptions(kernel, family, way);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

IoResult Connector::Connect(netpoll::Conn& conn, const Endpoint& to, sched::Deadline deadline,
                            const Caller& caller) {
  const Ways& ways = WaysTo(to.family());
  const auto source = from_client_ ? SourceOf(caller.client, to) : std::nullopt;
  const auto connect_by = [&](const ConnectOptions& way) {
    if (!source) return conn.Connect(to, deadline, way, caller.begun);
    ConnectOptions own = way;
    own.source = *source;
    return conn.Connect(to, deadline, own, caller.begun);
  };
  const uint32_t turn = ways.size() > 1 ? turn_.fetch_add(1, std::memory_order_relaxed) : 0;
  IoResult result = connect_by(ways[turn % ways.size()]);
  for (size_t i = 1; i < ways.size() && result.os_error == EADDRNOTAVAIL; ++i) {
    // The kernel has looked at every port, which took milliseconds of this worker.
    sched::Yield();
    result = connect_by(ways[(turn + i) % ways.size()]);
  }
  return result;
}

}  // namespace parkway
