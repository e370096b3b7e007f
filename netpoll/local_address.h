// SPDX-License-Identifier: Apache-2.0
//
// Whether an address is this machine's.
#ifndef PARKWAY_NETPOLL_LOCAL_ADDRESS_H_
#define PARKWAY_NETPOLL_LOCAL_ADDRESS_H_

#include "netpoll/endpoint.h"
#include "netpoll/kernel.h"

namespace netpoll {

// Asks the kernel, by binding a socket there: four system calls. Also true when it cannot be known:
// without a descriptor for the socket, or where net.ipv4.ip_nonlocal_bind (net.ipv6 likewise) has
// every address bound. Any thread; never blocks. REQUIRES: an IPv4 or IPv6 address.
bool MayBeLocal(const Kernel& kernel, const Endpoint& address);

// Likewise, but false when it cannot be known, for which an address is bound, too, that is
// nobody's.
bool IsLocal(const Kernel& kernel, const Endpoint& address);

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_LOCAL_ADDRESS_H_
