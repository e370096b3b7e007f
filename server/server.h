// SPDX-License-Identifier: Apache-2.0
//
// The daemon's life: bind, serve, drain, stop.
#ifndef PARKWAY_SERVER_SERVER_H_
#define PARKWAY_SERVER_SERVER_H_

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "netpoll/listener.h"
#include "netpoll/poller.h"
#include "sched/host.h"
#include "sched/mutex.h"
#include "sched/scheduler.h"
#include "server/access_log.h"
#include "server/buffer_pool.h"
#include "server/client_hello.h"
#include "server/config.h"
#include "server/end_reason.h"
#include "server/listening.h"
#include "server/memory_budget.h"
#include "server/memory_meter.h"
#include "server/name_watch.h"
#include "server/own_addresses.h"
#include "server/own_connections.h"
#include "server/rate_limit.h"
#include "server/report_limit.h"
#include "server/resolver.h"
#include "server/served_route.h"
#include "server/session.h"
#include "server/session_list.h"

namespace parkway {

// Only ever moves forward.
//   kServing    accepts and relays
//   kDraining   accepts what is queued, closes the listeners; sessions end by themselves
//   kClosing    the drain deadline passed, or a second request came: sessions are ended
enum class Phase : uint8_t { kServing, kDraining, kClosing };

// What a server stands on: by default the machine; a simulation supplies its own.
struct Platform {
  sched::Host* host = &sched::Host::Real();
  netpoll::KernelCalls* simulated = nullptr;
  // The open files the process may have; 0: its limit, raised as far as it may be.
  int64_t descriptors = 0;
  // Asked for backends that are names; nullptr: there are none. Outlives the server.
  Resolver* resolver = nullptr;
  LargeFlows large_flows;
  // What --memory_budget goes by; nullptr: this process and its control group.
  const MemoryMeter* memory = nullptr;
  // Takes a line for the operator, without its end. Any thread; must not block. By default it goes
  // to stderr; not by fprintf, which puts 8 KiB on the fiber's stack: two pages that the stack then
  // keeps.
  std::function<void(const std::string&)> report = [](const std::string& line) {
    (void)std::fputs(("parkway: " + line + "\n").c_str(), stderr);
  };
  // Takes lines of the access log; nullptr: there is none. Any thread; must not block.
  AccessLog::Sink access_log = nullptr;
};

class Server final : private SessionOwner, private RouteOwner, private NameWatch::Owner {
 public:
  // Binds every listener, so that nothing serves if one of them cannot; starts the workers; waits
  // for what names stand for, at most 3 dns_timeout. Errors name the flag and the value. Call on
  // the main thread.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Config& config,
                                                       const Platform& platform = Platform());
  ~Server();  // REQUIRES: Run() returned
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // What it listens on, with how many workers, which limits hold, and a line to try.
  std::string Banner() const;

  // Serves until RequestStop(), then drains. Blocks the thread. True if every session ended by
  // itself within drain_timeout.
  //
  // After RequestReload() it takes what `read` returns for its configuration, as far as it can:
  // routes that are the same go on as they are, with their listeners, sessions and counts; others
  // are begun anew, and sessions of those that are gone end by themselves. On an error nothing
  // changes. Either way a line says so.
  bool Run(const std::function<absl::StatusOr<Config>()>& read = nullptr);

  // Any thread.
  void RequestReload();
  // First call: drain. Second: end now. Any thread.
  void RequestStop();

  // One line on what was served, for the end.
  std::string Summary() const;

  int64_t sessions() const { return sessions_.load(std::memory_order_relaxed); }
  int64_t served() const { return served_.load(std::memory_order_relaxed); }
  int64_t ended(EndReason reason) const { return list_.ended(reason); }

 private:
  // An address where it accepts, with a socket for each worker.
  struct Frontend {
    Frontend(const std::string& key_in, const RouteOptions& options_in, const std::string& name,
             bool built_in)
        : key(key_in), options(options_in), listening(name, !built_in, options_in) {}

    const std::string key;       // what makes it the same one after a reload
    const RouteOptions options;  // those of its sockets count
    Listening listening;
    std::atomic<bool> leaves{false};  // a reload took it away
    std::atomic<int> accepting{0};    // of its doors, those that have not emptied their queue yet
    std::atomic<int> sockets{0};      // those that are not closed yet
  };
  // Who is to serve a client, and holds it; or why nobody does.
  struct Entrance {
    EndReason refused = EndReason::kNone;
    ServedRoute* route = nullptr;  // the one chosen, or that counts it meanwhile; held
    bool entered = false;          // the client counts for it
    bool unheard = false;          // which route serves it depends on what it has to say
  };
  // A client that has not said yet for whom it connects, or to whom.
  struct Handshake {
    netpoll::Conn client;
    SessionFacts facts;
    std::unique_ptr<SessionArrival> arrival;
    Entrance meanwhile;  // where its source counts it until it is heard
  };
  using Handshakes = std::list<Handshake>;
  // A listening socket, and the worker that accepts there.
  struct Door {
    netpoll::BoundSocket socket;
    Frontend* frontend = nullptr;
    int worker = 0;
    uint32_t turn = 0;                      // of the workers to compare this one's load with
    netpoll::Listener* listener = nullptr;  // while its fiber runs; guarded by doors_mu_
    bool closed = false;                    // its fiber is done with it; guarded by doors_mu_

