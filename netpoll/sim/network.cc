// SPDX-License-Identifier: Apache-2.0
#include "netpoll/sim/network.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace netpoll::sim {

using sched::testing::OneThreadHost;

// --- An end.

TcpEnd::TcpEnd(Network& network, int number_in, size_t send_buffer, size_t receive_buffer)
    : number(number_in),
      network_(network),
      send_buffer_(send_buffer),
      receive_buffer_(receive_buffer) {}

void TcpEnd::Change(uint32_t events) {
  if (on_change) on_change(events);
}

// Packets of one direction keep their order.
void TcpEnd::ToPeer(std::function<void(TcpEnd&)> packet) {
  if (cut_off_ || peer_ == nullptr) return;
  last_arrival_ = std::max(last_arrival_, network_.host().Now() + network_.Latency());
  network_.At(last_arrival_, [peer = peer_, packet = std::move(packet)] {
    if (!peer->cut_off_) packet(*peer);
  });
}

ssize_t TcpEnd::Receive(void* buffer, size_t size, bool peek) {
  const size_t passed_over = urgent_at_ == 0 ? 1 : 0;  // at the mark: the byte itself is not data
  size_t got = std::min(size, in_.size() - passed_over);
  if (urgent_at_ > 0) got = std::min(got, static_cast<size_t>(urgent_at_));
  if (got > 0) std::memcpy(buffer, in_.data() + passed_over, got);
  if (passed_over > 0 && !peek) {
    in_.erase(0, 1);
    urgent_at_ = -1;
  }
  if (got > 0) {
    if (peek) return static_cast<ssize_t>(got);
    in_.erase(0, got);
    if (urgent_at_ >= 0) urgent_at_ -= static_cast<int64_t>(got);
    ToPeer([](TcpEnd& peer) { peer.Transmit(); });  // the window opened
    return static_cast<ssize_t>(got);
  }
  if (fin_received()) return 0;
  if (error_ != 0) return -std::exchange(error_, 0);
  if (read_shut_) return 0;
  return state_ == State::kClosed ? -ENOTCONN : -EAGAIN;
}

// At a mark the kernel looks at the end, as if nothing lay behind it (tcp_splice_read).
ssize_t TcpEnd::Splice(void* buffer, size_t size) {
  if (urgent_at_ != 0) return Receive(buffer, size, /*peek=*/false);
  if (error_ != 0) return -std::exchange(error_, 0);
  return read_shut_ ? 0 : -EAGAIN;
}

ssize_t TcpEnd::Send(const void* data, size_t size) {
  if (error_ != 0) return -std::exchange(error_, 0);
  if (write_shut_) return -EPIPE;
  if (state_ == State::kConnecting) return -EAGAIN;
  const size_t queued = out_.size() + unacked_;
  const bool no_memory = network_.host().Chance(network_.options().no_memory_chance);
  if (queued >= send_buffer_ || no_memory) {
    no_space_ = true;
    if (no_memory) {
      network_.After(network_.Latency(), [this] { DeliverAck(0); });
    }
    return -EAGAIN;
  }
  const size_t taken = std::min(size, send_buffer_ - queued);
  out_.append(static_cast<const char*>(data), taken);
  Transmit();
  return static_cast<ssize_t>(taken);
}

void TcpEnd::SendUrgent(char byte) {
  if (state_ != State::kConnected || write_shut_) return;
  Transmit();
  if (!out_.empty()) return;  // no window for it now
  ToPeer([byte](TcpEnd& peer) { peer.Deliver(std::string(1, byte), /*urgent=*/true); });
}

int TcpEnd::ShutdownWrite() {
  if (state_ != State::kConnected) return -ENOTCONN;
  shut_down_at_ = network_.host().Now();
  write_shut_ = true;
  fin_wanted_ = true;
  Transmit();
  Change(0);
  return 0;
}

