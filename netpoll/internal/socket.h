// SPDX-License-Identifier: Apache-2.0
//
// A non-blocking socket whose users wait by parking: what Conn and Listener have in common.
#ifndef PARKWAY_NETPOLL_INTERNAL_SOCKET_H_
#define PARKWAY_NETPOLL_INTERNAL_SOCKET_H_

#include <utility>

#include "netpoll/internal/fd_gate.h"
#include "netpoll/internal/poll_desc.h"
#include "netpoll/internal/poll_shard.h"
#include "netpoll/io_result.h"
#include "netpoll/kernel.h"
#include "sched/clock.h"
#include "sched/park.h"
#include "sched/waiter.h"

namespace netpoll {

class Poller;

// For what goes on after the fiber that began it hibernated.
struct Hibernated {};

}  // namespace netpoll

namespace netpoll::internal {

class Socket {
 public:
  Socket() = default;  // closed
  // On the calling worker's shard. `fd` >= 0 is owned from here on; -1: Adopt follows. Fiber only.
  Socket(Poller& poller, int fd);
  // REQUIRES of both: nobody uses the other.
  Socket(Socket&& other) noexcept { MoveFrom(other); }
  Socket& operator=(Socket&& other) noexcept {
    if (this != &other) {
      Close();
      MoveFrom(other);
    }
    return *this;
  }
  ~Socket() {
    if (desc_ != nullptr) Close();
  }

  // Holds one direction of the socket for one operation: waits (parks) while another fiber holds
  // it. Converts to false when the socket is closed.
  class Hold {
   public:
    Hold(Socket& socket, Direction direction) : direction_(direction) {
      if (socket.desc_ == nullptr) return;
      const FdGate::Entry entry = socket.gate_.Lock(direction);
      if (entry == FdGate::Entry::kEntered ||
          (entry == FdGate::Entry::kBusy && WaitInLine(socket))) {
        socket_ = &socket;
      }
    }
    // Goes on with one that was never destroyed, because the fiber it was on hibernated.
    Hold(Socket& socket, Direction direction, Hibernated)
        : socket_(&socket), direction_(direction) {}
    // Inlined always: every operation ends here, and the compiler, seeing many, would call it,
    // which costs some ten instructions per request.
    [[gnu::always_inline]] ~Hold() {
      if (socket_ == nullptr) return;
      const FdGate::Leave leave = socket_->gate_.Unlock(direction_);
      if (leave.wake || leave.last) socket_->Left(leave);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    explicit operator bool() const { return socket_ != nullptr; }

   private:
    bool WaitInLine(Socket& socket) const;

    Socket* socket_ = nullptr;  // that is held
    const Direction direction_;
  };

  // Parks until the direction is ready (a hint), its deadline passes (kTimeout) or somebody closes
  // (kClosed). The caller holds the direction and has just been refused by the kernel.
  IoResult Await(Direction direction, sched::WaitReason why);
  // As Await, but where that would park the fiber hibernates. The first act of `continuation` is
  // Woken.
  IoResult AwaitOr(Direction direction, sched::Continuation& hibernate);
  // As Await, but nothing is watched: only PollSlot::Notify makes it ready.
  IoResult AwaitTurn(Direction direction);
  // How a wait ended for which the fiber hibernated; kAgain: wait again.
  IoResult Woken(Direction direction);
  // Without waiting: kTimeout, kClosed or ok.
  IoResult Check(Direction direction) const {
    if (gate_.closed()) return {.status = IoStatus::kClosed};
    if (desc_->deadline(direction).expired()) return {.status = IoStatus::kTimeout};
    return {};
  }
  // Makes epoll watch the descriptor for that direction, once in its life. Await does so; earlier
  // only who wants the sticky bits of a connection that never waits. 0 or an errno.
  int Register(Direction direction) {
    const uint32_t done = direction == Direction::kRead ? kRegistered : kWatchedOut;
    if ((desc_->event_bits() & done) != 0) return 0;
    return desc_->shard.Register(*desc_, fd_, direction);
  }
  // What it waits for is told to this worker from here on. The caller holds the read direction, and
  // has waited in it.
  void WatchHere() { static_cast<PollShard*>(sched::CurrentEventSource())->TakeOver(*desc_, fd_); }
  // T1, directly before a system call in that direction.
  void ResetReadiness(Direction direction) { desc_->slot(direction).Reset(); }

  void SetDeadline(Direction direction, sched::Deadline when) {
    Use([&] { SetDeadlineHeld(direction, when); });
  }
  // For who holds the direction.
  void SetDeadlineHeld(Direction direction, sched::Deadline when);

  // Ends it for everybody: fibers blocked here return kClosed; the last user frees the descriptor.
  // Any fiber, any number of times.
  void Close();

  // Closes with RST; what was written and not yet acknowledged is lost.
  void Abort();

  // Calls function() with the descriptor held open, excluding nobody. False, without the call, once
  // closed. Who uses fd() there must not do so while another fiber is in Adopt.
  template <class Function>
  bool Use(Function function) {
    if (desc_ == nullptr || !gate_.Enter()) return false;
    function();
    if (gate_.Exit()) Free();
    return true;
  }

  // Gives the socket its descriptor (-1: none), and closes one that it had. The caller holds the
  // write direction, and nobody reads.
  void Adopt(int fd);

  // Moves to the calling worker's shard. REQUIRES: nobody uses it, and nobody has waited in it yet.
  void MoveToThisWorker(Poller& poller);

  bool closed() const { return desc_ == nullptr || gate_.closed(); }
  int fd() const { return fd_; }
  PollDesc* desc() const { return desc_; }
  // REQUIRES: made with a poller, not moved from.
  const Kernel& kernel() const { return desc_->shard.kernel(); }

 private:
  template <class Block>
  IoResult AwaitBy(Direction direction, Block block);
  template <class Block>
  IoResult AwaitUnwatched(Direction direction, Block block);
  void MoveFrom(Socket& other);
  void WaitForGate(Direction direction);
  void Left(const FdGate::Leave& leave);
  void WakeGate();
  void Free();

  FdGate gate_;
  int fd_ = -1;
  PollDesc* desc_ = nullptr;
};

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_SOCKET_H_
