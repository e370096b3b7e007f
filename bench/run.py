#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Parkway, the floor, HAProxy and nginx stream side by side: speed, latency and CPU per request.

Every round runs every contestant once, in rotated order, each freshly started, alone, and pinned
to one CPU; the load and the backends have the other CPUs. See bench/README.md.
"""

import argparse
from dataclasses import dataclass

from harness import contestants, report
from harness.load import SCENARIOS, choose_scenarios
from harness.process import cpu_seconds, run
from harness.stage import Machine


@dataclass(frozen=True)
class Round:
    """What one contestant did in one round."""

    requests_per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float
    busy_percent: float
    errors: int


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="echo,proxy,http", metavar="LIST",
                        help=f"of {', '.join(SCENARIOS)}; or all (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3,
                        help="per contestant and round, besides the warm-up (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--payload", type=int, default=64,
                        help="bytes per echo request, or of the HTTP body (default: %(default)s)")
    report.add_arguments(parser)
    contestants.add_arguments(parser)
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds < 0.1 or args.connections < 1:
        parser.error("--rounds and --connections are at least 1, --seconds at least 0.1")
    return args


def measure(stage, args):
    """All rounds of a scenario, by contestant."""
    rounds = {name: [] for name in stage.names}
    for number in range(args.rounds):
        report.note(f"{stage.scenario.name}: round {number + 1} of {args.rounds}")
        shift = number % len(stage.names)
        for name in stage.names[shift:] + stage.names[:shift]:
            rounds[name].append(measure_one(stage, name, args.seconds))
    return rounds


def measure_one(stage, name, seconds):
    with stage.server(name) as server:
        stage.warm_up(server)
        pids = server.pids()
        before = cpu_seconds(pids)
        result = stage.load(server, seconds)
        server.check_alive()
        used = cpu_seconds(pids) - before
    return Round(requests_per_second=result.requests / result.seconds, p50_us=result.p50_us,
                 p99_us=result.p99_us, cpu_us=used / result.requests * 1e6,
                 busy_percent=100 * used / result.seconds, errors=result.errors)


def column(rounds, field):
    return [getattr(one, field) for one in rounds]


def figures_table(rounds):
    header = ["median (p25–p75)", "requests/s", "p50 µs", "p99 µs", "CPU µs/request", "busy %",
              "errors"]
    rows = [[
        contestants.LABELS[name],
        report.spread(column(ones, "requests_per_second")).text(0),
        report.spread(column(ones, "p50_us")).text(0),
        report.spread(column(ones, "p99_us")).text(0),
        report.spread(column(ones, "cpu_us")).text(2),
        f"{report.spread(column(ones, 'busy_percent')).median:.0f}",
        str(sum(column(ones, "errors"))),
    ] for name, ones in rounds.items()]
    return header, rows


def ratios_table(rounds):
    """Parkway, or who stands in for it, divided by each of the others; no rows if it is alone."""
    subject = "parkway" if "parkway" in rounds else next(iter(rounds))
    fields = ["cpu_us", "requests_per_second", "p50_us", "p99_us"]
    rows = [
        [contestants.LABELS[other]]
        + [report.paired_ratio(column(rounds[subject], field), column(ones, field)).text(2)
           for field in fields]
        for other, ones in rounds.items() if other != subject
    ]
    header = [f"{contestants.LABELS[subject]} ÷", "CPU µs/request", "requests/s", "p50", "p99"]
    return header, rows


def main():
    args = parse_arguments()
    machine = Machine(args)
    document = report.Document(
        f"wrk: medians of {args.rounds} interleaved rounds of {args.seconds:g} s")
    for scenario in choose_scenarios(args.scenario):
        with machine.stage(scenario) as stage:
            rounds = measure(stage, args)
        document.add(stage.title, stage.remarks, figures_table(rounds), ratios_table(rounds))
    document.publish(args)


if __name__ == "__main__":
    run("bench", main)
