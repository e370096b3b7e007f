// SPDX-License-Identifier: Apache-2.0
#include "server/sim/endings.h"

#include <random>

namespace parkway::sim {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

// When whatever can move on its way has done so, and the session's end is caused.
constexpr sched::Duration kCause = milliseconds(200);
// Longer than any limit here: then those who did not read look at what there is.
constexpr sched::Duration kLook = seconds(3);
// What the kernels take, though the receiver does not read; and more than everybody takes.
constexpr int64_t kSome = 6 << 10;
constexpr int64_t kMuch = 1 << 20;

// What is on its way, taken apart.
struct OnItsWay {
  bool request = false;
  bool reply = false;
  bool slow = false;  // not all of it is with the kernel
  bool connect = false;
  std::string finished;  // "client" or "backend": its FIN came before
  bool limit = false;    // one of the table of limits
  bool all_down = false;
  bool header = false;  // one of the tables of the PROXY protocol and of TLS
};

// What a client sends of its PROXY header or its ClientHello, and whether a FIN follows.
struct HeaderSent {
  std::string text;
  bool finishes = false;
};

std::optional<HeaderSent> HelloSentFor(const std::string& on_its_way) {
  const std::string part("\x16\x03\x01\0\x50\x01\0\0\x4c\x03\x03", 11);
  if (on_its_way == "no ClientHello, but a FIN") return HeaderSent{"", true};
  if (on_its_way == "a part of a ClientHello, and a FIN") return HeaderSent{part, true};
  if (on_its_way == "a part of a ClientHello") return HeaderSent{part};
  if (on_its_way == "a ClientHello with a wrong length") {
    return HeaderSent{std::string("\x16\x03\x01\0\0", 5)};
  }
  if (on_its_way == "a ClientHello of more than 64 KiB") {
    return HeaderSent{std::string("\x16\x03\x01\x40\0\x01\x01\0\0", 9)};
  }
  return std::nullopt;
}

std::optional<HeaderSent> HeaderSentFor(const std::string& on_its_way) {
  const std::string v2("\r\n\r\n\0\r\nQUIT\n", 12);
  const std::string addresses(12, '\0');
  const std::string no_checksum(4, '\0');
  const std::string part = "PROXY TCP4 192.0.2";
  if (on_its_way == "a client that is none of `--trusted`") return HeaderSent{};
  if (on_its_way == "no header, but a FIN") return HeaderSent{"", true};
  if (on_its_way == "a part of a header, and a FIN") return HeaderSent{part, true};
  if (on_its_way == "a part of a header") return HeaderSent{part};
  if (on_its_way == "something else than a header") return HeaderSent{"GET / HTTP/1.1\r\n"};
  if (on_its_way == "a header with a wrong field") return HeaderSent{part + ".256 ::1 1 2\r\n"};
  if (on_its_way == "a header of an unknown version or command") return HeaderSent{v2 + "\x31"};
  if (on_its_way == "a header of an unknown address family") return HeaderSent{v2 + "\x21\x41"};
  if (on_its_way == "a header with a wrong checksum") {
    return HeaderSent{v2 + std::string("\x21\x11\0\x13", 4) + addresses +
                      std::string("\x03\0\x04", 3) + no_checksum};
  }
  if (on_its_way == "a header without an end")
    return HeaderSent{std::string("PROXY UNKNOWN ") + std::string(93, 'x')};
  return std::nullopt;
}

std::optional<OnItsWay> Parse(std::string text) {
  OnItsWay way;
  for (const std::string who : {"client", "backend"}) {
    const std::string after = ", after the " + who + "'s FIN";
    if (text.size() <= after.size() || !text.ends_with(after)) continue;
    way.finished = who;
    text.resize(text.size() - after.size());
  }
  way.request = text.starts_with("a request") || text == "both of these";
  way.reply = text.starts_with("a reply") || text == "both of these";
  way.slow = text.ends_with(" does not take") || text == "both of these";
  way.connect = text == "the connect";
  way.limit = text.starts_with("a client");
  way.all_down = text == "the connect, with no backend up";
  way.header = HeaderSentFor(text).has_value() || HelloSentFor(text).has_value();
  way.limit = way.limit && !way.header;
  const bool known =
      way.request || way.reply || way.connect || way.limit || way.all_down || way.header;
  if (known || text == "nothing") return way;
  return std::nullopt;
}

Plan Quiet(uint64_t seed) {
  std::mt19937_64 dice(seed);
  Plan plan;
  plan.seed = seed;
  plan.scenario = "ending";
  plan.config.routes.push_back({.name = "default", .listen = {{"", {LoopbackAt(kDaemonPort)}}}});
  plan.route().backends.push_back({.at = {LoopbackAt(BackendPort(0))}});
  plan.config.workers = static_cast<int>(1 + seed % 3);
  plan.config.stall_report = sched::Duration(0);
  plan.options().connect_timeout = seconds(30);
  plan.options().idle_timeout = seconds(60);
  plan.options().half_close_timeout = seconds(60);
  plan.config.drain_timeout = hours(1);
  plan.options().reset_linger = seconds(30);
  plan.network.send_buffer = 16 << 10;
  plan.network.receive_buffer = 1 << 10;
  plan.network.segment_max = 1 + dice() % 2000;
  plan.kernel.interrupted_chance = 20;
  plan.kernel.spurious_event_chance = 50;
  plan.kernel.late_event_chance = 50;
  plan.kernel.late_max = std::chrono::microseconds(500);
  plan.host.turn_max = std::chrono::microseconds(3);
  plan.host.pause_chance = static_cast<int>(dice() % 300);
  return plan;
}

// Sends what shall be on the way to the other, and reads late what is on the way to itself.
Script PeerOf(const OnItsWay& way, bool sends, bool is_receiver) {
  Script script;
  if (sends) script.ops.push_back({Op::Kind::kSend, way.slow ? kMuch : kSome});
  if (is_receiver) script.reads_from = kLook;
  return script;
}

void EndAt(Script& script, Op::Kind how, sched::Duration when = kCause) {
  script.finale = Op{how};
  script.finale_at = when;
}

// What makes the session end, beside the peers.
bool SetLimits(Plan& plan, const std::string& logged, const OnItsWay& way) {
  // A receiver that takes nothing is given up soon; one that only looks late is waited for.
  if (way.slow && !logged.ends_with("_fin")) plan.options().reset_linger = milliseconds(50);
  if (logged == "idle_timeout") {
    plan.options().idle_timeout = kCause;
  } else if (logged == "half_close_timeout") {
    plan.options().half_close_timeout = kCause;
  } else if (logged == "drain") {
    plan.stop_after = kCause;
    plan.config.drain_timeout = milliseconds(50);
  } else if (logged == "stop") {
    plan.stop_after = kCause;
    plan.stop_now_after = milliseconds(50);
  } else {
    return false;
  }
  return true;
}

bool SetPeers(Script& client, Script& backend, const std::string& logged, const OnItsWay& way) {
  if (logged == "client_fin") {
    EndAt(client, Op::Kind::kFinish);
    if (way.reply) EndAt(backend, Op::Kind::kFinish, 2 * kCause);
  } else if (logged == "upstream_fin") {
    EndAt(backend, Op::Kind::kFinish);
    if (way.request) EndAt(client, Op::Kind::kFinish, 2 * kCause);
  } else if (logged == "client_reset") {
    EndAt(client, Op::Kind::kReset);
  } else if (logged == "upstream_reset") {
    EndAt(backend, Op::Kind::kReset);
  } else {
    return false;
  }
  return true;
}

// Backends that cannot be connected to.
bool SetConnect(Plan& plan, const std::string& logged) {
  BackendPlan& backend = plan.backends.front();
  backend.kind = BackendPlan::Kind::kVanishes;
  if (logged == "connect_refused") {
    backend.kind = BackendPlan::Kind::kRefuses;
  } else if (logged == "connect_timeout") {
    plan.options().connect_timeout = kCause;
  } else if (logged == "connect_failed") {
    plan.kernel.connect_error = ENETUNREACH;
  } else {
    return logged == "drain" || logged == "stop";
  }
  return true;
}

// Checks go to a port of their own, which is closed from then on.
void TakeDown(Plan& plan, sched::Duration when) {
  plan.options().health = Health::kTcp;
  plan.options().health_port = BackendPort(plan.backends.size());
  plan.options().health_interval = milliseconds(10);
  plan.options().health_fall = 1;
  plan.options().on_down = OnDown::kClose;
  Script closes;
  closes.echoes = true;
  plan.backends.push_back({BackendPlan::Kind::kChecked, {closes}, {when}});
}

void SetHeader(Plan& plan, const Ending& ending) {
  const std::optional<HeaderSent> hello = HelloSentFor(ending.on_its_way);
  const HeaderSent sent = hello.has_value() ? *hello : *HeaderSentFor(ending.on_its_way);
  RouteOptions& options = plan.options();
  if (hello.has_value()) {
    plan.route().sni = {"a.example"};
  } else {
    options.accept_proxy = AcceptProxy::kAny;
    options.trusted =
        *BlockList::Parse(ending.logged == "untrusted" ? "192.0.2.0/24" : "127.0.0.0/8");
  }
  if (ending.logged.ends_with("_timeout")) options.handshake_timeout = kCause;
  Script& client = plan.clients.front().script;
  client.preamble = sent.text;
  client.ops = {{Op::Kind::kSay, static_cast<int64_t>(sent.text.size())}};
  if (sent.finishes) EndAt(client, Op::Kind::kFinish);
}

// The last client meets the limit; those before stay as they are.
bool SetLimit(Plan& plan, const Ending& ending) {
  constexpr int kOwnDescriptors = 4;  // epoll, eventfd, the listener and its reserve
  plan.config.workers = 1;
  plan.options().idle_timeout = 2 * kLook;
  int clients = 1;
  sched::Duration late = milliseconds(10);
  if (ending.on_its_way == "a client beyond `--max_conns`") {
    plan.config.max_conns = 1;
    clients = 2;
  } else if (ending.on_its_way == "a client beyond `--listener_max_conns`") {
    plan.options().listener_max_conns = 1;
    clients = 2;
  } else if (ending.logged == "too_many") {
    plan.config.max_conns = 1;
    plan.options().overload = Overload::kReset;
    clients = 2;
  } else if (ending.logged == "too_fast") {
    plan.options().listener_conn_rate = 1;
    plan.options().overload = Overload::kReset;
    clients = 2;
  } else if (ending.on_its_way.starts_with("a client beyond `--memory_budget`")) {
    plan.config.memory_budget = size_t{100} << 20;
    plan.memory = {{milliseconds(5), int64_t{101} << 20}, {2 * kLook, 0}};
    if (ending.logged == "memory_budget") plan.options().overload = Overload::kReset;
    clients = 2;
    late = 2 * kCause;  // when it is looked at again
  } else if (ending.logged == "source_too_many") {
    plan.options().source_max_conns = 1;
    clients = 2;
  } else if (ending.logged == "source_too_fast") {
    plan.options().source_conn_rate = 1;
    clients = 2;
  } else if (ending.logged == "denied") {
    plan.options().deny = *BlockList::Parse("127.0.0.0/8");
  } else if (ending.on_its_way == "a client, and no descriptor for it") {
    plan.kernel.descriptors = kOwnDescriptors;
  } else if (ending.on_its_way == "a client, and no descriptor for its backend") {
    plan.kernel.descriptors = kOwnDescriptors + 1;
  } else if (ending.on_its_way == "a client, and no free port for its backend") {
    plan.kernel.ports = 1;
    clients = 2;
  } else if (ending.logged == "queue_full" || ending.logged == "queue_timeout") {
    plan.route().backends.front().max = 1;
    plan.options().max_queue = ending.logged == "queue_full" ? 0 : 1;
    plan.options().queue_timeout = kCause;
    clients = 2;
  } else if (ending.logged.starts_with("dst_")) {
    plan.route().backends.clear();
    plan.route().allow_dst = *Destinations::Parse("10.0.0.0/8");
    const bool is_loop = ending.logged == "dst_loop";
    if (!is_loop) plan.clients.front().going_to = *netpoll::Endpoint::Parse("192.0.2.1:80");
  } else if (ending.on_its_way == "a client that no route serves") {
    plan.route().from = {*Cidr::Parse("10.0.0.0/8")};
  } else {
    return false;
  }
  plan.clients.assign(clients, plan.clients.front());
  plan.clients.back().start = late;
  return true;
}

}  // namespace

