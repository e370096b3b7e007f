// SPDX-License-Identifier: Apache-2.0
#ifndef PARKWAY_BENCH_LOADGEN_LOAD_H_
#define PARKWAY_BENCH_LOADGEN_LOAD_H_

#include <cstdint>

namespace loadgen {

// What a run consists of; it lives on a Loop, and counts in a Result.
class Load {
 public:
  virtual ~Load() = default;
  // Opens the connections.
  virtual void Start() = 0;
  // Does what is due, and returns when it wants to be called again.
  virtual int64_t Tick(int64_t now) = 0;
};

// How often connections are looked at for time-outs.
inline constexpr int64_t kLookEveryNs = 100'000'000;
// After so many errors a run is over: each may have cost a connect.
inline constexpr int64_t kErrorsMax = 1000;

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_LOAD_H_
