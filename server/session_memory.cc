// SPDX-License-Identifier: Apache-2.0
#include "server/session_memory.h"

#include <new>
#include <utility>

#include "sched/fibers.h"

namespace parkway {

SessionMemory::~SessionMemory() {
  for (Own& own : own_) {
    for (List& list : own.lists) {
      while (list.first != nullptr) ::operator delete(std::exchange(list.first, list.first->next));
    }
  }
}

SessionMemory::List& SessionMemory::list(int kind) {
  return own_[static_cast<size_t>(sched::CurrentWorkerIndex())].lists[kind];
}

void* SessionMemory::Take(int kind, size_t size) {
  List& kept = list(kind);
  if (kept.first == nullptr) return ::operator new(size);
  --kept.count;
  return std::exchange(kept.first, kept.first->next);
}

void SessionMemory::Give(void* record, int kind) {
  List& kept = list(kind);
  if (kept.count == kKeptMax) return ::operator delete(record);
  ++kept.count;
  kept.first = new (record) Kept{kept.first};
}

}  // namespace parkway
