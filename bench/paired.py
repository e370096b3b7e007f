#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a request, a connection and a byte cost, next to others, in many short rounds.

Every round measures every contestant once, freshly started, alone, pinned to one CPU, in the order
ABC and then CBA, so that a drift of the machine hits all alike. A ratio is Parkway's figure by the
other's of the same round; of these the median is told, and between which bounds it lies with 95 %
confidence (bootstrap). See bench/README.md.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
from dataclasses import dataclass

from harness import contestants, report
from harness.process import BenchError, HOST, cpu_seconds, pinned, run, split_cpus
from harness.skew import one_sided

# Who takes part where a row does not say otherwise.
USUAL = (*contestants.NAMES, "go", "asio")


@dataclass(frozen=True)
class Row:
    """kind: what the server does; backend: what stands behind a proxy, or serves: loadgen so does;
    per: what is divided by."""

    name: str
    title: str
    kind: str
    load: tuple
    backend: str = ""
    serves: tuple = ()
    per: str = "request"
    names: tuple = USUAL
    subject: str = "parkway"  # whose figures are divided by the others'
    everywhere: bool = False  # the server has all CPUs, and sleeps and wakes where it likes


def both_kinds(name, title, *load, **more):
    return (Row(f"echo-{name}", f"echo, {title}", "echo", load, **more),
            Row(f"proxy-{name}", f"proxy, {title}", "proxy", load, "echo", **more))


def gauge(name, title, *load):
    """The loads of xnuter/perf-gauge's table of TCP proxies, whose backend sends 10 kB."""
    sizes = ("--size=100", "--answer=10000")
    return Row(f"gauge-{name}", f"proxy, 10 kB answers: {title}", "proxy", (*load, *sizes),
               serves=("--mode=answers", *sizes))


ROWS = {row.name: row for row in (
    *both_kinds("64", "64 connections × 64 B", "--connections=64"),
    *both_kinds("1000", "1000 connections × 64 B", "--connections=1000"),
    *both_kinds("16k", "64 connections × 16 KiB", "--connections=64", "--size=16384"),
    *both_kinds("pipelined", "64 connections × 64 B, 16 under way on each", "--connections=64",
                "--depth=16"),
    *both_kinds("churn", "connect + 64 B + close, 64 at a time", "--reuse=1",
                "--connections=64"),
    *both_kinds("lone", "1 connection × 64 B, server on all CPUs", "--connections=1",
                everywhere=True),
    Row("echo-open", "echo, 40,000 requests/s of 64 B over 64 connections, server on all CPUs",
        "echo", ("--connections=64", "--rate=40000", "--poisson"), everywhere=True),
    Row("proxy-open", "proxy, 20,000 requests/s of 64 B over 64 connections, server on all CPUs",
        "proxy", ("--connections=64", "--rate=20000", "--poisson"), "echo", everywhere=True),
    Row("echo-workers", "echo by one worker and by two, 20,000 requests/s of 64 B",
        "echo", ("--connections=64", "--rate=20000", "--poisson"),
        names=("parkway-two", "parkway"), subject="parkway-two", everywhere=True),
    Row("echo-skewed", "echo by two workers, 20,000 requests/s, all connections placed on one",
        "echo", ("--connections=64", "--rate=20000", "--poisson"),
        names=("parkway-skewed", "parkway-two"), subject="parkway-skewed", everywhere=True),
    Row("proxy-bulk", "proxy, 4 streams down", "proxy",
        ("--mode=down", "--connections=4", "--noverify"), serves=("--mode=source",), per="byte",
        names=(*USUAL, *contestants.SPLICING_NAMES)),
    gauge("moderate", "25,000 requests/s, 50 per connection", "--connections=10", "--rate=25000",
          "--reuse=50"),
    gauge("max", "100 connections, 50 requests each", "--connections=100", "--reuse=50"),
    gauge("no-keepalive", "3,500 requests/s, a connection each", "--connections=10",
          "--rate=3500", "--reuse=1"),
)}


