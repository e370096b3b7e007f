# SPDX-License-Identifier: Apache-2.0
"""The load: wrk with the scripts beside this folder, and scenarios that name them."""

import math
import re
import signal
import subprocess
from dataclasses import dataclass

from harness.contestants import BENCH
from harness.process import BenchError, HOST, pinned, require_program

SMALLEST_PAYLOAD = 38
SMALLEST_CLOSING_PAYLOAD = 57


@dataclass(frozen=True)
class Scenario:
    """kind: what the server does; backend: what stands behind a proxy; close: one request each."""

    name: str
    kind: str
    title: str
    backend: str = ""
    close: bool = False


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("echo", "echo", "echo"),
        Scenario("proxy", "proxy", "proxy to an echo server", "echo"),
        Scenario("http", "proxy", "proxy to an HTTP server", "http"),
        Scenario("connect-echo", "echo", "connect + echo + close", close=True),
        Scenario("connect-proxy", "proxy", "proxied connect + echo + close", "echo", True),
    )
}


@dataclass(frozen=True)
class LoadResult:
    requests: int
    errors: int
    seconds: float
    p50_us: float
    p99_us: float


def choose_scenarios(text):
    names = list(SCENARIOS) if text == "all" else text.split(",")
    for name in names:
        if name not in SCENARIOS:
            raise BenchError(f"unknown scenario {name!r}; known: {', '.join(SCENARIOS)}, all")
    return [SCENARIOS[name] for name in names]


class Load:
    """What the load is like: how many connections, how many bytes, on which CPUs."""

    def __init__(self, connections, payload, cpus, threads=1):
        self.connections = connections
        self.payload = payload
        self.cpus = cpus
        self.threads = min(threads, connections)

    def check(self, scenario):
        smallest = SMALLEST_CLOSING_PAYLOAD if scenario.close else SMALLEST_PAYLOAD
        if scenario.backend != "http" and self.payload < smallest:
            raise BenchError(f"--payload {self.payload} is too small for {scenario.name}: at least "
                             f"{smallest} bytes, since wrk must see a valid HTTP answer")

    def title(self, scenario):
        what = "body" if scenario.backend == "http" else "request"
        return f"{scenario.title}: {self.connections} connections, {self.payload} B per {what}"

    def wrk_command(self, scenario, port, seconds):
        http = scenario.backend == "http"
        command = [require_program("wrk", "wrk"), f"-t{self.threads}",
                   f"-c{self.connections // self.threads * self.threads}",
                   f"-d{math.ceil(seconds)}s", "-s",
                   str(BENCH / "wrk" / ("http.lua" if http else "echo.lua")),
                   f"http://{HOST}:{port}/{'payload' if http else ''}"]
        if not http:
            command += ["--", str(self.payload), "1"] + (["close"] if scenario.close else [])
        return command

    def run(self, scenario, port, seconds):
        """Loads the port; a fraction of a second is reached by stopping wrk, which then reports."""
        with subprocess.Popen(self.wrk_command(scenario, port, seconds), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True,
                              preexec_fn=pinned(self.cpus)) as wrk:
            try:
                output = _finish(wrk, seconds)
            except BaseException:
                wrk.kill()
                raise
        return parse_wrk(output)


def _finish(wrk, seconds):
    if seconds != int(seconds):
        try:
            return wrk.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            wrk.send_signal(signal.SIGINT)
    return wrk.communicate(timeout=seconds + 60)[0]


def parse_wrk(output):
    line = re.search(r"^bench requests=(\d+) errors=(\d+) duration_us=(\d+) "
                     r"p50_us=(\d+) p99_us=(\d+)$", output, re.MULTILINE)
    if line is None:
        raise BenchError(f"wrk did not finish:\n{output.strip()}")
    requests, errors, duration_us, p50_us, p99_us = map(int, line.groups())
    if requests == 0:
        raise BenchError(f"not one request was answered:\n{output.strip()}")
    return LoadResult(requests, errors, duration_us / 1e6, p50_us, p99_us)
