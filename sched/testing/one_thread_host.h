// SPDX-License-Identifier: Apache-2.0
//
// A Host whose threads are coroutines of one real thread and whose clock is virtual: the real
// scheduler runs on it, in an order that a seed chooses, and sleeps cost no time. Time moves a
// little with every turn of a thread, and jumps when everybody waits.
#ifndef PARKWAY_SCHED_TESTING_ONE_THREAD_HOST_H_
#define PARKWAY_SCHED_TESTING_ONE_THREAD_HOST_H_

#include <climits>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sched/event_source.h"
#include "sched/host.h"
#include "sched/internal/worker.h"
#include "sched/testing/coroutine.h"
#include "sched/testing/event_log.h"

namespace sched::testing {

class OneThreadHost final : public Host {
 public:
  struct Options {
    // What a turn of a thread costs, at most.
    Duration turn_max{0};
    // Chances in 1024: that Pause() lets others run; that a turn begins with the thread standing
    // still for up to `freeze_max`, as if its core were taken away.
    int pause_chance = 0;
    int freeze_chance = 0;
    Duration freeze_max{0};
    // Chance in 1024 that Stall() keeps its thread for up to `stall_max`; one at a time.
    int stall_chance = 0;
    Duration stall_max{0};
    // How many mappings for stacks there are.
    int stack_slabs_max = INT_MAX;
  };

  explicit OneThreadHost(uint64_t seed) : OneThreadHost(seed, Options()) {}
  OneThreadHost(uint64_t seed, const Options& options);
  ~OneThreadHost() override;  // REQUIRES: its threads have been joined

  // What happens at instants of its own and not on a thread: packets that arrive, peers that act.
  class Activity {
   public:
    virtual ~Activity() = default;
    virtual Deadline next() const = 0;  // kNever: nothing to do
    virtual void Run() = 0;             // does one thing that is due; never blocks
  };
  // From here on; it must outlive all turns.
  void Add(Activity& activity) { activities_.push_back(&activity); }

  // What a worker sleeps in: no events but Interrupt.
  class Source final : public EventSource {
   public:
    explicit Source(OneThreadHost& host) : host_(host) {}
    void Wait(Deadline until, WaiterList& ready) override;
    bool Poll(WaiterList&) override { return true; }
    void Interrupt() override { interrupted_ = true; }

   private:
    OneThreadHost& host_;
    bool interrupted_ = false;
  };

  Deadline Now() override { return now_; }
  int64_t WallNow() override { return ToNs(now_); }
  uint64_t Random(uint64_t stream) override;
  std::unique_ptr<Thread> StartThread(const std::string& name, int cpu, Step step) override;
  std::unique_ptr<Event> NewEvent() override;

  void* MapStacks(size_t bytes) override {
    return slabs_++ < options_.stack_slabs_max ? Real().MapStacks(bytes) : nullptr;
  }
  void UnmapStacks(void* start, size_t bytes) override { Real().UnmapStacks(start, bytes); }
  int InstallGuard(void* start, size_t bytes) override { return Real().InstallGuard(start, bytes); }
  bool Protect(void* start, size_t bytes) override { return Real().Protect(start, bytes); }
  void Discard(void* start, size_t bytes) override { Real().Discard(start, bytes); }
  size_t MappingsMax() override { return Real().MappingsMax(); }

  // From a thread or from outside: lets others run until *condition (true) or `until` (false).
  // From outside also false when all wait for ever.
  bool Await(Deadline until, const bool* condition);
  // Likewise, until `until`.
  void SleepUntil(Deadline until);
  // Time passes, and nobody else runs meanwhile.
  void Spend(Duration span) { now_ += span; }
  // From a thread: lets others run first, now and then or, with `always`, in any case. From
  // outside: nothing.
  void Pause(bool always = false);

  // From a thread, in the middle of a fiber: now and then it takes long, as if the fiber computed.
  void Stall();
  int64_t stalls() const { return stalls_; }

  // A number below `count`, by the seed.
  uint64_t Choose(uint64_t count) { return choice_() % count; }
  bool Chance(int in_1024) { return in_1024 > 0 && static_cast<int>(choice_() % 1024) < in_1024; }

  // Turns and activities so far.
  int64_t turns() const { return turns_; }
  EventLog& log() { return log_; }
  void Note(const char* what, int64_t a = 0, int64_t b = 0, int64_t c = 0) {
    log_.Note(ToNs(now_), what, a, b, c);
  }

 private:
  struct SimulatedThread;
  class Handle;
  class SimulatedEvent;

  // From a thread: lets others run until *condition or `until`.
  void Block(Deadline until, const bool* condition);
  // From outside: lets one thread or activity run, or moves the clock, but not past `limit`. False
  // at `limit`, or when all wait for ever.
  bool RunOne(Deadline limit);
  bool RunOneDue();
  Deadline NextDue() const;
  void Resume(SimulatedThread& thread);

  const Options options_;
  const uint64_t seed_;
  std::mt19937_64 choice_;
  Deadline now_{std::chrono::hours(1)};
  int64_t turns_ = 0;
  int64_t stalls_ = 0;
  int slabs_ = 0;
  Deadline stalled_until_ = kLongAgo;
  EventLog log_;
  Coroutine outside_;
  SimulatedThread* running_ = nullptr;
  std::vector<std::unique_ptr<SimulatedThread>> threads_;
  std::vector<Activity*> activities_;
  std::vector<SimulatedThread*> runnable_;  // scratch of RunOneDue
  std::vector<Activity*> due_;              // likewise
};

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_ONE_THREAD_HOST_H_
