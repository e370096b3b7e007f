// SPDX-License-Identifier: Apache-2.0
//
// Requests to a server that sends back what it gets, or so many bytes for each. Closed loop: a
// connection's next request follows the answer to its last. Open loop (--rate): requests are due at
// given instants, dealt out to the connections in turn, and their latency counts from then, however
// late they are sent. With --reuse a connection ends after so many answers and the next is opened
// for the next request, whose latency counts from the connect at the latest.
#ifndef PARKWAY_BENCH_LOADGEN_REQUEST_LOAD_H_
#define PARKWAY_BENCH_LOADGEN_REQUEST_LOAD_H_

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "bench/loadgen/load.h"
#include "bench/loadgen/loop.h"
#include "bench/loadgen/options.h"
#include "bench/loadgen/pattern.h"
#include "bench/loadgen/result.h"

namespace loadgen {

class RequestLoad final : public Load {
 public:
  RequestLoad(const Options& options, Loop& loop, Result& result);
  ~RequestLoad() override;
  void Start() override;
  int64_t Tick(int64_t now) override;

 private:
  class Connection;

  bool IsOpenLoop() const { return options_.rate > 0; }
  int64_t Gap();
  void LookForTimeouts(int64_t now);

  const Options options_;
  Loop& loop_;
  Result& result_;
  std::vector<std::unique_ptr<Connection>> connections_;
  size_t turn_ = 0;  // whose the next request is
  int64_t due_ = 0;  // when
  int64_t next_look_ = 0;
  std::mt19937_64 random_;  // tidy: always the same gaps, and no Host here
};

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_REQUEST_LOAD_H_
