// SPDX-License-Identifier: Apache-2.0
//
// What was measured, since the last Reset.
#ifndef PARKWAY_BENCH_LOADGEN_RESULT_H_
#define PARKWAY_BENCH_LOADGEN_RESULT_H_

#include <cstdint>
#include <string>

#include "bench/loadgen/histogram.h"

namespace loadgen {

struct Options;

struct Errors {
  int64_t connect = 0;    // refused, timed out, no port
  int64_t reset = 0;      // by the server, or another error of a connection
  int64_t early_end = 0;  // a FIN where bytes were to come
  int64_t wrong = 0;      // bytes that are not those of the stream
  int64_t timeout = 0;    // an answer took longer than --timeout

  int64_t sum() const { return connect + reset + early_end + wrong + timeout; }
};

struct Result {
  int64_t requests = 0;     // whole answers
  int64_t connections = 0;  // opened
  int64_t sent = 0;         // bytes
  int64_t received = 0;     // bytes
  int64_t missed = 0;       // requests whose turn came while a connection's queue was full
  Histogram latency;        // nanoseconds
  int64_t started = 0;      // nanoseconds of the monotonic clock
  int64_t ended = 0;
  Errors errors;  // of the warm-up, too

  // From here on. Errors stay.
  void Restart(int64_t now);
  double seconds() const { return static_cast<double>(ended - started) / 1e9; }
};

// One line.
std::string ToJson(const Result& result, const Options& options);

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_RESULT_H_
