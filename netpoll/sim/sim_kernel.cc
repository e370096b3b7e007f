// SPDX-License-Identifier: Apache-2.0
#include "netpoll/sim/sim_kernel.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "netpoll/endpoint.h"
#include "sched/check.h"

namespace netpoll::sim {
namespace {

constexpr int kFirstPort = 40000;  // for sockets bound to port 0
constexpr int kOriginalDst = 80;   // SO_ORIGINAL_DST

int PortOf(const sockaddr* address) {
  return ntohs(reinterpret_cast<const sockaddr_in*>(address)->sin_port);
}

void Write(const Endpoint& name, sockaddr* address, socklen_t* size) {
  std::memcpy(address, name.data(), std::min(*size, name.size()));
  *size = name.size();
}

Endpoint LoopbackAt(int port) { return *Endpoint::Parse("127.0.0.1:" + std::to_string(port)); }

bool IsKnown(const Endpoint& name) { return name.family() != AF_UNSPEC; }

// Where the peer of an accepted connection was going; empty: here.
Endpoint OriginalOf(const TcpEnd* end) {
  return end == nullptr || end->peer() == nullptr ? Endpoint() : end->peer()->dialed;
}

}  // namespace

// --- Files.

struct SimKernel::File {
  virtual ~File() = default;
  virtual uint32_t Events() = 0;

  int fd = -1;
  std::vector<std::unique_ptr<Watch>> watches;  // by the epolls that watch it
};

struct SimKernel::Watch {
  EpollFile* epoll;
  File* file;
  uint32_t interest = 0;
  uint64_t data = 0;
  bool ready = false;                      // it is in the epoll's list
  sched::Deadline from = sched::kLongAgo;  // reported from then on
};

struct SimKernel::SocketFile final : File {
  uint32_t Events() override {
    if (listener != nullptr) return listener->queue.empty() ? 0 : uint32_t{EPOLLIN};
    return end != nullptr ? end->Events() : EPOLLOUT | EPOLLHUP;
  }

  TcpEnd* end = nullptr;
  std::unique_ptr<TcpListener> listener;
  int port = 0;
  bool shares_port = false;
  bool takes_port_late = false;  // IP_BIND_ADDRESS_NO_PORT
  uint32_t source = 0;           // the address it was bound to for a connect
  int remote_port = 0;           // to which it connected
  bool transparent = false;      // IP_TRANSPARENT
  bool linger_zero = false;
};

struct SimKernel::EventFile final : File {
  uint32_t Events() override { return (count > 0 ? uint32_t{EPOLLIN} : 0) | EPOLLOUT; }

  uint64_t count = 0;
};

// One end of a pipe. Nobody waits for one.
struct SimKernel::PipeFile final : File {
  uint32_t Events() override { return 0; }

  std::shared_ptr<std::string> held;
};

struct SimKernel::EpollFile final : File {
  uint32_t Events() override { return ready.empty() ? 0 : uint32_t{EPOLLIN}; }

