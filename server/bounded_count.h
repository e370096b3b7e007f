// SPDX-License-Identifier: Apache-2.0
//
// How many there are of what there may only be so many of.
#ifndef PARKWAY_SERVER_BOUNDED_COUNT_H_
#define PARKWAY_SERVER_BOUNDED_COUNT_H_

#include <atomic>
#include <cstdint>

namespace parkway {

// Whether so many are all there may be; 0: there is no limit.
inline bool IsAt(int64_t most, int64_t count) { return most > 0 && count >= most; }

// Counts one more, unless there are `most`. seq_cst: who finds none free waits and looks again,
// while who gives one back looks for those that wait.
inline bool TakeOne(int64_t most, std::atomic<int64_t>& count) {
  int64_t before = count.load(std::memory_order_seq_cst);
  do {
    if (IsAt(most, before)) return false;
  } while (!count.compare_exchange_strong(before, before + 1, std::memory_order_seq_cst));
  return true;
}

}  // namespace parkway

#endif  // PARKWAY_SERVER_BOUNDED_COUNT_H_
