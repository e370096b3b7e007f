// SPDX-License-Identifier: Apache-2.0
//
// The outside world: plain sockets without fibers, for the other end of a connection under test.
#ifndef PARKWAY_NETPOLL_TESTING_RAW_SOCKET_H_
#define PARKWAY_NETPOLL_TESTING_RAW_SOCKET_H_

#include <sys/socket.h>
#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>

#include "netpoll/endpoint.h"

namespace netpoll {

// A non-blocking socket that closes itself. What waits here blocks the thread, at most for a few
// seconds, and is meant for the test's own thread; the others never block and suit a fiber too.
class RawSocket {
 public:
  RawSocket() = default;
  explicit RawSocket(int fd) : fd_(fd) {}
  RawSocket(RawSocket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  RawSocket& operator=(RawSocket&& other) noexcept {
    Close();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~RawSocket() { Close(); }

  // Bound and listening.
  static RawSocket Listen(const Endpoint& at, int backlog = 128);
  // Starts to connect, which on loopback is done at once unless the queue there is full.
  static RawSocket Connect(const Endpoint& to);
  // Of a listening socket: the first in the queue, waited for; invalid if none comes.
  RawSocket Accept();

  int fd() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  Endpoint local() const;

  // Takes all of `data`, waiting for room. False: it broke.
  bool Send(std::string_view data);
  // One byte of urgent data.
  void SendUrgent(char byte);
  // What the kernel takes now.
  size_t SendSome(std::string_view data);

  // `size` bytes, waited for; fewer if the stream ends or nothing comes.
  std::string Receive(size_t size);
  // Everything up to the end: then *error is 0 for FIN, the errno for a reset, ETIMEDOUT if it does
  // not end.
  std::string ReceiveAll(int* error);
  // What is there now.
  std::string ReceiveSome();

  void ShutdownWrite();
  void Close();
  // Closes with RST.
  void Reset();

 private:
  bool Await(short events) const;
  int fd_ = -1;
};

// A name in the abstract namespace, "unix:@...", that nobody else on this machine has. Pids would
// not tell, as they start anew in every sandbox.
std::string UniqueUnixName();

// Two ends of one connection over loopback (AF_INET, AF_INET6) or of a socketpair (AF_UNIX),
// without delay.
std::pair<RawSocket, RawSocket> ConnectedPair(int family = AF_INET);

// A listening address whose queue is full, so that connecting to it takes for ever.
class FullListener {
 public:
  explicit FullListener(const Endpoint& at = Endpoint::Parse("127.0.0.1:0").value());
  const Endpoint& at() const { return at_; }
  // Takes out what is queued: the next connect succeeds.
  void MakeRoom() { (void)listener_.Accept(); }

 private:
  RawSocket listener_;
  Endpoint at_;
  RawSocket first_;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_TESTING_RAW_SOCKET_H_
