// SPDX-License-Identifier: Apache-2.0
#include "netpoll/testing/raw_socket.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <string>

namespace netpoll {
namespace {

constexpr int kPatienceMs = 20'000;

void SetNoDelay(int fd) {
  const int on = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // Unix sockets refuse it
}

RawSocket Open(int family) {
  return RawSocket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

}  // namespace

RawSocket RawSocket::Listen(const Endpoint& at, int backlog) {
  RawSocket socket = Open(at.family());
  EXPECT_EQ(::bind(socket.fd(), at.data(), at.size()), 0) << at.ToString() << " errno " << errno;
  EXPECT_EQ(::listen(socket.fd(), backlog), 0) << at.ToString() << " errno " << errno;
  return socket;
}

RawSocket RawSocket::Connect(const Endpoint& to) {
  RawSocket socket = Open(to.family());
  SetNoDelay(socket.fd());
  if (::connect(socket.fd(), to.data(), to.size()) != 0 && errno != EINPROGRESS) socket.Close();
  return socket;
}

RawSocket RawSocket::Accept() {
  if (!Await(POLLIN)) return RawSocket();
  RawSocket socket(::accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket.valid()) SetNoDelay(socket.fd());
  return socket;
}

Endpoint RawSocket::local() const {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  auto* const raw = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(::getsockname(fd_, raw, &size), 0);
  return Endpoint::FromSockaddr(raw, size);
}

bool RawSocket::Send(std::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = ::send(fd_, data.data(), data.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      data.remove_prefix(static_cast<size_t>(sent));
    } else if (errno != EAGAIN || !Await(POLLOUT)) {
      return false;
    }
  }
  return true;
}

void RawSocket::SendUrgent(char byte) {
  EXPECT_EQ(::send(fd_, &byte, 1, MSG_NOSIGNAL | MSG_OOB), 1) << errno;
}

size_t RawSocket::SendSome(std::string_view data) {
  const ssize_t sent = ::send(fd_, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent > 0 ? static_cast<size_t>(sent) : 0;
}

std::string RawSocket::Receive(size_t size) {
  std::string received(size, '\0');
  size_t have = 0;
  while (have < size) {
    const ssize_t got = ::recv(fd_, received.data() + have, size - have, 0);
    if (got > 0) {
      have += static_cast<size_t>(got);
    } else if (got == 0 || errno != EAGAIN || !Await(POLLIN)) {
      break;
    }
  }
  received.resize(have);
  return received;
}

std::string RawSocket::ReceiveAll(int* error) {
  std::string received;
  *error = 0;
  char chunk[65536];
  for (;;) {
    const ssize_t got = ::recv(fd_, chunk, sizeof chunk, 0);
    if (got > 0) {
      received.append(chunk, static_cast<size_t>(got));
    } else if (got == 0) {
      return received;
    } else if (errno != EAGAIN) {
      *error = errno;
      return received;
    } else if (!Await(POLLIN)) {
      *error = ETIMEDOUT;
      return received;
    }
  }
}

std::string RawSocket::ReceiveSome() {
  char chunk[65536];
  const ssize_t got = ::recv(fd_, chunk, sizeof chunk, MSG_DONTWAIT);
  return std::string(chunk, got > 0 ? static_cast<size_t>(got) : 0);
}

void RawSocket::ShutdownWrite() { EXPECT_EQ(::shutdown(fd_, SHUT_WR), 0) << errno; }

void RawSocket::Close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void RawSocket::Reset() {
  const linger now = {.l_onoff = 1, .l_linger = 0};
  EXPECT_EQ(::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0) << errno;
  Close();
}

bool RawSocket::Await(short events) const {
  pollfd entry = {.fd = fd_, .events = events, .revents = 0};
  return ::poll(&entry, 1, kPatienceMs) > 0;
}

std::string UniqueUnixName() {
  std::random_device random;
  return "unix:@netpoll-test-" + std::to_string(random()) + "-" + std::to_string(random());
}

std::pair<RawSocket, RawSocket> ConnectedPair(int family) {
  if (family == AF_UNIX) {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    return {RawSocket(fds[0]), RawSocket(fds[1])};
  }
  const auto at = Endpoint::Parse(family == AF_INET6 ? "[::1]:0" : "127.0.0.1:0").value();
  RawSocket listener = RawSocket::Listen(at);
  RawSocket client = RawSocket::Connect(listener.local());
  RawSocket server = listener.Accept();
  EXPECT_TRUE(client.valid() && server.valid()) << errno;
  return {std::move(client), std::move(server)};
}

FullListener::FullListener(const Endpoint& at)
    : listener_(RawSocket::Listen(at, /*backlog=*/0)),
      at_(at.is_unix() ? at : listener_.local()),
      first_(RawSocket::Connect(at_)) {
  // The kernel lets in one more than the backlog says.
  pollfd entry = {.fd = listener_.fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&entry, 1, kPatienceMs), 1);
}

}  // namespace netpoll
