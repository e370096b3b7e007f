// SPDX-License-Identifier: Apache-2.0
//
// The seam through which a simulation orders the steps of the lock-free protocols. Empty in
// production. A sched::Mutex may be held across a step: in such builds it yields, not blocks.
#ifndef PARKWAY_SCHED_INTERLEAVE_H_
#define PARKWAY_SCHED_INTERLEAVE_H_

namespace sched {

#ifdef PARKWAY_INTERLEAVE
// Called before every access to an atomic of PollSlot, FdGate, the deadline word, the idle set, the
// timer queue and the run queue. It may switch to another simulated worker on the same thread; with
// `blocked`, when the caller can go on only after another did something, it must.
using InterleaveHook = void (*)(bool blocked);
inline InterleaveHook interleave_hook = nullptr;  // set while no scheduler runs
inline void Interleave(bool blocked = false) {
  if (interleave_hook != nullptr) interleave_hook(blocked);
}
#endif

}  // namespace sched

#endif  // PARKWAY_SCHED_INTERLEAVE_H_
