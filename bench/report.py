#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One report of what the measuring programs wrote with --json: RESULTS.md, and report.html.

The latter has pictures, and needs no other file.
"""

import argparse
import html
import io
import statistics
from pathlib import Path

from harness import contestants, report
from harness.process import BenchError, run

TITLE = "Parkway beside others"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
th, td { border-bottom: 1px solid #ccc; padding: .2rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", nargs="+", metavar="JSON", help="written by --json")
    parser.add_argument("--out", default=".", metavar="FOLDER",
                        help="where RESULTS.md and report.html go (default: the current one)")
    return parser.parse_args()


def plotting():
    """The library, if it is there: without it only RESULTS.md is written."""
    try:
        import matplotlib
    except ImportError:
        raise BenchError("pictures need matplotlib; apt-get install python3-matplotlib") from None
    matplotlib.use("svg")
    import matplotlib.pyplot
    matplotlib.rcParams["svg.hashsalt"] = "parkway"  # the same figures give the same file
    return matplotlib.pyplot


def colour(name):
    return "#c0392b" if name.startswith("parkway") else "#95a5a6" if name == "floor" else "#5d7a99"


def picture(plot, figures):
    """What each contestant spends, and how long its clients wait, as SVG."""
    names = list(figures["rounds"])[::-1]
    rounds = [figures["rounds"][name] for name in names]
    figure, (left, right) = plot.subplots(1, 2, figsize=(11, 1 + 0.42 * len(names)), sharey=True)
    cpu = [[one["cpu"] for one in ones] for ones in rounds]
    medians = [statistics.median(ones) for ones in cpu]
    errors = [[median - report.bounds(ones)[0] for median, ones in zip(medians, cpu, strict=True)],
              [report.bounds(ones)[1] - median for median, ones in zip(medians, cpu, strict=True)]]
    left.barh(range(len(names)), medians, xerr=errors, color=[colour(name) for name in names],
              error_kw={"capsize": 3})
    left.set_yticks(range(len(names)), [contestants.LABELS[name] for name in names])
    left.set_xlabel("CPU, ns per byte" if figures["per"] == "byte" else "CPU, µs per request")
    if figures["per"] == "byte":
        spreads = [[one["per_second"] for one in ones] for ones in rounds]
        right.barh(range(len(names)), [statistics.median(ones) for ones in spreads],
                   color=[colour(name) for name in names])
        right.set_xlabel("Gbit/s")
    else:
        for field, marker in (("p50", "o"), ("p99", "|")):
            right.plot([statistics.median(one[field] for one in ones) for ones in rounds],
                       range(len(names)), marker, color="black", label=field)
        right.set_xscale("log")
        right.set_xlabel("latency, µs")
        right.legend(loc="best", frameon=False)
    figure.tight_layout()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plot.close(figure)
    return drawn.getvalue().partition("<svg")[2].join(["<svg", ""])


def cell(text, tag):
    return f"<{tag}>{html.escape(text)}</{tag}>"


def html_table(header, rows):
    lines = ["<tr>" + "".join(cell(text, "th") for text in header) + "</tr>"]
    lines += ["<tr>" + "".join(cell(text, "td") for text in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def html_list(texts):
    return "<ul>" + "".join(cell(text.removeprefix("- "), "li") for text in texts) + "</ul>"


def html_document(plot, document):
    by_title = {figures["title"]: figures for figures in document.figures.values()}
    parts = [cell(document.title, "h2"), html_list(document.facts)]
    for one in document.sections:
        parts += [cell(one["title"], "h3"), html_list(one["remarks"]) if one["remarks"] else ""]
        if one["title"] in by_title:
            parts.append(picture(plot, by_title[one["title"]]))
        parts += [html_table(header, rows) for header, rows in one["tables"]]
    return "\n".join(parts)


def main():
    args = parse_arguments()
    documents = [report.Document.read(path) for path in args.documents]
    out = Path(args.out)
    text = "\n\n".join(["<!-- SPDX-License-Identifier: Apache-2.0 -->",
                        *(one.markdown() for one in documents)])
    (out / "RESULTS.md").write_text(text + "\n", encoding="utf-8")
    report.note(f"written: {out / 'RESULTS.md'}")
    plot = plotting()
    body = "\n".join(html_document(plot, one) for one in documents)
    (out / "report.html").write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{TITLE}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{TITLE}</h1>\n{body}\n</html>\n", encoding="utf-8")
    report.note(f"written: {out / 'report.html'}")


if __name__ == "__main__":
    run("report", main)
