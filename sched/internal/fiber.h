// SPDX-License-Identifier: Apache-2.0
//
// A fiber's control block. It sits at the top of the fiber's own stack, so that a parked fiber
// costs one page.
#ifndef PARKWAY_SCHED_INTERNAL_FIBER_H_
#define PARKWAY_SCHED_INTERNAL_FIBER_H_

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "sched/fibers.h"
#include "sched/internal/context.h"
#include "sched/internal/sanitizer.h"
#include "sched/internal/stack_pool.h"
#include "sched/park.h"
#include "sched/timer_queue.h"
#include "sched/waiter.h"

namespace sched {

namespace internal {
struct Core;
class Worker;

// Wakes one sleeping fiber.
class SleepTimer final : public Timer {
 public:
  Fiber* fiber = nullptr;
  int64_t until = 0;

 private:
  int64_t Wanted() const override { return kNeverNs; }  // armed on its own worker only, never moved
  int64_t Fire(int64_t) override {
    Ready(fiber);
    return kNeverNs;
  }
};

// The exception state that the C++ runtime keeps per thread (__cxa_eh_globals of the Itanium ABI):
// it belongs to the fiber, or an exception caught across a park would be found by another fiber.
struct ExceptionGlobals {
  void* caught = nullptr;
  unsigned int uncaught = 0;
};

// What the worker is to do for a fiber that switched away.
// kGone: it has ended or hibernates, and its stack is free.
enum class Departure : uint8_t { kPark, kYield, kGone };

}  // namespace internal

class Fiber final : public Runnable {
 public:
  // Builds a fiber on `stack`, whose number `index` chooses the colour: the tops of stacks of one
  // size would otherwise all fall into the same sets of the first-level cache.
  static Fiber* Create(internal::Core* core, internal::StackBase stack, size_t stack_bytes,
                       uint64_t id, void (*entry)(void*)) {
    const size_t colour = (reinterpret_cast<uintptr_t>(stack) / stack_bytes) % 8 * 128;
    std::byte* const top = stack + stack_bytes - colour;
    auto* const place = reinterpret_cast<std::byte*>(
        (reinterpret_cast<uintptr_t>(top) - sizeof(Fiber)) & ~uintptr_t{63});
    Fiber* const fiber = new (place) Fiber(core, stack, id);
    fiber->Prepare(entry);
    return fiber;
  }

  // When nothing on its stack is needed any more: makes it a new fiber there, for less than Destroy
  // and Create. Before it is switched to, Prepare.
  void Reuse(uint64_t new_id) {
    sanitized.Destroy();
    id = new_id;
    if (fn) fn = nullptr;  // a fiber that hibernated and was not made for that
    continuation = nullptr;
    operations = 0;
  }

  // What it does when it is first switched to.
  void Prepare(void (*entry)(void*)) {
    saved_errno = 0;
    exceptions = {};
    sp = internal::MakeContext(this, entry, this);
    auto* const top = reinterpret_cast<std::byte*>(this);
    sanitized.Create(stack + internal::kPageBytes, top - stack - internal::kPageBytes);
  }

  // After its last switch away, from another stack. The stack is the caller's again.
  internal::StackBase Destroy() {
    const internal::StackBase base = stack;
    sanitized.Destroy();
    this->~Fiber();
    return base;
  }

  // Constant after construction.
  internal::Core* const core;
  const internal::StackBase stack;

  // The fiber itself, or the worker that runs it.
  uint64_t id;
  void* sp = nullptr;
  internal::Worker* pinned = nullptr;
  FiberFn fn;                            // what it runs, or
  Continuation* continuation = nullptr;  // what it resumes
  internal::Departure departure = internal::Departure::kPark;
  WaitReason why = WaitReason::kNone;
  uint8_t operations = 0;  // completed since it last parked
  ParkCommit park_commit = nullptr;
  void* commit_arg = nullptr;
  int saved_errno = 0;
  internal::ExceptionGlobals exceptions;
  internal::SleepTimer sleep;
  internal::SanitizedStack sanitized;

 private:
  Fiber(internal::Core* core_in, internal::StackBase stack_in, uint64_t id_in)
      : core(core_in), stack(stack_in), id(id_in) {}
  ~Fiber() = default;
};

}  // namespace sched

#endif  // PARKWAY_SCHED_INTERNAL_FIBER_H_
