// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/socket.h"

#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace loadgen {
namespace {

const sockaddr* Raw(const sockaddr_in* address) {
  return reinterpret_cast<const sockaddr*>(address);
}

int NewSocket() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int on = 1;
  if (fd >= 0) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

int FailedWith(int fd) {
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

}  // namespace

int StartConnect(const sockaddr_in& to) {
  const int fd = NewSocket();
  if (fd < 0) return fd;
  if (connect(fd, Raw(&to), sizeof to) == 0 || errno == EINPROGRESS) return fd;
  return FailedWith(fd);
}

int ConnectError(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

int Listen(sockaddr_in* at) {
  const int fd = NewSocket();
  if (fd < 0) return fd;
  const int on = 1;
  socklen_t size = sizeof *at;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
      bind(fd, Raw(at), sizeof *at) == 0 && listen(fd, 4096) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(at), &size) == 0) {
    return fd;
  }
  return FailedWith(fd);
}

void CloseWithReset(int fd) {
  const linger now = {.l_onoff = 1, .l_linger = 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(fd);
}

}  // namespace loadgen
