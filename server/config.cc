// SPDX-License-Identifier: Apache-2.0
//
// One table, Flags(), says which flag sets which field within which bounds; reading, printing and
// --help all walk it. gflags is the registry: it holds names, help, defaults and, after parsing,
// the effective values.
#include "server/config.h"

#include <gflags/gflags.h>
#include <limits.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "server/flag_scanner.h"
#include "server/log_target.h"
#include "server/text_file.h"
#include "server/version.h"

// The first sentence of each help stands in --help, all of it in --help=all.

DEFINE_string(mode, "proxy",
              "What a connection gets: a backend, its own bytes, or nothing. "
              "proxy is the daemon's work; echo and discard, which reads until the client has "
              "finished, are for tests and measurements.");
DEFINE_string(listen, "127.0.0.1:8080",
              "Where to accept; repeat the flag for more addresses. "
              "127.0.0.1:80, [::1]:80, [fe80::1%eth0]:80, :80 (every address, IPv4 and IPv6), "
              "name:80, unix:/path or unix:@abstract; with port 0 the kernel chooses one. The "
              "default is a loopback address so that nothing is exposed unasked. Every address "
              "costs a listening socket per worker.");
DEFINE_string(
    backend, "",
    "Where to relay to; repeat the flag, connections take turns. "
    "HOST:PORT, srv:NAME or unix:/path. A name stands for all its addresses, or those of its "
    "service (SRV records), and is looked up again and again, as name servers say (--dns_...). "
    "There is no default, except that without --mode, --listen "
    "and --backend two built-in echo backends stand in. More backends cost nothing "
    "until they are used. *3 behind an address is its weight, @backup one that serves "
    "when no other can, @drain one that gets no new connections, /max=100 the most it has "
    "at a time.");
DEFINE_string(route, "",
              "One more route: NAME listen=... to=...; repeat the flag. "
              "'web listen=:80,:81 from=10.0.0.0/8 to=web1:80*3,web2:80@backup idle_timeout=5m': "
              "a name, where to accept, which clients (all), backends or echo, and any of the "
              "options below, whose flags are the defaults. Of routes that listen at one address "
              "the first that serves the client has it. docs/routes.md has the grammar.");
DEFINE_string(routes_file, "",
              "A file of routes, one per line, as --route takes them. "
              "# begins a comment, and a \\ at the end of a line goes on in the next. At most "
              "1000 routes and 1 MiB; the flag may be repeated.");

DEFINE_string(dns_servers, "",
              "Name servers to ask; without it, those of /etc/resolv.conf. "
              "Up to 8 addresses, 10.0.0.1, ::1 or 10.0.0.1:5353, separated by commas; the next is "
              "asked when one fails. Only for backends that are names.");
DEFINE_string(dns_timeout, "1s",
              "How long a name server may take to answer. "
              "A duration, 10ms to 1m, of the first try; twice as long of the second, and so on. "
              "The start, and a reload, wait three times as long for names that are new, and then "
              "go on without. Raising it finds later that a server is dead.");
DEFINE_int32(dns_tries, 3,
             "How often each name server is asked at most. "
             "A count, 1 to 10. Raising it outlasts more lost packets, and keeps a lookup going "
             "for longer.");
DEFINE_string(dns_ttl_min, "1s",
              "Least time from one lookup of a name to the next. "
              "A duration, 10ms to 1h, where its TTL is shorter, and after a failure; then twice "
              "as long each time, up to dns_ttl_max. Lowering it follows changes sooner and asks "
              "more.");
DEFINE_string(dns_ttl_max, "30s",
              "Most time from one lookup of a name to the next. "
              "A duration, 10ms to 24h, where its TTL is longer. Raising it asks less, and follows "
              "changes, and the end of a failure, later.");
DEFINE_string(dns_family, "auto",
              "Which addresses of a name are used. "
              "auto, any, ipv4 or ipv6. auto: its IPv4 addresses, and its IPv6 ones if it has no "
              "others, since a server often listens on those alone. any: all of both.");

DEFINE_int64(max_conns, 0,
             "Most client connections at a time; 0 derives it. "
             "In connections, 0 to 100000000. The default takes what RLIMIT_NOFILE allows, which "
             "is printed at start; at the limit new clients wait in the kernel's queue. Raising "
             "it costs a descriptor per echo connection and two per proxied one, and the "
             "kernel's socket buffers of each.");
DEFINE_int32(max_conn_rate, 0,
             "Most new clients per second, of all listeners; 0 no limit. "
             "A count of up to 1000000; as many may come at once. What happens there: --overload. "
             "Lowering it protects backends from clients that all reconnect.");
DEFINE_int32(backlog, 4096,
             "Connections the kernel may hold before they are accepted. "
             "Per listening socket, 1 to 1000000; the kernel cuts it to net.core.somaxconn, "
             "whose default is the same 4096: enough for a burst while a worker is busy. Raising "
             "it costs kernel memory in a burst, and lets clients wait longer before they see "
             "that the daemon is overloaded.");
DEFINE_string(balance, "rr",
              "How a connection's backend is chosen. "
              "rr, leastconn, random2, source, maglev or first. rr: turns, by weight. leastconn: "
              "the fewest sessions for its weight, for sessions of "
              "very unequal length. random2: the better of two drawn, nearly as even as leastconn "
              "where many proxies share the backends. source: the same backend for a client's "
              "address, whichever Parkway it comes to; maglev: likewise, in constant time for "
              "hundreds of backends. first: the first that has not its max, so that the others may "
              "sleep.");
DEFINE_int32(
    hash_balance_factor, 0,
    "Most that balance source and maglev give to one; 0 no limit. "
    "In percent of its share, 0 or 101 to 10000: of the sessions there are now; who is beyond gets "
    "another backend. 0 keeps every client's backend, however uneven the clients are; 125 "
    "is even enough for most. Lowering it moves more clients.");
DEFINE_string(connect_timeout, "5s",
              "Longest wait for a backend to accept. "
              "A duration, 1ms to 1h. 5s outlasts two lost packets (the kernel repeats after 1s "
              "and 3s). Raising it holds the clients of a dead backend, and two descriptors for "
              "each, for as long.");
