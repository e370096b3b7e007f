# SPDX-License-Identifier: Apache-2.0
"""Medians, paired ratios, tables, and what machine and tree the figures come from."""

import argparse
import json
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness.contestants import REPOSITORY

RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    p25: float
    median: float
    p75: float

    def text(self, digits):
        def number(value):
            return f"{value:,.{digits}f}"

        return f"{number(self.median)} ({number(self.p25)}–{number(self.p75)})"


def spread(values):
    values = list(values)
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    p25, _, p75 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(p25, statistics.median(values), p75)


def bounds(values):
    """Between which the median lies with 95 % confidence: percentile bootstrap (Efron 1979)."""
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(values, k=len(values)))
                     for _ in range(RESAMPLES))
    return medians[RESAMPLES * 25 // 1000], medians[RESAMPLES * 975 // 1000 - 1]


def paired_ratio(subject, other):
    """The spread of subject ÷ other, each round's figures divided by those of the same round."""
    return spread(mine / theirs for mine, theirs in zip(subject, other, strict=True) if theirs > 0)


def table(header, rows):
    """A Markdown table, padded so that it also reads as plain text; the first column is words."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join([line(header), "| " + " | ".join(rule) + " |", *map(line, rows)])


def provenance():
    """Lines that say on what machine, from what tree and by which command."""
    command = ["python3", os.path.relpath(sys.argv[0]), *_asked(sys.argv[1:])]
    return "\n".join([
        f"- machine: {_cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        f"- commit: {_commit()}",
        f"- date: {time.strftime('%Y-%m-%d %H:%M %Z')}",
        f"- command: `{shlex.join(command)}`",
    ])


def _asked(arguments):
    """The arguments that say what to measure, without folders and files of this machine."""
    places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--bin", "--json", "--markdown"):
        places.add_argument(name)
    return places.parse_known_args(arguments)[1]


class Document:
    """What a program found: tables with remarks, as Markdown, and as JSON for report.py."""

    def __init__(self, title, *facts):
        self.title = title
        self.facts = [*provenance().splitlines(), *(f"- {fact}" for fact in facts)]
        self.sections = []
        self.figures = {}  # the measurements behind the tables, where a program keeps them

    def add(self, title, remarks, *tables):
        """A table is a header and its rows; one without rows is left out."""
        self.sections.append({"title": title, "remarks": list(remarks),
                              "tables": [list(one) for one in tables if one[1]]})

    def markdown(self):
        parts = [f"# {self.title}", "\n".join(self.facts)]
        for one in self.sections:
            parts += [f"## {one['title']}", "\n".join(f"- {text}" for text in one["remarks"])]
            parts += [table(header, rows) for header, rows in one["tables"]]
        return "\n\n".join(part for part in parts if part)

    def publish(self, args):
        print(self.markdown())
        if args.markdown:
            Path(args.markdown).write_text(self.markdown() + "\n", encoding="utf-8")
        if args.json:
            Path(args.json).write_text(json.dumps(vars(self)), encoding="utf-8")

    @staticmethod
    def read(path):
        document = Document.__new__(Document)
        vars(document).update(json.loads(Path(path).read_text(encoding="utf-8")))
        return document


def add_arguments(parser):
    parser.add_argument("--markdown", metavar="FILE", help="write the report there, too")
    parser.add_argument("--json", metavar="FILE", help="write it there for bench/report.py")


def note(text):
    print(text, file=sys.stderr, flush=True)


def fail_over_budget(complaints):
    """Ends the program with what exceeds its budget, if anything does."""
    if complaints:
        sys.exit("over budget:\n  " + "\n  ".join(complaints))


def _cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit():
    def git(*words):
        return subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True,
                              text=True, check=True).stdout.strip()

    try:
        changed = " with uncommitted changes" if git("status", "--porcelain") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
