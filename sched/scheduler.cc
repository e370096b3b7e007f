// SPDX-License-Identifier: Apache-2.0
#include "sched/scheduler.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "sched/check.h"
#include "sched/internal/core.h"
#include "sched/internal/cpu_quota.h"
#include "sched/internal/crash_signals.h"
#include "sched/internal/sanitizer.h"

namespace sched {
namespace internal {
namespace {

Scheduler::Options Completed(Scheduler::Options options) {
  if (options.fiber_stack_bytes == 0) options.fiber_stack_bytes = kDefaultStackBytes;
  const bool one_core = Scheduler::AllowedCpus().size() <= 1;
  if (one_core) options.spin = Duration(0);  // it would only delay whoever it waits for
  return options;
}

}  // namespace

Core::Core(const Scheduler::Options& options_in, Host& host_in)
    : options(Completed(options_in)),
      host(host_in),
      idle(static_cast<int>(options_in.event_sources.size())),
      stacks(host_in, options.fiber_stack_bytes),
      watchdog(*this),
      drained(host_in.NewEvent()) {}

}  // namespace internal

using internal::Core;
using internal::Worker;

std::vector<int> Scheduler::AllowedCpus() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

int Scheduler::DefaultWorkerCount() {
  int count = static_cast<int>(AllowedCpus().size());
  if (const auto quota = internal::CpuQuota()) {
    count = std::min(count, static_cast<int>(std::min(std::ceil(*quota), 1e6)));
  }
  return std::clamp(count, 1, internal::IdleSet::kWorkersMax);
}

Scheduler::Scheduler(const Options& options)
    : core_(
          std::make_unique<Core>(options, options.host != nullptr ? *options.host : Host::Real())) {
  const int count = static_cast<int>(options.event_sources.size());
  PARKWAY_CHECK(count >= 1 && count <= internal::IdleSet::kWorkersMax, count);
  internal::InstallCrashSignals();
  for (int i = 0; i < count; ++i) {
    core_->workers.push_back(std::make_unique<Worker>(*core_, i, *options.event_sources[i]));
  }
  core_->watchdog.Start();
  for (int i = 0; i < count; ++i) {
    const int cpu = options.cpus.empty() ? -1 : options.cpus[i % options.cpus.size()];
    Worker* const worker = core_->workers[i].get();
    core_->threads.push_back(core_->host.StartThread("worker-" + std::to_string(i), cpu,
                                                     [worker] { return worker->Step(); }));
  }
}

Scheduler::~Scheduler() {
  const int64_t left = core_->fibers.load(std::memory_order_seq_cst);
  PARKWAY_CHECK(left == 0, left);
  core_->watchdog.Retire();
  core_->stopping.store(true, std::memory_order_seq_cst);
  for (const auto& worker : core_->workers) worker->Interrupt();
  core_->threads.clear();  // joins
  core_->watchdog.Join();
}

namespace {

// A fiber still to be made: SpawnOn's caller may be on a thread without a stack cache.
struct SpawnRecord : Continuation {
  explicit SpawnRecord(FiberFn fn_in) : fn(std::move(fn_in)) { resume = &Run; }

  static void Run(Continuation* self) {
    auto* const record = static_cast<SpawnRecord*>(self);
    FiberFn fn = std::move(record->fn);
    delete record;
    std::move(fn)();
  }

  FiberFn fn;
};

}  // namespace

bool Scheduler::SpawnOn(int worker, FiberFn fn) {
  auto record = std::make_unique<SpawnRecord>(std::move(fn));
  if (!SpawnOn(worker, *record)) return false;
  (void)record.release();  // it deletes itself
  return true;
}

bool Scheduler::SpawnOn(int worker, Continuation& continuation) {
  if (!core_->ReserveFiber()) return false;
  core_->workers[worker]->PushPlaced(Waiter(&continuation));
  return true;
}

int Scheduler::worker_count() const { return static_cast<int>(core_->workers.size()); }

bool Scheduler::DrainUntil(Deadline deadline) {
  PARKWAY_CHECK(internal::CurrentWorker() == nullptr, 0);  // it would wait for itself
  core_->draining.store(true, std::memory_order_seq_cst);
  bool in_time = true;
  while (in_time && core_->fibers.load(std::memory_order_seq_cst) != 0) {
    in_time = core_->drained->WaitUntil(deadline);
  }
  core_->draining.store(false, std::memory_order_seq_cst);
  return in_time;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats;
  stats.fibers = core_->fibers.load(std::memory_order_relaxed);
  stats.stacks_mapped = core_->stacks.mapped();
  for (const auto& worker : core_->workers) {
    stats.timers += static_cast<int64_t>(worker->timers.Size());
    stats.switches += worker->switches.load(std::memory_order_relaxed);
    stats.steals += worker->steals.load(std::memory_order_relaxed);
    stats.waits += worker->waits.load(std::memory_order_relaxed);
    stats.spins += worker->spins.load(std::memory_order_relaxed);
  }
  stats.stalls = core_->watchdog.stalls();
  return stats;
}

}  // namespace sched
