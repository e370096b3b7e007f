// SPDX-License-Identifier: Apache-2.0
//
// What the command line asks for. Flags have these names; durations are in seconds there.
#ifndef PARKWAY_BENCH_LOADGEN_OPTIONS_H_
#define PARKWAY_BENCH_LOADGEN_OPTIONS_H_

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace loadgen {

enum class Mode {
  kRequests,  // requests and answers
  kUp,        // clients send all the time
  kDown,      // clients receive all the time
  kBoth,      // clients send all the time what comes back
  kSink,      // a server that reads
  kSource,    // a server that writes
  kAnswers,   // a server that answers requests of `size` with `answer` bytes
};

inline bool IsServer(Mode mode) {
  return mode == Mode::kSink || mode == Mode::kSource || mode == Mode::kAnswers;
}

struct Options {
  Mode mode = Mode::kRequests;
  std::string mode_name;
  sockaddr_in address = {};  // the target's, or where a server listens
  int connections = 64;
  size_t size = 64;    // bytes per request; per write, in bulk
  size_t answer = 0;   // bytes per answer; 0: the request's own
  int depth = 1;       // requests under way on each connection
  uint64_t reuse = 0;  // requests per connection; 0: without end
  double rate = 0;     // requests per second in all; 0: each when the last was answered
  bool poisson = false;
  double seconds = 3;
  double warmup = 0.3;
  double timeout = 5;
  bool verify = true;
  bool spin = false;
};

// Exits with code 2 and one line on stderr if it makes no sense.
Options ParseCommandLine(int argc, char** argv);

}  // namespace loadgen

#endif  // PARKWAY_BENCH_LOADGEN_OPTIONS_H_
