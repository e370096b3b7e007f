// SPDX-License-Identifier: Apache-2.0
//
// Whether there is memory for new clients. Costs nothing while none come: it is looked at when one
// does.
#ifndef PARKWAY_SERVER_MEMORY_BUDGET_H_
#define PARKWAY_SERVER_MEMORY_BUDGET_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "sched/clock.h"
#include "server/memory_meter.h"
#include "server/report_limit.h"

namespace parkway {

class MemoryBudget {
 public:
  // How old at most is what it goes by: so much time, or so many clients, whichever is sooner.
  static constexpr sched::Duration kEvery = std::chrono::milliseconds(100);
  static constexpr int kClients = 64;

  // `setting`: Config::memory_budget. `meter` outlives it; nullptr: this process's. `report` takes
  // a line for the operator when the budget is exceeded and when it is not any more.
  MemoryBudget(size_t setting, const MemoryMeter* meter,
               std::function<void(const std::string&)> report);

  bool is_set() const { return bytes_ > 0; }
  int64_t bytes() const { return bytes_; }

  // Whether another client may come in at `now`: not from when more than the budget is in use until
  // it is less than 95 % of it. REQUIRES: is_set(). Any thread; blocks it for microseconds.
  bool Admits(sched::Deadline now);

 private:
  bool IsDue(int64_t now_ns);
  void Sample(sched::Deadline now);
  void Tell(bool over, int64_t used, sched::Deadline now);

  const std::unique_ptr<MemoryMeter> own_meter_;
  const MemoryMeter* const meter_;
  const bool is_of_group_;
  const int64_t bytes_;   // 0: none is set
  const int64_t resume_;  // below it clients are let in again
  const std::function<void(const std::string&)> report_;
  // All relaxed: an old value lets a client in, or waits, that much longer.
  std::atomic<bool> is_over_{false};
  std::atomic<int64_t> due_{INT64_MIN};
  std::atomic<uint32_t> asked_{0};
  std::atomic<bool> told_{false};  // the operator knows that it is exceeded
  ReportLimit times_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_MEMORY_BUDGET_H_
