// SPDX-License-Identifier: Apache-2.0
//
// What fuzz targets share. A target is one function, LLVMFuzzerTestOneInput() in foo_fuzz.cc, that
// gives bytes to a parser and requires what must hold whatever the bytes are. `./dev fuzz` links it
// with libFuzzer, which invents the bytes; the ordinary tests link it with fuzz_replay.cc, which
// takes them from the committed corpus. See docs/decisions/0014-fuzzing.md.
#ifndef PARKWAY_SCHED_TESTING_FUZZ_H_
#define PARKWAY_SCHED_TESTING_FUZZ_H_

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

// Its name and signature are libFuzzer's; returns 0.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace sched::testing {

inline std::string_view TextOf(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The first 8 bytes, zeros for those that are missing.
inline uint64_t NumberOf(const uint8_t* data, size_t size) {
  uint64_t number = 0;
  for (size_t i = 0; i < std::min(size, sizeof(number)); ++i) {
    number |= uint64_t{data[i]} << (8 * i);
  }
  return number;
}

inline bool IsControl(char c) { return std::iscntrl(static_cast<unsigned char>(c)) != 0; }

inline bool HoldsControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(), IsControl);
}

inline std::string Escaped(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    char hex[] = "\\x00";
    std::snprintf(hex, sizeof(hex), "\\x%02x", static_cast<unsigned char>(c));
    text += IsControl(c) ? std::string_view(hex) : std::string_view(&c, 1);
  }
  return text;
}

// Aborts, which libFuzzer reports as a crash, unless `holds`. `property` is a sentence that should
// have been true of `subject`.
inline void Require(bool holds, std::string_view property, std::string_view subject) {
  if (holds) return;
  const std::string line = Escaped(property) + ": \"" + Escaped(subject) + "\"";
  std::fprintf(stderr, "does not hold: %s\n", line.c_str());
  std::abort();
}

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_FUZZ_H_
