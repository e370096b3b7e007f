// SPDX-License-Identifier: Apache-2.0
//
// Pipes for large flows: what BufferPool's scratch buffers and leases are for copying.
//
// A relay splices into a pipe of its worker's and out of it before it parks. If the target does not
// take everything, the relay keeps that pipe until it has, and the worker uses another. So flows
// that are not blocked share one pipe per worker, and an idle one has none. The pool bounds what
// blocked ones can pin down; when it is used up, or the kernel grants no pipe, relays copy.
#ifndef PARKWAY_SERVER_PIPE_POOL_H_
#define PARKWAY_SERVER_PIPE_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "netpoll/kernel.h"
#include "netpoll/pipe.h"

namespace parkway {

// Which flows are spliced; other ones are copied.
struct LargeFlows {
  size_t splice = size_t{16} << 10;  // bytes: a splice of so much costs less than a copy of it
  bool from_start = false;           // every flow, until it shows itself small: in simulations
};

class PipePool {
 public:
  static constexpr size_t kPipeBytes = size_t{512} << 10;

  // At most `pipes` at once; 0: relays copy.
  PipePool(const netpoll::Kernel& kernel, int64_t pipes, int workers);
  ~PipePool();  // CHECKs that every kept pipe was given back
  PipePool(const PipePool&) = delete;
  PipePool& operator=(const PipePool&) = delete;

  struct Returner {
    PipePool* pool;
    void operator()(netpoll::Pipe* pipe) const { pool->Return(pipe); }
  };
  // A pipe that its worker does not use meanwhile.
  using Kept = std::unique_ptr<netpoll::Pipe, Returner>;

  // An empty pipe of the calling worker's; nullptr: there is none now. Until the fiber parks, and
  // by then it must be empty again or kept.
  netpoll::Pipe* Scratch();
  Kept KeepScratch();

  int64_t open() const { return open_.load(std::memory_order_relaxed); }  // statistics

 private:
  // What a worker alone uses.
  struct alignas(64) Own {
    std::unique_ptr<netpoll::Pipe> pipe;  // empty; or none, until one is needed
    int64_t refused_until = 0;            // nanoseconds: the kernel granted none
  };

  Own& own();
  void Open(Own& own);
  void Return(netpoll::Pipe* kept);

  const netpoll::Kernel kernel_;
  const int64_t limit_;
  std::vector<Own> own_;
  // Relaxed, both: they are only counts.
  std::atomic<int64_t> open_{0};
  std::atomic<int64_t> kept_{0};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_PIPE_POOL_H_
