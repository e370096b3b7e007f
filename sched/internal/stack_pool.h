// SPDX-License-Identifier: Apache-2.0
//
// Stacks for fibers: cut from large slabs, each with a guard page at its low end, recycled last in
// first out.
//
// A worker keeps up to StackCache::kStacksMax stacks for itself and trades with the pool in
// batches. The pool keeps kWarmMax free stacks as they are; beyond that it gives their memory back
// to the kernel (a burst of connections would otherwise leave every stack it touched resident for
// ever). The free lists are arrays beside the stacks, since a list inside them would touch what is
// to be given back.
//
// Guard pages come from MADV_GUARD_INSTALL, which does not split the mapping. Before Linux 6.13
// they are made by mprotect at two mappings each, counted against vm.max_map_count; when that is
// used up, Take fails.
#ifndef PARKWAY_SCHED_INTERNAL_STACK_POOL_H_
#define PARKWAY_SCHED_INTERNAL_STACK_POOL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sched/host.h"
#include "sched/mutex.h"

namespace sched::internal {

inline constexpr size_t kPageBytes = 4096;

// A stack is named by its lowest address, where its guard page lies.
using StackBase = std::byte*;

class StackPool {
 public:
  static constexpr size_t kBatch = 16;
  static constexpr size_t kWarmMax = 512;

  StackPool(Host& host, size_t stack_bytes);
  ~StackPool();  // CHECKs that every stack came back
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  size_t stack_bytes() const { return stack_bytes_; }

  // Up to kBatch stacks with guards; 0 when neither free ones nor memory for more exist. Any
  // thread.
  size_t Take(std::array<StackBase, kBatch>& stacks);
  // Takes them back. Any thread.
  void Give(const StackBase* stacks, size_t count);

  int64_t mapped() const { return mapped_.load(std::memory_order_relaxed); }  // statistics
  // Whether `address` lies in the guard page of the stack `base`.
  static bool InGuard(StackBase base, const void* address) {
    return address >= base && address < base + kPageBytes;
  }

 private:
  static constexpr size_t kStacksPerSlab = 256;

  StackBase TakeFresh() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Guard(StackBase base) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Host& host_;
  const size_t stack_bytes_;
  // Half of what the process may have: the rest is for everything else in it.
  const size_t protected_max_;
  std::atomic<int64_t> mapped_{0};

  Mutex mu_;
  std::vector<void*> slabs_ ABSL_GUARDED_BY(mu_);
  size_t fresh_ ABSL_GUARDED_BY(mu_) = 0;  // stacks of the last slab that were never used
  std::vector<StackBase> warm_ ABSL_GUARDED_BY(mu_);
  std::vector<StackBase> cold_ ABSL_GUARDED_BY(mu_);  // without memory
  size_t taken_ ABSL_GUARDED_BY(mu_) = 0;
  bool guards_by_advice_ ABSL_GUARDED_BY(mu_) = true;
  size_t protected_ ABSL_GUARDED_BY(mu_) = 0;
};

// One worker's free stacks. Owner only.
class StackCache {
 public:
  static constexpr size_t kStacksMax = 4 * StackPool::kBatch;

  explicit StackCache(StackPool& pool) : pool_(pool) {}
  ~StackCache() { pool_.Give(stacks_.data(), count_); }

  // nullptr when the pool has none.
  StackBase Take() {
    if (count_ == 0 && !Refill()) return nullptr;
    return stacks_[--count_];
  }

  void Give(StackBase stack) {
    if (count_ == kStacksMax) Spill();
    stacks_[count_++] = stack;
  }

 private:
  bool Refill();
  void Spill();

  StackPool& pool_;
  size_t count_ = 0;
  std::array<StackBase, kStacksMax> stacks_;
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_STACK_POOL_H_