DEFINE_int32(connect_retries, 3,
             "Further backends to try when a connect fails. "
             "A count, 0 to 15; none is tried twice. 3 outlasts the loss of a few backends of "
             "many before they are known to be down. Raising it lets a client wait for as many "
             "connect_timeouts more.");
DEFINE_int32(max_queue, 1024,
             "Connections that may wait while every backend has its max. "
             "Of each route, 0 to 1000000; beyond that they are reset at once (queue_full). Only "
             "where backends have a max. Raising it costs two descriptors and a fiber's stack per "
             "waiting client, and lets clients wait longer for the same backends.");
DEFINE_string(queue_timeout, "5s",
              "How long a connection waits while every backend has its max. "
              "A duration, 1ms to 1h; then it is reset (queue_timeout). 5s is what a user waits. "
              "Raising it fills the queue with clients that have given up.");
DEFINE_string(idle_timeout, "1h",
              "Ends a connection that is silent in both directions; 0 never. "
              "A duration, 0 or 1ms to 8760h. 1h outlasts the pauses of database pools and still "
              "ends what a vanished client left behind. Raising it keeps the descriptors of "
              "forgotten connections longer.");
DEFINE_string(half_close_timeout, "60s",
              "Ends a half-closed connection that moves no bytes; 0 never. "
              "A duration, 0 or 1ms to 8760h, counted from the last byte after one side has "
              "finished sending, so that long answers are not cut. 60s is a patient client's "
              "pause. Raising it keeps the descriptors of connections whose other side never "
              "finishes; with 0 --idle_timeout still holds.");
DEFINE_string(reset_linger, "1s",
              "How long the end of a connection waits for what is on its way. "
              "A duration, 0 to 1m: a reset destroys what the receiver has not taken yet, so it "
              "waits until that is delivered, at most this long; and whoever is ended by a timeout "
              "or a drain has this long to finish too. 1s suits slow links. Raising it keeps the "
              "descriptors of ended connections longer, and drains by as much, if peers neither "
              "read nor finish; 0 waits for nobody.");
DEFINE_string(health, "passive",
              "How a backend is found to be down. "
              "off, passive, tcp or http. passive: by health_fall failed connects in a row, after "
              "which it is checked until it "
              "answers again; not if it is its route's only one. tcp: also by checks all the time, "
              "a connect, and health_send and health_expect if they are given. http: likewise, a "
              "GET, for which 200 to 399 is good. The default sends nothing unasked to backends "
              "that work.");
DEFINE_string(health_interval, "2s",
              "From one check of a backend to the next. "
              "A duration, 10ms to 1h, a tenth more or less, so that checks do not come together; "
              "a quarter of it while results speak against what the backend is held for. With 2s a "
              "frozen backend is down after about 6s. Lowering it finds that sooner and costs a "
              "connection per check.");
DEFINE_string(
    health_timeout, "1s",
    "How long a check may take. "
    "A duration, 1ms to 1h, from the connect to the end of the answer. 1s is far beyond a "
    "healthy answer. Lowering it takes backends down that are only slow.");
DEFINE_int32(health_rise, 2,
             "Checks in a row that take it up again. "
             "A count, 1 to 100. One may be luck, so it is 2. Raising it keeps a flapping backend "
             "out for longer.");
DEFINE_int32(health_fall, 3,
             "Checks or connects in a row that take a backend down. "
             "A count, 1 to 100. 3 forgives a lost packet or a restart. Lowering it reacts sooner, "
             "also to what is none.");
DEFINE_int32(health_port, 0,
             "Port to check; 0 the backend's own. "
             "0 to 65535, for services that tell their health elsewhere.");
DEFINE_string(health_path, "/",
              "What a check asks for, with health http. "
              "A path of up to 1024 bytes. The default is there on most servers.");
DEFINE_string(health_host, "",
              "Host header of a check, with health http. "
              "Up to 255 bytes; without it, the backend's address.");
DEFINE_string(
    health_send, "",
    "What a check sends, with health tcp; without it, nothing. "
    "Up to 4096 bytes, with \\r \\n \\t \\s (a blank) \\\\ and \\xHH: PING\\r\\n for Redis.");
DEFINE_string(health_expect, "",
              "What must be in the answer to a check, with health tcp. "
              "Up to 4096 bytes, written as health_send, within the first 16KiB: +PONG for Redis. "
              "Without it a backend is good that accepts.");
DEFINE_string(all_down, "refuse",
              "What a connection gets when no backend is up. "
              "refuse or try. refuse: a reset at once (no_backend), so that clients go elsewhere. "
              "try: a backend "
              "as if all were up, for checks that may be wrong.");
DEFINE_string(on_down, "keep",
              "What becomes of the sessions of one that goes down. "
              "keep or close. keep: they end by themselves; the backend may serve them still. "
              "close: they end "
              "(backend_down), so that clients connect again and get another.");
DEFINE_string(slow_start, "0",
              "How long one that came up takes to its share; 0 none. "
              "A duration, 0 or 100ms to 1h, in ten equal steps. For backends that fill a cache "
              "first. Raising it keeps the others busier for longer.");
DEFINE_string(accept_proxy, "off",
              "PROXY protocol header that clients have to begin with. "
              "off, v1, v2 or any. It tells for whom a proxy connects: that address counts for "
              "from, balance, logs and send_proxy. Only proxies of --trusted may connect then, "
              "and none without a header. Costs two system calls per connection.");
DEFINE_string(trusted, "",
              "Proxies whose PROXY header counts, as blocks of addresses. "
              "Up to 1024 of them, 10.0.0.0/8 or ::1, separated by commas; required with "
              "accept_proxy, except on Unix sockets. Others are reset.");
DEFINE_string(handshake_timeout, "10s",
              "How long a client may take to say what it has to first. "
              "A duration, 1ms to 1h, for its PROXY header and its ClientHello; then it is reset. "
              "3s is the least that the protocol asks "
              "for: a packet may get lost. Raising it lets silent clients take places for longer.");
