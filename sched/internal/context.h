// SPDX-License-Identifier: Apache-2.0
//
// Saves the callee-saved registers on the running stack and continues on another.
//
// Kept: what the ABI says a call keeps, i.e. rbx rbp r12-r15 (x86-64), x19-x30 d8-d15 (arm64). Not
// kept: the floating point control words, which nobody here changes, and the signal mask.
#ifndef PARKWAY_SCHED_INTERNAL_CONTEXT_H_
#define PARKWAY_SCHED_INTERNAL_CONTEXT_H_

#include <cstdint>

extern "C" {
// Stores the stopped stack's pointer to *saved and continues where `target` was stopped. Out of
// line on purpose: inline assembly could not protect the red zone.
void parkway_switch_context(void** saved, void* target);
// Where a fresh context starts: calls the function with the argument, both from callee-saved
// registers.
void parkway_start_context();
// Calls entry(arg) on the stack that ends at `top`, without saving anything: for a stack, also the
// running one, that nothing is needed of any more. Does not return, nor may entry.
[[noreturn]] void parkway_enter_stack(void* top, void (*entry)(void*), void* arg);
}

namespace sched::internal {

// A context that, when first continued, calls entry(arg) on the stack that ends at `top`, which
// entry must not leave.
inline void* MakeContext(void* top, void (*entry)(void*), void* arg) {
  auto* const aligned =
      reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
#if defined(__x86_64__)
  // r15 r14 r13 r12 rbx rbp and the return address; two words above them keep the stack aligned for
  // the call in parkway_start_context.
  uintptr_t* const sp = aligned - 9;
  sp[3] = reinterpret_cast<uintptr_t>(arg);
  sp[4] = reinterpret_cast<uintptr_t>(entry);
  sp[5] = 0;  // the end of a chain of frame pointers
  sp[6] = reinterpret_cast<uintptr_t>(&parkway_start_context);
#elif defined(__aarch64__)
  // x19..x30 in pairs, then d8..d15.
  uintptr_t* const sp = aligned - 20;
  for (int i = 0; i < 20; ++i) sp[i] = 0;
  sp[0] = reinterpret_cast<uintptr_t>(arg);                      // x19
  sp[1] = reinterpret_cast<uintptr_t>(entry);                    // x20
  sp[11] = reinterpret_cast<uintptr_t>(&parkway_start_context);  // x30
#else
#error "Parkway has context switches for x86-64 and arm64"
#endif
  return sp;
}

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_CONTEXT_H_
