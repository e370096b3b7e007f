// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/request_load.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <vector>

#include "bench/loadgen/socket.h"

namespace loadgen {
namespace {

// Requests of an open loop that a connection holds at most; further ones are missed.
constexpr size_t kQueueMax = 1024;

std::span<std::byte> Scratch() {
  static std::vector<std::byte> scratch(size_t{256} << 10);
  return scratch;
}

}  // namespace

class RequestLoad::Connection final : public Handler {
 public:
  Connection(RequestLoad& load, size_t number)
      : load_(load),
        pattern_(number),
        answers_(load.options_.answer > 0 ? 0 : number),
        due_(load.IsOpenLoop() ? kQueueMax : static_cast<size_t>(load.options_.depth)) {}

  void Open();
  // One more request, due at that instant.
  void Ask(int64_t due);
  void Send();
  void FailIfLate(int64_t now, int64_t timeout);
  void OnReady(uint32_t events) override;

 private:
  bool AsksByItself() const { return !load_.IsOpenLoop(); }
  bool HasRequests() const { return AsksByItself() || asked_ > answered_; }
  // How many requests this connection may carry at most.
  uint64_t Reuse() const;
  uint64_t BytesDue() const;
  void Connected();
  void Receive();
  void Received(std::span<const std::byte> bytes);
  void Answered(int64_t now);
  void Fail(int64_t* kind);

