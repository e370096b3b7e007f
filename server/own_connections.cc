// SPDX-License-Identifier: Apache-2.0
#include "server/own_connections.h"

#include <span>

#include "xxhash.h"

namespace parkway {

uint64_t OwnConnections::KeyOf(const netpoll::CompactEndpoint& from,
                               const netpoll::CompactEndpoint& to) const {
  uint64_t hash = seed_;
  for (const netpoll::CompactEndpoint* const end : {&from, &to}) {
    const std::span<const uint8_t> bytes = end->bytes();
    hash = XXH3_64bits_withSeed(bytes.data(), bytes.size(), hash + end->port());
  }
  return hash;
}

bool OwnConnections::Enter(End end, const netpoll::CompactEndpoint& from,
                           const netpoll::CompactEndpoint& to, Note& note) {
  note = Note();
  note.key_ = KeyOf(from, to);
  note.end_ = end;
  note.all_ = this;
  Shard& shard = ShardOf(note.key_);
  sched::MutexLock lock(shard.mu);
  Counts& ends = shard.ends[note.key_];
  ++ends[static_cast<size_t>(end)];
  return ends[0] == 0 || ends[1] == 0;
}

void OwnConnections::Forget(uint64_t key, End end) {
  Shard& shard = ShardOf(key);
  sched::MutexLock lock(shard.mu);
  const auto found = shard.ends.find(key);
  Counts& ends = found->second;
  --ends[static_cast<size_t>(end)];
  if (ends[0] == 0 && ends[1] == 0) shard.ends.erase(found);
}

}  // namespace parkway