void TcpEnd::Close(bool reset) {
  closed_at_ = network_.host().Now();
  on_change = nullptr;
  if (state_ == State::kClosed) return;
  if (state_ == State::kConnecting || reset || !in_.empty()) {
    SendReset();
    return;
  }
  write_shut_ = true;
  fin_wanted_ = true;
  Transmit();
}

void TcpEnd::Break(int error) {
  if (state_ == State::kClosed) return;
  broken_ = true;
  SendReset();
  error_ = error;
  Change(0);
  Change(EPOLLERR);
}

// Ends this side at once and tells the other.
void TcpEnd::SendReset() {
  network_.host().Note("send reset", number);
  reset_sent_ = true;
  ToPeer([](TcpEnd& peer) { peer.DeliverReset(); });
  Done();
}

void TcpEnd::Done() {
  out_.clear();
  unacked_ = 0;
  flying_ = 0;
  state_ = State::kClosed;
  read_shut_ = true;
  write_shut_ = true;
}

// As much as fits the peer's window, in segments; then the FIN.
void TcpEnd::Transmit() {
  if (state_ != State::kConnected) return;
  while (!out_.empty()) {
    const size_t used = peer_->in_.size() + flying_;
    const size_t window = used < peer_->receive_buffer_ ? peer_->receive_buffer_ - used : 0;
    const size_t most = std::min({window, out_.size(), network_.options().segment_max});
    if (most == 0) return;
    const size_t size = 1 + network_.host().Choose(most);
    std::string segment = out_.substr(0, size);
    out_.erase(0, size);
    flying_ += size;
    unacked_ += size;
    ToPeer([segment = std::move(segment)](TcpEnd& end) { end.Deliver(segment, false); });
  }
  if (!fin_wanted_ || fin_sent_) return;
  fin_sent_ = true;
  ToPeer([](TcpEnd& end) { end.DeliverFin(); });
}

void TcpEnd::Deliver(const std::string& bytes, bool urgent) {
  if (state_ == State::kClosed) return;
  if (!owned()) return SendReset();  // nobody will read it
  const size_t size = bytes.size();
  if (urgent) urgent_at_ = static_cast<int64_t>(in_.size());
  in_ += bytes;
  if (!urgent) {
    arrived_ += static_cast<int64_t>(size);
    peer_->flying_ -= std::min(size, peer_->flying_);
    ToPeer([size](TcpEnd& end) { end.DeliverAck(size); });
  }
  Change(EPOLLIN | EPOLLPRI);
}

void TcpEnd::DeliverAck(size_t bytes) {
  if (state_ != State::kConnected) return;
  unacked_ -= std::min(bytes, unacked_);
  Transmit();
  if (!no_space_ || !IsWritable()) return;
  no_space_ = false;
  Change(EPOLLOUT);
}

void TcpEnd::DeliverFin() {
  if (state_ != State::kConnected) return;
  fin_received_at_ = network_.host().Now();
  read_shut_ = true;
  ToPeer([](TcpEnd& end) {
    end.fin_acked_ = true;
    if (end.fin_received()) end.Done();
    end.Change(0);
  });
  if (fin_acked_) Done();
  Change(0);
}

void TcpEnd::DeliverReset() {
  if (state_ == State::kClosed) return;
  network_.host().Note("got reset", number);
  reset_received_at_ = network_.host().Now();
  error_ = state_ == State::kConnecting ? ECONNREFUSED : fin_received() ? EPIPE : ECONNRESET;
  Done();
  Change(0);
  Change(EPOLLERR);
}

// A third of the buffer must be free (sk_stream_is_writeable).
bool TcpEnd::IsWritable() const {
  const size_t queued = out_.size() + unacked_;
  return queued < send_buffer_ && send_buffer_ - queued >= queued / 2;
}

