// SPDX-License-Identifier: Apache-2.0
#include "server/admission.h"

namespace parkway {

Admission::Admission(const RouteOptions& options, uint64_t seed, const Admission* before)
    : source_max_conns_(options.source_max_conns),
      source_conn_rate_(options.source_conn_rate),
      allow_(options.allow.set),
      deny_(options.deny.set),
      sources_(Sources(seed, before)) {}

std::shared_ptr<SourceTable> Admission::Sources(uint64_t seed, const Admission* before) const {
  if (source_max_conns_ == 0 && source_conn_rate_ == 0) return nullptr;
  const bool is_same = before != nullptr && before->source_max_conns_ == source_max_conns_ &&
                       before->source_conn_rate_ == source_conn_rate_;
  if (is_same) return before->sources_;
  return std::make_shared<SourceTable>(source_max_conns_, source_conn_rate_, seed);
}

bool Admission::IsWelcome(const netpoll::CompactEndpoint& client) const {
  if (allow_ == nullptr && deny_ == nullptr) return true;
  const netpoll::Endpoint at = client.Expand();
  return (allow_ == nullptr || allow_->Contains(at)) && (deny_ == nullptr || !deny_->Contains(at));
}

EndReason Admission::Enter(const netpoll::CompactEndpoint& client, sched::Deadline now) {
  if (!IsWelcome(client)) return EndReason::kDenied;
  return sources_ == nullptr ? EndReason::kNone : sources_->Enter(client, now);
}

EndReason Admission::EnterUnheard(const netpoll::CompactEndpoint& client) {
  if (!IsWelcome(client)) return EndReason::kDenied;
  return sources_ == nullptr ? EndReason::kNone : sources_->EnterUnheard(client);
}

void Admission::LeaveUnheard(const netpoll::CompactEndpoint& client) {
  if (sources_ != nullptr) sources_->LeaveUnheard(client);
}

void Admission::Leave(const netpoll::CompactEndpoint& client) {
  if (sources_ != nullptr) sources_->Leave(client);
}

}  // namespace parkway
