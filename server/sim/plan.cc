// SPDX-License-Identifier: Apache-2.0
#include "server/sim/plan.h"

#include <algorithm>
#include <cerrno>
#include <functional>
#include <random>
#include <utility>

#include "sched/check.h"

namespace parkway::sim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// The choices of one plan.
class Dice {
 public:
  explicit Dice(uint64_t seed) : generator_(seed * 0x9e3779b97f4a7c15 + 1) {}

  int64_t Between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(generator_() % static_cast<uint64_t>(most - least + 1));
  }
  bool Percent(int chance) { return Between(0, 99) < chance; }
  // Mostly small, sometimes large.
  int64_t Size(int64_t most) {
    const int64_t limit = Percent(60) ? std::min<int64_t>(most, 512) : most;
    return Between(8, std::max<int64_t>(limit, 8));
  }
  sched::Duration Span(sched::Duration most) { return sched::Duration(Between(0, most.count())); }

 private:
  std::mt19937_64 generator_;
};

netpoll::Endpoint At(const std::string& address, int port) {
  return *netpoll::Endpoint::Parse(address + ":" + std::to_string(port));
}

void AddPause(Dice& dice, Script& script, sched::Duration most) {
  script.ops.push_back({Op::Kind::kPause, dice.Span(most).count()});
}

// Pieces with pauses between, and usually a FIN at the end.
Script Talker(Dice& dice, int64_t bytes_max, int finish_percent = 70) {
  Script script;
  for (int64_t pieces = dice.Between(0, 4); pieces > 0; --pieces) {
    script.ops.push_back({Op::Kind::kSend, dice.Size(bytes_max)});
    if (dice.Percent(50)) AddPause(dice, script, milliseconds(5));
  }
  if (dice.Percent(finish_percent)) script.ops.push_back({Op::Kind::kFinish});
  return script;
}

// Sends and waits for as much from an echoing backend, over and over.
Script PingPong(Dice& dice, int64_t bytes_max) {
  Script script;
  int64_t total = 0;
  for (int64_t rounds = dice.Between(1, 6); rounds > 0; --rounds) {
    const int64_t size = dice.Size(bytes_max);
    total += size;
    script.ops.push_back({Op::Kind::kSend, size});
    script.ops.push_back({Op::Kind::kAwait, total});
    if (dice.Percent(20)) AddPause(dice, script, milliseconds(2));
  }
  script.ops.push_back({Op::Kind::kFinish});
  return script;
}

Script Echoing() {
  Script script;
  script.echoes = true;
  return script;
}

void ReadSlowly(Dice& dice, Script& script) {
  script.read_every = microseconds(dice.Between(50, 2000));
  script.read_size = static_cast<size_t>(dice.Between(64, 4096));
}

void AddClients(Dice& dice, Plan& plan, int most, const std::function<Script()>& script,
                sched::Duration within = milliseconds(3)) {
  for (int64_t count = dice.Between(1, most); count > 0; --count) {
    plan.clients.push_back({dice.Span(within), script()});
  }
}

void AddBackends(Dice& dice, Plan& plan, int most, const std::function<Script()>& script) {
  for (int64_t count = dice.Between(1, most); count > 0; --count) {
    BackendPlan backend;
    for (int i = 0; i < 4; ++i) backend.scripts.push_back(script());
    plan.backends.push_back(backend);
  }
}

// What every plan has: a machine and a network that are unkind within what Linux promises.
Plan Base(Dice& dice) {
  Plan plan;
  plan.config.routes.push_back({.name = "default", .listen = {{"", {LoopbackAt(kDaemonPort)}}}});
  plan.config.workers = static_cast<int>(dice.Between(1, 3));
  plan.config.stall_report = sched::Duration(0);  // it samples real threads
  plan.config.spin = dice.Percent(30) ? microseconds(dice.Between(20, 1000)) : sched::Duration(0);
  plan.options().connect_timeout = seconds(3);
  plan.options().idle_timeout = seconds(30);
  plan.options().half_close_timeout = seconds(20);
  plan.config.buffer_memory = size_t{1} << 20;
  plan.network.latency_min = microseconds(dice.Between(1, 20));
  plan.network.latency_max = plan.network.latency_min + dice.Span(microseconds(200));
  plan.network.send_buffer = static_cast<size_t>(dice.Between(1, 64)) << 10;
  plan.network.receive_buffer = static_cast<size_t>(dice.Between(1, 64)) << 10;
  plan.network.segment_max = static_cast<size_t>(dice.Between(64, 65536));
  plan.network.no_memory_chance = dice.Percent(30) ? 50 : 0;
  plan.kernel.interrupted_chance = dice.Percent(50) ? 20 : 0;
  plan.kernel.spurious_event_chance = dice.Percent(50) ? 100 : 0;
  plan.kernel.late_event_chance = dice.Percent(50) ? 100 : 0;
  plan.kernel.late_max = microseconds(500);
  plan.kernel.pipe_bytes = static_cast<size_t>(dice.Between(1, 65536));
  plan.large_flows.from_start = dice.Percent(30);
  plan.large_flows.splice = static_cast<size_t>(dice.Between(1, 4096));
  if (dice.Percent(30)) plan.config.splice_memory = dice.Between(0, 3) * PipePool::kPipeBytes;
  plan.host.turn_max = microseconds(3);
  plan.host.pause_chance = dice.Percent(70) ? static_cast<int>(dice.Between(10, 300)) : 0;
  plan.host.freeze_chance = dice.Percent(30) ? 2 : 0;
  plan.host.freeze_max = milliseconds(10);
  if (dice.Percent(50)) plan.options().log_sessions = LogSessions::kAll;
  if (dice.Percent(50)) plan.config.access_log_progress = seconds(1);
  return plan;
}

