// SPDX-License-Identifier: Apache-2.0
//
// The netpoller: one shard per worker. Create it, run a scheduler on its event sources, destroy it
// after that.
//
//   auto poller = netpoll::Poller::Create({.shards = 4});
//   sched::Scheduler scheduler({.event_sources = (*poller)->event_sources()});
#ifndef PARKWAY_NETPOLL_POLLER_H_
#define PARKWAY_NETPOLL_POLLER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/internal/poll_shard.h"
#include "netpoll/kernel.h"
#include "sched/event_source.h"
#include "sched/host.h"

namespace netpoll {

class Poller {
 public:
  struct Options {
    int shards = 1;                    // one per worker of the scheduler
    sched::Host* host = nullptr;       // nullptr: Host::Real()
    KernelCalls* simulated = nullptr;  // nullptr: the real kernel
  };

  // Fails when descriptors run out.
  static absl::StatusOr<std::unique_ptr<Poller>> Create(const Options& options);
  // REQUIRES: the scheduler is gone. CHECKs that every Conn and Listener is.
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  std::vector<sched::EventSource*> event_sources() const;
  const Kernel& kernel() const { return kernel_; }

  // Conns and Listeners that exist. Any thread.
  int64_t descriptors_in_use() const;

  // How often a connection was moved to the worker that serves it, since its own had too much to
  // do. Any thread.
  int64_t moves() const;

  // The calling worker's shard: where a descriptor opened here lives. Worker only.
  internal::PollShard& current_shard();

 private:
  explicit Poller(const Options& options);

  const Kernel kernel_;
  internal::PollShard::Shards shards_;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_POLLER_H_
