// SPDX-License-Identifier: Apache-2.0
#include "netpoll/kernel_syscall.h"

#include <cerrno>

namespace netpoll::internal {

[[gnu::noinline]] int ThreadErrno() {
  asm volatile("");  // or two calls might be merged, as of a function without side effects
  return errno;
}

}  // namespace netpoll::internal
