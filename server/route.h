// SPDX-License-Identifier: Apache-2.0
//
// What a route is: where it accepts, whom it serves there, and what serves them.
#ifndef PARKWAY_SERVER_ROUTE_H_
#define PARKWAY_SERVER_ROUTE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "netpoll/endpoint.h"
#include "server/block_set.h"
#include "server/cidr.h"
#include "server/destinations.h"
#include "server/proxy_header.h"
#include "server/question.h"

namespace parkway {

// How backends are chosen (Lineup::Take).
enum class Balance : uint8_t { kRoundRobin, kLeastConn, kRandom2, kSource, kMaglev, kFirst };
// What a session gets when no backend is up: the end, or one of them nevertheless.
enum class AllDown : uint8_t { kRefuse, kTry };
// How it is learned that a backend is down: not at all, from failed connects alone, or from those
// and from checks, too.
enum class Health : uint8_t { kOff, kPassive, kTcp, kHttp };
// What happens to the sessions of a backend that goes down.
enum class OnDown : uint8_t { kKeep, kClose };

// What becomes of clients beyond a limit of the daemon or of a listener: they wait, or are reset.
enum class Overload : uint8_t { kPause, kReset };

// Which lines of its sessions the access log gets: none, one at the end, or one at the start, too.
enum class LogSessions : uint8_t { kOff, kEnd, kAll };

// What a PROXY header of version 2 tells beside the addresses, as bits: a checksum, the session's
// unique id, and what the header said with which the client came.
enum ProxyTlv : uint8_t { kProxyTlvChecksum = 1, kProxyTlvUniqueId = 2, kProxyTlvReceived = 4 };

// What becomes of what clients send: a backend gets it, or they themselves, or nobody.
enum class Mode : uint8_t { kProxy, kEcho, kDiscard };
inline constexpr std::string_view kModes[] = {"proxy", "echo", "discard"};
inline constexpr std::string_view ToString(Mode mode) { return kModes[static_cast<size_t>(mode)]; }

inline constexpr int kConnectRetriesMax = 15;
inline constexpr int kWeightMax = 256;

// What a route may set for itself; the flag of the same name is the default, and its help gives the
// reason and what raising it costs. Spans, 0 for none where not said otherwise.
struct RouteOptions {
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(5);  // never 0
  std::chrono::nanoseconds idle_timeout = std::chrono::hours(1);
  std::chrono::nanoseconds half_close_timeout = std::chrono::seconds(60);
  std::chrono::nanoseconds reset_linger = std::chrono::seconds(1);  // 0: waits for nobody

  Balance balance = Balance::kRoundRobin;
  int hash_balance_factor = 0;  // percent; 0: no bound
  int connect_retries = 3;
  int max_queue = 1024;  // sessions that wait for a backend below its most; 0: none does
  std::chrono::nanoseconds queue_timeout = std::chrono::seconds(5);  // never 0
  AllDown all_down = AllDown::kRefuse;
  std::chrono::nanoseconds slow_start{0};
  OnDown on_down = OnDown::kKeep;

  Health health = Health::kPassive;
  std::chrono::nanoseconds health_interval = std::chrono::seconds(2);  // never 0
  std::chrono::nanoseconds health_timeout = std::chrono::seconds(1);   // never 0
  int health_rise = 2;
  int health_fall = 3;
  int health_port = 0;            // 0: the backend's own
  std::string health_path = "/";  // of kHttp
  std::string health_host{};      // of kHttp; empty: the backend's address
  std::string health_send{};      // of kTcp; empty: nothing
  std::string health_expect{};    // of kTcp; empty: the connect is enough

