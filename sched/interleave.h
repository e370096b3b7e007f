// SPDX-License-Identifier: Apache-2.0
//
// The seam through which a simulation orders the steps of the lock-free protocols. Empty in
// production. A sched::Mutex may be held across a step: in such builds it yields, not blocks.
#ifndef PARKWAY_SCHED_INTERLEAVE_H_
#define PARKWAY_SCHED_INTERLEAVE_H_

namespace sched {

#ifdef PARKWAY_INTERLEAVE
// Called before every access to an atomic of PollSlot, FdGate, the deadline word, the idle set, the
// timer queue and the run queue, with the address of that atomic. It may switch to another
// simulated worker on the same thread.
using InterleaveHook = void (*)(const void* site);
inline InterleaveHook interleave_hook = nullptr;  // set while no scheduler runs
inline void Interleave(const void* site) {
  if (interleave_hook != nullptr) interleave_hook(site);
}
#else
inline void Interleave(const void*) {}
#endif

}  // namespace sched

#endif  // PARKWAY_SCHED_INTERLEAVE_H_
