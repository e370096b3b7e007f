// SPDX-License-Identifier: Apache-2.0
//
// What a worker waits in. The knot between the scheduler, which knows no sockets, and the poller,
// which knows no run queues: netpoll::PollShard is one, and scheduler tests use one made of a
// futex.
#ifndef PARKWAY_SCHED_EVENT_SOURCE_H_
#define PARKWAY_SCHED_EVENT_SOURCE_H_

#include "sched/clock.h"
#include "sched/waiter.h"

namespace sched {

class EventSource {
 public:
  virtual ~EventSource() = default;

  // Owner only: collects who became ready, blocking the worker until somebody did, `until` passed
  // or Interrupt() was called. With `until` = kLongAgo it only polls, and leaves an Interrupt
  // pending for the next wait that can block. May return early and empty.
  virtual void Wait(Deadline until, WaiterList& ready) = 0;

  // Any worker, for a source whose owner is too busy: polls without blocking. False if somebody
  // else is at it.
  virtual bool Poll(WaiterList& ready) = 0;

  // Any thread: ends this Wait or the next that can block. Never lost; several may count as one.
  virtual void Interrupt() = 0;
};

}  // namespace sched

#endif  // PARKWAY_SCHED_EVENT_SOURCE_H_
