// SPDX-License-Identifier: Apache-2.0
//
// What one simulated run consists of, as data: the daemon's configuration, the network, the faults,
// and a script for every client and backend. A seed makes a plan; parts of it can be dropped, to
// see whether it still fails without them.
#ifndef PARKWAY_SERVER_SIM_PLAN_H_
#define PARKWAY_SERVER_SIM_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "netpoll/sim/network.h"
#include "netpoll/sim/sim_kernel.h"
#include "sched/testing/one_thread_host.h"
#include "server/config.h"
#include "server/pipe_pool.h"

namespace parkway::sim {

// One step of a script.
struct Op {
  enum class Kind : uint8_t {
    kSend,    // `amount` bytes; goes on when the kernel has taken them
    kSay,     // the next `amount` bytes of the preamble; likewise
    kPause,   // `amount` nanoseconds
    kAwait,   // until `amount` bytes have come in all, or the end
    kUrgent,  // an urgent byte, if the window has room for it
    kFinish,  // FIN
    kReset,   // resets; the script ends
    kLeave,   // closes, whatever lies unread; the script ends
    kBreak,   // the daemon's machine gives the connection up, with errno `amount`
    kCutOff,  // the network between here and the daemon fails for good, unnoticed
  };
  Kind kind;
  int64_t amount = 0;
};

// What a peer does. After the last step it reads until the end comes, and then closes.
struct Script {
  std::vector<Op> ops;
  // How it reads: `read_size` bytes every `read_every`; 0: all, whenever something comes.
  sched::Duration read_every{0};
  size_t read_size = 0;
  bool never_reads = false;
  // When it begins to read, after its start.
  sched::Duration reads_from{0};
  // What precedes its stream: a client's PROXY header or ClientHello, and whether no proxy may send
  // such a one.
  std::string preamble{};
  bool preamble_is_bad = false;
  // With what its backend is told of it; empty: not known here.
  std::string introduction{};
  // A backend that is told of each client first.
  bool is_told = false;
  // A backend that sends back what it reads, and finishes when its client has.
  bool echoes = false;
  // Instead of what is left of its steps, at that time after its start.
  std::optional<Op> finale = std::nullopt;
  sched::Duration finale_at{0};
};

struct ClientPlan {
  sched::Duration start;
  Script script;
  // Where it was going when a packet filter led it to the daemon; empty: there. And whether it may.
  netpoll::Endpoint going_to{};
  bool may_go = true;
};

struct BackendPlan {
  // kVanishes: packets to it are lost. kChecked: only health checks come there, and no session.
  enum class Kind : uint8_t { kServes, kRefuses, kVanishes, kChecked };
  Kind kind = Kind::kServes;
  std::vector<Script> scripts{};  // for its connections, in turn
  // When its port closes, and opens again, and so on. What it serves then goes on.
  std::vector<sched::Duration> toggles{};
};

// What a name server says when it is asked once.
struct LookupPlan {
  enum class Kind : uint8_t { kAnswers, kPart, kFails };
  Kind kind = Kind::kAnswers;
  std::vector<size_t> backends{};  // those it names
};

struct Plan {
  uint64_t seed = 0;
  std::string scenario;
  Config config;
  LargeFlows large_flows;
  netpoll::sim::Network::Options network;
  netpoll::sim::SimKernel::Options kernel;
  sched::testing::OneThreadHost::Options host;
  std::vector<ClientPlan> clients;
  std::vector<BackendPlan> backends;
  int most = 0;  // sessions of each backend; 0: no limit
  // The memory in use from then on; none before.
  struct Memory {
    sched::Duration after;
    int64_t bytes;
  };
  std::vector<Memory> memory;

  // Where the route has a name instead of backends: what its lookups find, in turn, the last one
  // for ever; and how long each takes.
  std::vector<LookupPlan> lookups;
  sched::Duration lookup_takes{0};
  // The configurations that it is told to take later, and when; nothing: one that cannot be read.
  struct Reload {
    sched::Duration after;
    std::optional<Config> config;
  };
  std::vector<Reload> reloads;
  // When the daemon is asked to stop; kNever: when the clients are done. And to stop at once, that
  // much later; kNever: not.
  sched::Duration stop_after = sched::Duration::max();
  sched::Duration stop_now_after = sched::Duration::max();

  // The daemon's one route.
  Route& route() { return config.routes.front(); }
  const Route& route() const { return config.routes.front(); }
  RouteOptions& options() { return route().options; }
  const RouteOptions& options() const { return route().options; }
};

// The scenarios, a seed's being number `seed` modulo their count unless it is named.
const std::vector<std::string>& Scenarios();

// REQUIRES: `scenario` is empty or one of them.
Plan MakePlan(uint64_t seed, std::string_view scenario);

// What can be dropped from a plan: "client3", "late_events", … and does so.
std::vector<std::string> Parts(const Plan& plan);
void Drop(Plan& plan, std::string_view part);

// The port of a backend, and of the daemon.
inline constexpr int kDaemonPort = 8080;
inline int BackendPort(size_t index) { return 9000 + static_cast<int>(index); }
inline netpoll::Endpoint LoopbackAt(int port, int number = 1) {
  return *netpoll::Endpoint::Parse("127.0.0." + std::to_string(number) + ":" +
                                   std::to_string(port));
}

}  // namespace parkway::sim

#endif  // PARKWAY_SERVER_SIM_PLAN_H_
