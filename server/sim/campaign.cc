// SPDX-License-Identifier: Apache-2.0
#include "server/sim/campaign.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "sched/check.h"
#include "server/sim/world.h"

namespace parkway::sim {
namespace {

using Clock = std::chrono::steady_clock;

// A plan takes milliseconds, an hour under a debugger; a process that takes longer goes round in
// circles without a turn.
constexpr auto kStuckAfter = std::chrono::seconds(60);
constexpr auto kTellEvery = std::chrono::seconds(5);
constexpr auto kLookEvery = std::chrono::milliseconds(20);

// tidy: watches other processes, which tell no other way
void Pause() { usleep(std::chrono::microseconds(kLookEvery).count()); }

// Ends at once: what the failed run left behind cannot be cleaned up.
[[noreturn]] void EndProcess(bool ok) { _exit(ok ? 0 : 1); }

// Whether the plan fails, found out in a process of its own.
bool Fails(const Plan& plan) {
  std::fflush(nullptr);
  const pid_t child = fork();
  PARKWAY_CHECK(child >= 0, errno);
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) EndProcess(false);
    EndProcess(RunPlan(plan, /*keep_log=*/false).failure.empty());
  }
  const auto until = Clock::now() + kStuckAfter;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (Clock::now() > until) kill(child, SIGKILL);
    Pause();
  }
  return status != 0;
}

}  // namespace

Campaign::Campaign(uint64_t first, int64_t seeds, int jobs, std::function<Plan(uint64_t)> plan_of)
    : first_(first), seeds_(seeds), plan_of_(std::move(plan_of)) {
  void* const shared =
      mmap(nullptr, sizeof(Job) * jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  PARKWAY_CHECK(shared != MAP_FAILED, errno);
  for (int i = 0; i < jobs; ++i) jobs_.push_back(new (static_cast<Job*>(shared) + i) Job{});
}

Campaign::~Campaign() { munmap(jobs_.front(), sizeof(Job) * jobs_.size()); }

std::optional<Failure> Campaign::Run() {
  std::fflush(nullptr);
  for (int job = 0; job < static_cast<int>(jobs_.size()); ++job) {
    const pid_t child = fork();
    PARKWAY_CHECK(child >= 0, errno);
    if (child == 0) RunJob(job);
    pids_.push_back(child);
  }
  seen_done_.assign(jobs_.size(), -1);
  seen_at_.assign(jobs_.size(), Clock::now());
  std::optional<Failure> failure = Watch();
  for (const pid_t pid : pids_) {
    if (pid == 0) continue;
    kill(pid, SIGKILL);
    (void)waitpid(pid, nullptr, 0);
  }
  Progress(/*last=*/true);
  return failure;
}

void Campaign::RunJob(int job) {
  Job& mine = *jobs_[job];
  for (;;) {
    const uint64_t seed = SeedOf(job, mine.done.load());
    if (seed - first_ >= static_cast<uint64_t>(seeds_)) EndProcess(true);
    const Outcome outcome = RunPlan(plan_of_(seed), /*keep_log=*/false);
    if (!outcome.failure.empty()) {
      std::strncpy(mine.failure, outcome.failure.c_str(), kMessageMax - 1);
      EndProcess(false);
    }
    mine.sessions += outcome.sessions;
    mine.turns += outcome.turns;
    ++mine.done;
  }
}

// Until all have ended, or the first failure.
std::optional<Failure> Campaign::Watch() {
  while (std::any_of(pids_.begin(), pids_.end(), [](pid_t pid) { return pid != 0; })) {
    for (int job = 0; job < static_cast<int>(pids_.size()); ++job) {
      int status = 0;
      if (pids_[job] == 0 || waitpid(pids_[job], &status, WNOHANG) == 0) continue;
      pids_[job] = 0;
      if (auto failure = Ended(job, status)) return failure;
    }
    if (auto failure = Stuck()) return failure;
    Progress(/*last=*/false);
    Pause();
  }
  return std::nullopt;
}

std::optional<Failure> Campaign::Ended(int job, int status) const {
  if (status == 0) return std::nullopt;
  const uint64_t seed = SeedOf(job, jobs_[job]->done.load());
  if (jobs_[job]->failure[0] != '\0') return Failure{seed, jobs_[job]->failure};
  return Failure{seed, WIFSIGNALED(status) ? std::string("it died: ") + strsignal(WTERMSIG(status))
                                           : "it ended the process"};
}

std::optional<Failure> Campaign::Stuck() {
  for (size_t job = 0; job < jobs_.size(); ++job) {
    const int64_t done = jobs_[job]->done.load();
    if (done != seen_done_[job]) {
      seen_done_[job] = done;
      seen_at_[job] = Clock::now();
    } else if (pids_[job] != 0 && Clock::now() - seen_at_[job] > kStuckAfter) {
      return Failure{SeedOf(static_cast<int>(job), done), "it runs for ever"};
    }
  }
  return std::nullopt;
}

void Campaign::Progress(bool last) {
  const auto now = Clock::now();
  if (last ? told_at_ == start_ : now - told_at_ < kTellEvery) return;
  told_at_ = now;
  std::fprintf(stderr, "sim: %lld of %lld seeds\n", static_cast<long long>(Total(&Job::done)),
               static_cast<long long>(seeds_));
}

int64_t Campaign::Total(std::atomic<int64_t> Job::*figure) const {
  int64_t total = 0;
  for (const Job* job : jobs_) total += (job->*figure).load();
  return total;
}

std::string Campaign::Summary() const {
  const auto took = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start_);
  return "sim: " + std::to_string(Total(&Job::done)) +
         " seeds passed: " + std::to_string(Total(&Job::sessions)) + " sessions, " +
         std::to_string(Total(&Job::turns)) + " turns of threads and packets, " +
         std::to_string(took.count()) + " s";
}

std::vector<std::string> Shrink(Plan& plan) {
  std::vector<std::string> dropped;
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (const std::string& part : Parts(plan)) {
      Plan without = plan;
      Drop(without, part);
      if (!Fails(without)) continue;
      plan = without;
      dropped.push_back(part);
      smaller = true;
    }
  }
  return dropped;
}

}  // namespace parkway::sim
