// SPDX-License-Identifier: Apache-2.0
//
// One worker's share of the poller: an epoll, an eventfd that ends its waits, and the PollDescs
// registered there.
#ifndef PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_
#define PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "netpoll/internal/poll_desc.h"
#include "netpoll/kernel.h"
#include "sched/event_source.h"
#include "sched/host.h"
#include "sched/mutex.h"

namespace netpoll::internal {

class PollShard final : public sched::EventSource {
 public:
  // Events collected by one wait.
  static constexpr int kEventsMax = 128;
  // PollDescs per shard: 4 Mi, more than the kernel has descriptors for.
  static constexpr size_t kChunk = 256;
  static constexpr size_t kChunksMax = 16384;

  PollShard(const Kernel& kernel, sched::Host& host, int index);
  ~PollShard() override;  // CHECKs that every PollDesc came back
  PollShard(const PollShard&) = delete;
  PollShard& operator=(const PollShard&) = delete;

  // Creates the descriptors. Call once, first.
  absl::Status Open();

  // sched::EventSource.
  void Wait(sched::Deadline until, sched::WaiterList& ready) override;
  bool Poll(sched::WaiterList& ready) override;
  void Interrupt() override;

  // Any thread. nullptr when all are taken.
  PollDesc* Take();
  void Give(PollDesc* desc);

  // Makes epoll watch `fd` for the life of the descriptor; at once it reports what is ready
  // already. Returns 0 or an errno (ENOSPC, ENOMEM). Any thread that uses `desc`.
  int Register(PollDesc& desc, int fd);

  const Kernel& kernel() const { return kernel_; }

  // PollDescs in use; for leak checks and statistics.
  int64_t in_use() const { return in_use_.load(std::memory_order_relaxed); }

  const int index;

 private:
  int Collect(const timespec* timeout, sched::WaiterList& ready, bool consume_interrupt);
  void ConsumeInterrupt();
  PollDesc* Find(uint32_t desc_index);
  bool Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Kernel& kernel_;
  sched::Host& host_;
  int epoll_ = -1;
  int event_ = -1;

  // Keeps thieves apart; the owner waits without it, as epoll gives each event to one waiter.
  std::atomic<bool> polled_by_thief_{false};
  // An interrupt was sent and not taken yet. Interrupt exchanges it and writes the eventfd if it
  // was clear; the owner reads the eventfd, clears it, and then looks at its queues: whoever found
  // it set is looked after by that look.
  std::atomic<bool> interrupted_{false};

  // Filled once per chunk under mu_, read by Find without it.
  std::array<std::atomic<PollDesc*>, kChunksMax> chunks_{};
  sched::Mutex mu_;
  size_t chunk_count_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t free_ ABSL_GUARDED_BY(mu_) = PollDesc::kNone;
  std::atomic<int64_t> in_use_{0};
};

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_
