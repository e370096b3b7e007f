// SPDX-License-Identifier: Apache-2.0
#include "server/units.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"

namespace parkway {
namespace {

struct TimeUnit {
  std::string_view name;
  int64_t ns;
  bool printed;  // days are read but not printed: 24h needs no second look
};

// The larger first.
constexpr TimeUnit kTimeUnits[] = {
    {"d", 86'400'000'000'000, false},
    {"h", 3'600'000'000'000, true},
    {"m", 60'000'000'000, true},
    {"s", 1'000'000'000, true},
    {"ms", 1'000'000, true},
    {"us", 1'000, true},
    {"ns", 1, true},
};

struct SizeUnit {
  std::string_view name;  // as printed
  std::string_view abbreviations[3];
  int shift;
};

// The larger first.
constexpr SizeUnit kSizeUnits[] = {
    {"TiB", {"T", "t", "Ti"}, 40},
    {"GiB", {"G", "g", "Gi"}, 30},
    {"MiB", {"M", "m", "Mi"}, 20},
    {"KiB", {"K", "k", "Ki"}, 10},
    {"B", {}, 0},
};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Cuts the leading characters of `text` for which `belongs` holds.
template <class Predicate>
std::string_view TakeWhile(std::string_view& text, Predicate belongs) {
  const auto end = std::find_if_not(text.begin(), text.end(), belongs);
  const std::string_view taken = text.substr(0, static_cast<size_t>(end - text.begin()));
  text.remove_prefix(taken.size());
  return taken;
}

// total += number * scale, or false on overflow.
bool AddScaled(int64_t& total, int64_t number, int64_t scale) {
  int64_t product;
  return !__builtin_mul_overflow(number, scale, &product) &&
         !__builtin_add_overflow(total, product, &total);
}

bool AppendDigit(int64_t& number, char digit) {
  return !__builtin_mul_overflow(number, 10, &number) &&
         !__builtin_add_overflow(number, digit - '0', &number);
}

absl::Status TooLong() { return absl::InvalidArgumentError("longer than 292 years"); }

// Adds `whole`.`fraction` units to `total_ns`. No floating point: 0.1s is 100 ms to the nanosecond.
absl::Status AddPart(std::string_view whole, std::string_view fraction, int64_t unit_ns,
                     int64_t& total_ns) {
  int64_t number = 0;
  for (const char digit : whole) {
    if (!AppendDigit(number, digit)) return TooLong();
  }
  // From the last digit on: what it leaves below a nanosecond, no digit before it makes up for.
  int64_t fraction_ns = 0;
  for (auto digit = fraction.rbegin(); digit != fraction.rend(); ++digit) {
    fraction_ns += (*digit - '0') * unit_ns;
    if (fraction_ns % 10 != 0) return absl::InvalidArgumentError("finer than a nanosecond");
    fraction_ns /= 10;
  }
  if (!AddScaled(total_ns, number, unit_ns) || !AddScaled(total_ns, fraction_ns, 1)) {
    return TooLong();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text) {
  if (text == "0") return std::chrono::nanoseconds(0);
  if (text.empty()) return absl::InvalidArgumentError("needs a duration, for example 5s");
  if (text.front() == '-') return absl::InvalidArgumentError("must not be negative");

  const TimeUnit* next_unit = std::begin(kTimeUnits);  // the largest that may still follow
  int64_t total_ns = 0;
  while (!text.empty()) {
    const std::string_view part = text;
    const std::string_view whole = TakeWhile(text, IsDigit);
    const bool has_point = !text.empty() && text.front() == '.';
    if (has_point) text.remove_prefix(1);
    const std::string_view fraction = has_point ? TakeWhile(text, IsDigit) : std::string_view();
    if (whole.empty() || has_point != !fraction.empty()) {
      return absl::InvalidArgumentError("not a duration; write for example 500ms, 1.5s or 1h30m");
    }
    const std::string_view name = TakeWhile(text, [](char c) { return !IsDigit(c) && c != '.'; });
    if (name.empty()) {
      const std::string number(part.substr(0, part.size() - text.size()));
      return absl::InvalidArgumentError("add a unit, for example " + number + "s");
    }
    const TimeUnit* unit = std::find_if(std::begin(kTimeUnits), std::end(kTimeUnits),
                                        [&](const TimeUnit& u) { return u.name == name; });
    if (unit == std::end(kTimeUnits)) {
      return absl::InvalidArgumentError("unknown unit \"" + std::string(name) +
                                        "\"; use ms, s, m or h");
    }
    if (unit < next_unit) {
      return absl::InvalidArgumentError("write the larger unit first, and each once");
    }
    next_unit = unit + 1;
    const absl::Status added = AddPart(whole, fraction, unit->ns, total_ns);
    if (!added.ok()) return added;
  }
  return std::chrono::nanoseconds(total_ns);
}

std::string FormatDuration(std::chrono::nanoseconds duration) {
  std::string text;
  int64_t rest_ns = duration.count();
  for (const TimeUnit& unit : kTimeUnits) {
    if (!unit.printed || rest_ns < unit.ns) continue;
    text += std::to_string(rest_ns / unit.ns).append(unit.name);
    rest_ns %= unit.ns;
  }
  return text.empty() ? "0" : text;
}

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  if (text == "0") return 0;
  if (text.empty()) return absl::InvalidArgumentError("needs a size, for example 64KiB");
  if (text.front() == '-') return absl::InvalidArgumentError("must not be negative");

  const std::string_view digits = TakeWhile(text, IsDigit);
  if (digits.empty()) return absl::InvalidArgumentError("not a size; write for example 64KiB");
  if (text.empty()) {
    return absl::InvalidArgumentError("add a unit, for example " + std::string(digits) + "KiB");
  }
  if (text.front() == '.') {
    return absl::InvalidArgumentError("sizes are whole numbers; take a smaller unit");
  }
  const auto is_called = [&](const SizeUnit& unit) {
    return unit.name == text ||
           std::find(std::begin(unit.abbreviations), std::end(unit.abbreviations), text) !=
               std::end(unit.abbreviations);
  };
  const SizeUnit* unit = std::find_if(std::begin(kSizeUnits), std::end(kSizeUnits), is_called);
  if (unit == std::end(kSizeUnits)) {
    return absl::InvalidArgumentError("unknown unit \"" + std::string(text) +
                                      "\"; use B, KiB, MiB or GiB");
  }
  uint64_t bytes = 0;
  for (const char digit : digits) {
    if (__builtin_mul_overflow(bytes, 10, &bytes) ||
        __builtin_add_overflow(bytes, digit - '0', &bytes)) {
      return absl::InvalidArgumentError("larger than 16 EiB");
    }
  }
  if (__builtin_mul_overflow(bytes, uint64_t{1} << unit->shift, &bytes)) {
    return absl::InvalidArgumentError("larger than 16 EiB");
  }
  return bytes;
}

std::string FormatSize(uint64_t bytes) {
  if (bytes == 0) return "0";
  const SizeUnit* unit =
      std::find_if(std::begin(kSizeUnits), std::end(kSizeUnits),
                   [&](const SizeUnit& u) { return bytes % (uint64_t{1} << u.shift) == 0; });
  return std::to_string(bytes >> unit->shift).append(unit->name);
}

std::string InMebibytes(int64_t bytes) { return std::to_string(bytes >> 20) + "MiB"; }

}  // namespace parkway
