// SPDX-License-Identifier: Apache-2.0
#include "server/sim/world.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "netpoll/listener.h"
#include "netpoll/sim/network.h"
#include "netpoll/sim/sim_kernel.h"
#include "sched/fibers.h"
#include "sched/interleave.h"
#include "sched/testing/one_thread_host.h"
#include "server/memory_budget.h"
#include "server/memory_meter.h"
#include "server/resolver.h"
#include "server/server.h"
#include "server/sim/peer.h"

namespace parkway::sim {
namespace {

using netpoll::sim::Network;
using netpoll::sim::SimKernel;
using netpoll::sim::TcpEnd;
using netpoll::sim::TcpListener;
using sched::testing::OneThreadHost;
using std::chrono::minutes;
using std::chrono::seconds;

// By then every session must have ended, with the limits that the plans set.
constexpr sched::Duration kPatience = minutes(4);
// A run takes some ten thousand turns; one that takes so many is going round in circles.
constexpr int64_t kTurnsMax = 3'000'000;
// After so many a connection of the daemon that comes back has been noticed.
constexpr int kHopsMax = 20;

#ifdef PARKWAY_INTERLEAVE
OneThreadHost* interleaved = nullptr;
#endif

// What the plan says is in use.
class PlannedMeter final : public MemoryMeter {
 public:
  int64_t GroupLimit() const override { return 0; }
  int64_t GroupUsed(int64_t) const override { return 0; }
  int64_t OwnUsed() const override { return used; }

  int64_t used = 0;
};

// Finds what the plan says, and knows which backends may serve, which it works out by itself.
class ScriptedResolver final : public Resolver {
 public:
  ScriptedResolver(const Plan& plan, OneThreadHost& host)
      : plan_(plan), host_(host), places_(plan.backends.size()) {}

  absl::StatusOr<NameAnswer> Lookup(netpoll::Poller&, const Question&,
                                    const std::atomic<bool>& cancelled) override {
    sched::SleepFor(plan_.lookup_takes);
    if (cancelled.load()) return absl::CancelledError();
    const LookupPlan& lookup = plan_.lookups[std::min(next_++, plan_.lookups.size() - 1)];
    host_.Note("lookup");
    if (lookup.kind == LookupPlan::Kind::kFails) return absl::UnavailableError("it fails");
    NameAnswer answer;
    const bool is_whole = lookup.kind != LookupPlan::Kind::kPart;
    if (!is_whole) answer.why_partial = "a part fails";
    for (size_t i = 0; i < places_.size(); ++i) {
      const auto& named = lookup.backends;
      if (std::find(named.begin(), named.end(), i) != named.end()) {
        answer.found.push_back({.at = LoopbackAt(BackendPort(i))});
        places_[i] = {.serves = true};
      } else if (is_whole && places_[i].serves && ++places_[i].missing == 2) {
        places_[i] = {.serves = false, .left_at = host_.Now()};
      }
    }
    return answer;
  }

  // It has been out for no longer than that.
  bool MayServe(size_t backend, sched::Duration grace) const {
    const Place& place = places_[backend];
    return place.serves || host_.Now() <= sched::After(place.left_at, grace);
  }

 private:
  struct Place {
    bool serves = false;
    int missing = 0;
    sched::Deadline left_at = sched::kLongAgo;
  };

  const Plan& plan_;
  OneThreadHost& host_;
  size_t next_ = 0;
  std::vector<Place> places_;
};

class World {
 public:
  World(const Plan& plan, bool keep_log)
      : plan_(plan),
        host_(plan.seed, plan.host),
        network_(host_, plan.network),
        kernel_(network_, plan.kernel),
        resolver_(plan, host_) {
    if (keep_log) host_.log().KeepText();
  }

