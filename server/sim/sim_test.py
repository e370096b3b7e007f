#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon in the simulation: many seeds pass, a seed gives the same run again, bad flags are told.

  bazel test //server/sim:sim_test
"""
import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).absolute().parent
SIM = HERE / "sim"
SANITIZED = b"__asan_init" in SIM.read_bytes()
SEEDS = 1000 if SANITIZED else 10_000


def sim(*flags):
    return subprocess.run([SIM, *flags], capture_output=True, text=True, timeout=600)


class Sim(unittest.TestCase):
    def test_seeds_pass(self):
        done = sim(f"--seeds={SEEDS}")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"sim: {SEEDS} seeds passed", done.stdout)
        print(done.stdout, end="", file=sys.stderr)

    def test_a_seed_gives_the_same_run_again(self):
        logs = set()
        for seed in range(1, 33):
            first, second = sim(f"--seed={seed}", "--events"), sim(f"--seed={seed}", "--events")
            self.assertEqual((first.returncode, second.returncode), (0, 0))
            self.assertEqual(first.stdout, second.stdout)
            logs.add(first.stdout)
        # Where the daemon has too few descriptors to start, nothing happens.
        self.assertGreaterEqual(len(logs - {""}), 30)
        self.assertGreater(min(len(log.splitlines()) for log in logs - {""}), 10)

    def test_mistakes(self):
        for flags, message in (
            (["--scenario=nonsense"], "sim: --scenario=nonsense: there are requests streams "),
            (["--seed=1", "--drop=client99"], "sim: --drop=client99: seed 1 has no such part\n"),
            (["--seeds=-1"], "sim: --seeds=-1: must not be negative\n"),
            (["--seeds=5", "--events"], "sim: --events: for one seed only; name it with --seed\n"),
            (["word"], "sim: word: not a flag\n"),
        ):
            with self.subTest(flags):
                done = sim(*flags)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
