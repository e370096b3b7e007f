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
#include "server/log_target.h"
#include "server/question.h"
#include "server/route.h"
#include "server/route_config.h"

namespace parkway {

// Values of memory_budget beside bytes.
inline constexpr size_t kNoMemoryBudget = 0;
inline constexpr size_t kMemoryBudgetOfGroup = SIZE_MAX;  // 90 % of its control group's limit

// Field = flag of the same name; its help gives the reason of each default and what raising it
// costs.
struct Config {
  // At least one. --mode, --listen and --backend make the first, called kDefaultRoute.
  std::vector<Route> routes;
  // What --backlog, --connect_timeout and so on say: for routes that say nothing else.
  RouteOptions defaults;
  // None of --mode, --listen, --backend, --route and --routes_file was given: a trial run, whose
  // one route relays 127.0.0.1:8080 to two echo backends that the daemon starts itself, and names
  // none.
  bool embedded_backends = false;

  int64_t max_conns = 0;                        // 0: derived from RLIMIT_NOFILE
  int max_conn_rate = 0;                        // new ones a second; 0: no limit
  size_t buffer_memory = size_t{64} << 20;      // bytes, the bound of all leased relay buffers
  size_t splice_memory = size_t{64} << 20;      // bytes, the bound of all pipes; 0: none
  size_t memory_budget = kMemoryBudgetOfGroup;  // bytes in use, beyond which no client is let in

  std::string log = "stderr";      // as CheckLogTarget has it
  std::string access_log = "off";  // likewise
  AccessFormat access_log_format = AccessFormat::kText;
  std::chrono::nanoseconds access_log_progress{0};  // 0: never

  // Of backends that are names.
  std::string dns_servers{};  // as CheckServers has it; empty: those of /etc/resolv.conf
  std::chrono::nanoseconds dns_timeout = std::chrono::seconds(1);
  int dns_tries = 3;
  std::chrono::nanoseconds dns_ttl_min = std::chrono::seconds(1);
  std::chrono::nanoseconds dns_ttl_max = std::chrono::seconds(30);
  DnsFamily dns_family = DnsFamily::kAuto;

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
    kExit,  // --help, --version, --check or --print_config was answered: exit with code 0
  };

  Action action = Action::kRun;
  Config config;  // valid with kRun
};

// Reads the command line and the files it names, checks everything and resolves the names where it
// listens. BLOCKS THE THREAD on files and name servers: never call it on a worker. --help,
// --version,
// --check and --print_config print to `out`; nothing else is printed. Afterwards gflags' registry
// holds the effective values.
//
// Any error is kInvalidArgument with one line that names the flag and the value, and where a file
// gave it:
//   --idle_timeout=5: add a unit, for example 5s
//   /etc/parkway/parkway.flags:12: --frobnicate: unknown flag; --help lists all flags
//   /etc/parkway/routes:3: column 9: lissten: unknown key; did you mean listen?
absl::StatusOr<ParseResult> ParseCommandLine(int argc, const char* const* argv, std::ostream& out,
                                             const NameSources& names = NameSources());

// The flags that make `config`, one "--name=value" each: lines of a flagfile that
// ParseCommandLine() reads back to the same Config. The routes of a trial run are absent.
std::vector<std::string> ToFlags(const Config& config);

}  // namespace parkway

#endif  // PARKWAY_SERVER_CONFIG_H_
