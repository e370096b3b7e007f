// SPDX-License-Identifier: Apache-2.0
#include "server/buffer_pool.h"

#include <algorithm>

#include "sched/check.h"
#include "sched/fibers.h"

namespace parkway {
namespace {

// Free buffers kept for the next slow receiver; the rest goes back to the allocator.
constexpr size_t kFreeMax = 64;

}  // namespace

BufferPool::BufferPool(size_t memory_bytes, int workers)
    : limit_(
          std::max<int64_t>(static_cast<int64_t>(memory_bytes / kBufferBytes) - workers, workers)) {
  for (int i = 0; i < workers; ++i) {
    scratch_.push_back(std::make_unique_for_overwrite<std::byte[]>(kBufferBytes));
  }
}

BufferPool::~BufferPool() {
  PARKWAY_CHECK(leased() == 0, leased());
  for (std::byte* buffer : free_) delete[] buffer;
}

std::span<std::byte> BufferPool::Scratch() {
  return {scratch_[sched::CurrentWorkerIndex()].get(), kBufferBytes};
}

BufferPool::Lease BufferPool::Take() {
  leased_.fetch_add(1, std::memory_order_relaxed);
  {
    sched::MutexLock lock(mu_);
    if (!free_.empty()) {
      std::byte* const buffer = free_.back();
      free_.pop_back();
      return Lease(this, buffer);
    }
  }
  return Lease(this, new std::byte[kBufferBytes]);
}

void BufferPool::Return(std::byte* buffer) {
  {
    sched::MutexLock lock(mu_);
    if (free_.size() < kFreeMax) {
      free_.push_back(buffer);
      buffer = nullptr;
    }
  }
  delete[] buffer;
  leased_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace parkway
