// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/bulk_load.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bench/loadgen/pattern.h"
#include "bench/loadgen/socket.h"

namespace loadgen {
namespace {

constexpr int kMovesPerTurn = 16;  // then others have theirs

bool Sends(Mode mode) { return mode != Mode::kDown && mode != Mode::kSink; }
bool Receives(Mode mode) { return mode != Mode::kUp && mode != Mode::kSource; }

}  // namespace

class Stream final : public Handler {
 public:
  Stream(const Options& options, int fd, Result& result)
      : options_(options), fd_(fd), result_(result), pattern_(0) {}
  ~Stream() { End(); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool ended() const { return fd_ < 0; }
  void OnReady(uint32_t events) override;
  // What the last turn left; an edge tells only of what is new.
  void GoOn();
  void FailIfStill(int64_t now, int64_t timeout);
  bool has_more() const { return has_more_; }

 private:
  bool SendOnce();
  bool ReceiveOnce();
  bool Verifies() const;
  bool Fail(int64_t* kind);
  void End();

  const Options& options_;
  int fd_;
  Result& result_;
  const Pattern pattern_;
  bool connected_ = false;
  bool has_more_ = false;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  uint64_t moved_before_ = 0;  // when FailIfStill last looked
  int64_t moved_at_ = Now();
};

void Stream::OnReady(uint32_t events) {
  if (ended()) return;
  if (!connected_) {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    if (ConnectError(fd_) != 0) {
      (void)Fail(&result_.errors.connect);
      return;
    }
    connected_ = true;
    ++result_.connections;
  }
  GoOn();
}

void Stream::GoOn() {
  has_more_ = false;
  for (int i = 0; i < kMovesPerTurn && !ended(); ++i) {
    const bool sent = Sends(options_.mode) && SendOnce();
    const bool received = !ended() && Receives(options_.mode) && ReceiveOnce();
    if (!sent && !received) return;
  }
  has_more_ = !ended();
}

// False when nothing moved.
bool Stream::SendOnce() {
  size_t size = options_.size;
  if (options_.mode == Mode::kAnswers) {
    size = received_ / options_.size * options_.answer - sent_;
    if (size == 0) return false;
  }
  const auto piece = pattern_.At(sent_, size);
  const ssize_t sent = send(fd_, piece.data(), piece.size(), MSG_NOSIGNAL);
  if (sent < 0) return errno != EAGAIN && Fail(&result_.errors.reset);
  sent_ += static_cast<uint64_t>(sent);
  result_.sent += sent;
  return true;
}

// Of requests it does not know whose they are.
bool Stream::Verifies() const { return options_.verify && options_.mode != Mode::kAnswers; }

bool Stream::ReceiveOnce() {
  static std::vector<std::byte> scratch(size_t{256} << 10);
  const int flags = Verifies() ? 0 : MSG_TRUNC;  // TRUNC: dropped, not copied
  const ssize_t got = recv(fd_, scratch.data(), scratch.size(), flags);
  if (got < 0) return errno != EAGAIN && Fail(&result_.errors.reset);
  if (got == 0) return Fail(&result_.errors.early_end);
  const std::span bytes = std::span(scratch).first(static_cast<size_t>(got));
  if (Verifies() && !pattern_.Matches(received_, bytes)) return Fail(&result_.errors.wrong);
  received_ += bytes.size();
  result_.received += got;
  return true;
}

bool Stream::Fail(int64_t* kind) {
  ++*kind;
  End();
  return false;
}

void Stream::End() {
  if (fd_ >= 0) CloseWithReset(fd_);
  fd_ = -1;
}

void Stream::FailIfStill(int64_t now, int64_t timeout) {
  if (sent_ + received_ != moved_before_) {
    moved_before_ = sent_ + received_;
    moved_at_ = now;
  } else if (!ended() && now - moved_at_ > timeout) {
    (void)Fail(&result_.errors.timeout);
  }
}

// --- Clients.

BulkLoad::BulkLoad(const Options& options, Loop& loop, Result& result)
    : options_(options), loop_(loop), result_(result) {}

BulkLoad::~BulkLoad() = default;

void BulkLoad::Start() {
  for (int i = 0; i < options_.connections; ++i) {
    const int fd = StartConnect(options_.address);
    if (fd < 0) {
      ++result_.errors.connect;
      continue;
    }
    loop_.Watch(fd, &streams_.emplace_back(options_, fd, result_));
  }
}

int64_t BulkLoad::Tick(int64_t now) {
  bool more = false;
  for (Stream& stream : streams_) {
    if (stream.has_more()) stream.GoOn();
    more = more || stream.has_more();
  }
  if (now >= next_look_) {
    next_look_ = now + kLookEveryNs;
    for (Stream& stream : streams_) {
      stream.FailIfStill(now, static_cast<int64_t>(options_.timeout * 1e9));
    }
  }
  return more ? now : next_look_;
}

// --- Servers.

namespace {

class Door final : public Handler {
 public:
  Door(const Options& options, Loop& loop, int listener)
      : options_(options), loop_(loop), listener_(listener) {
    loop_.Watch(listener, this);
  }

  void OnReady(uint32_t) override {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      loop_.Watch(fd, &streams_.emplace_back(options_, fd, result_));
    }
  }

  // True when some stream has more to do at once.
  bool GoOn() {
    bool more = false;
    for (Stream& stream : streams_) {
      if (stream.has_more()) stream.GoOn();
      more = more || stream.has_more();
    }
    streams_.remove_if([](const Stream& stream) { return stream.ended(); });
    if (result_.errors.wrong == 1) (void)fprintf(stderr, "loadgen: wrong bytes came\n");
    return more;
  }

 private:
  const Options& options_;
  Loop& loop_;
  const int listener_;
  Result result_;
  std::list<Stream> streams_;
};

}  // namespace

void Serve(const Options& options) {
  sockaddr_in at = options.address;
  const int listener = Listen(&at);
  if (listener < 0) {
    perror("loadgen: listen");
    exit(1);
  }
  char host[INET_ADDRSTRLEN];
  (void)inet_ntop(AF_INET, &at.sin_addr, host, sizeof host);
  (void)printf("%s:%d\n", host, ntohs(at.sin_port));
  (void)fflush(stdout);
  Loop loop(options.spin);
  Door door(options, loop, listener);
  for (bool more = false;;) {
    loop.Turn(more ? 0 : Now() + kLookEveryNs);
    more = door.GoOn();
  }
}

}  // namespace loadgen
