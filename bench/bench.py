#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what is asked for, one program after the other, and makes one report: ./dev bench."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import paired
from harness.contestants import BENCH, REPOSITORY
from harness.process import BenchError, run

# What to measure besides the rows of paired.py, by its name here.
OTHERS = {"idle": "memory.py", "syscalls": "syscalls.py", "instructions": "instructions.py",
          "wrk": "run.py"}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Further arguments go to paired.py as they are: --help there.",
        prog="./dev bench")
    known = ", ".join([*paired.ROWS, *OTHERS])
    parser.add_argument("--only", metavar="LIST",
                        help=f"of {known}; default: the rows of paired.py")
    parser.add_argument("--full", action="store_true", help="all of them")
    parser.add_argument("--out", default=".", metavar="FOLDER",
                        help="where RESULTS.md and report.html go (default: the current one)")
    parser.add_argument("--bin", metavar="FOLDER", default=REPOSITORY / "bazel-bin",
                        help="where Bazel built them (default: bazel-bin of this repository)")
    args, args.rest = parser.parse_known_args()
    names = args.only.split(",") if args.only else [*paired.ROWS, *(OTHERS if args.full else ())]
    unknown = [name for name in names if name not in paired.ROWS and name not in OTHERS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; known: {known}")
    args.rows = [name for name in names if name in paired.ROWS]
    args.others = [name for name in names if name in OTHERS]
    if not Path(args.out).is_dir():
        parser.error(f"--out: no folder {args.out!r}")
    return args


def measure(args, program, output, *arguments):
    execute(program, "--bin", args.bin, "--json", output, *arguments)
    return output


def execute(program, *arguments):
    if subprocess.run([sys.executable, BENCH / program, *arguments]).returncode != 0:
        raise BenchError(f"{program} failed")


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="parkway-bench-") as folder:
        written = []
        if args.rows:
            written.append(measure(args, "paired.py", f"{folder}/rows.json",
                                   "--only", ",".join(args.rows), *args.rest))
        for name in args.others:
            written.append(measure(args, OTHERS[name], f"{folder}/{name}.json"))
        execute("report.py", "--out", args.out, *written)


if __name__ == "__main__":
    run("bench", main)
