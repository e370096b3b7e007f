// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/parking_lot.h"
#include "server/bounded_count.h"
#include "server/limits.h"
#include "server/notify.h"
#include "server/route_match.h"
#include "server/units.h"
#include "server/version.h"

namespace parkway {
namespace {

using netpoll::Conn;
using netpoll::IoResult;
using netpoll::IoStatus;

EndReason ConnectFailure(const IoResult& result) {
  if (result.status == IoStatus::kTimeout || result.os_error == ETIMEDOUT) {
    return EndReason::kConnectTimeout;
  }
  if (result.os_error == EADDRNOTAVAIL) return EndReason::kNoSourcePort;
  return result.os_error == ECONNREFUSED ? EndReason::kConnectRefused : EndReason::kConnectFailed;
}

// Where the client was going before a packet filter led it here. Empty: here, or nobody knows.
netpoll::Endpoint DestinationOf(Conn& client, bool transparent) {
  const netpoll::Endpoint here = netpoll::CompactEndpoint(client.local()).Expand();
  if (transparent) return here;
  const netpoll::Endpoint there =
      netpoll::CompactEndpoint(client.original_destination(here.family())).Expand();
  return there == here ? netpoll::Endpoint() : there;
}

}  // namespace

// --- Start.

Server::Server(const Config& config, const Platform& platform, int workers, int64_t max_conns,
               int64_t descriptors)
    : SessionOwner(platform.large_flows, {config.buffer_memory, Pipes(config, descriptors)},
                   netpoll::Kernel(platform.simulated), workers),
      config_(config),
      max_conns_(max_conns),
      descriptors_(descriptors),
      descriptors_per_client_(DescriptorsPerClient(config)),
      platform_(platform),
      unique_ids_(std::to_string(platform.host->WallNow() / 1'000'000) + "-"),
      own_addresses_(netpoll::Kernel(platform.simulated)),
      list_(workers),
      access_log_(platform.access_log == nullptr
                      ? nullptr
                      : std::make_unique<AccessLog>(platform.access_log, config.access_log_format,
                                                    workers)),
      changed_(platform.host->NewEvent()),
      conn_rate_(config.max_conn_rate),
      memory_(config.memory_budget, platform.memory, platform.report) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config,
                                                      const Platform& platform) {
  const int workers = config.workers > 0 ? config.workers : sched::Scheduler::DefaultWorkerCount();
  const int64_t descriptors =
      platform.descriptors > 0 ? platform.descriptors : RaiseDescriptorLimit();
  const absl::StatusOr<int64_t> max_conns = MaxConns(config, workers, descriptors);
  if (!max_conns.ok()) return max_conns.status();
  std::unique_ptr<Server> server(new Server(config, platform, workers, *max_conns, descriptors));
  auto poller = netpoll::Poller::Create(
      {.shards = workers, .host = platform.host, .simulated = platform.simulated});
  if (!poller.ok()) return poller.status();
  server->poller_ = *std::move(poller);
  if (config.embedded_backends) {
    if (const absl::Status bound = server->BindBuiltIn(); !bound.ok()) return bound;
  }
  if (const absl::Status bound = server->Apply(server->config_); !bound.ok()) return bound;
  server->StartWorkers();
  return server;
}

// Two echo backends of our own, which are known by their addresses.
absl::Status Server::BindBuiltIn() {
  Route echo = config_.routes.front();
  echo.name = "built-in";
  echo.mode = Mode::kEcho;
  built_in_ = NewRoute(echo, {}, nullptr);
  for (int i = 0; i < 2; ++i) {
    Plan plan = {.key = "built-in " + std::to_string(i),
                 .at = *netpoll::Endpoint::Parse("127.0.0.1:0"),
                 .name = "built-in backend",
                 .options = {},
                 .routes = {built_in_.get()},
                 .built_in = true};
    if (echo.options.send_proxy != SendProxy::kOff) {
      plan.options.accept_proxy = AcceptProxy::kAny;
      plan.options.trusted = *BlockList::Parse("127.0.0.1");
    }
    if (const absl::Status bound = Open(plan, frontends_, doors_); !bound.ok()) return bound;
    const netpoll::Endpoint& at = doors_.back()->socket.at;
    config_.routes.front().backends.push_back({.text = at.ToString(), .at = {at}});
  }
  return absl::OkStatus();
}

