// SPDX-License-Identifier: Apache-2.0
//
// Many plans, each in one of a few processes, so that a crash or an endless loop is one seed's
// failure and not the end of the campaign.
#ifndef PARKWAY_SERVER_SIM_CAMPAIGN_H_
#define PARKWAY_SERVER_SIM_CAMPAIGN_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "server/sim/plan.h"

namespace parkway::sim {

struct Failure {
  uint64_t seed;
  std::string what;
};

class Campaign {
 public:
  Campaign(uint64_t first, int64_t seeds, int jobs, std::function<Plan(uint64_t)> plan_of);
  ~Campaign();
  Campaign(const Campaign&) = delete;
  Campaign& operator=(const Campaign&) = delete;

  // Runs the seeds until one fails; tells on stderr how far it is. Blocks.
  std::optional<Failure> Run();

  // What was run, for the end.
  std::string Summary() const;

 private:
  static constexpr size_t kMessageMax = 1024;
  // What a process tells; in memory that all share.
  struct Job {
    std::atomic<int64_t> done;
    std::atomic<int64_t> sessions;
    std::atomic<int64_t> turns;
    char failure[kMessageMax];  // of the seed after `done`; read once the process has ended
  };

  void RunJob(int job);
  uint64_t SeedOf(int job, int64_t done) const {
    return first_ + static_cast<uint64_t>(done * static_cast<int64_t>(jobs_.size()) + job);
  }
  std::optional<Failure> Watch();
  std::optional<Failure> Ended(int job, int status) const;
  std::optional<Failure> Stuck();
  void Progress(bool last);
  int64_t Total(std::atomic<int64_t> Job::*figure) const;

  const uint64_t first_;
  const int64_t seeds_;
  const std::function<Plan(uint64_t)> plan_of_;
  std::vector<Job*> jobs_;
  std::vector<pid_t> pids_;  // 0: has ended
  std::vector<int64_t> seen_done_;
  std::vector<std::chrono::steady_clock::time_point> seen_at_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point told_at_ = start_;
};

// Drops from a failing plan whatever it also fails without, and returns what that was.
std::vector<std::string> Shrink(Plan& plan);

}  // namespace parkway::sim

#endif  // PARKWAY_SERVER_SIM_CAMPAIGN_H_
