// SPDX-License-Identifier: Apache-2.0
//
// Where the daemon itself accepts. Who is connected there goes in a circle.
#ifndef PARKWAY_SERVER_OWN_ADDRESSES_H_
#define PARKWAY_SERVER_OWN_ADDRESSES_H_

#include <vector>

#include "netpoll/endpoint.h"
#include "netpoll/kernel.h"
#include "sched/mutex.h"

namespace parkway {

class OwnAddresses {
 public:
  explicit OwnAddresses(const netpoll::Kernel& kernel) : kernel_(kernel) {}

  // From here on these. Any thread.
  void Set(std::vector<netpoll::Endpoint> addresses);

  // Whether a connect to `to`, of IPv4 or IPv6, would come to one of them. Where only an address
  // that stands for all of this machine's has that port, the kernel is asked whether `to` is one
  // (MayBeLocal). Fiber only; never blocks.
  bool Has(const netpoll::Endpoint& to);

 private:
  const netpoll::Kernel kernel_;
  sched::Mutex mu_;
  std::vector<netpoll::Endpoint> addresses_ ABSL_GUARDED_BY(mu_);
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_OWN_ADDRESSES_H_
