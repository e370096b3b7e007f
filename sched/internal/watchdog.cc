// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/watchdog.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

#include "sched/internal/core.h"
#include "sched/internal/crash_signals.h"

namespace sched {

std::string ToString(const StallReport& report) {
  std::string text = "worker " + std::to_string(report.worker) + " has not come back for " +
                     std::to_string(report.blocked_for.count() / 1'000'000) + " ms; fiber " +
                     std::to_string(report.fiber_id) + " is in ";
  const char* separator = "";
  for (const std::string& function : report.stack)
    text += std::exchange(separator, " <- ") + function;
  return text;
}

}  // namespace sched

namespace sched::internal {

void Watchdog::Start() {
  {
    MutexLock lock(mu_);
    progress_.resize(core_.workers.size());
  }
  thread_ = core_.host.StartThread("watchdog", -1, [this] { return Tick(); });
}

void Watchdog::Retire() {
  MutexLock lock(mu_);
  retired_ = true;
}

void Watchdog::Join() {
  thread_->Wake();
  thread_.reset();
}

std::optional<Deadline> Watchdog::Tick() {
  MutexLock lock(mu_);
  if (retired_) return std::nullopt;
  asleep_.store(false, std::memory_order_seq_cst);
  const Deadline now = core_.host.Now();
  if (!AllAsleep()) {
    idle_ticks_ = 0;
    for (const auto& worker : core_.workers) LookAt(*worker, progress_[worker->index], ToNs(now));
  } else if (++idle_ticks_ >= kIdleTicksMax) {
    idle_ticks_ = 0;
    asleep_.store(true, std::memory_order_seq_cst);
    if (AllAsleep()) return kNever;  // else a worker woke before it could see asleep_
    asleep_.store(false, std::memory_order_seq_cst);
  }
  return now + kTick;
}

bool Watchdog::AllAsleep() const {
  return core_.idle.SleepingCount() == static_cast<int>(core_.workers.size());
}

void Watchdog::LookAt(Worker& worker, Progress& progress, int64_t now) {
  if (!worker.bound()) return;
  const int64_t switches = worker.switches.load(std::memory_order_relaxed);
  if (switches != progress.switches) progress = {.switches = switches, .since = now};
  const int64_t last_poll = worker.last_poll();
  if (now - last_poll < kUnpolledNs) return;
  worker.PollSoon();
  if (core_.sentinel.load(std::memory_order_seq_cst) < 0) {
    const int sleeper = core_.idle.ClaimAny();
    if (sleeper >= 0) core_.workers[sleeper]->Interrupt();
  }
  // It may be there since its last poll; that it is, is known since the first look.
  const int64_t stuck_since = std::max(last_poll, progress.since);
  const int64_t stall_after = core_.options.stall_after.count();
  if (stall_after <= 0 || progress.reported || now - stuck_since < stall_after) return;
  progress.reported = true;
  Report(worker, now, stuck_since);
}

void Watchdog::Report(Worker& worker, int64_t now, int64_t stuck_since) {
  stalls_.fetch_add(1, std::memory_order_relaxed);
  if (now - last_report_ < kReportEveryNs) return;
  last_report_ = now;
  StallReport report;
  report.worker = worker.index;
  report.fiber_id = worker.running_fiber();
  report.blocked_for = Duration(now - stuck_since);
  report.stack = SampleStack(worker.thread());
  if (core_.options.on_stall) {
    core_.options.on_stall(report);
  } else {
    std::fputs(("parkway: " + ToString(report) + "\n").c_str(), stderr);
  }
}

}  // namespace sched::internal