void Server::StartWorkers() {
  sched::Scheduler::Options options;
  options.event_sources = poller_->event_sources();
  options.host = platform_.host;
  options.fiber_stack_bytes = config_.stack_size;
  options.spin = config_.spin;
  options.stall_after = config_.stall_report;
  options.on_stall = [this](const sched::StallReport& stall) { Report(sched::ToString(stall)); };
  if (config_.pin_cpus) options.cpus = sched::Scheduler::AllowedCpus();
  // Room costs nothing: it is a number to which a count is compared. A route that is replaced
  // counts twice for a while, and so all may; and each name, for its most addresses.
  constexpr int64_t kReloadRoom = 1024 * static_cast<int64_t>(kFoundMax);
  fibers_max_ = 2 * Fibers() + kReloadRoom;
  // Beyond sessions and those: on each worker ends that are not counted yet, a handshake that has
  // just begun its session, and who hands log lines on; and the server's own.
  options.fiber_count_max = descriptors_per_client_ * max_conns_ + fibers_max_ +
                            3 * static_cast<int64_t>(options.event_sources.size()) + 64;
  scheduler_ = std::make_unique<sched::Scheduler>(options);
  if (access_log_ != nullptr && config_.access_log_progress > sched::Duration(0)) {
    const bool spawned = scheduler_->SpawnOn(0, [this] { LogProgress(); });
    PARKWAY_CHECK(spawned, 0);
  }
  Watch(watches_);
  StartDoors(0);
  Settle({});
}

// Each door accepts in a fiber, and may serve a client beyond max_conns when it leaves; each
// backend may be checked in one; each name is asked for in one.
int64_t Server::Fibers() const {
  int64_t count = (1 + descriptors_per_client_) * static_cast<int64_t>(doors_.size());
  count += static_cast<int64_t>(watches_.size() + retired_watches_.size());
  for (const auto& route : routes_) count += route->fibers();
  for (const auto& route : retired_) count += route->checks_running();
  return count;
}

void Server::StartDoors(size_t first) {
  doors_open_.fetch_add(static_cast<int>(doors_.size() - first), std::memory_order_seq_cst);
  for (size_t i = first; i < doors_.size(); ++i) {
    Door* const door = doors_[i].get();
    const bool spawned = scheduler_->SpawnOn(door->worker, [this, door] { ServeDoor(*door); });
    PARKWAY_CHECK(spawned, door->worker);
  }
}

Server::~Server() {
  if (scheduler_ != nullptr) return;
  for (const auto& door : doors_) netpoll::CloseBound(poller_->kernel(), door->socket);
}

// Where it accepts, or any route (nullptr), with the ports the kernel chose.
std::vector<std::string> Server::Addresses(const ServedRoute* route) const {
  std::vector<std::string> found;
  const Frontend* last = nullptr;
  for (const auto& door : doors_) {
    sched::MutexLock lock(door->mu);
    const bool asked = route == nullptr ? door->frontend->listening.takes_place
                                        : std::find(door->routes.begin(), door->routes.end(),
                                                    route) != door->routes.end();
    if (asked && door->frontend != last) found.push_back(door->socket.at.ToString());
    last = door->frontend;
  }
  return found;
}

std::string Server::DescribeRoutes() const {
  constexpr size_t kShown = 20;
  std::string text = "  listening on";
  for (const std::string& at : Addresses(nullptr)) text += " " + at;
  text += "\n";
  const Route& last = routes_.back()->config();
  if (config_.routes.size() == 1 && last.name == kDefaultRoute && !last.to_original_dst()) {
    if (last.is_local()) return text;
    text += "  backends    ";
    for (const Backend& backend : last.backends) text += " " + FormatBackend(backend);
    return text + (built_in_ != nullptr ? " (built-in echo)\n" : "\n");
  }
  for (size_t i = 0; i < std::min(routes_.size(), kShown); ++i) {
    Route shown = routes_[i]->config();
    shown.listen.clear();
    for (const std::string& at : Addresses(routes_[i].get())) shown.listen.push_back({at, {}});
    text += "  route        " + FormatRoute(shown, config_.defaults) + "\n";
  }
  if (routes_.size() > kShown) {
    text += "  and          " + std::to_string(routes_.size() - kShown) + " more routes\n";
  }
  return text;
}

