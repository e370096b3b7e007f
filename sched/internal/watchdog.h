// SPDX-License-Identifier: Apache-2.0
//
// A thread that looks after workers that do not come back: it wakes a sleeper to serve a stuck
// worker's connections, and reports a stall with the culprit's stack. It ticks only while workers
// run: after a second of all asleep it blocks, and the first worker that wakes wakes it (a constant
// tick alone would cost 0.2 % of a CPU).
#ifndef PARKWAY_SCHED_INTERNAL_WATCHDOG_H_
#define PARKWAY_SCHED_INTERNAL_WATCHDOG_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sched/clock.h"
#include "sched/host.h"

namespace sched::internal {

struct Core;
class Worker;

class Watchdog {
 public:
  static constexpr Duration kTick = std::chrono::milliseconds(5);
  static constexpr int64_t kUnpolledNs = 1'000'000;  // then a sleeper is woken
  static constexpr int kIdleTicksMax = 200;          // one second
  static constexpr int64_t kReportEveryNs = 1'000'000'000;

  explicit Watchdog(Core& core) : core_(core) {}

  void Start();
  // After core.stopping is set. Joins the thread.
  void Stop();
  // By a worker that ended its sleep.
  void WorkerWoke() {
    // Pairs with Tick: it stores asleep_, then looks at the sleepers once more; the worker leaves
    // the idle set, then looks here.
    if (asleep_.load(std::memory_order_seq_cst)) thread_->Wake();
  }

  // The thread's step; a simulation calls it itself.
  std::optional<Deadline> Tick();

  int64_t stalls() const { return stalls_.load(std::memory_order_relaxed); }  // statistics

 private:
  bool AllAsleep() const;
  void LookAt(Worker& worker, int64_t now);
  void Report(Worker& worker, int64_t now, int64_t last_poll);

  Core& core_;
  std::unique_ptr<Host::Thread> thread_;
  std::atomic<bool> asleep_{false};
  std::atomic<int64_t> stalls_{0};
  // The watchdog's thread only.
  int idle_ticks_ = 0;
  int64_t last_report_ = INT64_MIN / 2;
  std::vector<int64_t> reported_;  // per worker: the last_poll of the stall that was reported
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_WATCHDOG_H_