DEFINE_string(allow, "",
              "The only clients that are served, as blocks of addresses. "
              "Up to 1024 of them, 10.0.0.0/8 or ::1, and files with one in each line, @PATH, "
              "separated by commas; others are reset. Without it, all are. SIGHUP reads the files "
              "again. Unix sockets' clients have no address, and are none of these.");
DEFINE_string(deny, "",
              "Clients that are reset, as blocks of addresses. "
              "As for allow, and whatever that says.");
DEFINE_int64(listener_max_conns, 0,
             "Most clients of one address at a time; 0 no limit. "
             "A count of up to 100000000, beside --max_conns, so that one service leaves room for "
             "others. What happens there: --overload.");
DEFINE_int32(listener_conn_rate, 0,
             "Most new clients of one address per second; 0 no limit. "
             "A count of up to 1000000; as many may come at once. What happens there: --overload.");
DEFINE_string(
    overload, "pause",
    "What becomes of clients beyond a limit. "
    "pause or reset, where one of the daemon or of a listener is reached. pause: they wait in the "
    "kernel's queue (--backlog), and clients "
    "beyond that are not answered. reset: they are reset at once, and can try elsewhere.");
DEFINE_int32(source_max_conns, 0,
             "Most clients of one source at a time; 0 no limit. "
             "A count of up to 1000000, of an IPv4 address or the 64 first bits of an IPv6 one; "
             "more are reset. 65536 sources are known at a time; when all of them have clients, "
             "new ones are not limited.");
DEFINE_int32(source_conn_rate, 0,
             "Most new clients of one source per second; 0 no limit. "
             "A count of up to 1000000; as many may come at once, more are reset. As for "
             "source_max_conns.");
DEFINE_string(bandwidth, "0",
              "Most bytes per second of a connection; 0 no limit. "
              "A size, 0 or 1KiB to 1TiB, in each direction. 50ms' worth may pass at once. Below "
              "16MiB such flows are "
              "copied in small pieces instead of spliced, which costs CPU time.");
DEFINE_string(route_bandwidth, "0",
              "Most bytes per second of a route; 0 no limit. "
              "A size, 0 or 1KiB to 1TiB, in each direction, which all its connections share, in "
              "the order in which "
              "they have something to move.");
DEFINE_string(send_proxy, "off",
              "PROXY protocol header that backends get first. "
              "off, v1 or v2: who the client is, for backends that expect it; those that do not "
              "take it for the client's bytes. Health checks send one of their own. v2 is shorter "
              "to read, and has checksums and TLVs. Costs a system call or two per connection.");
DEFINE_string(send_proxy_tlvs, "",
              "What else the PROXY header of version 2 tells. "
              "Of crc32c, unique_id and received, separated by commas: a checksum; an id for the "
              "session, that the access log has, too; what the header told with which the client "
              "came.");
DEFINE_string(
    source, "",
    "Addresses to connect from, in turn; client: the client's own. "
    "Up to 256 IP addresses of this machine, separated by commas; without any, the "
    "kernel chooses one. For firewalls that know the proxy by its address, and for many "
    "connections to few backends: an address has as many to each backend as "
    "net.ipv4.ip_local_port_range has ports, 28232 by default, and one that has none left "
    "is passed over (no_source_port when all are). Costs two system calls per "
    "connection. client: the client's own address, with a port of the kernel's choice, so that "
    "backends see clients as if there were no proxy; backends have to send their answers through "
    "this machine, and its rules lead them to the daemon (docs/routes.md). Needs CAP_NET_RAW or "
    "CAP_NET_ADMIN, and costs three system calls per connection.");
DEFINE_string(keepalive_idle, "60s",
              "Silence before TCP keepalive probes the client; 0 never. "
              "A duration in whole seconds, 0 or 1s to 32767s. 60s stays below the forgetting "
              "times of common firewalls. Raising it finds dead clients later; lowering it sends "
              "more packets on idle connections.");
DEFINE_string(backend_keepalive_idle, "0",
              "Silence before TCP keepalive probes the backend; 0 never. "
              "A duration in whole seconds, 0 or 1s to 32767s. Off, since --idle_timeout ends the "
              "sessions of a backend that has vanished; set it where firewalls forget silent "
              "connections sooner. Costs four system calls per connection, and packets on idle "
              "ones.");
DEFINE_string(user_timeout, "0",
              "Ends a connection whose bytes nobody acknowledges; 0 kernel's. "
              "A duration in whole milliseconds, 0 or 1ms to 24h, of clients and backends "
              "(TCP_USER_TIMEOUT). The kernel alone gives up after about 15 minutes of "
              "retransmissions. Also bounds unanswered keepalive probes. Lowering it finds dead "
              "peers sooner, and takes a slow network for one.");
DEFINE_string(congestion, "",
              "Congestion control of clients and backends. "
              "One of net.ipv4.tcp_available_congestion_control, such as bbr or cubic; without it, "
              "the kernel's default.");
DEFINE_int64(mark, 0,
             "Mark of the packets to clients and backends; 0 none. "
             "0 to 4294967295, for rules of routing and of packet filters (SO_MARK). Needs "
             "CAP_NET_ADMIN.");
DEFINE_string(
    rcvbuf, "0",
    "Receive buffer of each connection; 0 the kernel sizes it. "
    "A size, 0 or 4KiB to 256MiB, at most net.core.rmem_max. 0 lets it grow as the "
    "connection needs (net.ipv4.tcp_rmem), which is best for almost all. Setting it costs "
    "that much kernel memory per slow receiver.");
DEFINE_string(sndbuf, "0",
              "Send buffer of each connection; 0 the kernel sizes it. "
              "As rcvbuf, with net.core.wmem_max and net.ipv4.tcp_wmem.");
DEFINE_int32(
    fastopen, 0,
    "Clients that may be queued by TCP Fast Open; 0 off. "
    "A count per listening socket, 0 to 1000000. Clients that come again send their "
    "request with the first packet, a round trip sooner. Needs 2 in net.ipv4.tcp_fastopen. "
    "A packet that the network doubles may bring a request twice, so only where that does "
    "no harm. Raising it admits more clients whose address is not proved.");