// --- The scenarios.

// Requests and answers; nothing goes wrong.
void Requests(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 3, [] { return Echoing(); });
  AddClients(dice, plan, 6, [&] { return PingPong(dice, 4000); });
}

// Both sides talk and finish when they like; nothing goes wrong.
void Streams(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 2, [&] { return Talker(dice, 60000, 100); });
  AddClients(dice, plan, 6, [&] { return Talker(dice, 60000, 100); });
}

// Receivers slower than their senders, and little memory for what they do not take.
void SlowReceivers(Dice& dice, Plan& plan) {
  plan.config.buffer_memory = size_t{64} << 10;
  plan.network.send_buffer = static_cast<size_t>(dice.Between(1, 8)) << 10;
  const auto slow = [&] {
    Script script = Talker(dice, 60000, 100);
    if (dice.Percent(60)) ReadSlowly(dice, script);
    return script;
  };
  AddBackends(dice, plan, 2, slow);
  AddClients(dice, plan, 6, slow);
}

// Somebody resets or leaves in the middle.
void Resets(Dice& dice, Plan& plan) {
  const auto rude = [&] {
    Script script = Talker(dice, 20000, 50);
    if (dice.Percent(60)) {
      if (dice.Percent(50)) AddPause(dice, script, milliseconds(3));
      const int64_t how = dice.Between(0, 99);
      const int error = how % 2 == 0 ? ECONNABORTED : ECONNREFUSED;
      script.ops.push_back(how < 60   ? Op{Op::Kind::kReset}
                           : how < 80 ? Op{Op::Kind::kBreak, error}
                                      : Op{Op::Kind::kLeave});
    } else if (script.ops.empty() || script.ops.back().kind != Op::Kind::kFinish) {
      script.ops.push_back({Op::Kind::kFinish});
    }
    if (dice.Percent(20)) ReadSlowly(dice, script);
    script.never_reads = dice.Percent(10);
    return script;
  };
  plan.options().reset_linger = milliseconds(dice.Between(1, 1000));
  AddBackends(dice, plan, 2, rude);
  AddClients(dice, plan, 6, rude);
}

// Peers that fall silent: only the daemon's limits end the sessions.
void Silence(Dice& dice, Plan& plan) {
  plan.options().idle_timeout = milliseconds(dice.Between(20, 3000));
  plan.options().half_close_timeout = milliseconds(dice.Between(10, 2000));
  const auto silent = [&] {
    Script script = Talker(dice, 20000, 30);
    if (dice.Percent(20)) script.ops.push_back({Op::Kind::kCutOff});
    script.never_reads = dice.Percent(20);
    return script;
  };
  AddBackends(dice, plan, 2, silent);
  AddClients(dice, plan, 6, silent);
}

// Only one side talks, for longer than the idle limit and never silent for as long as that.
void OneSided(Dice& dice, Plan& plan) {
  const sched::Duration idle = milliseconds(dice.Between(60, 300));
  plan.options().idle_timeout = idle;
  const auto talks = [&] {
    Script script;
    for (int64_t pieces = dice.Between(5, 15); pieces > 0; --pieces) {
      script.ops.push_back({Op::Kind::kSend, dice.Between(8, 200)});
      script.ops.push_back({Op::Kind::kPause, dice.Span(idle / 3).count() + idle.count() / 3});
    }
    script.ops.push_back({Op::Kind::kFinish});
    return script;
  };
  const auto listens = [] {
    Script script;
    script.ops = {{Op::Kind::kAwait, INT64_MAX}, {Op::Kind::kFinish}};
    return script;
  };
  const bool client_talks = dice.Percent(50);
  AddBackends(dice, plan, 2, [&] { return client_talks ? listens() : talks(); });
  AddClients(dice, plan, 6, [&] { return client_talks ? talks() : listens(); });
}

