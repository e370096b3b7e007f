// SPDX-License-Identifier: Apache-2.0
#include "server/served_route.h"

#include <algorithm>
#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"

namespace parkway {

ServedRoute::ServedRoute(const Route& route, RouteOwner& owner, int workers,
                         const ServedRoute* before)
    : SessionRoute{{route.options.idle_timeout, route.options.half_close_timeout,
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
  size_t count = 0;
  for (const Backend& backend : config_.backends) {
    if (backend.serves()) count += backend.at.size();
  }
  for (const Backend& backend : config_.backends) {
    if (!backend.serves()) continue;
    for (const netpoll::Endpoint& at : backend.at) {
      // Where there is but one, trying is better than refusing.
      HealthCheck::Owner& me = *this;  // which the container may not know
      targets_.emplace_back(me, backend, at, config_.options, /*may_fail=*/count > 1);
    }
  }
  for (Target& target : targets_) {
    const bool was_down = before != nullptr && before->IsDown(target.at());
    if (was_down && target.check.may_go_down()) target.SetUp(false);
  }
  sched::MutexLock lock(mu_);
  Publish();
}

ServedRoute::~ServedRoute() {
  for (const Target& target : targets_) PARKWAY_CHECK(target.sessions() == 0, target.sessions());
}

bool ServedRoute::IsDown(const netpoll::Endpoint& at) const {
  return std::any_of(targets_.begin(), targets_.end(),
                     [&](const Target& target) { return target.at() == at && !target.up(); });
}

bool ServedRoute::IsOver() {
  return holders_.load(std::memory_order_acquire) == 0 &&
         std::none_of(targets_.begin(), targets_.end(),
                      [](Target& target) { return target.check.running(); });
}

std::string ServedRoute::Title() const {
  return config_.name == kDefaultRoute ? "" : "route " + config_.name + ": ";
}

int64_t ServedRoute::checks_running() {
  return std::count_if(targets_.begin(), targets_.end(),
                       [](Target& target) { return target.check.running(); });
}

// --- Health.

void ServedRoute::StartChecks() {
  for (Target& target : targets_) target.check.Start();
}

void ServedRoute::StopChecks() {
  for (Target& target : targets_) target.check.Stop();
}

void ServedRoute::HealthChanged(const HealthCheck& check, const std::string& why) {
  {
    sched::MutexLock lock(mu_);
    Publish();
    ServeWaiters();
  }
  if (why.empty()) return;
  const Upstream& upstream = check.upstream();
  owner_.Report(Title() + "backend " + upstream.name() + " is " + why + " (" + Standing() + ")");
  if (!upstream.up() && config_.options.on_down == OnDown::kClose) owner_.EndSessionsOf(upstream);
}

// "2 of 3 up"
std::string ServedRoute::Standing() const {
  const auto up =
      std::count_if(targets_.begin(), targets_.end(), [](const Target& it) { return it.up(); });
  return std::to_string(up) + " of " + std::to_string(targets_.size()) + " up";
}

// Of those that are up, or of all as if they were.
Lineup ServedRoute::LineUp(bool backups, bool all) {
  std::vector<Target*> targets;
  for (Target& target : targets_) {
    if (target.backup == backups && (all || target.up())) targets.push_back(&target);
  }
  const bool slow = std::any_of(targets.begin(), targets.end(), [](const Target* target) {
    return target->check.slow_start_step() < HealthCheck::kSlowStartSteps;
  });
  std::vector<Member> members;
  for (Target* const target : targets) {
    const int part = slow ? target->check.slow_start_step() : 1;
    members.push_back({target, target->weight * part, target->max});
  }
  return {std::move(members), config_.options.balance, config_.options.hash_balance_factor};
}

void ServedRoute::Publish() {
  auto lineups = std::make_shared<Lineups>();
  const bool any_up =
      std::any_of(targets_.begin(), targets_.end(), [](const Target& it) { return it.up(); });
  const bool all = !any_up && config_.options.all_down == AllDown::kTry;
  lineups->serving = LineUp(/*backups=*/false, all);
  lineups->backups = LineUp(/*backups=*/true, all);
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
  session.upstream.store(taken, std::memory_order_relaxed);
  return taken == nullptr ? EndReason::kNoBackend : EndReason::kNone;
}

void ServedRoute::NoteConnected(Session& session) {
  static_cast<Target*>(session.upstream.load(std::memory_order_relaxed))->check.NoteConnected();
}

void ServedRoute::NoteFailed(Session& session, Asking& asking, const netpoll::IoResult& result) {
  auto* const target = static_cast<Target*>(session.upstream.load(std::memory_order_relaxed));
  asking.tried.Add(target);
  Leave(session);
  if (!result.is_local()) target->check.NoteFailed(result.Reason());
}

void ServedRoute::Leave(Session& session) {
  Upstream* const upstream = session.upstream.load(std::memory_order_relaxed);
  if (upstream == nullptr) return;
  session.upstream.store(nullptr, std::memory_order_relaxed);
  upstream->Leave();
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
    session.upstream.store(waiter.upstream, std::memory_order_relaxed);
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