DEFINE_string(
    defer_accept, "0",
    "Accepts clients when they have sent something; 0 at once. "
    "A duration in whole seconds, 0 or 1s to 1h, after about which they are accepted "
    "nevertheless. Keeps those that only connect out of the daemon. Not where the backend "
    "speaks first: its clients would wait that long.");
DEFINE_bool(mptcp, false,
            "Accepts Multipath TCP. "
            "true or false. Clients may use several paths at once; others are served as ever. "
            "Needs net.mptcp.enabled, and goes not with user_timeout.");
DEFINE_bool(transparent, false,
            "Accepts what a packet filter hands over (tproxy). "
            "true or false. Whatever address it was sent to, which to=original_dst and send_proxy "
            "then know (IP_TRANSPARENT). Needs CAP_NET_RAW or CAP_NET_ADMIN.");
DEFINE_string(buffer_memory, "64MiB",
              "Bound of the memory for bytes on their way, all together. "
              "A size, 64KiB to 1TiB: what slow receivers have not taken yet; idle connections "
              "hold none. 64MiB is enough for a thousand slow receivers. When it is used up, bytes "
              "stay with the sender's kernel until the receiver takes them, which costs a system "
              "call more per turn. Raising it costs that much memory at worst.");

DEFINE_string(splice_memory, "64MiB",
              "Bound of the pipes for large flows; 0 copies all. "
              "A size, 0 or 512KiB to 1TiB, in pipes of 512KiB. A flow that comes faster than "
              "copying moves it is spliced: it stays inside the kernel, at half the CPU time or "
              "less. Each worker uses one pipe, and each such flow with a slow receiver another; "
              "without one, bytes are copied. 64MiB is what Linux grants an ordinary user "
              "(pipe-user-pages-soft). Of the open files pipes take at most a 32nd. Raising it "
              "costs that much kernel memory at worst.");

DEFINE_string(memory_budget, "auto",
              "Memory in use beyond which no client is let in; off none. "
              "auto, off or a size, 1MiB to 1TiB. auto: 90% of the limit of the daemon's control "
              "group, measured by what counts there, kernel memory too; without a limit, none. A "
              "size is compared with the daemon's own memory alone. Sessions go on; clients "
              "wait or are reset (--overload) until it is below 95% of the budget. Raising it "
              "leaves less for sessions that grow, until the kernel kills the daemon.");

DEFINE_string(log_sessions, "end",
              "Which lines of its sessions the access log gets. "
              "off, end or all. end: one when a session ends. all: one when it starts, too. Each "
              "line costs the daemon about a microsecond.");
DEFINE_int32(log_sample, 1,
             "Logs one session of so many. "
             "A count, 1 to 1000000: all lines of that session. Raising it saves what a line "
             "costs, and space.");
DEFINE_string(
    log, "stderr",
    "Where what the operator should know goes. "
    "off, stdout, stderr, syslog or a path with a /: backends that go down or up, reloads, "
    "lack of descriptors. Files get the time before "
    "each line; SIGUSR1 opens them anew. What is wrong at the start is on stderr in any "
    "case.");
DEFINE_string(access_log, "off",
              "Where a line for each session goes. "
              "off, stdout, stderr, syslog or a path with a /. Lines come together every 100ms. No "
              "session waits for its line: what the target does not take within a second, or what "
              "finds 512 pieces waiting, is lost and counted. SIGUSR1 opens a file anew.");
DEFINE_string(access_log_format, "text",
              "How lines of the access log are written. "
              "text or json. text: in the order of HAProxy's tcplog. json: an object a line. "
              "docs/operations.md has the fields.");
DEFINE_string(access_log_progress, "0",
              "From one line of a long session to the next; 0 none. "
              "A duration, 0 or 1s to 24h, a second more or less. Lowering it costs a line per "
              "session each time.");
DEFINE_int32(workers, 0,
             "Threads that serve connections; 0 takes one per usable CPU. "
             "A count, 0 to 1024. Usable are the CPUs of the affinity mask, at most the cgroup's "
             "CPU quota. More workers than CPUs cost switches between them and gain nothing.");
DEFINE_bool(pin_cpus, false,
            "Binds every worker to a CPU of its own. "
            "true or false. Off, since it helps only where the machine is the daemon's own; "
            "elsewhere a pinned worker waits for its CPU while others are free.");
DEFINE_string(stall_report, "10ms",
              "Reports a worker that one fiber keeps for longer; 0 never. "
              "A duration, 0 to 1m. The report, at most one per second on "
              "stderr, names the function it is in: a bug, or a host that starves the process. "
              "Raise it where the host does.");
DEFINE_string(spin, "50us",
              "How long a worker looks for work at most before it sleeps. "
              "A duration, 0 to 1ms; 0 sleeps at once. Waking a sleeping CPU takes tens of "
              "microseconds, most of the latency of a connection that is served alone. So where "
              "a worker has one busy connection, which is answered sooner than this, it does not "
              "sleep; else it does, also when other threads need the CPU, or when there is but "
              "one. Raising it burns a CPU for slower lone connections.");
DEFINE_string(stack_size, "64KiB",
              "Address space of each fiber's stack. "
              "A size in whole 4KiB pages, 16KiB to 16MiB. Only touched pages take memory, so "
              "64KiB is ample and costs one page. Raising it costs address space, not memory; "
              "leave it alone unless a stack overflow was reported.");
DEFINE_string(drain_timeout, "30s",
              "How long SIGTERM lets connections end by themselves. "
              "A duration, 0 to 24h; 0 closes them at once. 30s is what container platforms "
              "grant before they kill. Raising it delays the end of the process, so raise the "
              "supervisor's stop timeout with it.");

