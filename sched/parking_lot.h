// SPDX-License-Identifier: Apache-2.0
//
// Waiting on an address, as a futex does for threads: for the rare waits that deserve no slot of
// their own (joining a FiberScope, a second reader of a connection, admission at a limit).
#ifndef PARKWAY_SCHED_PARKING_LOT_H_
#define PARKWAY_SCHED_PARKING_LOT_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "sched/mutex.h"
#include "sched/park.h"
#include "sched/waiter.h"

namespace sched {

class ParkingLot {
 public:
  ParkingLot() = default;
  ~ParkingLot();  // CHECKs that nobody waits
  ParkingLot(const ParkingLot&) = delete;
  ParkingLot& operator=(const ParkingLot&) = delete;

  // Blocks the calling fiber until Wake(key), unless `still(arg)` is false, which is asked under
  // the lock that Wake takes: who changes what `still` looks at and then calls Wake loses no
  // wake-up. Returns also spuriously (another thing at the same address): call it in a loop. Fiber
  // only.
  void Wait(const void* key, WaitReason why, bool (*still)(void* arg), void* arg);

  // Makes up to `count` fibers that wait on `key` runnable, the longest waiting first. Returns how
  // many. Any thread.
  int Wake(const void* key, int count);
  int WakeAll(const void* key) { return Wake(key, INT32_MAX); }

 private:
  struct Entry;
  struct Bucket {
    Mutex mu;
    Entry* first ABSL_GUARDED_BY(mu) = nullptr;
    Entry** end ABSL_GUARDED_BY(mu) = &first;
  };
  static constexpr size_t kBuckets = 64;

  static bool Commit(Fiber* self, void* arg);
  Bucket& BucketOf(const void* key);

  std::array<Bucket, kBuckets> buckets_;
};

// The lot of the scheduler that runs the calling worker. A thread that is no worker has none.
ParkingLot& CurrentParkingLot();

}  // namespace sched

#endif  // PARKWAY_SCHED_PARKING_LOT_H_
