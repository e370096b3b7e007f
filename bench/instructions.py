#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""User instructions per request of the server process, counted by valgrind.

The server answers N requests in one run and 2N in another; (second total - first total) / N leaves
out start, connections and end. In the connect- scenarios each request has a connection of its own,
which counts with it. Kernel instructions are not counted. See bench/README.md.
"""

import argparse
import contextlib
import re

from harness import contestants, lockstep, report
from harness.load import SCENARIOS
from harness.process import BenchError, require_program, run
from harness.stage import Machine

# What --check allows Parkway per request.
BUDGETS = {"echo": 470, "proxy": 900, "connect-echo": 3200, "connect-proxy": 6300}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default=",".join(BUDGETS), metavar="LIST",
                        help="of %(default)s (the default)")
    parser.add_argument("--requests", type=int, default=12800,
                        help="N, in all (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3,
                        help="pairs of runs, of which the median counts (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--payload", type=int, default=64,
                        help="bytes per request (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="fail when Parkway exceeds its budget")
    report.add_arguments(parser)
    contestants.add_arguments(parser)
    parser.set_defaults(contestants="parkway,floor")
    args = parser.parse_args()
    if args.connections < 1 or args.repeats < 1 or args.requests < args.connections:
        parser.error("--connections and --repeats are at least 1, --requests at least one per "
                     "connection")
    if not set(args.scenario.split(",")) <= BUDGETS.keys():
        parser.error(f"--scenario is a list of {', '.join(BUDGETS)}")
    return args


def same_connections(port, turns, args):
    with contextlib.ExitStack() as stack:
        clients = lockstep.connect(stack, port, args.connections)
        for _ in range(turns):
            lockstep.exchange(clients, args.payload)


def new_connections(port, turns, args):
    for _ in range(turns):
        with contextlib.ExitStack() as stack:
            clients = lockstep.connect(stack, port, args.connections)
            lockstep.exchange(clients, args.payload)
            lockstep.finish(clients)


def total_instructions(stage, name, args, turns):
    """Instructions of a server's whole life, in which it answers `turns` per connection."""
    valgrind = [require_program("valgrind", "valgrind"), "--tool=callgrind",
                "--callgrind-out-file=/dev/null"]
    with stage.server(name, wrapper=valgrind) as server:
        load = new_connections if stage.scenario.close else same_connections
        load(server.port, turns, args)
        server.check_alive()
        server.end()
        totals = re.findall(r"^==\d+== Collected : (\d+)", server.log(), re.MULTILINE)
    if not totals:
        raise BenchError(f"valgrind gave no total for {server.name}")
    return sum(map(int, totals))


def per_request(stage, name, args):
    report.note(f"{stage.scenario.name}: {contestants.LABELS[name]}")
    turns = args.requests // args.connections
    results = []
    for _ in range(args.repeats):
        once = total_instructions(stage, name, args, turns)
        twice = total_instructions(stage, name, args, 2 * turns)
        results.append((twice - once) / (turns * args.connections))
    return report.spread(results)


def main():
    args = parse_arguments()
    machine = Machine(args)
    document, complaints = report.Document("User instructions per request"), []
    for scenario in map(SCENARIOS.get, args.scenario.split(",")):
        with machine.stage(scenario) as stage:
            counts = {name: per_request(stage, name, args) for name in stage.names}
        rows = [[contestants.LABELS[name], count.text(0)] for name, count in counts.items()]
        document.add(stage.title, stage.remarks,
                     (["median (p25–p75)", "instructions/request"], rows))
        spent, allowed = counts.get("parkway"), BUDGETS[scenario.name]
        if spent and spent.median > allowed:
            complaints.append(f"{scenario.name}: {spent.median:.0f} per request, allowed {allowed}")
    document.publish(args)
    if args.check:
        report.fail_over_budget(complaints)


if __name__ == "__main__":
    run("instructions", main)
