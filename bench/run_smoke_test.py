#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The measuring programs work, and the floor they compare with is correct.

Nothing here asserts speed.
"""

import hashlib
import importlib.util
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

BENCH = Path(__file__).absolute().parent
sys.path.insert(0, str(BENCH))

from harness import contestants, report  # noqa: E402
from harness.load import Load, SCENARIOS, choose_scenarios, parse_wrk  # noqa: E402
from harness.process import BenchError, HOST, Server, find_program, free_port  # noqa: E402
import paired  # noqa: E402
import syscalls  # noqa: E402

BIN = BENCH.parent
if not (BIN / "bench/limit/echo").exists():  # Not under Bazel: what Bazel built last.
    BIN = BENCH.parent / "bazel-bin"
LIMIT_ECHO = BIN / "bench/limit/echo"
LIMIT_PROXY = BIN / "bench/limit/proxy"

STREAM_BYTES = 8 << 20
SECONDS = 60
ANY_CPU = os.sched_getaffinity(0)


def floor_echo():
    port = free_port()
    return Server("limit/echo", [LIMIT_ECHO, port], port, ANY_CPU)


def floor_proxy(backend_port):
    port = free_port()
    return Server("limit/proxy", [LIMIT_PROXY, port, HOST, backend_port], port, ANY_CPU)


def random_bytes(seed):
    return random.Random(seed).randbytes(STREAM_BYTES)


def read_to_end(connection):
    digest, size = hashlib.sha256(), 0
    while piece := connection.recv(1 << 16):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def measure_of(data):
    return len(data), hashlib.sha256(data).hexdigest()


def send_and_finish(connection, data):
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


class FloorTest(unittest.TestCase):
    """Byte-exact on long streams, with half-close, also when the other side does not read."""

    def check_echo(self, port, reader_pause):
        data = random_bytes(seed=1)
        with socket.create_connection((HOST, port), SECONDS) as client:
            sender = threading.Thread(target=send_and_finish, args=(client, data))
            sender.start()
            time.sleep(reader_pause)  # Fills every buffer on the way.
            self.assertEqual(read_to_end(client), measure_of(data))
            sender.join()

    def test_echo(self):
        with floor_echo() as echo:
            self.check_echo(echo.port, reader_pause=0)
            self.check_echo(echo.port, reader_pause=0.3)

    def test_echo_through_the_proxy(self):
        with floor_echo() as echo, floor_proxy(echo.port) as proxy:
            self.check_echo(proxy.port, reader_pause=0)
            self.check_echo(proxy.port, reader_pause=0.3)

    def test_many_connections_through_the_proxy(self):
        with floor_echo() as echo, floor_proxy(echo.port) as proxy:
            clients = [socket.create_connection((HOST, proxy.port), SECONDS) for _ in range(200)]
            for number, client in enumerate(clients):
                send_and_finish(client, b"%d" % number)
            for number, client in enumerate(clients):
                self.assertEqual(read_to_end(client), measure_of(b"%d" % number))
                client.close()

    def test_the_backend_finishes_first(self):
        down, up = random_bytes(seed=2), random_bytes(seed=3)
        with socket.create_server((HOST, 0)) as listener:
            listener.settimeout(SECONDS)
            with floor_proxy(listener.getsockname()[1]) as proxy:
                listener.accept()[0].close()  # The runner's own look whether it listens.
                with socket.create_connection((HOST, proxy.port), SECONDS) as client:
                    backend = listener.accept()[0]
                    sender = threading.Thread(target=send_and_finish, args=(backend, down))
                    sender.start()
                    self.assertEqual(read_to_end(client), measure_of(down))
                    sender.join()
                    sender = threading.Thread(target=send_and_finish, args=(client, up))
                    sender.start()
                    self.assertEqual(read_to_end(backend), measure_of(up))
                    sender.join()
                    backend.close()

    def test_a_refused_backend_ends_the_client(self):
        with floor_proxy(free_port()) as proxy:
            with socket.create_connection((HOST, proxy.port), SECONDS) as client:
                try:
                    self.assertEqual(client.recv(1), b"")
                except ConnectionResetError:
                    pass


class FiguresTest(unittest.TestCase):
    def test_spread(self):
        self.assertEqual(report.spread([5]), report.Spread(5, 5, 5))
        self.assertEqual(report.spread([4, 1, 3, 2, 5]), report.Spread(2, 3, 4))

    def test_ratios_are_taken_within_a_round(self):
        # The machine is half as fast in every second round; the ratio does not notice.
        ratio = report.paired_ratio([9, 18, 9, 18], [10, 20, 10, 20])
        self.assertAlmostEqual(ratio.p25, 0.9)
        self.assertAlmostEqual(ratio.p75, 0.9)

    def test_table(self):
        self.assertEqual(report.table(["a", "b"], [["x", "10"]]),
                         "| a |  b |\n| - | -: |\n| x | 10 |")

    def test_wrk_output(self):
        result = parse_wrk("noise\n"
                           "bench requests=10 errors=1 duration_us=500000 p50_us=7 p99_us=9\n")
        self.assertEqual((result.requests, result.errors, result.seconds), (10, 1, 0.5))
        with self.assertRaisesRegex(BenchError, "not one request"):
            parse_wrk("bench requests=0 errors=1 duration_us=1 p50_us=0 p99_us=0\n")
        with self.assertRaisesRegex(BenchError, "unable to connect"):
            parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")

    def test_perf_output(self):
        text = ("# started on Monday\n\n40,,raw_syscalls:sys_enter,100,100.00,,\n"
                "30,,syscalls:sys_enter_recvfrom,100,100.00,,\n")
        self.assertEqual(syscalls.parse_perf(text), {"raw_syscalls:sys_enter": 40, "recvfrom": 30})
        with self.assertRaisesRegex(BenchError, "could not count read"):
            syscalls.parse_perf("<not counted>,,syscalls:sys_enter_read,0,100.00,,\n")

    def test_budget(self):
        echo = SCENARIOS["echo"]
        within = {"recvfrom": 1.001, "sendto": 1.0, "epoll_pwait2": 0.1}
        self.assertEqual(syscalls.over_budget(echo, {"parkway": within}), [])
        beyond = syscalls.over_budget(echo, {"parkway": {**within, "futex": 0.5}})
        self.assertEqual(beyond, ["echo: futex 0.500 per request, allowed 0.010"])
        waiting = {"parkway": {"epoll_wait": 0.5}, "floor": {"epoll_wait": 0.5}}
        self.assertEqual(syscalls.over_budget(echo, waiting),
                         ["echo: waits 0.500 per request, allowed 0.300"])
        self.assertEqual(len(syscalls.over_budget(echo, {"floor": within})), 1)

    def test_unknown_names_are_refused(self):
        with self.assertRaisesRegex(BenchError, "unknown scenario 'ehco'; known: echo, "):
            choose_scenarios("ehco")
        with self.assertRaisesRegex(BenchError, "unknown contestant 'nobody'"):
            contestants.choose("nobody", "echo", programs=None)
        with self.assertRaisesRegex(BenchError, "too small for echo: at least 38 bytes"):
            Load(64, 37, ANY_CPU).check(SCENARIOS["echo"])


class ProgramTest(unittest.TestCase):
    """Short runs of the programs themselves."""

    def run_program(self, name, *flags):
        return subprocess.run(
            [sys.executable, str(BENCH / name), f"--bin={BIN}", *flags],
            capture_output=True, text=True, timeout=10 * SECONDS, cwd=BENCH.parent)

    def need(self, *programs):
        for program in programs:
            if find_program(program) is None:
                self.skipTest(f"{program} is not installed")

    def rows(self, output, label):
        """The figures in every table row of that label."""
        rows = re.findall(rf"^\| {re.escape(label)} +\|(.*)", output, re.MULTILINE)
        return [re.findall(r"[\d,.]+", row) for row in rows]

    def check_measured(self, output, label, tables):
        rows = self.rows(output, label)
        self.assertEqual(len(rows), tables, output)
        for row in rows:
            *figures, errors = [float(figure.replace(",", "")) for figure in row]
            self.assertEqual(len(figures), 4 * 3 + 1, output)
            self.assertTrue(all(figure > 0 for figure in figures), output)
            self.assertEqual(errors, 0, output)

    def test_run(self):
        self.need("wrk")
        peers = ",haproxy" if find_program("haproxy") else ""
        done = self.run_program("run.py", "--rounds=1", "--seconds=0.3", "--connections=8",
                                "--scenario=echo,proxy", f"--contestants=floor{peers}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check_measured(done.stdout, "floor", tables=2)
        if peers:
            figures, ratios = self.rows(done.stdout, "HAProxy")
            self.assertTrue(all(float(f.replace(",", "")) > 0 for f in figures[:-1]), done.stdout)
            self.assertEqual(len(ratios), 4 * 3, done.stdout)

    def test_paired(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_program("paired.py", "--rounds=2", "--seconds=0.2",
                                    "--contestants=floor,splice", f"--json={folder}/out.json")
            self.assertEqual(done.returncode, 0, done.stderr)
            figures = json.loads(Path(folder, "out.json").read_text())["figures"]
        self.assertEqual(set(figures), set(paired.ROWS) - {"echo-workers", "echo-skewed"})
        self.assertIn("splice", figures["proxy-bulk"]["rounds"])
        for row in figures.values():
            for rounds in row["rounds"].values():
                self.assertEqual([one["errors"] for one in rounds], [0, 0])
                self.assertTrue(all(one["cpu"] > 0 and one["per_second"] > 0 for one in rounds))

    def test_bench_makes_one_report(self):
        if importlib.util.find_spec("matplotlib") is None:
            self.skipTest("this Python has no matplotlib")
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_program("bench.py", "--only=echo-64,proxy-bulk", "--out", folder,
                                    "--rounds=1", "--seconds=0.2", "--contestants=floor,splice")
            self.assertEqual(done.returncode, 0, done.stderr)
            text = Path(folder, "RESULTS.md").read_text()
            page = Path(folder, "report.html").read_text()
        for row in ("echo-64", "proxy-bulk"):
            self.assertIn(f"## {paired.ROWS[row].title}", text)
            self.assertIn(paired.ROWS[row].title, page)
        self.assertEqual(page.count("<svg"), 2)
        self.assertNotIn('src="', page)

    def test_bounds_hold_the_median_and_narrow_with_more_rounds(self):
        dice = random.Random(3)
        few, many = ([dice.gauss(1, 0.1) for _ in range(count)] for count in (9, 400))
        for ratios in (few, many):
            low, high = report.bounds(ratios)
            self.assertTrue(low <= statistics.median(ratios) <= high)
        self.assertLess(report.bounds(many)[1] - report.bounds(many)[0], 0.06)
        self.assertGreater(report.bounds(few)[1] - report.bounds(few)[0], 0.06)

    def test_syscalls(self):
        self.need("wrk", "perf")
        done = self.run_program("syscalls.py", "--seconds=1", "--contestants=floor")
        if "perf sees no" in done.stderr or "perf failed" in done.stderr:
            self.skipTest("perf may not count here")
        self.assertEqual(done.returncode, 0, done.stderr)
        (echo,), (proxied,) = self.rows(done.stdout, "receives + sends")
        self.assertTrue(1.99 < float(echo) < 2.2, done.stdout)
        self.assertTrue(3.99 < float(proxied) < 4.4, done.stdout)

    def test_instructions(self):
        self.need("valgrind")
        if b"__asan_init" in LIMIT_ECHO.read_bytes() or b"__tsan_init" in LIMIT_ECHO.read_bytes():
            self.skipTest("valgrind cannot run a program built with a sanitizer")
        done = self.run_program("instructions.py", "--requests=640", "--repeats=1",
                                "--contestants=floor")
        self.assertEqual(done.returncode, 0, done.stderr)
        for row in self.rows(done.stdout, "floor"):
            self.assertTrue(0 < int(row[0].replace(",", "")) < 10000, done.stdout)

    def test_memory(self):
        done = self.run_program("memory.py", "--connections=200", "--contestants=floor")
        self.assertEqual(done.returncode, 0, done.stderr)
        (echo,), (proxied,) = self.rows(done.stdout, "floor")
        self.assertTrue(0 <= float(echo) < 4 and 0 <= float(proxied) < 8, done.stdout)

    def test_a_missing_program_says_how_to_build_it(self):
        for program in ("paired.py", "run.py", "syscalls.py", "instructions.py", "memory.py"):
            done = self.run_program(program, "--parkway=/nonexistent/parkway")
            self.assertEqual(done.returncode, 1, program)
            self.assertIn("no such program: /nonexistent/parkway", done.stderr)
            self.assertIn("./dev bench builds it", done.stderr)


if __name__ == "__main__":
    unittest.main()
