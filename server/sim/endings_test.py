#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every row of docs/endings.md on the simulated kernel, in a hundred orders of events each.

server/e2e/endings_test.py plays the same rows on real sockets.

  bazel test //server/sim:endings_test
"""
import re
import subprocess
import unittest
from pathlib import Path

HERE = Path(__file__).absolute().parent
PAGE = HERE.parent.parent / "docs/endings.md"
SIM = HERE / "sim"


class Endings(unittest.TestCase):
    def test_a_row_that_is_not_there(self):
        done = subprocess.run([SIM, "--ending=idle_timeout: what not"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr),
                         (2, "sim: --ending=idle_timeout: what not: docs/endings.md has no such row\n"))


def play(section, logged, on_its_way, client, backend):
    def test(self):
        flags = [f"--ending={logged}: {on_its_way}", "--seeds=100"]
        done = subprocess.run([SIM, *flags, f"--echo={section == 'Echo'}".lower()],
                              capture_output=True, text=True, timeout=300)
        self.assertEqual(done.stdout + done.stderr, f"{client} | {backend} | {logged}\n")

    return test


def take_rows(page):
    section = None
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith("| logged "):
            logged, *cells = line.strip("| ").split(" | ")
            logged = logged.strip("`")
            name = "_".join(re.findall(r"\w+", f"{section} {logged} {cells[0]}"))
            setattr(Endings, f"test_{name}", play(section, logged, *cells[:3]))


take_rows(PAGE.read_text())

if __name__ == "__main__":
    unittest.main(verbosity=2)
