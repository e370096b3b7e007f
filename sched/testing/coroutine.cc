// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/coroutine.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// swapcontext would do, but its two system calls are most of an exploration's time. An exception
// never passes this frame: it is caught on the stack it was thrown on.
extern "C" void parkway_coroutine_switch(void** save, void* to);
asm(R"(
.pushsection .text
.p2align 4
.type parkway_coroutine_switch, @function
parkway_coroutine_switch:
  .cfi_startproc
  pushq %rbp
  .cfi_adjust_cfa_offset 8
  pushq %rbx
  .cfi_adjust_cfa_offset 8
  pushq %r12
  .cfi_adjust_cfa_offset 8
  pushq %r13
  .cfi_adjust_cfa_offset 8
  pushq %r14
  .cfi_adjust_cfa_offset 8
  pushq %r15
  .cfi_adjust_cfa_offset 8
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  .cfi_adjust_cfa_offset -8
  popq %r14
  .cfi_adjust_cfa_offset -8
  popq %r13
  .cfi_adjust_cfa_offset -8
  popq %r12
  .cfi_adjust_cfa_offset -8
  popq %rbx
  .cfi_adjust_cfa_offset -8
  popq %rbp
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_endproc
.size parkway_coroutine_switch, .-parkway_coroutine_switch
.popsection
)");
#endif

namespace sched::testing {
namespace {

// Whom the last Switch left, and whom it went to: read on the stack it arrived on.
Coroutine* left = nullptr;
Coroutine* entered = nullptr;

[[noreturn]] void Die(const char* what) {
  perror(what);
  abort();
}

}  // namespace

Coroutine::Coroutine() {  // NOLINT(modernize-use-equals-default): not in every build
#if defined(__SANITIZE_THREAD__)
  tsan_fiber_ = __tsan_get_current_fiber();
#endif
}

Coroutine::Coroutine(std::function<void()> body) : body_(std::move(body)) {
  AllocateStack();
#if defined(__SANITIZE_THREAD__)
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
  auto* top = reinterpret_cast<void**>(mapping_ + kGuardBytes + kStackBytes);
  *--top = nullptr;  // Enter's return address: unwinding ends here
  *--top = reinterpret_cast<void*>(&Coroutine::Enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the callee-saved registers
  stack_pointer_ = top;
#else
  if (getcontext(&context_) != 0) Die("getcontext");
  context_.uc_stack.ss_sp = mapping_ + kGuardBytes;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Coroutine::Enter, 0);
#endif
}

Coroutine::~Coroutine() {
  if (mapping_ == nullptr) return;
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(tsan_fiber_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_bottom_, stack_bytes_);
#endif
  munmap(mapping_, kGuardBytes + kStackBytes);
}

void Coroutine::Switch(Coroutine& from, Coroutine& to) {
  left = &from;
  entered = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_bottom_, to.stack_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan_fiber_, 0);
#endif
#if defined(__x86_64__)
  parkway_coroutine_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  if (swapcontext(&from.context_, &to.context_) != 0) Die("swapcontext");
#endif
  from.Arrived();
}

void Coroutine::Enter() {
  entered->Arrived();
  entered->body_();
  abort();
}

void Coroutine::AllocateStack() {
  void* mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) Die("mmap of a coroutine's stack");
  if (mprotect(mapping, kGuardBytes, PROT_NONE) != 0) Die("mprotect of a coroutine's stack");
  mapping_ = static_cast<char*>(mapping);
  stack_bottom_ = mapping_ + kGuardBytes;
  stack_bytes_ = kStackBytes;
}

void Coroutine::Arrived() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
  left->stack_bottom_ = bottom;
  left->stack_bytes_ = bytes;
#endif
}

}  // namespace sched::testing
