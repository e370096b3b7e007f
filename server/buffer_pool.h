// SPDX-License-Identifier: Apache-2.0
//
// Memory for bytes that were read and could not be written at once.
//
// A relay reads into its worker's scratch buffer and writes that out before it parks; only what the
// target did not take is copied into a leased buffer. So an idle connection holds none, and the
// pool bounds what slow receivers can pin down. A relay looks for room *before* it reads; while the
// pool is used up it moves only what its target takes at once, and leaves the rest in the kernel
// (session.cc). So nobody waits for a buffer, and nobody's slow receiver stops another session.
#ifndef PARKWAY_SERVER_BUFFER_POOL_H_
#define PARKWAY_SERVER_BUFFER_POOL_H_

#include <array>
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
  struct Unmap {
    void operator()(std::byte* buffer) const;
    size_t bytes = 0;
  };
  // Mapped, not allocated: among sizes that come and go an allocator's heaps grow, and
  // --buffer_memory would bound only what is in use.
  using Buffer = std::unique_ptr<std::byte[], Unmap>;

 public:
  // One read's worth. With less, every larger message would look "full" and cost a second read.
  static constexpr size_t kBufferBytes = size_t{64} << 10;

  // What a lease has, the smallest that suffices: a message that was almost taken pins little down.
  static constexpr std::array<size_t, 3> kLeaseBytes = {size_t{4} << 10, size_t{16} << 10,
                                                        kBufferBytes};

  // At most `memory_bytes` are leased at once, or two of the largest per worker if that is more.
  BufferPool(size_t memory_bytes, int workers);
  ~BufferPool();  // CHECKs that every lease ended
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // A buffer that goes back when this ends.
  class Lease {
   public:
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), buffer_(std::move(other.buffer_)) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (pool_ != nullptr) pool_->Return(std::move(buffer_));
    }
    std::span<std::byte> bytes() const { return {buffer_.get(), buffer_.get_deleter().bytes}; }

   private:
    friend class BufferPool;
    Lease(BufferPool* pool, Buffer buffer) : pool_(pool), buffer_(std::move(buffer)) {}
    BufferPool* pool_;
    Buffer buffer_;
  };

  // Whether a lease is left for a read that the caller does now. Any fiber. (Relaxed: who sees an
  // old count leases one more, or does without one that is there.)
  bool HasRoom() const { return leased_.load(std::memory_order_relaxed) < limit_; }

  // For so many bytes, at most kBufferBytes. REQUIRES: HasRoom() since the fiber last parked, and
  // one lease for it. Never waits: one of the largest leases per worker lies above the limit, and
  // each worker runs one fiber between its HasRoom and its next park.
  Lease Take(size_t bytes);

  // The calling worker's own scratch buffer, valid until the fiber parks.
  std::span<std::byte> Scratch();

  // Bytes leased, and those kept for the next lease: together at most what may be leased, except
  // that each worker may be about to free one. Statistics.
  int64_t leased() const { return leased_.load(std::memory_order_relaxed); }
  int64_t kept();

 private:
  using Shelf = std::array<std::vector<Buffer>, kLeaseBytes.size()>;

  static Buffer Map(size_t bytes);
  void Return(Buffer buffer);

  const int64_t limit_;  // bytes leased at which there is no room
  std::vector<Buffer> scratch_;
  std::atomic<int64_t> leased_{0};

  sched::Mutex mu_;
  Shelf shelf_ ABSL_GUARDED_BY(mu_);
  int64_t kept_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_BUFFER_POOL_H_
