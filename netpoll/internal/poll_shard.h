// SPDX-License-Identifier: Apache-2.0
//
// One worker's share of the poller: an epoll, an eventfd that ends its waits, and the PollDescs
// registered there.
#ifndef PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_
#define PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "netpoll/internal/poll_desc.h"
#include "netpoll/kernel.h"
#include "sched/event_source.h"
#include "sched/host.h"

namespace netpoll::internal {

class PollShard final : public sched::EventSource {
 public:
  using Shards = std::vector<std::unique_ptr<PollShard>>;

  // Events collected by one wait.
  static constexpr int kEventsMax = 128;
  // PollDescs are made by so many; there are never more than the process has had open at once.
  static constexpr size_t kChunk = 256;

  // `all` are the poller's shards, this one at `index`; it may still grow.
  PollShard(const Kernel& kernel, sched::Host& host, int index, const Shards& all);
  ~PollShard() override;  // CHECKs that every PollDesc came back
  PollShard(const PollShard&) = delete;
  PollShard& operator=(const PollShard&) = delete;

  // Creates the descriptors. Call once, first.
  absl::Status Open();

  // sched::EventSource.
  void Wait(sched::Deadline until, sched::WaiterList& ready) override;
  bool Poll(sched::WaiterList& ready) override;
  void Interrupt() override;

  // Owner only.
  PollDesc* Take();
  // Any thread.
  void Give(PollDesc* desc);

  // Makes epoll watch `fd` for the life of the descriptor; at once it reports what is ready
  // already. A socket that is never waited for in writing is not watched for that: it would be
  // reported as writable once, which nobody needs. Returns 0 or an errno (ENOSPC, ENOMEM). Any
  // thread that uses `desc`, which lies in this shard.
  int Register(PollDesc& desc, int fd, Direction direction);

  // Makes this shard's epoll watch what another's did, from its worker: then its events come here.
  // It may report what that one has reported. On failure the other goes on. REQUIRES: the caller
  // holds the read direction, and it is registered.
  void TakeOver(PollDesc& desc, int fd);

  const Kernel& kernel() const { return kernel_; }

  // PollDescs in use; for leak checks and statistics.
  int64_t in_use() const {
    return own_uses_.load(std::memory_order_relaxed) -
           given_by_others_.load(std::memory_order_relaxed);
  }

  // Descriptors taken over from other shards.
  int64_t taken_over() const { return taken_over_.load(std::memory_order_relaxed); }

  const int index;

 private:
  int Collect(const timespec* timeout, sched::WaiterList& ready, bool consume_interrupt);
  void ConsumeInterrupt();
  bool Watch(PollDesc& desc, int fd);
  void Grow();
  void NoteOwnUse(int more);

  const Kernel& kernel_;
  sched::Host& host_;
  const Shards& all_;
  int epoll_ = -1;
  int event_ = -1;

  // Keeps thieves apart; the owner waits without it, as epoll gives each event to one waiter.
  std::atomic<bool> polled_by_thief_{false};
  // An interrupt was sent and not taken yet. Interrupt exchanges it and writes the eventfd if it
  // was clear; the owner reads the eventfd, clears it, and then looks at its queues: whoever found
  // it set is looked after by that look.
  std::atomic<bool> interrupted_{false};
  std::atomic<int64_t> taken_over_{0};

  // The owner's alone: all PollDescs, and those to take, linked by next_free.
  std::vector<PollDesc*> chunks_;
  PollDesc* free_ = nullptr;
  std::atomic<int64_t> own_uses_{0};  // taken, less those the owner gave back
  // Given back by others, who push one at a time (release); the owner takes all (acquire), so that
  // none is seen there twice (Treiber 1986, without its ABA).
  alignas(64) std::atomic<PollDesc*> given_{nullptr};
  std::atomic<int64_t> given_by_others_{0};
};

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_POLL_SHARD_H_
