// SPDX-License-Identifier: Apache-2.0
#include "netpoll/internal/poll_desc.h"

#include "netpoll/internal/poll_shard.h"

namespace netpoll::internal {
namespace {

constexpr uint32_t kWakesBoth = EPOLLHUP | EPOLLERR;
constexpr uint32_t kWakesReader = EPOLLIN | EPOLLRDHUP | EPOLLPRI | kWakesBoth;
constexpr uint32_t kSticky = kReadClosed | kHangUp | kBroken | kUrgent | kWritable;

void Notify(PollSlot& slot, sched::WaiterList& ready) {
  const uintptr_t waiter = slot.Notify();
  if (waiter != 0) ready.PushBack(sched::Waiter::FromWord(waiter));
}

}  // namespace

PollDesc::PollDesc(PollShard& shard_in) : shard(shard_in), info_(Info(1)) {}

uint64_t PollDesc::Info(uint64_t generation) const {
  return generation << 32 | static_cast<uint64_t>(shard.index) << kWatcherShift;
}

void PollDesc::SetWatchedBy(int shard_index) {
  constexpr uint64_t kKept = ~uint64_t{UINT32_MAX} | kEventBits;
  uint64_t info = info_.load(std::memory_order_seq_cst);
  uint64_t next;
  do {
    next = (info & kKept) | static_cast<uint64_t>(shard_index) << kWatcherShift;
  } while (!info_.compare_exchange_strong(info, next, std::memory_order_seq_cst));
}

void PollDesc::OnEvent(uint32_t generation, uint32_t events, sched::WaiterList& ready) {
  if (!SetBits(generation, events & kSticky)) return;
  if ((events & kWakesReader) != 0) Notify(slot(Direction::kRead), ready);
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
    if ((info & bits) == bits) return true;  // the usual case: nothing new, no write
    if (info_.compare_exchange_strong(info, info | bits, std::memory_order_seq_cst)) return true;
  }
}

void PollDesc::Renew() {
  // A new generation: events of the old descriptor that are still on their way are stale from here.
  const uint64_t next = (info_.load(std::memory_order_seq_cst) >> 32) + 1;
  info_.store(Info(next % (1u << kGenerationBits)), std::memory_order_seq_cst);
}

void PollDesc::Forget() {
  info_.fetch_and(~uint64_t{kRegistered | kWatchedOut}, std::memory_order_seq_cst);
  // A waiter that finds the slot ready looks at its descriptor, and registers it before it waits.
  for (const Direction d : {Direction::kRead, Direction::kWrite}) {
    if (const uintptr_t waiter = slot(d).Notify(); waiter != 0) Wake(waiter);
  }
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
