// SPDX-License-Identifier: Apache-2.0
#include "netpoll/pipe.h"

#include <fcntl.h>

namespace netpoll {

Pipe::Pipe(const Kernel& kernel, size_t bytes) : kernel_(kernel), capacity_(bytes) {
  int fds[2];
  if (kernel_.Pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) return;
  if (kernel_.SetPipeSize(fds[1], static_cast<int>(bytes)) < 0) {
    kernel_.Close(fds[0]);
    kernel_.Close(fds[1]);
    return;
  }
  read_fd_ = fds[0];
  write_fd_ = fds[1];
}

Pipe::~Pipe() {
  if (!is_open()) return;
  kernel_.Close(read_fd_);
  kernel_.Close(write_fd_);
}

}  // namespace netpoll
