#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""System calls per request of the server process, counted by the kernel's tracepoints.

perf counts while wrk loads the server; strace would slow the server until the calls it is to count
disappear. Needs root, or kernel.perf_event_paranoid=-1 and a readable /sys/kernel/tracing.
See bench/README.md.
"""

import argparse
import subprocess
import tempfile

from harness import contestants, report
from harness.load import SCENARIOS, choose_scenarios, parse_wrk
from harness.process import BenchError, pinned, require_program, run
from harness.stage import Machine

RECEIVES = ("read", "readv", "recvfrom", "recvmsg", "recvmmsg")
SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile64")
SPLICES = ("splice", "tee", "vmsplice")
WAITS = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6",
         "io_uring_enter")
CLOCKS = ("clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "timerfd_settime",
          "timer_settime")
OTHERS = ("futex", "epoll_ctl", "accept4", "accept", "socket", "connect", "getsockopt",
          "setsockopt", "getsockname", "getpeername", "shutdown", "close", "ioctl", "fcntl",
          "sched_yield", "mmap", "munmap", "madvise", "mprotect", "brk")
CALLS = RECEIVES + SENDS + SPLICES + WAITS + CLOCKS + OTHERS
ALL_CALLS = "raw_syscalls:sys_enter"

# The rows above the single calls.
SUMS = {
    "receives + sends": RECEIVES + SENDS + SPLICES,
    "waits": WAITS,
    "epoll_ctl": ("epoll_ctl",),
    "futex": ("futex",),
    "clock": CLOCKS,
}

# What --check allows Parkway per request. A connection's own calls (accept, epoll_ctl, close) are
# spread over all requests of the run, hence not zero.
BUDGETS = {
    "echo": {"receives + sends": 2.05, "waits": 0.3, "epoll_ctl": 0.01, "futex": 0.01,
             "clock": 0.01},
    "proxy": {"receives + sends": 4.10, "waits": 0.3, "epoll_ctl": 0.01, "futex": 0.01,
              "clock": 0.01},
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="echo,proxy", metavar="LIST",
                        help=f"of {', '.join(SCENARIOS)}; or all (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--payload", type=int, default=64,
                        help="bytes per echo request, or of the HTTP body (default: %(default)s)")
    parser.add_argument("--check", action="store_true",
                        help="fail when Parkway exceeds its budget in the scenario echo or proxy")
    report.add_arguments(parser)
    contestants.add_arguments(parser)
    args = parser.parse_args()
    if args.seconds < 1 or args.connections < 1:
        parser.error("--seconds and --connections are at least 1")
    return args


def known_calls(perf):
    """The calls of CALLS that this kernel has a tracepoint for."""
    listed = subprocess.run([perf, "list", "syscalls:sys_enter_*"], capture_output=True, text=True)
    words = set(listed.stdout.split())
    known = [call for call in CALLS if f"syscalls:sys_enter_{call}" in words]
    if not known:
        raise BenchError("perf sees no system call tracepoints; run as root, with tracefs mounted: "
                         "mount -t tracefs tracefs /sys/kernel/tracing")
    return known


def parse_perf(text):
    """Counts by call name from `perf stat -x,`; all calls together under ALL_CALLS."""
    counts = {}
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and ":sys_enter" in fields[2]:
            name = fields[2].partition(":sys_enter_")[2] or fields[2]
            if not fields[0].isdigit():
                raise BenchError(f"perf could not count {name}: {fields[0]}")
            counts[name] = int(fields[0])
    return counts


class Perf:
    """perf stat with all the events that this kernel knows."""

    def __init__(self):
        self._perf = require_program("perf", "linux-perf")
        self._events = ",".join([ALL_CALLS, *(f"syscalls:sys_enter_{call}"
                                              for call in known_calls(self._perf))])

    def count(self, stage, server, seconds):
        """Runs wrk as perf's command: perf counts the server from wrk's first to its last moment.

        Returns wrk's result and the counts of the server's processes, all threads.
        """
        with tempfile.NamedTemporaryFile("r") as counted:
            command = [self._perf, "stat", "-x,", "-o", counted.name, "-e", self._events,
                       "-p", ",".join(map(str, server.pids())),
                       "--", *stage.wrk_command(server, seconds)]
            done = subprocess.run(command, preexec_fn=pinned(stage.load_cpus), text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                raise BenchError(f"perf failed (is this root?):\n{done.stdout.strip()}")
            counts = parse_perf(counted.read())
            if ALL_CALLS not in counts:
                raise BenchError(f"perf failed, it counted nothing:\n{done.stdout.strip()}")
            return parse_wrk(done.stdout), counts


def measure(stage, perf, seconds):
    """System calls per request, by contestant and call."""
    return {name: measure_one(stage, name, perf, seconds) for name in stage.names}


def measure_one(stage, name, perf, seconds):
    report.note(f"{stage.scenario.name}: {contestants.LABELS[name]}")
    with stage.server(name) as server:
        stage.warm_up(server)
        result, counts = perf.count(stage, server, seconds)
        server.check_alive()
    total = counts.pop(ALL_CALLS)
    counts["all others"] = total - sum(counts.values())
    return {call: count / result.requests for call, count in counts.items()}


def summed(counts):
    return {row: sum(counts.get(call, 0) for call in calls) for row, calls in SUMS.items()}


def calls_table(by_contestant):
    """The sums, then every single call made at least once in 2,000 requests."""
    measured = list(by_contestant.values())
    most = {call: max(one.get(call, 0) for one in measured) for call in set().union(*measured)}
    calls = sorted((call for call in most if most[call] >= 0.0005), key=most.get, reverse=True)
    sums = [summed(one) for one in measured]
    rows = [[row] + [f"{one[row]:.3f}" for one in sums] for row in SUMS]
    rows += [[f"`{call}`"] + [f"{one.get(call, 0):.3f}" for one in measured] for call in calls]
    return ["per request", *(contestants.LABELS[name] for name in by_contestant)], rows


def over_budget(scenario, by_contestant):
    """Sentences about what Parkway spends beyond its budget."""
    if scenario.name not in BUDGETS:
        return []
    if "parkway" not in by_contestant:
        return [f"{scenario.name}: Parkway was not measured"]
    spent = summed(by_contestant["parkway"])
    return [f"{scenario.name}: {row} {spent[row]:.3f} per request, allowed {most:.3f}"
            for row, most in BUDGETS[scenario.name].items() if spent[row] > most]


def main():
    args = parse_arguments()
    machine, perf = Machine(args, saturate=True), Perf()
    document, complaints = report.Document("System calls per request"), []
    for scenario in choose_scenarios(args.scenario):
        with machine.stage(scenario) as stage:
            by_contestant = measure(stage, perf, args.seconds)
        document.add(stage.title, stage.remarks, calls_table(by_contestant))
        complaints += over_budget(scenario, by_contestant)
    document.publish(args)
    if args.check:
        report.fail_over_budget(complaints)


if __name__ == "__main__":
    run("syscalls", main)
