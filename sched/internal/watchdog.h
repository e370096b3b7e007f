// SPDX-License-Identifier: Apache-2.0
//
// A thread that looks after workers that do not come back: it wakes a sleeper to serve a stuck
// worker's connections, and reports a stall with the culprit's stack. Stuck is who runs one fiber
// all the time; who runs many without polling is only told to poll. It ticks only while workers
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
#include "sched/mutex.h"

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
  // Once this returns no worker is looked at any more: their threads may end. They still wake the
  // thread, so it stays. Waits for a report that is being made.
  void Retire();
  // After Retire, and after the workers' threads have ended: joins the thread.
  void Join();
  // By a worker that ended its sleep.
  void WorkerWoke() {
    // Pairs with Tick: it stores asleep_, then looks at the sleepers once more; the worker leaves
    // the idle set, then looks here.
    if (asleep_.load(std::memory_order_seq_cst)) thread_->Wake();
  }

  int64_t stalls() const { return stalls_.load(std::memory_order_relaxed); }  // statistics

 private:
  // How far a worker had come at the last look.
  struct Progress {
    int64_t switches = -1;
    int64_t since = 0;      // the first look that found this number
    bool reported = false;  // stuck in it
  };

  std::optional<Deadline> Tick();
  bool AllAsleep() const;
  void LookAt(Worker& worker, Progress& progress, int64_t now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Report(Worker& worker, int64_t now, int64_t stuck_since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Core& core_;
  std::unique_ptr<Host::Thread> thread_;
  std::atomic<bool> asleep_{false};
  std::atomic<int64_t> stalls_{0};
  Mutex mu_;  // held for each tick
  bool retired_ ABSL_GUARDED_BY(mu_) = false;
  int idle_ticks_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t last_report_ ABSL_GUARDED_BY(mu_) = INT64_MIN / 2;
  std::vector<Progress> progress_ ABSL_GUARDED_BY(mu_);  // per worker
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_WATCHDOG_H_
