// SPDX-License-Identifier: Apache-2.0
//
// Counts of durations in log-linear buckets: 64 for each power of two, so that a percentile is at
// most 1/64 above the truth (as HdrHistogram, http://hdrhistogram.org).
#ifndef PARKWAY_BENCH_LOADGEN_HISTOGRAM_H_
#define PARKWAY_BENCH_LOADGEN_HISTOGRAM_H_

#include <array>
#include <cstdint>

namespace loadgen {

class Histogram {
 public:
  void Add(int64_t nanoseconds);

  int64_t count() const { return count_; }
  // 0 without any.
  int64_t max() const { return max_; }
  double mean() const;
  // The largest value of the bucket that holds the `percent`-th of all; 0 without any.
  int64_t Percentile(double percent) const;

 private:
  static constexpr int kSubBits = 6;
  static constexpr int kBuckets = (65 - kSubBits) << kSubBits;

  static int BucketOf(uint64_t value);
  static uint64_t LargestOf(int bucket);

  std::array<int64_t, kBuckets> buckets_{};
  int64_t count_ = 0;
  int64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_HISTOGRAM_H_
