// SPDX-License-Identifier: Apache-2.0
//
// A route while it is served: which backend a session gets, who waits for one, who is up.
#ifndef PARKWAY_SERVER_SERVED_ROUTE_H_
#define PARKWAY_SERVER_SERVED_ROUTE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "netpoll/endpoint.h"
#include "netpoll/io_result.h"
#include "netpoll/poller.h"
#include "sched/mutex.h"
#include "server/admission.h"
#include "server/connector.h"
#include "server/end_reason.h"
#include "server/health_check.h"
#include "server/lineup.h"
#include "server/name_watch.h"
#include "server/question.h"
#include "server/resolver.h"
#include "server/route.h"
#include "server/session.h"
#include "server/upstream.h"

namespace parkway {

// What routes need of the daemon.
class RouteOwner {
 public:
  virtual netpoll::Poller& poller() = 0;
  // Whose the sessions of routes are.
  virtual SessionOwner& session_owner() = 0;
  // Any thread.
  virtual uint64_t Random() = 0;
  // A line for the operator. Any thread.
  virtual void Report(const std::string& line) = 0;
  // Ends the sessions of a backend with kBackendDown. Fiber only; does not block.
  virtual void EndSessionsOf(const Upstream& upstream) = 0;

 protected:
  ~RouteOwner() = default;
};

class ServedRoute final : public SessionRoute, public NameWatch::User, private HealthCheck::Owner {
 public:
  // What names of its backends stand for now. Those that are absent are not known yet.
  using Names = std::map<Question, std::vector<Found>>;

  // `before`: what it replaces, whose backends stay down if they are; or nullptr. Any thread.
  ServedRoute(const Route& route, RouteOwner& owner, int workers, const Names& names,
              ServedRoute* before);
  ~ServedRoute();  // CHECKs that no session is counted any more
  ServedRoute(const ServedRoute&) = delete;
  ServedRoute& operator=(const ServedRoute&) = delete;

  const Route& config() const { return config_; }
  Connector& connector() override { return connector_; }
  // How lines for the operator begin: "route web: ". Nobody who used flags has heard of a route.
  std::string Title() const;

  Admission& admission() { return admission_; }

  // A client's, from when it is given the route until its session has ended: it must not go away.
  void Hold() { holders_.fetch_add(1, std::memory_order_relaxed); }
  void Release() { holders_.fetch_sub(1, std::memory_order_release); }
  // Nobody holds it, and its checks have ended. Any thread; it stays so once nobody can be given it
  // and StopChecks was called.
  bool IsOver();

  // From here on the backends of that name are these. What they have in common with those before
  // goes on as it is, with its health and its sessions; a new one has not failed yet; one that has
  // gone gets no more sessions, those that it has go on, and it is checked no more. One that comes
  // back is a new one with the sessions that it still has. Asks the kernel about new ones where the
  // route listens at all addresses.
  void SetAddresses(const Question& question, const std::vector<Found>& found) override;

  // Fibers that it may have at a time besides sessions.
  int64_t fibers() const;
  // Those it still has. Any thread.
  int64_t checks_running();

  // Begins the checks that were asked for. Fiber only.
  void StartChecks();
  // From here on nobody goes down or up. From any fiber; never blocks.
  void StopChecks();

  // What the choice for a session goes by.
  Asking AskFor(const Session& session);
  // Chooses a backend that the session has not tried, and counts it in there (session.upstream).
  // Where all have their most sessions it waits, as long as queue_timeout. kNone, or why the
  // session gets none: kNoBackend, kQueueFull, kQueueTimeout, or what ended it meanwhile. Blocks
  // the fiber.
  EndReason Admit(Session& session, Asking& asking);
  // How connecting to it went. After a failure the session is counted out, and may ask again.
  void NoteConnected(Session& session);
  void NoteFailed(Session& session, Asking& asking, const netpoll::IoResult& result);
  // At its end: counts it out; its place goes to who waits longest. Fiber only; never blocks.
  void Leave(Session& session);

 private:
  // What Session::upstream is of a session of this route.
  struct Target : Upstream {
    Target(HealthCheck::Owner& owner, const Backend& config_in, const netpoll::Endpoint& at,
           const RouteOptions& options)
        : Upstream(at),
          config(config_in),
          weight(config_in.weight),
          backup(config_in.backup),
          check(owner, *this, options) {}

    const Backend& config;
    // Guarded by mu_: what a name server says of it.
    int weight;
    bool backup;
    bool gone = false;  // it is freed when nobody uses it any more
    HealthCheck check;
  };
  // Backups are asked when no other is up, and by sessions that have tried all others.
  struct Lineups {
    explicit Lineups(const std::vector<Target*>& targets);
    ~Lineups();
    Lineups(const Lineups&) = delete;
    Lineups& operator=(const Lineups&) = delete;

    Lineup::Answer Take(const Asking& asking, Upstream** taken) const;

    const std::vector<Target*> listed;  // whose user it is: workers may still look at it
    Lineup serving;
    Lineup backups;
  };
  // A worker's view of what is current.
  struct alignas(64) View {
    uint64_t version = 0;
    std::shared_ptr<const Lineups> lineups;
  };
  // On the stack of the fiber that waits; guarded by mu_.
  struct Waiter {
    Session& session;
    const Asking& asking;
    std::list<Waiter*>::iterator place{};
    bool answered = false;
    EndReason refused = EndReason::kNone;
    Upstream* upstream = nullptr;
  };

  netpoll::Poller& poller() override { return owner_.poller(); }
  void HealthChanged(const HealthCheck& check, const std::string& why) override;
  std::vector<Target*> Serving() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddTarget(const Backend& backend, const netpoll::Endpoint& at)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SetBackend(const Backend& backend, const std::vector<Found>& found)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool LeadsHere(const netpoll::Endpoint& at);
  void SetMayFail() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string Standing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsDown(const netpoll::Endpoint& at);
  Lineup LineUp(const std::vector<Target*>& current, bool backups, bool all);
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const Lineups& Current();
  static void Take(Session& session, Upstream* taken);
  EndReason Queue(Session& session, const Asking& asking);
  void ServeNext();
  void ServeWaiters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::list<Waiter*>::iterator Remove(std::list<Waiter*>::iterator place)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Route config_;
  Admission admission_;
  Connector connector_;
  RouteOwner& owner_;
  std::atomic<uint32_t> turn_{0};
  std::atomic<int64_t> holders_{0};  // released; who finds 0 acquires and may destroy it

  // Written under mu_ after lineups_; a worker whose view has another version takes a new one.
  std::atomic<uint64_t> version_{0};
  // Stored before a place is looked for, loaded after one was left: seq_cst, so that one sees the
  // other (Upstream::Leave).
  std::atomic<size_t> waiting_{0};

  sched::Mutex mu_;
  // All addresses that get sessions, and those that have gone and are still used.
  std::list<Target> targets_ ABSL_GUARDED_BY(mu_);
  enum class Checks : uint8_t {
    kToCome,
    kRunning,
    kOver
  } checks_ ABSL_GUARDED_BY(mu_) = Checks::kToCome;
  std::shared_ptr<const Lineups> lineups_ ABSL_GUARDED_BY(mu_);
  std::list<Waiter*> queue_ ABSL_GUARDED_BY(mu_);  // the longest waiting first
  std::vector<View> views_;  // each its worker's; behind targets_, which it uses
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_SERVED_ROUTE_H_
