# SPDX-License-Identifier: Apache-2.0
"""Simulated time, epolls with their locks, and what all designs' workers do alike.

A worker's life is a chain of steps: a step is called at an instant, changes what others see, and
says by Machine.after when the worker takes which step next. A worker without a next step sleeps.
"""

from collections import deque
from heapq import heappop, heappush

from simulation.load import Load, generator

EVENTS_MAX = 128            # PollShard::kEventsMax, and Go's netpoll
RING_MAX = 256
FAIRNESS_TICK = 61
NEVER = float("inf")


class Shard:
    """One epoll."""

    __slots__ = ("ready", "scanned", "scanner", "waiting", "events_free_at", "sleeper", "owner",
                 "thief")

    def __init__(self):
        self.ready = deque()
        self.scanned = False       # ep->mtx is held: events are being handed out
        self.scanner = None        # who held it last
        self.waiting = deque()     # who spins for it, first come, first served
        self.events_free_at = 0.0  # ep->lock, which events take on their way in
        self.sleeper = None        # the worker that blocks in epoll_wait
        self.owner = None
        self.thief = None          # the worker that polls it in the owner's place


class Worker:
    """A core."""

    __slots__ = ("index", "shard", "ring", "running", "tick", "polled_tick", "last_poll",
                 "searching", "looks_seen", "to_serve", "asleep_since")

    def __init__(self, index, shard):
        self.index = index
        self.shard = shard
        self.ring = deque()
        self.running = None    # the connection whose fiber it runs
        self.tick = self.polled_tick = 0
        self.last_poll = 0.0
        self.searching = False
        self.looks_seen = 0
        self.to_serve = []     # stale shards that it is about to poll
        self.asleep_since = None


class Result:
    """What was counted between the end of the warm-up and the end."""

    def __init__(self, cores):
        self.latencies = []
        self.completed = 0
        self.requested = 0
        self.lock_wait_ns = 0.0
        self.slept_ns = 0.0
        self.writes = 0
        self._cores = cores
        self._from_ns = self._until_ns = 0.0

    def count_between(self, from_ns, until_ns):
        self._from_ns, self._until_ns = from_ns, until_ns

    # --- Events. Those of the warm-up do not count.

    def arrived(self, now):
        if now >= self._from_ns:
            self.requested += 1

    def answered(self, arrived, now):
        if self._from_ns <= now < self._until_ns:
            self.completed += 1
            if arrived >= self._from_ns:
                self.latencies.append(now - arrived)

    def written(self, now):
        if now >= self._from_ns:
            self.writes += 1

    def spun(self, since, now):
        self.lock_wait_ns += self._inside(since, now)

    def slept(self, since, now):
        self.slept_ns += self._inside(since, now)

    def _inside(self, since, now):
        return max(0.0, min(now, self._until_ns) - max(since, self._from_ns))

    # --- Figures.

    def per_ns(self):
        return self.completed / (self._until_ns - self._from_ns)

    def quantile(self, fraction):
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else NEVER

    def mean(self):
        return sum(self.latencies) / len(self.latencies)

    def keeps_up(self):
        """As many answers as requests, but for some on the way."""
        return self.completed > 0.95 * self.requested

    def lock_share(self):
        """Of all the cores' time."""
        return self.lock_wait_ns / self._cores_ns()

    def sleep_share(self):
        return self.slept_ns / self._cores_ns()

    def writes_per_request(self):
        return self.writes / max(1, self.completed)

    def _cores_ns(self):
        return self._cores * (self._until_ns - self._from_ns)


