// SPDX-License-Identifier: Apache-2.0
//
// CHECK for invariants of our own: on failure it prints the place, the expression and the values,
// and aborts. (Debian's Abseil predates absl/log.) What the network or the operator did is
// returned, never checked.
#ifndef PARKWAY_SCHED_CHECK_H_
#define PARKWAY_SCHED_CHECK_H_

#include <cstdint>

namespace sched {

// For tests that run code inside a model of the machine: called first, and may throw to get out.
using CheckHook = void (*)(const char* expression);
inline CheckHook check_hook = nullptr;

[[noreturn]] void CheckFailed(const char* file, int line, const char* expression, int64_t value);

}  // namespace sched

// `value` is a number that tells the story: an errno, a state, a count.
#define PARKWAY_CHECK(condition, value)                 \
  (__builtin_expect(static_cast<bool>(condition), true) \
       ? static_cast<void>(0)                           \
       : ::sched::CheckFailed(__FILE__, __LINE__, #condition, static_cast<int64_t>(value)))

#endif  // PARKWAY_SCHED_CHECK_H_
