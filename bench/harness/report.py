# SPDX-License-Identifier: Apache-2.0
"""Medians, paired ratios, tables, and what machine and tree the figures come from."""

import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from harness.contestants import REPOSITORY


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
    return "\n".join([
        f"- machine: {_cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        f"- commit: {_commit()}",
        f"- date: {time.strftime('%Y-%m-%d %H:%M %Z')}",
        f"- command: `{shlex.join(['python3', os.path.relpath(sys.argv[0])] + sys.argv[1:])}`",
    ])


def section(title, remarks, *tables):
    parts = [f"## {title}", "\n".join(f"- {remark}" for remark in remarks), *tables]
    return "\n\n".join(part for part in parts if part)


def note(text):
    print(text, file=sys.stderr, flush=True)


def publish(text, markdown):
    print(text)
    if markdown:
        with open(markdown, "w", encoding="utf-8") as file:
            file.write(text + "\n")


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
