#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs fuzz targets from their committed corpus, and says in one line each what came of it.

./dev fuzz builds the programs and names them. What a run finds goes to a temporary folder, which is
removed unless something crashed. See docs/decisions/0014-fuzzing.md.
"""

import argparse
import base64
import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
MAX_BYTES = 1024  # of an input; all that the parsers tell apart fits
SECONDS_PER_INPUT = 5
RSS_MB = 1024


@dataclasses.dataclass(frozen=True)
class Target:
    """//FOLDER:NAME, with its corpus in FOLDER/corpus/NAME and its words in FOLDER/NAME.dict."""

    folder: str
    name: str
    program: Path

    @property
    def label(self):
        return f"//{self.folder}:{self.name}"

    @property
    def corpus(self):
        return TREE / self.folder / "corpus" / self.name

    @property
    def dictionary(self):
        return TREE / self.folder / f"{self.name}.dict"


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="./dev fuzz", description="Runs libFuzzer on the parsers, from the committed corpus.")
    parser.add_argument("--seconds", type=int, default=60, help="per target (default: %(default)s)")
    parser.add_argument("--keep", action="store_true",
                        help="add to the corpus the finds that reach code it does not")
    parser.add_argument("targets", nargs="*", metavar="TARGET",
                        help="such as endpoint or //netpoll/fuzz:endpoint_fuzz (default: all)")
    parser.add_argument("--bin", type=Path, help=argparse.SUPPRESS)  # where Bazel put the programs
    parser.add_argument("--labels", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seconds < 1:
        parser.error("--seconds is at least 1")
    known = all_targets(args.bin or Path())
    args.chosen = [target for target in known
                   if not args.targets or set(args.targets) & names_of(target)]
    unknown = set(args.targets) - {name for target in known for name in names_of(target)}
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are "
                     + ", ".join(map(short_name, known)))
    return args


def all_targets(programs):
    sources = sorted(source.relative_to(TREE) for source in TREE.glob("*/fuzz/*_fuzz.cc"))
    return [Target(str(source.parent), source.stem, programs / source.with_suffix(""))
            for source in sources]


def names_of(target):
    return {target.label, target.name, short_name(target)}


def libfuzzer(target, *arguments):
    # In memory: a target writes files by the thousand, and a disk would be what is measured.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="parkway-fuzz-", dir=memory) as files:
        environment = {"UBSAN_OPTIONS": "print_stacktrace=1", **os.environ, "TMPDIR": files}
        return subprocess.run([target.program, *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", env=environment, check=False)


def fuzz(target, seconds, scratch):
    """The line to print, and whether it went well."""
    finds, crashes = scratch / target.name / "finds", scratch / target.name / "crashes"
    finds.mkdir(parents=True)
    crashes.mkdir()
    done = libfuzzer(
        target, f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-dict={target.dictionary}",
        f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={RSS_MB}", "-print_final_stats=1",
        f"-artifact_prefix={crashes}/", finds, target.corpus)
    # libFuzzer ends at the first crash; `slow-unit-...` is a note, not a failure.
    crashed = sorted(path for path in crashes.iterdir() if not path.name.startswith("slow-unit-"))
    well = done.returncode == 0 and not crashed
    lines = [summary(target, done.stdout, len(crashed) if crashed else int(not well))]
    if not well:
        log = scratch / target.name / "log"
        log.write_text(done.stdout)
        reason = re.search(r"^(does not hold: .*|SUMMARY: .*|.*runtime error: .*|==\d+==ERROR: .*)",
                           done.stdout, re.MULTILINE)
        lines.append(f"  {reason[1] if reason else last_line(done.stdout)}")
        lines.append(f"  log       {log}")
    for path in crashed:
        lines.append(f"  input     {path}")
        lines.append(f"  base64    {base64.b64encode(path.read_bytes()).decode()}")
        lines.append(f"  replay    bazel run --config=fuzz {target.label} -- {path}")
    return "\n".join(lines), well


def last_line(text):
    return text.strip().splitlines()[-1] if text.strip() else "no output"


def summary(target, output, crash_count):
    def last(pattern):
        found = re.findall(pattern, output)
        return found[-1] if found else "-"

    runs = last(r"stat::number_of_executed_units: (\d+)")
    speed = last(r"exec/s: (\d+)")
    coverage, features = last(r" cov: (\d+)"), last(r" ft: (\d+)")
    found = last(r"stat::new_units_added: +(\d+)")
    return (f"{short_name(target):<10}{runs:>9} runs {speed:>7}/s  cov {coverage:>5}"
            f"  ft {features:>5}  corpus {corpus_count(target):>3} + {found:<5} crashes {crash_count}")


def short_name(target):
    return target.name.removesuffix("_fuzz")


def corpus_count(target):
    return sum(1 for _ in target.corpus.iterdir())


def is_find(path):
    """libFuzzer calls its finds by their SHA-1; what people wrote has a name, and stays."""
    return re.fullmatch(r"[0-9a-f]{40}", path.name) is not None


def keep(target, scratch):
    """Replaces the finds in the corpus by few, of old and new, that reach the same code."""
    folder = scratch / target.name
    seeds = [path for path in target.corpus.iterdir() if not is_find(path)]
    old = [path for path in target.corpus.iterdir() if is_find(path)]
    kept = merge(target, folder / "first", seeds, [*old, *(folder / "finds").iterdir()])
    # libFuzzer starts with the smallest and does not look ahead: once more, with the large ones in.
    kept.sort(key=lambda path: path.stat().st_size)
    small, large = kept[:len(kept) * 2 // 3], kept[len(kept) * 2 // 3:]
    kept = large + merge(target, folder / "second", seeds + large, small)
    for path in old:
        path.unlink()
    for path in kept:
        shutil.copy(path, target.corpus)
    return f"{short_name(target):<10}corpus {corpus_count(target):>3}"


def merge(target, folder, given, offered):
    """Those of `offered` that reach code which the ones before and `given` do not."""
    merged, more = folder / "merged", folder / "more"
    for paths, where in ((given, merged), (offered, more)):
        where.mkdir(parents=True)
        for path in paths:
            shutil.copy(path, where)
    # Without counters, which tell apart how often code ran: with them the corpus would be large.
    done = libfuzzer(target, "-merge=1", "-use_counters=0", f"-max_len={MAX_BYTES}", merged, more)
    if done.returncode != 0:
        sys.exit(f"dev: fuzz: {target.name}: merging failed: {last_line(done.stdout)}")
    return [path for path in merged.iterdir() if path.name not in {one.name for one in given}]


def main():
    args = parse_arguments()
    if args.labels:
        print("\n".join(target.label for target in args.chosen))
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="parkway-fuzz-"))
    well = True
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for text, good in pool.map(lambda target: fuzz(target, args.seconds, scratch), args.chosen):
            print(text, flush=True)
            well = well and good
        if well and args.keep:
            for text in pool.map(lambda target: keep(target, scratch), args.chosen):
                print(text, flush=True)
    if well:
        shutil.rmtree(scratch)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
