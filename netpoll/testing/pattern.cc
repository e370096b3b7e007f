// SPDX-License-Identifier: Apache-2.0
#include "netpoll/testing/pattern.h"

#include <algorithm>
#include <cstring>

namespace netpoll {
namespace {

// splitmix64 (Steele, Lea, Flood 2014), of the index of an 8-byte word.
uint64_t WordAt(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0xd1342543de82ef95 + (index + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Calls visit(offset, pattern, count) for each run of bytes of one word.
template <class Visit>
void ForEachWord(uint64_t seed, uint64_t position, size_t size, Visit visit) {
  for (size_t done = 0; done < size;) {
    const uint64_t word = WordAt(seed, (position + done) / 8);
    const size_t skip = (position + done) % 8;
    const size_t count = std::min(8 - skip, size - done);
    std::byte bytes[8];
    std::memcpy(bytes, &word, sizeof bytes);
    if (!visit(done, bytes + skip, count)) return;
    done += count;
  }
}

}  // namespace

void FillPattern(uint64_t seed, uint64_t position, std::span<std::byte> bytes) {
  ForEachWord(seed, position, bytes.size(), [&](size_t at, const std::byte* pattern, size_t count) {
    std::memcpy(bytes.data() + at, pattern, count);
    return true;
  });
}

size_t PatternMismatch(uint64_t seed, uint64_t position, std::span<const std::byte> bytes) {
  size_t mismatch = bytes.size();
  ForEachWord(seed, position, bytes.size(), [&](size_t at, const std::byte* pattern, size_t count) {
    if (std::memcmp(bytes.data() + at, pattern, count) == 0) return true;
    mismatch = at;
    while (bytes[mismatch] == pattern[mismatch - at]) ++mismatch;
    return false;
  });
  return mismatch;
}

}  // namespace netpoll