  std::deque<Watch*> ready;
  std::vector<Watch*> all;
  bool has_ready = false;  // something may be reported now: what a wait sleeps on
};

SimKernel::SimKernel(Network& network, const Options& options)
    : network_(network),
      host_(network.host()),
      options_(options),
      files_(kFirstDescriptor),
      start_(host_.Now()) {}

SimKernel::~SimKernel() = default;

template <class T>
T* SimKernel::Find(int fd) {
  if (fd >= 0 && fd < static_cast<int>(files_.size())) {
    if (T* const file = dynamic_cast<T*>(files_[fd].get())) return file;
  }
  ++bad_descriptors_;
  host_.Note("bad descriptor", fd);
  return nullptr;
}

// The lowest free number, as POSIX wants it: numbers are reused at once.
int SimKernel::Install(std::unique_ptr<File> file) {
  if (open_ >= options_.descriptors) return -EMFILE;
  const sched::Duration elapsed = host_.Now() - start_;
  if (elapsed >= options_.table_full_from && elapsed < options_.table_full_until) {
    ++table_full_;
    return -ENFILE;
  }
  int fd = static_cast<int>(files_.size());
  if (free_.empty()) {
    files_.emplace_back();
  } else {
    fd = free_.top();
    free_.pop();
  }
  file->fd = fd;
  files_[fd] = std::move(file);
  ++open_;
  return fd;
}

int SimKernel::EnterBlocking() {
  host_.Pause();
  return host_.Chance(options_.interrupted_chance) ? -EINTR : 0;
}

int SimKernel::Shortage() {
  if (!host_.Chance(options_.shortage_chance)) return 0;
  constexpr int kErrors[] = {ENFILE, ENOBUFS, ENOMEM};
  return -kErrors[host_.Choose(std::size(kErrors))];
}

void SimKernel::HoldPoll() {
  if (!host_.Chance(options_.held_poll_chance)) return;
  host_.SleepUntil(host_.Now() + sched::Duration(host_.Choose(options_.held_max.count())));
}

// --- Sockets.

int SimKernel::Socket(int domain, int, int) {
  host_.Pause();
  if (domain != AF_INET) return -EAFNOSUPPORT;
  if (const int error = Shortage(); error < 0) return error;
  return Install(std::make_unique<SocketFile>());
}

int SimKernel::Bind(int fd, const sockaddr* address, socklen_t size) {
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  int port = PortOf(address);
  if (port == 0 && socket->takes_port_late) {
    const bool is_local = Endpoint::FromSockaddr(address, size).is_loopback();
    if (!is_local && !socket->transparent) return -EADDRNOTAVAIL;
    socket->source = reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr;
    return 0;
  }
  const auto taken = [&](bool also_shared) {
    return std::any_of(files_.begin(), files_.end(), [&](const auto& file) {
      auto* const other = dynamic_cast<SocketFile*>(file.get());
      return other != nullptr && other != socket && other->port == port &&
             (also_shared || !other->shares_port || !socket->shares_port);
    });
  };
  if (port == 0) {
    port = kFirstPort;
    while (taken(/*also_shared=*/true)) ++port;
  } else if (taken(/*also_shared=*/false)) {
    return -EADDRINUSE;
  }
  socket->port = port;
  return 0;
}

int SimKernel::Listen(int fd, int backlog) {
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  socket->listener = std::make_unique<TcpListener>();
  socket->listener->backlog = static_cast<size_t>(backlog);
  socket->listener->on_connection = [this, socket] { Changed(*socket, EPOLLIN); };
  network_.AddListener(socket->port, socket->listener.get());
  return 0;
}

int SimKernel::Accept4(int fd, sockaddr* address, socklen_t* size, int) {
  if (const int error = EnterBlocking(); error < 0) return error;
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (socket->listener == nullptr) return -EINVAL;
  if (socket->listener->queue.empty()) return -EAGAIN;
  if (const int error = Shortage(); error < 0) return error;
  auto accepted = std::make_unique<SocketFile>();
  SocketFile* const raw = accepted.get();
  const int number = Install(std::move(accepted));
  if (number < 0) return number;  // the connection stays in the queue
  raw->end = socket->listener->queue.front();
  raw->port = socket->port;
  raw->shares_port = true;
  raw->transparent = socket->transparent;
  socket->listener->queue.pop_front();
  raw->end->on_change = [this, raw](uint32_t events) { Changed(*raw, events); };
  host_.Note("accept", number, raw->end->number);
  if (address != nullptr) {
    const Endpoint& peer = raw->end->peer()->name;
    Write(IsKnown(peer) ? peer : LoopbackAt(raw->port), address, size);
  }
  return number;
}

bool SimKernel::HasPort(uint32_t source, int remote_port) const {
  if (options_.ports == 0) return true;
  const auto used = std::count_if(files_.begin(), files_.end(), [&](const auto& file) {
    const auto* const socket = dynamic_cast<const SocketFile*>(file.get());
    return socket != nullptr && socket->source == source && socket->remote_port == remote_port;
  });
  return used < options_.ports;
}

int SimKernel::Connect(int fd, const sockaddr* address, socklen_t size) {
  host_.Pause();
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (socket->end != nullptr) return -EALREADY;
  if (options_.connect_error != 0) return -options_.connect_error;
  if (!HasPort(socket->source, PortOf(address))) return -EADDRNOTAVAIL;
  socket->remote_port = PortOf(address);
  socket->end =
      network_.Connect(options_.led_back_to != 0 ? options_.led_back_to : socket->remote_port);
  socket->end->dialed = Endpoint::FromSockaddr(address, size);
  socket->end->name = LoopbackAt(1 + socket->end->number % 65535);
  socket->end->on_change = [this, socket](uint32_t events) { Changed(*socket, events); };
  return -EINPROGRESS;
}

ssize_t SimKernel::Recv(int fd, void* buffer, size_t size, int flags) {
  host_.Stall();
  if (const int error = EnterBlocking(); error < 0) return error;
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (socket->end == nullptr) return -ENOTCONN;
  const ssize_t got = socket->end->Receive(buffer, size, (flags & MSG_PEEK) != 0);
  host_.Note("recv", socket->end->number, static_cast<int64_t>(size), got);
  return got;
}

ssize_t SimKernel::Send(int fd, const void* data, size_t size, int flags) {
  if (const int error = EnterBlocking(); error < 0) return error;
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (socket->end == nullptr) return -EPIPE;
  if ((flags & MSG_OOB) != 0) {
    PARKWAY_CHECK(size == 1, size);
    socket->end->SendUrgent(*static_cast<const char*>(data));
    return 1;
  }
  if (host_.Chance(options_.failed_send_chance)) return -ENOBUFS;
  const ssize_t sent = socket->end->Send(data, size);
  host_.Note("send", socket->end->number, static_cast<int64_t>(size), sent);
  return sent;
}

ssize_t SimKernel::Readv(int fd, const iovec* buffers, int count) {
  ssize_t total = 0;
  for (int i = 0; i < count; ++i) {
    const ssize_t got = Recv(fd, buffers[i].iov_base, buffers[i].iov_len, 0);
    if (got <= 0) return total > 0 ? total : got;
    total += got;
    if (static_cast<size_t>(got) < buffers[i].iov_len) break;
  }
  return total;
}

ssize_t SimKernel::Sendmsg(int fd, const msghdr* message, int flags) {
  ssize_t total = 0;
  for (size_t i = 0; i < message->msg_iovlen; ++i) {
    const iovec& piece = message->msg_iov[i];
    const ssize_t sent = Send(fd, piece.iov_base, piece.iov_len, flags);
    if (sent < 0) return total > 0 ? total : sent;
    total += sent;
    if (static_cast<size_t>(sent) < piece.iov_len) break;
  }
  return total;
}

// --- Pipes.

int SimKernel::Pipe2(int* fds, int) {
  host_.Pause();
  if (const int error = Shortage(); error < 0) return error;
  const auto held = std::make_shared<std::string>();
  for (int i = 0; i < 2; ++i) {
    auto end = std::make_unique<PipeFile>();
    end->held = held;
    fds[i] = Install(std::move(end));
    if (fds[i] >= 0) continue;
    if (i == 1) Close(fds[0]);
    return fds[i];
  }
  return 0;
}

int SimKernel::SetPipeSize(int fd, int bytes) {
  if (Find<PipeFile>(fd) == nullptr) return -EBADF;
  return Shortage() < 0 ? -EPERM : bytes;
}

ssize_t SimKernel::Splice(int from, int to, size_t size, unsigned int) {
  if (const int error = EnterBlocking(); error < 0) return error;
  const bool fills = from >= 0 && from < static_cast<int>(files_.size()) &&
                     dynamic_cast<SocketFile*>(files_[from].get()) != nullptr;
  SocketFile* const socket = Find<SocketFile>(fills ? from : to);
  PipeFile* const pipe = Find<PipeFile>(fills ? to : from);
  if (socket == nullptr || pipe == nullptr) return -EBADF;
  if (socket->end == nullptr) return fills ? -ENOTCONN : -EPIPE;
  const ssize_t moved = fills ? FillPipe(*socket->end, *pipe->held, size)
                              : DrainPipe(*pipe->held, *socket->end, size);
  host_.Note(fills ? "splice in" : "splice out", socket->end->number, static_cast<int64_t>(size),
             moved);
  return moved;
}

// A pipe may be full with little in it, since every piece takes a slot.
ssize_t SimKernel::FillPipe(TcpEnd& from, std::string& held, size_t size) {
  PARKWAY_CHECK(held.size() <= options_.pipe_bytes, held.size());
  const size_t room = std::min(size, options_.pipe_bytes - held.size());
  if (room == 0) return -EAGAIN;
  std::string bytes(1 + host_.Choose(room), '\0');
  const ssize_t got = from.Splice(bytes.data(), bytes.size());
  if (got > 0) held.append(bytes, 0, static_cast<size_t>(got));
  return got;
}

ssize_t SimKernel::DrainPipe(std::string& held, TcpEnd& to, size_t size) {
  PARKWAY_CHECK(!held.empty(), size);  // it would block
  const ssize_t sent = to.Send(held.data(), std::min(size, held.size()));
  if (sent > 0) held.erase(0, static_cast<size_t>(sent));
  return sent;
}

int SimKernel::Shutdown(int fd, int how) {
  host_.Pause();
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  PARKWAY_CHECK(how == SHUT_WR, how);  // the only one simulated
  if (socket->end == nullptr) return -ENOTCONN;
  host_.Note("shutdown", socket->end->number);
  return socket->end->ShutdownWrite();
}

// As Linux does, it frees the descriptor also when it says that it was interrupted.
int SimKernel::Close(int fd) {
  host_.Pause();
  File* const file = Find<File>(fd);
  if (file == nullptr) return -EBADF;
  const std::unique_ptr<File> closed = std::move(files_[fd]);
  free_.push(fd);
  --open_;
  for (const auto& watch : file->watches) {
    std::erase(watch->epoll->ready, watch.get());
    std::erase(watch->epoll->all, watch.get());
  }
  if (auto* const epoll = dynamic_cast<EpollFile*>(file)) {
    for (Watch* const watch : epoll->all) {
      std::erase_if(watch->file->watches, [&](const auto& w) { return w.get() == watch; });
    }
  }
  if (auto* const socket = dynamic_cast<SocketFile*>(file)) {
    if (socket->listener != nullptr) {
      network_.RemoveListener(socket->port, socket->listener.get());
    }
    if (socket->end != nullptr) {
      host_.Note("close", fd, socket->end->number);
      socket->end->Close(socket->linger_zero);
    }
  }
  return host_.Chance(options_.interrupted_chance) ? -EINTR : 0;
}

int SimKernel::GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) {
  host_.Pause();
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (level == IPPROTO_IP && name == kOriginalDst) {
    const Endpoint original = OriginalOf(socket->end);
    if (!IsKnown(original)) return -ENOENT;
    Write(original, static_cast<sockaddr*>(value), size);
    return 0;
  }
  PARKWAY_CHECK(level == SOL_SOCKET && name == SO_ERROR, name);  // no others are simulated
  const int error = socket->end != nullptr ? socket->end->TakeError() : 0;
  std::memcpy(value, &error, sizeof error);
  *size = sizeof error;
  return 0;
}

