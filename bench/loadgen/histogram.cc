// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace loadgen {

void Histogram::Add(int64_t nanoseconds) {
  nanoseconds = std::max<int64_t>(nanoseconds, 0);
  ++buckets_[BucketOf(static_cast<uint64_t>(nanoseconds))];
  ++count_;
  max_ = std::max(max_, nanoseconds);
  sum_ += static_cast<double>(nanoseconds);
}

double Histogram::mean() const { return count_ > 0 ? sum_ / static_cast<double>(count_) : 0; }

int64_t Histogram::Percentile(double percent) const {
  const auto wanted = static_cast<int64_t>(std::ceil(static_cast<double>(count_) * percent / 100));
  int64_t seen = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen > 0 && seen >= wanted) {
      return std::min(max_, static_cast<int64_t>(LargestOf(bucket)));
    }
  }
  return 0;
}

// The first 2 * 64 values have a bucket each; from there on a value keeps its 7 leading bits.
int Histogram::BucketOf(uint64_t value) {
  const int shift = std::max(static_cast<int>(std::bit_width(value)) - (kSubBits + 1), 0);
  return (shift << kSubBits) + static_cast<int>(value >> shift);
}

uint64_t Histogram::LargestOf(int bucket) {
  const int shift = std::max((bucket >> kSubBits) - 1, 0);
  const uint64_t leading = static_cast<uint64_t>(bucket - (shift << kSubBits));
  return ((leading + 1) << shift) - 1;
}

}  // namespace loadgen
