// SPDX-License-Identifier: Apache-2.0
//
// Whether one backend of a route is up. A fiber checks it: for good where checks were asked for,
// else from when connects fail until checks pass again.
#ifndef PARKWAY_SERVER_HEALTH_CHECK_H_
#define PARKWAY_SERVER_HEALTH_CHECK_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "netpoll/conn.h"
#include "netpoll/poller.h"
#include "sched/clock.h"
#include "sched/mutex.h"
#include "server/connector.h"
#include "server/route.h"
#include "server/upstream.h"

namespace parkway {

class HealthCheck {
 public:
  // Its route.
  class Owner {
   public:
    virtual netpoll::Poller& poller() = 0;
    // What connects to its backends. Any thread.
    virtual Connector& connector() = 0;
    // The upstream went down or up, or took a step of its slow start. `why`: for the operator,
    // "down: 3 connects failed, the last: Connection refused"; empty: nothing he need know. On a
    // fiber; does not block.
    virtual void HealthChanged(const HealthCheck& check, const std::string& why) = 0;

   protected:
    ~Owner() = default;
  };

  // So many steps take a backend in its slow start to its full weight.
  static constexpr int kSlowStartSteps = 10;

  HealthCheck(Owner& owner, Upstream& upstream, const RouteOptions& options)
      : owner_(owner), upstream_(upstream), options_(options) {}
  HealthCheck(const HealthCheck&) = delete;
  HealthCheck& operator=(const HealthCheck&) = delete;

  Upstream& upstream() const { return upstream_; }
  // Of kSlowStartSteps: its part of its weight.
  int slow_start_step() const { return step_.load(std::memory_order_relaxed); }

  // Begins to check, if checks were asked for or it is down. Fiber only.
  void Start();
  // No check and no change from here on; its fiber ends soon. From any fiber; never blocks.
  void Stop();
  // After Stop: from here on all is as if it had never been used, and Start may be called again.
  // False, and nothing has changed: its fiber has not ended yet. Any thread.
  bool Reset();
  // Whether connects that fail may take it down. Any thread.
  void SetMayFail(bool may_fail) {
    may_fail_.store(may_fail && options_.health != Health::kOff, std::memory_order_relaxed);
  }
  bool may_go_down() const { return asked_for() || may_fail_.load(std::memory_order_relaxed); }
  // Its fiber has not ended yet. Any thread.
  bool running();

  // A session's connect. health_fall failures in a row take the backend down, until checks pass.
  // Fiber only; neither blocks.
  void NoteConnected() { upstream_.NoteSuccess(); }
  void NoteFailed(const std::string& problem);

 private:
  bool asked_for() const { return options_.health >= Health::kTcp; }
  bool Launch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();
  bool Begin(netpoll::Conn& conn);
  void Await(netpoll::Conn& conn);
  bool End();
  void Judge(const std::string& problem);
  std::string Weigh(const std::string& problem);
  void StepUp();
  sched::Duration Interval();

  Owner& owner_;
  Upstream& upstream_;
  const RouteOptions& options_;
  std::atomic<bool> may_fail_{false};       // relaxed: a failure more or less
  std::atomic<int> step_{kSlowStartSteps};  // relaxed: a lineup is built after it is stored

  // The fiber's own; while none runs, of who holds mu_.
  bool held_for_up_ = true;  // when it judged last
  int against_ = 0;          // results in a row that speak against that
  sched::Deadline check_at_ = sched::kNever;
  sched::Deadline step_at_ = sched::kNever;

  sched::Mutex mu_;  // also held to change upstream_.up()
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  netpoll::Conn* conn_ ABSL_GUARDED_BY(mu_) = nullptr;  // with which it waits or checks
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_HEALTH_CHECK_H_
