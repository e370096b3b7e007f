// SPDX-License-Identifier: Apache-2.0
//
// Runs fibers on worker threads, one per event source.
#ifndef PARKWAY_SCHED_SCHEDULER_H_
#define PARKWAY_SCHED_SCHEDULER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sched/clock.h"
#include "sched/event_source.h"
#include "sched/fibers.h"
#include "sched/host.h"
#include "sched/waiter.h"

namespace sched {

namespace internal {
struct Core;
}

// A worker did not come back from a fiber for a while.
struct StallReport {
  int worker;
  uint64_t fiber_id;
  Duration blocked_for;
  std::vector<std::string>
      stack;  // innermost first, one function per entry; empty if it could not be had
};

// One line, without its end.
std::string ToString(const StallReport& report);

// Figures since the start; each is exact, they are not one snapshot.
struct SchedulerStats {
  int64_t fibers = 0;         // alive now, hibernating ones and those still to start too
  int64_t stacks_mapped = 0;  // ever mapped: the high-water mark
  int64_t timers = 0;         // armed now
  int64_t switches = 0;       // fibers run
  int64_t steals = 0;         // successful ones
  int64_t waits = 0;          // waits that could block
  int64_t spins = 0;          // polls instead of such a wait
  int64_t stalls = 0;         // reported
};

class Scheduler {
 public:
  struct Options {
    // One worker waits in each, at most 1024. They outlive the scheduler.
    std::vector<EventSource*> event_sources{};
    Host* host = nullptr;  // nullptr: Host::Real()
    // Address space per fiber, guard page included; a multiple of 4096, at least 16 KiB. A parked
    // fiber costs the pages it touched, at least one. 0: 64 KiB (256 KiB in sanitizer builds, whose
    // frames are larger).
    size_t fiber_stack_bytes = 0;
    // Spawn fails beyond this.
    int64_t fiber_count_max = int64_t{1} << 20;
    // How long a worker polls at most before it sleeps, where what came lately says that it pays
    // (internal/spin_policy.h): lowers the latency of a lone busy connection, and burns a core
    // meanwhile. Ignored on a machine with one core.
    Duration spin{0};
    // CPU i of this list carries worker i (modulo its size); empty: not pinned.
    std::vector<int> cpus{};
    // Called on the watchdog's thread, at most once per second, when a worker has not come back
    // from one fiber for `stall_after` (and up to 5 ms more); 0: never. Default: a line
    // on stderr, which may block it. It must not destroy the scheduler.
    std::function<void(const StallReport&)> on_stall{};
    Duration stall_after = std::chrono::milliseconds(10);
  };

  // How many workers suit this machine: the CPUs of the affinity mask, limited by the cgroup's CPU
  // quota (rounded up).
  static int DefaultWorkerCount();
  // The CPUs of the affinity mask, ascending.
  static std::vector<int> AllowedCpus();

  // Starts the workers. Installs, for the process, a SIGSEGV handler that explains stack overflows
  // and a SIGURG handler that samples a stalled worker's stack.
  explicit Scheduler(const Options& options);
  // Stops the workers. CHECKs that no fiber is left.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  int worker_count() const;

  // Starts a fiber on `worker`, unless that is stuck (not back for about a millisecond): then
  // another may start it. Once it has blocked it may go on anywhere. Any thread, never blocks.
  // False as sched::Spawn.
  [[nodiscard]] bool SpawnOn(int worker, FiberFn fn);
  // The same without an allocation; `continuation` must live until it runs. See park.h.
  [[nodiscard]] bool SpawnOn(int worker, Continuation& continuation);

  // Blocks the calling thread, which must not be a worker, until no fiber is left. False if
  // `deadline` came first.
  bool DrainUntil(Deadline deadline);

  SchedulerStats stats() const;

 private:
  std::unique_ptr<internal::Core> core_;
};

}  // namespace sched

#endif  // PARKWAY_SCHED_SCHEDULER_H_
