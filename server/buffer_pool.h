// SPDX-License-Identifier: Apache-2.0
//
// Memory for bytes that were read and could not be written at once.
//
// A relay reads into its worker's scratch buffer and writes that out before it parks; only what the
// target did not take is copied into a leased buffer. So an idle connection holds none, and the
// pool bounds what slow receivers can pin down. A relay asks for room *before* it reads, and waits
// in line, holding nothing, while the pool is exhausted. Each buffer that comes back wakes one of
// the line, and who then needs none wakes the next.
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

  // Room for one read that the caller does now.
  class Room {
   public:
    // Blocks the fiber while every buffer is leased. One load when there is room.
    explicit Room(BufferPool& pool) : pool_(pool) {
      while (pool_.leased_.load(std::memory_order_seq_cst) >= pool_.limit_) {
        pool_.Wait();
        was_in_line_ = true;
      }
    }
    ~Room() {
      if (was_in_line_) pool_.WakeNext();
    }
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;

    // REQUIRES: the fiber has not parked since the Room was made; once. Never waits: as many
    // buffers as there are workers lie above the limit, and each worker runs one fiber between its
    // Room and its next park.
    Lease Take() {
      was_in_line_ = false;  // the buffer wakes the next when it comes back
      return pool_.Take();
    }

   private:
    BufferPool& pool_;
    bool was_in_line_ = false;
  };

  // The calling worker's own scratch buffer, valid until the fiber parks.
  std::span<std::byte> Scratch();

  // Statistics.
  int64_t leased() const { return leased_.load(std::memory_order_relaxed); }
  int64_t in_line() const { return in_line_.load(std::memory_order_relaxed); }

 private:
  Lease Take();
  void Return(std::byte* buffer);
  void Wait();
  void WakeNext();

  const int64_t limit_;  // buffers at which a Room waits
  std::vector<std::unique_ptr<std::byte[]>> scratch_;
  std::atomic<int64_t> leased_{0};
  // Fibers in line. Counted before leased_ is looked at again, read after it fell: seq_cst, so that
  // one of the two notices.
  std::atomic<int64_t> in_line_{0};

  sched::Mutex mu_;
  std::vector<std::byte*> free_ ABSL_GUARDED_BY(mu_);
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_BUFFER_POOL_H_
