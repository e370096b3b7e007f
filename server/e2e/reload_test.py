#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: what changes, what goes on, and what happens when it cannot be read."""

import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, MIB, PATIENCE, SANITIZED, SLOW, DaemonTest, address_of, free_port, in_parallel, main,
    recv_exactly, wait_until)


class ReloadTest(DaemonTest):
    def setUp(self):
        super().setUp()
        self.reloads = 0

    def write(self, *routes):
        path = Path(self.folder(), "routes")
        path.write_text("\n".join(routes) + "\n")
        return path

    def serve(self, *routes, flags=(), **options):
        return self.start(f"--routes_file={self.write(*routes)}", "--workers=2", *flags, **options)

    def reload(self, daemon, *routes, says="reloaded: "):
        """What it says about it."""
        if routes:
            self.write(*routes)
        self.reloads += 1
        daemon.signal(signal.SIGHUP)
        lines = []

        def found():
            lines[:] = [line for line in daemon.stderr() if re.match("parkway: reload", line)]
            return len(lines) == self.reloads

        wait_until(found, "the daemon says that it has reloaded")
        self.assertTrue(lines[-1].startswith(f"parkway: {says}"), lines[-1])
        return lines[-1]


class Reload(ReloadTest):
    def test_new_sessions_get_the_new_backend_and_old_ones_go_on(self):
        one, two = self.named(b"1"), self.named(b"2")
        at = f"{HOST}:{free_port()}"
        daemon = self.serve(f"x listen={at} to={one}")
        old = self.connect(at)
        self.assertEqual(recv_exactly(old, 1), b"1")
        said = self.reload(daemon, f"x listen={at} to={two}")
        self.assertEqual(said, "parkway: reloaded: 1 route, 1 changed")
        self.assertEqual(self.who_serves(at), b"2")
        self.assert_echoes(old)

    def test_what_is_the_same_keeps_its_sockets(self):
        at, other = (f"{HOST}:{free_port()}" for _ in range(2))
        same = f"same listen={at} to=echo"
        kernels = f"kernels listen={HOST}:0 to=echo"
        daemon = self.serve(same, kernels, f"goes listen={other} to=echo")
        before = self.listening(daemon)
        client, leaving = self.connect(at), self.connect(other)
        self.assert_echoes(leaving)
        said = self.reload(daemon, kernels, "new listen=unix:@" + self.id() + " to=echo", same)
        self.assertEqual(said, "parkway: reloaded: 3 routes, 1 new, 1 gone")
        self.assert_echoes(client)
        self.await_closed(other)
        self.assert_echoes(leaving)  # its session goes on
        self.assert_echoes(self.connect("unix:@" + self.id()))
        port = int(other.rsplit(":", 1)[1])
        self.assertEqual(self.listening(daemon),
                         {socket_ for socket_ in before if socket_[0] != port})
        self.assertEqual(self.reload(daemon), "parkway: reloaded: 3 routes, none changed")
        daemon.baseline -= 2  # a Unix socket is one for both workers

    def listening(self, daemon):
        """{(port, inode)} of its listening TCP sockets."""
        inodes = {link for _, link in daemon.open_files_now()}
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.add((int(words[1].split(":")[1], 16), words[9]))
        return found

    def await_closed(self, at):
        host, port = at.rsplit(":", 1)

        def closed():
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) != 0

        wait_until(closed, f"{at} is closed")

    def test_an_address_may_go_and_come_back(self):
        at, stays = (f"{HOST}:{free_port()}" for _ in range(2))
        base, more = f"a listen={stays} to=echo", f"b listen={at} to=echo"
        daemon = self.serve(base, more)
        for _ in range(3):
            self.reload(daemon, base)
            self.await_closed(at)
            self.reload(daemon, base, more)
            self.assert_echoes(self.connect(at))

    def test_a_mistake_changes_nothing(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.serve(f"x listen={at} to=echo")
        client = self.connect(at)
        taken = self.listen()
        for routes, problem in (
                ([f"x listen={at} too=echo"], "{path}:1: column "),
                ([f"x listen={at} to=echo", f"y listen={address_of(taken)} to=echo"],
                 f"route y: {address_of(taken)}: Address already in use"),
                (["# nothing"], "--routes_file={path}: holds no route"),
                ([f"x listen={at} to=127.0.0.1:1"], "the daemon was started for echo alone")):
            said = self.reload(daemon, *routes, says="reload failed, nothing has changed: ")
            self.assertIn(problem.format(path=Path(self.folder(), "routes")), said)
        self.assert_echoes(client)
        self.assert_echoes(self.connect(at))
        self.reload(daemon, f"x listen={at} to=echo idle_timeout=5s")

    def test_without_a_file_there_is_nothing_new(self):
        daemon = self.echo()
        self.assertEqual(self.reload(daemon), "parkway: reloaded: 1 route, none changed")
        self.assert_echoes(self.connect(daemon))

    def test_a_trial_run_has_nothing_to_reload(self):
        self.skip_if_taken(8080)
        daemon = self.start()
        self.reload(daemon, says="reload failed, nothing has changed: a trial run has nothing")
        self.assert_echoes(self.connect(daemon))

    def test_what_belongs_to_the_process_waits_for_the_next_start(self):
        flags = Path(self.folder(), "flags")
        flags.write_text("--workers=1\n--drain_timeout=1h\n")
        server = self.listen()
        daemon = self.proxy(server, flags=(f"--flagfile={flags}",))
        self.session(daemon, server)
        flags.write_text("--workers=2\n--drain_timeout=0\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("^parkway: --workers=2 takes effect at the next start$")
        daemon.wait_for_line("^parkway: reloaded: ")
        self.stop(daemon, code=1)  # at once, by the new drain_timeout

    def test_a_backend_that_is_down_stays_down(self):
        dead, good = self.refuses(), self.named(b"g")
        at = f"{HOST}:{free_port()}"
        options = "health=tcp health_interval=200ms"
        daemon = self.serve(f"x listen={at} to={dead},{good} {options}")
        daemon.wait_for_line("is down")
        self.reload(daemon, f"x listen={at} to={dead},{good} {options} idle_timeout=5m")
        for _ in range(4):
            self.assertEqual(self.who_serves(at), b"g")
        self.assertNotIn("failed connects", "\n".join(daemon.stderr()))

    def test_the_service_manager_is_told(self):
        path = os.path.join(self.folder(), "notify")
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(path)
        manager.settimeout(PATIENCE)
        daemon = self.serve(f"x listen={HOST}:0 to=echo", env={"NOTIFY_SOCKET": path})
        self.assertEqual(manager.recv(100), b"READY=1")
        self.reload(daemon)
        self.assertRegex(manager.recv(100), rb"^RELOADING=1\nMONOTONIC_USEC=\d+$")
        self.assertEqual(manager.recv(100), b"READY=1")
        manager.close()


class Often(ReloadTest):
    CONNECTIONS = 10_000 // SLOW
    CLIENTS = 8

    def test_reloads_under_load_fail_nobody(self):
        backends = [self.named(b"%d" % i) for i in range(3)]
        at, more = (f"{HOST}:{free_port()}" for _ in range(2))
        variants = [(f"x listen={at} to={backends[i]},{backends[(i + 1) % 3]} balance={balance}",
                     *([f"y listen={more} to=echo"] if i % 2 else []))
                    for i, balance in enumerate(("rr", "leastconn", "source"))]
        daemon = self.serve(*variants[0])
        held = [self.connect(at) for _ in range(5)]
        for client in held:
            recv_exactly(client, 1)
        over = threading.Event()
        reloads = 0

        def reload():
            nonlocal reloads
            while not over.wait(0.2):
                reloads += 1
                self.write(*variants[reloads % 3])
                daemon.signal(signal.SIGHUP)

        def load():
            for _ in range(self.CONNECTIONS // self.CLIENTS):
                with socket.create_connection((HOST, int(at.rsplit(":", 1)[1]))) as client:
                    client.settimeout(PATIENCE)
                    recv_exactly(client, 1)
                    self.assert_echoes(client)

        reloading = threading.Thread(target=reload)
        reloading.start()
        try:
            in_parallel(*[load] * self.CLIENTS)
        finally:
            over.set()
            reloading.join()
        for client in held:
            self.assert_echoes(client)
        self.write(*variants[0])
        daemon.signal(signal.SIGHUP)
        daemon.await_descriptors(2 * len(held))
        said = [line for line in daemon.stderr() if "reload" in line]
        self.assertFalse([line for line in said if "failed" in line])
        print(f"{self.CONNECTIONS} connections, {reloads} reloads", file=sys.stderr)
        self.assertGreater(reloads, 3)

    def test_reloads_leave_nothing_behind(self):
        at = f"{HOST}:{free_port()}"
        backend = self.named(b"b")
        variants = [[f"x listen={at} to={backend} idle_timeout={i}m"] +
                    [f"r{k} listen={HOST}:0 to={backend}" for k in range(5)] for i in (1, 2)]
        daemon = self.serve(*variants[0])
        for i in range(20):
            self.reload(daemon, *variants[i % 2])
            self.who_serves(at)
        before = daemon.rss()
        for i in range(200 // SLOW):
            self.reload(daemon, *variants[i % 2])
        if not SANITIZED:  # whose own memory grows
            self.assertLess(daemon.rss() - before, MIB)
        daemon.await_descriptors(0)


if __name__ == "__main__":
    main()
