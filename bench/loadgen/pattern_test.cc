// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/pattern.h"

#include <gtest/gtest.h>

#include <vector>

namespace loadgen {
namespace {

std::vector<std::byte> Stream(const Pattern& pattern, size_t size) {
  std::vector<std::byte> stream;
  while (stream.size() < size) {
    const auto piece = pattern.At(stream.size(), size - stream.size());
    stream.insert(stream.end(), piece.begin(), piece.end());
  }
  return stream;
}

TEST(PatternTest, PiecesOfAnySizeMakeOneStream) {
  const Pattern pattern(7);
  const std::vector<std::byte> stream = Stream(pattern, 3 * Pattern::kPeriod);
  for (const size_t size : {1, 64, 16'384, 300'000}) {
    for (size_t at = 0; at + size <= stream.size(); at += size) {
      ASSERT_TRUE(pattern.Matches(at, std::span(stream).subspan(at, size))) << at;
    }
  }
}

TEST(PatternTest, AWrongALostADoubledAndAStrangersByteAreSeen) {
  const Pattern pattern(7);
  std::vector<std::byte> stream = Stream(pattern, 10'000);
  EXPECT_FALSE(pattern.Matches(1, std::span(stream).first(64))) << "one was lost";
  EXPECT_FALSE(pattern.Matches(0, std::span(stream).subspan(1, 64))) << "one came twice";
  EXPECT_FALSE(Pattern(8).Matches(0, std::span(stream).first(64))) << "another stream's";
  stream[5'000] ^= std::byte{1};
  EXPECT_FALSE(pattern.Matches(0, stream));
}

}  // namespace
}  // namespace loadgen
