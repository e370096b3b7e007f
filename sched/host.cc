// SPDX-License-Identifier: Apache-2.0
#include "sched/host.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "sched/check.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

namespace sched {
namespace {

// A flag one thread sets and another waits for.
class Signal {
 public:
  // Notifies under the lock: whoever waited may destroy this at once.
  void Set() {
    std::lock_guard<std::mutex> lock(mu_);
    set_ = true;
    changed_.notify_all();
  }

  // Takes the flag back when it was set.
  bool WaitUntil(Deadline deadline) {
    std::unique_lock<std::mutex> lock(mu_);
    if (deadline == kNever) {
      changed_.wait(lock, [this] { return set_; });
    } else {
      changed_.wait_until(lock, deadline, [this] { return set_; });
    }
    return std::exchange(set_, false);
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  bool set_ = false;
};

class RealEvent final : public Host::Event {
 public:
  void Set() override { signal_.Set(); }
  bool WaitUntil(Deadline deadline) override { return signal_.WaitUntil(deadline); }

 private:
  Signal signal_;
};

class RealThread final : public Host::Thread {
 public:
  RealThread(const std::string& name, int cpu, Host::Step step)
      : thread_([this, name, cpu, step = std::move(step)] {
          pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
          if (cpu >= 0) PinTo(cpu);
          started_.Set();
          Loop(step);
        }) {
    (void)started_.WaitUntil(kNever);
  }
  ~RealThread() override { thread_.join(); }

  void Wake() override { woken_.Set(); }

 private:
  static void PinTo(int cpu) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    const int error = pthread_setaffinity_np(pthread_self(), sizeof only, &only);
    PARKWAY_CHECK(error == 0, cpu);
  }

  void Loop(const Host::Step& step) {
    for (;;) {
      const std::optional<Deadline> next = step();
      if (!next) return;
      if (*next != kLongAgo) (void)woken_.WaitUntil(*next);
    }
  }

  Signal started_;
  Signal woken_;
  std::thread thread_;  // last: it uses the members above
};

class RealHost final : public Host {
 public:
  Deadline Now() override { return std::chrono::steady_clock::now(); }

  int64_t WallNow() override {
    return std::chrono::duration_cast<Duration>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  uint64_t Random(uint64_t stream) override {
    thread_local std::mt19937_64 generator{std::random_device()()};
    return generator() ^ stream;
  }

  std::unique_ptr<Thread> StartThread(const std::string& name, int cpu, Step step) override {
    return std::make_unique<RealThread>(name, cpu, std::move(step));
  }

  std::unique_ptr<Event> NewEvent() override { return std::make_unique<RealEvent>(); }

  void* MapStacks(size_t bytes) override {
    void* const start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    // Before the first touch: one huge page would make every stack cost 2 MiB. Kernels built
    // without huge pages refuse the advice, and need none.
    (void)madvise(start, bytes, MADV_NOHUGEPAGE);
    return start;
  }

  void UnmapStacks(void* start, size_t bytes) override { munmap(start, bytes); }

  // Not inlined: it reads errno, and is called on fibers (docs/decisions/0009).
  [[gnu::noinline]] int InstallGuard(void* start, size_t bytes) override {
    return madvise(start, bytes, MADV_GUARD_INSTALL) == 0 ? 0 : errno;
  }

  bool Protect(void* start, size_t bytes) override {
    return mprotect(start, bytes, PROT_NONE) == 0;
  }

  void Discard(void* start, size_t bytes) override {
    (void)madvise(start, bytes, MADV_DONTNEED);  // advice: refused, it costs memory only
  }

  size_t MappingsMax() override {
    size_t max = 65530;  // the kernel's default, where /proc is not mounted
    std::ifstream("/proc/sys/vm/max_map_count") >> max;
    return max;
  }
};

}  // namespace

Host& Host::Real() {
  static RealHost* const host = new RealHost;  // leaked: threads may use it during exit
  return *host;
}

}  // namespace sched
