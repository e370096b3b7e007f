// SPDX-License-Identifier: Apache-2.0
//
// Sizes: ParseSize() accepts just what an independent reading of the grammar accepts, with the same
// value; what FormatSize() prints is read back, and no larger unit would do.
#include <array>
#include <optional>

#include "sched/testing/fuzz.h"
#include "server/fuzz/refusal.h"
#include "server/units.h"

namespace parkway {
namespace {

using sched::testing::Require;

constexpr std::array<std::pair<std::string_view, int>, 17> kUnits = {{
    {"B", 0},
    {"KiB", 10},
    {"Ki", 10},
    {"K", 10},
    {"k", 10},
    {"MiB", 20},
    {"Mi", 20},
    {"M", 20},
    {"m", 20},
    {"GiB", 30},
    {"Gi", 30},
    {"G", 30},
    {"g", 30},
    {"TiB", 40},
    {"Ti", 40},
    {"T", 40},
    {"t", 40},
}};

// What `text` should be read as, in 128 bits; nothing if it should be refused.
std::optional<uint64_t> Expected(std::string_view text) {
  if (text == "0") return 0;
  std::string_view digits = text.substr(0, text.find_first_not_of("0123456789"));
  const std::string_view name = text.substr(digits.size());
  const auto* unit = std::find_if(kUnits.begin(), kUnits.end(),
                                  [&](const auto& known) { return known.first == name; });
  if (digits.empty() || unit == kUnits.end()) return std::nullopt;
  digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size()));
  if (digits.size() > 20) return std::nullopt;  // 16 EiB has 20
  unsigned __int128 bytes = 0;
  for (const char digit : digits) bytes = bytes * 10 + static_cast<unsigned>(digit - '0');
  bytes <<= unit->second;
  if (bytes > UINT64_MAX) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

void CheckPrinting(uint64_t bytes) {
  const std::string text = FormatSize(bytes);
  const absl::StatusOr<uint64_t> read = ParseSize(text);
  Require(read.ok() && *read == bytes, "a printed size is read back", text);
  const bool has_larger_unit = text.ends_with("B") && !text.ends_with("TiB");
  Require(!has_larger_unit || std::stoull(text) % 1024 != 0, "a size has its largest unit", text);
}

void CheckText(std::string_view text) {
  const absl::StatusOr<uint64_t> bytes = ParseSize(text);
  const std::optional<uint64_t> expected = Expected(text);
  Require(bytes.ok() == expected.has_value(), "just what is a size is accepted", text);
  if (bytes.ok()) {
    Require(*bytes == *expected, "a size has the value that is written", text);
    CheckPrinting(*bytes);
    return;
  }
  RequireRefusal(bytes.status(), text);
}

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parkway::CheckText(sched::testing::TextOf(data, size));
  parkway::CheckPrinting(sched::testing::NumberOf(data, size));
  return 0;
}
