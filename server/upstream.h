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
class alignas(64) Upstream {
 public:
  explicit Upstream(const netpoll::Endpoint& at) : at_(at), name_(at.ToString()) {}
  Upstream(const Upstream&) = delete;
  Upstream& operator=(const Upstream&) = delete;

  const netpoll::Endpoint& at() const { return at_; }
  const std::string& name() const { return name_; }

  // Counts a session in, unless it has `max` (0: without limit) already. Any thread.
  bool Enter(int max) {
    if (max == 0) {
      sessions_.fetch_add(1, std::memory_order_relaxed);
      return true;
    }
    int count = sessions_.load(std::memory_order_seq_cst);
    do {
      if (count >= max) return false;
    } while (!sessions_.compare_exchange_weak(count, count + 1, std::memory_order_seq_cst));
    return true;
  }
  // seq_cst, as the load in IsFull: who leaves a place looks for waiters afterwards, and who begins
  // to wait looks for a place (ServedRoute::waiting_).
  void Leave() { sessions_.fetch_sub(1, std::memory_order_seq_cst); }
  bool IsFull(int max) const { return max > 0 && sessions_.load(std::memory_order_seq_cst) >= max; }
  int sessions() const { return sessions_.load(std::memory_order_relaxed); }

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
  const netpoll::Endpoint at_;
  const std::string name_;
  std::atomic<int> sessions_{0};
  std::atomic<int> failures_{0};
  std::atomic<bool> up_{true};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_UPSTREAM_H_
