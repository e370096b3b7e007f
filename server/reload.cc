// SPDX-License-Identifier: Apache-2.0
//
// Server: from one configuration to the next, the first of which is made from nothing.
#include <algorithm>
#include <ctime>
#include <iterator>
#include <map>
#include <utility>

#include "sched/check.h"
#include "sched/parking_lot.h"
#include "server/limits.h"
#include "server/notify.h"
#include "server/route_match.h"
#include "server/server.h"

namespace parkway {
namespace {

netpoll::ListenOptions ListenOptionsOf(const RouteOptions& options) {
  return {.backlog = options.backlog,
          .fastopen = options.fastopen,
          .defer_accept = options.defer_accept,
          .mptcp = options.mptcp,
          .transparent = options.transparent,
          .socket = SocketOptionsOf(options, options.keepalive_idle)};
}

// What a reload can not change. Flags, one "--name=value" each.
std::vector<std::string> FixedFlags(Config config) {
  config.routes.clear();
  config.embedded_backends = true;
  config.defaults = RouteOptions();
  config.drain_timeout = Config().drain_timeout;
  return ToFlags(config);
}

// systemd wants to know when a reload began (sd_notify(3)).
std::string Reloading() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t us = int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
  return "RELOADING=1\nMONOTONIC_USEC=" + std::to_string(us);
}

// "3 routes, 1 changed, 1 new, 1 gone"
std::string Changes(size_t routes, size_t changed, size_t fresh, size_t gone) {
  std::string text = std::to_string(routes) + (routes == 1 ? " route" : " routes");
  const auto add = [&](size_t count, const char* what) {
    if (count > 0) text += ", " + std::to_string(count) + what;
  };
  add(changed, " changed");
  add(fresh, " new");
  add(gone, " gone");
  return text + (changed + fresh + gone == 0 ? ", none changed" : "");
}

}  // namespace

void Server::Reload(const std::function<absl::StatusOr<Config>()>& read) {
  NotifyServiceManager(Reloading());
  absl::Status status = absl::InternalError("nothing to read");
  if (read != nullptr) {
    const absl::StatusOr<Config> next = read();
    if (stop_requests_.load(std::memory_order_seq_cst) > 0) return;
    status = next.status();
    if (status.ok()) status = CheckReload(*next);
    if (status.ok()) status = Apply(*next);
  }
  if (!status.ok()) {
    Report("reload failed, nothing has changed: " + std::string(status.message()));
  }
  NotifyServiceManager("READY=1");
}

absl::Status Server::CheckReload(const Config& next) const {
  if (config_.embedded_backends || next.embedded_backends) {
    return absl::FailedPreconditionError("a trial run has nothing to reload");
  }
  if (DescriptorsPerClient(next) > descriptors_per_client_) {
    return absl::FailedPreconditionError(
        "the daemon was started for echo alone, and has counted its descriptors so; restart it");
  }
  return absl::OkStatus();
}

std::unique_ptr<ServedRoute> Server::NewRoute(const Route& route, const ServedRoute::Names& names,
                                              ServedRoute* before) {
  RouteOwner& me = *this;
  return std::make_unique<ServedRoute>(route, me, WorkerCount(), names, before);
}

// First all that can fail, then all that cannot.
absl::Status Server::Apply(const Config& next) {
  Forget();
  Watches watches = NewWatches(next);
  if (scheduler_ != nullptr) {
    if (const absl::Status status = CheckFibers({}, {}, watches.size()); !status.ok())
      return status;
    Watch(watches);
  }
  const absl::Status status = Change(next, watches);
  // What it would have been asked for is not known.
  if (!status.ok() && scheduler_ != nullptr) Retire(std::move(watches));
  return status;
}

