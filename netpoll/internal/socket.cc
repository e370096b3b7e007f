// SPDX-License-Identifier: Apache-2.0
#include "netpoll/internal/socket.h"

#include "netpoll/internal/await_slot.h"
#include "netpoll/internal/poll_shard.h"
#include "netpoll/poller.h"
#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/parking_lot.h"

namespace netpoll::internal {
namespace {

// A fiber's on the worker's stack, a continuation's where it is called (sched/park.h). The slot is
// type-stable; its waiter, once published, may be running elsewhere.
template <class Waiting>
bool CommitWait(Waiting* waiting, void* slot) {
  return static_cast<PollSlot*>(slot)->Commit(sched::Waiter(waiting).word());
}

}  // namespace

Socket::Socket(Poller& poller, int fd) : fd_(fd), desc_(poller.current_shard().Take()) {}

void Socket::MoveFrom(Socket& other) {
  PARKWAY_CHECK(other.gate_.unused(), other.fd_);  // somebody is blocked in it
  if (other.closed()) {
    desc_ = nullptr;
    fd_ = -1;
    return;
  }
  gate_.Recycle();
  fd_ = std::exchange(other.fd_, -1);
  desc_ = std::exchange(other.desc_, nullptr);
}

void Socket::MoveToThisWorker(Poller& poller) {
  PARKWAY_CHECK(gate_.unused() && !closed(), fd_);
  PARKWAY_CHECK((desc_->event_bits() & kRegistered) == 0, fd_);  // epoll names desc_
  PollShard& here = poller.current_shard();
  if (&here == &desc_->shard) return;
  desc_->shard.Give(desc_);
  desc_ = here.Take();
}

// False once it is closed.
bool Socket::Hold::WaitInLine(Socket& socket) const {
  FdGate::Entry entry;
  do {
    socket.WaitForGate(direction_);
    entry = socket.gate_.Lock(direction_);
  } while (entry == FdGate::Entry::kBusy);
  return entry == FdGate::Entry::kEntered;
}

void Socket::Left(const FdGate::Leave& leave) {
  if (leave.wake) WakeGate();
  if (leave.last) Free();
}

template <class Block>
IoResult Socket::AwaitBy(Direction direction, Block block) {
  if (const int error = Register(direction); error != 0) return IoResult::FromErrno(error);
  return AwaitUnwatched(direction, block);
}

template <class Block>
IoResult Socket::AwaitUnwatched(Direction direction, Block block) {
  PollSlot& slot = desc_->slot(direction);
  return AwaitSlot(
      slot, [&] { return Check(direction); }, [&] { block(&slot); });
}

IoResult Socket::Await(Direction direction, sched::WaitReason why) {
  return AwaitBy(direction,
                 [&](PollSlot* slot) { sched::Park(why, &CommitWait<sched::Fiber>, slot); });
}

IoResult Socket::AwaitTurn(Direction direction) {
  return AwaitUnwatched(direction, [](PollSlot* slot) {
    sched::Park(sched::WaitReason::kLock, &CommitWait<sched::Fiber>, slot);
  });
}

IoResult Socket::AwaitOr(Direction direction, sched::Continuation& hibernate) {
  return AwaitBy(direction, [&](PollSlot* slot) {
    sched::Hibernate(&hibernate, &CommitWait<sched::Continuation>, slot);
  });
}

IoResult Socket::Woken(Direction direction) {
  const auto result = EndParkedWait(desc_->slot(direction), [&] { return Check(direction); });
  return result ? *result : IoResult{.status = IoStatus::kAgain};
}

void Socket::SetDeadlineHeld(Direction direction, sched::Deadline when) {
  auto& timer = desc_->deadline(direction);
  const int64_t when_ns = sched::ToNs(when);
  if (timer.Set(when_ns, sched::ToNs(sched::RoundTime()))) {
    sched::ArmTimer(desc_->shard.index, timer, when_ns);
  }
}

void Socket::Adopt(int fd) {
  if (fd_ >= 0) {
    kernel().Close(fd_);
    desc_->Renew();
  }
  fd_ = fd;
}

void Socket::Abort() {
  Use([this] {
    const linger now = {.l_onoff = 1, .l_linger = 0};
    if (fd_ >= 0) (void)kernel().SetSockOpt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  });
  Close();
}

void Socket::Close() {
  if (desc_ == nullptr) return;
  FdGate::Leave leave;
  if (!gate_.Close(&leave)) return;
  if (leave.wake) WakeGate();
  desc_->Cancel(Direction::kRead);  // after `closed` is published
  desc_->Cancel(Direction::kWrite);
  if (gate_.Exit()) Free();
}

// The last user is here, and nobody can enter.
void Socket::Free() {
  // desc_ stays, as others may still ask closed(); the gate lets nobody use it.
  if (fd_ >= 0) kernel().Close(fd_);
  desc_->shard.Give(desc_);
}

void Socket::WaitForGate(Direction direction) {
  struct Wanted {
    const FdGate* gate;
    Direction direction;
  } wanted{&gate_, direction};
  sched::CurrentParkingLot().Wait(
      &gate_, sched::WaitReason::kLock,
      [](void* arg) {
        const auto* const w = static_cast<const Wanted*>(arg);
        return w->gate->StillBusy(w->direction);
      },
      &wanted);
}

// Readers and writers share the address: who is not meant tries again and waits again.
void Socket::WakeGate() { sched::CurrentParkingLot().WakeAll(&gate_); }

}  // namespace netpoll::internal
