// SPDX-License-Identifier: Apache-2.0
//
// Descriptors of a library that reads and writes them itself, such as a resolver: a fiber waits for
// all of them at once.
#ifndef PARKWAY_NETPOLL_FD_SET_H_
#define PARKWAY_NETPOLL_FD_SET_H_

#include <array>
#include <span>

#include "netpoll/internal/socket.h"
#include "netpoll/io_result.h"
#include "sched/clock.h"

namespace netpoll {

class Poller;

// An epoll of its own, level-triggered, which the worker's poller watches in turn: so a descriptor
// costs no PollDesc, may be closed by its owner at any time, and may be waited for in both
// directions. For one fiber.
class FdSet {
 public:
  struct Ready {
    int fd;
    bool readable;
    bool writable;
  };
  static constexpr int kReadyMax = 16;  // told at a time; the others are found by the next Await

  explicit FdSet(Poller& poller);
  FdSet(const FdSet&) = delete;
  FdSet& operator=(const FdSet&) = delete;

  // Watches `fd` for these directions from here on, instead of those before; neither: not any
  // more. Closing a descriptor that has no duplicate is as good. 0 or an errno. Does not block.
  int Watch(int fd, bool read, bool write);

  // Blocks the fiber until at least one is ready or broken, which is told as ready: *ready lives
  // until the next call. Errors: kTimeout at `until`; kError, when descriptors or memory have run
  // out.
  IoResult Await(sched::Deadline until, std::span<const Ready>* ready);

 private:
  int Collect();

  internal::Socket socket_;
  const int error_;  // of making it; or 0
  std::array<Ready, kReadyMax> ready_{};
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_FD_SET_H_
