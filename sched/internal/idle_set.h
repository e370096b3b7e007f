// SPDX-License-Identifier: Apache-2.0
//
// Who sleeps and who searches for work: decides whether new work wakes somebody, and whom.
//
// A worker is busy, searching (it found nothing of its own and looks at the others') or sleeping.
// New work wakes a sleeper only if nobody searches, and makes it a searcher; a searcher that finds
// work and was the last wakes the next. So workers come up one at a time and no work is left lying
// (Go: runtime/proc.go, "Worker thread parking/unparking").
//
//   sleeping bit  search bit  worker k                       left by
//        0            0       awake                          AnnounceSleep
//        1            0       asleep, or about to be         ClaimSearcher -> 0,1; ClaimWorker,
//                                                            ClaimAny, EndSleep -> 0,0
//        0            1       woken to search; `searching_`  EndSleep -> 0,0
//                             already counts it
//
// The two races, both "store, then load" on either side and therefore seq_cst throughout:
//   producer: publish work, then load searching_ and the sleeping bits
//   worker:   set its sleeping bit, stop searching, then look at every queue
// Either the producer sees the sleeper, or the worker sees the work. A claimer that took the
// searching token and then found nobody asleep gives it back and looks *again*: while it held the
// token, others may have relied on it.
#ifndef PARKWAY_SCHED_INTERNAL_IDLE_SET_H_
#define PARKWAY_SCHED_INTERNAL_IDLE_SET_H_

#include <array>
#include <cstdint>

#include "sched/atomics.h"

namespace sched::internal {

enum class Woken : uint8_t {
  kBySelf,    // nobody claimed it
  kClaimed,   // somebody has work for this worker in particular; an Interrupt is on its way or was
  kToSearch,  // the same, and it counts as searching
};

template <class Atomics>
class BasicIdleSet {
 public:
  static constexpr int kWorkersMax = 1024;

  explicit BasicIdleSet(int workers) : workers_(workers) {}

  // --- The worker itself.

  // The caller then leaves the search, looks at everything again, and only then blocks.
  void AnnounceSleep(int worker) {
    words_[worker / kPerWord].fetch_or(SleepBit(worker), std::memory_order_seq_cst);
  }

  // After blocking, or instead of it. Says whether somebody claimed this worker meanwhile.
  Woken EndSleep(int worker) {
    const uint64_t both = SleepBit(worker) | SearchBit(worker);
    const uint64_t old = words_[worker / kPerWord].fetch_and(~both, std::memory_order_seq_cst);
    if ((old & SleepBit(worker)) != 0) return Woken::kBySelf;
    return (old & SearchBit(worker)) != 0 ? Woken::kToSearch : Woken::kClaimed;
  }

  // True if the caller now counts as searching. Refused when half of the awake workers search
  // already: more would only contend.
  bool TryStartSearching() {
    if (2 * searching_.load(std::memory_order_seq_cst) >= workers_ - SleepingCount()) return false;
    StartSearching();
    return true;
  }
  // For a worker that has seen work lying somewhere.
  void StartSearching() { searching_.fetch_add(1, std::memory_order_seq_cst); }

  // True if it was the last searcher; if it stops because it found work, it then wakes another
  // (ClaimSearcher).
  bool StopSearching() { return searching_.fetch_sub(1, std::memory_order_seq_cst) == 1; }

  // --- Producers, any thread.

  // After publishing work that anybody may take: the worker to Interrupt, or -1 if none needs to
  // be.
  int ClaimSearcher() {
    while (searching_.load(std::memory_order_seq_cst) == 0 && AnySleeping()) {
      int32_t none = 0;
      if (!searching_.compare_exchange_strong(none, 1, std::memory_order_seq_cst)) return -1;
      const int worker = Claim(/*to_search=*/true);
      if (worker >= 0) return worker;
      searching_.fetch_sub(1, std::memory_order_seq_cst);
    }
    return -1;
  }

  // After publishing work only `worker` can take: true if the caller must Interrupt it. False: it
  // is awake, or another claimer interrupts it, and it looks at its queues before it sleeps again.
  bool ClaimWorker(int worker) {
    auto& word = words_[worker / kPerWord];
    uint64_t old = word.load(std::memory_order_seq_cst);
    while ((old & SleepBit(worker)) != 0) {
      if (word.compare_exchange_strong(old, old & ~SleepBit(worker), std::memory_order_seq_cst)) {
        return true;
      }
    }
    return false;
  }

  // Any sleeper, without making it a searcher (the watchdog wakes a sentinel so): the worker to
  // Interrupt, or -1.
  int ClaimAny() { return Claim(/*to_search=*/false); }

  int SleepingCount() const {
    int count = 0;
    for (int i = 0; i < WordCount(); ++i) {
      count += __builtin_popcountll(words_[i].load(std::memory_order_seq_cst) & kSleepMask);
    }
    return count;
  }

 private:
  static constexpr int kPerWord = 32;
  static constexpr uint64_t kSleepMask = 0xffffffff;
  static uint64_t SleepBit(int worker) { return uint64_t{1} << (worker % kPerWord); }
  static uint64_t SearchBit(int worker) { return SleepBit(worker) << kPerWord; }
  int WordCount() const { return (workers_ + kPerWord - 1) / kPerWord; }

  bool AnySleeping() const {
    for (int i = 0; i < WordCount(); ++i) {
      if ((words_[i].load(std::memory_order_seq_cst) & kSleepMask) != 0) return true;
    }
    return false;
  }

  int Claim(bool to_search) {
    for (int i = 0; i < WordCount(); ++i) {
      uint64_t old = words_[i].load(std::memory_order_seq_cst);
      while ((old & kSleepMask) != 0) {
        const int worker = i * kPerWord + __builtin_ctzll(old & kSleepMask);
        const uint64_t claimed = to_search ? SearchBit(worker) : 0;
        if (words_[i].compare_exchange_strong(old, (old & ~SleepBit(worker)) | claimed,
                                              std::memory_order_seq_cst)) {
          return worker;
        }
      }
    }
    return -1;
  }

  const int workers_;
  alignas(64) typename Atomics::template Atomic<int32_t> searching_{0};
  alignas(
      64) std::array<typename Atomics::template Atomic<uint64_t>, kWorkersMax / kPerWord> words_{};
};

using IdleSet = BasicIdleSet<StdAtomics>;

}  // namespace sched::internal

#endif  // PARKWAY_SCHED_INTERNAL_IDLE_SET_H_
