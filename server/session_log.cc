// SPDX-License-Identifier: Apache-2.0
//
// Server: what it writes of its sessions into the access log.
#include <algorithm>
#include <memory>

#include "sched/fibers.h"
#include "server/server.h"

namespace parkway {
namespace {

// One of `sample` ids, evenly spread over any run of them and over every second, third … of a run,
// so that no traffic is in step with it: multiples of the golden ratio (Knuth, TAOCP 3, 6.4).
bool IsInSample(uint64_t id, int sample) {
  const uint64_t fraction = id * 0x9E37'79B9'7F4A'7C15 >> 32;
  return fraction * static_cast<uint64_t>(sample) >> 32 == 0;
}

// The one tried last, of its route or where the client was going; empty: none.
std::string_view BackendOf(const Session::Extra& extra) {
  if (extra.arrival != nullptr && extra.arrival->destination != nullptr) {
    return extra.arrival->destination->name;
  }
  return extra.backend != nullptr ? std::string_view(extra.backend->name()) : "";
}

// Whether an event of a session is wanted.
bool Wants(const RouteOptions& options, AccessEvent event, const SessionFacts& facts) {
  if (options.log_sessions == LogSessions::kOff) return false;
  if (event == AccessEvent::kStart && options.log_sessions != LogSessions::kAll) return false;
  return IsInSample(facts.id, options.log_sample);
}

}  // namespace

AccessEntry Server::EntryOf(AccessEvent event, const SessionFacts& facts,
                            const SessionArrival* arrival) const {
  AccessEntry entry;
  entry.event = event;
  entry.at_ns = platform_.host->WallNow();
  entry.id = facts.id;
  entry.client = facts.client;
  if (arrival != nullptr && arrival->heard) {
    entry.greeted = true;
    entry.proxy = arrival->proxy;
    if (arrival->server_name != nullptr) entry.server_name = *arrival->server_name;
  }
  entry.listener = facts.listener->name;
  entry.total = sched::RoundTime() - facts.began;
  entry.sessions = sessions_.load(std::memory_order_relaxed);
  entry.worker = sched::CurrentWorkerIndex();
  return entry;
}

void Server::Log(AccessEvent event, Session& session) {
  if (access_log_ == nullptr || &session.route() == built_in_.get()) return;
  const Route& route = static_cast<ServedRoute&>(session.route()).config();
  const SessionFacts& facts = session.facts();
  if (!Wants(route.options, event, facts)) return;
  AccessEntry entry = EntryOf(event, facts, session.arrival());
  entry.route = route.name;
  if (route.is_local()) {
    entry.backend = ToString(route.mode);
  } else {
    const Session::Extra& extra = *session.extra();
    entry.queued = extra.queued;
    entry.backend = BackendOf(extra);
    if (!session.connecting()) entry.connect = extra.connect;
    entry.retries = std::max(extra.connects - 1, 0);
  }
  if (session.first_byte() > SessionFacts::Span(0)) entry.first_byte = session.first_byte();
  entry.bytes_up = session.bytes_up();
  entry.bytes_down = session.bytes_down();
  if (event == AccessEvent::kEnd) entry.reason = ToString(session.reason());
  access_log_->Add(entry);
}

// Of a client that no route was asked about, the first one of the address says what is wanted.
void Server::LogTurnedAway(const SessionFacts& facts, const SessionArrival* arrival,
                           const Entrance& entrance, const Door& door) {
  if (access_log_ == nullptr || !facts.listener->takes_place) return;
  const bool was_asked = entrance.route != nullptr && !entrance.unheard;
  const Route* const route = was_asked ? &entrance.route->config() : nullptr;
  const RouteOptions& options = route != nullptr ? route->options : door.frontend->options;
  if (!Wants(options, AccessEvent::kEnd, facts)) return;
  AccessEntry entry = EntryOf(AccessEvent::kEnd, facts, arrival);
  if (route != nullptr) entry.route = route->name;
  entry.reason = ToString(entrance.refused);
  access_log_->Add(entry);
}

// The fiber that tells of sessions that go on for long, until the daemon drains.
void Server::LogProgress() {
  {
    sched::MutexLock lock(doors_mu_);
    if (phase_.load(std::memory_order_seq_cst) != Phase::kServing) return;
    progress_timer_ = std::make_unique<netpoll::Conn>(*poller_);
  }
  const sched::Duration every = config_.access_log_progress;
  sched::Deadline next = sched::After(sched::Now(), std::chrono::seconds(1));
  while (progress_timer_->AwaitTurn(next).status == netpoll::IoStatus::kTimeout) {
    const sched::Deadline now = sched::Now();
    const auto log = [this](Session& session) { Log(AccessEvent::kProgress, session); };
    for (int worker = 0; worker < WorkerCount(); ++worker) {
      while (list_.ForEachToLog(worker, now, every, log)) sched::Yield();
    }
    next = sched::After(now, std::chrono::seconds(1));
  }
  sched::MutexLock lock(doors_mu_);
  progress_timer_.reset();
}

}  // namespace parkway
