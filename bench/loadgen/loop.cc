// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/loop.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace loadgen {
namespace {

constexpr int kEventsMax = 256;

}  // namespace

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

Loop::Loop(bool spins) : spins_(spins), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (epoll_ < 0) {
    perror("loadgen: epoll_create1");
    exit(1);
  }
}

Loop::~Loop() { close(epoll_); }

void Loop::Watch(int fd, Handler* handler) {
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = handler;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0) return;
  perror("loadgen: epoll_ctl");
  exit(1);
}

void Loop::Turn(int64_t until) {
  epoll_event events[kEventsMax];
  const int64_t left = spins_ ? 0 : std::max<int64_t>(until - Now(), 0);
  const timespec timeout = {left / 1'000'000'000, left % 1'000'000'000};
  const int count = epoll_pwait2(epoll_, events, kEventsMax, &timeout, nullptr);
  if (count < 0 && errno != EINTR) {
    perror("loadgen: epoll_pwait2");
    exit(1);
  }
  for (int i = 0; i < count; ++i) {
    static_cast<Handler*>(events[i].data.ptr)->OnReady(events[i].events);
  }
}

}  // namespace loadgen
