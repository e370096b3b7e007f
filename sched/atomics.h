// SPDX-License-Identifier: Apache-2.0
//
// The atomics policy of the lock-free protocols. Each protocol is `template <class Atomics> class
// BasicX`, shipped as `using X = BasicX<StdAtomics>`; tests instantiate the same source with a
// policy that enumerates every interleaving and every value the C++ memory model lets a load return
// (sched/testing/explorer.h).
//
// A policy supplies
//   Atomic<T>   the members of std::atomic<T> that we use, with explicit orders
//   Plain<T>    a variable that some atomic publishes; T itself in production, race-checked in
//   tests Mutex       Lock, TryLock, Unlock
#ifndef PARKWAY_SCHED_ATOMICS_H_
#define PARKWAY_SCHED_ATOMICS_H_

#include <atomic>

#include "sched/interleave.h"
#include "sched/mutex.h"

namespace sched {

#ifdef PARKWAY_INTERLEAVE
// std::atomic with a step of the simulation before each access.
template <class T>
class InterleavedAtomic {
 public:
  constexpr InterleavedAtomic() = default;
  constexpr explicit InterleavedAtomic(T value) : value_(value) {}

  T load(std::memory_order order) const { return Step().load(order); }
  void store(T value, std::memory_order order) { Step().store(value, order); }
  T exchange(T value, std::memory_order order) { return Step().exchange(value, order); }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order order) {
    return Step().compare_exchange_strong(expected, desired, order);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order ok,
                               std::memory_order failed) {
    return Step().compare_exchange_strong(expected, desired, ok, failed);
  }
  T fetch_add(T value, std::memory_order order) { return Step().fetch_add(value, order); }
  T fetch_sub(T value, std::memory_order order) { return Step().fetch_sub(value, order); }
  T fetch_or(T value, std::memory_order order) { return Step().fetch_or(value, order); }
  T fetch_and(T value, std::memory_order order) { return Step().fetch_and(value, order); }

 private:
  std::atomic<T>& Step() {
    Interleave();
    return value_;
  }
  const std::atomic<T>& Step() const {
    Interleave();
    return value_;
  }

  std::atomic<T> value_{};
};
#endif

struct StdAtomics {
#ifdef PARKWAY_INTERLEAVE
  template <class T>
  using Atomic = InterleavedAtomic<T>;
#else
  template <class T>
  using Atomic = std::atomic<T>;
#endif
  template <class T>
  using Plain = T;
  using Mutex = sched::Mutex;
};

}  // namespace sched

#endif  // PARKWAY_SCHED_ATOMICS_H_