  RequestLoad& load_;
  const Pattern pattern_;
  const Pattern answers_;
  int fd_ = -1;
  bool connecting_ = false;
  int64_t opened_ = 0;
  // Counts of requests, over all connections; first_ is the first of this one. due_ holds when
  // those asked and not answered were due, request i at i modulo its size.
  uint64_t asked_ = 0;
  uint64_t answered_ = 0;
  uint64_t first_ = 0;
  std::vector<int64_t> due_;
  // Bytes of this connection.
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
};

void RequestLoad::Connection::Open() {
  first_ = answered_;
  sent_ = received_ = 0;
  opened_ = Now();
  connecting_ = true;
  fd_ = StartConnect(load_.options_.address);
  if (fd_ < 0) {
    ++load_.result_.errors.connect;
    return;  // FailIfLate tries again
  }
  load_.loop_.Watch(fd_, this);
}

void RequestLoad::Connection::OnReady(uint32_t events) {
  if (fd_ < 0) return;
  if (connecting_) {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    if (ConnectError(fd_) != 0) return Fail(&load_.result_.errors.connect);
    Connected();
  }
  Receive();
  if (fd_ >= 0 && !connecting_) Send();
}

void RequestLoad::Connection::Connected() {
  connecting_ = false;
  ++load_.result_.connections;
  if (!AsksByItself()) return;
  const int64_t due = load_.options_.reuse > 0 ? opened_ : Now();
  for (int i = 0; i < load_.options_.depth && asked_ - first_ < Reuse(); ++i) Ask(due);
}

void RequestLoad::Connection::Ask(int64_t due) {
  if (asked_ - answered_ == due_.size()) {
    ++load_.result_.missed;
    return;
  }
  due_[asked_++ % due_.size()] = due;
  if (fd_ < 0) Open();
}

uint64_t RequestLoad::Connection::Reuse() const {
  return load_.options_.reuse > 0 ? load_.options_.reuse : UINT64_MAX;
}

void RequestLoad::Connection::Send() {
  if (connecting_ || fd_ < 0) return;
  const uint64_t until = std::min(asked_ - first_, Reuse()) * load_.options_.size;
  while (sent_ < until) {
    const auto piece = pattern_.At(sent_, until - sent_);
    const ssize_t sent = send(fd_, piece.data(), piece.size(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN) return;
      return Fail(&load_.result_.errors.reset);
    }
    sent_ += static_cast<uint64_t>(sent);
    load_.result_.sent += sent;
  }
}

void RequestLoad::Connection::Receive() {
  const std::span<std::byte> scratch = Scratch();
  while (fd_ >= 0 && !connecting_) {
    const ssize_t got = recv(fd_, scratch.data(), scratch.size(), 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got < 0) return Fail(&load_.result_.errors.reset);
    if (got == 0) return Fail(&load_.result_.errors.early_end);
    Received(scratch.first(static_cast<size_t>(got)));
    if (static_cast<size_t>(got) < scratch.size()) return;  // an edge tells of more
  }
}

// What the server may have sent by now.
uint64_t RequestLoad::Connection::BytesDue() const {
  const Options& options = load_.options_;
  return options.answer > 0 ? sent_ / options.size * options.answer : sent_;
}

void RequestLoad::Connection::Received(std::span<const std::byte> bytes) {
  const Options& options = load_.options_;
  load_.result_.received += static_cast<int64_t>(bytes.size());
  if (received_ + bytes.size() > BytesDue() ||
      (options.verify && !answers_.Matches(received_, bytes))) {
    return Fail(&load_.result_.errors.wrong);
  }
  received_ += bytes.size();
  const uint64_t whole = received_ / (options.answer > 0 ? options.answer : options.size);
  if (first_ + whole == answered_) return;
  const int64_t now = Now();
  while (answered_ < first_ + whole) Answered(now);
  if (whole < Reuse()) return;
  CloseWithReset(fd_);
  fd_ = -1;
  if (HasRequests()) Open();
}

void RequestLoad::Connection::Answered(int64_t now) {
  load_.result_.latency.Add(now - due_[answered_++ % due_.size()]);
  ++load_.result_.requests;
  if (AsksByItself() && asked_ - first_ < Reuse()) Ask(now);
}

void RequestLoad::Connection::FailIfLate(int64_t now, int64_t timeout) {
  if (fd_ < 0) {
    if (HasRequests()) Open();
    return;
  }
  const bool waits = connecting_ || answered_ < asked_;
  const int64_t since = connecting_ ? opened_ : due_[answered_ % due_.size()];
  if (waits && now - since > timeout) {
    Fail(connecting_ ? &load_.result_.errors.connect : &load_.result_.errors.timeout);
  }
}

// Counts, and begins anew.
void RequestLoad::Connection::Fail(int64_t* kind) {
  ++*kind;
  CloseWithReset(fd_);
  fd_ = -1;
  asked_ = answered_;
  if (load_.result_.errors.sum() < kErrorsMax) Open();
}

// --- All of them.

RequestLoad::RequestLoad(const Options& options, Loop& loop, Result& result)
    : options_(options), loop_(loop), result_(result), random_(1) {
  for (int i = 0; i < options_.connections; ++i) {
    connections_.push_back(std::make_unique<Connection>(*this, static_cast<size_t>(i)));
  }
}

RequestLoad::~RequestLoad() = default;

void RequestLoad::Start() {
  for (const auto& connection : connections_) connection->Open();
  due_ = next_look_ = Now();
}

int64_t RequestLoad::Tick(int64_t now) {
  if (now >= next_look_) LookForTimeouts(now);
  if (!IsOpenLoop()) return next_look_;
  while (due_ <= now) {
    Connection& connection = *connections_[turn_];
    turn_ = (turn_ + 1) % connections_.size();
    connection.Ask(due_);
    connection.Send();
    due_ += Gap();
  }
  return std::min(due_, next_look_);
}

int64_t RequestLoad::Gap() {
  double gap = 1e9 / options_.rate;
  if (options_.poisson) gap *= std::exponential_distribution<double>()(random_);
  return std::max<int64_t>(std::llround(gap), 1);
}

void RequestLoad::LookForTimeouts(int64_t now) {
  next_look_ = now + kLookEveryNs;
  const auto timeout = static_cast<int64_t>(options_.timeout * 1e9);
  for (const auto& connection : connections_) connection->FailIfLate(now, timeout);
}

}  // namespace loadgen
