// SPDX-License-Identifier: Apache-2.0
//
// What the poller knows of one descriptor: two wait slots, two deadlines, the sticky event bits.
//
// PollDescs are type-stable: recycled, never freed while the shard lives, because epoll may still
// deliver an event for a descriptor that is closed. Such a stale event carries the old generation.
// Its sticky bits are set by a CAS on one word that holds the generation too, so they can never
// reach a newer connection (golang/go#59545); its Notify may hit the newer use and then is only a
// spurious wake-up.
#ifndef PARKWAY_NETPOLL_INTERNAL_POLL_DESC_H_
#define PARKWAY_NETPOLL_INTERNAL_POLL_DESC_H_

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>

#include "netpoll/internal/deadline_timer.h"
#include "netpoll/internal/fd_gate.h"
#include "netpoll/internal/poll_slot.h"
#include "sched/atomics.h"
#include "sched/park.h"
#include "sched/waiter.h"

namespace netpoll::internal {

class PollShard;

// Sticky bits: once one is set, it holds until the descriptor is closed.
enum EventBits : uint32_t {
  kReadClosed = EPOLLRDHUP,  // the peer sent FIN
  kHangUp = EPOLLHUP,        // both directions are over
  kBroken = EPOLLERR,
  kUrgent = EPOLLPRI,      // an urgent mark was seen
  kWritable = EPOLLOUT,    // it was writable once: a connect has ended
  kRegistered = 1u << 16,  // epoll watches the descriptor,
  kWatchedOut = 1u << 17,  // and tells when it becomes writable
};

class alignas(64) PollDesc {
 public:
  PollDesc(PollShard& shard_in, uint32_t index_in) : shard(shard_in), index(index_in) {}
  PollDesc(const PollDesc&) = delete;
  PollDesc& operator=(const PollDesc&) = delete;

  PollSlot& slot(Direction d) { return side(d).slot; }
  auto& deadline(Direction d) { return side(d); }

  uint32_t generation() const {
    return static_cast<uint32_t>(info_.load(std::memory_order_seq_cst) >> 32);
  }
  // Loaded *after* a read by the reader, set *before* the slot by the poller.
  uint32_t event_bits() const {
    return static_cast<uint32_t>(info_.load(std::memory_order_seq_cst));
  }

  // What an event does. `generation` is what epoll_event.data carried. Waiters that have to run go
  // to `ready`.
  void OnEvent(uint32_t generation, uint32_t events, sched::WaiterList& ready);

  // Ends a wait, for a close or a deadline that has been published.
  void Cancel(Direction d) { Wake(slot(d).Cancel()); }

  // When this descriptor breaks, the writer of `target` is woken too (spuriously), so that a relay
  // blocked there notices. nullptr: nobody.
  void WakeWriterWhenBroken(PollDesc* target) {
    dependent_.store(target, std::memory_order_seq_cst);
  }

  // For another descriptor in the same use: drops the sticky bits; the wait slots and deadlines
  // stay.
  void Renew();
  // For the next use. REQUIRES: nobody uses it.
  void Recycle();

  static void Wake(uintptr_t waiter) {
    if (waiter != 0) sched::Ready(sched::Waiter::FromWord(waiter));
  }

  // By a user of this use, after epoll was told of it.
  void NoteRegistered(uint32_t bits) { info_.fetch_or(bits, std::memory_order_seq_cst); }

  PollShard& shard;
  const uint32_t index;  // in the shard's pool

  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t next_free = kNone;  // an index; of who has it while it is not in use

 private:
  // One direction: its slot and the deadline of who waits there.
  struct Side final : BasicDeadlineTimer<sched::StdAtomics> {
    void Expired() override { Wake(slot.Cancel()); }

    PollSlot slot;
  };

  Side& side(Direction d) { return sides_[static_cast<int>(d)]; }
  bool SetBits(uint32_t generation, uint32_t bits);

  std::atomic<uint64_t> info_{uint64_t{1} << 32};  // {generation, EventBits}
  std::atomic<PollDesc*> dependent_{nullptr};
  Side sides_[2];  // Go's rg and wg, with their timers
};
// Two cache lines: a million idle sessions have two of them each.
static_assert(sizeof(PollDesc) <= 128);

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_POLL_DESC_H_
