// SPDX-License-Identifier: Apache-2.0
//
// The lock for short sections. It blocks the fiber *and* its worker, so it is never held across a
// Park.
#ifndef PARKWAY_SCHED_MUTEX_H_
#define PARKWAY_SCHED_MUTEX_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sched/interleave.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace sched {

// absl::Mutex, and two things Debian's build of it lacks: ThreadSanitizer cannot see into the
// uninstrumented library, so it is told of the order here; and a simulation on one thread must
// never block in it, so there it yields instead.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
#ifdef PARKWAY_INTERLEAVE
    while (!mu_.TryLock()) Interleave(/*blocked=*/true);
#else
    mu_.Lock();
#endif
    Acquired();
  }

  bool TryLock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (!mu_.TryLock()) return false;
    Acquired();
    return true;
  }

  void Unlock() ABSL_UNLOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(this);
#endif
    mu_.Unlock();
  }

 private:
  void Acquired() {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(this);
#endif
  }

  absl::Mutex mu_;
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
