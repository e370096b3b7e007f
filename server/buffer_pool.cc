// SPDX-License-Identifier: Apache-2.0
#include "server/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>

#include "sched/check.h"
#include "sched/fibers.h"

namespace parkway {
namespace {

// Bytes in buffers kept for the next slow receiver; the rest goes back to the kernel.
constexpr int64_t kKeptMax = 256 << 10;

// The index of the smallest lease that suffices.
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

void BufferPool::Unmap::operator()(std::byte* buffer) const { (void)munmap(buffer, bytes); }

BufferPool::Buffer BufferPool::Map(size_t bytes) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  PARKWAY_CHECK(at != MAP_FAILED, bytes);  // out of memory
  return Buffer(static_cast<std::byte*>(at), Unmap{bytes});
}

BufferPool::BufferPool(size_t memory_bytes, int workers) : limit_(Limit(memory_bytes, workers)) {
  for (int i = 0; i < workers; ++i) scratch_.push_back(Map(kBufferBytes));
}

BufferPool::~BufferPool() { PARKWAY_CHECK(leased() == 0, leased()); }

std::span<std::byte> BufferPool::Scratch() {
  return {scratch_[sched::CurrentWorkerIndex()].get(), kBufferBytes};
}

BufferPool::Lease BufferPool::Take(size_t bytes) {
  const int size = SizeFor(bytes);
  const auto taken = static_cast<int64_t>(kLeaseBytes[size]);
  const int64_t leased = leased_.fetch_add(taken, std::memory_order_relaxed) + taken;
  Shelf dropped;  // unmapped after the lock
  {
    sched::MutexLock lock(mu_);
    if (std::vector<Buffer>& fitting = shelf_[size]; !fitting.empty()) {
      Buffer buffer = std::move(fitting.back());
      fitting.pop_back();
      kept_ -= taken;
      return Lease(this, std::move(buffer));
    }
    if (leased + kept_ > limit_) {
      dropped.swap(shelf_);
      kept_ = 0;
    }
  }
  return Lease(this, Map(kLeaseBytes[size]));
}

// A parameter outlives the lock, so that what is not kept is unmapped after it.
void BufferPool::Return(Buffer buffer) {
  const size_t bytes = buffer.get_deleter().bytes;
  const auto given = static_cast<int64_t>(bytes);
  const int64_t leased = leased_.fetch_sub(given, std::memory_order_relaxed) - given;
  sched::MutexLock lock(mu_);
  if (kept_ + given > std::min(kKeptMax, limit_ - leased)) return;
  shelf_[SizeFor(bytes)].push_back(std::move(buffer));
  kept_ += given;
}

int64_t BufferPool::kept() {
  sched::MutexLock lock(mu_);
  return kept_;
}

}  // namespace parkway
