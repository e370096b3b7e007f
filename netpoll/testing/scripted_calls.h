// SPDX-License-Identifier: Apache-2.0
//
// The real kernel, with every call counted and failures to order: for tests of what the library
// asks of the system, and of errors that cannot be had from a healthy one.
#ifndef PARKWAY_NETPOLL_TESTING_SCRIPTED_CALLS_H_
#define PARKWAY_NETPOLL_TESTING_SCRIPTED_CALLS_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "netpoll/kernel.h"

namespace netpoll {

enum class Op : uint8_t {
  kSocket,
  kBind,
  kListen,
  kAccept,
  kConnect,
  kRecv,
  kSend,
  kReadv,
  kSendmsg,
  kPipe2,
  kSetPipeSize,
  kSplice,
  kShutdown,
  kClose,
  kGetSockOpt,
  kSetSockOpt,
  kGetSockName,
  kGetPeerName,
  kIoctl,
  kEpollCreate,
  kEpollCtl,
  kEpollWait,
  kEventFd,
  kReadEvent,
  kWriteEvent,
  kOpenReserve,
  kLstat,
  kUnlink,
  kCount,
};

class ScriptedCalls : public KernelCalls {
 public:
  // Calls so far; failed ones count.
  int64_t count(Op op) const { return at(op).calls.load(); }
  // Of one descriptor (the one that epoll_ctl is about, the listener of an accept). It goes on over
  // reuse.
  int64_t count(Op op, int fd) const { return at(op).of_fd[fd].load(); }

  // The next `times` calls of `op` return -`error` and do nothing else. 0: no more of them.
  void Fail(Op op, int error, int times = 1) {
    at(op).error.store(error);
    at(op).failures.store(times);
  }

