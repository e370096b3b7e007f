// SPDX-License-Identifier: Apache-2.0
//
// Endless streams of known bytes, different per seed: who receives one can say at which byte it was
// cut, shifted or mixed with another.
#ifndef PARKWAY_NETPOLL_TESTING_PATTERN_H_
#define PARKWAY_NETPOLL_TESTING_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace netpoll {

// Writes the bytes that stand at `position` and after.
void FillPattern(uint64_t seed, uint64_t position, std::span<std::byte> bytes);
// The index of the first byte that is not as FillPattern would have it, or bytes.size().
size_t PatternMismatch(uint64_t seed, uint64_t position, std::span<const std::byte> bytes);

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_TESTING_PATTERN_H_