    // Handshakes whose fiber still uses this door, for the last of which its own fiber waits.
    std::atomic<int> greeting{0};

    sched::Mutex mu;
    // Of routes that accept at one address the first that serves the client has it.
    std::vector<ServedRoute*> routes ABSL_GUARDED_BY(mu);
    bool hears_hellos ABSL_GUARDED_BY(mu) = false;  // one of them asks for it
    std::shared_ptr<const BlockSet> trusted ABSL_GUARDED_BY(mu);
    Handshakes handshakes ABSL_GUARDED_BY(mu);  // those that somebody may end
  };
  // What a configuration makes of one address.
  struct Plan {
    std::string key;
    netpoll::Endpoint at;
    std::string name;  // for errors
    RouteOptions options;
    std::vector<ServedRoute*> routes;
    bool built_in = false;  // a trial run's own backend
  };
  using Routes = std::vector<std::unique_ptr<ServedRoute>>;
  using Doors = std::vector<std::unique_ptr<Door>>;
  using Frontends = std::vector<std::unique_ptr<Frontend>>;
  using Watches = std::vector<std::unique_ptr<NameWatch>>;

  Server(const Config& config, const Platform& platform, int workers, int64_t max_conns,
         int64_t descriptors);
  absl::Status BindBuiltIn();
  void StartWorkers();
  void StartDoors(size_t first);
  int64_t Fibers() const;
  int WorkerCount() const { return static_cast<int>(poller_->event_sources().size()); }
  std::string DescribeRoutes() const;

  // reload.cc: from one configuration to the next. All on the main thread.
  void Reload(const std::function<absl::StatusOr<Config>()>& read);
  absl::Status Apply(const Config& next);
  absl::Status Change(const Config& next, Watches& watches);
  absl::Status CheckReload(const Config& next) const;
  void ReportFixed(const Config& next);
  std::unique_ptr<ServedRoute> NewRoute(const Route& route, const ServedRoute::Names& names,
                                        ServedRoute* before);
  static std::vector<Plan> Plans(const std::vector<ServedRoute*>& routes);
  absl::Status Open(const Plan& plan, Frontends& frontends, Doors& doors);
  void Give(const std::vector<Plan>& plans);
  static void GiveRoutes(const Plan& plan, Door& door);
  std::vector<netpoll::Endpoint> AddressesThatStay() const;
  Frontend* FrontendOf(const Plan& plan) const;
  absl::Status CheckConnects(const Routes& fresh) const;
  absl::Status CheckFibers(const Routes& fresh, const Doors& doors, size_t names) const;
  void Settle(Routes&& before);
  void Forget();
  static NameWatch* WatchOf(const Question& question, const Watches& watches);
  Watches NewWatches(const Config& next);
  void Watch(const Watches& watches);
  ServedRoute::Names NamesOf(const Route& route, const Watches& fresh);
  void Subscribe(ServedRoute& route);
  void Unsubscribe(ServedRoute& route);
  Watches TakeUnused();
  void Retire(Watches&& watches);

  std::vector<std::string> Addresses(const ServedRoute* route) const;

  void ServeDoor(Door& door);
  void ServeQueue(netpoll::Listener& listener, Door& door);
  bool Accepts(const Door& door) const;
  EndReason AwaitTurn(const Door& door);
  Entrance AdmitInTurn(const netpoll::CompactEndpoint& peer, Door& door);
  static bool HasRoute(const ServedRoute* route, Door& door);
  template <class Wait>
  bool AwaitInNaps(const Door& door, Wait wait) const;
  bool AwaitMemory(const Door& door);
  bool HasMemory();
  bool AwaitRate(RateLimit& rate, const Door& door) const;
  bool AwaitPlace(const Door& door);
  bool TakePlace(const Door& door);
  void LeavePlace(Listening& listening);
  static bool IsTrusted(const netpoll::CompactEndpoint& peer, Door& door);
  static Entrance EnterUnheard(const netpoll::CompactEndpoint& client, const Door& door)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(door.mu);
  static Entrance Admit(const netpoll::CompactEndpoint& peer, Door& door);
  static Entrance Enter(const netpoll::CompactEndpoint& client, const ClientHello& hello,
                        Door& door) ABSL_EXCLUSIVE_LOCKS_REQUIRED(door.mu);
  static void Leave(const Entrance& entrance, const netpoll::CompactEndpoint& client);
  void Begin(netpoll::Conn&& client, const SessionFacts& facts, const Entrance& entrance,
             Door& door);
  void TurnAway(netpoll::Conn& client, const SessionFacts& facts, const SessionArrival* arrival,
                const Entrance& entrance, const Door& door);
  void StartSession(netpoll::Conn&& client, const SessionFacts& facts,
                    std::unique_ptr<SessionArrival> arrival, ServedRoute& route, Door& door);
  SessionFacts FactsOf(const netpoll::CompactEndpoint& peer, const Door& door);
  void CountOut();
  void Serve(Session& session) override;
  void Ended(Session& session) override;
  EndReason ConnectBackend(Session& session);
  EndReason ConnectOriginal(Session& session);
  netpoll::IoResult ConnectTo(Session& session, const netpoll::Endpoint& to,
                              const std::function<void()>* begun = nullptr);
  void ReportBackendFailure(const ServedRoute& route, const std::string& backend,
                            const netpoll::IoResult& result);
  void ReportPause(const Door& door, const netpoll::IoResult& why);

