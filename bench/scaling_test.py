#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The simulation agrees with queueing theory where there is some, loses nothing, and repeats."""

import re
import subprocess
import sys
import unittest
from pathlib import Path

BENCH = Path(__file__).absolute().parent
sys.path.insert(0, str(BENCH))

import scaling  # noqa: E402
from simulation import costs  # noqa: E402
from simulation.load import LOADS  # noqa: E402
from simulation.sharded import Moving, Sharded, Stealing  # noqa: E402

COSTS_PROGRAM = BENCH / "costs"
if not COSTS_PROGRAM.exists():  # Not under Bazel: what Bazel built last.
    COSTS_PROGRAM = BENCH.parent / "bazel-bin/bench/costs"

REQUEST_NS = 5000
# All else costs nothing, but for a look at an empty epoll: who looks again and again must get on.
FREE = costs.Costs(request=REQUEST_NS, wait_empty=100)
MEASURED = costs.from_measured(costs.MEASURED)
PER_NS = 1 / REQUEST_NS
WARM_NS, WINDOW_NS = 1e6, 3e6


def every_design_and_load():
    for name, design in scaling.DESIGNS.items():
        for load in LOADS:
            yield f"{name}, {load}", design, load


class TheoryTest(unittest.TestCase):
    def mean_wait(self, utilisation):
        result = Sharded(FREE, "balanced", 1, seed=1).offer(utilisation * PER_NS, 1e7, 1e9)
        return result.mean() - REQUEST_NS

    def test_one_core_is_a_queue_with_deterministic_service(self):
        # Pollaczek and Khinchine: the mean wait of M/D/1.
        for utilisation in (0.5, 0.8):
            expected = REQUEST_NS * utilisation / (2 * (1 - utilisation))
            self.assertAlmostEqual(self.mean_wait(utilisation) / expected, 1, delta=0.04)

    def test_shards_without_help_are_as_many_queues(self):
        utilisation = 0.6
        result = Sharded(FREE, "balanced", 8, seed=1).offer(8 * utilisation * PER_NS, 1e7, 2e8)
        expected = REQUEST_NS * utilisation / (2 * (1 - utilisation))
        self.assertAlmostEqual((result.mean() - REQUEST_NS) / expected, 1, delta=0.04)

    def test_stealing_lies_between_own_queues_and_a_common_one(self):
        # A common queue's wait (M/D/c) is at least 1/c of a single queue's at the same utilisation.
        utilisation, cores = 0.8, 8
        alone = REQUEST_NS * utilisation / (2 * (1 - utilisation))
        result = Stealing(FREE, "balanced", cores, seed=1).offer(
            cores * utilisation * PER_NS, 1e7, 1e8)
        wait = result.mean() - REQUEST_NS
        self.assertLess(wait, 0.9 * alone)
        self.assertGreater(wait, alone / cores)

    def test_saturated_cores_do_nothing_but_requests_when_all_else_is_free(self):
        result = Sharded(FREE, "balanced", 8, seed=1).saturate(32 * PER_NS, WARM_NS, WINDOW_NS)
        self.assertAlmostEqual(result.per_ns() / PER_NS, 8, delta=0.02)


