// SPDX-License-Identifier: Apache-2.0
//
// The seam to the operating system: every system call of this library is a method here. In
// production a method is the system call and one predictable branch; a simulation supplies
// KernelCalls.
#ifndef PARKWAY_NETPOLL_KERNEL_H_
#define PARKWAY_NETPOLL_KERNEL_H_

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "netpoll/kernel_syscall.h"

namespace netpoll {

// What a simulated kernel implements. Each call means what its manual page says, except that it
// returns the value or -errno.
class KernelCalls {
 public:
  virtual ~KernelCalls() = default;
  virtual int Socket(int domain, int type, int protocol) = 0;
  virtual int Bind(int fd, const sockaddr* address, socklen_t size) = 0;
  virtual int Listen(int fd, int backlog) = 0;
  virtual int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) = 0;
  virtual int Connect(int fd, const sockaddr* address, socklen_t size) = 0;
  virtual ssize_t Recv(int fd, void* buffer, size_t size, int flags) = 0;
  virtual ssize_t Send(int fd, const void* data, size_t size, int flags) = 0;
  virtual ssize_t Readv(int fd, const iovec* buffers, int count) = 0;
  virtual ssize_t Sendmsg(int fd, const msghdr* message, int flags) = 0;
  virtual int Pipe2(int* fds, int flags) = 0;
  virtual int SetPipeSize(int fd, int bytes) = 0;
  virtual ssize_t Splice(int from, int to, size_t size, unsigned int flags) = 0;
  virtual int Shutdown(int fd, int how) = 0;
  virtual int Close(int fd) = 0;
  virtual int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) = 0;
  virtual int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) = 0;
  virtual int GetSockName(int fd, sockaddr* address, socklen_t* size) = 0;
  virtual int GetPeerName(int fd, sockaddr* address, socklen_t* size) = 0;
  virtual int Ioctl(int fd, unsigned long request, int* value) = 0;
  virtual int EpollCreate(int flags) = 0;
  virtual int EpollCtl(int epfd, int operation, int fd, epoll_event* event) = 0;
  virtual int EpollWait(int epfd, epoll_event* events, int count, const timespec* timeout) = 0;
  virtual int EventFd(unsigned int initial, int flags) = 0;
  virtual ssize_t ReadEvent(int fd, uint64_t* value) = 0;
  virtual ssize_t WriteEvent(int fd, uint64_t value) = 0;
  virtual int OpenReserve() = 0;
  virtual int Lstat(const char* path, struct stat* status) = 0;
  virtual int Unlink(const char* path) = 0;
};

class Kernel {
 public:
  // The real one.
  Kernel() = default;
  // A simulated one, which must outlive this.
  explicit Kernel(KernelCalls* simulated) : simulated_(simulated) {}

