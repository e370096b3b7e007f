// SPDX-License-Identifier: Apache-2.0
//
// The context switch alone, without the test framework, so that it can also be cross-compiled and
// run under an emulator (sched/testing/arm64_test.sh).
#include "sched/internal/context.h"

#include <cstdint>
#include <cstdio>

#include "sched/testing/require.h"

namespace {

void* main_sp;
void* other_sp;
alignas(16) char stack[256 << 10];
int entered;

// Keeps many values alive across a switch, so that they sit in callee-saved registers, and returns
// a digest of what came back.
[[gnu::noinline]] uint64_t SwitchWithLiveRegisters(void** from, void** to, uint64_t seed) {
  uint64_t a = seed + 1, b = seed * 3, c = seed ^ 0x55, d = seed << 7, e = ~seed, f = seed - 9;
  double x = static_cast<double>(seed) * 1.5, y = static_cast<double>(seed) + 0.25;
  double z = static_cast<double>(seed) / 3, w = static_cast<double>(seed) - 1e6;
  asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
#if defined(__aarch64__)
  asm volatile("" : "+w"(x), "+w"(y), "+w"(z), "+w"(w));
#endif
  parkway_switch_context(from, *to);
  asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
  REQUIRE(a == seed + 1 && b == seed * 3 && c == (seed ^ 0x55));
  REQUIRE(d == seed << 7 && e == ~seed && f == seed - 9);
  REQUIRE(x == static_cast<double>(seed) * 1.5 && y == static_cast<double>(seed) + 0.25);
  REQUIRE(z == static_cast<double>(seed) / 3 && w == static_cast<double>(seed) - 1e6);
  return a ^ b ^ c ^ d ^ e ^ f;
}

void Entry(void* arg) {
  REQUIRE(arg == &entered);
  // The second time from a frame of the first, on the same stack.
  if (++entered == 1) parkway_enter_stack(stack + sizeof stack, &Entry, &entered);
  // The ABI's promise to every function: a frame aligned to 16 bytes.
  alignas(16) volatile char aligned[16] = {};
  REQUIRE(reinterpret_cast<uintptr_t>(&aligned) % 16 == 0);
  char here;
  REQUIRE(&here > stack && &here < stack + sizeof stack);
  for (uint64_t i = 0;; ++i) (void)SwitchWithLiveRegisters(&other_sp, &main_sp, 7919 * i + 1);
}

}  // namespace

int main() {
  other_sp = sched::internal::MakeContext(stack + sizeof stack, &Entry, &entered);
  constexpr uint64_t kSwitches = 100000;
  for (uint64_t i = 0; i < kSwitches; ++i) {
    (void)SwitchWithLiveRegisters(&main_sp, &other_sp, 104729 * i + 3);
  }
  REQUIRE(entered == 2);
  std::printf("%llu switches there and back\n", static_cast<unsigned long long>(kSwitches));
  return 0;
}
