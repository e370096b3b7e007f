// SPDX-License-Identifier: Apache-2.0
#include "netpoll/poller.h"

#include "sched/check.h"
#include "sched/park.h"

namespace netpoll {

Poller::Poller(const Options& options) : kernel_(options.simulated) {
  sched::Host& host = options.host != nullptr ? *options.host : sched::Host::Real();
  for (int i = 0; i < options.shards; ++i) {
    shards_.push_back(std::make_unique<internal::PollShard>(kernel_, host, i, shards_));
  }
}

Poller::~Poller() = default;

absl::StatusOr<std::unique_ptr<Poller>> Poller::Create(const Options& options) {
  std::unique_ptr<Poller> poller(new Poller(options));
  for (const auto& shard : poller->shards_) {
    const absl::Status opened = shard->Open();
    if (!opened.ok()) return opened;
  }
  return poller;
}

std::vector<sched::EventSource*> Poller::event_sources() const {
  std::vector<sched::EventSource*> sources;
  for (const auto& shard : shards_) sources.push_back(shard.get());
  return sources;
}

int64_t Poller::descriptors_in_use() const {
  int64_t count = 0;
  for (const auto& shard : shards_) count += shard->in_use();
  return count;
}

int64_t Poller::moves() const {
  int64_t count = 0;
  for (const auto& shard : shards_) count += shard->taken_over();
  return count;
}

internal::PollShard& Poller::current_shard() {
  auto* const shard = static_cast<internal::PollShard*>(sched::CurrentEventSource());
  PARKWAY_CHECK(shard != nullptr && &shard->kernel() == &kernel_, 0);  // a worker of this poller's
  return *shard;
}

}  // namespace netpoll
