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
#include "sched/mutex.h"

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
  } else if ((previous_segv.sa_flags & SA_SIGINFO) != 0) {
    return previous_segv.sa_sigaction(signal, info, context);
  } else if (previous_segv.sa_handler != SIG_DFL && previous_segv.sa_handler != SIG_IGN) {
    return previous_segv.sa_handler(signal);
  }
  // Return to the fault with the default action, so that the core dump shows the culprit.
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGSEGV, &standard, nullptr);
  if (info->si_code <= 0) raise(SIGSEGV);  // somebody sent it: no fault will come again
}

// One request at a time. `asked` is 0, or the thread that is asked, or one of the two below. A
// handler runs late when its thread was not scheduled for long: it then finds another thread asked,
// or nobody, and leaves. The handler's release of kAnswered publishes the frames to SampleStack.
struct Sample {
  std::array<void*, kFramesMax> frames;
  int count = 0;
  std::atomic<uintptr_t> asked{0};
};
constexpr uintptr_t kAnswering = 1;
constexpr uintptr_t kAnswered = 2;
Sample sample;

void OnSampleRequest(int) {
  const int saved_errno = errno;
  auto self = static_cast<uintptr_t>(pthread_self());
  if (sample.asked.compare_exchange_strong(self, kAnswering, std::memory_order_acquire)) {
    sample.count = backtrace(sample.frames.data(), kFramesMax);
    sample.asked.store(kAnswered, std::memory_order_release);
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
  static Mutex one_at_a_time;  // schedulers have a watchdog each
  MutexLock lock(one_at_a_time);
  std::vector<std::string> stack;
  auto asked = static_cast<uintptr_t>(thread);
  sample.asked.store(asked, std::memory_order_release);
  if (pthread_kill(thread, SIGURG) == 0) {
    // Waiting for a signal handler of another thread: there is nothing better to wait on than time.
    for (int i = 0; i < 100 && sample.asked.load(std::memory_order_acquire) != kAnswered; ++i) {
      (void)poll(nullptr, 0, 1);
    }
  }
  if (sample.asked.compare_exchange_strong(asked, 0, std::memory_order_acquire)) return stack;
  while (sample.asked.load(std::memory_order_acquire) != kAnswered) (void)poll(nullptr, 0, 1);
  constexpr int kHandlerFrames = 2;  // OnSampleRequest and the kernel's trampoline
  for (int i = kHandlerFrames; i < sample.count; ++i) stack.push_back(Symbol(sample.frames[i]));
  sample.asked.store(0, std::memory_order_relaxed);
  return stack;
}

}  // namespace sched::internal
