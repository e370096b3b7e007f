// SPDX-License-Identifier: Apache-2.0
#include "sched/internal/crash_signals.h"

#include <execinfo.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>

#include "absl/debugging/symbolize.h"
#include "sched/check.h"
#include "sched/internal/fiber.h"

namespace sched::internal {
namespace {

constexpr size_t kSignalStackBytes = 64 << 10;
constexpr int kFramesMax = 48;

struct sigaction previous_segv;

// Only async-signal-safe calls from here on down to the next comment.
void OnSegv(int signal, siginfo_t* info, void* context) {
  const Fiber* const fiber = CurrentFiber();
  if (fiber != nullptr && StackPool::InGuard(fiber->stack, info->si_addr)) {
    char line[160];
    const int length = std::snprintf(
        line, sizeof line,
        "parkway: fiber %llu overflowed its stack; raise fiber_stack_bytes (--stack_size)\n",
        static_cast<unsigned long long>(fiber->id));
    (void)!write(STDERR_FILENO, line, length);
  } else if ((previous_segv.sa_flags & SA_SIGINFO) != 0 && previous_segv.sa_sigaction != nullptr) {
    previous_segv.sa_sigaction(signal, info, context);
    return;
  }
  // Return to the fault with the default action, so that the core dump shows the culprit.
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGSEGV, &standard, nullptr);
}

struct Sample {
  std::array<void*, kFramesMax> frames;
  int count = 0;
  // 0 idle, 1 asked, 2 answered. The handler's release store of 2 publishes the frames to
  // SampleStack's acquire.
  std::atomic<int> state{0};
};
Sample sample;

void OnSampleRequest(int) {
  const int saved_errno = errno;
  int asked = 1;
  // Someone else's SIGURG, or an answer nobody waits for any more: no request stands.
  if (sample.state.load(std::memory_order_acquire) == asked) {
    sample.count = backtrace(sample.frames.data(), kFramesMax);
    sample.state.store(2, std::memory_order_release);
  }
  errno = saved_errno;
}

// Ordinary code again.
void Install() {
  void* warm_up[1];
  backtrace(warm_up, 1);  // the first call loads the unwinder, which must not happen in a handler
  struct sigaction action = {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = &OnSampleRequest;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  PARKWAY_CHECK(sigaction(SIGURG, &action, nullptr) == 0, errno);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  action = {};
  sigemptyset(&action.sa_mask);
  action.sa_sigaction = &OnSegv;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  PARKWAY_CHECK(sigaction(SIGSEGV, &action, &previous_segv) == 0, errno);
#else
  (void)&OnSegv;
#endif
}

std::string Symbol(void* frame) {
  char name[256];
  // One less: a return address may be the first byte of the next function.
  if (absl::Symbolize(static_cast<char*>(frame) - 1, name, sizeof name)) return name;
  std::snprintf(name, sizeof name, "%p", frame);
  return name;
}

}  // namespace

void InstallCrashSignals() {
  static const bool installed = (Install(), true);
  (void)installed;
}

SignalStack::SignalStack()
    : memory_(mmap(nullptr, kSignalStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0)) {
  PARKWAY_CHECK(memory_ != MAP_FAILED, errno);
  stack_t stack = {};
  stack.ss_sp = memory_;
  stack.ss_size = kSignalStackBytes;
  PARKWAY_CHECK(sigaltstack(&stack, nullptr) == 0, errno);
}

SignalStack::~SignalStack() {
  stack_t none = {};
  none.ss_flags = SS_DISABLE;
  sigaltstack(&none, nullptr);
  munmap(memory_, kSignalStackBytes);
}

std::vector<std::string> SampleStack(pthread_t thread) {
  std::vector<std::string> stack;
  sample.state.store(1, std::memory_order_release);
  if (pthread_kill(thread, SIGURG) == 0) {
    // Waiting for a signal handler of another thread: there is nothing better to wait on than time.
    for (int i = 0; i < 100 && sample.state.load(std::memory_order_acquire) != 2; ++i) {
      (void)poll(nullptr, 0, 1);
    }
  }
  int answered = 2;
  if (sample.state.compare_exchange_strong(answered, 0, std::memory_order_acquire)) {
    constexpr int kHandlerFrames = 2;  // OnSampleRequest and the kernel's trampoline
    for (int i = kHandlerFrames; i < sample.count; ++i) stack.push_back(Symbol(sample.frames[i]));
  }
  return stack;
}

}  // namespace sched::internal
