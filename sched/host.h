// SPDX-License-Identifier: Apache-2.0
//
// The seam to the machine below the scheduler: clocks, randomness, threads, memory. Production is
// Host::Real(); a simulation supplies its own. Threads start only here.
#ifndef PARKWAY_SCHED_HOST_H_
#define PARKWAY_SCHED_HOST_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "sched/clock.h"

namespace sched {

class Host {
 public:
  // A thread that calls its step over and over; destroying it joins, so its step must be about to
  // return nullopt.
  class Thread {
   public:
    virtual ~Thread() = default;
    // Any thread: the step is called soon, whatever instant its last call returned. Never lost.
    virtual void Wake() = 0;
  };

  // For threads that are not workers: blocks the calling thread. One Set ends one WaitUntil, now or
  // later.
  class Event {
   public:
    virtual ~Event() = default;
    virtual void Set() = 0;
    // True if set, false if `deadline` came first.
    virtual bool WaitUntil(Deadline deadline) = 0;
  };

  // Does some work and returns when it wants to be called next: kLongAgo for at once, kNever for
  // when woken; nullopt ends the thread.
  using Step = std::function<std::optional<Deadline>()>;

  virtual ~Host() = default;

  virtual Deadline Now() = 0;
  // Nanoseconds since 1970, for log lines only.
  virtual int64_t WallNow() = 0;
  // A number from the named stream; equal seeds give equal streams in a simulation.
  virtual uint64_t Random(uint64_t stream) = 0;
  // Returns when the thread has its name and its CPU; `cpu` < 0: wherever the kernel likes. Dies if
  // it cannot be started.
  virtual std::unique_ptr<Thread> StartThread(const std::string& name, int cpu, Step step) = 0;
  virtual std::unique_ptr<Event> NewEvent() = 0;

  // Address space for stacks, zeroed on first touch, without huge pages; nullptr if there is none.
  virtual void* MapStacks(size_t bytes) = 0;
  virtual void UnmapStacks(void* start, size_t bytes) = 0;
  // Makes touching the range fatal without splitting the mapping. 0, or the errno: EINVAL before
  // Linux 6.13, which cannot.
  virtual int InstallGuard(void* start, size_t bytes) = 0;
  // The same by page protection, which costs two mappings. False: refused.
  virtual bool Protect(void* start, size_t bytes) = 0;
  // Gives the range's memory back; it reads as zeroes afterwards.
  virtual void Discard(void* start, size_t bytes) = 0;
  // How many mappings the process may have.
  virtual size_t MappingsMax() = 0;

  // The machine itself; lives for ever.
  static Host& Real();
};

}  // namespace sched

#endif  // PARKWAY_SCHED_HOST_H_