  Outcome Run() {
#ifdef PARKWAY_INTERLEAVE
    interleaved = &host_;
    sched::interleave_hook = [](bool blocked) { interleaved->Pause(blocked); };
#endif
    OpenBackends();
    auto main = host_.StartThread("main", -1, [this] { return Main(); });
    for (size_t i = 0; i < plan_.clients.size(); ++i) {
      if (plan_.clients[i].start == sched::Duration::max()) continue;
      ++clients_to_come_;
      network_.After(plan_.clients[i].start, [this, i] { StartClient(i); });
    }
    if (plan_.stop_after != sched::Duration::max()) {
      network_.After(plan_.stop_after, [this] { Stop(); });
    }
    for (size_t i = 0; i < plan_.reloads.size(); ++i) {
      network_.After(plan_.reloads[i].after, [this, i] {
        reload_ = i;
        if (server_ != nullptr) server_->RequestReload();
      });
    }
    for (const Plan::Memory& memory : plan_.memory) {
      network_.After(memory.after, [this, bytes = memory.bytes] { UseMemory(bytes); });
    }
    network_.After(kPatience, [this] { patience_over_ = true; });
    if (plan_.clients.size() > 1 && Is({kEnding})) {
      network_.After(kSnapshot, [this] { client_waits_ = Waits(*clients_.back()); });
    }
    DriveUntilStopped();
    if (failure_.empty()) {
      main.reset();  // joins: runs until the daemon has ended
      Settle();
      Judge();
    } else {
      (void)main.release();  // it cannot be joined, and the process ends soon
    }
    Outcome outcome;
    outcome.failure = failure_;
    outcome.log = host_.log().text();
    outcome.turns = host_.turns();
    outcome.sessions = served_;
    if (Is({kEnding}) && failure_.empty()) Tell(outcome);
    return outcome;
  }

 private:
  void Fail(const std::string& why) {
    if (failure_.empty()) failure_ = why;
  }
  void Require(bool condition, const std::string& what) {
    if (!condition) Fail(what);
  }

  // --- The parts.

  std::optional<sched::Deadline> Main() {
    Platform platform;
    platform.host = &host_;
    platform.simulated = &kernel_;
    platform.resolver = &resolver_;
    platform.descriptors = 20000;
    platform.large_flows = plan_.large_flows;
    platform.memory = &meter_;
    platform.report = [this](const std::string&) { host_.Note("report"); };
    platform.access_log = [this](std::string_view lines) { ReadAccessLog(lines); };
    auto server = Server::Start(plan_.config, platform);
    if (!server.ok()) {
      started_ = ended_ = true;
      refused_to_start_ = true;
      return std::nullopt;
    }
    server_ = server->get();
    started_ = true;
    if (stop_requested_) server_->RequestStop();
    (void)(*server)->Run([this] { return NextConfig(); });
    served_ = server_->served();
    for (int i = 0; i < kEndReasons; ++i) {
      ended_by_[i] = server_->ended(static_cast<EndReason>(i));
    }
    server_ = nullptr;
    server->reset();
    ended_ = true;
    return std::nullopt;
  }

  void ReadAccessLog(std::string_view lines) {
    host_.Note("access log");
    while (!lines.empty()) {
      const std::string_view line = lines.substr(0, lines.find('\n'));
      lines.remove_prefix(line.size() + 1);
      std::istringstream columns{std::string(line)};
      std::string skipped, what;
      int64_t up = 0, down = 0;
      char slash = 0;
      for (int i = 0; i < 5; ++i) columns >> skipped;
      columns >> up >> slash >> down >> what;
      if (what == "start" || what == "progress") continue;
      ++logged_.ends;
      logged_.up += up;
      logged_.down += down;
    }
  }

  absl::StatusOr<Config> NextConfig() const {
    const std::optional<Config>& next = plan_.reloads[reload_].config;
    if (!next.has_value()) return absl::InvalidArgumentError("unreadable");
    return *next;
  }