std::string Server::Banner() const {
  const Mode mode = ModeOf(config_.routes);
  const RouteOptions& defaults = config_.defaults;
  std::string text = "parkway " + std::string(kVersion) + ": " + std::string(ToString(mode)) +
                     ", " + std::to_string(scheduler_->worker_count()) + " workers" +
                     (config_.pin_cpus ? ", pinned" : "") + "\n" + DescribeRoutes();
  text += "  limits       " + std::to_string(max_conns_) + " connections (" +
          std::to_string(descriptors_) + " open files), " +
          (memory_.is_set() ? "memory " + InMebibytes(memory_.bytes()) + ", " : "") + "connect " +
          FormatDuration(defaults.connect_timeout) + ", idle " +
          FormatDuration(defaults.idle_timeout) + ", half-close " +
          FormatDuration(defaults.half_close_timeout) + ", drain " +
          FormatDuration(config_.drain_timeout) + "\n";
  const netpoll::Endpoint& last = doors_.back()->socket.at;
  const bool answers = (mode == Mode::kEcho || built_in_ != nullptr) &&
                       doors_.back()->frontend->options.accept_proxy == AcceptProxy::kOff;
  if (!last.is_unix() && answers) {
    const std::string at = last.ToString();
    std::string host = last.is_any() ? "127.0.0.1" : at.substr(0, at.rfind(':'));
    if (host.front() == '[') host = host.substr(1, host.size() - 2);  // bash wants no brackets
    text += "  try          bash -c 'exec 3<>/dev/tcp/" + host + "/" + std::to_string(last.port()) +
            "; echo hello >&3; head -n1 <&3'\n";
  }
  return text;
}

// --- Accepting.

void Server::ServeDoor(Door& door) {
  netpoll::Listener listener(*poller_, door.socket,
                             [&](const IoResult& why) { ReportPause(door, why); });
  {
    sched::MutexLock lock(doors_mu_);
    door.listener = &listener;
  }
  while (Accepts(door)) {
    Conn client;
    netpoll::CompactEndpoint peer;
    const IoResult accepted = listener.Accept(client, &peer);
    if (!accepted.ok()) {
      PARKWAY_CHECK(accepted.status == IoStatus::kTimeout, accepted.os_error);  // StopWaiting
      break;
    }
    const SessionFacts facts = FactsOf(peer, door);
    const Entrance entrance = AdmitInTurn(peer, door);
    if (entrance.refused == EndReason::kNone) {
      Begin(std::move(client), facts, entrance, door);
    } else {
      TurnAway(client, facts, /*arrival=*/nullptr, entrance, door);
    }
  }
  {
    sched::MutexLock lock(doors_mu_);
    door.listener = nullptr;
  }
  ServeQueue(listener, door);
  LeaveTogether(*door.frontend);
  ServeQueue(listener, door);  // what came while others emptied theirs
  listener.Close();
  door.frontend->sockets.fetch_sub(1, std::memory_order_release);  // a reload may bind it anew
  AwaitHandshakes(door);
  {
    sched::MutexLock lock(doors_mu_);
    door.closed = true;  // from here on a reload may destroy it
  }
  doors_open_.fetch_sub(1, std::memory_order_seq_cst);
  changed_->Set();
}

// Those the kernel has accepted already are served too, as long as there is room: at most a queue's
// worth, since under load more come all the time.
void Server::ServeQueue(netpoll::Listener& listener, Door& door) {
  const int most = door.frontend->options.backlog;
  Listening& listening = door.frontend->listening;
  for (int i = 0; i < most && HasMemory() && TakePlace(door); ++i) {
    Conn client;
    netpoll::CompactEndpoint peer;
    if (!listener.TryAccept(client, &peer).ok()) return LeavePlace(listening);
    const SessionFacts facts = FactsOf(peer, door);
    const Entrance entrance = Admit(peer, door);
    if (entrance.refused == EndReason::kNone) {
      Begin(std::move(client), facts, entrance, door);
    } else {
      LeavePlace(listening);
      TurnAway(client, facts, /*arrival=*/nullptr, entrance, door);
    }
  }
}

