// SPDX-License-Identifier: Apache-2.0
#include "netpoll/listener.h"

#include <netinet/tcp.h>
#include <sys/un.h>

#include <cstring>
#include <string>
#include <utility>

#include "netpoll/poller.h"
#include "netpoll/socket_options.h"
#include "sched/fibers.h"

namespace netpoll {
namespace {

using internal::Direction;

constexpr int kOn = 1;
constexpr int kOff = 0;

absl::Status Failed(const Endpoint& at, int error) {
  return absl::ErrnoToStatus(error, at.ToString());
}

// A descriptor that closes itself unless released.
class OwnedFd {
 public:
  OwnedFd(const Kernel& kernel, int fd) : kernel_(kernel), fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : kernel_(other.kernel_), fd_(std::exchange(other.fd_, -1)) {}
  ~OwnedFd() {
    if (fd_ >= 0) kernel_.Close(fd_);
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  const Kernel& kernel_;
  int fd_;
};

absl::Status SetListenOption(const Kernel& kernel, int fd, const char* option, int name,
                             int value) {
  const int error = kernel.SetSockOpt(fd, IPPROTO_TCP, name, &value, sizeof value);
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(-error, std::string(option) + "=" + std::to_string(value));
}

// Accepted connections inherit most of them, which saves their system calls.
absl::Status SetListenOptions(const Kernel& kernel, int fd, const ListenOptions& options) {
  if (options.nodelay) {
    (void)kernel.SetSockOpt(fd, IPPROTO_TCP, TCP_NODELAY, &kOn, sizeof kOn);
  }
  absl::Status status = CheckSocketOptions(kernel, fd, options.socket);
  if (status.ok() && options.fastopen > 0) {
    status = SetListenOption(kernel, fd, "fastopen", TCP_FASTOPEN, options.fastopen);
  }
  const auto seconds = options.defer_accept / std::chrono::seconds(1);
  if (status.ok() && seconds > 0) {
    status =
        SetListenOption(kernel, fd, "defer_accept", TCP_DEFER_ACCEPT, static_cast<int>(seconds));
  }
  return status;
}

struct SocketKind {
  bool shares_port = false;
  bool mptcp = false;
  bool transparent = false;
};

// A bound socket, or -errno.
int OpenAndBind(const Kernel& kernel, const Endpoint& at, const SocketKind& kind) {
  OwnedFd fd(kernel, kernel.Socket(at.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                                   kind.mptcp ? IPPROTO_MPTCP : 0));
  if (fd.get() < 0) return fd.Release();
  if (!at.is_unix()) {
    (void)kernel.SetSockOpt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &kOn, sizeof kOn);
  }
  if (kind.shares_port) {
    const int set = kernel.SetSockOpt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &kOn, sizeof kOn);
    if (set < 0) return set;
  }
  if (at.family() == AF_INET6) {
    const int& only = at.dual_stack() ? kOff : kOn;
    (void)kernel.SetSockOpt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  }
  if (kind.transparent && !at.is_unix()) {
    const int set = SetTransparent(kernel, fd.get());
    if (set < 0) return set;
  }
  const int bound = kernel.Bind(fd.get(), at.data(), at.size());
  return bound < 0 ? bound : fd.Release();
}

Endpoint LocalEndpoint(const Kernel& kernel, int fd, const Endpoint& at) {
  if (at.is_unix()) return at;
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  auto* const raw = reinterpret_cast<sockaddr*>(&address);
  if (kernel.GetSockName(fd, raw, &size) < 0) return at;
  return at.WithPort(Endpoint::FromSockaddr(raw, size).port());
}

const char* UnixPath(const Endpoint& at) {
  const char* const path = reinterpret_cast<const sockaddr_un*>(at.data())->sun_path;
  return at.is_unix() && path[0] != '\0' ? path : nullptr;  // abstract names have no file
}

// Whether the path is no socket. Connecting would be refused there as at a socket left behind.
bool IsOtherFile(const Kernel& kernel, const char* path) {
  struct stat status;
  return kernel.Lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode);
}

