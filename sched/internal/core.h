// SPDX-License-Identifier: Apache-2.0
//
// What the workers of one scheduler share.
#ifndef PARKWAY_SCHED_INTERNAL_CORE_H_
#define PARKWAY_SCHED_INTERNAL_CORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "sched/host.h"
#include "sched/internal/idle_set.h"
#include "sched/internal/injected_queue.h"
#include "sched/internal/stack_pool.h"
#include "sched/internal/watchdog.h"
#include "sched/internal/worker.h"
#include "sched/parking_lot.h"
#include "sched/scheduler.h"

namespace sched::internal {

struct Core {
  Core(const Scheduler::Options& options_in, Host& host_in);

  // Wakes a sleeper to search, if nobody searches. After publishing work that anybody may take.
  void WakeSearcher() {
    const Worker* const self = CurrentWorker();
    if (workers.size() == 1 && self != nullptr && &self->core == this)
      return;  // nobody else to wake
    const int worker = idle.ClaimSearcher();
    if (worker >= 0) workers[worker]->Interrupt();
  }

  // Counts one more fiber. False at fiber_count_max.
  bool ReserveFiber() {
    if (fibers.fetch_add(1, std::memory_order_seq_cst) < options.fiber_count_max) return true;
    fibers.fetch_sub(1, std::memory_order_seq_cst);
    return false;
  }

  void ReleaseFiber() {
    // Pairs with DrainUntil: see `draining`.
    if (fibers.fetch_sub(1, std::memory_order_seq_cst) == 1) {
      if (draining.load(std::memory_order_seq_cst)) drained->Set();
    }
  }

  // Queues a waiter from a thread that is no worker.
  void Inject(Waiter waiter) {
    injected.Push(waiter);
    WakeSearcher();
  }

  // Something lies in a queue that another worker should take from.
  bool AnySurplus() const {
    if (!injected.empty()) return true;
    for (const auto& worker : workers) {
      if (worker->HasSurplus()) return true;
    }
    return false;
  }

  const Scheduler::Options options;
  Host& host;
  IdleSet idle;
  InjectedQueue injected;
  StackPool stacks;
  ParkingLot lot;
  std::vector<std::unique_ptr<Worker>> workers;
  Watchdog watchdog;

  std::atomic<int64_t> fibers{0};
  std::atomic<uint64_t> next_id{1};
  std::atomic<bool> stopping{false};
  // The worker that serves stale shards while others compute, or -1.
  std::atomic<int> sentinel{-1};

  // DrainUntil's wait for the last fiber: it stores `draining`, then reads `fibers`; the last fiber
  // leaves `fibers`, then reads `draining`. Both seq_cst, so one of the two notices.
  std::atomic<bool> draining{false};
  const std::unique_ptr<Host::Event> drained;

  std::vector<std::unique_ptr<Host::Thread>> threads;
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_CORE_H_
