// SPDX-License-Identifier: Apache-2.0
#include "server/memory_budget.h"

#include <utility>

#include "server/config.h"
#include "server/units.h"

namespace parkway {
namespace {

int64_t BudgetOf(size_t setting, const MemoryMeter* meter) {
  if (setting != kMemoryBudgetOfGroup) return static_cast<int64_t>(setting);
  return meter->GroupLimit() / 10 * 9;
}

}  // namespace

MemoryBudget::MemoryBudget(size_t setting, const MemoryMeter* meter,
                           std::function<void(const std::string&)> report)
    : own_meter_(meter == nullptr && setting != kNoMemoryBudget ? MemoryMeter::OfThisProcess()
                                                                : nullptr),
      meter_(meter == nullptr ? own_meter_.get() : meter),
      is_of_group_(setting == kMemoryBudgetOfGroup),
      bytes_(BudgetOf(setting, meter_)),
      resume_(bytes_ / 100 * 95),
      report_(std::move(report)) {}

bool MemoryBudget::Admits(sched::Deadline now) {
  if (IsDue(sched::ToNs(now))) Sample(now);
  return !is_over_.load(std::memory_order_relaxed);
}

// For one of several that ask at once.
bool MemoryBudget::IsDue(int64_t now_ns) {
  const uint32_t asked = asked_.fetch_add(1, std::memory_order_relaxed);
  int64_t due = due_.load(std::memory_order_relaxed);
  // Who is not let in takes none.
  const bool is_nth = asked % kClients == 0 && !is_over_.load(std::memory_order_relaxed);
  if (now_ns < due && !is_nth) return false;
  return due_.compare_exchange_strong(due, now_ns + kEvery.count(), std::memory_order_relaxed);
}

void MemoryBudget::Sample(sched::Deadline now) {
  const int64_t used = is_of_group_ ? meter_->GroupUsed(resume_) : meter_->OwnUsed();
  const bool was_over = is_over_.load(std::memory_order_relaxed);
  const bool over = was_over ? used >= resume_ : used > bytes_;
  if (is_over_.exchange(over, std::memory_order_relaxed) != over) Tell(over, used, now);
}

// Each line has its counterpart, also where a storm of them is cut to one a second.
void MemoryBudget::Tell(bool over, int64_t used, sched::Deadline now) {
  const std::string amounts =
      InMebibytes(used) + " of memory in use, the budget is " + InMebibytes(bytes_);
  if (!over) {
    if (told_.exchange(false, std::memory_order_relaxed)) report_("new clients again: " + amounts);
    return;
  }
  const int64_t times = times_.Note(now);
  if (times == 0) return;
  told_.store(true, std::memory_order_relaxed);
  report_("no new clients for now: " + amounts + " (" + std::to_string(times) + " times so far)");
}

}  // namespace parkway
