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
  kEventBits = (1u << 18) - 1,
};

class alignas(64) PollDesc {
 public:
  // What a generation has room for in epoll_event.data. It comes round after four million uses, and
  // an event is on its way for one.
  static constexpr int kGenerationBits = 22;

  explicit PollDesc(PollShard& shard_in);
  PollDesc(const PollDesc&) = delete;
  PollDesc& operator=(const PollDesc&) = delete;

  PollSlot& slot(Direction d) { return side(d).slot; }
  auto& deadline(Direction d) { return side(d); }

  uint32_t generation() const {
    return static_cast<uint32_t>(info_.load(std::memory_order_seq_cst) >> 32);
  }
  // Loaded *after* a read by the reader, set *before* the slot by the poller.
  uint32_t event_bits() const {
    return static_cast<uint32_t>(info_.load(std::memory_order_seq_cst)) & kEventBits;
  }
  // The index of the shard whose epoll watches the descriptor, or will: that of `shard` until
  // another takes it over. Who finds the one before finds no such descriptor there.
  int watched_by() const {
    return static_cast<int>(static_cast<uint32_t>(info_.load(std::memory_order_seq_cst)) >>
                            kWatcherShift);
  }
  // By the reader.
  void SetWatchedBy(int shard_index);

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

  // Nobody watches it any more: whoever waits registers it anew.
  void Forget();

  PollShard& shard;               // in whose pool it lies, and whose worker has its timers
  PollDesc* next_free = nullptr;  // of who has it while it is not in use

 private:
  // One direction: its slot and the deadline of who waits there.
  struct Side final : BasicDeadlineTimer<sched::StdAtomics> {
    void Expired() override { Wake(slot.Cancel()); }

    PollSlot slot;
  };

  Side& side(Direction d) { return sides_[static_cast<int>(d)]; }
  bool SetBits(uint32_t generation, uint32_t bits);
  uint64_t Info(uint64_t generation) const;  // of a new use

  static constexpr int kWatcherShift = 18;

  std::atomic<uint64_t> info_;  // {generation: 32, watched_by: 14, EventBits: 18}
  std::atomic<PollDesc*> dependent_{nullptr};
  Side sides_[2];  // Go's rg and wg, with their timers
};
// Two cache lines: a million idle sessions have two of them each.
static_assert(sizeof(PollDesc) <= 128);

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_POLL_DESC_H_