  int Socket(int domain, int type, int protocol) const {
    return Call<SYS_socket>(::socket, &KernelCalls::Socket, domain, type, protocol);
  }
  int Bind(int fd, const sockaddr* address, socklen_t size) const {
    return Call<SYS_bind>(::bind, &KernelCalls::Bind, fd, address, size);
  }
  int Listen(int fd, int backlog) const {
    return Call<SYS_listen>(::listen, &KernelCalls::Listen, fd, backlog);
  }
  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) const {
    return Call<SYS_accept4>(::accept4, &KernelCalls::Accept4, fd, address, size, flags);
  }
  int Connect(int fd, const sockaddr* address, socklen_t size) const {
    return Call<SYS_connect>(::connect, &KernelCalls::Connect, fd, address, size);
  }
  ssize_t Recv(int fd, void* buffer, size_t size, int flags) const {
    return Call<SYS_recvfrom>(::recv, &KernelCalls::Recv, fd, buffer, size, flags);
  }
  ssize_t Send(int fd, const void* data, size_t size, int flags) const {
    return Call<SYS_sendto>(::send, &KernelCalls::Send, fd, data, size, flags);
  }
  ssize_t Readv(int fd, const iovec* buffers, int count) const {
    return Call<SYS_readv>(::readv, &KernelCalls::Readv, fd, buffers, count);
  }
  ssize_t Sendmsg(int fd, const msghdr* message, int flags) const {
    return Call<SYS_sendmsg>(::sendmsg, &KernelCalls::Sendmsg, fd, message, flags);
  }
  int Pipe2(int* fds, int flags) const {
    return Call<SYS_pipe2>(::pipe2, &KernelCalls::Pipe2, fds, flags);
  }
  // The size it has then. -EPERM: the user's pipes hold more than pipe-user-pages-soft, and this
  // one has the size it had.
  int SetPipeSize(int fd, int bytes) const {
    return Real() ? Raw(::fcntl, fd, F_SETPIPE_SZ, bytes) : simulated_->SetPipeSize(fd, bytes);
  }
  // Between a pipe and a stream, at neither's offset.
  ssize_t Splice(int from, int to, size_t size, unsigned int flags) const {
    return Retry([&] {
      return Real() ? Direct<SYS_splice>(::splice, from, nullptr, to, nullptr, size, flags)
                    : simulated_->Splice(from, to, size, flags);
    });
  }
  int Shutdown(int fd, int how) const {
    return Call<SYS_shutdown>(::shutdown, &KernelCalls::Shutdown, fd, how);
  }
  // Not retried: Linux frees the descriptor even when it reports EINTR.
  int Close(int fd) const {
    return Real() ? Direct<SYS_close>(::close, fd) : simulated_->Close(fd);
  }
  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) const {
    return Call<SYS_getsockopt>(::getsockopt, &KernelCalls::GetSockOpt, fd, level, name, value,
                                size);
  }
  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) const {
    return Call<SYS_setsockopt>(::setsockopt, &KernelCalls::SetSockOpt, fd, level, name, value,
                                size);
  }
  int GetSockName(int fd, sockaddr* address, socklen_t* size) const {
    return Call<SYS_getsockname>(::getsockname, &KernelCalls::GetSockName, fd, address, size);
  }
  int GetPeerName(int fd, sockaddr* address, socklen_t* size) const {
    return Call<SYS_getpeername>(::getpeername, &KernelCalls::GetPeerName, fd, address, size);
  }
  int Ioctl(int fd, unsigned long request, int* value) const {
    return Call<SYS_ioctl>(::ioctl, &KernelCalls::Ioctl, fd, request, value);
  }
  int EpollCreate(int flags) const {
    return Call<SYS_epoll_create1>(::epoll_create1, &KernelCalls::EpollCreate, flags);
  }
  int EpollCtl(int epfd, int operation, int fd, epoll_event* event) const {
    return Call<SYS_epoll_ctl>(::epoll_ctl, &KernelCalls::EpollCtl, epfd, operation, fd, event);
  }
  // epoll_pwait2: nanoseconds; a null timeout blocks. -EINTR counts as no events, since the
  // caller's deadline is absolute. Where it does not exist (before Linux 5.11, under Valgrind,
  // behind a container's filter that does not know it and answers EPERM) epoll_wait's milliseconds,
  // rounded up, do.
  int EpollWait(int epfd, epoll_event* events, int count, const timespec* timeout) const {
    int result =
        Real() ? Direct<SYS_epoll_pwait2>(::epoll_pwait2, epfd, events, count, timeout, nullptr)
               : simulated_->EpollWait(epfd, events, count, timeout);
    if (__builtin_expect(result == -ENOSYS || result == -EPERM, false)) {
      result = Raw(::epoll_wait, epfd, events, count, Milliseconds(timeout));
    }
    return result == -EINTR ? 0 : result;
  }
  int EventFd(unsigned int initial, int flags) const {
    return Call<SYS_eventfd2>(::eventfd, &KernelCalls::EventFd, initial, flags);
  }
  ssize_t ReadEvent(int fd, uint64_t* value) const {
    return Retry([&] {
      return Real() ? Direct<SYS_read>(::read, fd, value, sizeof *value)
                    : simulated_->ReadEvent(fd, value);
    });
  }
  ssize_t WriteEvent(int fd, uint64_t value) const {
    return Retry([&] {
      return Real() ? Direct<SYS_write>(::write, fd, &value, sizeof value)
                    : simulated_->WriteEvent(fd, value);
    });
  }
  // A descriptor that is only held, to be given up when there are no others.
  int OpenReserve() const {
    return Retry([&] {
      return Real() ? Raw(::open, "/dev/null", O_RDONLY | O_CLOEXEC) : simulated_->OpenReserve();
    });
  }
  int Lstat(const char* path, struct stat* status) const {
    return Real() ? Raw(::lstat, path, status) : simulated_->Lstat(path, status);
  }
  int Unlink(const char* path) const {
    return Real() ? Raw(::unlink, path) : simulated_->Unlink(path);
  }

 private:
  static int Milliseconds(const timespec* timeout) {
    if (timeout == nullptr) return -1;
    constexpr int64_t kDay = 86'400'000;
    return static_cast<int>(
        std::min<int64_t>(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999'999) / 1'000'000, kDay));
  }

  bool Real() const { return __builtin_expect(simulated_ == nullptr, true); }

  // By the library: the value or -errno, which is taken beside the call.
  template <class Libc, class... Arguments>
  static auto Raw(Libc libc, Arguments... arguments) -> decltype(libc(arguments...)) {
    const auto result = libc(arguments...);
    return __builtin_expect(result >= 0, true) ? result : -internal::ThreadErrno();
  }

  // Without it (kernel_syscall.h); but sanitizers must see the library's function.
  template <long kNumber, class Libc, class... Arguments>
  static auto Direct(Libc libc, Arguments... arguments) -> decltype(libc(arguments...)) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return Raw(libc, arguments...);
#else
    return static_cast<decltype(libc(arguments...))>(
        internal::RawSyscall(kNumber, Word(arguments)...));
#endif
  }
  static long Word(std::nullptr_t) { return 0; }
  static long Word(std::integral auto value) { return static_cast<long>(value); }
  static long Word(const volatile void* pointer) { return reinterpret_cast<long>(pointer); }

  template <long kNumber, class Libc, class Simulated, class... Arguments>
  auto Call(Libc libc, Simulated simulated, Arguments... arguments) const
      -> decltype(libc(arguments...)) {
    return Retry([&] {
      return Real() ? Direct<kNumber>(libc, arguments...) : (simulated_->*simulated)(arguments...);
    });
  }

  // A call that a signal interrupted is made again; callers never see EINTR.
  template <class Call>
  static auto Retry(Call call) -> decltype(call()) {
    for (;;) {
      const auto result = call();
      if (__builtin_expect(result != -EINTR, true)) return result;
    }
  }

  KernelCalls* const simulated_ = nullptr;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_KERNEL_H_
