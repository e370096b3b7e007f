// SPDX-License-Identifier: Apache-2.0
#include "netpoll/internal/poll_desc.h"

#include <sys/epoll.h>

namespace netpoll::internal {
namespace {

constexpr uint32_t kWakesBoth = EPOLLHUP | EPOLLERR;
constexpr uint32_t kSticky = EPOLLRDHUP | EPOLLPRI | kWakesBoth;

uint32_t StickyBits(uint32_t events) {
  if ((events & kSticky) == 0) return 0;  // the usual case
  uint32_t bits = 0;
  if ((events & EPOLLRDHUP) != 0) bits |= kReadClosed;
  if ((events & EPOLLHUP) != 0) bits |= kHangUp;
  if ((events & EPOLLERR) != 0) bits |= kBroken;
  if ((events & EPOLLPRI) != 0) bits |= kUrgent;
  return bits;
}

void Notify(PollSlot& slot, sched::WaiterList& ready) {
  const uintptr_t waiter = slot.Notify();
  if (waiter != 0) ready.PushBack(sched::Waiter::FromWord(waiter));
}

}  // namespace

void PollDesc::OnEvent(uint32_t generation, uint32_t events, sched::WaiterList& ready) {
  if (!SetBits(generation, StickyBits(events))) return;
  if ((events & (EPOLLIN | kSticky)) != 0) {
    Notify(slot(Direction::kRead), ready);
  }
  if ((events & (EPOLLOUT | kWakesBoth)) != 0) Notify(slot(Direction::kWrite), ready);
  if ((events & kWakesBoth) != 0) {
    PollDesc* const dependent = dependent_.load(std::memory_order_seq_cst);
    if (dependent != nullptr) Notify(dependent->slot(Direction::kWrite), ready);
  }
}

// False if the descriptor has been reused since: the event is stale.
bool PollDesc::SetBits(uint32_t generation, uint32_t bits) {
  uint64_t info = info_.load(std::memory_order_seq_cst);
  for (;;) {
    if (static_cast<uint32_t>(info >> 32) != generation) return false;
    if ((info & bits) == bits) return true;  // the usual case: nothing sticky, no write
    if (info_.compare_exchange_strong(info, info | bits, std::memory_order_seq_cst)) return true;
  }
}

void PollDesc::Renew() {
  // A new generation: events of the old descriptor that are still on their way are stale from here.
  const uint64_t next = (info_.load(std::memory_order_seq_cst) >> 32) + 1;
  info_.store(next << 32, std::memory_order_seq_cst);
}

void PollDesc::Recycle() {
  Renew();  // first, so that no stale event touches what follows
  dependent_.store(nullptr, std::memory_order_seq_cst);
  for (const Direction d : {Direction::kRead, Direction::kWrite}) {
    deadline(d).Recycle();
    slot(d).Recycle();
  }
}

}  // namespace netpoll::internal