@dataclass(frozen=True)
class Figures:
    """Of one contestant in one round."""

    cpu: float  # µs per request or connection, ns per byte
    per_second: float  # requests or connections; Gbit
    p50: float
    p99: float
    errors: int


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROWS",
                        help="of %(default)s (the default)")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 0.5 s")
    parser.add_argument("--rounds", type=int, default=41, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.5,
                        help="per contestant and round, besides the warm-up (default: %(default)s)")
    report.add_arguments(parser)
    contestants.add_arguments(parser)
    parser.set_defaults(contestants=",".join(contestants.ALL_NAMES))
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 5, 0.5
    if args.rounds < 1 or args.seconds < 0.1:
        parser.error("--rounds is at least 1, --seconds at least 0.1")
    unknown = [name for name in args.only.split(",") if name not in ROWS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; known: {', '.join(ROWS)}")
    return args


class Bench:
    def __init__(self, args):
        self._args = args
        self._programs = contestants.Programs(args)
        if not self._programs.loadgen.is_file():
            raise BenchError(f"no program at {self._programs.loadgen}; {contestants.BUILD_HINT}")
        self._server_cpu, self._load_cpus = split_cpus()
        self._all_cpus = sorted({self._server_cpu, *self._load_cpus})

    def measure(self, row):
        """(figures by contestant, remarks)"""
        names, remarks = contestants.choose(self._args.contestants, row.kind, self._programs)
        names = [name for name in names if name in row.names]
        if not names:
            report.note(f"{row.name}: nobody to measure")
            return {}, remarks
        figures = {name: [] for name in names}
        with self._backend(row) as port:
            for number in range(self._args.rounds):
                report.note(f"{row.name}: round {number + 1} of {self._args.rounds}")
                for name in names if number % 2 == 0 else reversed(names):
                    figures[name].append(self._measure_one(row, name, port))
        return figures, remarks

    @contextlib.contextmanager
    def _backend(self, row):
        if row.serves:
            server = contestants.loadgen_backend(row.serves, self._programs, self._load_cpus)
        else:
            server = contestants.backend(row.backend, self._programs, 0, self._load_cpus)
        with server or contextlib.nullcontext():
            yield server and server.port

    def _measure_one(self, row, name, backend_port):
        cpus = self._all_cpus if row.everywhere else [self._server_cpu]
        with contestants.server(name, row.kind, self._programs, cpus, backend_port) as server:
            with one_sided(server) if name == "parkway-skewed" else contextlib.nullcontext():
                result, cpu = self._load(row, server)
            server.check_alive()
        errors = sum(result["errors"].values())
        if row.per == "byte":
            count, scale, rate = result["received"], 1e9, result["received"] * 8e-9
        else:
            count, scale, rate = result["requests"], 1e6, result["requests"]
        if count == 0:
            raise BenchError(f"{row.name}: {contestants.LABELS[name]} answered nothing: {result}")
        latency = result["latency_us"]
        return Figures(cpu / count * scale, rate / result["seconds"], latency["p50"],
                       latency["p99"], errors)

    def _load(self, row, server):
        """The load generator's result, and the server's CPU time while it measured."""
        command = [self._programs.loadgen, f"--address={HOST}:{server.port}",
                   f"--seconds={self._args.seconds}", *row.load]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              preexec_fn=pinned(self._load_cpus)) as loadgen:
            clock = {}
            pids = server.pids()
            for line in loadgen.stderr:
                clock[line.strip()] = cpu_seconds(pids)
            output = loadgen.stdout.read()
        if not {"measuring", "measured"} <= clock.keys():
            raise BenchError(f"the load generator failed: {' '.join(clock)}")
        return json.loads(output), clock["measured"] - clock["measuring"]


def ratio_text(mine, theirs):
    if not all(theirs):
        return "–"  # bulk has no latency
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, high = report.bounds(ratios)
    return f"{statistics.median(ratios):.2f} ({low:.2f}–{high:.2f})"


def column(figures, field):
    return [getattr(one, field) for one in figures]


def rows_table(row, figures):
    unit, rate = ("ns/byte", "Gbit/s") if row.per == "byte" else ("µs", "per second")
    header = ["", f"CPU {unit}", rate, "p50 µs", "p99 µs", "errors",
              f"{contestants.LABELS[row.subject]}: its CPU ÷", "its rate ÷", "its p50 ÷",
              "its p99 ÷"]
    mine = figures.get(row.subject)
    rows = []
    for name, theirs in figures.items():
        medians = {field: statistics.median(column(theirs, field))
                   for field in ("cpu", "per_second", "p50", "p99")}
        compared = mine is not None and name != row.subject
        rows.append([
            contestants.LABELS[name], f"{medians['cpu']:.3g}", f"{medians['per_second']:,.5g}",
            f"{medians['p50']:.0f}", f"{medians['p99']:.0f}", str(sum(column(theirs, "errors"))),
            *(ratio_text(column(mine, field), column(theirs, field)) if compared else ""
              for field in ("cpu", "per_second", "p50", "p99"))])
    return header, rows


def main():
    args = parse_arguments()
    bench = Bench(args)
    document = report.Document(
        "In paired rounds", f"rounds: {args.rounds} of {args.seconds:g} s; told are medians, and "
        "in brackets between which bounds a median lies with 95 % confidence")
    for name in args.only.split(","):
        figures, remarks = bench.measure(ROWS[name])
        if not figures:
            continue
        document.add(ROWS[name].title, remarks, rows_table(ROWS[name], figures))
        document.figures[name] = {
            "title": ROWS[name].title, "per": ROWS[name].per,
            "rounds": {who: [vars(one) for one in rounds] for who, rounds in figures.items()}}
    document.publish(args)


if __name__ == "__main__":
    run("paired", main)
