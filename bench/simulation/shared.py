# SPDX-License-Identifier: Apache-2.0
"""One epoll for all workers, in the manner of Go's scheduler (runtime/proc.go, findRunnable)."""

from collections import deque

from simulation.machine import FAIRNESS_TICK, Machine, RING_MAX

TAKEN_MAX = RING_MAX // 2  # from the global queue at once


class Shared(Machine):
    """Every worker without work polls, as in Go until it let one at a time."""

    one_epoll = True
    polls_alone = False

    def __init__(self, costs, load_name, cores, seed):
        super().__init__(costs, load_name, cores, seed)
        self.epoll = self.shards[0]
        self.queue = deque()     # for anybody
        self.queue_free_at = 0.0  # its lock
        self.filled = {}         # workers with something in the ring; a set, but in a fixed order
        self.parked = []         # the last to park is the first to be woken
        self.blocked = False     # somebody blocks in epoll_wait
        self.polling = False     # somebody polls
        self.searching = 0

    # --- A worker's turn.

    def step(self, worker, now):
        if worker.running is not None:
            self.depart(worker, now)
        worker.tick += 1
        if self.queue and worker.tick % FAIRNESS_TICK == 0:
            now = self._lock_queue(now)
            self._run_fiber(worker, self.queue.popleft(), now)
        elif worker.ring:
            self._run_fiber(worker, self._pop(worker), now)
        elif self.queue:
            self._take_from_queue(worker, now)
        elif self.blocked or (self.polls_alone and self.polling):
            self._search(worker, now)
        else:
            self.polling = True
            self.harvest(worker, self.epoll, now, self._polled)

    def _run_fiber(self, worker, connection, now):
        if worker.searching:
            now = self._stop_searching(worker, now)
        self.serve(worker, connection, now)

    def _pop(self, worker):
        connection = worker.ring.popleft()
        if not worker.ring:
            self.filled.pop(worker, None)
        return connection

    def _fill(self, worker, connections):
        worker.ring.extend(connections)
        if worker.ring:
            self.filled[worker] = True

    def _take_from_queue(self, worker, now):
        now = self._lock_queue(now)
        count = min(len(self.queue) // self.cores + 1, TAKEN_MAX)
        first, *rest = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        self._fill(worker, rest)
        self._run_fiber(worker, first, now)

    def _lock_queue(self, now):
        start = max(now, self.queue_free_at)
        self._result.spun(now, start)
        self.queue_free_at = start + self.costs.line
        return self.queue_free_at

    # --- Polling.

    def _polled(self, worker, events, now):
        self.polling = False
        if events:
            self._inject(worker, events, now)
        else:
            self._search(worker, now)

    def _inject(self, worker, events, now):
        """Runs the first; for each of the others a parked worker is woken, while there are any."""
        first, rest = events[0], events[1:]
        count = min(len(self.parked), len(rest))
        if count:
            now = self._lock_queue(now)
            self.queue.extend(rest[:count])
            for _ in range(count):
                woken = self.parked.pop()
                woken.searching = True
                self.searching += 1
                now = self.interrupt(woken, self.step, now)
        self._fill(worker, rest[count:])
        self._run_fiber(worker, first, now)

    # --- Without work.

    def _search(self, worker, now):
        if not worker.searching:
            if 2 * self.searching >= self.cores - len(self.parked):
                self._idle(worker, now)
                return
            worker.searching = True
            self.searching += 1
        self.looks += 1
        now += self.costs.look * self.cores / (len(self.filled) + 1)
        if not self.filled:
            self._idle(worker, now)
            return
        victim = self.rng.choice(list(self.filled))
        now += self.costs.steal
        count = len(victim.ring) - len(victim.ring) // 2
        first, *rest = [victim.ring.popleft() for _ in range(count)]
        if not victim.ring:
            self.filled.pop(victim, None)
        self._fill(worker, rest)
        self._run_fiber(worker, first, now)

    def _idle(self, worker, now):
        if worker.searching:
            worker.searching = False
            self.searching -= 1
        now = self._lock_queue(now)
        if self.queue or self.filled and self.searching == 0:
            self.after(now, self.step, worker)
        elif self.blocked:
            self.parked.append(worker)
            self.fall_asleep(worker, now)
        else:
            self.blocked = True
            self._block(worker, now)

    def _block(self, worker, now):
        if self.epoll.ready or self.epoll.scanned:
            self._get_up(worker, now)
        else:
            self.epoll.sleeper = worker
            self.fall_asleep(worker, now)

    def event_wakes(self, worker, now):
        self.wake_up(worker, self._get_up, now)

    def _get_up(self, worker, now):
        self.harvest(worker, self.epoll, now, self._woken)

    def _woken(self, worker, events, now):
        if events:
            self.blocked = False
            self._inject(worker, events, now)
        else:
            self._block(worker, now)  # somebody was faster, and it still may block

    def _stop_searching(self, worker, now):
        worker.searching = False
        self.searching -= 1
        if self.searching == 0 and self.parked and (self.queue or self.filled):
            woken = self.parked.pop()
            woken.searching = True
            self.searching += 1
            return self.interrupt(woken, self.step, now)
        return now


class OneAtATime(Shared):
    """Go today: only one worker polls at a time."""

    polls_alone = True
