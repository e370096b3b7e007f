// SPDX-License-Identifier: Apache-2.0
//
// A stack of its own to run test code on: the virtual threads of the explorer. Independent of the
// scheduler's own context switch, which it helps to test, and known to AddressSanitizer and
// ThreadSanitizer.
#ifndef PARKWAY_SCHED_TESTING_COROUTINE_H_
#define PARKWAY_SCHED_TESTING_COROUTINE_H_

#include <cstddef>
#include <functional>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace sched::testing {

class Coroutine {
 public:
  // The stack the caller is running on.
  Coroutine();
  // A new stack. `body` begins at the first Switch and never returns; its frames are not unwound.
  explicit Coroutine(std::function<void()> body);
  ~Coroutine();
  Coroutine(const Coroutine&) = delete;
  Coroutine& operator=(const Coroutine&) = delete;

  // Saves the current stack in `from`, which is the one that runs, and goes on where `to` was left.
  static void Switch(Coroutine& from, Coroutine& to);

 private:
  static constexpr size_t kStackBytes = 256 << 10;
  static constexpr size_t kGuardBytes = 4096;

  static void Enter();
  void AllocateStack();
  void Arrived();

  std::function<void()> body_;
  char* mapping_ = nullptr;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif

  // The sanitizers' side of it; the bounds of an adopted stack are learned when it is first left.
  const void* stack_bottom_ = nullptr;
  size_t stack_bytes_ = 0;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] void* tsan_fiber_ = nullptr;
};

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_COROUTINE_H_
