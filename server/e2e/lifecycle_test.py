#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How the daemon ends, and what it costs while nothing happens."""

import resource
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, PATIENCE, SANITIZED, SLOW, DaemonTest, Parallel, Pattern, fill, in_parallel,
    main, recv_exactly, wait_until)


class Drain(DaemonTest):
    def test_an_idle_daemon_ends_at_once(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            for workers in (1, 2, 8):
                daemon = self.echo(f"--workers={workers}", "--drain_timeout=1h")
                self.stop(daemon, number=number)

    def test_the_trial_of_a_unix_listener_leaves_no_path(self):
        path = Path(self.folder(), "front")
        daemon = self.start("--mode=echo", f"--listen=unix:{path}")
        self.stop(daemon)
        self.assertFalse(path.exists())

    def test_sessions_end_by_themselves(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--drain_timeout=1h",))
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)
        daemon.signal(signal.SIGTERM)
        self.await_refusal(daemon)
        for _ in range(10):
            self.assert_relays(client, backend)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin")
        backend.sendall(b"last words")
        self.assertTrue(daemon.running())
        backend.close()
        self.assert_ends(client, "fin", b"last words")
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 1, "client_fin": 1})

    def test_streams_in_flight_are_finished(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--drain_timeout=1h"))
        streams = Parallel()
        for number in range(4):
            client, backend = self.session(daemon, server)
            up, down = Pattern(("up", number), 16 * MIB), Pattern(("down", number), 16 * MIB)
            for call in ((up.send, client), (up.receive, backend), (down.send, backend),
                         (down.receive, client)):
                streams.add(*call)
        daemon.signal(signal.SIGTERM)
        streams.join()
        daemon.check_end(0)

    def test_what_is_left_at_the_deadline_is_closed(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--drain_timeout=300ms"))
        client, backend = self.session(daemon, server)
        flooded = self.session(daemon, server)
        fill(flooded[1])
        self.assert_relays(client, backend)
        started = time.monotonic()
        daemon.signal(signal.SIGTERM)
        self.assert_ends(client, "fin")
        self.assert_ends(backend, "fin")
        self.assertGreater(time.monotonic() - started, 0.25)
        daemon.check_end(1)
        self.assertEqual(daemon.summary(), {"served": 2, "drain": 2})

    def test_drain_timeout_zero_closes_at_once(self):
        daemon = self.echo("--drain_timeout=0")
        client = self.connect(daemon)
        self.assert_echoes(client)
        self.stop(daemon, code=1)
        self.assert_ends(client, "fin")

    def test_a_second_signal_ends_it_now(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.listen()
            daemon = self.proxy(server, flags=("--drain_timeout=1h",))
            client, backend = self.session(daemon, server)
            self.assert_relays(client, backend)
            daemon.signal(signal.SIGTERM)
            self.await_refusal(daemon)
            self.assert_relays(client, backend)
            self.stop(daemon, code=1, number=number)
            self.assert_ends(client, "fin")
            self.assert_ends(backend, "fin")

    def test_queued_clients_are_served(self):
        """They are in the kernel's queues, several per listening socket, when the signal comes."""
        daemon = self.echo("--workers=4", "--drain_timeout=1h")
        daemon.signal(signal.SIGSTOP)
        clients = [self.connect(daemon) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(b"%03d" % number)
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGCONT)
        for number, client in enumerate(clients):
            self.assertEqual(recv_exactly(client, 3), b"%03d" % number)
            client.close()
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 200, "client_fin": 200})

    def test_clients_beyond_max_conns_do_not_hold_it_up(self):
        daemon = self.echo("--workers=2", "--max_conns=1", "--drain_timeout=1h")
        clients = [self.connect(daemon) for _ in range(6)]
        for client in clients:
            client.sendall(b"x")
        wait_until(lambda: daemon.descriptors() > daemon.baseline, "a client is served")
        daemon.signal(signal.SIGTERM)
        self.await_refusal(daemon)
        for client in clients:
            client.close()
        daemon.check_end(0)

    def storm(self, daemon, stopped, served):
        """Connects again and again. Whoever is connected when the signal is sent must be served;
        later ones are served, refused, or reset between the last accept and the close."""
        while True:
            connected = False
            try:
                with socket.create_connection((HOST, daemon.port), PATIENCE) as client:
                    connected = not stopped
                    client.sendall(b"hello")
                    self.assertEqual(recv_exactly(client, 5), b"hello")
                served.append(1)
            except (OSError, AssertionError) as error:
                if connected or not stopped:
                    raise AssertionError(f"before the signal: {error!r}") from error
                return

    def test_a_storm_of_clients_when_the_signal_comes(self):
        for workers in (1, 2, 8):
            daemon = self.echo(f"--workers={workers}", "--drain_timeout=1h")
            stopped, served, clients = [], [], Parallel()
            for _ in range(16):
                clients.add(self.storm, daemon, stopped, served)
            wait_until(lambda: len(served) > 200, "the storm blows")
            stopped.append(True)
            daemon.signal(signal.SIGTERM)
            clients.join()
            daemon.check_end(0)


class Endurance(DaemonTest):
    def test_a_pause_of_the_whole_process_loses_nothing(self):
        """As when a virtual machine is moved, or a debugger looks."""
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--idle_timeout=1m"))
        quiet = self.session(daemon, server)
        self.assert_relays(*quiet)
        client, backend = self.session(daemon, server)
        up, down = Pattern("up", 32 * MIB), Pattern("down", 32 * MIB)
        streams = Parallel()
        for call in ((up.send, client), (up.receive, backend), (down.send, backend),
                     (down.receive, client)):
            streams.add(*call)
        daemon.signal(signal.SIGSTOP)
        late = self.connect(daemon)
        late.sendall(b"queued")
        time.sleep(2)  # The subject of the test is a pause.
        daemon.signal(signal.SIGCONT)
        streams.join()
        self.assert_relays(*quiet)
        self.assertEqual(recv_exactly(self.accept(server), 6), b"queued")

    def crowd(self, daemon, count):
        """Connects that many and lets each say something."""
        clients = []
        for _ in range(count):
            clients.append(socket.create_connection((HOST, daemon.port), PATIENCE))
            clients[-1].sendall(b"here")
        for client in clients:
            self.assertEqual(recv_exactly(client, 4), b"here")
        return clients

    def test_a_crowd_costs_little_and_leaves_little_behind(self):
        count = 2000 if not SANITIZED else 500
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < count + 200:
            self.skipTest(f"only {hard} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        daemon = self.echo("--workers=2")
        for client in self.crowd(daemon, 2):
            client.close()
        base, peaks, rests = daemon.rss(), [], []

        def settled():  # four in a row found no stack to warm; what leaks does so in each
            return len(rests) >= 4 and rests[-1] - rests[-4] < 256 * KIB

        while len(rests) < 8 and not settled():
            clients = self.crowd(daemon, count)
            peaks.append(daemon.rss())
            for client in clients:
                client.close()
            daemon.await_descriptors(0)
            with socket.create_connection((HOST, daemon.port), PATIENCE) as client:
                self.assert_echoes(client)
            rests.append(daemon.rss())
        if SANITIZED:  # which keep what is freed
            return
        # Idle connections have no stack, and few of them ever needed one at the same time.
        self.assertLess(max(peaks) - base, count * KIB, f"{base} {peaks} {rests}")
        self.assertTrue(settled(), f"grows: {rests}")


class Placement(DaemonTest):
    """Who polls for how many connections."""

    COUNT = 200

    def test_a_listener_that_all_workers_share(self):
        daemon = self.start("--mode=echo", f"--listen=unix:{self.folder()}/front", "--workers=2")
        clients = [self.connect(daemon) for _ in range(self.COUNT)]
        for client in clients:
            self.assert_echoes(client)  # from here on it is waited for
        fewer, more = sorted(daemon.watched())
        # Beside the connections, each watches its interrupt, and a listener.
        self.assertGreaterEqual(fewer + more, self.COUNT)
        self.assertLessEqual(more, 2 * fewer + 16, "placed by load")


class Idle(DaemonTest):
    """Less than 0.2 % of a CPU while nothing happens."""

    def assert_idle(self, daemon):
        # It settles: the timer of each connect fires once more, at --connect_timeout, and the
        # watchdog ticks for a second after the last event.
        time.sleep(2.5)
        cpu, started = daemon.cpu_seconds(), time.monotonic()
        time.sleep(4)  # The subject of the test is silence.
        used = daemon.cpu_seconds() - cpu
        share = used / (time.monotonic() - started)
        self.assertLess(share, 0.002 * SLOW, f"{1000 * used:.1f} ms of CPU time")

    def test_alone(self):
        server = self.listen()
        daemons = [self.echo("--workers=2"), self.proxy(server, flags=("--workers=2",))]
        in_parallel(*((self.assert_idle, daemon) for daemon in daemons))

    def test_with_idle_connections(self):
        server = self.listen()
        echo = self.echo("--workers=2")
        proxy = self.proxy(server, flags=("--workers=2", "--connect_timeout=1s"))
        for _ in range(100):
            self.assert_echoes(self.connect(echo))
            self.assert_relays(*self.session(proxy, server))
        in_parallel((self.assert_idle, echo), (self.assert_idle, proxy))


if __name__ == "__main__":
    main()