int SimKernel::SetSockOpt(int fd, int level, int name, const void* value, socklen_t) {
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (level == SOL_SOCKET && name == SO_REUSEPORT) socket->shares_port = true;
  if (level == IPPROTO_IP && name == IP_BIND_ADDRESS_NO_PORT) socket->takes_port_late = true;
  if (level == IPPROTO_IP && name == IP_TRANSPARENT) socket->transparent = true;
  if (level == SOL_SOCKET && name == SO_LINGER) {
    const auto* const how = static_cast<const linger*>(value);
    socket->linger_zero = how->l_onoff != 0 && how->l_linger == 0;
  }
  return 0;
}

int SimKernel::GetSockName(int fd, sockaddr* address, socklen_t* size) {
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  const Endpoint original = OriginalOf(socket->end);
  const bool came_directly = original.is_loopback() && original.port() == socket->port;
  if (came_directly || (socket->transparent && IsKnown(original))) {
    Write(original, address, size);
  } else if (socket->end != nullptr && IsKnown(socket->end->name)) {
    Write(socket->end->name, address, size);
  } else {
    Write(LoopbackAt(socket->port), address, size);
  }
  return 0;
}

int SimKernel::GetPeerName(int fd, sockaddr* address, socklen_t* size) {
  host_.Pause();
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  const int error = socket->end != nullptr ? socket->end->PeerNameError() : ENOTCONN;
  if (error != 0) return -error;
  Write(LoopbackAt(socket->port), address, size);
  return 0;
}

