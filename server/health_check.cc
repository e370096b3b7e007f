// SPDX-License-Identifier: Apache-2.0
#include "server/health_check.h"

#include <algorithm>
#include <optional>

#include "sched/fibers.h"
#include "server/probe.h"
#include "xxhash.h"

namespace parkway {

void HealthCheck::Start() {
  sched::MutexLock lock(mu_);
  if (!asked_for() && upstream_.up()) return;
  if (!stopped_ && !running_) (void)Launch();  // room was made for one fiber each
}

bool HealthCheck::running() {
  sched::MutexLock lock(mu_);
  return running_;
}

void HealthCheck::Stop() {
  sched::MutexLock lock(mu_);
  stopped_ = true;
  if (conn_ != nullptr) conn_->Close();  // queues fibers, and takes no lock of ours
}

// The fiber uses nothing of this after it has said, under the lock, that it runs no more; and no
// other begins while stopped_ holds.
bool HealthCheck::Reset() {
  sched::MutexLock lock(mu_);
  if (running_) return false;
  stopped_ = false;
  upstream_.SetUp(true);
  upstream_.NoteSuccess();
  held_for_up_ = true;
  against_ = 0;
  step_at_ = sched::kNever;
  step_.store(kSlowStartSteps, std::memory_order_relaxed);
  return true;
}

bool HealthCheck::Launch() {
  running_ = sched::Spawn([this] { Run(); });
  return running_;
}

void HealthCheck::NoteFailed(const std::string& problem) {
  const int failures = upstream_.NoteFailure();
  if (!may_fail_.load(std::memory_order_relaxed) || failures < options_.health_fall) return;
  {
    sched::MutexLock lock(mu_);
    if (stopped_ || !upstream_.up()) return;
    upstream_.SetUp(false);
    if (!running_ && !Launch()) return upstream_.SetUp(true);  // nobody would check it
    if (conn_ != nullptr) conn_->GiveTurn();                   // to check at once
  }
  owner_.HealthChanged(
      *this, "down: " + std::to_string(failures) + " connects failed, the last: " + problem);
}

// --- The fiber.

void HealthCheck::Run() {
  // One that connects took down is checked at once. The first checks of many are spread.
  check_at_ = upstream_.up() ? sched::After(sched::Now(), Interval() / 2) : sched::kLongAgo;
  for (;;) {
    netpoll::Conn conn(owner_.poller());
    if (!Begin(conn)) return;
    Await(conn);
    if (sched::Now() >= step_at_) StepUp();
    if (sched::Now() >= check_at_) {
      const std::optional<std::string> problem =
          Probe(conn, owner_.connector(), upstream_.at(), options_);
      if (problem.has_value()) Judge(*problem);
      check_at_ = sched::After(sched::Now(), Interval());
    }
    if (End()) return;
  }
}

bool HealthCheck::Begin(netpoll::Conn& conn) {
  sched::MutexLock lock(mu_);
  running_ = !stopped_;
  conn_ = stopped_ ? nullptr : &conn;
  return running_;
}

// Until the next check or step is due.
void HealthCheck::Await(netpoll::Conn& conn) {
  const bool rests = upstream_.up() && !asked_for();  // for its slow start alone
  if (rests) check_at_ = sched::kNever;
  // Connects took it down while it rested, and the turn given then may have been this turn's.
  if (!upstream_.up() && check_at_ == sched::kNever) check_at_ = sched::kLongAgo;
  if (!upstream_.up()) step_at_ = sched::kNever;
  if (conn.AwaitTurn(std::min(check_at_, step_at_)).ok()) check_at_ = sched::kLongAgo;
}

// While the connection that others may know still exists. True: there is no more to do, and this
// object may be gone.
bool HealthCheck::End() {
  sched::MutexLock lock(mu_);
  conn_ = nullptr;
  const bool over = upstream_.up() && !asked_for() && step_at_ == sched::kNever;
  running_ = !over && !stopped_;
  return !running_;
}

void HealthCheck::Judge(const std::string& problem) {
  if (const std::string why = Weigh(problem); !why.empty()) owner_.HealthChanged(*this, why);
}

// What changed, for the operator; empty: nothing.
std::string HealthCheck::Weigh(const std::string& problem) {
  sched::MutexLock lock(mu_);
  if (stopped_) return "";  // which is why it failed
  const bool up = upstream_.up();
  if (up != held_for_up_) against_ = 0;  // connects took it down meanwhile
  held_for_up_ = up;
  if (problem.empty() == up) {
    against_ = 0;
    return "";
  }
  if (++against_ < (up ? options_.health_fall : options_.health_rise)) return "";
  const std::string times = std::to_string(against_);
  against_ = 0;
  held_for_up_ = !up;
  upstream_.SetUp(!up);
  if (up) return "down: " + times + " checks failed, the last: " + problem;
  upstream_.NoteSuccess();
  if (options_.slow_start > sched::Duration(0)) {
    step_.store(1, std::memory_order_relaxed);
    step_at_ = sched::After(sched::Now(), options_.slow_start / kSlowStartSteps);
  }
  return "up: " + times + " checks passed";
}

void HealthCheck::StepUp() {
  const int step = step_.load(std::memory_order_relaxed) + 1;
  step_.store(step, std::memory_order_relaxed);
  step_at_ = step < kSlowStartSteps
                 ? sched::After(sched::Now(), options_.slow_start / kSlowStartSteps)
                 : sched::kNever;
  owner_.HealthChanged(*this, "");
}

// A tenth more or less, so that checks that came together part. A quarter of it while results speak
// against what the backend is held for: so a change is soon certain.
sched::Duration HealthCheck::Interval() {
  const sched::Duration span =
      against_ > 0 ? options_.health_interval / 4 : options_.health_interval;
  const std::string& name = upstream_.name();
  const auto now = static_cast<uint64_t>(sched::ToNs(sched::Now()));
  const uint64_t random = XXH3_64bits_withSeed(name.data(), name.size(), now) % 1000;
  return span * 9 / 10 + span / 5 * static_cast<int64_t>(random) / 1000;
}

}  // namespace parkway
