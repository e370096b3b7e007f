// SPDX-License-Identifier: Apache-2.0
//
// The PROXY header of a client, from its connection.
#ifndef PARKWAY_SERVER_PROXY_RECEIVE_H_
#define PARKWAY_SERVER_PROXY_RECEIVE_H_

#include "netpoll/conn.h"
#include "server/buffer_pool.h"
#include "server/end_reason.h"
#include "server/proxy_header.h"

namespace parkway {

// Reads the header with which `client` has to begin, and nothing of what follows it: that stays
// with the kernel for whoever reads next. kNone: it is in `header`; else why not, and the client is
// not to be served (kDrain: somebody closed it). Blocks the fiber, until the client's read
// deadline. REQUIRES: accept is not kOff.
EndReason ReceiveProxyHeader(netpoll::Conn& client, AcceptProxy accept, BufferPool& buffers,
                             ProxyHeader& header);

}  // namespace parkway

#endif  // PARKWAY_SERVER_PROXY_RECEIVE_H_
