// SPDX-License-Identifier: Apache-2.0
#include "server/source_table.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "server/bounded_count.h"
#include "xxhash.h"

namespace parkway {
SourceTable::SourceTable(int max_conns, int conn_rate, uint64_t seed)
    : max_conns_(max_conns),
      rate_(conn_rate, std::chrono::seconds(1)),
      seed_(seed),
      sets_(kSources / kWays) {}

std::optional<SourceTable::Source> SourceTable::SourceOf(const netpoll::CompactEndpoint& client) {
  const std::span<const uint8_t> bytes = client.bytes();
  if (bytes.empty()) return std::nullopt;
  Source source;
  source.is_v4 = client.family() == AF_INET;
  std::memcpy(&source.address, bytes.data(), source.is_v4 ? 4 : 8);
  source.is_used = true;
  return source;
}

size_t SourceTable::SetOf(const Source& source) const {
  return XXH3_64bits_withSeed(&source.address, sizeof source.address,
                              seed_ + (source.is_v4 ? 1 : 0)) %
         sets_.size();
}

SourceTable::Source* SourceTable::Find(const Source& source, Set& set) {
  const auto found = std::find_if(set.sources.begin(), set.sources.end(), [&](const Source& it) {
    return it.is_used && it.address == source.address && it.is_v4 == source.is_v4;
  });
  return found == set.sources.end() ? nullptr : &*found;
}

// Of a source that is not there; nullptr: there is none left.
SourceTable::Source* SourceTable::Place(const Source& source, Set& set) {
  Source* best = nullptr;
  for (Source& it : set.sources) {
    if (it.clients + it.unheard == 0 && (best == nullptr || it.due < best->due)) best = &it;
  }
  if (best != nullptr) *best = source;
  return best;
}

template <class Use>
EndReason SourceTable::WithPlaced(const netpoll::CompactEndpoint& client, Use use) {
  const std::optional<Source> source = SourceOf(client);
  if (!source.has_value()) return EndReason::kNone;
  const size_t at = SetOf(*source);
  sched::MutexLock lock(locks_[at % kLocks].mu);
  Source* it = Find(*source, sets_[at]);
  if (it == nullptr) it = Place(*source, sets_[at]);
  return it != nullptr ? use(*it) : EndReason::kNone;
}

// One that was not limited may leave in the place of one that is counted.
template <class Use>
void SourceTable::WithFound(const netpoll::CompactEndpoint& client, Use use) {
  const std::optional<Source> source = SourceOf(client);
  if (!source.has_value()) return;
  const size_t at = SetOf(*source);
  sched::MutexLock lock(locks_[at % kLocks].mu);
  if (Source* const it = Find(*source, sets_[at]); it != nullptr) use(*it);
}

EndReason SourceTable::Enter(const netpoll::CompactEndpoint& client, sched::Deadline now) {
  return WithPlaced(client, [&](Source& it) {
    if (IsAt(max_conns_, it.clients)) return EndReason::kSourceTooMany;
    if (rate_.is_set()) {
      const int64_t now_ns = sched::ToNs(now);
      const int64_t next = rate_.DueAfter(it.due, now_ns);
      if (rate_.When(next, now_ns) > now_ns) return EndReason::kSourceTooFast;
      it.due = next;
    }
    ++it.clients;
    return EndReason::kNone;
  });
}

void SourceTable::Leave(const netpoll::CompactEndpoint& client) {
  WithFound(client, [](Source& it) { it.clients = std::max(it.clients - 1, 0); });
}

EndReason SourceTable::EnterUnheard(const netpoll::CompactEndpoint& client) {
  return WithPlaced(client, [&](Source& it) {
    if (IsAt(max_conns_, it.clients + it.unheard)) return EndReason::kSourceTooMany;
    ++it.unheard;
    return EndReason::kNone;
  });
}

void SourceTable::LeaveUnheard(const netpoll::CompactEndpoint& client) {
  WithFound(client, [](Source& it) { it.unheard = std::max(it.unheard - 1, 0); });
}

}  // namespace parkway
