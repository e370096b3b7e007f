// SPDX-License-Identifier: Apache-2.0
//
// The example at the top of README.md compiles and does what it says.
#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "sched/fibers.h"
#include "sched/host.h"
#include "sched/internal/futex_source.h"
#include "sched/scheduler.h"

namespace {

TEST(ReadmeTest, TheExampleWaitsForItsChildren) {
  sched::internal::FutexSource one, two;
  const std::vector<sched::EventSource*> sources = {&one, &two};
  const sched::Deadline before = sched::Host::Real().Now();
#include "sched/readme_example.inc"
  EXPECT_TRUE(started);
  EXPECT_GE(sched::Host::Real().Now() - before, std::chrono::milliseconds(10));
}

}  // namespace
