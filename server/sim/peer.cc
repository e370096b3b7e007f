// SPDX-License-Identifier: Apache-2.0
#include "server/sim/peer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace parkway::sim {
namespace {

using netpoll::sim::Network;
using netpoll::sim::TcpEnd;

constexpr int64_t kHeader = 8;

// Byte `at` of stream `id`; splitmix64 (Steele, Lea, Flood) of its place.
char ByteOf(uint64_t id, int64_t at) {
  if (at < kHeader) return static_cast<char>(id >> (8 * at));
  uint64_t x = (id << 40) + static_cast<uint64_t>(at >> 3) + 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return static_cast<char>((x ^ (x >> 31)) >> (8 * (at & 7)));
}

}  // namespace

Peer::Peer(Network& network, TcpEnd& end, const Script& script, uint32_t id)
    : network_(network), end_(end), script_(script), id_(id), started_at_(network.host().Now()) {
  end_.on_change = [this](uint32_t) { Schedule(sched::Duration(0)); };
  Schedule(sched::Duration(0));
  if (script.reads_from > sched::Duration(0)) Schedule(script.reads_from);
  finale_to_come_ = script.finale.has_value();
  if (finale_to_come_) network.After(script.finale_at, [this] { PlayFinale(); });
}

void Peer::Schedule(sched::Duration span) {
  if (span > sched::Duration(0)) {
    network_.After(span, [this] { Act(); });
    return;
  }
  if (scheduled_) return;
  scheduled_ = true;
  network_.After(span, [this] {
    scheduled_ = false;
    Act();
  });
}

void Peer::Act() {
  if (done_) return;
  Read();
  Write();
  const bool played = next_op_ == script_.ops.size() && !script_.echoes && !finale_to_come_;
  const bool over = saw_fin_ || saw_reset_;
  if (over && (played || saw_reset_ || script_.echoes) && echo_.empty()) Leave(/*reset=*/false);
}

// --- Reading.

void Peer::Read() {
  if (script_.never_reads) {
    if (end_.fin_received() || end_.is_closed_state()) SeeEnd();
    return;
  }
  if (network_.host().Now() < started_at_ + script_.reads_from) return;
  constexpr size_t kEchoMax = 8192;  // it reads no further ahead of what it can send back
  char buffer[16384];
  while (!saw_fin_ && !saw_reset_ && echo_.size() < kEchoMax) {
    size_t size = sizeof buffer;
    if (script_.read_every > sched::Duration(0)) {
      const sched::Deadline now = network_.host().Now();
      if (now < next_read_) return;
      size = std::min(size, script_.read_size);
    }
    const ssize_t got = end_.Receive(buffer, size, /*peek=*/false);
    if (got == -EAGAIN) return;
    if (got <= 0) return SeeEnd();
    Take(buffer, static_cast<size_t>(got));
    if (script_.read_every > sched::Duration(0)) {
      next_read_ = network_.host().Now() + script_.read_every;
      Schedule(script_.read_every);
    }
  }
}

// The daemon's reader of headers would hide its own mistakes here.
bool Peer::HeaderIsComplete() const {
  if (told_.starts_with('P')) return told_.ends_with("\r\n");
  if (told_.starts_with('\x16')) {  // a TLS record
    constexpr size_t kRecordHeader = 5;
    if (told_.size() < kRecordHeader) return false;
    return told_.size() == kRecordHeader + ByteOfTold(3) * 256 + ByteOfTold(4);
  }
  constexpr size_t kFixed = 16;
  if (told_.size() < kFixed) return false;
  return told_.size() == kFixed + ByteOfTold(14) * 256 + ByteOfTold(15);
}

size_t Peer::TakeHeader(const char* bytes, size_t size) {
  size_t taken = 0;
  while (taken < size && !HeaderIsComplete()) told_ += bytes[taken++];
  return taken;
}

void Peer::Take(const char* bytes, size_t size) {
  last_act_ = network_.host().Now();
  if (script_.is_told) {
    const size_t taken = TakeHeader(bytes, size);
    bytes += taken;
    size -= taken;
  }
  for (size_t i = 0; i < size; ++i, ++received_) {
    if (received_ < kHeader) {
      header_ |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * received_);
      if (received_ == kHeader - 1) partner_ = static_cast<int64_t>(header_);
      continue;
    }
    if (wrong_.empty() && bytes[i] != ByteOf(header_, received_)) {
      wrong_ = "peer " + std::to_string(id_) + ": byte " + std::to_string(received_) +
               " is not that of stream " + std::to_string(header_);
    }
  }
  if (script_.echoes) echo_.append(bytes, size);
}

