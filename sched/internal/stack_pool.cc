// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/stack_pool.h"

#include <algorithm>
#include <cerrno>

#include "sched/check.h"

namespace sched::internal {

StackPool::StackPool(Host& host, size_t stack_bytes)
    : host_(host), stack_bytes_(stack_bytes), protected_max_(host.MappingsMax() / 4) {
  PARKWAY_CHECK(stack_bytes % kPageBytes == 0 && stack_bytes >= 4 * kPageBytes, stack_bytes);
}

StackPool::~StackPool() {
  MutexLock lock(mu_);
  PARKWAY_CHECK(taken_ == 0, taken_);
  for (void* slab : slabs_) host_.UnmapStacks(slab, kStacksPerSlab * stack_bytes_);
}

size_t StackPool::Take(std::array<StackBase, kBatch>& stacks) {
  MutexLock lock(mu_);
  size_t count = 0;
  while (count < kBatch) {
    std::vector<StackBase>& free = warm_.empty() ? cold_ : warm_;
    if (!free.empty()) {
      stacks[count++] = free.back();
      free.pop_back();
      continue;
    }
    const StackBase fresh = TakeFresh();
    if (fresh == nullptr) break;
    stacks[count++] = fresh;
  }
  taken_ += count;
  return count;
}

void StackPool::Give(const StackBase* stacks, size_t count) {
  MutexLock lock(mu_);
  PARKWAY_CHECK(count <= taken_, count);
  taken_ -= count;
  for (size_t i = 0; i < count; ++i) {
    if (warm_.size() < kWarmMax) {
      warm_.push_back(stacks[i]);
      continue;
    }
    host_.Discard(stacks[i] + kPageBytes, stack_bytes_ - kPageBytes);
    cold_.push_back(stacks[i]);
  }
}

StackBase StackPool::TakeFresh() {
  if (fresh_ == 0) {
    void* const slab = host_.MapStacks(kStacksPerSlab * stack_bytes_);
    if (slab == nullptr) return nullptr;
    slabs_.push_back(slab);
    fresh_ = kStacksPerSlab;
  }
  const StackBase base =
      static_cast<StackBase>(slabs_.back()) + (kStacksPerSlab - fresh_) * stack_bytes_;
  if (!Guard(base)) return nullptr;
  --fresh_;
  mapped_.fetch_add(1, std::memory_order_relaxed);
  return base;
}

bool StackPool::Guard(StackBase base) {
  if (guards_by_advice_) {
    const int error = host_.InstallGuard(base, kPageBytes);
    if (error != EINVAL) return error == 0;  // else out of memory, which may pass
    guards_by_advice_ = false;
  }
  if (protected_ == protected_max_ || !host_.Protect(base, kPageBytes)) return false;
  ++protected_;
  return true;
}

bool StackCache::Refill() {
  std::array<StackBase, StackPool::kBatch> batch;
  count_ = pool_.Take(batch);
  std::copy_n(batch.begin(), count_, stacks_.begin());
  return count_ != 0;
}

// The oldest go back: the newest are in the processor's caches.
void StackCache::Spill() {
  pool_.Give(stacks_.data(), StackPool::kBatch);
  std::copy(stacks_.begin() + StackPool::kBatch, stacks_.end(), stacks_.begin());
  count_ -= StackPool::kBatch;
}

}  // namespace sched::internal
