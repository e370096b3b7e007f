// SPDX-License-Identifier: Apache-2.0
//
// The lock for short sections. It blocks the fiber *and* its worker, so it is never held across a
// Park.
#ifndef PARKWAY_SCHED_MUTEX_H_
#define PARKWAY_SCHED_MUTEX_H_

#include <mutex>

#include "absl/base/thread_annotations.h"
#include "sched/interleave.h"

namespace sched {

// std::mutex with clang's annotations. A simulation on one thread must never block in it, so there
// it yields instead.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
#ifdef PARKWAY_INTERLEAVE
    while (!mu_.try_lock()) Interleave(/*blocked=*/true);
#else
    mu_.lock();
#endif
  }
  bool TryLock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) { return mu_.try_lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mu_.unlock(); }

 private:
  std::mutex mu_;  // tidy: it gets them here
};

// Holds a lock, of this class or of a test's atomics policy, for one scope.
template <class Lock>
class ABSL_SCOPED_LOCKABLE BasicMutexLock {
 public:
  explicit BasicMutexLock(Lock& mu) ABSL_EXCLUSIVE_LOCK_FUNCTION(mu) : mu_(mu) { mu_.Lock(); }
  ~BasicMutexLock() ABSL_UNLOCK_FUNCTION() { mu_.Unlock(); }
  BasicMutexLock(const BasicMutexLock&) = delete;
  BasicMutexLock& operator=(const BasicMutexLock&) = delete;

 private:
  Lock& mu_;
};
using MutexLock = BasicMutexLock<Mutex>;

}  // namespace sched

#endif  // PARKWAY_SCHED_MUTEX_H_