  int Socket(int domain, int type, int protocol) override {
    const int error = Enter(Op::kSocket, -1);
    return error != 0 ? -error : real_.Socket(domain, type, protocol);
  }
  int Bind(int fd, const sockaddr* address, socklen_t size) override {
    const int error = Enter(Op::kBind, fd);
    return error != 0 ? -error : real_.Bind(fd, address, size);
  }
  int Listen(int fd, int backlog) override {
    const int error = Enter(Op::kListen, fd);
    return error != 0 ? -error : real_.Listen(fd, backlog);
  }
  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) override {
    const int error = Enter(Op::kAccept, fd);
    return error != 0 ? -error : real_.Accept4(fd, address, size, flags);
  }
  int Connect(int fd, const sockaddr* address, socklen_t size) override {
    const int error = Enter(Op::kConnect, fd);
    return error != 0 ? -error : real_.Connect(fd, address, size);
  }
  ssize_t Recv(int fd, void* buffer, size_t size, int flags) override {
    const int error = Enter(Op::kRecv, fd);
    return error != 0 ? -error : real_.Recv(fd, buffer, size, flags);
  }
  ssize_t Send(int fd, const void* data, size_t size, int flags) override {
    const int error = Enter(Op::kSend, fd);
    return error != 0 ? -error : real_.Send(fd, data, size, flags);
  }
  ssize_t Readv(int fd, const iovec* buffers, int count) override {
    const int error = Enter(Op::kReadv, fd);
    return error != 0 ? -error : real_.Readv(fd, buffers, count);
  }
  ssize_t Sendmsg(int fd, const msghdr* message, int flags) override {
    const int error = Enter(Op::kSendmsg, fd);
    return error != 0 ? -error : real_.Sendmsg(fd, message, flags);
  }
  int Pipe2(int* fds, int flags) override {
    const int error = Enter(Op::kPipe2, -1);
    return error != 0 ? -error : real_.Pipe2(fds, flags);
  }
  int SetPipeSize(int fd, int bytes) override {
    const int error = Enter(Op::kSetPipeSize, fd);
    return error != 0 ? -error : real_.SetPipeSize(fd, bytes);
  }
  ssize_t Splice(int from, int to, size_t size, unsigned int flags) override {
    const int error = Enter(Op::kSplice, from);
    return error != 0 ? -error : real_.Splice(from, to, size, flags);
  }
  int Shutdown(int fd, int how) override {
    const int error = Enter(Op::kShutdown, fd);
    return error != 0 ? -error : real_.Shutdown(fd, how);
  }
  int Close(int fd) override {
    const int error = Enter(Op::kClose, fd);
    return error != 0 ? -error : real_.Close(fd);
  }
  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) override {
    const int error = Enter(Op::kGetSockOpt, fd);
    return error != 0 ? -error : real_.GetSockOpt(fd, level, name, value, size);
  }
  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) override {
    const int error = Enter(Op::kSetSockOpt, fd);
    return error != 0 ? -error : real_.SetSockOpt(fd, level, name, value, size);
  }
  int GetSockName(int fd, sockaddr* address, socklen_t* size) override {
    const int error = Enter(Op::kGetSockName, fd);
    return error != 0 ? -error : real_.GetSockName(fd, address, size);
  }
  int GetPeerName(int fd, sockaddr* address, socklen_t* size) override {
    const int error = Enter(Op::kGetPeerName, fd);
    return error != 0 ? -error : real_.GetPeerName(fd, address, size);
  }
  int Ioctl(int fd, unsigned long request, int* value) override {
    const int error = Enter(Op::kIoctl, fd);
    return error != 0 ? -error : real_.Ioctl(fd, request, value);
  }
  int EpollCreate(int flags) override {
    const int error = Enter(Op::kEpollCreate, -1);
    return error != 0 ? -error : real_.EpollCreate(flags);
  }
  int EpollCtl(int epfd, int operation, int fd, epoll_event* event) override {
    const int error = Enter(Op::kEpollCtl, fd);
    return error != 0 ? -error : real_.EpollCtl(epfd, operation, fd, event);
  }
  int EpollWait(int epfd, epoll_event* events, int count, const timespec* timeout) override {
    const int error = Enter(Op::kEpollWait, epfd);
    return error != 0 ? -error : real_.EpollWait(epfd, events, count, timeout);
  }
  int EventFd(unsigned int initial, int flags) override {
    const int error = Enter(Op::kEventFd, -1);
    return error != 0 ? -error : real_.EventFd(initial, flags);
  }
  ssize_t ReadEvent(int fd, uint64_t* value) override {
    const int error = Enter(Op::kReadEvent, fd);
    return error != 0 ? -error : real_.ReadEvent(fd, value);
  }
  ssize_t WriteEvent(int fd, uint64_t value) override {
    const int error = Enter(Op::kWriteEvent, fd);
    return error != 0 ? -error : real_.WriteEvent(fd, value);
  }
  int OpenReserve() override {
    const int error = Enter(Op::kOpenReserve, -1);
    return error != 0 ? -error : real_.OpenReserve();
  }
  int Lstat(const char* path, struct stat* status) override {
    const int error = Enter(Op::kLstat, -1);
    return error != 0 ? -error : real_.Lstat(path, status);
  }
  int Unlink(const char* path) override {
    const int error = Enter(Op::kUnlink, -1);
    return error != 0 ? -error : real_.Unlink(path);
  }

 private:
  static constexpr int kFdsMax = 4096;
  struct Call {
    std::atomic<int64_t> calls{0};
    std::atomic<int> failures{0};
    std::atomic<int> error{0};
    std::array<std::atomic<int64_t>, kFdsMax> of_fd{};
  };

  Call& at(Op op) { return calls_[static_cast<int>(op)]; }
  const Call& at(Op op) const { return calls_[static_cast<int>(op)]; }

  // Counts; the errno to fail with, or 0.
  int Enter(Op op, int fd) {
    Call& call = at(op);
    call.calls.fetch_add(1);
    if (fd >= 0 && fd < kFdsMax) call.of_fd[fd].fetch_add(1);
    int left = call.failures.load();
    while (left > 0) {
      if (call.failures.compare_exchange_strong(left, left - 1)) return call.error.load();
    }
    return 0;
  }

  const Kernel real_{};
  std::array<Call, static_cast<int>(Op::kCount)> calls_;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_TESTING_SCRIPTED_CALLS_H_