int SimKernel::Ioctl(int fd, unsigned long request, int* value) {
  SocketFile* const socket = Find<SocketFile>(fd);
  if (socket == nullptr) return -EBADF;
  if (socket->end == nullptr) return -EINVAL;
  *value = static_cast<int>(request == SIOCOUTQ ? socket->end->unsent() : socket->end->unread());
  return 0;
}

// --- epoll and eventfd.

// A file's state changed in what `events` names, 0 for anything: an edge for whoever watches it.
void SimKernel::Changed(File& file, uint32_t events) {
  for (const auto& watch : file.watches) {
    if (events == 0 || (watch->interest & events) != 0) MakeReady(*watch);
  }
}

void SimKernel::MakeReady(Watch& watch) {
  if (watch.ready) return;
  watch.ready = true;
  watch.epoll->ready.push_back(&watch);
  if (host_.Chance(options_.late_event_chance)) {
    watch.from = host_.Now() + sched::Duration(host_.Choose(options_.late_max.count() + 1));
    network_.At(watch.from, [this, fd = watch.epoll->fd] {
      auto* const epoll = dynamic_cast<EpollFile*>(files_[fd].get());
      if (epoll != nullptr) epoll->has_ready = true;  // a wait looks
    });
  } else {
    watch.from = sched::kLongAgo;
    watch.epoll->has_ready = true;
  }
}