// An end, by what the connection knows: an operation may have been told of the reset before.
void Peer::SeeEnd() {
  if (saw_fin_ || saw_reset_) return;
  (end_.fin_received() ? saw_fin_ : saw_reset_) = true;
  ended_at_ = network_.host().Now();
  network_.host().Note(saw_fin_ ? "peer saw FIN" : "peer saw reset", id_, received_);
}

// --- Writing.

void Peer::Write() {
  if (script_.echoes && !SendBack()) return;
  while (!done_ && !pausing_ && next_op_ < script_.ops.size()) {
    if (!Play(script_.ops[next_op_])) return;
    ++next_op_;
  }
}

// False: not over yet.
bool Peer::SendBack() {
  while (!echo_.empty()) {
    const ssize_t sent = end_.Send(echo_.data(), echo_.size());
    if (sent == -EAGAIN) return false;
    if (sent < 0) {
      GiveUpWriting();
      return false;
    }
    last_act_ = network_.host().Now();
    sent_ += sent;
    echo_.erase(0, static_cast<size_t>(sent));
    Schedule(sched::Duration(0));  // it may read on
  }
  if (saw_fin_ && !finished_) {
    finished_ = true;
    (void)end_.ShutdownWrite();
  }
  return true;
}

bool Peer::SendSome(int64_t* left) {
  char buffer[8192];
  while (*left > 0) {
    const auto size = static_cast<size_t>(std::min<int64_t>(*left, sizeof buffer));
    for (size_t i = 0; i < size; ++i) buffer[i] = ByteOf(id_, sent_ + static_cast<int64_t>(i));
    const ssize_t sent = end_.Send(buffer, size);
    if (sent == -EAGAIN) return false;
    if (sent < 0) {
      GiveUpWriting();
      return false;
    }
    last_act_ = network_.host().Now();
    sent_ += sent;
    *left -= sent;
  }
  return true;
}

bool Peer::Say(int64_t* left) {
  while (*left > 0) {
    const ssize_t sent = end_.Send(script_.preamble.data() + said_, static_cast<size_t>(*left));
    if (sent == -EAGAIN) return false;
    if (sent < 0) {
      GiveUpWriting();
      return false;
    }
    said_ += static_cast<size_t>(sent);
    *left -= sent;
  }
  return true;
}

// The connection broke; what came before that can still be read.
void Peer::GiveUpWriting() {
  next_op_ = script_.ops.size();
  echo_.clear();
  Schedule(sched::Duration(0));
}

// True when the step is over.
bool Peer::Play(Op& op) {
  switch (op.kind) {
    case Op::Kind::kSend:
      return SendSome(&op.amount);
    case Op::Kind::kSay:
      return Say(&op.amount);
    case Op::Kind::kPause:
      pausing_ = true;
      network_.After(sched::Duration(op.amount), [this] {
        pausing_ = false;
        Act();
      });
      return true;
    case Op::Kind::kAwait:
      return received_ >= op.amount || saw_fin_ || saw_reset_;
    case Op::Kind::kUrgent:
      end_.SendUrgent('!');
      return true;
    case Op::Kind::kFinish:
      if (end_.ShutdownWrite() == 0) finished_ = true;
      return true;
    case Op::Kind::kReset:
      left_ = true;
      Leave(/*reset=*/true);
      return true;
    case Op::Kind::kLeave:
      left_ = true;
      Leave(/*reset=*/false);
      return true;
    case Op::Kind::kBreak:
      left_ = true;
      if (end_.peer() != nullptr) end_.peer()->Break(static_cast<int>(op.amount));
      return true;
    case Op::Kind::kCutOff:
      end_.CutOff();
      Leave(/*reset=*/false);
      return true;
  }
  return true;
}

void Peer::PlayFinale() {
  finale_to_come_ = false;
  if (done_) return;
  next_op_ = script_.ops.size();
  (void)Play(*script_.finale);
  Act();
}

void Peer::Leave(bool reset) {
  if (done_) return;
  done_ = true;
  ended_at_ = std::min(ended_at_, network_.host().Now());
  network_.host().Note(reset ? "peer resets" : "peer closes", id_);
  end_.Close(reset);
}

}  // namespace parkway::sim
