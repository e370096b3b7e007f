// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/pattern.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace loadgen {
namespace {

// Two periods, so that a piece that begins in the first is in one piece.
const std::byte* Block() {
  static const std::vector<std::byte> block = [] {
    std::mt19937_64 random(20'220'601);  // tidy: always the same bytes
    std::vector<std::byte> bytes(2 * Pattern::kPeriod);
    std::generate_n(bytes.begin(), Pattern::kPeriod, [&] { return std::byte(random()); });
    std::copy_n(bytes.begin(), Pattern::kPeriod, bytes.begin() + Pattern::kPeriod);
    return bytes;
  }();
  return block.data();
}

}  // namespace

std::span<const std::byte> Pattern::At(uint64_t offset, size_t size) const {
  return {Block() + (start_ + offset) % kPeriod, std::min(size, kPeriod)};
}

bool Pattern::Matches(uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const std::span<const std::byte> expected = At(offset, bytes.size());
    if (std::memcmp(expected.data(), bytes.data(), expected.size()) != 0) return false;
    bytes = bytes.subspan(expected.size());
    offset += expected.size();
  }
  return true;
}

}  // namespace loadgen
