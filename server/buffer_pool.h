// SPDX-License-Identifier: Apache-2.0
//
// Memory for bytes that were read and could not be written at once.
//
// A relay reads into its worker's scratch buffer and writes that out before it parks; only what the
// target did not take is copied into a leased buffer. So an idle connection holds none, and the
// pool bounds what slow receivers can pin down. A relay asks for room *before* it reads, and waits
// in line, holding nothing, while the pool is exhausted.
#ifndef PARKWAY_SERVER_BUFFER_POOL_H_
#define PARKWAY_SERVER_BUFFER_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "sched/mutex.h"

namespace parkway {

class BufferPool {
 public:
  // One read's worth. With less, every larger message would look "full" and cost a second read.
  static constexpr size_t kBufferBytes = size_t{64} << 10;

  // At most `memory_bytes` are leased at once, and at least two buffers per worker.
  BufferPool(size_t memory_bytes, int workers);
  ~BufferPool();  // CHECKs that every lease ended
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // A buffer that goes back when this ends.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), buffer_(other.buffer_) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (pool_ != nullptr) pool_->Return(buffer_);
    }
    std::span<std::byte> bytes() const { return {buffer_, kBufferBytes}; }

   private:
    friend class BufferPool;
    Lease(BufferPool* pool, std::byte* buffer) : pool_(pool), buffer_(buffer) {}
    BufferPool* pool_ = nullptr;
    std::byte* buffer_ = nullptr;
  };

  // Blocks the fiber until a buffer is left for a read that the caller does now. One load when
  // there is room. Before it parks next, the caller may take one lease.
  void AwaitRoom() {
    while (leased_.load(std::memory_order_seq_cst) >= limit_) Wait();
  }

  // REQUIRES: AwaitRoom() since the fiber last parked. Never waits: as many buffers as there are
  // workers lie above the limit, and each worker runs one fiber between its AwaitRoom and its next
  // park.
  Lease Take();

  // The calling worker's own scratch buffer, valid until the fiber parks.
  std::span<std::byte> Scratch();

  int64_t leased() const { return leased_.load(std::memory_order_relaxed); }  // statistics

 private:
  void Wait();
  void Return(std::byte* buffer);

  const int64_t limit_;  // buffers at which AwaitRoom waits
  std::vector<std::unique_ptr<std::byte[]>> scratch_;
  std::atomic<int64_t> leased_{0};
  // Somebody waits in the parking lot. Stored before leased_ is looked at again, read after it
  // fell: seq_cst, so that one of the two notices.
  std::atomic<bool> waited_for_{false};

  sched::Mutex mu_;
  std::vector<std::byte*> free_ ABSL_GUARDED_BY(mu_);
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_BUFFER_POOL_H_
