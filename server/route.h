// SPDX-License-Identifier: Apache-2.0
//
// What a route is: where it accepts, whom it serves there, and what serves them.
#ifndef PARKWAY_SERVER_ROUTE_H_
#define PARKWAY_SERVER_ROUTE_H_

#include <chrono>
#include <string>
#include <vector>

#include "netpoll/endpoint.h"
#include "server/cidr.h"

namespace parkway {

// What a route may set for itself; the flag of the same name is the default, and its help gives the
// reason and what raising it costs. Spans, 0 for none where not said otherwise.
struct RouteOptions {
  int backlog = 4096;
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(5);  // never 0
  std::chrono::nanoseconds idle_timeout = std::chrono::hours(1);
  std::chrono::nanoseconds half_close_timeout = std::chrono::seconds(60);
  std::chrono::nanoseconds reset_linger = std::chrono::seconds(1);     // 0: waits for nobody
  std::chrono::nanoseconds keepalive_idle = std::chrono::seconds(60);  // whole seconds

  friend bool operator==(const RouteOptions&, const RouteOptions&) = default;
};

// A name stands for all its addresses. `text` is what the operator wrote.
struct Listen {
  std::string text{};
  std::vector<netpoll::Endpoint> at{};

  friend bool operator==(const Listen&, const Listen&) = default;
};

struct Backend {
  std::string text{};  // the address alone
  std::vector<netpoll::Endpoint> at{};
  int weight = 1;       // its share of the connections, and each of its addresses'; 0: none
  bool backup = false;  // serves when no other can
  bool drain = false;   // gets no new connections

  friend bool operator==(const Backend&, const Backend&) = default;
};

struct Route {
  std::string name{};
  std::vector<Listen> listen{};  // at least one
  std::vector<Cidr> from{};      // clients it serves there; empty: all
  bool echo = false;             // what a client sends comes back; no backends then
  std::vector<Backend> backends{};
  RouteOptions options{};

  friend bool operator==(const Route&, const Route&) = default;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_ROUTE_H_