namespace parkway {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

constexpr std::string_view kDefaultListen = "127.0.0.1:8080";

constexpr std::string_view kAccessFormats[] = {"text", "json"};
constexpr NamedSize kMemoryBudgets[] = {{"auto", kMemoryBudgetOfGroup}, {"off", kNoMemoryBudget}};
constexpr std::string_view kDnsFamilies[] = {"auto", "any", "ipv4", "ipv6"};

// Name servers, ADDRESS or ADDRESS:PORT, with commas between; none for those of the machine.
absl::Status CheckServers(std::string_view text) {
  constexpr int kServersMax = 8;
  for (int count = 0; !text.empty(); ++count) {
    if (count == kServersMax) return absl::InvalidArgumentError("more than 8 name servers");
    const size_t comma = text.find(',');
    const std::string_view server = text.substr(0, comma);
    const bool has_port =
        server.starts_with('[') || std::count(server.begin(), server.end(), ':') == 1;
    const absl::StatusOr<netpoll::Endpoint> at =
        has_port ? netpoll::Endpoint::Parse(server) : netpoll::Endpoint::ParseAddress(server);
    const bool has_zone = server.find('%') != server.npos;  // the library that asks knows none
    if (!at.ok() || at->is_unix() || at->is_any() || has_zone || comma + 1 == text.size()) {
      return absl::InvalidArgumentError(
          "must be addresses such as 10.0.0.1, ::1 or 10.0.0.1:5353, "
          "with commas between");
    }
    text.remove_prefix(std::min(text.size(), server.size() + 1));
  }
  return absl::OkStatus();
}

enum class Topic { kServes, kRoutes, kNames, kLimits, kLogs, kProcess };

// What makes routes. The registry holds what was given, one behind the other.
struct Repeated {};
// Of the route that --listen and --backend make.
struct ModeFlag {};

struct Flag {
  std::string_view name;
  Topic topic;
  std::string_view placeholder;  // of the value, in --help
  std::variant<Repeated, ModeFlag, Field<RouteOptions>, Field<Config>> sets;
};

constexpr size_t kKiB = 1 << 10;

// In the order of --help.
const std::vector<Flag>& Flags() {
  static const std::vector<Flag>& flags = *new std::vector<Flag>([] {
    std::vector<Flag> all = {
        {"listen", Topic::kServes, "ADDRESS", Repeated{}},
        {"backend", Topic::kServes, "ADDRESS", Repeated{}},
        {"mode", Topic::kServes, "proxy|echo|discard", ModeFlag{}},
        {"route", Topic::kServes, "ROUTE", Repeated{}},
        {"routes_file", Topic::kServes, "FILE", Repeated{}},
    };
    for (const Setting<RouteOptions>& setting : RouteSettings()) {
      all.push_back({setting.name, Topic::kRoutes, setting.placeholder, setting.field});
    }
    const auto add = [&](std::string_view name, Topic topic, std::string_view placeholder,
                         const Field<Config>& field) {
      all.push_back({name, topic, placeholder, field});
    };
    add("dns_servers", Topic::kNames, "ADDRESSES",
        TextField<Config>{&Config::dns_servers, 1024, CheckServers});
    add("dns_timeout", Topic::kNames, "DURATION",
        DurationField<Config>{&Config::dns_timeout, 10ms, 1min, /*or_zero=*/false, /*step=*/1ms});
    add("dns_tries", Topic::kNames, "COUNT", CountField<Config, int>{&Config::dns_tries, 1, 10});
    add("dns_ttl_min", Topic::kNames, "DURATION",
        DurationField<Config>{&Config::dns_ttl_min, 10ms, 1h});
    add("dns_ttl_max", Topic::kNames, "DURATION",
        DurationField<Config>{&Config::dns_ttl_max, 10ms, 24h});
    add("dns_family", Topic::kNames, "auto|any|ipv4|ipv6",
        Choice<&Config::dns_family, Config>(kDnsFamilies));
    add("max_conns", Topic::kLimits, "COUNT",
        CountField<Config, int64_t>{&Config::max_conns, 0, 100'000'000});
    add("max_conn_rate", Topic::kLimits, "COUNT",
        CountField<Config, int>{&Config::max_conn_rate, 0, 1'000'000});
    add("buffer_memory", Topic::kLimits, "SIZE",
        SizeField<Config>{&Config::buffer_memory, 64 * kKiB, kKiB * kKiB * kKiB * kKiB});
    add("splice_memory", Topic::kLimits, "SIZE",
        SizeField<Config>{&Config::splice_memory, 512 * kKiB, kKiB * kKiB * kKiB * kKiB,
                          /*or_zero=*/true});
    add("memory_budget", Topic::kLimits, "auto|off|SIZE",
        SizeField<Config>{&Config::memory_budget, kKiB * kKiB, kKiB * kKiB * kKiB * kKiB,
                          /*or_zero=*/false, /*step=*/1, kMemoryBudgets});
    add("log", Topic::kLogs, "WHERE",
        TextField<Config>{&Config::log, PATH_MAX - 1, CheckLogTarget});
    add("access_log", Topic::kLogs, "WHERE",
        TextField<Config>{&Config::access_log, PATH_MAX - 1, CheckLogTarget});
    add("access_log_format", Topic::kLogs, "text|json",
        Choice<&Config::access_log_format, Config>(kAccessFormats));
    add("access_log_progress", Topic::kLogs, "DURATION",
        DurationField<Config>{&Config::access_log_progress, 1s, 24h, /*or_zero=*/true});
    add("workers", Topic::kProcess, "COUNT", CountField<Config, int>{&Config::workers, 0, 1024});
    add("pin_cpus", Topic::kProcess, "", BoolField<Config>{&Config::pin_cpus});
    add("stall_report", Topic::kProcess, "DURATION",
        DurationField<Config>{&Config::stall_report, 0s, 1min});
    add("spin", Topic::kProcess, "DURATION", DurationField<Config>{&Config::spin, 0s, 1ms});
    add("stack_size", Topic::kProcess, "SIZE",
        SizeField<Config>{&Config::stack_size, 16 * kKiB, 16 * kKiB * kKiB, /*or_zero=*/false,
                          /*step=*/4 * kKiB});
    add("drain_timeout", Topic::kProcess, "DURATION",
        DurationField<Config>{&Config::drain_timeout, 0s, 24h});
    return all;
  }());
  return flags;
}

constexpr KnownFlag kCommandLineFlags[] = {
    {"help", KnownFlag::Kind::kCommandLine},
    {"version", KnownFlag::Kind::kCommandLine},
    {"check", KnownFlag::Kind::kCommandLine},
    {"print_config", KnownFlag::Kind::kCommandLine},
};

bool IsBool(const Flag& flag) {
  const auto* const field = std::get_if<Field<Config>>(&flag.sets);
  if (field != nullptr) return std::holds_alternative<BoolField<Config>>(*field);
  const auto* const option = std::get_if<Field<RouteOptions>>(&flag.sets);
  return option != nullptr && std::holds_alternative<BoolField<RouteOptions>>(*option);
}

std::vector<KnownFlag> KnownFlags() {
  std::vector<KnownFlag> known;
  for (const Flag& flag : Flags()) {
    known.push_back({flag.name, IsBool(flag) ? KnownFlag::Kind::kBool : KnownFlag::Kind::kValue});
  }
  known.insert(known.end(), std::begin(kCommandLineFlags), std::end(kCommandLineFlags));
  return known;
}

// ---- From settings to routes.

class RouteReader {
 public:
  RouteReader(const std::vector<FlagSetting>& settings, const RouteOptions& defaults,
              const NameSources& names)
      : settings_(settings), defaults_(defaults), names_(names) {}