// Backends that refuse or do not answer.
void Connects(Dice& dice, Plan& plan) {
  plan.options().connect_timeout = milliseconds(dice.Between(20, 2000));
  AddBackends(dice, plan, 3, [] { return Echoing(); });
  for (BackendPlan& backend : plan.backends) {
    if (dice.Percent(60)) {
      backend.kind = dice.Percent(60) ? BackendPlan::Kind::kRefuses : BackendPlan::Kind::kVanishes;
    }
  }
  AddClients(dice, plan, 6, [&] {
    Script script = PingPong(dice, 1000);
    if (dice.Percent(20)) script.ops.insert(script.ops.begin() + 1, {Op::Kind::kReset});
    return script;
  });
}

// The daemon is asked to stop while it serves.
void Stops(Dice& dice, Plan& plan) {
  plan.config.drain_timeout = dice.Span(milliseconds(20));
  plan.stop_after = dice.Span(milliseconds(6));
  if (dice.Percent(40)) plan.stop_now_after = dice.Span(milliseconds(6));
  const auto talker = [&] {
    Script script = Talker(dice, 20000, 60);
    script.never_reads = dice.Percent(10);
    return script;
  };
  AddBackends(dice, plan, 2, [&] { return dice.Percent(50) ? Echoing() : talker(); });
  AddClients(dice, plan, 8, talker);
}

// It stops with a full queue of clients, who all shall be served.
void Drains(Dice& dice, Plan& plan) {
  plan.config.drain_timeout = seconds(60);
  plan.stop_after = dice.Span(milliseconds(4));
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  AddClients(dice, plan, 12, [&] { return PingPong(dice, 500); });
}

// Descriptors and kernel memory run out.
void Shortages(Dice& dice, Plan& plan) {
  if (dice.Percent(50)) plan.kernel.shortage_chance = static_cast<int>(dice.Between(5, 100));
  if (dice.Percent(30)) plan.kernel.failed_send_chance = static_cast<int>(dice.Between(5, 100));
  // Above this many come more clients than the daemon was promised.
  plan.kernel.descriptors = static_cast<int>(dice.Between(24, 40));
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  AddClients(dice, plan, 12, [&] { return PingPong(dice, 1000); });
}

// The system's table of open files is full for a while, in which all clients come.
void FullTable(Dice& dice, Plan& plan) {
  plan.kernel.table_full_from = milliseconds(20);
  const sched::Duration full = milliseconds(dice.Between(1, 3000));
  plan.kernel.table_full_until = plan.kernel.table_full_from + full;
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  AddClients(
      dice, plan, 12, [&] { return PingPong(dice, 1000); }, full);
  for (ClientPlan& client : plan.clients) client.start += plan.kernel.table_full_from;
}

// Memory is short now and then: who is being served goes on, and nobody is let in.
void Memory(Dice& dice, Plan& plan) {
  plan.config.memory_budget = size_t{100} << 20;
  if (dice.Percent(50)) plan.options().overload = Overload::kReset;
  sched::Duration at(0);
  for (int64_t times = dice.Between(1, 3); times > 0; --times) {
    at += dice.Span(milliseconds(300));
    plan.memory.push_back({at, dice.Between(101, 200) << 20});
    at += dice.Span(milliseconds(600));
    plan.memory.push_back({at, dice.Between(0, 94) << 20});
  }
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  const auto lasts = [&] {
    Script script = PingPong(dice, 500);
    const auto where = script.ops.begin() + dice.Between(0, 1);
    script.ops.insert(where, {Op::Kind::kPause, dice.Span(milliseconds(300)).count()});
    return script;
  };
  AddClients(dice, plan, 20, lasts, at);
}

// More clients than --max_conns.
void Limits(Dice& dice, Plan& plan) {
  const auto most = static_cast<int>(dice.Between(1, 3));
  (dice.Percent(50) ? plan.config.max_conns : plan.options().listener_max_conns) = most;
  if (dice.Percent(30)) plan.config.max_conn_rate = static_cast<int>(dice.Between(20, 1000));
  if (dice.Percent(30)) {
    plan.options().listener_conn_rate = static_cast<int>(dice.Between(20, 1000));
  }
  // With those that wait, one at each door, they are never more, unless one that left still counts.
  if (dice.Percent(30)) plan.options().source_max_conns = most + plan.config.workers;
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  AddClients(dice, plan, 10, [&] { return PingPong(dice, 1000); });
}

constexpr Balance kBalances[] = {Balance::kRoundRobin, Balance::kLeastConn, Balance::kRandom2,
                                 Balance::kSource,     Balance::kMaglev,    Balance::kFirst};

// Backends that close their ports and open them again, and what finds that out.
void Flap(Dice& dice, Plan& plan) {
  RouteOptions& options = plan.options();
  options.balance = kBalances[dice.Between(0, 5)];
  options.health = dice.Percent(50) ? Health::kTcp : Health::kPassive;
  options.health_interval = milliseconds(dice.Between(10, 200));
  options.health_rise = static_cast<int>(dice.Between(1, 3));
  options.health_fall = static_cast<int>(dice.Between(1, 3));
  if (dice.Percent(30)) options.slow_start = milliseconds(dice.Between(100, 500));
  for (BackendPlan& backend : plan.backends) {
    sched::Duration at(0);
    for (int64_t toggles = dice.Between(0, 6); toggles > 0; --toggles) {
      at += dice.Span(milliseconds(300));
      backend.toggles.push_back(at);
    }
  }
}

