// SPDX-License-Identifier: Apache-2.0
//
// For tests that do without the test framework, so that they can also be cross-compiled and run
// under an emulator (arm64_test.sh): ends the program with 1 unless the condition holds.
#ifndef PARKWAY_SCHED_TESTING_REQUIRE_H_
#define PARKWAY_SCHED_TESTING_REQUIRE_H_

#include <cstdio>
#include <cstdlib>

#define REQUIRE(condition)                                                \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (false)

#endif  // PARKWAY_SCHED_TESTING_REQUIRE_H_
