// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <cerrno>
#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/parking_lot.h"
#include "server/limits.h"
#include "server/notify.h"
#include "server/units.h"
#include "server/version.h"

namespace parkway {
namespace {

using netpoll::Conn;
using netpoll::IoResult;
using netpoll::IoStatus;

constexpr sched::Duration kReportEvery = std::chrono::seconds(1);

netpoll::ListenOptions ListenOptionsOf(const Config& config) {
  netpoll::ListenOptions options;
  options.backlog = config.backlog;
  options.keepalive_idle = config.keepalive_idle;
  return options;
}

EndReason ConnectFailure(const IoResult& result) {
  if (result.status == IoStatus::kTimeout || result.os_error == ETIMEDOUT) {
    return EndReason::kConnectTimeout;
  }
  return result.os_error == ECONNREFUSED ? EndReason::kConnectRefused : EndReason::kConnectFailed;
}

}  // namespace

// --- Start.

Server::Server(const Config& config, const Platform& platform, int workers, int64_t max_conns,
               int64_t descriptors)
    : SessionOwner({config.idle_timeout, config.half_close_timeout, config.reset_linger},
                   platform.large_flows, {config.buffer_memory, Pipes(config, descriptors)},
                   netpoll::Kernel(platform.simulated), workers),
      config_(config),
      max_conns_(max_conns),
      descriptors_(descriptors),
      platform_(platform),
      backends_(config.backends),
      list_(workers),
      changed_(platform.host->NewEvent()) {}

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
  if (const absl::Status bound = server->BindAll(); !bound.ok()) return bound;
  server->StartWorkers();
  return server;
}

absl::Status Server::BindAll() {
  const int workers = static_cast<int>(poller_->event_sources().size());
  if (config_.embedded_backends) {
    for (int i = 0; i < 2; ++i) {
      const auto any_port = netpoll::Endpoint::Parse("127.0.0.1:0");
      const absl::Status bound = BindDoors(*any_port, "built-in backend", /*echo=*/true, workers);
      if (!bound.ok()) return bound;
      backends_.push_back(doors_.back()->socket.at);
    }
  }
  for (const netpoll::Endpoint& at : config_.listen) {
    const absl::Status bound = BindDoors(at, "--listen=", config_.mode == Mode::kEcho, workers);
    if (!bound.ok()) return bound;
  }
  return absl::OkStatus();
}

