// SPDX-License-Identifier: Apache-2.0
#include "netpoll/fd_set.h"

#include <algorithm>
#include <cerrno>

#include "netpoll/poller.h"

namespace netpoll {

using internal::Direction;

FdSet::FdSet(Poller& poller)
    : socket_(poller, poller.kernel().EpollCreate(EPOLL_CLOEXEC)),
      error_(std::max(0, -socket_.fd())) {}

int FdSet::Watch(int fd, bool read, bool write) {
  if (error_ != 0) return error_;
  const Kernel& kernel = socket_.kernel();
  epoll_event event = {};
  event.events = (read ? EPOLLIN : 0u) | (write ? EPOLLOUT : 0u);
  event.data.fd = fd;
  const int operation = event.events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  int result = kernel.EpollCtl(socket_.fd(), operation, fd, &event);
  if (result == -ENOENT) {
    result = event.events == 0 ? 0 : kernel.EpollCtl(socket_.fd(), EPOLL_CTL_ADD, fd, &event);
  }
  return -result;
}

IoResult FdSet::Await(sched::Deadline until, std::span<const Ready>* ready) {
  if (error_ != 0) return IoResult::FromErrno(error_);
  const internal::Socket::Hold hold(socket_, Direction::kRead);
  socket_.SetDeadlineHeld(Direction::kRead, until);
  for (;;) {
    // Directly before the look, as for any other read: an edge comes for what is ready afterwards.
    socket_.ResetReadiness(Direction::kRead);
    const int count = Collect();
    if (count != 0) {
      *ready = std::span<const Ready>(ready_).first(static_cast<size_t>(std::max(count, 0)));
      return count > 0 ? IoResult() : IoResult::FromErrno(-count);
    }
    const IoResult waited = socket_.Await(Direction::kRead, sched::WaitReason::kRead);
    if (!waited.ok()) return waited;
  }
}

// How many are ready now, or -errno.
int FdSet::Collect() {
  constexpr timespec kNow = {};
  epoll_event events[kReadyMax];
  const int count = socket_.kernel().EpollWait(socket_.fd(), events, kReadyMax, &kNow);
  for (int i = 0; i < count; ++i) {
    const bool broken = (events[i].events & (EPOLLERR | EPOLLHUP)) != 0;
    ready_[static_cast<size_t>(i)] = {.fd = events[i].data.fd,
                                      .readable = broken || (events[i].events & EPOLLIN) != 0,
                                      .writable = broken || (events[i].events & EPOLLOUT) != 0};
  }
  return count;
}

}  // namespace netpoll
