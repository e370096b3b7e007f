// SPDX-License-Identifier: Apache-2.0
#include "sched/parking_lot.h"

#include "sched/check.h"

namespace sched {

// Lives on the waiting fiber's stack; linked in a bucket, and touched by others only under the
// bucket's lock.
struct ParkingLot::Entry {
  Bucket* bucket;
  const void* key;
  bool (*still)(void*);
  void* still_arg;
  Fiber* fiber = nullptr;
  Entry* next = nullptr;
};

ParkingLot::~ParkingLot() {
  for (Bucket& bucket : buckets_) {
    MutexLock lock(bucket.mu);
    PARKWAY_CHECK(bucket.first == nullptr, 0);
  }
}

void ParkingLot::Wait(const void* key, WaitReason why, bool (*still)(void*), void* arg) {
  Entry entry{&BucketOf(key), key, still, arg};
  Park(why, &ParkingLot::Commit, &entry);
}

bool ParkingLot::Commit(Fiber* self, void* arg) {
  Entry& entry = *static_cast<Entry*>(arg);
  Bucket& bucket = *entry.bucket;
  // A waker needs the lock to find the entry, so the fiber, and the entry on its stack, stay put
  // until it is released.
  MutexLock lock(bucket.mu);
  if (!entry.still(entry.still_arg)) return false;
  entry.fiber = self;
  *bucket.end = &entry;
  bucket.end = &entry.next;
  return true;
}

int ParkingLot::Wake(const void* key, int count) {
  Bucket& bucket = BucketOf(key);
  WaiterList woken;
  {
    MutexLock lock(bucket.mu);
    Entry** link = &bucket.first;
    while (*link != nullptr && woken.size() < count) {
      Entry* const entry = *link;
      if (entry->key != key) {
        link = &entry->next;
        continue;
      }
      *link = entry->next;
      if (bucket.end == &entry->next) bucket.end = link;
      woken.PushBack(Waiter(entry->fiber));
    }
  }
  const int number = woken.size();
  while (!woken.empty()) Ready(woken.PopFront());
  return number;
}

ParkingLot::Bucket& ParkingLot::BucketOf(const void* key) {
  // Fibonacci hashing: addresses are aligned and close together.
  const uint64_t mixed = reinterpret_cast<uintptr_t>(key) * 0x9e3779b97f4a7c15;
  return buckets_[mixed >> 58];
}

}  // namespace sched