  absl::Status Read();
  bool is_trial() const { return is_trial_; }
  std::vector<Route> TakeRoutes();

 private:
  absl::Status ReadDefault();
  absl::Status ReadMode(const std::vector<size_t>& given, Mode& mode) const;
  template <class Part>
  absl::Status ReadAddresses(const std::vector<size_t>& given,
                             absl::StatusOr<Part> (*parse)(std::string_view, ResolveFunction*),
                             ResolveFunction* resolve, std::vector<Part>& parts) const;
  absl::Status ReadSource(const RouteSource& source);
  absl::Status ReadFile(const FlagSetting& file);
  absl::Status CheckSource() const;
  std::vector<size_t> Given(std::string_view name) const;

  const std::vector<FlagSetting>& settings_;
  const RouteOptions& defaults_;
  const NameSources& names_;
  bool is_trial_ = false;
  std::deque<RouteSource> sources_;  // to which the routes point
  std::vector<ParsedRoute> routes_;
};

// The settings of one name, in order.
std::vector<size_t> RouteReader::Given(std::string_view name) const {
  std::vector<size_t> given;
  for (size_t i = 0; i < settings_.size(); ++i) {
    if (settings_[i].name == name) given.push_back(i);
  }
  return given;
}

absl::Status RouteReader::Read() {
  absl::Status status = ReadDefault();
  for (const FlagSetting& setting : settings_) {
    if (status.ok() && setting.name == "route") status = ReadSource(RouteSource(setting));
    if (status.ok() && setting.name == "routes_file") status = ReadFile(setting);
  }
  if (status.ok()) status = CheckRoutes(routes_);
  return status.ok() ? CheckSource() : status;
}

// As in a route, an address that no backend fits is a mistake.
absl::Status RouteReader::CheckSource() const {
  const std::vector<size_t> given = Given("source");
  std::vector<const Route*> routes;
  for (const ParsedRoute& parsed : routes_) routes.push_back(&parsed.route);
  const std::string unfit = UnfitSource(defaults_.source, routes);
  return unfit.empty() ? absl::OkStatus() : settings_[given.back()].Error(unfit);
}

// What --mode, --listen and --backend make: a route whose parts stand at flags.
absl::Status RouteReader::ReadDefault() {
  const std::vector<size_t> listen = Given("listen");
  const std::vector<size_t> backend = Given("backend");
  const std::vector<size_t> mode = Given("mode");
  const bool is_given = !listen.empty() || !backend.empty() || !mode.empty();
  const bool has_others = !Given("route").empty() || !Given("routes_file").empty();
  if (!is_given && has_others) return absl::OkStatus();
  is_trial_ = !is_given;

  ParsedRoute parsed;
  Route& route = parsed.route;
  route.name = kDefaultRoute;
  route.options = defaults_;
  parsed.listen_at = listen;
  parsed.backend_at = backend;
  parsed.error = [this](size_t at, std::string_view problem) {
    return settings_[at].Error(problem);
  };
  absl::Status status = ReadMode(mode, route.mode);
  if (status.ok()) status = ReadAddresses(listen, &ParseListen, names_.resolve, route.listen);
  if (status.ok()) status = ReadAddresses(backend, &ParseBackend, names_.hosts, route.backends);
  if (!status.ok()) return status;
  if (route.is_local() && !backend.empty()) {
    return parsed.error(backend.front(), "--mode=" + std::string(ToString(route.mode)) +
                                             " has no backends; drop one of the two");
  }
  if (is_given && !route.is_local() && backend.empty()) {
    return parsed.error(listen.empty() ? mode.back() : listen.front(),
                        "no --backend to relay to; add --backend=HOST:PORT, or --mode=echo to "
                        "answer itself");
  }
  if (listen.empty()) {
    const absl::StatusOr<netpoll::Endpoint> at = netpoll::Endpoint::Parse(kDefaultListen);
    route.listen.push_back({std::string(kDefaultListen), {*at}});
    // What is wrong with it is wrong with what stands beside it; a trial has nothing beside it.
    parsed.listen_at.push_back(is_trial_ ? 0 : backend.empty() ? mode.back() : backend.front());
  }
  routes_.push_back(std::move(parsed));
  return absl::OkStatus();
}

// The last one counts.
absl::Status RouteReader::ReadMode(const std::vector<size_t>& given, Mode& mode) const {
  for (const size_t at : given) {
    const absl::StatusOr<int> index = ParseChoice(settings_[at].value, kModes);
    if (!index.ok()) return settings_[at].Error(std::string(index.status().message()));
    mode = static_cast<Mode>(*index);
  }
  return absl::OkStatus();
}

template <class Part>
absl::Status RouteReader::ReadAddresses(const std::vector<size_t>& given,
                                        absl::StatusOr<Part> (*parse)(std::string_view,
                                                                      ResolveFunction*),
                                        ResolveFunction* resolve, std::vector<Part>& parts) const {
  for (const size_t at : given) {
    const FlagSetting& setting = settings_[at];
    absl::StatusOr<Part> part = parse(setting.value, resolve);
    if (!part.ok()) {
      const bool is_list = setting.value.find(',') != setting.value.npos;
      if (is_list) return setting.Error("one address per flag; repeat --" + setting.name);
      return setting.Error(std::string(part.status().message()));
    }
    parts.push_back(*std::move(part));
  }
  return absl::OkStatus();
}

absl::Status RouteReader::ReadSource(const RouteSource& source) {
  if (routes_.size() == kRoutesMax) {
    return source.Error(0, "more than " + std::to_string(kRoutesMax) + " routes");
  }
  sources_.push_back(source);
  absl::StatusOr<ParsedRoute> parsed = ParseRoute(sources_.back(), defaults_, names_);
  if (!parsed.ok()) return parsed.status();
  routes_.push_back(*std::move(parsed));
  return absl::OkStatus();
}

absl::Status RouteReader::ReadFile(const FlagSetting& file) {
  const std::string path = PathBeside(file.place, file.value);
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return file.Error(std::string(text.status().message()));
  const absl::StatusOr<std::vector<RouteSource>> sources = SplitRoutes(*text, path);
  if (!sources.ok()) return sources.status();
  if (sources->empty()) return file.Error("holds no route");
  for (const RouteSource& source : *sources) {
    if (const absl::Status read = ReadSource(source); !read.ok()) return read;
  }
  return absl::OkStatus();
}

std::vector<Route> RouteReader::TakeRoutes() {
  std::vector<Route> routes;
  for (ParsedRoute& parsed : routes_) routes.push_back(std::move(parsed.route));
  return routes;
}

// ---- gflags, --help and --version.

gflags::CommandLineFlagInfo Info(const Flag& flag) {
  return gflags::GetCommandLineFlagInfoOrDie(std::string(flag.name).c_str());
}

// Of a flag that makes routes: what was given, one behind the other.
std::string Joined(const std::vector<FlagSetting>& settings, std::string_view name) {
  std::string text;
  for (const FlagSetting& setting : settings) {
    if (setting.name == name) text += (text.empty() ? "" : ",") + setting.value;
  }
  return text;
}

// What gflags' registry holds of a flag after a parse.
std::string Effective(const Flag& flag, const Config& config,
                      const std::vector<FlagSetting>& settings) {
  if (const auto* field = std::get_if<Field<Config>>(&flag.sets)) return GetField(*field, config);
  if (const auto* field = std::get_if<Field<RouteOptions>>(&flag.sets)) {
    return GetField(*field, config.defaults);
  }
  if (std::holds_alternative<ModeFlag>(flag.sets)) {
    const Route& first = config.routes.front();
    const Mode mode = first.name == kDefaultRoute ? first.mode : Mode::kProxy;
    return std::string(ToString(mode));
  }
  const std::string given = Joined(settings, flag.name);
  return given.empty() ? Info(flag).default_value : given;
}

// Leaves the effective values in the registry, also those that are the defaults: a process may
// parse again.
absl::Status Publish(const Config& config, const std::vector<FlagSetting>& settings) {
  for (const Flag& flag : Flags()) {
    const std::string text = Effective(flag, config, settings);
    if (gflags::SetCommandLineOption(std::string(flag.name).c_str(), text.c_str()).empty()) {
      return absl::InternalError("gflags refuses --" + std::string(flag.name) + "=" + text);
    }
  }
  return absl::OkStatus();
}

std::string_view Title(Topic topic) {
  switch (topic) {
    case Topic::kServes:
      return "What it serves";
    case Topic::kRoutes:
      return "Of each route, unless it says otherwise";
    case Topic::kNames:
      return "Names of backends";
    case Topic::kLimits:
      return "Limits";
    case Topic::kLogs:
      return "Logs";
    case Topic::kProcess:
      return "Process";
  }
  __builtin_unreachable();
}

// Indented by 6, at most 96 columns.
void PrintWrapped(std::string_view text, std::ostream& out) {
  constexpr size_t kWidth = 90;
  while (!text.empty()) {
    const size_t space = text.size() <= kWidth ? text.npos : text.rfind(' ', kWidth);
    const std::string_view line = text.substr(0, space);
    out << "      " << line << "\n";
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
}

// `long_text` stands on lines of its own, `short_text` behind the flag.
void PrintFlag(std::string usage, std::string_view short_text, std::string_view long_text,
               std::ostream& out) {
  constexpr size_t kColumn = 39;
  usage = "  --" + usage;
  if (!long_text.empty()) {
    out << usage << "\n";
    PrintWrapped(long_text, out);
    return;
  }
  usage.resize(std::max(kColumn, usage.size() + 1), ' ');
  out << usage << short_text << "\n";
}

// "name=PLACEHOLDER (default)"
std::string Usage(const Flag& flag) {
  const std::string default_value = Info(flag).default_value;
  std::string usage(flag.name);
  if (!flag.placeholder.empty()) usage.append("=").append(flag.placeholder);
  return usage + (default_value.empty() ? "" : " (" + default_value + ")");
}

void PrintHelp(bool all, std::ostream& out) {
  out << "Parkway " << kVersion << ": a TCP proxy and echo daemon.\n"
      << "\n"
      << "  parkway --listen=:6379 --backend=10.0.0.1:6379 --backend=10.0.0.2:6379\n"
      << "  parkway --route='web listen=:80 to=10.0.0.1:80' --route='db listen=:5432 to=db:5432'\n"
      << "  parkway --mode=echo --listen=127.0.0.1:7000\n"
      << "  parkway        a trial: relays 127.0.0.1:8080 to two echo backends of its own\n";
  std::optional<Topic> topic;
  for (const Flag& flag : Flags()) {
    if (topic != flag.topic) out << "\n" << Title(flag.topic) << "\n";
    topic = flag.topic;
    const std::string help = Info(flag).description;
    PrintFlag(Usage(flag), help.substr(0, help.find(". ")), all ? help : "", out);
  }
  const auto print = [&](std::string usage, std::string_view help) {
    PrintFlag(std::move(usage), help, all ? help : "", out);
  };
  print("flagfile=FILE", "Reads flags from a file, one --name=value per line");
  print("check", "Checks all this, says what it amounts to, and starts nothing");
  print("print_config", "Prints the flags that all this amounts to, for a flagfile");
  print("version", "Prints the version");
  print("help, --help=all", "Prints this page, or each flag with its bounds and reasons");
  out << "\nDefaults stand in parentheses.\n"
      << "Durations are written 500ms, 1.5s, 2m or 1h30m, sizes 512B, 64KiB or 1MiB.\n"
      << "SIGTERM drains and ends, a second SIGTERM ends at once. SIGHUP reads all this again.\n"
      << "Bad flags exit with 2.\n";
}

// Answers --help and --version, wherever they stand: whoever asks for help may have the rest wrong.
bool AnswerQuestion(const std::vector<std::string>& arguments, std::ostream& out) {
  for (std::string_view argument : arguments) {
    if (argument == "--") return false;
    if (argument.substr(0, 2) == "--") argument.remove_prefix(1);
    if (argument == "-version") {
      out << "parkway " << kVersion << "\n";
      return true;
    }
    if (argument == "-h" || argument == "-help" || argument == "-help=all") {
      PrintHelp(/*all=*/argument == "-help=all", out);
      return true;
    }
  }
  return false;
}

// Takes --name out of the command line. True if it was there.
bool TakeQuestion(std::vector<std::string>& arguments, const std::string& name) {
  return std::erase_if(arguments, [&](std::string argument) {
           if (!argument.starts_with('-')) return false;
           argument.erase(0, argument.starts_with("--") ? 2 : 1);
           std::replace(argument.begin(), argument.end(), '-', '_');
           return argument == name;
         }) > 0;
}

absl::Status SetFlag(const Flag& flag, std::string_view value, Config& config) {
  if (const auto* field = std::get_if<Field<Config>>(&flag.sets)) {
    return SetField(*field, value, config);
  }
  if (const auto* field = std::get_if<Field<RouteOptions>>(&flag.sets)) {
    return SetField(*field, value, config.defaults);
  }
  return absl::OkStatus();  // RouteReader's
}

// "2 routes, 3 addresses, 5 backends"
std::string Amount(const Config& config) {
  const auto count = [](size_t number, const std::string& one, const std::string& more) {
    return std::to_string(number) + " " + (number == 1 ? one : more);
  };
  size_t backends = 0;
  for (const Route& route : config.routes) {
    for (const Backend& backend : route.backends)
      backends += std::max<size_t>(backend.at.size(), 1);
  }
  return count(config.routes.size(), "route", "routes") + ", " +
         count(ListenAddresses(config.routes).size(), "address to listen on",
               "addresses to listen on") +
         ", " + count(backends, "backend", "backends");
}

// Told of the bound that was given last.
absl::Status CheckBounds(const Config& config, const std::vector<FlagSetting>& settings) {
  if (config.dns_ttl_min <= config.dns_ttl_max) return absl::OkStatus();
  const auto is_bound = [](const FlagSetting& it) {
    return it.name == "dns_ttl_min" || it.name == "dns_ttl_max";
  };
  const auto last = std::find_if(settings.rbegin(), settings.rend(), is_bound);
  return last->Error("dns_ttl_min is above dns_ttl_max");
}

// In the shortest form if it has one: what is written there may hold blanks and commas.
void AppendRoute(const Route& route, const RouteOptions& defaults,
                 std::vector<std::string>& lines) {
  const bool serves_all = route.from.empty() && !route.needs_hello();
  const bool is_default = lines.empty() && route.name == kDefaultRoute && serves_all &&
                          !route.to_original_dst() && route.options == defaults;
  if (!is_default) {
    lines.push_back("--route=" + FormatRoute(route, defaults));
    return;
  }
  if (route.is_local()) {
    lines.push_back("--mode=" + std::string(ToString(route.mode)));
  }
  for (const Listen& listen : route.listen) lines.push_back("--listen=" + listen.text);
  for (const Backend& backend : route.backends)
    lines.push_back("--backend=" + FormatBackend(backend));
}

}  // namespace

absl::StatusOr<ParseResult> ParseCommandLine(int argc, const char* const* argv, std::ostream& out,
                                             const NameSources& names) {
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  ParseResult result;
  if (AnswerQuestion(arguments, out)) {
    result.action = ParseResult::Action::kExit;
    return result;
  }
  const bool check = TakeQuestion(arguments, "check");
  const bool print = TakeQuestion(arguments, "print_config");
  const absl::StatusOr<std::vector<FlagSetting>> settings = ScanFlags(arguments, KnownFlags());
  if (!settings.ok()) return settings.status();

  Config& config = result.config;
  for (const FlagSetting& setting : *settings) {
    const absl::Status set = SetFlag(Flags()[setting.flag], setting.value, config);
    if (!set.ok()) return setting.Error(std::string(set.message()));
  }
  RouteReader reader(*settings, config.defaults, names);
  absl::Status status = CheckBounds(config, *settings);
  if (status.ok()) status = reader.Read();
  if (!status.ok()) return status;
  config.routes = reader.TakeRoutes();
  config.embedded_backends = reader.is_trial();
  if (print) {
    for (const std::string& line : ToFlags(config)) out << line << "\n";
  }
  if (check) out << "parkway: the configuration is good: " << Amount(config) << "\n";
  if (print || check) {
    result.action = ParseResult::Action::kExit;
    return result;
  }
  status = Publish(config, *settings);
  if (!status.ok()) return status;
  return result;
}

std::vector<std::string> ToFlags(const Config& config) {
  std::vector<std::string> lines;
  if (!config.embedded_backends) {
    for (const Route& route : config.routes) AppendRoute(route, config.defaults, lines);
  }
  for (const Flag& flag : Flags()) {
    std::string line = "--" + std::string(flag.name) + "=";
    if (const auto* field = std::get_if<Field<Config>>(&flag.sets)) {
      lines.push_back(line + GetField(*field, config));
    } else if (const auto* defaults = std::get_if<Field<RouteOptions>>(&flag.sets)) {
      lines.push_back(line + GetField(*defaults, config.defaults));
    }
  }
  return lines;
}

}  // namespace parkway
