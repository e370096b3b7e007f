# SPDX-License-Identifier: Apache-2.0
"""What each step costs, in nanoseconds: from the figures of bench/costs.cc."""

from dataclasses import dataclass, replace

# Medians of 15 runs, see docs/scaling.md; `bench/scaling.py --measure` makes new ones.
MEASURED = {
    "request": 5351,
    "request_on_the_other_cpu": 7466,
    "epoll_wait_0": 191,
    "epoll_wait_1": 611,
    "epoll_wait_8": 1502,
    "epoll_wait_64": 9234,
    "harvest_1_own_epolls": 518,
    "harvest_1_one_epoll": 849,
    "harvest_8_own_epolls": 1399,
    "harvest_8_one_epoll": 1952,
    "harvest_64_own_epolls": 8278,
    "harvest_64_one_epoll": 13242,
    "event_own_epolls": 402,
    "event_one_epoll": 428,
    "epoll_ctl_add_and_del": 1730,
    "eventfd_write_to_a_sleeper": 11948,
    "wake_up_latency": 34882,
    "cache_line_transfer": 151,
    "lock_alone": 2.4,
    "lock_contended": 8.9,
    "look_at_a_worker": 20.6,
    "steal_half_of_2": 271,
    "steal_half_of_16": 280,
    "steal_half_of_128": 431,
    "fiber_switch": 60,
}


@dataclass(frozen=True)
class Costs:
    """Of one step each. The default is nothing, which is what the tests against theory use."""

    request: float            # receive and send, on the core where the connection was served last
    moved: float = 0          # more on another core
    switch: float = 0         # from one fiber to the next
    wait_call: float = 0      # epoll_wait that finds something
    wait_event: float = 0     # more for each event that it finds
    wait_empty: float = 0     # epoll_wait that finds nothing
    shared_call: float = 0    # epoll_wait on an epoll that another core harvested last
    shared_event: float = 0
    event_lock: float = 0     # for each event on its way into an epoll, one after the other
    ctl: float = 0            # epoll_ctl to take a descriptor out, and to add it elsewhere
    wake: float = 0           # for who wakes a sleeper: a write to its eventfd
    wake_latency: float = 0   # until the sleeper runs
    line: float = 0           # a cache line that another core wrote last
    look: float = 0           # at another worker's queue and clock
    steal: float = 0          # half a queue

    def scaled(self, factor, *names):
        return replace(self, **{name: factor * getattr(self, name) for name in names})


def from_measured(ns):
    """The model's costs from bench/costs.cc's figures, a mapping from name to nanoseconds."""
    wait_event = (ns["epoll_wait_64"] - ns["epoll_wait_1"]) / 63
    wait_call = ns["epoll_wait_1"] - wait_event
    shared_event = (ns["harvest_64_one_epoll"] - ns["harvest_1_one_epoll"]) / 63
    shared_call = ns["harvest_1_one_epoll"] - shared_event
    return Costs(
        request=ns["request"],
        moved=max(0, ns["request_on_the_other_cpu"] - ns["request"]),
        switch=ns["fiber_switch"],
        wait_call=wait_call,
        wait_event=wait_event,
        wait_empty=ns["epoll_wait_0"],
        shared_call=max(wait_call, shared_call),
        shared_event=max(wait_event, shared_event),
        # Two CPUs made events, and all of them counted: what one event took is twice that.
        event_lock=max(0, 2 * (ns["event_one_epoll"] - ns["event_own_epolls"])),
        ctl=ns["epoll_ctl_add_and_del"],
        wake=ns["eventfd_write_to_a_sleeper"],
        wake_latency=ns["wake_up_latency"],
        line=ns["cache_line_transfer"],
        look=ns["look_at_a_worker"],
        steal=ns["steal_half_of_16"],
    )


def parse(text):
    """Figures by name from the output of bench/costs.cc. ValueError names what is wrong."""
    figures = {}
    for line in text.splitlines():
        name, _, ns = line.partition(" ")
        if name not in MEASURED:
            raise ValueError(f"unknown figure {name!r}")
        figures[name] = float(ns)
    missing = sorted(MEASURED.keys() - figures.keys())
    if missing:
        raise ValueError(f"no figure for {missing[0]}")
    return figures