uint32_t TcpEnd::Events() {
  uint32_t events = 0;
  if (error_ != 0) events |= EPOLLERR;
  if ((read_shut_ && write_shut_) || state_ == State::kClosed) events |= EPOLLHUP;
  if (read_shut_) events |= EPOLLIN | EPOLLRDHUP;
  if (state_ == State::kConnecting) return events;
  const bool only_urgent = urgent_at_ == 0 && in_.size() == 1;
  if (!in_.empty() && !only_urgent) events |= EPOLLIN;
  if (urgent_at_ >= 0) events |= EPOLLPRI;
  if (write_shut_ || IsWritable()) {
    events |= EPOLLOUT;
  } else {
    no_space_ = true;
  }
  return events;
}

int TcpEnd::TakeError() { return std::exchange(error_, 0); }

int TcpEnd::PeerNameError() const { return state_ == State::kConnected ? 0 : ENOTCONN; }

void TcpEnd::CutOff() {
  network_.host().Note("cut off", number);
  cut_off_ = true;
  if (peer_ != nullptr) peer_->cut_off_ = true;
}

// --- The network.

Network::Network(OneThreadHost& host, const Options& options) : host_(host), options_(options) {
  host.Add(*this);
}

sched::Duration Network::Latency() {
  const auto span = options_.latency_max - options_.latency_min;
  return options_.latency_min + sched::Duration(host_.Choose(span.count() + 1));
}

void Network::At(sched::Deadline when, std::function<void()> action) {
  agenda_.push_back({std::max(when, host_.Now()), next_entry_++, std::move(action)});
  std::push_heap(agenda_.begin(), agenda_.end());
}

void Network::Run() {
  std::pop_heap(agenda_.begin(), agenda_.end());
  const std::function<void()> action = std::move(agenda_.back().action);
  agenda_.pop_back();
  action();
}

void Network::RemoveListener(int port, TcpListener* listener) {
  std::erase(listeners_[port], listener);
  // A reuseport socket that closes resets what waits in its queue.
  for (TcpEnd* const end : std::exchange(listener->queue, {})) end->Close(/*reset=*/true);
}

TcpEnd* Network::NewEnd() {
  const int number = static_cast<int>(ends_.size());
  ends_.push_back(
      std::make_unique<TcpEnd>(*this, number, options_.send_buffer, options_.receive_buffer));
  return ends_.back().get();
}

TcpEnd* Network::Connect(int port) {
  TcpEnd* const end = NewEnd();
  host_.Note("connect", end->number, port);
  After(Latency(), [this, end, port] { ArriveAtPort(end, port, 0); });
  return end;
}

// The first packet of a connection.
void Network::ArriveAtPort(TcpEnd* client, int port, int tries) {
  if (!client->owned()) return;
  if (std::find(black_holes_.begin(), black_holes_.end(), port) != black_holes_.end()) return;
  const std::vector<TcpListener*>& listeners = listeners_[port];
  if (listeners.empty()) {
    After(Latency(), [client] { client->DeliverReset(); });
    return;
  }
  TcpListener& listener = *listeners[host_.Choose(listeners.size())];
  if (listener.queue.size() > listener.backlog) {  // dropped; the client's kernel tries again
    constexpr int kTries = 6;
    if (tries == kTries) return;
    const auto again = std::chrono::seconds(1) * (1 << tries);
    After(again, [this, client, port, tries] { ArriveAtPort(client, port, tries + 1); });
    return;
  }
  TcpEnd* const end = NewEnd();
  end->state_ = TcpEnd::State::kConnected;
  end->peer_ = client;
  client->peer_ = end;
  listener.queue.push_back(end);
  host_.Note("arrived", client->number, port, end->number);
  end->ToPeer([](TcpEnd& it) {
    if (it.state_ != TcpEnd::State::kConnecting) return;
    it.state_ = TcpEnd::State::kConnected;
    it.Change(0);
  });
  if (listener.on_connection) listener.on_connection();
}

}  // namespace netpoll::sim
