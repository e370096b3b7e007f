// SPDX-License-Identifier: Apache-2.0
//
// A route while it is served: which backends a session tries, in which order.
#ifndef PARKWAY_SERVER_SERVED_ROUTE_H_
#define PARKWAY_SERVER_SERVED_ROUTE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "netpoll/endpoint.h"
#include "server/route.h"
#include "server/session.h"

namespace parkway {

class ServedRoute : public SessionRoute {
 public:
  explicit ServedRoute(const Route& route);
  ServedRoute(const ServedRoute&) = delete;
  ServedRoute& operator=(const ServedRoute&) = delete;

  const Route& config() const { return config_; }
  bool Serves(const netpoll::Endpoint& client) const;

  // What one session tries: the address whose turn it is, then the others in order, then the
  // backups, each once.
  class Attempts {
   public:
    explicit Attempts(ServedRoute& route)
        : route_(route), turn_(route.turn_.fetch_add(1, std::memory_order_relaxed)) {}
    const netpoll::Endpoint* Next();  // nullptr: there are no more

   private:
    const ServedRoute& route_;
    const uint32_t turn_;
    size_t made_ = 0;
  };

 private:
  using Addresses = std::vector<netpoll::Endpoint>;

  const Route config_;
  Addresses serving_;
  std::vector<uint32_t> rotation_;  // indices of serving_, each as often as its weight says
  Addresses backups_;
  std::atomic<uint32_t> turn_{0};
};

// The order in which weights take turns: w of them belong to a weight of w, spread evenly, and
// equal weights follow one another. Earliest deadline first (Liu and Layland 1973), turn k of a
// weight w being due at (k + 1/2) / w, and of several equal weights each at its part of that span.
std::vector<uint32_t> Rotation(const std::vector<int>& weights);

}  // namespace parkway

#endif  // PARKWAY_SERVER_SERVED_ROUTE_H_
