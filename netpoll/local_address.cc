// SPDX-License-Identifier: Apache-2.0
#include "netpoll/local_address.h"

#include <cerrno>

namespace netpoll {

bool MayBeLocal(const Kernel& kernel, const Endpoint& address) {
  const int fd = kernel.Socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return true;
  const int late = 1;  // else it would look for a free port
  (void)kernel.SetSockOpt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof late);
  const Endpoint at = address.WithPort(0);
  const int bound = kernel.Bind(fd, at.data(), at.size());
  (void)kernel.Close(fd);
  return bound != -EADDRNOTAVAIL;
}

// Not by the source of a connected UDP socket, which is another one for an interface's secondary
// addresses.
bool IsLocal(const Kernel& kernel, const Endpoint& address) {
  if (!MayBeLocal(kernel, address)) return false;
  // Reserved (RFC 1112), and for what is to be discarded (RFC 6666).
  const char* const nobodys = address.family() == AF_INET ? "240.0.0.1" : "100::1";
  return !MayBeLocal(kernel, *Endpoint::ParseAddress(nobodys));
}

}  // namespace netpoll
