// SPDX-License-Identifier: Apache-2.0
//
// Parkway's load generator. On stderr it says "measuring" when the warm-up is over and "measured"
// at the end, at the very moment, so that others can look at the server's clocks then; the result
// is one line of JSON on stdout.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>

#include "bench/loadgen/bulk_load.h"
#include "bench/loadgen/loop.h"
#include "bench/loadgen/options.h"
#include "bench/loadgen/request_load.h"
#include "bench/loadgen/result.h"

namespace loadgen {
namespace {

volatile std::sig_atomic_t stopped = 0;

std::unique_ptr<Load> NewLoad(const Options& options, Loop& loop, Result& result) {
  if (options.mode == Mode::kRequests) {
    return std::make_unique<RequestLoad>(options, loop, result);
  }
  return std::make_unique<BulkLoad>(options, loop, result);
}

void RunFor(double seconds, Loop& loop, Load& load, const Result& result) {
  const int64_t until = Now() + static_cast<int64_t>(seconds * 1e9);
  for (int64_t now; stopped == 0 && (now = Now()) < until;) {
    if (result.errors.sum() >= kErrorsMax) return;
    loop.Turn(std::min(load.Tick(now), until));
  }
}

void Say(const char* what) {
  (void)fprintf(stderr, "%s\n", what);
  (void)fflush(stderr);
}

int Main(int argc, char** argv) {
  const Options options = ParseCommandLine(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  if (IsServer(options.mode)) Serve(options);
  for (const int number : {SIGINT, SIGTERM}) signal(number, [](int) { stopped = 1; });
  Loop loop(options.spin);
  const auto result = std::make_unique<Result>();
  const std::unique_ptr<Load> load = NewLoad(options, loop, *result);
  load->Start();
  RunFor(options.warmup, loop, *load, *result);
  Say("measuring");
  result->Restart(Now());
  RunFor(options.seconds, loop, *load, *result);
  result->ended = Now();
  Say("measured");
  (void)printf("%s\n", ToJson(*result, options).c_str());
  return result->errors.sum() > 0 ? 1 : 0;
}

}  // namespace
}  // namespace loadgen

int main(int argc, char** argv) { return loadgen::Main(argc, argv); }