absl::Status Server::Change(const Config& next, Watches& watches) {
  // By name, those that were there before.
  std::map<std::string, std::unique_ptr<ServedRoute>*> before;
  for (auto& route : routes_) before[route->config().name] = &route;
  Routes fresh;
  std::vector<ServedRoute*> order;  // all that there will be
  size_t changed = 0;
  for (const Route& route : next.routes) {
    const auto found = before.find(route.name);
    ServedRoute* const old = found == before.end() ? nullptr : found->second->get();
    if (old != nullptr && old->config() == route) {
      order.push_back(old);
      before.erase(found);
      continue;
    }
    fresh.push_back(NewRoute(route, NamesOf(route, watches), old));
    order.push_back(fresh.back().get());
    if (old != nullptr) ++changed;
  }
  const std::vector<Plan> plans = Plans(order);
  Frontends frontends;
  Doors doors;
  absl::Status status = CheckConnects(fresh);
  for (const Plan& plan : plans) {
    if (!status.ok()) break;
    if (FrontendOf(plan) == nullptr) status = Open(plan, frontends, doors);
  }
  if (status.ok()) status = CheckFibers(fresh, doors, watches.size());
  if (!status.ok()) {
    for (const auto& door : doors) netpoll::CloseBound(poller_->kernel(), door->socket);
    return status;
  }
  const size_t gone = before.size() - changed;
  const size_t begun = fresh.size() - changed;
  // Nothing fails from here on.
  std::vector<ServedRoute*> begun_routes;
  for (const auto& route : fresh) begun_routes.push_back(route.get());
  Routes retired;
  for (auto& [name, route] : before) retired.push_back(std::move(*route));
  Routes kept = std::exchange(routes_, {});
  kept.insert(kept.end(), std::make_move_iterator(fresh.begin()),
              std::make_move_iterator(fresh.end()));
  for (ServedRoute* const route : order) {
    const auto it = std::find_if(kept.begin(), kept.end(),
                                 [&](const auto& other) { return other.get() == route; });
    routes_.push_back(std::move(*it));
  }
  const size_t first_new = doors_.size();
  {
    sched::MutexLock lock(doors_mu_);
    std::move(frontends.begin(), frontends.end(), std::back_inserter(frontends_));
    std::move(doors.begin(), doors.end(), std::back_inserter(doors_));
  }
  std::move(watches.begin(), watches.end(), std::back_inserter(watches_));
  for (const auto& route : retired) Unsubscribe(*route);
  for (ServedRoute* const route : begun_routes) Subscribe(*route);
  Give(plans);
  own_addresses_.Set(AddressesThatStay());
  if (scheduler_ == nullptr) return absl::OkStatus();  // the first one: StartWorkers goes on
  StartDoors(first_new);
  Settle(std::move(retired));
  Retire(TakeUnused());
  ReportFixed(next);
  config_.routes = next.routes;
  config_.defaults = next.defaults;
  config_.drain_timeout = next.drain_timeout;
  Report("reloaded: " + Changes(routes_.size(), changed, begun, gone));
  return absl::OkStatus();
}

// The one that serves there; one that leaves does not.
Server::Frontend* Server::FrontendOf(const Plan& plan) const {
  const auto is_it = [&](const auto& frontend) {
    return frontend->key == plan.key && !frontend->leaves.load(std::memory_order_relaxed);
  };
  const auto found = std::find_if(frontends_.begin(), frontends_.end(), is_it);
  return found == frontends_.end() ? nullptr : found->get();
}

// Whether this machine grants what their connections to backends are to have.
absl::Status Server::CheckConnects(const Routes& fresh) const {
  for (const auto& route : fresh) {
    const absl::Status status = route->connector().Check(poller_->kernel(), route->config());
    if (status.ok()) continue;
    const std::string title = route->Title();
    return absl::Status(status.code(),
                        (title.empty() ? "--" : title) + std::string(status.message()));
  }
  return absl::OkStatus();
}

absl::Status Server::CheckFibers(const Routes& fresh, const Doors& doors, size_t names) const {
  if (scheduler_ == nullptr) return absl::OkStatus();
  int64_t count = Fibers() + (1 + descriptors_per_client_) * static_cast<int64_t>(doors.size());
  count += static_cast<int64_t>(names);
  for (const auto& route : fresh) count += route->fibers();
  if (count <= fibers_max_) return absl::OkStatus();
  return absl::ResourceExhaustedError("more than " + std::to_string(fibers_max_) +
                                      " listeners and backends; restart the daemon");
}

// Addresses in the order of the routes. One where the kernel chooses the port is a route's own.
std::vector<Server::Plan> Server::Plans(const std::vector<ServedRoute*>& routes) {
  std::vector<Plan> plans;
  for (ServedRoute* const route : routes) {
    int number = 0;
    for (const Listen& listen : route->config().listen) {
      for (const netpoll::Endpoint& at : listen.at) {
        std::string key = at.ToString();
        if (at.asks_for_port()) {
          key += " of " + route->config().name + " " + std::to_string(number++);
        }
        const auto plan = std::find_if(plans.begin(), plans.end(),
                                       [&](const Plan& other) { return other.key == key; });
        if (plan != plans.end()) {
          plan->routes.push_back(route);
          continue;
        }
        const std::string title = route->Title();
        plans.push_back(
            {key, at, title.empty() ? "--listen=" : title, route->config().options, {route}});
      }
    }
  }
  return plans;
}