  void OpenBackends() {
    for (size_t i = 0; i < plan_.backends.size(); ++i) {
      const int port = BackendPort(i);
      const BackendPlan& plan = plan_.backends[i];
      if (plan.kind == BackendPlan::Kind::kVanishes) network_.BlackHole(port);
      const bool listens =
          plan.kind == BackendPlan::Kind::kServes || plan.kind == BackendPlan::Kind::kChecked;
      if (!listens) continue;
      auto listener = std::make_unique<TcpListener>();
      listener->backlog = 128;
      listener->on_connection = [this, i, raw = listener.get()] {
        network_.After(sched::Duration(0), [this, i, raw] { AcceptAtBackend(i, *raw); });
      };
      network_.AddListener(port, listener.get());
      for (size_t k = 0; k < plan.toggles.size(); ++k) {
        network_.After(plan.toggles[k], [this, i, opens = k % 2 == 1, raw = listener.get()] {
          if (opens) return network_.AddListener(BackendPort(i), raw);
          while (!raw->queue.empty()) AcceptAtBackend(i, *raw);  // closing would reset them
          network_.RemoveListener(BackendPort(i), raw);
        });
      }
      listeners_.push_back(std::move(listener));
    }
  }

  void AcceptAtBackend(size_t index, TcpListener& listener) {
    if (listener.queue.empty()) return;
    TcpEnd* const end = listener.queue.front();
    listener.queue.pop_front();
    const BackendPlan& plan = plan_.backends[index];
    auto& peers = plan.kind == BackendPlan::Kind::kChecked ? checks_ : backends_;
    AddPeer(peers, *end, plan.scripts[peers.size() % plan.scripts.size()],
            kFirstBackend + static_cast<uint32_t>(peers.size()));
    served_by_.resize(plan_.backends.size());
    served_by_[index].push_back(end);
    JudgeMost(index);
    if (Is({"memory"})) JudgeMemory();
    JudgeNamed(index);
  }

  void UseMemory(int64_t bytes) {
    meter_.used = bytes;
    short_since_ =
        bytes > static_cast<int64_t>(plan_.config.memory_budget) ? host_.Now() : sched::kNever;
  }

  // Soon after memory has become short nobody is let in, but by a daemon that drains.
  void JudgeMemory() {
    if (short_since_ == sched::kNever || stop_requested_) return;
    const sched::Deadline noticed = short_since_ + MemoryBudget::kEvery + Excused();
    Require(host_.Now() <= noticed, "a client was let in that there is no memory for");
  }

  // Who has left its name gets no new session; what was on its way there may arrive.
  void JudgeNamed(size_t index) {
    if (plan_.lookups.empty()) return;
    const sched::Duration grace =
        std::chrono::milliseconds(30) + Excused() + 10 * plan_.network.latency_max;
    Require(resolver_.MayServe(index, grace),
            "backend " + std::to_string(index) + " got a session after its name had lost it");
  }

  // Work of milliseconds may take so much longer.
  sched::Duration Excused() const {
    return std::chrono::milliseconds(20) + 20 * (plan_.host.freeze_max + plan_.kernel.held_max);
  }

  // A backend has at most its `max` of sessions that the daemon has not closed. Checks are none.
  void JudgeMost(size_t index) {
    if (!Is({"queues"})) return;
    const int most = plan_.most;
    const auto open = std::count_if(
        served_by_[index].begin(), served_by_[index].end(),
        [](const TcpEnd* end) { return end->peer() != nullptr && end->peer()->owned(); });
    Require(open <= most, std::to_string(open) + " sessions at a backend, " + std::to_string(most) +
                              " is its most");
  }

  void StartClient(size_t index) {
    if (!started_) {  // its operator would wait for the banner
      network_.After(std::chrono::microseconds(100), [this, index] { StartClient(index); });
      return;
    }
    --clients_to_come_;
    if (refused_to_start_) return;
    TcpEnd* const end = network_.Connect(kDaemonPort);
    end->dialed = plan_.clients[index].going_to;
    AddPeer(clients_, *end, plan_.clients[index].script, static_cast<uint32_t>(index));
  }

  void AddPeer(std::vector<std::unique_ptr<Peer>>& peers, TcpEnd& end, const Script& script,
               uint32_t id) {
    peers.push_back(std::make_unique<Peer>(network_, end, script, id));
  }

  void Stop() {
    if (stop_requested_) return;
    host_.Note("stop");
    stop_requested_ = true;
    for (const auto& client : clients_) {
      if (client->end().peer() != nullptr) promised_.push_back(client.get());
    }
    if (server_ != nullptr) server_->RequestStop();
    if (plan_.stop_now_after != sched::Duration::max()) {
      network_.After(plan_.stop_now_after, [this] {
        if (server_ != nullptr) server_->RequestStop();
      });
    }
  }