// One backend works always, and so every client is served.
void Flapping(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 4, [] { return Echoing(); });
  Flap(dice, plan);
  plan.backends[static_cast<size_t>(dice.Between(0, 3)) % plan.backends.size()].toggles.clear();
  AddClients(
      dice, plan, 20, [&] { return PingPong(dice, 500); }, milliseconds(1500));
}

// None does, sessions of those that go down are closed, and it may stop meanwhile.
void Outages(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 3, [] { return Echoing(); });
  Flap(dice, plan);
  RouteOptions& options = plan.options();
  options.all_down = dice.Percent(50) ? AllDown::kTry : AllDown::kRefuse;
  options.on_down = dice.Percent(70) ? OnDown::kClose : OnDown::kKeep;
  options.connect_retries = static_cast<int>(dice.Between(0, 3));
  options.connect_timeout = milliseconds(dice.Between(5, 500));
  options.max_queue = static_cast<int>(dice.Between(0, 3));
  options.queue_timeout = milliseconds(dice.Between(1, 200));
  plan.most = static_cast<int>(dice.Between(0, 3));
  if (dice.Percent(30)) {
    plan.stop_after = dice.Span(milliseconds(1500));
    plan.config.drain_timeout = dice.Span(milliseconds(50));
  }
  AddClients(
      dice, plan, 20, [&] { return PingPong(dice, 500); }, milliseconds(1500));
}

// As many clients as the source addresses have ports, all of which have to be found.
void Sources(Dice& dice, Plan& plan) {
  plan.kernel.ports = static_cast<int>(dice.Between(1, 3));
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  const auto sources = static_cast<int>(dice.Between(1, 4));
  for (int i = 0; i < sources; ++i) {
    plan.options().source.push_back(LoopbackAt(0, /*number=*/2 + i));
  }
  const auto backends = static_cast<int>(plan.backends.size());
  AddClients(dice, plan, plan.kernel.ports * sources * backends,
             [&] { return PingPong(dice, 500); });
}

// Clients that a packet filter led to the daemon. They get to where they were going, if they may,
// and nowhere else.
void DestinationsScenario(Dice& dice, Plan& plan) {
  plan.route().allow_dst = *Destinations::Parse("10.0.0.0/24,127.0.0.2,0.0.0.0/1,160.0.0.0/4");
  plan.options().transparent = dice.Percent(50);
  plan.options().source_is_client = dice.Percent(30);
  const bool everywhere = dice.Percent(50);
  if (everywhere) plan.route().listen.front().at = {At("0.0.0.0", kDaemonPort)};
  AddBackends(dice, plan, 3, [] { return Echoing(); });
  AddClients(dice, plan, 12, [&] { return PingPong(dice, 1000); });
  for (ClientPlan& client : plan.clients) {
    const auto backend = dice.Between(0, static_cast<int64_t>(plan.backends.size()) - 1);
    const int port = BackendPort(static_cast<size_t>(backend));
    const struct {
      std::string address;
      int port;
      bool may_go;
    } choices[] = {
        {"10.0.0." + std::to_string(backend), port, true},
        {"10.0.0.77", port, true},
        {"127.0.0.2", port, true},
        {"127.0.0.1", port, false},    // of a list that holds it, but does not name it
        {"169.254.1.1", port, false},  // likewise
        {"192.0.2.1", port, false},
        {everywhere ? "127.0.0.2" : "127.0.0.1", kDaemonPort, false},
    };
    const auto& choice = choices[dice.Between(0, std::ssize(choices) - 1)];
    client.may_go = choice.may_go;
    client.going_to = At(choice.address, choice.port);
    if (choice.port == kDaemonPort && dice.Percent(50)) client.going_to = netpoll::Endpoint();
  }
  // A filter that leads the daemon's own connections back to it.
  if (!plan.options().source_is_client && dice.Percent(20)) {
    plan.kernel.led_back_to = kDaemonPort;
    for (ClientPlan& client : plan.clients) client.may_go = false;
  }
}

// No direction of a session moves more than it may.
void Throttled(Dice& dice, Plan& plan) {
  plan.config.drain_timeout = minutes(3);  // clients are done long before their backends
  plan.options().bandwidth = static_cast<size_t>(dice.Between(1, 64)) << 10;
  if (dice.Percent(50)) {
    plan.options().route_bandwidth = static_cast<size_t>(dice.Between(1, 64)) << 10;
  }
  AddBackends(dice, plan, 2, [&] { return Talker(dice, 9000, 100); });
  AddClients(dice, plan, 5, [&] { return Talker(dice, 9000, 100); });
}