// Binds an address, for each worker.
absl::Status Server::Open(const Plan& plan, Frontends& frontends, Doors& doors) {
  const auto is_it = [&](const auto& frontend) {
    return frontend->key == plan.key && frontend->sockets.load(std::memory_order_acquire) > 0;
  };
  if (std::any_of(frontends_.begin(), frontends_.end(), is_it)) {
    return absl::UnavailableError(plan.name + plan.key +
                                  ": still being closed, as an earlier reload said; try again");
  }
  auto sockets =
      netpoll::Bind(poller_->kernel(), plan.at, WorkerCount(), ListenOptionsOf(plan.options));
  if (!sockets.ok()) {
    return absl::Status(sockets.status().code(),
                        plan.name + std::string(sockets.status().message()));
  }
  frontends.push_back(std::make_unique<Frontend>(plan.key, plan.options,
                                                 sockets->front().at.ToString(), plan.built_in));
  Frontend* const frontend = frontends.back().get();
  frontend->accepting.store(static_cast<int>(sockets->size()), std::memory_order_relaxed);
  frontend->sockets.store(static_cast<int>(sockets->size()), std::memory_order_relaxed);
  int worker = 0;
  for (const netpoll::BoundSocket& socket : *sockets) {
    doors.push_back(std::make_unique<Door>());
    Door& door = *doors.back();
    door.socket = socket;
    door.frontend = frontend;
    door.worker = worker++;
    GiveRoutes(plan, door);
  }
  return absl::OkStatus();
}

// From here on each door has the routes of its address; those that have none leave.
void Server::Give(const std::vector<Plan>& plans) {
  for (const auto& door : doors_) {
    Frontend& frontend = *door->frontend;
    if (!frontend.listening.takes_place || frontend.leaves.load(std::memory_order_relaxed))
      continue;
    const auto plan = std::find_if(plans.begin(), plans.end(),
                                   [&](const Plan& it) { return it.key == frontend.key; });
    if (plan == plans.end()) {
      frontend.leaves.store(true, std::memory_order_seq_cst);
      continue;  // those whose clients wait in its queue are still served
    }
    GiveRoutes(*plan, *door);
  }
}

std::vector<netpoll::Endpoint> Server::AddressesThatStay() const {
  std::vector<netpoll::Endpoint> found;
  const Frontend* last = nullptr;
  for (const auto& door : doors_) {
    const bool stays = !door->frontend->leaves.load(std::memory_order_relaxed);
    if (stays && door->frontend != last) found.push_back(door->socket.at);
    last = door->frontend;
  }
  return found;
}

void Server::GiveRoutes(const Plan& plan, Door& door) {
  sched::MutexLock lock(door.mu);
  door.routes = plan.routes;
  door.hears_hellos = std::any_of(plan.routes.begin(), plan.routes.end(),
                                  [](const auto* route) { return route->config().needs_hello(); });
  door.trusted = plan.options.trusted.set;
}

// Starts the checks of new routes, ends those of retired ones, and has the doors of addresses that
// are gone leave.
void Server::Settle(Routes&& before) {
  std::vector<ServedRoute*> stops;
  for (const auto& route : before) stops.push_back(route.get());
  for (ServedRoute* const route : stops) route->Hold();
  std::vector<ServedRoute*> starts;
  for (const auto& route : routes_) starts.push_back(route.get());
  for (ServedRoute* const route : starts) route->Hold();
  retired_.insert(retired_.end(), std::make_move_iterator(before.begin()),
                  std::make_move_iterator(before.end()));
  const bool spawned = scheduler_->SpawnOn(0, [this, stops, starts] {
    for (ServedRoute* const route : starts) {
      if (phase_.load(std::memory_order_seq_cst) == Phase::kServing) route->StartChecks();
      route->Release();
    }
    for (ServedRoute* const route : stops) {
      route->StopChecks();
      route->Release();
    }
    sched::CurrentParkingLot().WakeAll(&clients_);
    sched::MutexLock lock(doors_mu_);
    for (const auto& door : doors_) {
      const bool leaves = door->frontend->leaves.load(std::memory_order_seq_cst);
      if (leaves && door->listener != nullptr) door->listener->StopWaiting();
    }
  });
  PARKWAY_CHECK(spawned, 0);
}

// Frees what earlier reloads took away and nobody uses any more.
void Server::Forget() {
  {
    sched::MutexLock lock(doors_mu_);
    std::erase_if(doors_, [](const auto& door) { return door->closed; });
  }
  std::erase_if(frontends_, [&](const auto& frontend) {
    return frontend->listening.clients.load(std::memory_order_seq_cst) == 0 &&
           std::none_of(doors_.begin(), doors_.end(),
                        [&](const auto& door) { return door->frontend == frontend.get(); });
  });
  // A door that leaves may still give clients to its routes.
  const auto is_given = [&](const ServedRoute* route) {
    return std::any_of(doors_.begin(), doors_.end(), [&](const auto& door) {
      sched::MutexLock lock(door->mu);
      return std::find(door->routes.begin(), door->routes.end(), route) != door->routes.end();
    });
  };
  std::erase_if(retired_watches_, [](const auto& watch) { return watch->ended(); });
  std::erase_if(retired_,
                [&](const auto& route) { return !is_given(route.get()) && route->IsOver(); });
}