int SimKernel::EpollCreate(int) {
  if (const int error = Shortage(); error < 0) return error;
  return Install(std::make_unique<EpollFile>());
}

int SimKernel::EpollCtl(int epfd, int operation, int fd, epoll_event* event) {
  host_.Pause();
  EpollFile* const epoll = Find<EpollFile>(epfd);
  File* const file = Find<File>(fd);
  if (epoll == nullptr || file == nullptr) return -EBADF;
  const bool adds = operation == EPOLL_CTL_ADD;
  auto watch = std::find_if(file->watches.begin(), file->watches.end(),
                            [&](const auto& it) { return it->epoll == epoll; });
  if (adds == (watch != file->watches.end())) return adds ? -EEXIST : -ENOENT;
  if (operation == EPOLL_CTL_DEL) {
    std::erase(epoll->ready, watch->get());
    std::erase(epoll->all, watch->get());
    file->watches.erase(watch);
    return 0;
  }
  if (adds) {
    if (const int error = Shortage(); error < 0) return error == -ENOMEM ? -ENOMEM : -ENOSPC;
    watch = file->watches.insert(watch, std::make_unique<Watch>(Watch{epoll, file}));
    epoll->all.push_back(watch->get());
  }
  (*watch)->interest = event->events | EPOLLERR | EPOLLHUP;
  (*watch)->data = event->data.u64;
  if ((file->Events() & (*watch)->interest) != 0) MakeReady(**watch);
  return 0;
}