// --- PROXY headers, written by hand: the daemon's own would hide its mistakes on both sides.

std::string Big16Text(int64_t number) {
  return {static_cast<char>(number >> 8), static_cast<char>(number)};
}

// Of client `number`, in version 1 and 2.
struct Introductions {
  std::string line;
  std::string block;
};

Introductions IntroductionsOf(Dice& dice, size_t number) {
  const auto last = static_cast<int64_t>(number);
  const int64_t port = dice.Between(0, 65535);
  Introductions both;
  both.line = "PROXY TCP4 10.1.2." + std::to_string(last) + " 192.0.2.1 " + std::to_string(port) +
              " 80\r\n";
  const char from[] = {10, 1, 2, static_cast<char>(last)};
  const char to[] = {static_cast<char>(192), 0, 2, 1};
  both.block = std::string("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", 16) + std::string(from, 4) +
               std::string(to, 4) + Big16Text(port) + Big16Text(80);
  return both;
}

// The preamble comes first, in pieces.
void Precede(Dice& dice, Script& script) {
  std::vector<Op> ops;
  auto left = static_cast<int64_t>(script.preamble.size());
  while (left > 0) {
    const int64_t piece = dice.Percent(50) ? left : dice.Between(1, left);
    ops.push_back({Op::Kind::kSay, piece});
    if (dice.Percent(30)) ops.push_back({Op::Kind::kPause, dice.Span(milliseconds(2)).count()});
    left -= piece;
  }
  script.ops.insert(script.ops.begin(), ops.begin(), ops.end());
}

void AddIntroduced(Dice& dice, Plan& plan) {
  RouteOptions& options = plan.options();
  options.accept_proxy = AcceptProxy::kAny;
  options.trusted = *BlockList::Parse("127.0.0.0/8");
  options.send_proxy = static_cast<SendProxy>(dice.Between(0, 2));
  const bool is_local = dice.Percent(25);
  if (is_local) {
    plan.route().mode = Mode::kEcho;
  } else {
    AddBackends(dice, plan, 2, [&] {
      Script script = Echoing();
      script.is_told = options.send_proxy != SendProxy::kOff;
      return script;
    });
  }
  AddClients(dice, plan, 8, [&] { return PingPong(dice, 2000); });
  for (size_t i = 0; i < plan.clients.size(); ++i) {
    Script& script = plan.clients[i].script;
    const Introductions both = IntroductionsOf(dice, i);
    script.preamble = dice.Percent(50) ? both.line : both.block;
    script.introduction = options.send_proxy == SendProxy::kV1 ? both.line : both.block;
  }
}

// Clients say for whom they connect, in pieces, and backends are told.
void IntroductionsScenario(Dice& dice, Plan& plan) {
  AddIntroduced(dice, plan);
  for (ClientPlan& client : plan.clients) Precede(dice, client.script);
}

// A ClientHello that names a.example, of as many bytes as it has by its padding.
std::string HelloText(int64_t padding) {
  const std::string name = "a.example";
  const auto size = [](size_t bytes) { return Big16Text(static_cast<int64_t>(bytes)); };
  const std::string entry = std::string(1, '\0') + size(name.size()) + name;
  const std::string list = size(entry.size()) + entry;
  std::string extensions = Big16Text(0) + size(list.size()) + list;
  extensions += Big16Text(21) + Big16Text(padding) + std::string(static_cast<size_t>(padding), 0);
  const std::string body = std::string("\x03\x03", 2) + std::string(32, 'r') +
                           std::string("\0\0\x02\x13\x01\x01\0", 7) + size(extensions.size()) +
                           extensions;
  const std::string message = std::string("\x01\0", 2) + size(body.size()) + body;
  return std::string("\x16\x03\x01", 3) + size(message.size()) + message;
}

// Routes are chosen by what clients ask for in TLS, in pieces; backends get that, too.
void Hellos(Dice& dice, Plan& plan) {
  plan.route().sni = {"b.example", "*.example"};
  // What does not fit there is never seen whole.
  plan.network.receive_buffer = std::max<size_t>(plan.network.receive_buffer, 16 << 10);
  AddBackends(dice, plan, 2, [] {
    Script script = Echoing();
    script.is_told = true;
    return script;
  });
  AddClients(dice, plan, 8, [&] { return PingPong(dice, 2000); });
  for (ClientPlan& client : plan.clients) {
    client.script.preamble = HelloText(dice.Size(9000));
    client.script.introduction = client.script.preamble;
    Precede(dice, client.script);
  }
  // They are never more, unless one that was heard still counts as one that is not.
  if (dice.Percent(30)) plan.options().source_max_conns = static_cast<int>(plan.clients.size());
}

