// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/one_thread_host.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "sched/check.h"

namespace sched::testing {

struct OneThreadHost::SimulatedThread {
  SimulatedThread(OneThreadHost& host, Step step_in)
      : step(std::move(step_in)), stack([this, &host] { Main(host); }) {}

  [[noreturn]] void Main(OneThreadHost& host) {
    for (;;) {
      const std::optional<Deadline> next = step();
      ended = !next.has_value();
      // Also with kLongAgo, so that others get their turn.
      host.Block(next.value_or(kNever), &woken);
      woken = false;
    }
  }

  bool runnable(Deadline now) const { return !ended && (*condition || until <= now); }

  const Step step;
  bool woken = false;
  bool ended = false;
  // What it waits for. It has not begun yet, so it can.
  Deadline until = kLongAgo;
  const bool* condition = &woken;
  internal::Worker* worker = nullptr;  // that it is, while others run
  Coroutine stack;                     // last: it uses the members above
};

class OneThreadHost::Handle final : public Thread {
 public:
  Handle(OneThreadHost& host, SimulatedThread& thread) : host_(host), thread_(thread) {}
  ~Handle() override {
    while (!thread_.ended) {
      const bool goes_on = host_.RunOne(kNever);
      PARKWAY_CHECK(goes_on, 0);  // a thread that is joined never ends
    }
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
    while (!set_ && host_.RunOne(deadline)) {
    }
    return std::exchange(set_, false);
  }

 private:
  OneThreadHost& host_;
  bool set_ = false;
};

OneThreadHost::OneThreadHost(uint64_t seed) : choice_(seed) {}

OneThreadHost::~OneThreadHost() { PARKWAY_CHECK(threads_.empty(), threads_.size()); }

std::unique_ptr<Host::Thread> OneThreadHost::StartThread(const std::string&, int, Step step) {
  threads_.push_back(std::make_unique<SimulatedThread>(*this, std::move(step)));
  return std::make_unique<Handle>(*this, *threads_.back());
}

std::unique_ptr<Host::Event> OneThreadHost::NewEvent() {
  return std::make_unique<SimulatedEvent>(*this);
}

void OneThreadHost::Source::Wait(Deadline until, WaiterList&) {
  if (until == kLongAgo) return;  // a poll leaves the interrupt for a wait that can block
  host_.Block(until, &interrupted_);
  interrupted_ = false;
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
  running_ = &thread;
  Coroutine::Switch(outside_, thread.stack);
  running_ = nullptr;
  internal::SetCurrentWorker(nullptr);
}

bool OneThreadHost::RunOne(Deadline limit) {
  std::vector<SimulatedThread*> runnable;
  Deadline next = kNever;
  for (const auto& thread : threads_) {
    if (thread->runnable(now_)) runnable.push_back(thread.get());
    if (!thread->ended) next = std::min(next, thread->until);
  }
  if (!runnable.empty()) {
    Resume(*runnable[choice_() % runnable.size()]);
    return true;
  }
  if (next == kNever || next > limit) return false;
  now_ = next;
  return true;
}

}  // namespace sched::testing
