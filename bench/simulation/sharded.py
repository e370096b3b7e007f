# SPDX-License-Identifier: Apache-2.0
"""One epoll per worker: alone, with help for the overloaded, and with moving connections.

Stealing is sched/internal/worker.cc in short: who is asked for help, when, and by whom.
"""

from collections import OrderedDict, deque

from simulation.machine import FAIRNESS_TICK, Machine, RING_MAX

CLOCK_TICK = 16
POLL_EVERY_NS = 1e6
STALE_NS = 200e3
SENTINEL_WAIT_NS = 1e6
FEW = 4  # Worker::kFew: nobody is woken for so many
AWAY_MAX = 2  # Moving: turns in a row elsewhere, after which a connection stays there


class Sharded(Machine):
    """Nobody helps anybody."""

    helps = False

    def __init__(self, costs, load_name, cores, seed):
        super().__init__(costs, load_name, cores, seed)
        self.injected = deque()
        self.surplus = {}   # workers with more than one in the ring; a set, but in a fixed order
        self.searching = 0
        self.sleeping = 0   # a bit per worker
        # Who is awake, and since when it has not polled: the longest first.
        self.polled = OrderedDict((worker, 0.0) for worker in self.workers)
        self.sentinel = None
        for worker in self.workers:
            worker.shard.owner = worker

    # --- A worker's turn.

    def step(self, worker, now):
        if worker.running is not None:
            self.depart(worker, now)
        worker.tick += 1
        since_poll = worker.tick - worker.polled_tick
        if since_poll >= FAIRNESS_TICK or (
                since_poll % CLOCK_TICK == 0 and now - worker.last_poll >= POLL_EVERY_NS):
            self.harvest(worker, worker.shard, now, self._polled)
            return
        if self.injected and worker.tick % FAIRNESS_TICK == 0:
            self._run_fiber(worker, self.injected.popleft(), now)
        elif worker.ring:
            self._run_fiber(worker, self._pop(worker), now)
        elif self.injected:
            self._run_fiber(worker, self.injected.popleft(), now)
        else:
            self._look_elsewhere(worker, now)

    def _run_fiber(self, worker, connection, now):
        if worker.searching:
            now = self._stop_searching(worker, now)
        if self.moves:
            now = self._move_if_away(worker, connection, now)
        self.serve(worker, connection, now)

    def _pop(self, worker):
        connection = worker.ring.popleft()
        if len(worker.ring) == 1:
            self.surplus.pop(worker, None)
        return connection

    # --- Polling.

    def _polled(self, worker, events, now):
        """A poll that did not block: back to the queue, whatever it brought."""
        self.after(self._dispatch_own(worker, events, now), self.step, worker)

    def _dispatch_own(self, worker, events, now):
        worker.polled_tick, worker.last_poll = worker.tick, now
        self.polled[worker] = now
        self.polled.move_to_end(worker)
        return self._dispatch(worker, events, now)

    def _dispatch(self, worker, events, now):
        """Queues a batch; for more than a few one more worker is woken, at most."""
        ring = worker.ring
        room = RING_MAX - len(ring)
        ring.extend(events[:room])
        self.injected.extend(events[room:])
        if len(ring) > 1:
            self.surplus[worker] = True
        if self.helps and (len(ring) > FEW or self.injected):
            now = self._wake_searcher(now)
        return now

    # --- Without work.

    def _look_elsewhere(self, worker, now):
        if not self.helps:
            self._block(worker, now)
            return
        now += self._cost_of_looking(len(self.surplus))
        if self.surplus or self._oldest_stale(worker, now):
            self.harvest(worker, worker.shard, now, self._polled_before_search)
        else:
            self._wait(worker, now)

    def _polled_before_search(self, worker, events, now):
        now = self._dispatch_own(worker, events, now)
        if worker.ring:
            self.after(now, self.step, worker)
            return
        if not worker.searching:
            awake = self.cores - self.sleeping.bit_count()
            if 2 * self.searching >= awake:
                self._wait(worker, now)
                return
            worker.searching = True
            self.searching += 1
        self._steal(worker, now)

    def _steal(self, worker, now):
        victim = self._victim(worker, now)
        now += self._cost_of_looking(len(self.surplus))
        if victim is None:
            worker.to_serve = [other.shard for other in self._stale(worker, now)]
            self._serve_stale(worker, [], now)
            return
        now += self.costs.steal
        count = len(victim.ring) - len(victim.ring) // 2
        worker.ring.extend([victim.ring.popleft() for _ in range(count)])
        if len(victim.ring) <= 1:
            self.surplus.pop(victim, None)
        if len(worker.ring) > 1:
            self.surplus[worker] = True
        self.after(now, self.step, worker)

    def _victim(self, worker, now):
        if self.surplus:
            return self.rng.choice(list(self.surplus))
        for other in self._stale(worker, now):
            if other.ring:
                return other
        return None

    def _serve_stale(self, worker, events, now):
        """Polls the stale shards one after the other; each end of a poll comes here again."""
        now = self._dispatch(worker, events, now) if events else now
        while worker.to_serve:
            shard = worker.to_serve.pop()
            if shard.thief is None:
                shard.thief = worker
                self.harvest(worker, shard, now, self._served_one)
                return
        if worker.ring or self.injected:
            self.after(now, self.step, worker)
        else:
            self._wait(worker, now)

    def _served_one(self, worker, events, now):
        for shard in self.shards:
            if shard.thief is worker:
                shard.thief = None
        self._serve_stale(worker, events, now)

    def _stale(self, worker, now):
        """Workers awake that have not polled for long, the worst first."""
        found = []
        for other, last_poll in self.polled.items():
            if last_poll + STALE_NS >= now:
                break
            if other is not worker:
                found.append(other)
        return found

    def _oldest_stale(self, worker, now):
        for other, last_poll in self.polled.items():
            if other is not worker:
                return last_poll + STALE_NS < now
        return False

    def _cost_of_looking(self, found):
        """At others in some order until one of the `found` comes."""
        self.looks += 1
        return self.costs.look * self.cores / (found + 1)

    # --- Sleeping and waking.

    def _wait(self, worker, now):
        """Announces the sleep, and looks at everything again."""
        if worker.searching:
            worker.searching = False
            self.searching -= 1
        if self.sentinel is None and self._oldest_stale(worker, now):
            self.sentinel = worker
            self.after(now + SENTINEL_WAIT_NS, self._sentinel_wakes, worker)
        now += 2 * self.costs.look * self.cores
        self.after(now, self._block, worker)

    def _block(self, worker, now):
        shard = worker.shard
        if shard.ready or shard.scanned or (self.helps and (self.surplus or self.injected)):
            self._get_up(worker, now)
            return
        shard.sleeper = worker
        self.fall_asleep(worker, now)
        self.sleeping |= 1 << worker.index
        self.polled.pop(worker)

    def event_wakes(self, worker, now):
        self._leave_sleep(worker, now)
        self.wake_up(worker, self._get_up, now)

    def _get_up(self, worker, now):
        self.harvest(worker, worker.shard, now, self._woken)

    def _woken(self, worker, events, now):
        if self.sentinel is worker:
            self.sentinel = None
        if not events and not worker.searching and self.helps and (self.surplus or self.injected):
            worker.searching = True
            self.searching += 1
        self._polled(worker, events, now)

    def _leave_sleep(self, worker, now):
        self.sleeping &= ~(1 << worker.index)
        worker.shard.sleeper = None
        self.polled[worker] = now

    def _sentinel_wakes(self, worker, now):
        if self.sentinel is worker and self.sleeping >> worker.index & 1:
            self._leave_sleep(worker, now)
            self.wake_up(worker, self._get_up, now)

    def _wake_searcher(self, now):
        """New work wakes a sleeper only if nobody searches. The time when that is done."""
        if self.searching or not self.sleeping:
            return now
        lowest = (self.sleeping & -self.sleeping).bit_length() - 1
        sleeper = self.workers[lowest]
        self._leave_sleep(sleeper, now)
        sleeper.searching = True
        self.searching += 1
        return self.interrupt(sleeper, self._get_up, now)

    def _stop_searching(self, worker, now):
        worker.searching = False
        self.searching -= 1
        if self.searching == 0 and (self.surplus or self.injected):
            return self._wake_searcher(now)
        return now

    # --- Moving.

    def _move_if_away(self, worker, connection, now):
        if connection.shard is worker.shard:
            connection.away = 0
            return now
        connection.away += 1
        if connection.away < AWAY_MAX:
            return now
        connection.shard, connection.away = worker.shard, 0
        return now + self.costs.ctl


class Stealing(Sharded):
    """Parkway."""

    helps = True


class Moving(Stealing):
    """A connection that others run again and again moves to the shard of the last of them."""

    moves = True
