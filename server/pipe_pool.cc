// SPDX-License-Identifier: Apache-2.0
#include "server/pipe_pool.h"

#include <chrono>
#include <utility>

#include "sched/check.h"
#include "sched/clock.h"
#include "sched/fibers.h"

namespace parkway {

using netpoll::Pipe;

namespace {

// How long a worker does without, after the kernel has refused it one.
constexpr std::chrono::nanoseconds kRefusedFor = std::chrono::seconds(1);

}  // namespace

PipePool::PipePool(const netpoll::Kernel& kernel, int64_t pipes, int workers)
    : kernel_(kernel), limit_(pipes), own_(workers) {}

PipePool::~PipePool() { PARKWAY_CHECK(kept_.load() == 0, kept_.load()); }

PipePool::Own& PipePool::own() { return own_[sched::CurrentWorkerIndex()]; }

Pipe* PipePool::Scratch() {
  Own& own = this->own();
  if (own.pipe == nullptr) Open(own);
  return own.pipe.get();
}

void PipePool::Open(Own& own) {
  const int64_t now = sched::ToNs(sched::RoundTime());
  if (open_.load(std::memory_order_relaxed) >= limit_ || now < own.refused_until) return;
  if (open_.fetch_add(1, std::memory_order_relaxed) < limit_) {
    own.pipe = std::make_unique<Pipe>(kernel_, kPipeBytes);
    if (own.pipe->is_open()) return;
    own.pipe = nullptr;
    own.refused_until = now + kRefusedFor.count();
  }
  open_.fetch_sub(1, std::memory_order_relaxed);
}

PipePool::Kept PipePool::KeepScratch() {
  kept_.fetch_add(1, std::memory_order_relaxed);
  return Kept(own().pipe.release(), Returner{this});
}

// The worker goes on with it if it has none. What one that is not empty holds is of no use to
// anybody.
void PipePool::Return(Pipe* kept) {
  kept_.fetch_sub(1, std::memory_order_relaxed);
  std::unique_ptr<Pipe> pipe(kept);
  Own& own = this->own();
  if (pipe->empty() && own.pipe == nullptr) {
    own.pipe = std::move(pipe);
    return;
  }
  pipe.reset();
  open_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace parkway