// Whether nobody answers at a Unix path that exists: its process is gone.
bool IsStale(const Kernel& kernel, const Endpoint& at) {
  const OwnedFd probe(kernel,
                      kernel.Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  return probe.get() >= 0 && kernel.Connect(probe.get(), at.data(), at.size()) == -ECONNREFUSED;
}

int BindUnix(const Kernel& kernel, const Endpoint& at) {
  const int fd = OpenAndBind(kernel, at, SocketKind());
  const char* const path = UnixPath(at);
  if (fd != -EADDRINUSE || path == nullptr) return fd;
  if (IsOtherFile(kernel, path)) return -EEXIST;
  if (!IsStale(kernel, at)) return fd;
  (void)kernel.Unlink(path);
  return OpenAndBind(kernel, at, SocketKind());
}

// Who binds with SO_REUSEPORT joins another listener in silence, so first a socket is bound without
// it.
int Probe(const Kernel& kernel, const Endpoint& at, const SocketKind& kind) {
  if (at.asks_for_port()) return 0;
  const OwnedFd probe(kernel, OpenAndBind(kernel, at, kind));
  return probe.get() < 0 ? probe.get() : 0;
}

absl::Status FailedToOpen(const Endpoint& at, int error, const ListenOptions& options) {
  if (options.mptcp && (error == ENOPROTOOPT || error == EPROTONOSUPPORT)) {
    return absl::FailedPreconditionError(
        at.ToString() + ": mptcp=true: the kernel has none, or net.mptcp.enabled is 0");
  }
  if (options.transparent && error == EPERM) {
    return absl::PermissionDeniedError(at.ToString() +
                                       ": transparent=true: needs CAP_NET_RAW or CAP_NET_ADMIN");
  }
  return Failed(at, error);
}

absl::StatusOr<std::vector<BoundSocket>> BindAll(const Kernel& kernel, Endpoint at, int count,
                                                 const ListenOptions& options) {
  SocketKind kind = {.mptcp = options.mptcp, .transparent = options.transparent};
  if (!at.is_unix()) {
    const int error = Probe(kernel, at, kind);
    if (error < 0) return FailedToOpen(at, -error, options);
  }
  kind.shares_port = count > 1;
  std::vector<OwnedFd> fds;
  for (int i = 0; i < (at.is_unix() ? 1 : count); ++i) {
    OwnedFd fd(kernel, at.is_unix() ? BindUnix(kernel, at) : OpenAndBind(kernel, at, kind));
    if (fd.get() < 0) return FailedToOpen(at, -fd.get(), options);
    if (!at.is_unix()) {
      const absl::Status set = SetListenOptions(kernel, fd.get(), options);
      if (!set.ok()) {
        return absl::Status(set.code(), at.ToString() + ": " + std::string(set.message()));
      }
    }
    if (const int error = kernel.Listen(fd.get(), options.backlog); error < 0) {
      return Failed(at, -error);
    }
    at = LocalEndpoint(kernel, fd.get(), at);  // the others take the port the first was given
    fds.push_back(std::move(fd));
  }
  std::vector<BoundSocket> sockets;
  sockets.reserve(fds.size());
  for (OwnedFd& fd : fds) sockets.push_back({fd.Release(), at});
  return sockets;
}

}  // namespace

