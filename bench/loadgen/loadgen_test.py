#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The load generator against servers that are right, wrong, slow and gone."""

import json
import socket
import subprocess
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).absolute().parent
LOADGEN = HERE / "loadgen"
ECHO = HERE.parent / "limit/echo"
HOST = "127.0.0.1"


def free_port():
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]


class Loadgen(unittest.TestCase):
    def setUp(self):
        self._processes = []
        self._servers = []

    def tearDown(self):
        for process in self._processes:
            process.kill()
            process.communicate()
        for server in self._servers:
            server.close()

    # ---- Servers.

    def echo(self):
        port = free_port()
        self._processes.append(subprocess.Popen([ECHO, str(port)]))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    return f"{HOST}:{port}"
        raise AssertionError("the echo server does not listen")

    def own_server(self, mode, *flags):
        process = subprocess.Popen([LOADGEN, f"--mode={mode}", f"--address={HOST}:0", *flags],
                                   stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process.stdout.readline().strip()

    def server(self, serve):
        """Calls serve(connection) for each, on a thread."""
        server = socket.create_server((HOST, 0))
        self._servers.append(server)

        def accept():
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"{HOST}:{server.getsockname()[1]}"

    # ---- Runs.

    def run_it(self, address, *flags, code=0):
        done = subprocess.run(
            [LOADGEN, f"--address={address}", "--seconds=0.5", "--warmup=0.1", *flags],
            capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, code, done.stderr + done.stdout)
        self.assertEqual(done.stderr.split(), ["measuring", "measured"])
        return json.loads(done.stdout)

    def refuse(self, *flags):
        done = subprocess.run([LOADGEN, *flags], capture_output=True, text=True, timeout=10,
                              check=False)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def test_closed_loop(self):
        result = self.run_it(self.echo(), "--connections=8", "--size=1000", "--depth=3")
        self.assertGreater(result["requests"], 100)
        self.assertGreaterEqual(result["received"], 1000 * (result["requests"] - 24))
        self.assertLessEqual(result["latency_us"]["p50"], result["latency_us"]["max"])
        self.assertEqual(sum(result["errors"].values()), 0)

    def test_an_open_loop_keeps_its_rate(self):
        for flags in ((), ("--poisson",)):
            result = self.run_it(self.echo(), "--rate=2000", *flags)
            self.assertAlmostEqual(result["requests"] / result["seconds"] / 2000, 1, delta=0.2)

    def test_latency_counts_from_when_a_request_was_due(self):
        """The server sleeps once: everything due meanwhile is late, not only one request."""

        def serve(connection):
            slept = False
            while data := connection.recv(65536):
                if not slept and time.monotonic() > start + 0.3:
                    slept = True
                    time.sleep(0.2)
                connection.sendall(data)

        start = time.monotonic()
        result = self.run_it(self.server(serve), "--rate=500", "--connections=1")
        self.assertGreater(result["latency_us"]["p90"], 50_000)
        self.assertLess(result["latency_us"]["p50"], 50_000)

    def test_a_connection_ends_after_its_requests(self):
        for reuse in (1, 7):
            for flags in ((), ("--rate=2000",)):
                result = self.run_it(self.echo(), f"--reuse={reuse}", "--connections=4", *flags)
                self.assertGreater(result["requests"], 50)
                self.assertAlmostEqual(result["connections"], result["requests"] / reuse, delta=8)

    def test_answers_of_another_size(self):
        sizes = ("--size=100", "--answer=10000")
        result = self.run_it(self.own_server("answers", *sizes), *sizes, "--depth=3")
        self.assertGreater(result["requests"], 100)
        self.assertAlmostEqual(result["received"] / result["requests"], 10000, delta=500)
        self.assertAlmostEqual(result["sent"] / result["requests"], 100, delta=20)

    def test_a_wrong_answer_is_found(self):
        server = self.own_server("answers", "--size=100", "--answer=10000")
        result = self.run_it(server, "--size=100", "--answer=9000", "--connections=2", code=1)
        self.assertGreater(result["errors"]["wrong_bytes"], 0)

    def test_bulk(self):
        for mode, address, moved in (("up", self.own_server("sink"), "sent"),
                                     ("down", self.own_server("source"), "received"),
                                     ("both", self.echo(), "received")):
            result = self.run_it(address, f"--mode={mode}", "--connections=2")
            self.assertGreater(result[moved], 10_000_000, mode)

    def test_a_wrong_byte_is_found(self):
        def serve(connection):
            for _ in range(10):
                connection.sendall(connection.recv(65536))
            data = bytearray(connection.recv(65536))
            data[-1] ^= 1
            connection.sendall(data)

        result = self.run_it(self.server(serve), "--connections=2", code=1)
        self.assertGreater(result["errors"]["wrong_bytes"], 0)

    def test_a_server_that_is_gone_closes_or_is_silent(self):
        gone = self.run_it(f"{HOST}:{free_port()}", code=1)
        self.assertGreater(gone["errors"]["connect"], 0)
        closes = self.run_it(self.server(lambda connection: connection.close()),
                             "--connections=2", code=1)
        self.assertGreater(closes["errors"]["early_end"] + closes["errors"]["reset"], 0)
        silent = self.run_it(self.server(lambda connection: time.sleep(60)), "--timeout=0.1",
                             "--connections=2", code=1)
        self.assertGreater(silent["errors"]["timeout"], 0)

    def test_nonsense_is_refused_in_one_line(self):
        self.assertIn("--address=: must be like", self.refuse())
        address = f"--address={HOST}:1"
        self.assertIn("--mode=fast: must be", self.refuse(address, "--mode=fast"))
        self.assertIn("--connections=0: must be 1 to", self.refuse(address, "--connections=0"))
        self.assertIn("--answer=0: --mode=answers has", self.refuse(address, "--mode=answers"))
        self.assertIn("is for --mode=requests", self.refuse(address, "--mode=up", "--rate=5"))
        self.assertIn("more: not a flag", self.refuse(address, "more"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
