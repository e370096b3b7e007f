// SPDX-License-Identifier: Apache-2.0
//
// One address that routes relay to, while they do: how many sessions it has, and whether it is up.
#ifndef PARKWAY_SERVER_UPSTREAM_H_
#define PARKWAY_SERVER_UPSTREAM_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "netpoll/endpoint.h"

namespace parkway {

// On cache lines of its own: every session of it writes here when it begins and ends.
//
// Two counts in one word: its sessions, which count for its `max` and for the choice; and its
// users, which keep it: those sessions, a session that failed to connect and has not tried another
// yet (its name is in the log then), and lineups that list it.
class alignas(64) Upstream {
 public:
  explicit Upstream(const netpoll::Endpoint& at) : at_(at), name_(at.ToString()) {}
  Upstream(const Upstream&) = delete;
  Upstream& operator=(const Upstream&) = delete;

  const netpoll::Endpoint& at() const { return at_; }
  const std::string& name() const { return name_; }

  // Counts a session in, and a user, unless it has `max` (0: without limit) already. Any thread.
  bool Enter(int max) {
    if (max == 0) {
      counts_.fetch_add(kSession + kUser, std::memory_order_relaxed);
      return true;
    }
    uint64_t counts = counts_.load(std::memory_order_seq_cst);
    do {
      if (SessionsOf(counts) >= max) return false;
    } while (!counts_.compare_exchange_weak(counts, counts + kSession + kUser,
                                            std::memory_order_seq_cst));
    return true;
  }
  // The session is counted out, and goes on using this. seq_cst, as the load in IsFull: who leaves
  // a place looks for waiters afterwards, and who begins to wait looks for a place
  // (ServedRoute::waiting_).
  void Leave() { counts_.fetch_sub(kSession, std::memory_order_seq_cst); }
  // Likewise, and uses it no more: this may be gone from here on.
  void LeaveForGood() { counts_.fetch_sub(kSession + kUser, std::memory_order_seq_cst); }
  bool IsFull(int max) const {
    return max > 0 && SessionsOf(counts_.load(std::memory_order_seq_cst)) >= max;
  }
  int sessions() const { return SessionsOf(counts_.load(std::memory_order_relaxed)); }

  // Who still uses it, or is listed with it in a lineup, keeps it. Any thread. Release is followed
  // by nothing of its caller's here; who then finds no users acquires that, and may destroy this.
  void Use() { counts_.fetch_add(kUser, std::memory_order_relaxed); }
  void Release() { counts_.fetch_sub(kUser, std::memory_order_release); }
  bool is_used() const { return counts_.load(std::memory_order_acquire) >= kUser; }

  // Failed connects in a row. Relaxed: several at once may count one less.
  int NoteFailure() { return failures_.fetch_add(1, std::memory_order_relaxed) + 1; }
  void NoteSuccess() {
    if (failures_.load(std::memory_order_relaxed) != 0) {
      failures_.store(0, std::memory_order_relaxed);
    }
  }

  // Written by its route under the lock of its health.
  bool up() const { return up_.load(std::memory_order_relaxed); }
  void SetUp(bool up) { up_.store(up, std::memory_order_relaxed); }

 private:
  static constexpr uint64_t kSession = 1;
  static constexpr uint64_t kUser = uint64_t{1} << 32;
  static int SessionsOf(uint64_t counts) { return static_cast<int>(counts & (kUser - 1)); }

  const netpoll::Endpoint at_;
  const std::string name_;
  std::atomic<uint64_t> counts_{0};
  std::atomic<int> failures_{0};
  std::atomic<bool> up_{true};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_UPSTREAM_H_
