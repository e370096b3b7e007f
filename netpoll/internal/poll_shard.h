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

  // Owner only. nullptr when all are taken.
  PollDesc* Take();
  // Any thread.
  void Give(PollDesc* desc);

  // Makes epoll watch `fd` for the life of the descriptor; at once it reports what is ready
  // already. A socket that is never waited for in writing is not watched for that: it would be
  // reported as writable once, which nobody needs. Returns 0 or an errno (ENOSPC, ENOMEM). Any
  // thread that uses `desc`.
  int Register(PollDesc& desc, int fd, Direction direction);

  const Kernel& kernel() const { return kernel_; }

  // PollDescs in use; for leak checks and statistics.
  int64_t in_use() const {
    return own_uses_.load(std::memory_order_relaxed) -
           given_by_others_.load(std::memory_order_relaxed);
  }

  const int index;

 private:
  int Collect(const timespec* timeout, sched::WaiterList& ready, bool consume_interrupt);
  void ConsumeInterrupt();
  PollDesc* Find(uint32_t desc_index);
  bool Grow();
  void NoteOwnUse(int more);

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

  // Filled by the owner, once per chunk; read by anyone.
  std::array<std::atomic<PollDesc*>, kChunksMax> chunks_{};
  // The owner's alone: PollDescs to take, linked by next_free.
  size_t chunk_count_ = 0;
  uint32_t free_ = PollDesc::kNone;
  std::atomic<int64_t> own_uses_{0};  // taken, less those the owner gave back
  // Given back by others, who push one at a time (release); the owner takes all (acquire), so that
  // none is seen there twice (Treiber 1986, without its ABA).
  alignas(64) std::atomic<uint32_t> given_{PollDesc::kNone};
  std::atomic<int64_t> given_by_others_{0};
};

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_
