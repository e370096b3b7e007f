// SPDX-License-Identifier: Apache-2.0
//
// Streams without end: of a client, or of the server it talks to. All are the same stream, number
// 0, so that whoever receives knows what is right. A server that answers is one whose stream goes
// on by an answer per request.
#ifndef PARKWAY_BENCH_LOADGEN_BULK_LOAD_H_
#define PARKWAY_BENCH_LOADGEN_BULK_LOAD_H_

#include <cstdint>
#include <list>
#include <memory>

#include "bench/loadgen/load.h"
#include "bench/loadgen/loop.h"
#include "bench/loadgen/options.h"
#include "bench/loadgen/result.h"

namespace loadgen {

class Stream;

// The clients of --mode=up, down and both. A stream that moves nothing for --timeout has failed.
class BulkLoad final : public Load {
 public:
  BulkLoad(const Options& options, Loop& loop, Result& result);
  ~BulkLoad() override;
  void Start() override;
  int64_t Tick(int64_t now) override;

 private:
  const Options options_;
  Loop& loop_;
  Result& result_;
  std::list<Stream> streams_;
  int64_t next_look_ = 0;
};

// Serves --mode=sink, source or answers until it is killed; tells its address on stdout.
[[noreturn]] void Serve(const Options& options);

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_BULK_LOAD_H_