// --- Names.

NameWatch* Server::WatchOf(const Question& question, const Watches& watches) {
  const auto found = std::find_if(watches.begin(), watches.end(),
                                  [&](const auto& watch) { return watch->question() == question; });
  return found == watches.end() ? nullptr : found->get();
}

// Those that nobody asks for yet.
Server::Watches Server::NewWatches(const Config& next) {
  NameWatch::Owner& me = *this;
  Watches watches;
  for (const Route& route : next.routes) {
    for (const Question& question : QuestionsOf(route)) {
      if (WatchOf(question, watches_) != nullptr || WatchOf(question, watches) != nullptr) continue;
      PARKWAY_CHECK(platform_.resolver != nullptr, 0);
      watches.push_back(std::make_unique<NameWatch>(
          question, Discovery::Bounds{config_.dns_ttl_min, config_.dns_ttl_max}, me));
    }
  }
  return watches;
}

// Begins to ask, and waits for the first answers, or until it is known that there is none, so that
// what serves has its backends; at most three times dns_timeout: so long it takes to pass over a
// name server that is silent, and some more. Service managers do not wait for ever.
void Server::Watch(const Watches& watches) {
  int worker = 0;
  for (const auto& watch : watches) {
    const bool spawned =
        scheduler_->SpawnOn(worker++ % WorkerCount(), [name = watch.get()] { name->Run(); });
    PARKWAY_CHECK(spawned, worker);
  }
  constexpr sched::Duration kMost = std::chrono::seconds(30);
  const sched::Duration patience = std::min<sched::Duration>(3 * config_.dns_timeout, kMost);
  const sched::Deadline until = sched::After(platform_.host->Now(), patience);
  const auto wait = [&] {
    return std::any_of(watches.begin(), watches.end(),
                       [](const auto& watch) { return !watch->answered(); });
  };
  bool in_time = true;
  while (wait() && in_time && stop_requests_.load(std::memory_order_seq_cst) == 0) {
    in_time = changed_->WaitUntil(until);
  }
  changed_->Set();  // what came meanwhile may have been meant for Run
}

ServedRoute::Names Server::NamesOf(const Route& route, const Watches& fresh) {
  ServedRoute::Names names;
  for (const Question& question : QuestionsOf(route)) {
    NameWatch* const before = WatchOf(question, watches_);
    names[question] = (before != nullptr ? before : WatchOf(question, fresh))->current();
  }
  return names;
}

void Server::Subscribe(ServedRoute& route) {
  for (const Question& question : QuestionsOf(route.config())) {
    WatchOf(question, watches_)->Subscribe(route);
  }
}

void Server::Unsubscribe(ServedRoute& route) {
  for (const Question& question : QuestionsOf(route.config())) {
    WatchOf(question, watches_)->Unsubscribe(route);
  }
}

// Those whose names no route has any more.
Server::Watches Server::TakeUnused() {
  const auto is_used = [&](const auto& watch) {
    return std::any_of(routes_.begin(), routes_.end(), [&](const auto& route) {
      const std::vector<Question> questions = QuestionsOf(route->config());
      return std::find(questions.begin(), questions.end(), watch->question()) != questions.end();
    });
  };
  const auto unused = std::stable_partition(watches_.begin(), watches_.end(), is_used);
  Watches taken(std::make_move_iterator(unused), std::make_move_iterator(watches_.end()));
  watches_.erase(unused, watches_.end());
  return taken;
}

void Server::Retire(Watches&& watches) {
  std::vector<NameWatch*> stops;
  for (const auto& watch : watches) stops.push_back(watch.get());
  std::move(watches.begin(), watches.end(), std::back_inserter(retired_watches_));
  if (stops.empty()) return;
  const bool spawned = scheduler_->SpawnOn(0, [stops] {
    for (NameWatch* const watch : stops) watch->Stop();
  });
  PARKWAY_CHECK(spawned, 0);
}

// Says what has to wait for the next start.
void Server::ReportFixed(const Config& next) {
  const std::vector<std::string> now = FixedFlags(config_);
  for (const std::string& flag : FixedFlags(next)) {
    if (std::find(now.begin(), now.end(), flag) != now.end()) continue;
    Report(flag + " takes effect at the next start");
  }
  std::vector<ServedRoute*> routes;
  for (const auto& route : routes_) routes.push_back(route.get());
  for (const Plan& plan : Plans(routes)) {
    for (const std::string_view name :
         DifferentAtListener(FrontendOf(plan)->options, plan.options)) {
      if (name == "trusted") continue;  // GiveRoutes gave it
      Report(std::string(name) + " of " + plan.at.ToString() + " takes effect at the next start");
    }
  }
}

}  // namespace parkway