bool Server::HasMemory() { return !memory_.is_set() || memory_.Admits(sched::RoundTime()); }

// A reuseport socket that closes before the others resets the connections in its queue, so nobody
// closes until everybody's queue is empty.
void Server::LeaveTogether(Frontend& frontend) {
  sched::ParkingLot& lot = sched::CurrentParkingLot();
  std::atomic<int>& accepting = frontend.accepting;
  if (accepting.fetch_sub(1, std::memory_order_seq_cst) == 1) {
    lot.WakeAll(&accepting);
    return;
  }
  constexpr auto still = [](void* count) {
    return static_cast<std::atomic<int>*>(count)->load(std::memory_order_seq_cst) > 0;
  };
  while (still(&accepting)) lot.Wait(&accepting, sched::WaitReason::kLock, still, &accepting);
}

// With its turn, for which it may have waited while a reload went by.
Server::Entrance Server::AdmitInTurn(const netpoll::CompactEndpoint& peer, Door& door) {
  Entrance entrance = Admit(peer, door);
  if (entrance.refused != EndReason::kNone) return entrance;
  const sched::Deadline before = sched::RoundTime();
  entrance.refused = AwaitTurn(door);
  const bool waited = sched::RoundTime() != before;
  if (entrance.refused != EndReason::kNone || !waited) return entrance;
  if (entrance.route == nullptr || HasRoute(entrance.route, door)) return entrance;
  Leave(entrance, peer);
  entrance = Admit(peer, door);
  if (entrance.refused != EndReason::kNone) LeavePlace(door.frontend->listening);
  return entrance;
}

bool Server::HasRoute(const ServedRoute* route, Door& door) {
  sched::MutexLock lock(door.mu);
  return std::find(door.routes.begin(), door.routes.end(), route) != door.routes.end();
}

// What a client waits for that is let in: kNone, or the limit that was reached, where it does not
// wait.
EndReason Server::AwaitTurn(const Door& door) {
  Listening& listening = door.frontend->listening;
  if (!listening.takes_place) return EndReason::kNone;
  if (memory_.is_set() && !AwaitMemory(door)) return EndReason::kMemoryBudget;
  const bool has_rate = listening.rate.is_set();
  if (has_rate && !AwaitRate(listening.rate, door)) return EndReason::kTooFast;
  if (conn_rate_.is_set() && !AwaitRate(conn_rate_, door)) {
    if (has_rate) listening.rate.GiveBack();
    return EndReason::kTooFast;
  }
  return AwaitPlace(door) ? EndReason::kNone : EndReason::kTooMany;
}

// Until `wait`, of an instant, says 0 for it and not how long to wait. In naps, since no event
// tells when, and the daemon may drain. False: the client does not wait, or a reload took its
// address away.
template <class Wait>
bool Server::AwaitInNaps(const Door& door, Wait wait) const {
  const bool resets = door.frontend->options.overload == Overload::kReset;
  for (sched::Deadline now = sched::RoundTime();; now = sched::Now()) {
    const sched::Duration nap = wait(now);
    if (nap == sched::Duration(0)) return true;
    if (resets) return false;
    if (!Accepts(door)) return !door.frontend->leaves.load(std::memory_order_seq_cst);
    sched::SleepFor(nap);
  }
}

bool Server::AwaitMemory(const Door& door) {
  return AwaitInNaps(door, [this](sched::Deadline now) {
    return memory_.Admits(now) ? sched::Duration(0) : MemoryBudget::kEvery;
  });
}

// Nobody reserves a turn: who resets clients instead of waiting has the same chance.
bool Server::AwaitRate(RateLimit& rate, const Door& door) const {
  constexpr sched::Duration kNap = std::chrono::milliseconds(20);
  return AwaitInNaps(door, [&](sched::Deadline now) {
    return rate.Take(now) ? sched::Duration(0)
                          : std::clamp<sched::Duration>(rate.When(now) - now, kNap / 20, kNap);
  });
}

