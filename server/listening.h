// SPDX-License-Identifier: Apache-2.0
//
// An address where the daemon accepts, as its clients count for it.
#ifndef PARKWAY_SERVER_LISTENING_H_
#define PARKWAY_SERVER_LISTENING_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "server/rate_limit.h"
#include "server/route.h"

namespace parkway {

struct Listening {
  Listening(std::string name_in, bool takes_place_in, const RouteOptions& options)
      : name(std::move(name_in)),
        takes_place(takes_place_in),
        transparent(options.transparent),
        max_conns(options.listener_max_conns),
        rate(options.listener_conn_rate) {}

  const std::string name;
  const bool takes_place;   // false: a trial run's own backend, whose clients are not counted
  const bool transparent;   // clients are accepted at the addresses that they meant
  const int64_t max_conns;  // 0: no limit
  RateLimit rate;
  // It lives as long as there are any. Released last of all: who finds 0 acquires and may destroy
  // it.
  std::atomic<int64_t> clients{0};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_LISTENING_H_
