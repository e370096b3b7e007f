// SPDX-License-Identifier: Apache-2.0
//
// Whether a worker that has nothing to do should look for work for a while before it sleeps. Waking
// a CPU from its sleep takes tens of microseconds, which is most of the latency of a connection
// that is served alone; with many connections it is little, and who spins then takes the CPU from
// others and gains nothing.
//
// So it pays where waits bring one waiter each, again and again one of the same two (a connection,
// or the two directions of a proxied one), each within the time that spinning may take: what it
// waits for is most likely the answer to what it has just sent.
#ifndef PARKWAY_SCHED_INTERNAL_SPIN_POLICY_H_
#define PARKWAY_SCHED_INTERNAL_SPIN_POLICY_H_

#include <algorithm>
#include <cstdint>
#include <utility>

#include "sched/waiter.h"

namespace sched::internal {

// Owned by one worker. Times in nanoseconds.
class SpinPolicy {
 public:
  // So many waits in a row must have been as described.
  static constexpr int kStreak = 8;
  // A poll that takes longer was interrupted by somebody who needs the CPU.
  static constexpr int64_t kInterruptedNs = 50'000;
  // How long others then have it.
  static constexpr int64_t kPauseNs = 100'000'000;

  // `most`: how long to spin at most; 0: never.
  explicit SpinPolicy(int64_t most) : most_(most) {}

  int64_t most() const { return most_; }
  bool Pays(int64_t now) const { return streak_ >= kStreak && now >= paused_until_ && most_ > 0; }

  // A wait has ended after `waited`. `only`: the one waiter that it brought, or none, if there were
  // several or none.
  void Spun(Waiter only, int64_t waited) { Note(only, waited <= most_); }
  // The CPU's own waking is part of such a wait, and takes as long as what it waited for.
  void Slept(Waiter only, int64_t waited) { Note(only, waited <= 2 * most_); }

  // A poll took `polled`. False: others need the CPU.
  bool GoesOn(int64_t polled, int64_t now) {
    if (polled <= kInterruptedNs) return true;
    paused_until_ = now + kPauseNs;
    return false;
  }

 private:
  void Note(Waiter only, bool soon) {
    const bool known = only && (only.word() == last_ || only.word() == before_last_);
    streak_ = known && soon ? std::min(streak_ + 1, kStreak) : 0;
    if (only.word() != last_) before_last_ = std::exchange(last_, only.word());
  }

  int64_t most_;
  int streak_ = 0;
  uintptr_t last_ = 0;  // compared, never followed
  uintptr_t before_last_ = 0;
  int64_t paused_until_ = 0;
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_SPIN_POLICY_H_