// A client takes its place after it was accepted: if a door took one before, those that wait for a
// client would hold the places that the clients of other doors need. So at max_conns each door
// holds one client that is not served yet.
bool Server::AwaitPlace(const Door& door) {
  struct Wanted {
    const Server* self;
    const Door* door;
  } wanted{this, &door};
  constexpr auto full = [](void* arg) {
    const auto& [self, at] = *static_cast<Wanted*>(arg);
    const Listening& here = at->frontend->listening;
    const bool is_full = self->clients_.load(std::memory_order_seq_cst) >= self->max_conns_ ||
                         IsAt(here.max_conns, here.clients.load(std::memory_order_seq_cst));
    return is_full && self->Accepts(*at);
  };
  while (!TakePlace(door)) {
    if (door.frontend->leaves.load(std::memory_order_seq_cst)) return false;
    if (!Accepts(door)) {  // beyond the limit, once for each door of a daemon that drains
      clients_.fetch_add(1, std::memory_order_seq_cst);
      door.frontend->listening.clients.fetch_add(1, std::memory_order_seq_cst);
      return true;
    }
    if (door.frontend->options.overload == Overload::kReset) return false;
    sched::CurrentParkingLot().Wait(&clients_, sched::WaitReason::kLock, full, &wanted);
  }
  return true;
}

// False when the daemon drains, or a reload took the address away.
bool Server::Accepts(const Door& door) const {
  return phase_.load(std::memory_order_seq_cst) == Phase::kServing &&
         !door.frontend->leaves.load(std::memory_order_seq_cst);
}

// False at max_conns or listener_max_conns. A trial run's own backends take no place.
bool Server::TakePlace(const Door& door) {
  Listening& listening = door.frontend->listening;
  if (!listening.takes_place) return true;
  if (!TakeOne(listening.max_conns, listening.clients)) return false;
  if (TakeOne(max_conns_, clients_)) return true;
  // Who found this one taken waits for a place among all, too, and is woken when one is left.
  listening.clients.fetch_sub(1, std::memory_order_seq_cst);
  return false;
}

void Server::LeavePlace(Listening& listening) {
  if (!listening.takes_place) return;
  const int64_t most = listening.max_conns;
  const bool was_full = clients_.fetch_sub(1, std::memory_order_seq_cst) >= max_conns_;
  // From here on `listening` may be gone.
  const int64_t before = listening.clients.fetch_sub(1, std::memory_order_seq_cst);
  if (was_full || IsAt(most, before)) sched::CurrentParkingLot().WakeAll(&clients_);
}

// --- Sessions.

bool Server::IsTrusted(const netpoll::CompactEndpoint& peer, Door& door) {
  if (peer.family() == AF_UNIX) return true;  // the permissions of the path said so
  sched::MutexLock lock(door.mu);
  return door.trusted != nullptr && door.trusted->Contains(peer.Expand());
}

// The first route that may serve the client and has a place for its source counts it until it is
// heard: so who is refused whatever it says takes no other place meanwhile. Else why the last one
// has none.
Server::Entrance Server::EnterUnheard(const netpoll::CompactEndpoint& client, const Door& door) {
  Entrance entrance = {.refused = EndReason::kNoRoute, .unheard = true};
  for (ServedRoute* const route : door.routes) {
    if (!MayServe(route->config(), client)) continue;
    entrance.refused = route->admission().EnterUnheard(client);
    if (entrance.refused != EndReason::kNone) continue;
    route->Hold();
    entrance.route = route;
    entrance.entered = true;
    break;
  }
  return entrance;
}

Server::Entrance Server::Admit(const netpoll::CompactEndpoint& peer, Door& door) {
  if (door.frontend->options.accept_proxy != AcceptProxy::kOff) {
    const bool is_trusted = IsTrusted(peer, door);
    return {.refused = is_trusted ? EndReason::kNone : EndReason::kUntrusted, .unheard = true};
  }
  static const ClientHello* const kNotAsked = new ClientHello();
  sched::MutexLock lock(door.mu);
  if (!door.hears_hellos) return Enter(peer, *kNotAsked, door);
  return EnterUnheard(peer, door);
}

