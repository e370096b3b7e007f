// SPDX-License-Identifier: Apache-2.0
#include "server/crc32c.h"

#include <array>
#include <cstddef>

namespace parkway {
namespace {

// Castagnoli's polynomial, its lowest bit first.
constexpr uint32_t kCrc32cPolynomial = 0x82f63b78;

// What each byte does to a remainder.
constexpr auto kCrc32cTable = [] {
  std::array<uint32_t, 256> table = {};
  for (size_t byte = 0; byte < table.size(); ++byte) {
    auto rest = static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1) * kCrc32cPolynomial;
    table[byte] = rest;
  }
  return table;
}();

}  // namespace

uint32_t ExtendCrc32c(uint32_t crc, std::string_view bytes) {
  crc = ~crc;
  for (const unsigned char byte : bytes) crc = crc >> 8 ^ kCrc32cTable[(crc ^ byte) & 0xff];
  return ~crc;
}

}  // namespace parkway
