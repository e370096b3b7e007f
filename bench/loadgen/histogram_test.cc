// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace loadgen {
namespace {

TEST(HistogramTest, NothingIsZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.Percentile(50), 0);
  EXPECT_EQ(histogram.max(), 0);
  EXPECT_EQ(histogram.mean(), 0);
}

TEST(HistogramTest, SmallValuesAreExact) {
  Histogram histogram;
  for (int i = 1; i <= 100; ++i) histogram.Add(i);
  EXPECT_EQ(histogram.Percentile(1), 1);
  EXPECT_EQ(histogram.Percentile(50), 50);
  EXPECT_EQ(histogram.Percentile(99), 99);
  EXPECT_EQ(histogram.Percentile(100), 100);
  EXPECT_DOUBLE_EQ(histogram.mean(), 50.5);
}

TEST(HistogramTest, EveryMagnitudeIsWithinOneIn64AndNeverBelow) {
  for (int64_t value = 1; value < INT64_MAX / 3; value = value * 3 + 1) {
    Histogram histogram;
    histogram.Add(value);
    histogram.Add(INT64_MAX);  // so that it is not the maximum that answers
    const int64_t told = histogram.Percentile(50);
    EXPECT_GE(told, value);
    EXPECT_LE(told - value, value / 64) << value;
  }
}

TEST(HistogramTest, PercentilesAreThoseOfTheSortedValues) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> durations(10, 2);
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 100'000; ++i) {
    values.push_back(static_cast<int64_t>(durations(random)));
    histogram.Add(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double percent : {0.1, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0}) {
    const int64_t truth = values[static_cast<size_t>(percent / 100 * 100'000) - 1];
    EXPECT_NEAR(static_cast<double>(histogram.Percentile(percent)), static_cast<double>(truth),
                static_cast<double>(truth) / 64)
        << percent;
  }
}

}  // namespace
}  // namespace loadgen
