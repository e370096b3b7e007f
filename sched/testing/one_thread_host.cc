// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/one_thread_host.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "sched/check.h"

namespace sched::testing {

struct OneThreadHost::SimulatedThread {
  SimulatedThread(OneThreadHost& host, int number_in, Step step_in)
      : number(number_in), step(std::move(step_in)), stack([this, &host] { Main(host); }) {}

  [[noreturn]] void Main(OneThreadHost& host) {
    for (;;) {
      const std::optional<Deadline> next = step();
      ended = !next.has_value();
      // Also with kLongAgo, so that others get their turn.
      host.Block(next.value_or(kNever), &woken);
      woken = false;
    }
  }

  // kNever: only when somebody sets its condition.
  Deadline runnable_from() const {
    if (ended) return kNever;
    return std::max(frozen_until, *condition ? kLongAgo : until);
  }

  const int number;
  const Step step;
  bool woken = false;
  bool ended = false;
  // What it waits for. It has not begun yet, so it can.
  Deadline until = kLongAgo;
  const bool* condition = &woken;
  Deadline frozen_until = kLongAgo;
  internal::Worker* worker = nullptr;  // that it is, while others run
  Coroutine stack;                     // last: it uses the members above
};

class OneThreadHost::Handle final : public Thread {
 public:
  Handle(OneThreadHost& host, SimulatedThread& thread) : host_(host), thread_(thread) {}
  ~Handle() override {
    const bool ended = host_.Await(kNever, &thread_.ended);
    PARKWAY_CHECK(ended, thread_.number);  // a thread that is joined never ends
    std::erase_if(host_.threads_, [&](const auto& t) { return t.get() == &thread_; });
  }
  void Wake() override { thread_.woken = true; }

 private:
  OneThreadHost& host_;
  SimulatedThread& thread_;
};

class OneThreadHost::SimulatedEvent final : public Event {
 public:
  explicit SimulatedEvent(OneThreadHost& host) : host_(host) {}
  void Set() override { set_ = true; }
  bool WaitUntil(Deadline deadline) override {
    (void)host_.Await(deadline, &set_);
    return std::exchange(set_, false);
  }

 private:
  OneThreadHost& host_;
  bool set_ = false;
};

OneThreadHost::OneThreadHost(uint64_t seed, const Options& options)
    : options_(options), seed_(seed), choice_(seed) {}

OneThreadHost::~OneThreadHost() { PARKWAY_CHECK(threads_.empty(), threads_.size()); }

uint64_t OneThreadHost::Random(uint64_t stream) {
  return std::mt19937_64(seed_ + stream)();  // equal for equal streams, whoever asks when
}

std::unique_ptr<Host::Thread> OneThreadHost::StartThread(const std::string&, int, Step step) {
  const int number = static_cast<int>(threads_.size());
  threads_.push_back(std::make_unique<SimulatedThread>(*this, number, std::move(step)));
  return std::make_unique<Handle>(*this, *threads_.back());
}

std::unique_ptr<Host::Event> OneThreadHost::NewEvent() {
  return std::make_unique<SimulatedEvent>(*this);
}

void OneThreadHost::Source::Wait(Deadline until, WaiterList&) {
  if (until == kLongAgo) return;  // a poll leaves the interrupt for a wait that can block
  (void)host_.Await(until, &interrupted_);
  interrupted_ = false;
}

bool OneThreadHost::Await(Deadline until, const bool* condition) {
  if (running_ != nullptr) {
    if (!*condition) Block(until, condition);
  } else {
    while (!*condition && RunOne(until)) {
    }
  }
  return *condition;
}

void OneThreadHost::SleepUntil(Deadline until) {
  static constexpr bool kNothing = false;
  (void)Await(until, &kNothing);
}

void OneThreadHost::Pause(bool always) {
  if (running_ == nullptr) return;
  if (always || Chance(options_.pause_chance)) SleepUntil(kLongAgo);
}

void OneThreadHost::Stall() {
  if (running_ == nullptr || now_ < stalled_until_ || !Chance(options_.stall_chance)) return;
  ++stalls_;
  stalled_until_ = now_ + Duration(Choose(options_.stall_max.count()));
  Note("stall", running_->number, ToNs(stalled_until_));
  SleepUntil(stalled_until_);
}

void OneThreadHost::Block(Deadline until, const bool* condition) {
  SimulatedThread& self = *running_;
  self.until = until;
  self.condition = condition;
  self.worker = internal::CurrentWorker();
  Coroutine::Switch(self.stack, outside_);
  internal::SetCurrentWorker(self.worker);
}

void OneThreadHost::Resume(SimulatedThread& thread) {
  if (options_.turn_max > Duration(0)) now_ += Duration(Choose(options_.turn_max.count()));
  running_ = &thread;
  Coroutine::Switch(outside_, thread.stack);
  running_ = nullptr;
  internal::SetCurrentWorker(nullptr);
}

bool OneThreadHost::RunOne(Deadline limit) {
  if (RunOneDue()) return true;
  const Deadline next = NextDue();
  if (next == kNever || next > limit) {
    if (limit != kNever) now_ = std::max(now_, limit);
    return false;
  }
  now_ = next;
  return true;
}

bool OneThreadHost::RunOneDue() {
  runnable_.clear();
  due_.clear();
  for (const auto& thread : threads_) {
    if (thread->runnable_from() <= now_) runnable_.push_back(thread.get());
  }
  for (Activity* const activity : activities_) {
    if (activity->next() <= now_) due_.push_back(activity);
  }
  if (runnable_.empty() && due_.empty()) return false;
  ++turns_;
  const size_t chosen = Choose(runnable_.size() + due_.size());
  if (chosen >= runnable_.size()) {
    due_[chosen - runnable_.size()]->Run();
    return true;
  }
  SimulatedThread& thread = *runnable_[chosen];
  if (Chance(options_.freeze_chance)) {
    thread.frozen_until = now_ + Duration(Choose(options_.freeze_max.count()));
    Note("freeze", thread.number, ToNs(thread.frozen_until));
  } else {
    Resume(thread);
  }
  return true;
}

Deadline OneThreadHost::NextDue() const {
  Deadline next = kNever;
  for (const auto& thread : threads_) next = std::min(next, thread->runnable_from());
  for (const Activity* const activity : activities_) next = std::min(next, activity->next());
  return next;
}

}  // namespace sched::testing