class ConservationTest(unittest.TestCase):
    def test_no_design_does_more_than_its_cores(self):
        for name, design, load in every_design_and_load():
            for step_costs in (FREE, MEASURED):
                with self.subTest(name):
                    per_ns = 1 / step_costs.request
                    result = design(step_costs, load, 8, seed=1).saturate(
                        32 * per_ns, WARM_NS, WINDOW_NS)
                    # By one request per core, more may end than begin in the window.
                    self.assertLessEqual(result.completed, 8 * (WINDOW_NS * per_ns + 1))

    def test_no_request_is_lost(self):
        # On two cores all designs but the one without help carry a quarter of the load anywhere.
        for name, design, load in every_design_and_load():
            with self.subTest(name):
                machine = design(MEASURED, load, 2, seed=1)
                result = machine.offer(0.25 * 2 / MEASURED.request, 0, 1e8)
                waiting = sum(len(one.arrivals) for one in machine.load.connections)
                running = sum(worker.running is not None for worker in machine.workers)
                # A request that is answered after the end has left its connection before.
                self.assertEqual(result.requested, result.completed + waiting + running)
                self.assertLess(waiting, 100)

    def test_stealing_carries_a_shard_that_is_too_much_for_its_core(self):
        alone, helped = (
            design(MEASURED, "one shard", 4, seed=1).saturate(
                16 / MEASURED.request, WARM_NS, WINDOW_NS) for design in (Sharded, Stealing))
        self.assertGreater(helped.completed, 2 * alone.completed)

    def test_connections_that_move_use_all_cores(self):
        result = Moving(MEASURED, "one shard", 8, seed=1).saturate(
            32 / MEASURED.request, 2e7, WINDOW_NS)
        self.assertGreater(result.per_ns() * MEASURED.request, 0.9 * 8)

    def test_one_epoll_hands_out_no_more_than_its_lock_allows(self):
        result = scaling.Shared(MEASURED, "balanced", 96, seed=1).saturate(
            400 / MEASURED.request, WARM_NS, WINDOW_NS / 2)
        self.assertLess(result.per_ns(), 1 / MEASURED.shared_event)
        # Who does not serve waits: 28 of 96 cores are all that the lock feeds.
        self.assertAlmostEqual(result.lock_share(), 1 - 28 / 96, delta=0.1)


class SeedTest(unittest.TestCase):
    def latencies(self, design, seed):
        machine = design(MEASURED, "zipf", 4, seed)
        return machine.offer(2 / MEASURED.request, WARM_NS, WINDOW_NS).latencies

    def test_a_seed_repeats_a_run_and_another_does_not(self):
        for name, design in scaling.DESIGNS.items():
            with self.subTest(name):
                self.assertEqual(self.latencies(design, 7), self.latencies(design, 7))
                self.assertNotEqual(self.latencies(design, 7), self.latencies(design, 8))


class ProgramTest(unittest.TestCase):
    def run_program(self, *flags):
        return subprocess.run([sys.executable, str(BENCH / "scaling.py"), *flags],
                              capture_output=True, text=True, timeout=60)

    def refused(self, message, *flags):
        done = self.run_program(*flags)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(message, done.stderr)

    def test_the_tables_have_a_row_for_each_design(self):
        done = self.run_program("--cores=2", "--latency_cores=2", "--load=zipf")
        self.assertEqual(done.returncode, 0, done.stderr)
        designs = re.findall(r"^\| zipf +\| +(.*?) \|", done.stdout, re.MULTILINE)
        self.assertEqual(designs, 2 * list(scaling.DESIGNS))

    def test_nonsense_is_refused(self):
        self.refused("--cores: '0' is not a number from 1 to 1024", "--cores=1,0")
        self.refused("--latency_cores: 'x' is not a number", "--latency_cores=x")
        self.refused("--load: unknown load 'ziff'; known: balanced", "--load=ziff")
        self.refused("--measure: 0 is not at least 1", "--measure=0")

    def test_costs_that_lack_something_are_refused(self):
        with self.assertRaisesRegex(ValueError, "no figure for cache_line_transfer"):
            costs.parse("request 5000\n")
        with self.assertRaisesRegex(ValueError, "unknown figure 'reqest'"):
            costs.parse("reqest 5000\n")

    def test_the_measuring_program_measures_what_the_model_needs(self):
        if not COSTS_PROGRAM.is_file():
            self.skipTest("bench/costs is not built")
        done = subprocess.run([COSTS_PROGRAM], capture_output=True, text=True, timeout=60)
        if "needs two CPUs" in done.stderr:
            self.skipTest("there is only one CPU")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(all(ns > 0 for ns in costs.parse(done.stdout).values()), done.stdout)


if __name__ == "__main__":
    unittest.main()
