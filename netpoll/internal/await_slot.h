// SPDX-License-Identifier: Apache-2.0
//
// The waiter's side of a PollSlot, in its one right order. A template so that the interleaving test
// runs this very loop.
#ifndef PARKWAY_NETPOLL_INTERNAL_AWAIT_SLOT_H_
#define PARKWAY_NETPOLL_INTERNAL_AWAIT_SLOT_H_

#include <optional>

namespace netpoll::internal {

// What a wait came to that was parked; the first act of whoever was woken. Nothing: a deadline
// fired and was moved since, so wait again. `check` as below.
template <class Slot, class Check>
auto EndParkedWait(Slot& slot, Check check) -> std::optional<decltype(check())> {
  if (slot.EndWait()) return decltype(check()){};
  if (const auto state = check(); !state.ok()) return state;
  return std::nullopt;
}

// Waits on `slot` until it is ready, a hint, or `check()` returns a state that is not ok(): closed
// or expired. `check` must read with seq_cst what its writers publish before they Cancel. `park()`
// parks, and its commit calls slot.Commit.
template <class Slot, class Check, class Park>
auto AwaitSlot(Slot& slot, Check check, Park park) -> decltype(check()) {
  for (;;) {
    if (slot.BeginWait()) return {};
    // After kWait is announced: whoever closes or expires either finds it, or is seen here.
    if (const auto state = check(); !state.ok()) {
      // Readiness that came meanwhile is told: no other edge would tell whoever waits next.
      return slot.EndWait() ? decltype(check()){} : state;
    }
    park();
    if (const auto result = EndParkedWait(slot, check)) return *result;
  }
}

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_INTERNAL_AWAIT_SLOT_H_
