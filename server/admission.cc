// SPDX-License-Identifier: Apache-2.0
#include "server/admission.h"

namespace parkway {

Admission::Admission(const RouteOptions& options, uint64_t seed)
    : has_lists_(!options.allow.empty() || !options.deny.empty()),
      allows_all_(options.allow.empty()),
      allow_(options.allow.blocks),
      deny_(options.deny.blocks),
      sources_(options.source_max_conns > 0 || options.source_conn_rate > 0
                   ? std::make_unique<SourceTable>(options.source_max_conns,
                                                   options.source_conn_rate, seed)
                   : nullptr) {}

bool Admission::IsWelcome(const netpoll::CompactEndpoint& client) const {
  if (!has_lists_) return true;
  const netpoll::Endpoint at = client.Expand();
  return (allows_all_ || allow_.Contains(at)) && !deny_.Contains(at);
}

EndReason Admission::Enter(const netpoll::CompactEndpoint& client, sched::Deadline now) {
  if (!IsWelcome(client)) return EndReason::kDenied;
  return sources_ == nullptr ? EndReason::kNone : sources_->Enter(client, now);
}

void Admission::Leave(const netpoll::CompactEndpoint& client) {
  if (sources_ != nullptr) sources_->Leave(client);
}

}  // namespace parkway
