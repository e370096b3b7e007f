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

namespace parkway {

struct Listening {
  Listening(std::string name_in, bool takes_place_in, int64_t max_conns_in, int conn_rate)
      : name(std::move(name_in)),
        takes_place(takes_place_in),
        max_conns(max_conns_in),
        rate(conn_rate) {}

  const std::string name;
  const bool takes_place;   // false: a trial run's own backend, whose clients are not counted
  const int64_t max_conns;  // 0: no limit
  RateLimit rate;
  // It lives as long as there are any. Released last of all: who finds 0 acquires and may destroy
  // it.
  std::atomic<int64_t> clients{0};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_LISTENING_H_
