// SPDX-License-Identifier: Apache-2.0
//
// The generator's event loop: one thread, edge-triggered epoll.
#ifndef PARKWAY_BENCH_LOADGEN_LOOP_H_
#define PARKWAY_BENCH_LOADGEN_LOOP_H_

#include <sys/epoll.h>

#include <cstdint>

namespace loadgen {

// Nanoseconds of the monotonic clock.
int64_t Now();

class Handler {
 public:
  virtual void OnReady(uint32_t events) = 0;

 protected:
  ~Handler() = default;
};

class Loop {
 public:
  // `spins`: it never sleeps, so that its own waking is no part of a latency.
  explicit Loop(bool spins);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Tells `handler`, which must live until `fd` is closed, of edges.
  void Watch(int fd, Handler* handler);
  // One wait, until `until` at most, and what came of it.
  void Turn(int64_t until);

 private:
  const bool spins_;
  const int epoll_;
};

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_LOOP_H_
