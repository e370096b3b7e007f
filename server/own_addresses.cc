// SPDX-License-Identifier: Apache-2.0
#include "server/own_addresses.h"

#include <utility>

#include "netpoll/local_address.h"

namespace parkway {

void OwnAddresses::Set(std::vector<netpoll::Endpoint> addresses) {
  sched::MutexLock lock(mu_);
  addresses_ = std::move(addresses);
}

bool OwnAddresses::Has(const netpoll::Endpoint& to) {
  bool if_local = false;
  {
    sched::MutexLock lock(mu_);
    for (const netpoll::Endpoint& own : addresses_) {
      if (own == to) return true;
      if_local |= own.CoversIfLocal(to);
    }
  }
  return if_local && (to.is_loopback() || netpoll::MayBeLocal(kernel_, to));
}

}  // namespace parkway