void Server::Begin(Conn&& client, const SessionFacts& facts, const Entrance& entrance, Door& door) {
  if (entrance.unheard) return StartHandshake(std::move(client), facts, entrance, door);
  StartSession(std::move(client), facts, /*arrival=*/nullptr, *entrance.route, door);
}

// The first route that serves the client has it, also to refuse it.
Server::Entrance Server::Enter(const netpoll::CompactEndpoint& client, const ClientHello& hello,
                               Door& door) {
  for (ServedRoute* const route : door.routes) {
    if (!Serves(route->config(), client, hello)) continue;
    route->Hold();
    const EndReason refused = route->admission().Enter(client, sched::RoundTime());
    return {.refused = refused, .route = route, .entered = refused == EndReason::kNone};
  }
  return {.refused = EndReason::kNoRoute};
}

void Server::Leave(const Entrance& entrance, const netpoll::CompactEndpoint& client) {
  if (entrance.route == nullptr) return;
  Admission& admission = entrance.route->admission();
  if (entrance.entered && entrance.unheard) admission.LeaveUnheard(client);
  if (entrance.entered && !entrance.unheard) admission.Leave(client);
  entrance.route->Release();
}

SessionFacts Server::FactsOf(const netpoll::CompactEndpoint& peer, const Door& door) {
  SessionFacts facts;
  facts.id = static_cast<uint64_t>(served_.fetch_add(1, std::memory_order_relaxed)) + 1;
  facts.client = peer;
  facts.listener = &door.frontend->listening;
  facts.began = sched::RoundTime();
  return facts;
}

void Server::TurnAway(Conn& client, const SessionFacts& facts, const SessionArrival* arrival,
                      const Entrance& entrance, const Door& door) {
  list_.CountUnserved(entrance.refused);
  client.Abort();
  LogTurnedAway(facts, arrival, entrance, door);
  Leave(entrance, facts.client);
}

// A client that was read from already stays with the worker whose poller knows it.
void Server::StartSession(Conn&& client, const SessionFacts& facts,
                          std::unique_ptr<SessionArrival> arrival, ServedRoute& route, Door& door) {
  sessions_.fetch_add(1, std::memory_order_seq_cst);
  const bool is_known = arrival != nullptr;
  const bool tells = !route.local && route.config().options.send_proxy != SendProxy::kOff;
  if (is_known && !tells) arrival->header.reset();
  Session::Pointer session = Session::New(route, std::move(client), facts, std::move(arrival));
  const int place =
      is_known ? list_.PlaceHere(session.get()) : list_.Place(session.get(), door.turn++);
  const bool started = place == sched::CurrentWorkerIndex()
                           ? sched::Spawn(session->start())
                           : scheduler_->SpawnOn(place, session->start());
  PARKWAY_CHECK(started, sessions_.load());  // fiber_count_max has room for every client's halves
  (void)session.release();                   // until Ended
}

// Both connections live where this fiber starts, if nobody has read from the client yet.
void Server::Serve(Session& session) {
  if (session.arrival() == nullptr) session.client().MoveToThisWorker(*poller_);
  if (!session.is_local()) session.backend() = Conn(*poller_);
  list_.Add(&session);
  const EndReason failure = session.is_local() ? EndReason::kNone : ConnectBackend(session);
  if (failure != EndReason::kNone) return session.Refuse(failure);
  Log(AccessEvent::kStart, session);
  session.Run();
}

void Server::Ended(Session& session) {
  auto& route = static_cast<ServedRoute&>(session.route());
  Listening& listening = *session.facts().listener;
  const netpoll::CompactEndpoint client = session.facts().client;
  list_.Remove(&session);
  Log(AccessEvent::kEnd, session);
  route.Leave(session);
  Session::Pointer(&session).reset();
  route.admission().Leave(client);
  route.Release();
  LeavePlace(listening);  // who takes it must not find its source full any more
  CountOut();
}

void Server::CountOut() {
  const int64_t before = sessions_.fetch_sub(1, std::memory_order_seq_cst);
  if (before == 1 && phase_.load(std::memory_order_seq_cst) != Phase::kServing) changed_->Set();
}