absl::Status Server::BindDoors(const netpoll::Endpoint& at, const std::string& flag, bool echo,
                               int count) {
  auto sockets = netpoll::Bind(poller_->kernel(), at, count, ListenOptionsOf(config_));
  if (!sockets.ok()) {
    return absl::Status(sockets.status().code(), flag + std::string(sockets.status().message()));
  }
  int worker = 0;
  for (const netpoll::BoundSocket& socket : *sockets) {
    auto door = std::make_unique<Door>();
    door->socket = socket;
    door->echo = echo;
    door->worker = worker++;
    doors_.push_back(std::move(door));
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
  if (config_.pin_cpus) options.cpus = sched::Scheduler::AllowedCpus();
  // Each door accepts in a fiber, and may serve one client beyond max_conns when it drains.
  const int64_t clients = max_conns_ + static_cast<int64_t>(doors_.size());
  // Beyond that: the doors, ends that are not counted yet on each worker, and the drain's own.
  options.fiber_count_max = DescriptorsPerClient(config_) * clients +
                            static_cast<int64_t>(doors_.size() + options.event_sources.size()) + 64;
  scheduler_ = std::make_unique<sched::Scheduler>(options);
  doors_open_.store(static_cast<int>(doors_.size()));
  doors_accepting_.store(static_cast<int>(doors_.size()));
  for (const auto& door : doors_) {
    Door* const d = door.get();
    const bool spawned = scheduler_->SpawnOn(d->worker, [this, d] { ServeDoor(*d); });
    PARKWAY_CHECK(spawned, d->worker);
  }
}

Server::~Server() {
  if (scheduler_ != nullptr) return;
  for (const auto& door : doors_) netpoll::CloseBound(poller_->kernel(), door->socket);
}

std::string Server::Banner() const {
  std::string text = "parkway " + std::string(kVersion) + ": " +
                     (config_.mode == Mode::kEcho ? "echo" : "proxy") + ", " +
                     std::to_string(scheduler_->worker_count()) + " workers" +
                     (config_.pin_cpus ? ", pinned" : "") + "\n";
  std::string listen;
  std::string last;
  for (const auto& door : doors_) {
    const std::string at = door->socket.at.ToString();
    if (at == last || IsBuiltIn(door->echo)) continue;
    listen += " " + at;
    last = at;
  }
  text += "  listening on " + listen.substr(listen.empty() ? 0 : 1) + "\n";
  if (config_.mode == Mode::kProxy) {
    text += "  backends    ";
    for (const netpoll::Endpoint& backend : backends_) text += " " + backend.ToString();
    text += config_.embedded_backends ? " (built-in echo)\n" : "\n";
  }
  text += "  limits       " + std::to_string(max_conns_) + " connections (" +
          std::to_string(descriptors_) + " open files), connect " +
          FormatDuration(config_.connect_timeout) + ", idle " +
          FormatDuration(config_.idle_timeout) + ", half-close " +
          FormatDuration(config_.half_close_timeout) + ", drain " +
          FormatDuration(config_.drain_timeout) + "\n";
  const netpoll::Endpoint& first = doors_.back()->socket.at;
  if (!first.is_unix() && (config_.mode == Mode::kEcho || config_.embedded_backends)) {
    std::string host = first.is_any() ? "127.0.0.1" : last.substr(0, last.rfind(':'));
    if (host.front() == '[') host = host.substr(1, host.size() - 2);  // bash wants no brackets
    text += "  try          bash -c 'exec 3<>/dev/tcp/" + host + "/" +
            std::to_string(first.port()) + "; echo hello >&3; head -n1 <&3'\n";
  }
  return text;
}

// --- Accepting.

void Server::ServeDoor(Door& door) {
  netpoll::Listener listener(*poller_, door.socket);
  {
    sched::MutexLock lock(doors_mu_);
    door.listener = &listener;
  }
  while (phase_.load(std::memory_order_seq_cst) == Phase::kServing) {
    Conn client;
    const IoResult accepted = listener.Accept(client);
    if (!accepted.ok()) {
      PARKWAY_CHECK(accepted.status == IoStatus::kTimeout, accepted.os_error);  // StopWaiting
      break;
    }
    AwaitPlace(door);
    StartSession(std::move(client), door);
  }
  {
    sched::MutexLock lock(doors_mu_);
    door.listener = nullptr;
  }
  ServeQueue(listener, door);
  LeaveTogether();
  ServeQueue(listener, door);  // what came while others emptied theirs
  listener.Close();
  doors_open_.fetch_sub(1, std::memory_order_seq_cst);
  changed_->Set();
}

// Those the kernel has accepted already are served too, as long as there is room: at most a queue's
// worth, since under load more come all the time.
void Server::ServeQueue(netpoll::Listener& listener, Door& door) {
  for (int i = 0; i < config_.backlog && TakePlace(door); ++i) {
    Conn client;
    if (!listener.TryAccept(client).ok()) return LeavePlace(door.echo);
    StartSession(std::move(client), door);
  }
}

// A reuseport socket that closes before the others resets the connections in its queue, so nobody
// closes until everybody's queue is empty.
void Server::LeaveTogether() {
  sched::ParkingLot& lot = sched::CurrentParkingLot();
  if (doors_accepting_.fetch_sub(1, std::memory_order_seq_cst) == 1) {
    lot.WakeAll(&doors_accepting_);
    return;
  }
  constexpr auto still = [](void* count) {
    return static_cast<std::atomic<int>*>(count)->load(std::memory_order_seq_cst) > 0;
  };
  while (still(&doors_accepting_)) {
    lot.Wait(&doors_accepting_, sched::WaitReason::kLock, still, &doors_accepting_);
  }
}

// A client takes its place after it was accepted: if a door took one before, those that wait for a
// client would hold the places that the clients of other doors need. So at max_conns each door
// holds one client that is not served yet.
void Server::AwaitPlace(const Door& door) {
  constexpr auto full = [](void* arg) {
    auto* const self = static_cast<Server*>(arg);
    return self->clients_.load(std::memory_order_seq_cst) >= self->max_conns_ &&
           self->phase_.load(std::memory_order_seq_cst) == Phase::kServing;
  };
  while (!TakePlace(door)) {
    if (phase_.load(std::memory_order_seq_cst) != Phase::kServing) {
      clients_.fetch_add(1, std::memory_order_seq_cst);  // when it drains, beyond the limit
      return;
    }
    sched::CurrentParkingLot().Wait(&clients_, sched::WaitReason::kLock, full, this);
  }
}

// False at max_conns. A trial run's own backends take no place.
bool Server::TakePlace(const Door& door) {
  if (IsBuiltIn(door.echo)) return true;
  int64_t count = clients_.load(std::memory_order_seq_cst);
  do {
    if (count >= max_conns_) return false;
  } while (!clients_.compare_exchange_strong(count, count + 1, std::memory_order_seq_cst));
  return true;
}

void Server::LeavePlace(bool echo) {
  if (IsBuiltIn(echo)) return;
  const int64_t before = clients_.fetch_sub(1, std::memory_order_seq_cst);
  if (before >= max_conns_) sched::CurrentParkingLot().WakeAll(&clients_);
}

// --- Sessions.

void Server::StartSession(Conn&& client, Door& door) {
  sessions_.fetch_add(1, std::memory_order_seq_cst);
  served_.fetch_add(1, std::memory_order_relaxed);
  Session::Pointer session = Session::New(*this, std::move(client), door.echo);
  const int place = list_.Place(session.get(), door.turn++);
  const bool started = place == sched::CurrentWorkerIndex()
                           ? sched::Spawn(session->start())
                           : scheduler_->SpawnOn(place, session->start());
  PARKWAY_CHECK(started, sessions_.load());  // fiber_count_max has room for every client's halves
  (void)session.release();                   // until Ended
}

// Both connections live where this fiber starts.
void Server::Serve(Session& session) {
  session.client().MoveToThisWorker(*poller_);
  if (!session.is_echo()) session.backend() = Conn(*poller_);
  list_.Add(&session);
  const EndReason failure = session.is_echo() ? EndReason::kNone : ConnectBackend(session);
  if (failure != EndReason::kNone) return session.Refuse(failure);
  session.Run();
}

void Server::Ended(Session& session) {
  const bool echo = session.is_echo();
  list_.Remove(&session);
  Session::Pointer(&session).reset();
  CountSessionOut(echo);
}

void Server::CountSessionOut(bool echo) {
  LeavePlace(echo);
  const int64_t before = sessions_.fetch_sub(1, std::memory_order_seq_cst);
  if (before == 1 && phase_.load(std::memory_order_seq_cst) != Phase::kServing) changed_->Set();
}

// Round robin; a backend that cannot be connected to is passed over, each is tried once. kNone when
// connected, else why the last one was not.
EndReason Server::ConnectBackend(Session& session) {
  EndReason failure = EndReason::kNone;
  const size_t turn = next_backend_.fetch_add(1, std::memory_order_relaxed);
  for (size_t attempt = 0; attempt < backends_.size(); ++attempt) {
    const netpoll::Endpoint& backend = backends_[(turn + attempt) % backends_.size()];
    const IoResult result =
        session.backend().Connect(backend, sched::After(sched::Now(), config_.connect_timeout));
    if (result.ok() && session.Connected()) return EndReason::kNone;
    if (result.ok() || result.status == IoStatus::kClosed) return session.reason();  // End()
    failure = ConnectFailure(result);
    ReportBackendFailure(backend, result);
  }
  return failure;
}

// At most one line per second: a backend that is down fails every client.
void Server::ReportBackendFailure(const netpoll::Endpoint& backend, const IoResult& result) {
  const int64_t failures = backend_failures_.fetch_add(1, std::memory_order_relaxed) + 1;
  const int64_t now = sched::ToNs(sched::RoundTime());
  int64_t due = next_report_.load(std::memory_order_relaxed);
  if (now < due) return;
  if (!next_report_.compare_exchange_strong(due, now + kReportEvery.count(),
                                            std::memory_order_relaxed)) {
    return;
  }
  const std::string reason(result.ToStatus("backend " + backend.ToString()).message());
  platform_.report("parkway: " + reason + " (" + std::to_string(failures) +
                   " failed connects so far)");
}

// --- The end.

void Server::RequestStop() {
  stop_requests_.fetch_add(1, std::memory_order_seq_cst);
  changed_->Set();
}

bool Server::Run() {
  NotifyServiceManager("READY=1");
  while (stop_requests_.load(std::memory_order_seq_cst) == 0) {
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
    sched::MutexLock lock(doors_mu_);
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
      const bool stopped = stop_requests_.load(std::memory_order_seq_cst) > 1;
      list_.EndAll(stopped ? EndReason::kStop : EndReason::kDrain);
      sched::SleepFor(std::chrono::milliseconds(10));
    } while (doors_open_.load(std::memory_order_seq_cst) > 0 || sessions() > 0);
  });
  PARKWAY_CHECK(spawned, 0);
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