  bool ClientsAreDone() const {
    return clients_to_come_ == 0 &&
           std::all_of(clients_.begin(), clients_.end(), [](const auto& client) {
             // Who never reads never sees the end; then it is enough that the daemon let go.
             const TcpEnd* const served_at = client->end().peer();
             return client->done() ||
                    (client->script().never_reads && served_at != nullptr && !served_at->owned());
           });
  }

  // Until the daemon has ended, which it is asked to when the clients are done.
  void DriveUntilStopped() {
    while (!ended_ && failure_.empty()) {
      if (!stop_requested_ && started_ && ClientsAreDone()) Stop();
      const sched::Deadline soon = host_.Now() + std::chrono::milliseconds(1);
      (void)host_.Await(soon, &ended_);
      if (patience_over_ && !ended_) Fail(Unfinished());
      if (host_.turns() > kTurnsMax) Fail("it spins: " + std::to_string(host_.turns()) + " turns");
    }
  }

  std::string Unfinished() const {
    std::string text = "after " + std::to_string(kPatience.count() / 1'000'000'000) + " s " +
                       (server_ != nullptr ? std::to_string(server_->sessions()) : "?") +
                       " sessions go on; not done:";
    for (const auto& client : clients_) {
      if (!client->done()) text += " client " + std::to_string(client->id());
    }
    return text;
  }

  // What is still on its way arrives.
  void Settle() { host_.SleepUntil(host_.Now() + minutes(10)); }

  // --- The promises.

  void Judge() {
    Require(kernel_.open_descriptors() == 0,
            std::to_string(kernel_.open_descriptors()) + " descriptors are left open");
    Require(kernel_.bad_descriptors() == 0, "a descriptor was used after it was closed");
    if (refused_to_start_) {
      Require(plan_.kernel.shortage_chance > 0 || plan_.kernel.descriptors < 1000,
              "the daemon did not start");
      return;
    }
    for (const auto* peers : {&clients_, &backends_}) {
      for (const auto& peer : *peers) Require(peer->wrong().empty(), peer->wrong());
    }
    JudgeCounts();
    if (Is({"full_table"})) JudgeFullTable();
    for (const Peer* const client : promised_) JudgeSession(*client);
  }

  void JudgeCounts() {
    int64_t sum = 0;
    for (const int64_t count : ended_by_) sum += count;
    Require(sum == served_, std::to_string(served_) + " sessions were served and " +
                                std::to_string(sum) + " ended");
    Require(logged_.ends == served_, std::to_string(served_) + " sessions were served and " +
                                         std::to_string(logged_.ends) + " logged");
    const int hops = plan_.kernel.led_back_to == 0 ? 1 : kHopsMax;
    Require(!Is({"destinations"}) || served_ <= hops * static_cast<int64_t>(clients_.size()),
            std::to_string(served_) + " sessions of " + std::to_string(clients_.size()) +
                " clients: it connected to itself");
    if (IsPolite()) {
      const int64_t finished = ended_by_[static_cast<int>(EndReason::kClientFin)] +
                               ended_by_[static_cast<int>(EndReason::kUpstreamFin)] +
                               ended_by_[static_cast<int>(EndReason::kMemoryBudget)];
      Require(finished == served_, std::to_string(finished) + " of " + std::to_string(served_) +
                                       " sessions finished where nothing went wrong");
      Require(served_ >= static_cast<int64_t>(promised_.size()),
              std::to_string(served_) + " of " + std::to_string(promised_.size()) +
                  " clients were served");
      JudgeLoggedBytes();
    }
  }

  // Whoever accepts tries again now and then, and all are served when it is over.
  void JudgeFullTable() {
    const sched::Duration full = plan_.kernel.table_full_until - plan_.kernel.table_full_from;
    // Each time a call to accept, one to tell a client, and one for a reserve.
    const int64_t most = 3 * plan_.config.workers * (full / netpoll::Listener::kPause + 2);
    Require(kernel_.table_full() <= most, std::to_string(kernel_.table_full()) +
                                              " calls while the table was full, at most " +
                                              std::to_string(most));
    for (const auto& client : clients_) {
      const sched::Duration until =
          std::max(plan_.kernel.table_full_until, plan_.clients[client->id()].start);
      const sched::Deadline due = began_ + until + netpoll::Listener::kPause + seconds(1);
      Require(client->ended_at() <= due, "client " + std::to_string(client->id()) +
                                             " was served long after the table had room");
    }
  }

  void JudgeLoggedBytes() {
    const auto received = [&](const auto& peers) {
      int64_t sum = 0;
      for (const auto& peer : peers) sum += peer->received();
      return sum;
    };
    const auto takes_all = [](const auto& peer) {
      return !peer->left() && !peer->script().never_reads;
    };
    const bool exact = std::all_of(clients_.begin(), clients_.end(), takes_all) &&
                       std::all_of(backends_.begin(), backends_.end(), takes_all);
    const int64_t down = received(clients_);
    int64_t up = plan_.route().is_local() ? down : received(backends_);
    if (Is({"hellos"})) {
      for (const auto& backend : backends_) up += static_cast<int64_t>(backend->told().size());
    }
    Require(!exact || (logged_.up == up && logged_.down == down),
            "the access log says " + std::to_string(logged_.up) + " and " +
                std::to_string(logged_.down) + " bytes, it was " + std::to_string(up) + " and " +
                std::to_string(down));
  }

  // No limit, stop or shortage ends a session early.
  bool IsCalm() const {
    return !Is({"silence", "connects", "stops", "shortages", "stuck", "half_closed", "blocked",
                "moves", "outages", "bad_headers", kEnding});
  }
  // Nor does anybody reset, or the daemon a client.
  bool IsPolite() const { return IsCalm() && !Is({"resets", "reuse", "destinations"}); }

  bool Is(std::initializer_list<const char*> scenarios) const {
    return std::any_of(scenarios.begin(), scenarios.end(),
                       [&](const char* name) { return plan_.scenario == name; });
  }

  const Peer* PartnerOf(const Peer& client) const {
    if (plan_.route().is_local()) return &client;
    for (const auto& backend : backends_) {
      if (backend->partner() == client.id()) return backend.get();
      // An echoing backend's stream is its client's own.
      if (!backend->script().echoes && client.partner() == backend->id()) return backend.get();
    }
    return nullptr;
  }

  void JudgeSession(const Peer& client) {
    const std::string name = "client " + std::to_string(client.id());
    JudgeResetTime(client, name);
    const Peer* const backend = PartnerOf(client);
    JudgeIntroduction(client, backend, name);
    JudgeDestination(client, backend, name);
    if (backend == nullptr) {
      const bool turned_away = Is({"memory"}) && client.saw_reset();
      if (IsPolite() && client.sent() > 0 && !turned_away) {
        Fail(name + ": its bytes reached nobody");
      }
      return;
    }
    JudgeStream(client, *backend, name + " to backend");
    if (backend != &client) JudgeStream(*backend, client, "backend to " + name);
    for (const Peer* const receiver : {&client, backend}) JudgeBandwidth(*receiver, name);
    JudgeTime(client, *backend, name);
  }

  // Who is not introduced properly gets nothing and reaches nobody; of others the backend is told.
  void JudgeIntroduction(const Peer& client, const Peer* backend, const std::string& name) {
    const Script& script = client.script();
    if (script.preamble_is_bad) {
      const bool reached = backend != nullptr && backend != &client;
      Require(!reached && client.received() == 0, name + ": was served with a bad header");
    } else if (backend != nullptr && backend->script().is_told) {
      Require(backend->told() == script.introduction, name + ": its backend was told otherwise");
    }
  }

  // Who may go there gets to where it was going; others are reset.
  void JudgeDestination(const Peer& client, const Peer* backend, const std::string& name) {
    if (!Is({"destinations"})) return;
    const ClientPlan& plan = plan_.clients[client.id()];
    const std::string where = " to " + plan.going_to.ToString();
    if (!plan.may_go) {
      Require(backend == nullptr && client.received() == 0, name + ": got" + where);
      Require(client.saw_reset(), name + ": was not reset on its way" + where);
      return;
    }
    if (backend == nullptr) return Fail(name + ": did not get" + where);
    const netpoll::Endpoint& dialed = backend->end().peer()->dialed;
    Require(dialed == plan.going_to,
            name + ": was connected to " + dialed.ToString() + " on its way" + where);
  }

  void JudgeStream(const Peer& from, const Peer& to, const std::string& name) {
    Require(to.received() <= from.sent(), name + ": more arrived than was sent");
    const std::string counts =
        std::to_string(to.received()) + " of " + std::to_string(from.sent()) + " bytes";
    const auto polite = [](const Peer& peer) { return !peer.left() && !peer.script().never_reads; };
    if (IsCalm() && polite(from) && polite(to)) {
      Require(to.received() == from.sent(), name + ": " + counts);
      Require(to.saw_fin(), name + ": no FIN");
    }
    // What came before a reset arrives before it, at a peer that takes it.
    const bool takes = !to.left() && !to.script().never_reads && !to.script().echoes &&
                       to.script().read_every == sched::Duration(0);
    if (Is({"resets"}) && from.end().reset_sent() && takes && !to.end().reset_sent()) {
      Require(to.received() >= from.end().peer()->arrived(),
              name + ": a reset destroyed bytes: " + counts);
    }
    // A FIN says that this is all there was.
    const TcpEnd* const served_at = from.end().peer();
    const bool broke = from.end().reset_sent() || (served_at != nullptr && served_at->broken());
    if (IsCalm() && to.saw_fin() && broke) {
      Require(from.finished(), name + ": a reset arrived as a FIN after " + counts);
    }
  }

  void JudgeBandwidth(const Peer& receiver, const std::string& name) {
    const auto most = static_cast<double>(plan_.options().bandwidth);
    if (most == 0) return;
    // What may pass at once, and what is moved in one go.
    const double spare = most / 10 + 1024 + static_cast<double>(plan_.kernel.pipe_bytes);
    const double seconds =
        std::chrono::duration<double>(receiver.ended_at() - receiver.started_at()).count();
    const auto received = static_cast<double>(receiver.received());
    Require(received <= most * seconds + spare,
            name + ": " + std::to_string(received) + " bytes in " + std::to_string(seconds) +
                " s, at most " + std::to_string(most) + " a second");
  }

  // A client's reset ends its session, whatever its backend does.
  void JudgeResetTime(const Peer& client, const std::string& name) {
    if (Is({"stops", "connects", "shortages", "limits", "stuck", "queues", "outages", kEnding})) {
      return;
    }
    const TcpEnd* const served_at = client.end().peer();
    if (served_at == nullptr || !served_at->reset_received()) return;
    JudgeClose(*served_at, served_at->reset_received_at(), name);
  }

  void JudgeClose(const TcpEnd& served_at, sched::Deadline due, const std::string& name) {
    due += plan_.options().reset_linger + Excused();
    if (served_at.closed_at() <= due || late_++ < host_.stalls()) return;
    const auto late = (served_at.closed_at() - due).count() / 1000;
    Fail(name + ": its session ended " + std::to_string(late) + " us late");
  }

  // When a FIN that came at one of the daemon's ends went out at the other; a FIN without one is
  // the daemon's own.
  static sched::Deadline PassedOn(const TcpEnd& from, const TcpEnd& to) {
    return from.fin_received_at() <= to.shut_down_at() ? to.shut_down_at() : sched::kNever;
  }

  // A session ends soon after what ends it.
  void JudgeTime(const Peer& client, const Peer& backend, const std::string& name) {
    const TcpEnd* const served_at = client.end().peer();
    if (Is({"stops", "connects", "shortages", "echo", "outages", "bad_headers", kEnding})) return;
    if (served_at == nullptr) return;
    sched::Deadline due = std::max(client.last_act(), backend.last_act());
    sched::Duration limit = plan_.options().idle_timeout;
    const TcpEnd* const backend_at = backend.end().peer();
    const sched::Deadline half_closed =
        std::min(PassedOn(*served_at, *backend_at), PassedOn(*backend_at, *served_at));
    if (half_closed != sched::kNever) {
      due = std::max(due, half_closed);
      limit = std::min(limit, plan_.options().half_close_timeout);
    }
    // Twice: what a receiver took since its sender was blocked is seen only when the limit is over,
    // and then counts as of now.
    due += 2 * limit;
    JudgeClose(*served_at, due, name);
  }

  // --- What an ending looked like (docs/endings.md).

  bool Waits(const Peer& client) const {
    return !client.saw_fin() && !client.saw_reset() && backends_.size() < clients_.size();
  }

  void Tell(Outcome& outcome) const {
    const Peer& client = *clients_.back();
    const bool alone = clients_.size() == 1;
    const Peer* const backend = alone && backends_.size() == 1 ? backends_.front().get() : nullptr;
    const Peer* const sender = plan_.route().is_local() ? &client : backend;
    outcome.client_saw = client_waits_ ? "waits" : WhatSaw(client, sender);
    outcome.backend_saw = backend != nullptr ? WhatSaw(*backend, &client) : kNobody;
    for (int i = 0; i < kEndReasons; ++i) {
      const auto reason = static_cast<EndReason>(i);
      // Beside a client that met a limit, others end by themselves.
      if (ended_by_[i] == 0 || (!alone && reason == EndReason::kIdleTimeout)) continue;
      outcome.logged += (outcome.logged.empty() ? "" : " ") + std::string(ToString(reason));
    }
    if (outcome.logged.empty()) outcome.logged = kNobody;
  }

  static std::string WhatSaw(const Peer& peer, const Peer* sender) {
    if (peer.left()) return kNobody;
    std::string saw;
    const bool waited = peer.script().reads_from == sched::Duration(0) &&
                        peer.ended_at() - peer.started_at() >= seconds(1);
    if (sender == nullptr && waited) saw = "waits 1s, then ";
    if (sender != nullptr && sender->sent() > 0) {
      saw = peer.received() == sender->sent() ? "all, " : "part, ";
    }
    return saw + (peer.saw_fin() ? "FIN" : peer.saw_reset() ? "RST" : "no end");
  }

  static constexpr const char* kEnding = "ending";
  static constexpr const char* kNobody = "—";
  static constexpr sched::Duration kSnapshot = seconds(3);
  static constexpr uint32_t kFirstBackend = 1000;

  const Plan& plan_;
  OneThreadHost host_;
  Network network_;
  SimKernel kernel_;
  ScriptedResolver resolver_;
  std::vector<std::unique_ptr<TcpListener>> listeners_;
  std::vector<std::unique_ptr<Peer>> clients_;
  std::vector<std::unique_ptr<Peer>> backends_;
  std::vector<std::unique_ptr<Peer>> checks_;    // of a backend that serves no session
  std::vector<std::vector<TcpEnd*>> served_by_;  // each backend's ends of what it accepted
  std::vector<const Peer*> promised_;  // the kernel had accepted them when the stop was asked for
  int clients_to_come_ = 0;
  PlannedMeter meter_;
  sched::Deadline short_since_ = sched::kNever;  // of memory
  const sched::Deadline began_ = host_.Now();
  Server* server_ = nullptr;
  bool started_ = false;
  bool refused_to_start_ = false;
  size_t reload_ = 0;  // the one asked for last
  bool stop_requested_ = false;
  bool ended_ = false;
  bool patience_over_ = false;
  int64_t served_ = 0;
  int64_t late_ = 0;  // sessions that a stall excuses: each keeps one fiber
  int64_t ended_by_[kEndReasons] = {};
  struct {
    int64_t ends = 0;
    int64_t up = 0;
    int64_t down = 0;
  } logged_;  // what the access log says
  bool client_waits_ = false;
  std::string failure_;
};

}  // namespace

Outcome RunPlan(const Plan& plan, bool keep_log) {
  auto world = std::make_unique<World>(plan, keep_log);
  const Outcome outcome = world->Run();
  // After a failure its threads stand somewhere in the daemon and cannot be ended.
  if (!outcome.failure.empty()) (void)world.release();
  return outcome;
}

}  // namespace parkway::sim
