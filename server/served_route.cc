// SPDX-License-Identifier: Apache-2.0
#include "server/served_route.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "netpoll/local_address.h"
#include "sched/check.h"
#include "sched/fibers.h"
#include "server/discovery.h"
#include "server/route_match.h"

namespace parkway {

ServedRoute::ServedRoute(const Route& route, RouteOwner& owner, int workers, const Names& names,
                         ServedRoute* before)
    : SessionRoute{owner.session_owner(),
                   {route.options.idle_timeout, route.options.half_close_timeout,
                    route.options.reset_linger},
                   route.is_local(),
                   route.mode == Mode::kDiscard,
                   Bandwidth(route.options.bandwidth),
                   Bandwidth(route.options.route_bandwidth)},
      config_(route),
      admission_(config_.options, owner.Random(),
                 before != nullptr ? &before->admission_ : nullptr),
      connector_(config_.options),
      owner_(owner),
      views_(static_cast<size_t>(workers)) {
  sched::MutexLock lock(mu_);
  for (const Backend& backend : config_.backends) {
    if (!backend.serves()) continue;
    for (const netpoll::Endpoint& at : backend.at) AddTarget(backend, at);
    const auto known = names.find(backend.question);
    if (backend.is_discovered() && known != names.end()) SetBackend(backend, known->second);
  }
  SetMayFail();
  for (Target& target : targets_) {
    const bool was_down = before != nullptr && before->IsDown(target.at());
    if (was_down && target.check.may_go_down()) target.SetUp(false);
  }
  Publish();
}

ServedRoute::~ServedRoute() {
  sched::MutexLock lock(mu_);
  for (const Target& target : targets_) PARKWAY_CHECK(target.sessions() == 0, target.sessions());
}

bool ServedRoute::IsDown(const netpoll::Endpoint& at) {
  sched::MutexLock lock(mu_);
  return std::any_of(targets_.begin(), targets_.end(), [&](const Target& target) {
    return !target.gone && target.at() == at && !target.up();
  });
}

bool ServedRoute::IsOver() {
  if (holders_.load(std::memory_order_acquire) != 0) return false;
  return checks_running() == 0;
}

std::string ServedRoute::Title() const {
  return config_.name == kDefaultRoute ? "" : "route " + config_.name + ": ";
}

int64_t ServedRoute::checks_running() {
  sched::MutexLock lock(mu_);
  return std::count_if(targets_.begin(), targets_.end(),
                       [](Target& target) { return target.check.running(); });
}

// Each address of a name may be checked.
int64_t ServedRoute::fibers() const {
  size_t count = 0;
  for (const Backend& backend : config_.backends) {
    if (backend.serves()) count += backend.is_discovered() ? kFoundMax : backend.at.size();
  }
  return static_cast<int64_t>(count);
}

// --- Its backends.

void ServedRoute::AddTarget(const Backend& backend, const netpoll::Endpoint& at) {
  HealthCheck::Owner& me = *this;  // which the container may not know
  targets_.emplace_back(me, backend, at, config_.options);
}

// Connects that fail take nobody down where there is but one: trying is better than refusing.
void ServedRoute::SetMayFail() {
  const bool may_fail = Serving().size() > 1;
  for (Target& target : targets_) target.check.SetMayFail(may_fail);
}

std::vector<ServedRoute::Target*> ServedRoute::Serving() {
  std::vector<Target*> serving;
  for (Target& target : targets_) {
    if (!target.gone) serving.push_back(&target);
  }
  return serving;
}

void ServedRoute::SetAddresses(const Question& question, const std::vector<Found>& found) {
  sched::MutexLock lock(mu_);
  for (const Backend& backend : config_.backends) {
    if (backend.serves() && backend.question == question) SetBackend(backend, found);
  }
  SetMayFail();
  Publish();
  ServeWaiters();
  std::erase_if(targets_, [](Target& target) {
    return target.gone && !target.is_used() && !target.check.running();
  });
}

// A reload brings the same addresses again, and changes nothing.
void ServedRoute::SetBackend(const Backend& backend, const std::vector<Found>& found) {
  std::map<std::string, Target*> before;
  std::map<std::string, Target*> left;  // that have gone, with sessions
  for (Target& target : targets_) {
    if (&target.config == &backend) (target.gone ? left : before)[target.name()] = &target;
  }
  int best = INT_MAX;
  for (const Found& one : found) best = std::min(best, one.priority);
  const std::vector<int> shares = backend.question.srv
                                      ? SharesOf(found, backend.weight, kWeightMax)
                                      : std::vector<int>(found.size(), backend.weight);
  for (size_t i = 0; i < found.size(); ++i) {
    const netpoll::Endpoint at =
        backend.question.srv ? found[i].at : found[i].at.WithPort(backend.port);
    const std::string text = at.ToString();
    Target* target = nullptr;
    if (const auto known = before.find(text); known != before.end()) {
      target = known->second;
      before.erase(known);
    } else if (LeadsHere(at)) {
      continue;  // it would relay to itself
    } else {
      const auto gone = left.find(text);
      if (gone != left.end() && gone->second->check.Reset()) {
        target = gone->second;
        target->gone = false;
      } else {
        AddTarget(backend, at);
        target = &targets_.back();
      }
      if (checks_ == Checks::kRunning) target->check.Start();
    }
    target->weight = shares[i];
    target->backup = backend.backup || found[i].priority > best;
  }
  for (const auto& [name, target] : before) {
    target->gone = true;
    target->check.Stop();
  }
}

bool ServedRoute::LeadsHere(const netpoll::Endpoint& at) {
  if (ConnectsTo(at, config_)) return true;
  return ConnectsIfLocal(at, config_) && netpoll::IsLocal(owner_.poller().kernel(), at);
}

// --- Health.

void ServedRoute::StartChecks() {
  sched::MutexLock lock(mu_);
  checks_ = Checks::kRunning;
  for (Target* const target : Serving()) target->check.Start();
}

void ServedRoute::StopChecks() {
  sched::MutexLock lock(mu_);
  checks_ = Checks::kOver;
  for (Target& target : targets_) target.check.Stop();
}

void ServedRoute::HealthChanged(const HealthCheck& check, const std::string& why) {
  std::string standing;
  {
    sched::MutexLock lock(mu_);
    Publish();
    ServeWaiters();
    standing = Standing();
  }
  if (why.empty()) return;
  const Upstream& upstream = check.upstream();
  owner_.Report(Title() + "backend " + upstream.name() + " is " + why + " (" + standing + ")");
  if (!upstream.up() && config_.options.on_down == OnDown::kClose) owner_.EndSessionsOf(upstream);
}

// "2 of 3 up"
std::string ServedRoute::Standing() {
  const std::vector<Target*> serving = Serving();
  const auto up =
      std::count_if(serving.begin(), serving.end(), [](const Target* it) { return it->up(); });
  return std::to_string(up) + " of " + std::to_string(serving.size()) + " up";
}

// Of those that are up, or of all as if they were.
Lineup ServedRoute::LineUp(const std::vector<Target*>& current, bool backups, bool all) {
  std::vector<Target*> targets;
  for (Target* const target : current) {
    if (target->backup == backups && (all || target->up())) targets.push_back(target);
  }
  const bool slow = std::any_of(targets.begin(), targets.end(), [](const Target* target) {
    return target->check.slow_start_step() < HealthCheck::kSlowStartSteps;
  });
  std::vector<Member> members;
  for (Target* const target : targets) {
    const int part = slow ? target->check.slow_start_step() : 1;
    members.push_back({target, target->weight * part, target->config.max});
  }
  return {std::move(members), config_.options.balance, config_.options.hash_balance_factor};
}

ServedRoute::Lineups::Lineups(const std::vector<Target*>& targets) : listed(targets) {
  for (Target* const target : listed) target->Use();
}

ServedRoute::Lineups::~Lineups() {
  for (Target* const target : listed) target->Release();
}

void ServedRoute::Publish() {
  const std::vector<Target*> current = Serving();
  auto lineups = std::make_shared<Lineups>(current);
  const bool any_up =
      std::any_of(current.begin(), current.end(), [](const Target* it) { return it->up(); });
  const bool all = !any_up && config_.options.all_down == AllDown::kTry;
  lineups->serving = LineUp(current, /*backups=*/false, all);
  lineups->backups = LineUp(current, /*backups=*/true, all);
  lineups_ = std::move(lineups);
  // Release: who finds the new number and takes the lock finds these lineups or later ones.
  version_.fetch_add(1, std::memory_order_release);
}

// --- Choosing.

// Holds until the calling fiber parks.
const ServedRoute::Lineups& ServedRoute::Current() {
  View& view = views_[static_cast<size_t>(sched::CurrentWorkerIndex())];
  if (view.version != version_.load(std::memory_order_acquire)) {
    sched::MutexLock lock(mu_);
    view.lineups = lineups_;
    view.version = version_.load(std::memory_order_relaxed);
  }
  return *view.lineups;
}

Asking ServedRoute::AskFor(const Session& session) {
  Asking asking;
  asking.turn = turn_.fetch_add(1, std::memory_order_relaxed);
  if (AsksForClient(config_.options.balance)) asking.client = ClientHash(session.facts().client);
  return asking;
}

Lineup::Answer ServedRoute::Lineups::Take(const Asking& asking, Upstream** taken) const {
  const Lineup::Answer answer = serving.Take(asking, taken);
  return answer == Lineup::Answer::kNobody ? backups.Take(asking, taken) : answer;
}

EndReason ServedRoute::Admit(Session& session, Asking& asking) {
  Upstream* taken = nullptr;
  // Nobody overtakes those that wait.
  const Lineup::Answer answer = waiting_.load(std::memory_order_seq_cst) > 0
                                    ? Lineup::Answer::kFull
                                    : Current().Take(asking, &taken);
  if (answer == Lineup::Answer::kFull) return Queue(session, asking);
  Take(session, taken);
  return taken == nullptr ? EndReason::kNoBackend : EndReason::kNone;
}

// The session, which uses what it tried last, is counted in at another one; nullptr: nowhere.
void ServedRoute::Take(Session& session, Upstream* taken) {
  session.extra()->upstream.store(taken, std::memory_order_relaxed);
  if (taken == nullptr) return;
  Upstream* const before = std::exchange(session.extra()->backend, taken);
  if (before != nullptr) before->Release();
}

void ServedRoute::NoteConnected(Session& session) {
  static_cast<Target*>(session.upstream())->check.NoteConnected();
}

void ServedRoute::NoteFailed(Session& session, Asking& asking, const netpoll::IoResult& result) {
  auto* const target = static_cast<Target*>(session.upstream());
  asking.tried.Add(target);
  session.extra()->upstream.store(nullptr, std::memory_order_relaxed);
  target->Leave();
  ServeNext();
  // Whether there is a way back to the client's address is nothing of the backend's; a refusal is.
  const bool tells = !config_.options.source_is_client || result.os_error == ECONNREFUSED;
  if (!result.is_local() && tells) target->check.NoteFailed(result.Reason());
}

void ServedRoute::Leave(Session& session) {
  if (session.is_local()) return;
  Session::Extra& extra = *session.extra();
  Upstream* const used = std::exchange(extra.backend, nullptr);
  if (used == nullptr) return;
  if (extra.upstream.exchange(nullptr, std::memory_order_relaxed) == nullptr) {
    return used->Release();
  }
  used->LeaveForGood();
  ServeNext();
}

// After a place was left.
void ServedRoute::ServeNext() {
  if (waiting_.load(std::memory_order_seq_cst) == 0) return;
  sched::MutexLock lock(mu_);
  ServeWaiters();
}

// --- The queue.

EndReason ServedRoute::Queue(Session& session, const Asking& asking) {
  Waiter waiter{session, asking};
  {
    sched::MutexLock lock(mu_);
    if (queue_.size() >= static_cast<size_t>(config_.options.max_queue)) {
      return EndReason::kQueueFull;
    }
    waiter.place = queue_.insert(queue_.end(), &waiter);
    waiting_.store(queue_.size(), std::memory_order_seq_cst);
    ServeWaiters();  // a place may have been left before it was seen that somebody waits
  }
  const sched::Deadline until = sched::After(sched::Now(), config_.options.queue_timeout);
  for (;;) {
    const netpoll::IoResult turn = session.backend().AwaitTurn(until);
    sched::MutexLock lock(mu_);
    if (!waiter.answered && turn.ok()) continue;
    if (!waiter.answered) {
      Remove(waiter.place);
      return turn.status == netpoll::IoStatus::kTimeout ? EndReason::kQueueTimeout
                                                        : session.reason();
    }
    Take(session, waiter.upstream);
    return waiter.refused;
  }
}

// As many of those that wait as there are places for, the longest waiting first. One that has tried
// some backends may wait for another while there is room at those for the next.
void ServedRoute::ServeWaiters() {
  for (auto place = queue_.begin(); place != queue_.end();) {
    Waiter& waiter = **place;
    const Lineup::Answer answer = lineups_->Take(waiter.asking, &waiter.upstream);
    if (answer == Lineup::Answer::kFull) {
      if (waiter.asking.tried.empty()) return;
      ++place;
      continue;
    }
    waiter.answered = true;
    if (answer == Lineup::Answer::kNobody) waiter.refused = EndReason::kNoBackend;
    place = Remove(place);
    // The session lives until its fiber goes on, for which it needs the lock. Queues the fiber, and
    // takes no lock of ours.
    waiter.session.backend().GiveTurn();
  }
}

std::list<ServedRoute::Waiter*>::iterator ServedRoute::Remove(std::list<Waiter*>::iterator place) {
  const auto next = queue_.erase(place);
  waiting_.store(queue_.size(), std::memory_order_seq_cst);
  return next;
}

}  // namespace parkway
