// SPDX-License-Identifier: Apache-2.0
#include "server/units.h"

#include <random>

#include "gtest/gtest.h"

namespace parkway {
namespace {

using std::chrono::nanoseconds;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

std::string DurationError(std::string_view text) {
  return std::string(ParseDuration(text).status().message());
}
std::string SizeError(std::string_view text) {
  return std::string(ParseSize(text).status().message());
}

TEST(DurationTest, ReadsNumbersWithUnits) {
  const std::pair<std::string_view, nanoseconds> table[] = {
      {"0", 0ns},
      {"0s", 0ns},
      {"500ms", 500ms},
      {"1.5s", 1500ms},
      {"2m", 2min},
      {"1h", 1h},
      {"1h30m", 90min},
      {"1h30m5.25s", 90min + 5250ms},
      {"7d", 168h},
      {"20us", 20us},
      {"20ns", 20ns},
      {"0.000000001s", 1ns},
      {"1.50000000h", 90min},
      {"0.1s", 100ms},
      {"1.000000000000s", 1s},
      {"0.0ns", 0ns},
      {"0.0000000000025h", 9ns},
      {"9223372036854775807ns", nanoseconds::max()},
      {"2562047h47m16.854775807s", nanoseconds::max()},
  };
  for (const auto& [text, expected] : table) {
    const absl::StatusOr<nanoseconds> duration = ParseDuration(text);
    ASSERT_TRUE(duration.ok()) << text << ": " << duration.status();
    EXPECT_EQ(*duration, expected) << text;
  }
}

TEST(DurationTest, ABareNumberAsksForAUnit) {
  EXPECT_EQ(DurationError("5"), "add a unit, for example 5s");
  EXPECT_EQ(DurationError("1.5"), "add a unit, for example 1.5s");
  EXPECT_EQ(DurationError("00"), "add a unit, for example 00s");
  EXPECT_EQ(DurationError("1h30"), "add a unit, for example 30s");
}

TEST(DurationTest, RefusesWhatIsNoDuration) {
  const std::string example = "not a duration; write for example 500ms, 1.5s or 1h30m";
  EXPECT_EQ(DurationError(""), "needs a duration, for example 5s");
  EXPECT_EQ(DurationError("-5s"), "must not be negative");
  for (const std::string_view text : {"s", "never", ".5s", "1.s", "1..5s", "+5s", " 5s", "."}) {
    EXPECT_EQ(DurationError(text), example) << text;
  }
  for (const std::string_view text : {"5S", "5 s", "5s ", "5sec", "5min", "5e3s", "5µs", "5s-1s"}) {
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
  }
  EXPECT_EQ(DurationError("5 s"), "unknown unit \" s\"; use ms, s, m or h");
  EXPECT_EQ(DurationError("5min"), "unknown unit \"min\"; use ms, s, m or h");
  EXPECT_FALSE(ParseDuration(std::string_view("5s\0", 3)).ok());
}

TEST(DurationTest, LargerUnitsComeFirstAndOnce) {
  const std::string order = "write the larger unit first, and each once";
  EXPECT_EQ(DurationError("30m1h"), order);
  EXPECT_EQ(DurationError("1h1h"), order);
}

TEST(DurationTest, RefusesOverflowAndFractionsOfANanosecond) {
  for (const std::string_view text :
       {"9223372036854775808ns", "99999999999999999999s", "2562048h", "9223372036.9s", "293000d",
        "2562047h60m", "2562047h47m16.854775808s"}) {
    EXPECT_EQ(DurationError(text), "longer than 292 years") << text;
  }
  EXPECT_EQ(DurationError("1.5ns"), "finer than a nanosecond");
  EXPECT_EQ(DurationError("0.0000000001s"), "finer than a nanosecond");
  EXPECT_EQ(DurationError("0.0000000000024h"), "finer than a nanosecond");
}

TEST(DurationTest, PrintsTheShortestWholeNumbers) {
  EXPECT_EQ(FormatDuration(0ns), "0");
  EXPECT_EQ(FormatDuration(500ms), "500ms");
  EXPECT_EQ(FormatDuration(1500ms), "1s500ms");
  EXPECT_EQ(FormatDuration(60s), "1m");
  EXPECT_EQ(FormatDuration(90s), "1m30s");
  EXPECT_EQ(FormatDuration(24h), "24h");
  EXPECT_EQ(FormatDuration(1ns), "1ns");
}

TEST(DurationTest, PrintedDurationsAreReadBack) {
  const uint32_t seed = std::random_device()();
  std::mt19937_64 random(seed);
  for (int i = 0; i < 10'000; ++i) {
    const nanoseconds duration(static_cast<int64_t>(random() >> (1 + random() % 62)));
    const absl::StatusOr<nanoseconds> read = ParseDuration(FormatDuration(duration));
    ASSERT_TRUE(read.ok()) << FormatDuration(duration) << " seed " << seed;
    EXPECT_EQ(*read, duration) << "seed " << seed;
  }
}

TEST(SizeTest, ReadsNumbersWithUnits) {
  const std::pair<std::string_view, uint64_t> table[] = {
      {"0", 0},
      {"0KiB", 0},
      {"512B", 512},
      {"16KiB", 16 << 10},
      {"64k", 64 << 10},
      {"64K", 64 << 10},
      {"64Ki", 64 << 10},
      {"1MiB", 1 << 20},
      {"3m", 3 << 20},
      {"2GiB", uint64_t{2} << 30},
      {"1TiB", uint64_t{1} << 40},
      {"18446744073709551615B", UINT64_MAX},
  };
  for (const auto& [text, expected] : table) {
    const absl::StatusOr<uint64_t> size = ParseSize(text);
    ASSERT_TRUE(size.ok()) << text << ": " << size.status();
    EXPECT_EQ(*size, expected) << text;
  }
}

TEST(SizeTest, RefusesWhatIsNoSize) {
  EXPECT_EQ(SizeError(""), "needs a size, for example 64KiB");
  EXPECT_EQ(SizeError("64"), "add a unit, for example 64KiB");
  EXPECT_EQ(SizeError("-1KiB"), "must not be negative");
  EXPECT_EQ(SizeError("1.5MiB"), "sizes are whole numbers; take a smaller unit");
  for (const std::string_view text : {"64KB", "64kb", "64kB", "64b", "64 KiB", "64KiB ", "1PiB"}) {
    EXPECT_EQ(SizeError(text), "unknown unit \"" +
                                   std::string(text.substr(text.find_first_not_of("0123456789"))) +
                                   "\"; use B, KiB, MiB or GiB");
  }
  for (const std::string_view text : {"KiB", "+1KiB", " 1KiB", "all"}) {
    EXPECT_EQ(SizeError(text), "not a size; write for example 64KiB") << text;
  }
}

TEST(SizeTest, RefusesOverflow) {
  for (const std::string_view text : {"18446744073709551616B", "18014398509481984KiB",
                                      "16777216TiB", "99999999999999999999GiB"}) {
    EXPECT_EQ(SizeError(text), "larger than 16 EiB") << text;
  }
}

TEST(SizeTest, PrintsTheLargestWholeUnit) {
  EXPECT_EQ(FormatSize(0), "0");
  EXPECT_EQ(FormatSize(512), "512B");
  EXPECT_EQ(FormatSize(1024), "1KiB");
  EXPECT_EQ(FormatSize(1025), "1025B");
  EXPECT_EQ(FormatSize(64 << 20), "64MiB");
  EXPECT_EQ(FormatSize(UINT64_MAX), "18446744073709551615B");
}

}  // namespace
}  // namespace parkway
