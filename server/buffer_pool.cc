// SPDX-License-Identifier: Apache-2.0
#include "server/buffer_pool.h"

#include <algorithm>

#include "sched/check.h"
#include "sched/fibers.h"

namespace parkway {
namespace {

// Free buffers of each size kept for the next slow receiver; the rest goes back to the allocator.
constexpr size_t kFreeMax = 64;

int SizeFor(size_t bytes) {
  constexpr auto& kSizes = BufferPool::kLeaseBytes;
  PARKWAY_CHECK(bytes <= kSizes.back(), bytes);
  return static_cast<int>(std::lower_bound(kSizes.begin(), kSizes.end(), bytes) - kSizes.begin());
}

int64_t Limit(size_t memory_bytes, int workers) {
  const auto scratch = static_cast<int64_t>(BufferPool::kBufferBytes) * workers;
  return std::max(static_cast<int64_t>(memory_bytes) - scratch, scratch);
}

}  // namespace

BufferPool::BufferPool(size_t memory_bytes, int workers) : limit_(Limit(memory_bytes, workers)) {
  for (int i = 0; i < workers; ++i) {
    scratch_.push_back(std::make_unique_for_overwrite<std::byte[]>(kBufferBytes));
  }
}

BufferPool::~BufferPool() {
  PARKWAY_CHECK(leased() == 0, leased());
  for (const auto& buffers : free_) {
    for (std::byte* const buffer : buffers) delete[] buffer;
  }
}

std::span<std::byte> BufferPool::Scratch() {
  return {scratch_[sched::CurrentWorkerIndex()].get(), kBufferBytes};
}

BufferPool::Lease BufferPool::Take(size_t bytes) {
  const int size = SizeFor(bytes);
  leased_.fetch_add(static_cast<int64_t>(kLeaseBytes[size]), std::memory_order_relaxed);
  {
    sched::MutexLock lock(mu_);
    if (!free_[size].empty()) {
      std::byte* const buffer = free_[size].back();
      free_[size].pop_back();
      return Lease(this, buffer, size);
    }
  }
  return Lease(this, new std::byte[kLeaseBytes[size]], size);
}

void BufferPool::Return(std::byte* buffer, int size) {
  {
    sched::MutexLock lock(mu_);
    if (free_[size].size() < kFreeMax) {
      free_[size].push_back(buffer);
      buffer = nullptr;
    }
  }
  delete[] buffer;
  leased_.fetch_sub(static_cast<int64_t>(kLeaseBytes[size]), std::memory_order_relaxed);
}

}  // namespace parkway
