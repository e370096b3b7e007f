// SPDX-License-Identifier: Apache-2.0
//
// Two signals: SIGSEGV in a guard page becomes a sentence, and SIGURG makes a stalled worker show
// its stack.
#ifndef PARKWAY_SCHED_INTERNAL_CRASH_SIGNALS_H_
#define PARKWAY_SCHED_INTERNAL_CRASH_SIGNALS_H_

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace sched::internal {

// Installs both handlers, once per process. A SIGSEGV that is no overflow goes to the handler
// installed before. In sanitizer builds SIGSEGV is left to the sanitizer.
void InstallCrashSignals();

// Gives the calling thread its own stack for signal handlers, since a fiber that overflowed has
// none left.
class SignalStack {
 public:
  SignalStack();
  ~SignalStack();
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  void* memory_;
};

// Asks `thread`, a worker, for its stack and waits for it up to 100 ms. Innermost first,
// symbolized; empty if the thread did not answer. Callers wait for each other.
std::vector<std::string> SampleStack(pthread_t thread);

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_CRASH_SIGNALS_H_
