// SPDX-License-Identifier: Apache-2.0
//
// A Host whose threads are coroutines of one real thread and whose clock is virtual: the real
// scheduler runs on it, in an order that a seed chooses, and sleeps cost no time. Time moves only
// when everybody waits.
#ifndef PARKWAY_SCHED_TESTING_ONE_THREAD_HOST_H_
#define PARKWAY_SCHED_TESTING_ONE_THREAD_HOST_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sched/event_source.h"
#include "sched/host.h"
#include "sched/internal/worker.h"
#include "sched/testing/coroutine.h"

namespace sched::testing {

class OneThreadHost final : public Host {
 public:
  explicit OneThreadHost(uint64_t seed);
  ~OneThreadHost() override;  // REQUIRES: its threads have been joined

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
  uint64_t Random(uint64_t stream) override { return stream; }
  std::unique_ptr<Thread> StartThread(const std::string& name, int cpu, Step step) override;
  std::unique_ptr<Event> NewEvent() override;

  void* MapStacks(size_t bytes) override { return Real().MapStacks(bytes); }
  void UnmapStacks(void* start, size_t bytes) override { Real().UnmapStacks(start, bytes); }
  int InstallGuard(void* start, size_t bytes) override { return Real().InstallGuard(start, bytes); }
  bool Protect(void* start, size_t bytes) override { return Real().Protect(start, bytes); }
  void Discard(void* start, size_t bytes) override { Real().Discard(start, bytes); }
  size_t MappingsMax() override { return Real().MappingsMax(); }

 private:
  struct SimulatedThread;
  class Handle;
  class SimulatedEvent;

  // From a thread: lets others run until *condition or `until`.
  void Block(Deadline until, const bool* condition);
  // From outside: lets one thread run, or moves the clock, but not past `limit`. False at `limit`,
  // or when all wait for ever.
  bool RunOne(Deadline limit);
  void Resume(SimulatedThread& thread);

  std::mt19937_64 choice_;
  Deadline now_{std::chrono::hours(1)};
  Coroutine outside_;
  SimulatedThread* running_ = nullptr;
  std::vector<std::unique_ptr<SimulatedThread>> threads_;
};

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_ONE_THREAD_HOST_H_
