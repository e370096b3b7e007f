// SPDX-License-Identifier: Apache-2.0
//
// Memory for the records of sessions. Each worker keeps some of what it frees, so that a short
// connection calls no allocator.
#ifndef PARKWAY_SERVER_SESSION_MEMORY_H_
#define PARKWAY_SERVER_SESSION_MEMORY_H_

#include <cstddef>
#include <vector>

namespace parkway {

class SessionMemory {
 public:
  static constexpr int kKinds = 6;
  // Records that a worker keeps, of each kind; more are freed.
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int kKeptMax = 0;  // so that use after free is seen
#else
  static constexpr int kKeptMax = 256;
#endif

  explicit SessionMemory(int workers) : own_(static_cast<size_t>(workers)) {}
  ~SessionMemory();
  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;

  // For a record of a kind, 0 to kKinds - 1, and `size` bytes, which all of that kind have. Fiber
  // only.
  void* Take(int kind, size_t size);
  void Give(void* record, int kind);

 private:
  struct Kept {
    Kept* next;
  };
  struct List {
    Kept* first = nullptr;
    int count = 0;
  };
  // Written by one worker: on cache lines of its own.
  struct alignas(64) Own {
    List lists[kKinds];
  };

  List& list(int kind);

  std::vector<Own> own_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_SESSION_MEMORY_H_
