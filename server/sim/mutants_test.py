#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every planted bug is found, and what is found can be shown again with less.

  bazel test //server/sim:mutants_test
"""
import os
import re
import subprocess
import unittest
from pathlib import Path

HERE = Path(__file__).absolute().parent
MUTANTS = sorted((HERE / "mutants").glob("*.mutant"))
SEEDS = 20_000  # in any of which it must show; most show in the first hundred of their scenario


class Mutants(unittest.TestCase):
    def test_there_are_enough(self):
        self.assertGreaterEqual(len(MUTANTS), 12)


def sim(mutant, *flags):
    return subprocess.run([HERE / "planted", *flags], capture_output=True, text=True, timeout=600,
                          env=dict(os.environ, PARKWAY_PLANTED_BUG=mutant.stem))


def found(mutant):
    def test(self):
        scenario = re.search(r"^# Scenario: (\w+)$", mutant.read_text(), re.M)[1]
        done = sim(mutant, f"--seeds={SEEDS}", f"--scenario={scenario}")
        self.assertEqual(done.returncode, 1, f"not found: {done.stdout}{done.stderr}")
        print(f"    {done.stdout.splitlines()[0]}")
        replay = re.search(r"^  \./dev sim (.+)$", done.stdout, re.M)[1].split()
        runs = [sim(mutant, *replay) for _ in range(2)]
        self.assertNotEqual(runs[0].returncode, 0, f"the replay passes: {replay}")
        self.assertEqual(runs[0].stdout, runs[1].stdout)

    return test


for path in MUTANTS:
    setattr(Mutants, f"test_{path.stem}", found(path))

if __name__ == "__main__":
    unittest.main(verbosity=2)
