// SPDX-License-Identifier: Apache-2.0
//
// Durations: ParseDuration() accepts just what an independent reading of the grammar accepts, with
// the same value; what FormatDuration() prints is read back.
#include <array>
#include <optional>

#include "sched/testing/fuzz.h"
#include "server/fuzz/refusal.h"
#include "server/units.h"

namespace parkway {
namespace {

using sched::testing::Require;
using std::chrono::nanoseconds;

// The largest first, as they must be written.
constexpr std::array<std::pair<std::string_view, int64_t>, 7> kUnits = {{
    {"d", 86'400'000'000'000},
    {"h", 3'600'000'000'000},
    {"m", 60'000'000'000},
    {"s", 1'000'000'000},
    {"ms", 1'000'000},
    {"us", 1'000},
    {"ns", 1},
}};

std::string_view TakeOf(std::string_view& text, std::string_view letters) {
  const std::string_view taken = text.substr(0, text.find_first_not_of(letters));
  text.remove_prefix(taken.size());
  return taken;
}

// Nothing if the digits have too many, which is no duration either.
std::optional<__int128> Number(std::string_view digits, size_t digits_max) {
  digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size()));
  if (digits.size() > digits_max) return std::nullopt;
  __int128 number = 0;
  for (const char digit : digits) number = number * 10 + (digit - '0');
  return number;
}

// `fraction` of a unit, exactly. Written with more than 16 significant digits it is never whole:
// no unit holds so many factors of 2 and of 5.
std::optional<__int128> WholeFraction(std::string_view fraction, int64_t unit_ns) {
  fraction = fraction.substr(0, fraction.find_last_not_of('0') + 1);
  if (fraction.size() > 16) return std::nullopt;
  __int128 scale = 1;
  for (size_t i = 0; i < fraction.size(); ++i) scale *= 10;
  const __int128 scaled = *Number(fraction, 16) * unit_ns;
  if (scaled % scale != 0) return std::nullopt;
  return scaled / scale;
}

// What `text` should be read as, in 128 bits; nothing if it should be refused.
std::optional<int64_t> Expected(std::string_view text) {
  if (text == "0") return 0;
  if (text.empty()) return std::nullopt;
  __int128 total = 0;
  auto next = kUnits.begin();
  while (!text.empty()) {
    const std::string_view whole = TakeOf(text, "0123456789");
    if (whole.empty()) return std::nullopt;
    const std::string_view point = TakeOf(text, ".");
    const std::string_view fraction = point.empty() ? "" : TakeOf(text, "0123456789");
    if (point.size() > 1 || point.empty() != fraction.empty()) return std::nullopt;
    const std::string_view name = TakeOf(text, "abcdefghijklmnopqrstuvwxyz");
    next = std::find_if(next, kUnits.end(), [&](const auto& unit) { return unit.first == name; });
    if (next == kUnits.end()) return std::nullopt;
    const std::optional<__int128> units = Number(whole, 19);
    const std::optional<__int128> part_ns = WholeFraction(fraction, next->second);
    if (!units.has_value() || !part_ns.has_value()) return std::nullopt;
    total += *units * next->second + *part_ns;
    if (total > INT64_MAX) return std::nullopt;
    ++next;
  }
  return static_cast<int64_t>(total);
}

void CheckPrinting(nanoseconds duration) {
  const std::string text = FormatDuration(duration);
  Require(text.find_first_not_of("0123456789hmsun") == text.npos,
          "a printed duration has whole numbers and units alone", text);
  const absl::StatusOr<nanoseconds> read = ParseDuration(text);
  Require(read.ok() && *read == duration, "a printed duration is read back", text);
}

void CheckText(std::string_view text) {
  const absl::StatusOr<nanoseconds> duration = ParseDuration(text);
  const std::optional<int64_t> expected = Expected(text);
  Require(duration.ok() == expected.has_value(), "just what is a duration is accepted", text);
  if (duration.ok()) {
    Require(duration->count() == *expected, "a duration has the value that is written", text);
    CheckPrinting(*duration);
    return;
  }
  RequireRefusal(duration.status(), text);
}

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parkway::CheckText(sched::testing::TextOf(data, size));
  const auto ns = static_cast<int64_t>(sched::testing::NumberOf(data, size) & INT64_MAX);
  parkway::CheckPrinting(std::chrono::nanoseconds(ns));
  return 0;
}