// Some say nothing of the kind, or only a part of it, or nothing at all, and it may stop meanwhile.
void BadHeaders(Dice& dice, Plan& plan) {
  AddIntroduced(dice, plan);
  plan.options().handshake_timeout = milliseconds(dice.Between(20, 200));
  for (ClientPlan& client : plan.clients) {
    Script& script = client.script;
    if (dice.Percent(60)) {
      script.preamble_is_bad = true;
      const auto size = static_cast<int64_t>(script.preamble.size());
      if (dice.Percent(50)) {
        script.preamble[static_cast<size_t>(dice.Between(0, 4))] ^= 0x55;
      } else {
        script.preamble.resize(static_cast<size_t>(dice.Between(0, size - 1)));
        script.ops = {dice.Percent(50) ? Op{Op::Kind::kFinish} : Op{Op::Kind::kAwait, 1}};
      }
    }
    Precede(dice, script);
  }
  if (dice.Percent(30)) {
    plan.stop_after = dice.Span(milliseconds(300));
    plan.config.drain_timeout = dice.Span(milliseconds(50));
  }
}

// More clients than backends may have: they wait, and every one is served.
void Queues(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 3, [] { return Echoing(); });
  plan.most = static_cast<int>(dice.Between(1, 2));
  plan.options().balance = kBalances[dice.Between(0, 5)];
  plan.options().hash_balance_factor = dice.Percent(30) ? 125 : 0;
  plan.options().queue_timeout = minutes(2);
  AddClients(dice, plan, 15, [&] { return PingPong(dice, 1000); });
}

// It gets other configurations while clients come, in each of which they are served.
void Reloads(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 3, [] { return Echoing(); });
  if (dice.Percent(50)) Flap(dice, plan);
  for (BackendPlan& backend : plan.backends) backend.toggles.clear();
  AddClients(
      dice, plan, 20, [&] { return PingPong(dice, 500); }, milliseconds(100));
}

// One of these, in each of which every client of the daemon's port is served.
void AddReloads(Dice& dice, Plan& plan) {
  sched::Duration at(0);
  for (int64_t count = dice.Between(1, 8); count > 0; --count) {
    at += dice.Span(milliseconds(30));
    plan.reloads.push_back({at, std::nullopt});
    if (dice.Percent(20)) continue;
    Config next = plan.config;
    Route& route = next.routes.front();
    while (route.backends.size() > 1 && dice.Percent(50)) {
      route.backends.erase(route.backends.begin() +
                           dice.Between(0, static_cast<int64_t>(route.backends.size()) - 1));
    }
    if (dice.Percent(50)) route.options.balance = kBalances[dice.Between(0, 5)];
    if (dice.Percent(30)) route.name = "other";
    if (dice.Percent(40)) {
      next.routes.push_back(
          {.name = "more", .listen = {{"", {LoopbackAt(kDaemonPort + 1)}}}, .mode = Mode::kEcho});
      if (dice.Percent(50)) std::swap(next.routes[0], next.routes[1]);
    }
    if (dice.Percent(20)) next.workers += 1;
    plan.reloads.back().config = next;
  }
}

// Backends come and go behind a name, and name servers fail. The first backend serves, and is never
// missing twice in a row; so every client is served.
void Names(Dice& dice, Plan& plan) {
  AddBackends(dice, plan, 4, [] { return Echoing(); });
  for (size_t i = 1; i < plan.backends.size(); ++i) {
    if (dice.Percent(40)) plan.backends[i].kind = BackendPlan::Kind::kRefuses;
  }
  plan.config.dns_timeout = seconds(2);
  plan.config.dns_ttl_min = milliseconds(dice.Between(1, 5));
  plan.config.dns_ttl_max = milliseconds(dice.Between(5, 40));
  plan.lookup_takes = dice.Span(milliseconds(3));
  plan.options().balance = kBalances[dice.Between(0, 5)];
  using Kind = LookupPlan::Kind;
  std::vector<size_t> others;
  bool was_missing = true;  // the first answer has it
  for (int64_t count = dice.Between(1, 300); count > 0; --count) {
    if (dice.Percent(10)) {
      others.clear();
      for (size_t i = 1; i < plan.backends.size(); ++i) {
        if (dice.Percent(50)) others.push_back(i);
      }
    }
    const int64_t what = plan.lookups.empty() ? 99 : dice.Between(0, 99);
    const bool answers = what >= 25;
    LookupPlan lookup{what < 15 ? Kind::kFails : what < 25 ? Kind::kPart : Kind::kAnswers, others};
    if (answers && !was_missing && dice.Percent(10)) lookup.backends.clear();  // no such name
    const bool missing = !was_missing && answers && dice.Percent(40);
    if (answers && !missing) lookup.backends.push_back(0);
    if (answers) was_missing = missing;
    plan.lookups.push_back(lookup);
  }
  plan.lookups.push_back({Kind::kAnswers, {0}});
  AddClients(
      dice, plan, 20, [&] { return PingPong(dice, 500); }, milliseconds(2000));
  if (dice.Percent(50)) return;
  Config next = plan.config;
  next.routes.front().options.balance = kBalances[dice.Between(0, 5)];
  plan.reloads.push_back({dice.Span(milliseconds(1000)), next});
}