absl::StatusOr<std::vector<BoundSocket>> Bind(const Kernel& kernel, const Endpoint& at, int count,
                                              const ListenOptions& options) {
  auto sockets = BindAll(kernel, at, count, options);
  if (!sockets.ok() && at.dual_stack()) {
    // A kernel without IPv6 still has every IPv4 address.
    const OwnedFd ipv6(kernel, kernel.Socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (ipv6.get() != -EAFNOSUPPORT) return sockets;
    const auto ipv4 = Endpoint::Parse("0.0.0.0:" + std::to_string(at.port()));
    if (ipv4.ok()) return BindAll(kernel, *ipv4, count, options);
  }
  return sockets;
}

void CloseBound(const Kernel& kernel, const BoundSocket& socket) {
  kernel.Close(socket.fd);
  if (const char* const path = UnixPath(socket.at)) (void)kernel.Unlink(path);
}

Listener::Listener(Poller& poller, const BoundSocket& socket, OnPause on_pause)
    : poller_(poller),
      bound_(socket),
      on_pause_(std::move(on_pause)),
      socket_(poller, socket.fd),
      reserve_(poller.kernel().OpenReserve()) {}

Listener::~Listener() {
  Close();
  if (reserve_ >= 0) poller_.kernel().Close(reserve_);
}

void Listener::Close() {
  if (socket_.closed()) return;
  // The path first: who finds it must find somebody listening.
  if (const char* const path = UnixPath(bound_.at)) (void)poller_.kernel().Unlink(path);
  socket_.Close();
}

IoResult Listener::Accept(Conn& conn, CompactEndpoint* peer) {
  const internal::Socket::Hold hold(socket_, Direction::kRead);
  if (!hold) return {.status = IoStatus::kClosed};
  for (;;) {
    if (stop_waiting_.load(std::memory_order_seq_cst)) return {.status = IoStatus::kTimeout};
    IoResult result = AcceptOne(conn, peer);
    if (result.ok()) return result;
    if (result.os_error == EAGAIN) {
      result = socket_.Await(Direction::kRead, sched::WaitReason::kAccept);
    }
    if (result.is_local()) result = Pause(result);  // it passes, but no event tells when
    if (!result.ok()) return result;
  }
}

IoResult Listener::TryAccept(Conn& conn, CompactEndpoint* peer) {
  const internal::Socket::Hold hold(socket_, Direction::kRead);
  return hold ? AcceptOne(conn, peer) : IoResult{.status = IoStatus::kClosed};
}

void Listener::StopWaiting() {
  stop_waiting_.store(true, std::memory_order_seq_cst);
  socket_.SetDeadline(Direction::kRead, sched::kLongAgo);
}

IoResult Listener::AcceptOne(Conn& conn, CompactEndpoint* peer) {
  if (socket_.closed()) return {.status = IoStatus::kClosed};
  if (accepts_in_turn_ == kAcceptsPerTurn) {
    accepts_in_turn_ = 0;
    sched::Yield();
  }
  ++accepts_in_turn_;
  for (;;) {
    socket_.ResetReadiness(Direction::kRead);
    sockaddr_storage address;
    socklen_t size = sizeof address;
    auto* const raw = peer == nullptr ? nullptr : reinterpret_cast<sockaddr*>(&address);
    const int fd = poller_.kernel().Accept4(socket_.fd(), raw, raw == nullptr ? nullptr : &size,
                                            SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      NoteNotStarved();
      ++stats_.accepted;
      if (peer != nullptr) *peer = CompactEndpoint(raw, size);
      conn = Conn(poller_, fd, bound_.at.family());
      return {};
    }
    switch (-fd) {
      // The connection broke while it was queued (accept(2), "Error handling"); the next may be
      // well.
      case ECONNABORTED:
      case EPROTO:
      case ENETDOWN:
      case ENOPROTOOPT:
      case EHOSTDOWN:
      case ENONET:
      case EHOSTUNREACH:
      case EOPNOTSUPP:
      case ENETUNREACH:
        continue;
      case EAGAIN:
        accepts_in_turn_ = 0;
        NoteNotStarved();
        return {.status = IoStatus::kAgain, .os_error = EAGAIN};
      default:
        return IoResult::FromErrno(-fd);
    }
  }
}

// Somebody else may have taken the descriptor of a reserve that was used.
void Listener::NoteNotStarved() {
  starved_since_ = sched::kNever;
  if (reserve_ < 0) reserve_ = poller_.kernel().OpenReserve();
}

IoResult Listener::Pause(const IoResult& why) {
  ++stats_.pauses;
  if (on_pause_ != nullptr) on_pause_(why);
  const sched::Deadline now = sched::Now();
  if (starved_since_ == sched::kNever) starved_since_ = now;
  if (now - starved_since_ >= kShedAfter) Shed();
  // Every arrival is an edge, so readiness must not end the pause; its deadline and Close do.
  socket_.SetDeadline(Direction::kRead, now + kPause);
  IoResult waited;
  do {
    waited = socket_.Await(Direction::kRead, sched::WaitReason::kAccept);
  } while (waited.ok());
  socket_.SetDeadline(Direction::kRead, sched::kNever);
  if (waited.is_local()) {  // it cannot even wait there
    sched::SleepFor(kPause);
    return {};
  }
  return waited.status == IoStatus::kTimeout ? IoResult() : waited;
}

void Listener::Shed() {
  const Kernel& kernel = poller_.kernel();
  if (reserve_ >= 0) kernel.Close(reserve_);
  const int fd = kernel.Accept4(socket_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    ++stats_.shed;
    kernel.Close(fd);
  }
  reserve_ = kernel.OpenReserve();
}

}  // namespace netpoll
