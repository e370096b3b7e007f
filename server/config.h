// SPDX-License-Identifier: Apache-2.0
//
// What the daemon is told by its command line. config.cc is the only file that defines or reads
// flags; everything else in the server takes this struct, and the libraries take options of their
// own.
#ifndef PARKWAY_SERVER_CONFIG_H_
#define PARKWAY_SERVER_CONFIG_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"

namespace parkway {

enum class Mode { kProxy, kEcho };

// Field = flag of the same name; its help gives the reason of each default and what raising it
// costs.
struct Config {
  Mode mode = Mode::kProxy;

  // At least one. A name stands for all its addresses.
  std::vector<netpoll::Endpoint> listen;
  // kProxy: at least one, unless embedded_backends. Round robin, resolved at start. kEcho: none.
  std::vector<netpoll::Endpoint> backends;
  // As the operator wrote them, one per flag, for the banner and messages. A name resolves to
  // several endpoints, so these need not run parallel to the vectors above.
  std::vector<std::string> listen_text;
  std::vector<std::string> backend_text;
  // None of --mode, --listen and --backend was given: a trial run, which relays 127.0.0.1:8080 to
  // two echo backends that the daemon starts itself. `backends` is empty.
  bool embedded_backends = false;

  int64_t max_conns = 0;  // 0: derived from RLIMIT_NOFILE
  int backlog = 4096;
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(5);
  std::chrono::nanoseconds idle_timeout = std::chrono::hours(1);           // 0: none
  std::chrono::nanoseconds half_close_timeout = std::chrono::seconds(60);  // 0: none
  std::chrono::nanoseconds reset_linger = std::chrono::seconds(1);         // 0: wait for nobody
  std::chrono::nanoseconds keepalive_idle = std::chrono::seconds(60);      // whole seconds; 0: off
  size_t buffer_memory = size_t{64} << 20;  // bytes, the bound of all leased relay buffers
  size_t splice_memory = size_t{64} << 20;  // bytes, the bound of all pipes; 0: none

  int workers = 0;  // 0: one per CPU of the affinity mask, limited by the cgroup quota
  bool pin_cpus = false;
  std::chrono::nanoseconds stall_report = std::chrono::milliseconds(10);  // 0: never
  std::chrono::nanoseconds spin = std::chrono::microseconds(50);          // 0: sleep at once
  size_t stack_size = size_t{64} << 10;                                   // bytes, whole pages
  std::chrono::nanoseconds drain_timeout = std::chrono::seconds(30);      // 0: close at once

  friend bool operator==(const Config&, const Config&) = default;
};

struct ParseResult {
  enum class Action {
    kRun,
    kExit,  // --help or --version was answered: exit with code 0
  };

  Action action = Action::kRun;
  Config config;  // valid with kRun
};

// How names become addresses; tests give their own.
using ResolveFunction = absl::StatusOr<std::vector<netpoll::Endpoint>>(std::string_view host_port);

// Reads the command line and the flagfiles it names, checks everything and resolves all names.
// BLOCKS THE THREAD on files and name servers: call it once, before the workers start. --help and
// --version print to `out`; nothing else is printed. Afterwards gflags' registry holds the
// effective values.
//
// Any error is kInvalidArgument with one line that names the flag and the value, and where a file
// gave it:
//   --idle_timeout=5: add a unit, for example 5s
//   /etc/parkway/parkway.flags:12: --frobnicate: unknown flag; --help lists all flags
absl::StatusOr<ParseResult> ParseCommandLine(
    int argc, const char* const* argv, std::ostream& out,
    ResolveFunction* resolve = &netpoll::Endpoint::Resolve);

// The flags that make `config`, one "--name=value" each and every flag named: lines of a flagfile
// that ParseCommandLine() reads back to the same Config. With embedded_backends --mode, --listen
// and --backend are absent.
std::vector<std::string> ToFlags(const Config& config);

}  // namespace parkway

#endif  // PARKWAY_SERVER_CONFIG_H_
