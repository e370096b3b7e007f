#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A crowd of sessions on the simulated kernel, and what each needs; alone, the program holds a million."""
import re
import subprocess
import unittest
from pathlib import Path

CROWD = Path(__file__).absolute().parent / "crowd"
SESSIONS = 5_000
BYTES_MAX = 1_000


class Crowd(unittest.TestCase):
    def test_each_session_needs_less_than_a_kilobyte(self):
        done = subprocess.run([CROWD, str(SESSIONS)], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        print(done.stdout, end="")
        bytes_each = re.match(rf"{SESSIONS} sessions: (\d+) bytes each in the daemon", done.stdout)
        self.assertLess(int(bytes_each[1]), BYTES_MAX)

    def test_a_mistake(self):
        done = subprocess.run([CROWD, "many"], capture_output=True, text=True, timeout=300)
        self.assertEqual((done.returncode, done.stderr), (2, "usage: crowd [SESSIONS]\n"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