// Without a backend: the daemon itself sends everything back.
void Echo(Dice& dice, Plan& plan) {
  plan.route().mode = Mode::kEcho;
  AddClients(dice, plan, 8, [&] { return PingPong(dice, 20000); });
}

// An urgent byte is not data; those around it are. One in each direction: a second that comes
// before the first was passed makes the first one data (tcp(7) says as little).
void Urgent(Dice& dice, Plan& plan) {
  const auto urgent = [&] {
    Script script = Talker(dice, 5000, 100);
    const int64_t at = dice.Between(0, static_cast<int64_t>(script.ops.size()) - 1);
    script.ops.insert(script.ops.begin() + at, {Op::Kind::kUrgent});
    return script;
  };
  AddBackends(dice, plan, 2, urgent);
  AddClients(dice, plan, 4, urgent);
}

// A fiber computes for long: others have to serve its worker's connections and timers.
void Stuck(Dice& dice, Plan& plan) {
  plan.config.workers = static_cast<int>(dice.Between(2, 3));
  plan.options().idle_timeout = milliseconds(dice.Between(5, 50));
  plan.host.freeze_chance = 0;
  plan.host.stall_chance = 40;
  plan.host.stall_max = seconds(2);
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  AddClients(dice, plan, 8, [&] {
    Script script = PingPong(dice, 500);
    script.ops.pop_back();  // no FIN: the idle limit ends it
    return script;
  });
}

// Workers that come late to what they collected or are about to collect.
void PollLate(Dice& dice, Plan& plan) {
  plan.config.workers = static_cast<int>(dice.Between(2, 3));
  plan.kernel.held_poll_chance = static_cast<int>(dice.Between(50, 500));
  plan.kernel.held_max = microseconds(dice.Between(300, 2000));
  plan.host.freeze_chance = static_cast<int>(dice.Between(0, 60));
  plan.host.freeze_max = milliseconds(1);
}

// One side finishes and the other does not: the half-close limit, often set from another worker
// than the one that has the timer.
void HalfClosed(Dice& dice, Plan& plan) {
  PollLate(dice, plan);
  plan.options().half_close_timeout = milliseconds(dice.Between(2, 20));
  const auto talker = [&](int finish_percent) {
    Script script = Talker(dice, 500, finish_percent);
    if (script.ops.empty() || script.ops.back().kind != Op::Kind::kFinish) {
      script.finale = Op{Op::Kind::kFinish};  // after the limit
      script.finale_at = seconds(5);
    }
    return script;
  };
  AddBackends(dice, plan, 2, [&] { return talker(20); });
  AddClients(dice, plan, 8, [&] { return talker(80); });
}

// Sessions that are reset, and others, with slow receivers, that get their descriptors at once.
void Reuse(Dice& dice, Plan& plan) {
  PollLate(dice, plan);
  plan.options().reset_linger = milliseconds(1);
  plan.network.send_buffer = size_t{1} << 10;
  plan.network.receive_buffer = size_t{1} << 10;
  const auto script = [&](int reset_percent) {
    Script script;
    if (dice.Percent(reset_percent)) {
      script.ops = {{Op::Kind::kSend, dice.Between(8, 2000)}, {Op::Kind::kReset}};
    } else {
      script.ops = {{Op::Kind::kSend, dice.Between(4000, 12000)}, {Op::Kind::kFinish}};
      script.read_every = microseconds(dice.Between(1000, 2000));
      script.read_size = 2000;
    }
    return script;
  };
  AddBackends(dice, plan, 2, [&] { return script(30); });
  AddClients(
      dice, plan, 24, [&] { return script(60); }, milliseconds(10));
}

// Backends that do not read, and clients that leave meanwhile.
void Blocked(Dice& dice, Plan& plan) {
  plan.options().reset_linger = milliseconds(dice.Between(1, 50));
  plan.network.send_buffer = static_cast<size_t>(dice.Between(1, 4)) << 10;
  plan.network.receive_buffer = static_cast<size_t>(dice.Between(1, 4)) << 10;
  AddBackends(dice, plan, 2, [&] {
    Script script = Talker(dice, 500, 20);
    script.never_reads = true;
    return script;
  });
  AddClients(dice, plan, 6, [&] {
    Script script;
    script.ops = {{Op::Kind::kSend, dice.Between(2000, 60000)}, {Op::Kind::kPause, 1'000'000}};
    if (dice.Percent(50)) script.ops[0].amount = dice.Between(8, 8000);
    script.ops.push_back({Op::Kind::kReset});
    return script;
  });
}