int SimKernel::EpollWait(int epfd, epoll_event* events, int count, const timespec* timeout) {
  if (const int error = EnterBlocking(); error < 0) return error;
  EpollFile* const epoll = Find<EpollFile>(epfd);
  if (epoll == nullptr) return -EBADF;
  AddSpurious(*epoll);
  sched::Deadline until = sched::kNever;
  if (timeout != nullptr) {
    until = host_.Now() + std::chrono::seconds(timeout->tv_sec) +
            std::chrono::nanoseconds(timeout->tv_nsec);
  }
  const bool polls = timeout != nullptr && timeout->tv_sec == 0 && timeout->tv_nsec == 0;
  if (polls) HoldPoll();
  for (;;) {
    const int found = Collect(*epoll, events, count);
    if (found > 0 || polls) {
      // A poll takes time, so that who polls until an instant gets there.
      if (polls) host_.Spend(std::chrono::microseconds(1));
      host_.Pause();  // what was found may be stale by the time it is looked at
      if (polls && found > 0) HoldPoll();
      return found;
    }
    if (!host_.Await(until, &epoll->has_ready)) return 0;
  }
}

// Each edge tells all that holds when it is collected, and is forgotten; a level is told again.
int SimKernel::Collect(EpollFile& epoll, epoll_event* events, int count) {
  int found = 0;
  std::deque<Watch*> again;
  while (!epoll.ready.empty() && found < count) {
    Watch* const watch = epoll.ready.front();
    epoll.ready.pop_front();
    if (watch->from > host_.Now()) {
      again.push_back(watch);
      continue;
    }
    watch->ready = false;
    const uint32_t holds = watch->file->Events() & watch->interest;
    if (holds == 0) continue;
    events[found].events = holds;
    events[found].data.u64 = watch->data;
    ++found;
    host_.Note("event", watch->file->fd, holds);
    if ((watch->interest & EPOLLET) == 0) {
      watch->ready = true;
      again.push_back(watch);
    }
  }
  epoll.ready.insert(epoll.ready.end(), again.begin(), again.end());
  epoll.has_ready = std::any_of(epoll.ready.begin(), epoll.ready.end(),
                                [&](const Watch* w) { return w->from <= host_.Now(); });
  return found;
}

void SimKernel::AddSpurious(EpollFile& epoll) {
  if (epoll.all.empty() || !host_.Chance(options_.spurious_event_chance)) return;
  MakeReady(*epoll.all[host_.Choose(epoll.all.size())]);
}

int SimKernel::EventFd(unsigned int initial, int) {
  if (const int error = Shortage(); error < 0) return error;
  auto file = std::make_unique<EventFile>();
  file->count = initial;
  return Install(std::move(file));
}

ssize_t SimKernel::ReadEvent(int fd, uint64_t* value) {
  if (const int error = EnterBlocking(); error < 0) return error;
  EventFile* const file = Find<EventFile>(fd);
  if (file == nullptr) return -EBADF;
  if (file->count == 0) return -EAGAIN;
  *value = std::exchange(file->count, 0);
  return sizeof *value;
}

ssize_t SimKernel::WriteEvent(int fd, uint64_t value) {
  if (const int error = EnterBlocking(); error < 0) return error;
  EventFile* const file = Find<EventFile>(fd);
  if (file == nullptr) return -EBADF;
  file->count += value;
  host_.Note("interrupt", fd);
  Changed(*file, EPOLLIN);
  return sizeof value;
}

int SimKernel::OpenReserve() { return Install(std::make_unique<EventFile>()); }

int SimKernel::Lstat(const char*, struct stat*) { return -ENOENT; }

int SimKernel::Unlink(const char*) { return -ENOENT; }

}  // namespace netpoll::sim
