// SPDX-License-Identifier: Apache-2.0
//
// Who may use a descriptor, and until when: one reader, one writer, any number of short references,
// and a close that waits for none of them. The descriptor's number is given back by the last user
// that leaves. Go's fdMutex (internal/poll/fd_mutex.go), with the queues of waiting readers and
// writers moved to a parking lot.
//
// One word:
//   bit 0  closed        set once, by Close
//   bit 1  read locked   bit 3  somebody waits for the read lock
//   bit 2  write locked  bit 4  somebody waits for the write lock
//   bits 5..31           users: the lock holders and the references
//
// A "waits" bit is set by a failed Lock and cleared by the Unlock or Close that wakes *all* those
// waiting, who then try again. A waiter parks only while the bit is still set (StillBusy), checked
// under the lot's lock; Unlock clears the bit first and wakes after, so no wake-up is lost.
#ifndef PARKWAY_NETPOLL_INTERNAL_FD_GATE_H_
#define PARKWAY_NETPOLL_INTERNAL_FD_GATE_H_

#include <cstdint>

#include "sched/atomics.h"
#include "sched/check.h"

namespace netpoll::internal {

enum class Direction : uint8_t { kRead = 0, kWrite = 1 };

template <class Atomics>
class BasicFdGate {
 public:
  enum class Entry : uint8_t {
    kEntered,
    kClosed,
    kBusy,  // someone else has it: park until StillBusy() is false, then try again
  };

  // What the caller that leaves has to do.
  struct Leave {
    bool wake = false;  // those parked for a lock
    bool last = false;  // closed and nobody left: free the descriptor
  };

  Entry Lock(Direction d) {
    uint32_t old = word_.load(std::memory_order_seq_cst);
    for (;;) {
      if ((old & kClosed) != 0) return Entry::kClosed;
      const bool busy = (old & LockBit(d)) != 0;
      const uint32_t next = busy ? old | WaitBit(d) : (old | LockBit(d)) + kUser;
      PARKWAY_CHECK(next / kUser != 0 || busy, old);  // users overflowed
      if (next == old) return Entry::kBusy;
      if (word_.compare_exchange_strong(old, next, std::memory_order_seq_cst)) {
        return busy ? Entry::kBusy : Entry::kEntered;
      }
    }
  }

  // Inlined as what calls it is (Socket::Hold).
  [[gnu::always_inline]] Leave Unlock(Direction d) {
    uint32_t old = word_.load(std::memory_order_seq_cst);
    uint32_t next;
    do {
      PARKWAY_CHECK((old & LockBit(d)) != 0 && old >= kUser, old);
      next = (old & ~(LockBit(d) | WaitBit(d))) - kUser;
      // Release: all this user did to the descriptor comes before it is freed by the last one
      // (acquire).
    } while (!word_.compare_exchange_strong(old, next, std::memory_order_seq_cst));
    return {.wake = (old & WaitBit(d)) != 0, .last = IsLast(next)};
  }

  // Checked under the parking lot's lock by one that got kBusy.
  bool StillBusy(Direction d) const {
    const uint32_t word = word_.load(std::memory_order_seq_cst);
    return (word & kClosed) == 0 && (word & WaitBit(d)) != 0;
  }

  // A short use that excludes nobody (set an option, move a deadline). False once closed.
  bool Enter() {
    uint32_t old = word_.load(std::memory_order_seq_cst);
    for (;;) {
      if ((old & kClosed) != 0) return false;
      if (word_.compare_exchange_strong(old, old + kUser, std::memory_order_seq_cst)) return true;
    }
  }
  // True if the caller was the last user of a closed gate and must free the descriptor.
  [[nodiscard]] bool Exit() {
    const uint32_t old = word_.fetch_sub(kUser, std::memory_order_seq_cst);
    PARKWAY_CHECK(old >= kUser, old);
    return IsLast(old - kUser);
  }

  // The first closer gets true and counts as a user: it evicts the waiters and then calls Exit.
  // From here on nobody enters.
  bool Close(Leave* leave) {
    constexpr uint32_t kWaits = WaitBit(Direction::kRead) | WaitBit(Direction::kWrite);
    uint32_t old = word_.load(std::memory_order_seq_cst);
    uint32_t next;
    do {
      if ((old & kClosed) != 0) return false;
      next = ((old | kClosed) & ~kWaits) + kUser;
    } while (!word_.compare_exchange_strong(old, next, std::memory_order_seq_cst));
    leave->wake = (old & kWaits) != 0;
    return true;
  }

  bool closed() const { return (word_.load(std::memory_order_seq_cst) & kClosed) != 0; }
  bool unused() const { return word_.load(std::memory_order_seq_cst) < kUser; }

  // Starts anew for a recycled descriptor. REQUIRES: no user.
  void Recycle() {
    const uint32_t old = word_.exchange(0, std::memory_order_seq_cst);
    PARKWAY_CHECK(old < kUser, old);
  }

 private:
  static constexpr uint32_t kClosed = 1u << 0;
  static constexpr uint32_t kUser = 1u << 5;
  static constexpr uint32_t LockBit(Direction d) { return 1u << (1 + static_cast<int>(d)); }
  static constexpr uint32_t WaitBit(Direction d) { return 1u << (3 + static_cast<int>(d)); }
  static constexpr bool IsLast(uint32_t word) { return (word & kClosed) != 0 && word < kUser; }

  typename Atomics::template Atomic<uint32_t> word_{0};
};

using FdGate = BasicFdGate<sched::StdAtomics>;

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_FD_GATE_H_
