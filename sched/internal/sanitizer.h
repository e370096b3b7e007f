// SPDX-License-Identifier: Apache-2.0
//
// Tells AddressSanitizer and ThreadSanitizer of a switch between stacks. Empty in other builds.
#ifndef PARKWAY_SCHED_INTERNAL_SANITIZER_H_
#define PARKWAY_SCHED_INTERNAL_SANITIZER_H_

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace sched::internal {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
inline constexpr size_t kDefaultStackBytes = 256 << 10;
#else
inline constexpr bool kSanitized = false;
inline constexpr size_t kDefaultStackBytes = 64 << 10;
#endif

// What the sanitizers know of one stack: a fiber's, or the worker thread's own.
class SanitizedStack {
 public:
  // The thread's own stack. Its bounds are learned at the first switch away from it.
  void AdoptThread() {
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_get_current_fiber();
#endif
  }

  void Create([[maybe_unused]] const void* bottom, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    bottom_ = bottom;
    bytes_ = bytes;
#endif
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  // From another stack, after the last switch away.
  void Destroy() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bottom_, bytes_);  // frames that never returned
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(tsan_);
#endif
  }

  // On this stack, directly before the switch to `target`. `last`: this stack is never continued.
  void BeforeSwitch([[maybe_unused]] SanitizedStack& target, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, target.bottom_, target.bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(target.tsan_, 0);
#endif
  }

  // On this stack, directly after it was continued from `source`.
  void AfterSwitch([[maybe_unused]] SanitizedStack& source) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, &source.bottom_, &source.bytes_);
#endif
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan_ = nullptr;
#endif
};

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_SANITIZER_H_
