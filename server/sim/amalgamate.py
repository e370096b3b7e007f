#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Joins sources to one file, each header once, and plants a bug in it if told to.

A .mutant file says what is wrong in a comment and then what to replace where; the old text must
occur exactly once in the file named, so that a mutant cannot outlive the code it is about:

    # What is broken.
    # Scenario: the one that shows it soonest
    file: netpoll/internal/await_slot.h
    <<<<
    the lines as they are
    ====
    the lines with the bug
    >>>>
"""
import argparse
import re
import sys

INCLUDE = re.compile(r'^#include "([^"]+)"$', re.M)
CHANGE = re.compile(r"^file: (\S+)\n<<<<\n(.*?)^====\n(.*?)^>>>>\n", re.M | re.S)


def changes_of(mutant):
    with open(mutant) as file:
        found = CHANGE.findall(file.read())
    if not found:
        sys.exit(f"{mutant}: no change in it")
    return found


def read(paths, mutant):
    texts = {}
    for path in paths:
        with open(path) as file:
            texts[path] = file.read()
    for path, old, new in changes_of(mutant) if mutant else []:
        count = texts[path].count(old) if path in texts else 0
        if count != 1:
            sys.exit(f"{mutant}: its text occurs {count} times in {path}, not once")
        texts[path] = texts[path].replace(old, new)
    return texts


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
    parser.add_argument("--mutant")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    files = [path for path in arguments.files if path.endswith((".h", ".cc"))]
    texts = read(files, arguments.mutant)
    done = set()
    with open(arguments.out, "w") as out:
        for path in files:
            if path.endswith(".cc"):
                out.write(joined(path, texts, done))


if __name__ == "__main__":
    main()
