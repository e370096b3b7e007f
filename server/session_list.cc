// SPDX-License-Identifier: Apache-2.0
#include "server/session_list.h"

#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"

namespace parkway {

SessionList::~SessionList() {
  for (Shard& shard : shards_) {
    sched::MutexLock lock(shard.mu);
    PARKWAY_CHECK(shard.first == nullptr, 0);
  }
}

int SessionList::Place(Session* session, uint32_t turn) {
  const auto count = static_cast<uint32_t>(shards_.size());
  const auto here = static_cast<uint32_t>(sched::CurrentWorkerIndex());
  uint32_t place = here;
  if (count > 1) {
    const uint32_t other = (here + 1 + turn % (count - 1)) % count;
    const int64_t theirs = shards_[other].placed.load(std::memory_order_relaxed);
    const int64_t ours = shards_[here].placed.load(std::memory_order_relaxed);
    if (ours > theirs + theirs / 4 + kFew) place = other;
  }
  CountOn(session, static_cast<int>(place));
  return static_cast<int>(place);
}

int SessionList::PlaceHere(Session* session) {
  const int here = sched::CurrentWorkerIndex();
  CountOn(session, here);
  return here;
}

void SessionList::CountOn(Session* session, int worker) {
  session->list = static_cast<int16_t>(worker);
  shards_[worker].placed.fetch_add(1, std::memory_order_relaxed);
}

void SessionList::CountOut(const Session* session) {
  shards_[session->list].placed.fetch_sub(1, std::memory_order_relaxed);
}

void SessionList::Add(Session* session) {
  if (const int here = sched::CurrentWorkerIndex(); here != session->list) {
    CountOut(session);  // another worker than was meant had time to start it
    CountOn(session, here);
  }
  Shard& shard = shards_[session->list];
  sched::MutexLock lock(shard.mu);
  Append(shard, session);
}

void SessionList::Append(Shard& shard, Session* session) {
  session->previous = std::exchange(shard.last, session);
  session->next = nullptr;
  (session->previous != nullptr ? session->previous->next : shard.first) = session;
}

void SessionList::Unlink(Shard& shard, Session* session) {
  (session->next != nullptr ? session->next->previous : shard.last) = session->previous;
  (session->previous != nullptr ? session->previous->next : shard.first) = session->next;
}

void SessionList::Remove(Session* session) {
  ended_[static_cast<int>(session->reason())].fetch_add(1, std::memory_order_relaxed);
  CountOut(session);
  Shard& shard = shards_[session->list];
  sched::MutexLock lock(shard.mu);
  Unlink(shard, session);
}

}  // namespace parkway
