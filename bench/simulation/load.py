# SPDX-License-Identifier: Apache-2.0
"""Which connections there are, on which shard, and when they send requests."""

import random
from collections import deque
from itertools import accumulate

CONNECTIONS_PER_CORE = 64
BURST = 32
ZIPF_EXPONENT = 0.3

# What a load is called in the tables.
LOADS = {
    "balanced": "every shard has 64 connections, all equally active",
    "zipf": "activity falls as rank^-0.3, and connections fall on shards by chance",
    "one shard": "all connections are on shard 0",
    "bursty": "32 connections of a shard send at once",
}


class Connection:
    """At most one of: in an epoll's ready list, in a run queue, running."""

    __slots__ = ("shard", "arrivals", "busy", "worker", "sender", "away")

    def __init__(self, shard):
        self.shard = shard
        self.arrivals = deque()  # of requests not yet answered; the client sends one at a time
        self.busy = False        # its event or its fiber is on the way
        self.worker = None       # that ran it last
        self.sender = None       # that waits for its answer
        self.away = 0            # turns in a row on workers other than its shard's


class Sender:
    """A client that sends on all its connections, waits for all answers, thinks, and so on."""

    __slots__ = ("connections", "unanswered", "think_ns")

    def __init__(self, connections, think_ns):
        self.connections = connections
        self.unanswered = 0
        self.think_ns = think_ns
        for connection in connections:
            connection.sender = self


class Load:
    """Connections, and either senders that wait for answers or a list of arrivals."""

    def __init__(self, name, cores, shards, rng):
        self.name = name
        self._rng = rng
        count = CONNECTIONS_PER_CORE * cores
        self._weights = [1.0] * count
        if name == "one shard":
            places = [0] * count
        elif name == "zipf":
            places = [rng.randrange(cores) for _ in range(count)]
            self._weights = [rank ** -ZIPF_EXPONENT for rank in range(1, count + 1)]
        else:
            places = [index // CONNECTIONS_PER_CORE for index in range(count)]
        # One epoll for all takes whatever falls on any shard.
        self.connections = [Connection(shards[place % len(shards)]) for place in places]

    def _groups(self):
        """Connections that send together."""
        size = BURST if self.name == "bursty" else 1
        return [self.connections[at:at + size]
                for at in range(0, len(self.connections), size)]

    def senders(self, requests_per_ns):
        """As many requests as that, if answers took no time."""
        total = sum(self._weights)
        senders = []
        for group, weight in zip(self._groups(), self._weights):
            share = weight / total if len(group) == 1 else len(group) / len(self.connections)
            senders.append(Sender(group, len(group) / (requests_per_ns * share)))
        return senders

    def arrivals(self, requests_per_ns, until_ns):
        """(times, connections): a Poisson process of requests, or of bursts."""
        rng, groups = self._rng, self._groups()
        size = len(groups[0])
        gap_rate = requests_per_ns / size
        count = int(until_ns * gap_rate * 1.02) + 100  # more than enough: it ends at until_ns
        times = list(accumulate(rng.expovariate(gap_rate) for _ in range(count)))
        if size > 1:
            chosen = [one for group in rng.choices(groups, k=count) for one in group]
            return [time for time in times for _ in range(size)], chosen
        weights = list(accumulate(self._weights)) if self.name == "zipf" else None
        return times, rng.choices(self.connections, cum_weights=weights, k=count)


def generator(seed, *what):
    """Randomness of its own for every run, whatever runs before it."""
    return random.Random(f"{seed} {what}")