// A backend that cannot be connected to is passed over. kNone when connected, else why the last one
// was not.
EndReason Server::ConnectBackend(Session& session) {
  auto& route = static_cast<ServedRoute&>(session.route());  // StartSession gave it one of ours
  if (route.config().to_original_dst()) return ConnectOriginal(session);
  Asking asking = route.AskFor(session);
  EndReason failure = EndReason::kNoBackend;
  for (int attempt = 0; attempt <= route.config().options.connect_retries; ++attempt) {
    const sched::Deadline asked = sched::RoundTime();
    const EndReason refused = route.Admit(session, asking);
    session.extra()->queued += SessionFacts::SpanOf(sched::RoundTime() - asked);
    if (refused != EndReason::kNone) return refused == EndReason::kNoBackend ? failure : refused;
    const Upstream& backend = *session.upstream();
    const IoResult result = ConnectTo(session, backend.at());
    if (result.ok()) {
      route.NoteConnected(session);
      return session.Connected() ? EndReason::kNone : session.reason();
    }
    if (result.status == IoStatus::kClosed) return session.reason();  // End()
    failure = ConnectFailure(result);
    ReportBackendFailure(route, backend.name(), result);
    route.NoteFailed(session, asking, result);
  }
  return failure;
}

// Once, and tells it of the client.
IoResult Server::ConnectTo(Session& session, const netpoll::Endpoint& to,
                           const std::function<void()>* begun) {
  auto& route = static_cast<ServedRoute&>(session.route());
  Session::Extra& extra = *session.extra();
  const sched::Deadline since = sched::RoundTime();
  ++extra.connects;
  const sched::Deadline deadline =
      sched::After(sched::Now(), route.config().options.connect_timeout);
  const Caller caller = {.client = session.facts().client, .begun = begun};
  IoResult result = route.connector().Connect(session.backend(), to, deadline, caller);
  if (result.ok()) result = Introduce(session, to, deadline);
  extra.connect = SessionFacts::SpanOf(sched::RoundTime() - since);
  if (result.ok() && extra.arrival != nullptr) extra.arrival->header.reset();
  return result;
}

// Where the client was going, if it may. Nothing is kept of destinations: whether one fails is not
// known to the next client.
EndReason Server::ConnectOriginal(Session& session) {
  auto& route = static_cast<ServedRoute&>(session.route());
  const SessionFacts& facts = session.facts();
  std::unique_ptr<SessionArrival>& arrival = session.extra()->arrival;
  if (arrival == nullptr) arrival = std::make_unique<SessionArrival>();
  arrival->destination = std::make_unique<SessionArrival::Destination>();
  SessionArrival::Destination& destination = *arrival->destination;
  std::string& name = destination.name;
  const netpoll::Endpoint to = DestinationOf(session.client(), facts.listener->transparent);
  if (to.family() == AF_UNSPEC) return EndReason::kDstLoop;
  name = to.ToString();
  if (own_addresses_.Has(to)) return EndReason::kDstLoop;
  if (!route.config().allow_dst.Allow(to)) return EndReason::kDstDenied;
  using End = OwnConnections::End;
  const netpoll::CompactEndpoint there(to);
  const bool has_proxy = arrival->proxy.family() != AF_UNSPEC;
  const netpoll::CompactEndpoint from = has_proxy ? arrival->proxy : facts.client;
  if (!own_connections_.Enter(End::kAccepted, from, there, destination.accepted)) {
    return EndReason::kDstLoop;
  }
  // Before it comes back and is looked for. A client's port may be the one that the kernel chose
  // for another connection from its address.
  bool comes_back = false;
  const std::function<void()> begun = [&] {
    if (route.config().options.source_is_client) return;
    const netpoll::CompactEndpoint here(session.backend().local());
    comes_back = !own_connections_.Enter(End::kMade, here, there, destination.made);
  };
  const IoResult result = ConnectTo(session, to, &begun);
  if (result.status == IoStatus::kClosed) return session.reason();  // End()
  if (comes_back) return EndReason::kDstLoop;
  if (!result.ok()) {
    ReportBackendFailure(route, name, result);
    return ConnectFailure(result);
  }
  return session.Connected() ? EndReason::kNone : session.reason();
}