class Machine:
    """A design adds `step`, a worker's next turn, and `event_wakes`, how a sleeper gets up."""

    one_epoll = False
    moves = False  # connections from shard to shard

    def __init__(self, costs, load_name, cores, seed):
        self.costs = costs
        self.cores = cores
        self.rng = generator(seed, load_name, cores)
        self.shards = [Shard() for _ in range(1 if self.one_epoll else cores)]
        self.workers = [Worker(i, self.shards[i % len(self.shards)]) for i in range(cores)]
        self.load = Load(load_name, cores, self.shards, self.rng)
        self.looks = 0  # how often workers looked at each other's queues
        self._heap = []
        self._order = 0
        self._senders = False
        self._result = Result(cores)
        # Elsewhere too few events come per epoll for them to meet.
        hot = cores > 1 and (self.one_epoll or load_name == "one shard")
        self._event_lock = costs.event_lock if hot else 0

    # --- Running.

    def saturate(self, requests_per_ns, warm_ns, window_ns):
        """Senders that would send so much if answers took no time."""
        self._senders = True
        for sender in self.load.senders(requests_per_ns):
            self.after(self.rng.expovariate(1 / sender.think_ns), self._send, sender)
        return self._run([], [], warm_ns, window_ns)

    def offer(self, requests_per_ns, warm_ns, window_ns):
        """Requests that come at that rate, answered or not."""
        times, connections = self.load.arrivals(requests_per_ns, warm_ns + window_ns)
        return self._run(times, connections, warm_ns, window_ns)

    def after(self, when, step, subject):
        self._order += 1
        heappush(self._heap, (when, self._order, step, subject))

    def _run(self, times, connections, warm_ns, window_ns):
        until = warm_ns + window_ns
        self._result.count_between(warm_ns, until)
        for worker in self.workers:
            self.step(worker, 0.0)
        heap = self._heap
        times.append(NEVER)
        at, arrival = 0, times[0]
        while True:
            if not heap or arrival <= heap[0][0]:
                if arrival >= until:
                    break
                self._arrive(connections[at], arrival)
                at += 1
                arrival = times[at]
            else:
                now, _, step, subject = heappop(heap)
                if now >= until:
                    break
                step(subject, now)
        self._count_what_goes_on(until)
        return self._result

    def _count_what_goes_on(self, until):
        for worker in self.workers:
            if worker.asleep_since is not None:
                self._result.slept(worker.asleep_since, until)
        for shard in self.shards:
            for _, since, _ in shard.waiting:
                self._result.spun(since, until)

    # --- Requests.

    def _send(self, sender, now):
        sender.unanswered = len(sender.connections)
        for connection in sender.connections:
            self._arrive(connection, now)

    def _arrive(self, connection, now):
        connection.arrivals.append(now)
        self._result.arrived(now)
        if not connection.busy:  # else the client waits for the answer to the last
            self._make_event(connection, now)

    def _make_event(self, connection, now):
        connection.busy = True
        if not self._event_lock:
            self._deliver(connection, now)
            return
        shard = connection.shard
        shard.events_free_at = max(shard.events_free_at, now) + self._event_lock
        self.after(shard.events_free_at, self._deliver, connection)

    def _deliver(self, connection, now):
        shard = connection.shard
        shard.ready.append(connection)
        worker = shard.sleeper
        if worker is not None:
            shard.sleeper = None
            self.event_wakes(worker, now)

    def serve(self, worker, connection, now):
        """Runs a fiber until it has answered; then comes the worker's next step."""
        costs = self.costs
        now += costs.switch
        if connection.worker is not worker:
            if connection.worker is not None:
                now += costs.moved
            connection.worker = worker
        if worker.looks_seen != self.looks:
            worker.looks_seen = self.looks
            now += costs.line  # the ring's, which somebody has looked at
        now += costs.request
        self._result.answered(connection.arrivals.popleft(), now)
        worker.running = connection
        if self._senders:
            self._answered(connection.sender, now)
        self.after(now, self.step, worker)

    def depart(self, worker, now):
        """The fiber waits again; its client, which has the answer, may have the next request."""
        connection, worker.running = worker.running, None
        connection.busy = False
        if connection.arrivals:
            self._make_event(connection, now)

    def _answered(self, sender, now):
        sender.unanswered -= 1
        if sender.unanswered == 0:
            self.after(now + self.rng.expovariate(1 / sender.think_ns), self._send, sender)

    # --- Epoll.

    def harvest(self, worker, shard, now, then):
        """One epoll_wait without blocking. `then` is called with worker, events and time."""
        if shard.scanned:  # as Linux does: while events are handed out, more may come back
            shard.waiting.append((worker, now, then))
        elif shard.ready:
            self._scan(worker, shard, now, then)
        else:
            self.after(now + self.costs.wait_empty, self._found_nothing, (worker, then))

    def _found_nothing(self, subject, now):
        worker, then = subject
        then(worker, [], now)

    def _scan(self, worker, shard, now, then):
        costs, ready = self.costs, shard.ready
        count = min(len(ready), EVENTS_MAX)
        if shard.scanner is worker or shard.scanner is None:
            end = now + costs.wait_call + count * costs.wait_event
        else:
            end = now + costs.shared_call + count * costs.shared_event
        shard.scanner, shard.scanned = worker, True
        events = [ready.popleft() for _ in range(count)]
        self.after(end, self._scanned, (worker, shard, events, then))

    def _scanned(self, subject, now):
        worker, shard, events, then = subject
        shard.scanned = False
        if shard.waiting:
            waiter, since, waiters_then = shard.waiting.popleft()
            self._result.spun(since, now)
            self._scan(waiter, shard, now, waiters_then)
        then(worker, events, now)

    # --- Sleeping.

    def fall_asleep(self, worker, now):
        worker.asleep_since = now

    def wake_up(self, worker, step, now):
        """The sleeper takes its next step after the time that waking takes."""
        self._result.slept(worker.asleep_since, now)
        worker.asleep_since = None
        self.after(now + self.costs.wake_latency, step, worker)

    def interrupt(self, worker, step, now):
        """Wakes a sleeper by a write. The time when the write is done."""
        self._result.written(now)
        self.wake_up(worker, step, now)
        return now + self.costs.wake
