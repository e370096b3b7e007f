// SPDX-License-Identifier: Apache-2.0
#ifndef PARKWAY_BENCH_LOADGEN_SOCKET_H_
#define PARKWAY_BENCH_LOADGEN_SOCKET_H_

#include <netinet/in.h>

namespace loadgen {

// Begins to connect, without blocking and without delaying small writes. -1: errno says why.
int StartConnect(const sockaddr_in& to);
// After the first event: 0 when connected, else why not.
int ConnectError(int fd);
// A listener, of which the kernel chooses the port if it is 0; `at` becomes its address. -1: errno.
int Listen(sockaddr_in* at);
// At once, with a reset, so that no port waits in TIME_WAIT.
void CloseWithReset(int fd);

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_SOCKET_H_