// Workers take each other's work, and connections move between them, while kernel memory is short.
// No limit hides one that was lost on its way.
void Moves(Dice& dice, Plan& plan) {
  PollLate(dice, plan);
  plan.options().idle_timeout = sched::Duration(0);
  plan.options().half_close_timeout = sched::Duration(0);
  plan.kernel.shortage_chance = static_cast<int>(dice.Between(20, 100));
  AddBackends(dice, plan, 2, [] { return Echoing(); });
  AddClients(dice, plan, 8, [&] { return PingPong(dice, 2000); });
}

struct Scenario {
  const char* name;
  void (*fill)(Dice&, Plan&);
};

constexpr Scenario kScenarios[] = {
    {"requests", Requests},
    {"streams", Streams},
    {"slow_receivers", SlowReceivers},
    {"resets", Resets},
    {"silence", Silence},
    {"connects", Connects},
    {"stops", Stops},
    {"drains", Drains},
    {"shortages", Shortages},
    {"limits", Limits},
    {"echo", Echo},
    {"urgent", Urgent},
    {"stuck", Stuck},
    {"half_closed", HalfClosed},
    {"reuse", Reuse},
    {"blocked", Blocked},
    {"one_sided", OneSided},
    {"moves", Moves},
    {"flapping", Flapping},
    {"outages", Outages},
    {"queues", Queues},
    {"sources", Sources},
    {"introductions", IntroductionsScenario},
    {"bad_headers", BadHeaders},
    {"hellos", Hellos},
    {"throttled", Throttled},
    {"destinations", DestinationsScenario},
    {"reloads", Reloads},
    {"full_table", FullTable},
    {"memory", Memory},
    {"names", Names},
};

// A fault that can be taken out of a plan.
struct Fault {
  const char* name;
  int* (*chance)(Plan&);
};

constexpr Fault kFaults[] = {
    {"interrupted_calls", [](Plan& plan) { return &plan.kernel.interrupted_chance; }},
    {"spurious_events", [](Plan& plan) { return &plan.kernel.spurious_event_chance; }},
    {"late_events", [](Plan& plan) { return &plan.kernel.late_event_chance; }},
    {"shortages", [](Plan& plan) { return &plan.kernel.shortage_chance; }},
    {"failed_sends", [](Plan& plan) { return &plan.kernel.failed_send_chance; }},
    {"no_memory", [](Plan& plan) { return &plan.network.no_memory_chance; }},
    {"pauses", [](Plan& plan) { return &plan.host.pause_chance; }},
    {"held_polls", [](Plan& plan) { return &plan.kernel.held_poll_chance; }},
    {"freezes", [](Plan& plan) { return &plan.host.freeze_chance; }},
    {"stalls", [](Plan& plan) { return &plan.host.stall_chance; }},
};

constexpr std::string_view kClient = "client";

}  // namespace

const std::vector<std::string>& Scenarios() {
  static const auto* const names = [] {
    auto* const list = new std::vector<std::string>;
    for (const Scenario& scenario : kScenarios) list->push_back(scenario.name);
    return list;
  }();
  return *names;
}

Plan MakePlan(uint64_t seed, std::string_view scenario) {
  Dice dice(seed);
  Plan plan = Base(dice);
  plan.seed = seed;
  plan.scenario = scenario.empty() ? Scenarios()[seed % Scenarios().size()] : std::string(scenario);
  for (const Scenario& candidate : kScenarios) {
    if (plan.scenario == candidate.name) candidate.fill(dice, plan);
  }
  PARKWAY_CHECK(!plan.clients.empty(), seed);  // an unknown scenario
  if (!plan.lookups.empty()) {
    const Backend named = {.question = {.srv = true, .name = "backends.test"}};
    plan.route().backends.push_back(named);
    for (Plan::Reload& reload : plan.reloads) reload.config->routes[0].backends.push_back(named);
    return plan;
  }
  for (size_t i = 0; i < plan.backends.size() && !plan.route().to_original_dst(); ++i) {
    plan.route().backends.push_back({.at = {LoopbackAt(BackendPort(i))}, .max = plan.most});
  }
  if (plan.scenario == "reloads") AddReloads(dice, plan);
  return plan;
}

std::vector<std::string> Parts(const Plan& plan) {
  std::vector<std::string> parts;
  Plan copy = plan;
  for (const Fault& fault : kFaults) {
    if (*fault.chance(copy) > 0) parts.push_back(fault.name);
  }
  for (size_t i = 0; i < plan.clients.size(); ++i) {
    if (plan.clients[i].start != sched::Duration::max()) {
      parts.push_back(std::string(kClient) + std::to_string(i));
    }
  }
  return parts;
}

void Drop(Plan& plan, std::string_view part) {
  for (const Fault& fault : kFaults) {
    if (part == fault.name) *fault.chance(plan) = 0;
  }
  if (part.substr(0, kClient.size()) != kClient) return;
  const size_t index = std::stoul(std::string(part.substr(kClient.size())));
  // It keeps its number, and never comes.
  if (index < plan.clients.size()) plan.clients[index].start = sched::Duration::max();
}

}  // namespace parkway::sim
