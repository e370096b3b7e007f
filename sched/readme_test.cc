// SPDX-License-Identifier: Apache-2.0
//
// The example at the top of README.md, word for word, compiles and does what it says.
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
  // sources: one sched::EventSource per worker, such as those of a netpoll::Poller
  sched::Scheduler scheduler({.event_sources = sources});
  const bool started = scheduler.SpawnOn(0, [] {
    sched::FiberScope scope;
    if (!scope.Spawn([] { sched::SleepFor(std::chrono::milliseconds(10)); })) return;
  });  // the scope's end waits for its children
  if (started) scheduler.DrainUntil(sched::kNever);
  EXPECT_TRUE(started);
  EXPECT_GE(sched::Host::Real().Now() - before, std::chrono::milliseconds(10));
}

}  // namespace
