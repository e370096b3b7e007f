#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How Parkway's poller would scale to machines with more cores than ours: a simulation.

One epoll for all workers, one per worker, and one per worker with stealing. The costs of the steps
are measured (--measure), the rest is a model: docs/scaling.md says what it holds and leaves out.
"""

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness import report
from harness.contestants import REPOSITORY
from harness.process import BenchError, run
from simulation import costs, picture
from simulation.load import BURST, LOADS
from simulation.shared import OneAtATime, Shared
from simulation.sharded import Moving, Sharded, Stealing

DESIGNS = {
    "one epoll": Shared,
    "one epoll, gated": OneAtATime,
    "sharded": Sharded,
    "sharded, stealing": Stealing,
    "… and moving": Moving,
}
UTILISATIONS = (0.6, 0.8)
# Senders that keep a machine saturated would send so many times what it can do.
EAGERNESS = 4
CORES_MAX = 1024  # IdleSet::kWorkersMax
WARM_NS = 1.5e6
WINDOW_NS = 3e6
# A window holds at least so many requests, or bursts; with few cores it is longer.
REQUESTS = 30_000
BURSTS = 2_000
# Connections that move need a while when all start on one shard. Of open arrivals, what piles up
# meanwhile has to be answered, too, which for many cores would take minutes to simulate.
SETTLE_NS = 30e6
SETTLE_CORES_MAX = 32
COSTS_PROGRAM = REPOSITORY / "bazel-bin/bench/costs"

SENSITIVITY = {
    "as measured": lambda c, factor: c,
    "harvesting one epoll": lambda c, factor: c.scaled(
        factor, "shared_call", "shared_event", "event_lock"),
    "a request on another core, and a cache line": lambda c, factor: c.scaled(
        factor, "moved", "line", "steal"),
    "a look at another worker": lambda c, factor: c.scaled(factor, "look"),
    "waking a sleeper": lambda c, factor: c.scaled(factor, "wake", "wake_latency"),
    "the request itself": lambda c, factor: c.scaled(factor, "request"),
}


@dataclass(frozen=True)
class Experiment:
    """The costs, and what one core does with them: the unit of everything."""

    costs: costs.Costs
    seed: int
    core_per_ns: float

    @staticmethod
    def calibrated(step_costs, seed):
        machine = Sharded(step_costs, "balanced", 1, seed)
        per_ns = machine.saturate(EAGERNESS / step_costs.request, WARM_NS,
                                  REQUESTS * step_costs.request).per_ns()
        return Experiment(step_costs, seed, per_ns)

    def _window_ns(self, cores, load):
        requests = BURSTS * BURST if load == "bursty" else REQUESTS
        return max(WINDOW_NS, requests / (cores * self.core_per_ns))

    def saturate(self, design, load, cores):
        machine = DESIGNS[design](self.costs, load, cores, self.seed)
        return machine.saturate(EAGERNESS * cores * self.core_per_ns, warm_ns(design, load),
                                self._window_ns(cores, load))

    def offer(self, design, load, cores, utilisation):
        machine = DESIGNS[design](self.costs, load, cores, self.seed)
        return machine.offer(utilisation * cores * self.core_per_ns,
                             warm_ns(design, load), self._window_ns(cores, load))

    def multiple(self, result):
        return result.per_ns() / self.core_per_ns


def warm_ns(design, load):
    return SETTLE_NS if DESIGNS[design].moves and load == "one shard" else WARM_NS


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", default="1,2,4,8,16,32,64,192", metavar="LIST",
                        help="default: %(default)s")
    parser.add_argument("--latency_cores", default="32,192", metavar="LIST",
                        help="for the tables of latencies (default: %(default)s)")
    parser.add_argument("--load", default=",".join(LOADS), metavar="LIST",
                        help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--costs", metavar="FILE",
                        help="figures of bench/costs.cc instead of those of docs/scaling.md")
    parser.add_argument("--measure", type=int, metavar="RUNS",
                        help="print this machine's figures, of so many runs of bench/costs.cc, and "
                             "simulate nothing")
    parser.add_argument("--sensitivity", action="store_true",
                        help="only what halved and doubled costs change at the most cores")
    parser.add_argument("--picture", metavar="FILE", help="write the throughputs there, as SVG")
    parser.add_argument("--markdown", metavar="FILE", help="write the report there, too")
    args = parser.parse_args()
    args.cores = core_counts(parser, "--cores", args.cores)
    args.latency_cores = core_counts(parser, "--latency_cores", args.latency_cores)
    args.load = args.load.split(",")
    for load in args.load:
        if load not in LOADS:
            parser.error(f"--load: unknown load {load!r}; known: {', '.join(LOADS)}")
    if args.measure is not None and args.measure < 1:
        parser.error(f"--measure: {args.measure} is not at least 1")
    return args


def core_counts(parser, flag, text):
    counts = []
    for word in text.split(","):
        if not word.isdigit() or not 1 <= int(word) <= CORES_MAX:
            parser.error(f"{flag}: {word!r} is not a number from 1 to {CORES_MAX}")
        counts.append(int(word))
    return sorted(set(counts))


# --- Measuring.


def measure(runs):
    if not COSTS_PROGRAM.is_file():
        raise BenchError(f"no program at {COSTS_PROGRAM}; build it with: bazel build //bench:costs")
    figures = {}
    for number in range(1, runs + 1):
        report.note(f"run {number} of {runs}")
        done = subprocess.run([COSTS_PROGRAM], capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"{COSTS_PROGRAM} failed: {done.stderr.strip()}")
        for name, ns in costs.parse(done.stdout).items():
            figures.setdefault(name, []).append(ns)
    return report.table(["step", "ns, median (p25–p75)"],
                        [[name, report.spread(values).text(0)] for name, values in figures.items()])


def step_costs(args):
    if not args.costs:
        return costs.from_measured(costs.MEASURED)
    try:
        return costs.from_measured(costs.parse(Path(args.costs).read_text()))
    except (OSError, ValueError) as error:
        raise BenchError(f"--costs={args.costs}: {error}") from None


# --- Tables.


def throughput(experiment, args):
    """{load: {design: [(cores, result)]}} at saturation."""
    results = {}
    for load in args.load:
        report.note(f"saturation: {load}")
        results[load] = {design: [(cores, experiment.saturate(design, load, cores))
                                  for cores in args.cores] for design in DESIGNS}
    return results


def throughput_table(experiment, results):
    rows = []
    for load, designs in results.items():
        for design, row in designs.items():
            rows.append([load, design, *(f"{experiment.multiple(result):.1f}" for _, result in row),
                         f"{100 * row[-1][1].lock_share():.0f} %"])
    cores = [count for count, _ in row]
    return report.table(["load", "design on so many cores:", *map(str, cores),
                         f"time waiting for locks, {cores[-1]}"], rows)


def latency_cells(experiment, design, load, cores):
    for utilisation in UTILISATIONS:
        result = experiment.offer(design, load, cores, utilisation)
        if result.keeps_up():
            yield f"{result.quantile(0.5) / 1e3:.0f} / {result.quantile(0.99) / 1e3:.0f}"
            yield f"{result.writes_per_request():.3f}"
            yield f"{100 * result.sleep_share():.0f} %"
        else:
            yield from ("overloaded", "–", "–")


def latency_tables(experiment, args):
    header = ["load", "design"]
    for utilisation in UTILISATIONS:
        header += [f"p50 / p99 µs at {100 * utilisation:.0f} %", "wake-ups/request",
                   "asleep"]
    for cores in args.latency_cores:
        report.note(f"latency: {cores} cores")
        rows = [[load, design, *latency_cells(experiment, design, load, cores)]
                for load in args.load if load != "one shard" or cores <= SETTLE_CORES_MAX
                for design in DESIGNS]
        yield f"**{cores} cores**\n\n" + report.table(header, rows)


def sensitivity_table(args):
    """At the most cores: throughput of one epoll and of Parkway, and Parkway's latency."""
    cores, rows = args.cores[-1], []
    base = step_costs(args)
    for name, change in SENSITIVITY.items():
        report.note(f"sensitivity: {name}")
        for factor in (1,) if name == "as measured" else (0.5, 2):
            experiment = Experiment.calibrated(change(base, factor), args.seed)
            one = experiment.saturate("one epoll", "balanced", cores)
            own = experiment.saturate("sharded, stealing", "balanced", cores)
            hot = experiment.saturate("sharded, stealing", "one shard", cores)
            late = experiment.offer("sharded, stealing", "balanced", cores, UTILISATIONS[0])
            rows.append([name if factor == 1 else f"{name} × {factor:g}",
                         f"{experiment.multiple(one):.0f}", f"{100 * one.lock_share():.0f} %",
                         f"{experiment.multiple(own):.0f}",
                         f"{experiment.multiple(hot):.1f}",
                         f"{late.quantile(0.5) / 1e3:.0f} / {late.quantile(0.99) / 1e3:.0f}"])
    return report.table(
        [f"{cores} cores, balanced", "one epoll", "waiting for locks", "sharded, stealing",
         "the same, one shard", f"its p50 / p99 µs, balanced, {100 * UTILISATIONS[0]:.0f} %"],
        rows)


def publish(text, markdown):
    print(text)
    if markdown:
        Path(markdown).write_text(text + "\n", encoding="utf-8")


def main():
    args = parse_arguments()
    if args.measure:
        publish(report.provenance() + "\n\n" + measure(args.measure), args.markdown)
        return
    if args.sensitivity:
        publish(sensitivity_table(args), args.markdown)
        return
    experiment = Experiment.calibrated(step_costs(args), args.seed)
    results = throughput(experiment, args)
    sections = [f"One core: {experiment.core_per_ns * 1e9:,.0f} requests/s, the unit below.",
                "## Throughput at saturation", throughput_table(experiment, results),
                "## Latency", *latency_tables(experiment, args)]
    publish("\n\n".join(sections), args.markdown)
    if args.picture:
        curves = {load: {design: [(cores, experiment.multiple(result)) for cores, result in row]
                         for design, row in designs.items()} for load, designs in results.items()}
        Path(args.picture).write_text(picture.draw(curves), encoding="utf-8")


if __name__ == "__main__":
    run("scaling", main)
