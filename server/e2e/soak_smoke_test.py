#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The soak works: it is content with the daemon, and finds what backends do wrong on purpose."""

import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).absolute().parent
sys.path.insert(0, str(HERE))

import soak  # noqa: E402
from harness import main  # noqa: E402


class SoakSmoke(unittest.TestCase):
    def setUp(self):
        if text := soak.obstacle(*soak.TOOLS):
            self.skipTest(text)

    def soak(self, *arguments):
        done = subprocess.run([sys.executable, str(HERE / "soak.py"), *arguments], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        print(done.stdout, file=sys.stderr)
        return done

    def test_the_daemon_holds(self):
        done = self.soak("--minutes=0.35", "--pause=1.5", "--seed=1")
        self.assertEqual(done.returncode, 0)
        self.assertIn("result       ok", done.stdout)
        self.assertRegex(done.stdout, r"faults +[1-9]")

    def test_lies_are_found(self):
        done = self.soak("--minutes=0.05", "--backends_lie", "--seed=1")
        self.assertEqual(done.returncode, 1)
        for lie in ("wrong", "short"):
            self.assertRegex(done.stdout, rf"FAILED: client's side of session .*: {lie}")


if __name__ == "__main__":
    main()