  // Of listening sockets, and of what they accept.
  int backlog = 4096;
  int fastopen = 0;                // clients it may queue; 0: off
  int64_t listener_max_conns = 0;  // 0: no limit
  int listener_conn_rate = 0;      // new ones a second; 0: no limit
  Overload overload = Overload::kPause;
  std::chrono::nanoseconds defer_accept{0};  // whole seconds
  bool mptcp = false;
  bool transparent = false;  // takes what was sent to other addresses
  std::chrono::nanoseconds keepalive_idle = std::chrono::seconds(60);  // whole seconds
  AcceptProxy accept_proxy = AcceptProxy::kOff;
  BlockList trusted{};  // who may say for whom it connects
  std::chrono::nanoseconds handshake_timeout = std::chrono::seconds(10);  // never 0
  // Which clients it serves of those that are its own, and how many of each source.
  BlockList allow{};  // empty: all
  BlockList deny{};
  int source_max_conns = 0;  // 0: no limit
  int source_conn_rate = 0;  // new ones a second; 0: no limit
  // Bytes a second in each direction, of a session and of all of them together; 0: no limit.
  size_t bandwidth = 0;
  size_t route_bandwidth = 0;
  // Of connections to backends.
  std::vector<netpoll::Endpoint> source{};  // with port 0, in turn; none: the kernel's choice
  bool source_is_client = false;            // the client's address is; without `source`
  std::chrono::nanoseconds backend_keepalive_idle{0};  // whole seconds
  SendProxy send_proxy = SendProxy::kOff;
  uint8_t send_proxy_tlvs = 0;  // ProxyTlv, of kV2
  // Of both; 0 and empty leave it to the kernel.
  std::chrono::nanoseconds user_timeout{0};  // whole milliseconds
  std::string congestion{};
  int64_t mark = 0;   // a uint32_t
  size_t rcvbuf = 0;  // bytes
  size_t sndbuf = 0;  // bytes

  // The access log.
  LogSessions log_sessions = LogSessions::kEnd;
  int log_sample = 1;  // one session of so many is logged

  friend bool operator==(const RouteOptions&, const RouteOptions&) = default;
};

// A name stands for all its addresses. `text` is what the operator wrote.
struct Listen {
  std::string text{};
  std::vector<netpoll::Endpoint> at{};

  friend bool operator==(const Listen&, const Listen&) = default;
};

struct Backend {
  std::string text{};  // the address alone
  std::vector<netpoll::Endpoint> at{};
  // Instead, a name of which name servers are asked while the daemon runs; empty: none. `port` is
  // that of a host; services tell theirs.
  Question question{};
  uint16_t port = 0;
  int weight = 1;       // its share of the connections, and each of its addresses'; 0: none
  bool backup = false;  // serves when no other can
  bool drain = false;   // gets no new connections
  int max = 0;          // most sessions of each of its addresses; 0: no limit

  bool serves() const { return !drain && weight > 0; }
  bool is_discovered() const { return !question.name.empty(); }

  friend bool operator==(const Backend&, const Backend&) = default;
};

// The one that --mode, --listen and --backend make.
inline constexpr std::string_view kDefaultRoute = "default";

struct Route {
  std::string name{};
  std::vector<Listen> listen{};  // at least one
  // Clients it serves there: by address, and by what their TLS ClientHello asks for. Empty: all.
  std::vector<Cidr> from{};
  std::vector<std::string> sni{};   // names in lower case, or *.NAME for all below it
  std::vector<std::string> alpn{};  // protocols, of which one is offered
  Mode mode = Mode::kProxy;         // without backends in the others
  std::vector<Backend> backends{};
  // Instead of backends: clients are connected to where they were going before a packet filter led
  // them here, if that is one of these.
  Destinations allow_dst{};
  RouteOptions options{};

  bool serves_all() const { return from.empty() && !needs_hello(); }
  // Clients have to send a ClientHello before it is known whether it serves them.
  bool needs_hello() const { return !sni.empty() || !alpn.empty(); }

  bool to_original_dst() const { return !allow_dst.empty(); }
  // The daemon serves its clients itself.
  bool is_local() const { return mode != Mode::kProxy; }

  friend bool operator==(const Route&, const Route&) = default;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_ROUTE_H_