  // handshake.cc: clients that have to say something first, and backends that are told of them.
  void StartHandshake(netpoll::Conn&& client, const SessionFacts& facts, const Entrance& meanwhile,
                      Door& door);
  void Greet(Door& door, Handshakes::iterator place);
  EndReason Hear(Door& door, Handshake& handshake, ClientHello& hello);
  static bool HearsHellos(Door& door);
  EndReason HearHeader(AcceptProxy accept, Handshake& handshake);
  static EndReason HearHello(Door& door, Handshake& handshake, ClientHello& hello);
  static void AwaitHandshakes(Door& door);
  void EndHandshakes();
  netpoll::IoResult Introduce(Session& session, const netpoll::Endpoint& to,
                              sched::Deadline deadline) const;

  // session_log.cc: the access log.
  void Log(AccessEvent event, Session& session);
  void LogTurnedAway(const SessionFacts& facts, const SessionArrival* arrival,
                     const Entrance& entrance, const Door& door);
  AccessEntry EntryOf(AccessEvent event, const SessionFacts& facts,
                      const SessionArrival* arrival) const;
  void LogProgress();
  netpoll::Poller& poller() override { return *poller_; }
  SessionOwner& session_owner() override { return *this; }
  Resolver& resolver() override { return *platform_.resolver; }
  void NameAnswered() override { changed_->Set(); }
  uint64_t Random() override {
    return platform_.host->Random(random_stream_.fetch_add(1, std::memory_order_relaxed));
  }
  void Report(const std::string& line) override { platform_.report(line); }
  void EndSessionsOf(const Upstream& upstream) override {
    list_.EndOf(upstream, EndReason::kBackendDown);
  }
  void LeaveTogether(Frontend& frontend);

  void BeginDrain();
  void EndSessions();
  // Why sessions are ended.
  EndReason EndOfAll() const;
  bool AwaitDrained(sched::Deadline deadline, int stop_requests);

  Config config_;  // the main thread's
  const int64_t max_conns_;
  const int64_t descriptors_;
  const int64_t descriptors_per_client_;
  const Platform platform_;
  const std::string unique_ids_;  // what those of sessions begin with
  // Of a trial run: its own backends', whose clients take no place.
  std::unique_ptr<ServedRoute> built_in_;
  Routes routes_;            // in their order; the main thread's, as what follows
  Routes retired_;           // replaced or gone, with sessions
  Watches watches_;          // of the names of routes_
  Watches retired_watches_;  // of names that no route has any more, until their fibers have ended
  Frontends frontends_;
  int64_t fibers_max_ = 0;  // besides those of sessions
  std::unique_ptr<netpoll::Poller> poller_;
  Doors doors_;                 // changed by the main thread, under doors_mu_
  OwnAddresses own_addresses_;  // of doors that do not leave
  SessionList list_;
  const std::unique_ptr<AccessLog> access_log_;        // nullptr: off
  const std::unique_ptr<sched::Host::Event> changed_;  // something Run() waits for

  std::atomic<Phase> phase_{Phase::kServing};
  std::atomic<bool> reload_requested_{false};
  std::atomic<int> stop_requests_{0};
  std::atomic<int64_t> sessions_{0};
  std::atomic<int64_t> clients_{0};  // of the sessions, those that count for max_conns
  std::atomic<int> doors_open_{0};   // doors whose listener is not closed
  std::atomic<int64_t> served_{0};
  RateLimit conn_rate_;
  MemoryBudget memory_;
  // Behind those of the workers; relaxed: each takes another one.
  std::atomic<uint64_t> random_stream_{uint64_t{1} << 32};
  OwnConnections own_connections_{Random()};  // of routes to original destinations
  ReportLimit backend_failures_;
  ReportLimit pauses_;

  sched::Mutex doors_mu_;
  // While LogProgress runs; guarded by doors_mu_. Closed: it ends.
  std::unique_ptr<netpoll::Conn> progress_timer_;
  std::unique_ptr<sched::Scheduler> scheduler_;  // last: its fibers use everything above
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_SERVER_H_
