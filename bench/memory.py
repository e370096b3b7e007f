#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""User memory per idle connection of the server process, after all were active at once.

What the kernel keeps for a connection is not counted: it is the same for every server.
See bench/README.md.
"""

import argparse
import contextlib
import re
import resource
import time
from pathlib import Path

from harness import contestants, lockstep, report
from harness.load import SCENARIOS
from harness.process import BenchError, run
from harness.stage import Machine

# How many connections the server is to hold: what fits into 20,000 descriptors.
CROWDS = {"echo": 19000, "proxy": 9000}
WARM_UP_CONNECTIONS = 16
BURSTS = 2
# From the last answer to the look: what is given back at rest is not an idle connection's.
REST_SECONDS = 1

# What --check allows Parkway, in KiB per connection.
BUDGETS = {"echo": 0.32, "proxy": 0.62}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="echo,proxy", metavar="LIST",
                        help=f"of {', '.join(CROWDS)} (default: %(default)s)")
    parser.add_argument("--connections", type=int, metavar="N",
                        help=f"default: {', '.join(f'{n} {name}' for name, n in CROWDS.items())}")
    parser.add_argument("--payload", type=int, default=64,
                        help="bytes per request of the burst (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="fail when Parkway exceeds its budget")
    report.add_arguments(parser)
    contestants.add_arguments(parser)
    parser.set_defaults(contestants="parkway,floor")
    args = parser.parse_args()
    if args.connections is not None and args.connections < 1:
        parser.error("--connections is at least 1")
    if not set(args.scenario.split(",")) <= set(CROWDS):
        parser.error(f"--scenario is a list of {', '.join(CROWDS)}")
    return args


def user_bytes(pids):
    """Anonymous and shared memory that is resident, of all the processes."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", status,
                                                    re.MULTILINE))
    return total * 1024


def bytes_per_connection(stage, name, count, payload):
    report.note(f"{stage.scenario.name}: {contestants.LABELS[name]}")
    with stage.server(name) as server, contextlib.ExitStack() as stack:
        lockstep.exchange(lockstep.connect(stack, server.port, WARM_UP_CONNECTIONS), payload)
        before = user_bytes(server.pids())
        clients = lockstep.connect(stack, server.port, count)
        for _ in range(BURSTS):
            lockstep.exchange(clients, payload)
        time.sleep(REST_SECONDS)
        server.check_alive()
        return (user_bytes(server.pids()) - before) / count


def raise_descriptor_limit(count):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < count + 100:
        raise BenchError(f"{count} connections need as many open files, and {hard} are allowed; "
                         f"choose fewer with --connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main():
    args = parse_arguments()
    document, complaints = report.Document("User memory per idle connection"), []
    crowd = args.connections
    for name in args.scenario.split(","):
        args.connections = crowd or CROWDS[name]
        machine = Machine(args)
        raise_descriptor_limit(args.connections)
        with machine.stage(SCENARIOS[name]) as stage:
            used = {one: bytes_per_connection(stage, one, args.connections, args.payload) / 1024
                    for one in stage.names}
        rows = [[contestants.LABELS[one], f"{kib:.3f}"] for one, kib in used.items()]
        document.add(stage.title, stage.remarks, (["", "KiB/connection"], rows))
        if used.get("parkway", 0) > BUDGETS[name]:
            complaints.append(f"{name}: {used['parkway']:.3f} KiB, allowed {BUDGETS[name]}")
    document.publish(args)
    if args.check:
        report.fail_over_budget(complaints)


if __name__ == "__main__":
    run("memory", main)