// A backend that is down fails every client.
void Server::ReportBackendFailure(const ServedRoute& route, const std::string& backend,
                                  const IoResult& result) {
  const int64_t failures = backend_failures_.Note(sched::RoundTime());
  if (failures == 0) return;
  const std::string reason(result.ToStatus("backend " + backend).message());
  Report(route.Title() + reason + " (" + std::to_string(failures) + " failed connects so far)");
}

// Descriptors or memory have run out, or the kernel does not permit it.
void Server::ReportPause(const Door& door, const IoResult& why) {
  const int64_t pauses = pauses_.Note(sched::RoundTime());
  if (pauses == 0) return;
  Report(door.frontend->listening.name + " accepts no clients for now: " + why.Reason() + " (" +
         std::to_string(pauses) + " pauses so far)");
}

// --- The end.

void Server::RequestStop() {
  stop_requests_.fetch_add(1, std::memory_order_seq_cst);
  changed_->Set();
}

void Server::RequestReload() {
  reload_requested_.store(true, std::memory_order_seq_cst);
  changed_->Set();
}

bool Server::Run(const std::function<absl::StatusOr<Config>()>& read) {
  NotifyServiceManager("READY=1");
  while (stop_requests_.load(std::memory_order_seq_cst) == 0) {
    if (reload_requested_.exchange(false, std::memory_order_seq_cst)) Reload(read);
    (void)changed_->WaitUntil(sched::kNever);
  }
  NotifyServiceManager("STOPPING=1");
  BeginDrain();
  const sched::Deadline deadline = sched::After(platform_.host->Now(), config_.drain_timeout);
  const bool drained = AwaitDrained(deadline, 2);
  if (!drained) EndSessions();
  scheduler_->DrainUntil(sched::kNever);
  return drained;
}

bool Server::AwaitDrained(sched::Deadline deadline, int stop_requests) {
  const auto done = [this] {
    return doors_open_.load(std::memory_order_seq_cst) == 0 &&
           sessions_.load(std::memory_order_seq_cst) == 0;
  };
  bool in_time = true;
  while (!done() && in_time && stop_requests_.load(std::memory_order_seq_cst) < stop_requests) {
    in_time = changed_->WaitUntil(deadline);
  }
  return done();
}

void Server::BeginDrain() {
  phase_.store(Phase::kDraining, std::memory_order_seq_cst);
  const bool spawned = scheduler_->SpawnOn(0, [this] {
    sched::CurrentParkingLot().WakeAll(&clients_);
    for (const auto& watch : watches_) watch->Stop();
    for (const auto& route : routes_) route->StopChecks();
    sched::MutexLock lock(doors_mu_);
    if (progress_timer_ != nullptr) progress_timer_->Close();
    for (const auto& door : doors_) {
      if (door->listener != nullptr) door->listener->StopWaiting();
    }
  });
  PARKWAY_CHECK(spawned, 0);
}

void Server::EndSessions() {
  phase_.store(Phase::kClosing, std::memory_order_seq_cst);
  const bool spawned = scheduler_->SpawnOn(0, [this] {
    // Again and again, for sessions that begin meanwhile.
    do {
      EndHandshakes();
      list_.EndAll(EndOfAll());
      sched::SleepFor(std::chrono::milliseconds(10));
    } while (doors_open_.load(std::memory_order_seq_cst) > 0 || sessions() > 0);
  });
  PARKWAY_CHECK(spawned, 0);
}

EndReason Server::EndOfAll() const {
  const bool stopped = stop_requests_.load(std::memory_order_seq_cst) > 1;
  return stopped ? EndReason::kStop : EndReason::kDrain;
}

std::string Server::Summary() const {
  std::string text = "parkway: served " + std::to_string(served_.load()) + " connections";
  for (int i = 1; i < kEndReasons; ++i) {
    const auto reason = static_cast<EndReason>(i);
    if (list_.ended(reason) > 0) {
      text += std::string(", ") + ToString(reason) + " " + std::to_string(list_.ended(reason));
    }
  }
  return text + "\n";
}

}  // namespace parkway
