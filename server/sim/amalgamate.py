#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Joins sources to one file, each header once, and plants bugs in it if told to.

A .mutant file says what is wrong in a comment and then what to replace where; the old text must
occur exactly once in the file named, so that a mutant cannot outlive the code it is about. In the
new text PLANTED is true in a process whose environment names this mutant:

    # What is broken.
    # Scenario: the one that shows it soonest
    file: netpoll/internal/await_slot.h
    <<<<
    the lines as they are
    ====
    the lines with the bug where PLANTED
    >>>>
"""
import argparse
import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'^#include "([^"]+)"$', re.M)
CHANGE = re.compile(r"^file: (\S+)\n<<<<\n(.*?)^====\n(.*?)^>>>>\n", re.M | re.S)

# Before everything else: which bug this process has.
PROLOGUE = """\
#include <cstdio>
#include <cstdlib>
#include <cstring>
namespace {
int PlantedBug() {
  const char* const kNames[] = {%s};
  const char* const wanted = std::getenv("PARKWAY_PLANTED_BUG");
  for (int i = 0; wanted != nullptr && i < %d; ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return i;
  }
  std::fprintf(stderr, "PARKWAY_PLANTED_BUG names no mutant\\n");
  std::exit(2);
}
const int planted_bug = PlantedBug();
}  // namespace
"""


def plant(mutants, texts):
    """Changes the texts, all at once: each mutant is about the code as it is."""
    changes = {}  # path: [(place, old, new)]
    for number, mutant in enumerate(mutants):
        found = CHANGE.findall(Path(mutant).read_text())
        if not found:
            sys.exit(f"{mutant}: no change in it")
        for path, old, new in found:
            count = texts[path].count(old) if path in texts else 0
            if count != 1:
                sys.exit(f"{mutant}: its text occurs {count} times in {path}, not once")
            if "PLANTED" not in new:
                sys.exit(f"{mutant}: no PLANTED in its new text")
            changes.setdefault(path, []).append(
                (texts[path].index(old), old, new.replace("PLANTED", f"(planted_bug == {number})")))
    for path, planned in changes.items():
        for place, old, new in sorted(planned, reverse=True):
            if texts[path][place:place + len(old)] != old:
                sys.exit(f"{path}: two mutants change the same lines: {old}")
            texts[path] = texts[path][:place] + new + texts[path][place + len(old):]


def joined(path, texts, done):
    """The text of a file with the files it includes in their place, unless they came before."""
    if path in done:
        return ""
    done.add(path)
    pieces = [f'#line 1 "{path}"\n']
    at = 0
    text = texts[path]
    for include in INCLUDE.finditer(text):
        if include[1] not in texts:
            continue  # a library's
        line = text.count("\n", 0, include.end()) + 2
        pieces += [text[at:include.start()], joined(include[1], texts, done), f'#line {line} "{path}"']
        at = include.end()
    return "".join(pieces) + text[at:] + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--mutant", action="append", default=[])
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    files = [path for path in arguments.files if path.endswith((".h", ".cc"))]
    texts = {path: Path(path).read_text() for path in files}
    plant(arguments.mutant, texts)
    done = set()
    with open(arguments.out, "w") as out:
        if arguments.mutant:
            names = ", ".join(f'"{Path(mutant).stem}"' for mutant in arguments.mutant)
            out.write(PROLOGUE % (names, len(arguments.mutant)))
        for path in files:
            if path.endswith(".cc"):
                out.write(joined(path, texts, done))


if __name__ == "__main__":
    main()
