// SPDX-License-Identifier: Apache-2.0
//
// The ClientHello of a client, from its connection.
#ifndef PARKWAY_SERVER_HELLO_RECEIVE_H_
#define PARKWAY_SERVER_HELLO_RECEIVE_H_

#include "netpoll/conn.h"
#include "server/client_hello.h"
#include "server/end_reason.h"

namespace parkway {

// Looks at the ClientHello with which `client` begins, if it speaks TLS, and takes nothing: all its
// bytes stay with the kernel for whoever reads next. kNone: it is in `hello`, which stays empty for
// a client that speaks something else; else why not, and the client is not to be served (kDrain:
// somebody closed it). Blocks the fiber, until the client's read deadline.
EndReason ReceiveClientHello(netpoll::Conn& client, ClientHello& hello);

}  // namespace parkway

#endif  // PARKWAY_SERVER_HELLO_RECEIVE_H_
