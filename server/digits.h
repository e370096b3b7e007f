// SPDX-License-Identifier: Apache-2.0
//
// Decimal digits two at a time, for the line that each short connection pays for.
#ifndef PARKWAY_SERVER_DIGITS_H_
#define PARKWAY_SERVER_DIGITS_H_

#include <array>
#include <cstdint>
#include <cstring>

namespace parkway {

// "000102…99".
inline constexpr auto kDigitPairs = [] {
  std::array<char, 200> pairs{};
  for (uint32_t i = 0; i < 100; ++i) {
    pairs[2 * i] = static_cast<char>('0' + i / 10);
    pairs[2 * i + 1] = static_cast<char>('0' + i % 10);
  }
  return pairs;
}();

// Writes both digits of `number`; returns where they end. REQUIRES: number < 100.
inline char* WriteTwoDigits(uint32_t number, char* to) {
  std::memcpy(to, &kDigitPairs[2 * number], 2);
  return to + 2;
}

}  // namespace parkway

#endif  // PARKWAY_SERVER_DIGITS_H_
