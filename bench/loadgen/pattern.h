// SPDX-License-Identifier: Apache-2.0
//
// What connections send, and expect: a stream each, of which any piece is found without making it.
#ifndef PARKWAY_BENCH_LOADGEN_PATTERN_H_
#define PARKWAY_BENCH_LOADGEN_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace loadgen {

class Pattern {
 public:
  // A prime, so that it beats with no message size; pieces are at most this long.
  static constexpr size_t kPeriod = 262'139;

  // Streams of different numbers start elsewhere in the same bytes.
  explicit Pattern(uint64_t number) : start_(number * 104'729 % kPeriod) {}

  // `size` bytes from `offset` on.
  std::span<const std::byte> At(uint64_t offset, size_t size) const;
  // Whether these are the bytes from `offset` on; any number of them.
  bool Matches(uint64_t offset, std::span<const std::byte> bytes) const;

 private:
  uint64_t start_;
};

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_PATTERN_H_
