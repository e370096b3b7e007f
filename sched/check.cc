// SPDX-License-Identifier: Apache-2.0
#include "sched/check.h"

#include <cstdio>
#include <cstdlib>

namespace sched {

void CheckFailed(const char* file, int line, const char* expression, int64_t value) {
  if (check_hook != nullptr) check_hook(expression);
  std::fprintf(stderr, "%s:%d: CHECK failed: %s (value %lld)\n", file, line, expression,
               static_cast<long long>(value));
  std::abort();
}

}  // namespace sched