std::optional<Plan> PlanOf(const Ending& ending, uint64_t seed) {
  const std::optional<OnItsWay> way = Parse(ending.on_its_way);
  if (!way) return std::nullopt;
  Plan plan = Quiet(seed);
  Script client = PeerOf(*way, way->request, way->reply);
  Script backend = PeerOf(*way, way->reply, way->request);
  if (ending.echo) {
    plan.route().mode = Mode::kEcho;
    plan.route().backends.clear();
    client = PeerOf(*way, way->reply, way->reply);
  }
  if (!way->finished.empty()) {
    const bool by_client = way->finished == "client";
    EndAt(by_client ? client : backend, Op::Kind::kFinish, kCause / 2);
    EndAt(by_client ? backend : client, Op::Kind::kFinish, kLook);  // too late
  }
  const bool limited = SetLimits(plan, ending.logged, *way);
  const bool peers = SetPeers(client, backend, ending.logged, *way);
  plan.clients.push_back({sched::Duration(0), client});
  plan.backends.push_back({BackendPlan::Kind::kServes, {backend}});
  if (way->connect && !SetConnect(plan, ending.logged)) return std::nullopt;
  if (way->limit && !SetLimit(plan, ending)) return std::nullopt;
  if (way->header) SetHeader(plan, ending);
  const bool down = ending.logged == "backend_down" || way->all_down;
  if (down) TakeDown(plan, way->all_down ? sched::Duration(0) : kCause);
  if (way->all_down) plan.clients.front().start = kCause;
  if (!limited && !peers && !down && !way->connect && !way->limit && !way->header) {
    return std::nullopt;
  }
  return plan;
}

}  // namespace parkway::sim
