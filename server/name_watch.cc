// SPDX-License-Identifier: Apache-2.0
#include "server/name_watch.h"

#include <algorithm>

#include "absl/status/status.h"
#include "sched/fibers.h"

namespace parkway {
namespace {

// "10.0.0.1:80, 10.0.0.2:80 and 498 more"
std::string ListOf(const std::vector<Found>& found) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(found.size(), kShown); ++i) {
    const netpoll::Endpoint& at = found[i].at;
    text += (i == 0 ? "" : ", ") + (at.port() == 0 ? at.AddressToString() : at.ToString());
  }
  if (found.size() > kShown) text += " and " + std::to_string(found.size() - kShown) + " more";
  return text;
}

}  // namespace

void NameWatch::Run() {
  do {
    Ask();
  } while (Sleep());
  ended_.store(true, std::memory_order_release);
}

void NameWatch::Ask() {
  const absl::StatusOr<NameAnswer> answer =
      owner_.resolver().Lookup(owner_.poller(), question_, stopped_);
  if (absl::IsCancelled(answer.status())) return;
  Discovery::Change change;
  size_t count = 0;
  {
    sched::MutexLock lock(mu_);
    change = discovery_.Note(answer);
    const std::vector<Found> current = discovery_.current();
    count = current.size();
    if (change.any) {
      for (User* const user : users_) user->SetAddresses(question_, current);
    }
  }
  ReportChange(change, count);
  if (!answered_.exchange(true, std::memory_order_acq_rel)) owner_.NameAnswered();
}

// At most two lines per lookup, of which there is one each ttl_min at most.
void NameWatch::ReportChange(const Discovery::Change& change, size_t count) {
  const std::string name = "name " + question_.ToString() + " ";
  if (!change.news.empty()) owner_.Report(name + change.news);
  std::string text;
  if (!change.added.empty()) text += "added " + ListOf(change.added);
  if (!change.removed.empty())
    text += (text.empty() ? "removed " : ", removed ") + ListOf(change.removed);
  if (text.empty()) return;
  owner_.Report(name + text + " (" + std::to_string(count) + " in all)");
}

// False: it was stopped.
bool NameWatch::Sleep() {
  netpoll::Conn timer(owner_.poller());
  sched::Duration wait;
  {
    sched::MutexLock lock(mu_);
    if (stopped_.load(std::memory_order_relaxed)) return false;
    timer_ = &timer;
    wait = discovery_.Wait(owner_.Random());
  }
  (void)timer.AwaitTurn(sched::After(sched::Now(), wait));  // its end is all that matters
  sched::MutexLock lock(mu_);
  timer_ = nullptr;
  return !stopped_.load(std::memory_order_relaxed);
}

void NameWatch::Stop() {
  sched::MutexLock lock(mu_);
  stopped_.store(true, std::memory_order_relaxed);
  if (timer_ != nullptr) timer_->Close();  // queues fibers, and takes no lock of ours
}

std::vector<Found> NameWatch::current() {
  sched::MutexLock lock(mu_);
  return discovery_.current();
}

void NameWatch::Subscribe(User& user) {
  sched::MutexLock lock(mu_);
  users_.push_back(&user);
  user.SetAddresses(question_, discovery_.current());
}

void NameWatch::Unsubscribe(const User& user) {
  sched::MutexLock lock(mu_);
  std::erase(users_, &user);
}

}  // namespace parkway
