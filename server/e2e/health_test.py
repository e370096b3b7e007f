#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Backends that go down and come up: who finds out, how, and what it does to clients."""

import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, SLOW, DaemonTest, address_of, free_port, main, recv_exactly)

QUICK = f"health_interval=200ms health_timeout={500 * SLOW}ms"


class Health(DaemonTest):
    def dark(self):
        """A bound socket that refuses connections until serve_as() is given it."""
        server = self.keep(socket.socket())
        server.bind((HOST, 0))
        return server

    def names(self, daemon, count):
        return b"".join(sorted(self.who_serves(daemon) for _ in range(count)))

    def route(self, *backends, options="", checks=QUICK):
        to = ",".join(b if isinstance(b, str) else address_of(b) for b in backends)
        return self.start(f"--route=x listen={HOST}:0 to={to} {checks} {options}", "--workers=2")

    # ---- Found out by clients.

    def test_connects_that_fail_take_a_backend_down_and_checks_take_it_up(self):
        dark, other = self.dark(), self.named(b"o")
        daemon = self.route(dark, other)
        self.assertEqual(self.names(daemon, 6), b"oooooo")
        daemon.wait_for_line(rf"^parkway: route x: backend {address_of(dark)} is down: 3 connects "
                             r"failed, the last: Connection refused \(1 of 2 up\)$")
        failures = daemon.stderr().count("failed connects so far")
        self.assertEqual(self.names(daemon, 6), b"oooooo")
        self.assertEqual(daemon.stderr().count("failed connects so far"), failures)
        self.serve_as(b"d", dark)
        daemon.wait_for_line(rf"^parkway: route x: backend {address_of(dark)} is up: 2 checks "
                             r"passed \(2 of 2 up\)$")
        self.assertEqual(self.names(daemon, 6), b"dddooo")

    def test_the_only_backend_stays_up(self):
        dark = self.dark()
        daemon = self.route(dark)
        for _ in range(5):
            self.assert_refused(daemon)
        self.serve_as(b"d", dark)
        self.assertEqual(self.who_serves(daemon), b"d")
        self.assertNotIn("is down", daemon.stderr())

    def test_off_goes_on_trying(self):
        dark, other = self.dark(), self.named(b"o")
        daemon = self.route(dark, other, options="health=off")
        self.assertEqual(self.names(daemon, 10), 10 * b"o")
        self.serve_as(b"d", dark)
        self.assertEqual(self.names(daemon, 2), b"do")
        self.assertNotIn("is down", daemon.stderr())

    # ---- Found out by checks.

    def test_a_check_finds_out_before_a_client_does(self):
        dark, other = self.dark(), self.named(b"o")
        daemon = self.route(dark, other, options="health=tcp")
        daemon.wait_for_line(r"is down: 3 checks failed, the last: connect: Connection refused")
        self.assertEqual(self.names(daemon, 4), b"oooo")
        self.assertNotIn("failed connects", daemon.stderr())

    def test_a_frozen_redis_is_down_until_it_answers(self):
        port = free_port()
        redis = self.run_program("redis-server", "--port", str(port), "--bind", HOST, "--save", "")
        self.await_listening(f"{HOST}:{port}", redis)
        other = self.named(b"o")
        daemon = self.route(f"{HOST}:{port}", other, options="health=tcp health_rise=1 "
                            r"health_send=PING\r\n health_expect=+PONG")
        redis.send_signal(signal.SIGSTOP)
        daemon.wait_for_line(rf"{HOST}:{port} is down: 3 checks failed, the last: answer: .*timed out")
        redis.send_signal(signal.SIGCONT)
        daemon.wait_for_line(rf"{HOST}:{port} is up: 1 checks passed")

    def test_http_is_judged_by_its_status(self):
        port, flag = free_port(), Path(self.folder(), "good")
        flag.touch()
        config = Path(self.folder(), "nginx.conf")
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = " ".join(f"{kind}_temp_path {config.parent}/{kind};" for kind in (
            "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config.write_text(f"""
            daemon off; pid {config.parent}/pid; error_log stderr; {user}
            events {{}}
            http {{ access_log off; {temporary} server {{
                listen {HOST}:{port};
                location /healthz {{ if (-f {flag}) {{ return 204; }} return 503 "sorry"; }}
                location / {{ return 404; }}
            }} }}""")
        nginx = self.run_program("nginx", "-c", str(config), "-p", str(config.parent))
        self.await_listening(f"{HOST}:{port}", nginx)
        daemon = self.route(f"{HOST}:{port}", self.named(b"o"),
                            options=f"health=http health_path=/healthz health_port={port}")
        flag.unlink()
        daemon.wait_for_line(rf'{HOST}:{port} is down: 3 checks failed, the last: answer: '
                             r'"HTTP/1.1 503 Service Temporarily Unavail')
        flag.touch()
        daemon.wait_for_line(rf"{HOST}:{port} is up: 2 checks passed")

    # ---- What it does.

    def test_with_all_down_clients_are_refused_or_one_is_tried(self):
        for choice in ("refuse", "try"):
            served, unchecked = self.named(b"s"), self.dark()
            daemon = self.route(served, options="health=tcp health_port=%d all_down=%s" % (
                unchecked.getsockname()[1], choice))
            daemon.wait_for_line("is down")
            if choice == "try":
                self.assertEqual(self.who_serves(daemon), b"s")
            else:
                self.assert_refused(daemon)

    def test_a_backup_serves_while_the_others_are_down(self):
        dark, backup = self.dark(), self.named(b"b")
        daemon = self.route(dark, f"{backup}@backup", options="health=tcp")
        daemon.wait_for_line("is down")
        self.assertEqual(self.names(daemon, 3), b"bbb")
        self.serve_as(b"d", dark)
        daemon.wait_for_line("is up")
        self.assertEqual(self.names(daemon, 3), b"ddd")

    def test_sessions_of_a_backend_that_goes_down_are_kept_or_closed(self):
        for choice in ("keep", "close"):
            server, health = self.named(b"s"), self.serve_as(b"h", self.dark())
            daemon = self.route(server, options="health=tcp health_port=%d on_down=%s" % (
                health.getsockname()[1], choice))
            client = self.connect(daemon)
            self.assertEqual(recv_exactly(client, 1), b"s")
            health.shutdown(socket.SHUT_RDWR)
            health.close()
            daemon.wait_for_line("is down")
            if choice == "close":
                self.assert_ends(client, "fin")
            else:
                self.assert_silent(client)

    def test_a_backend_that_came_up_starts_slowly(self):
        dark, other = self.dark(), self.named(b"o")
        daemon = self.route(dark, other, options="health=tcp slow_start=10m")
        daemon.wait_for_line("is down")
        self.serve_as(b"d", dark)
        daemon.wait_for_line("is up")
        self.assertEqual(self.names(daemon, 22), b"dd" + 20 * b"o")  # a tenth of its share

    def test_a_drain_does_not_wait_for_checks(self):
        daemon = self.route(self.blackhole(), self.named(b"o"),
                            checks="health=tcp health_interval=1h health_timeout=1h")
        self.stop(daemon)


class Recovery(DaemonTest):
    def test_no_client_is_lost_while_a_backend_is_killed_and_comes_back(self):
        ports = [free_port() for _ in range(3)]

        def start(port):
            program = self.run_program("socat", f"TCP-LISTEN:{port},bind={HOST},fork,reuseaddr",
                                       "EXEC:cat")
            self.await_listening(f"{HOST}:{port}", program)
            return program

        programs = [start(port) for port in ports]
        daemon = self.start(f"--route=x listen={HOST}:0 {QUICK} to=" +
                            ",".join(f"{HOST}:{port}" for port in ports))
        for round_ in range(3):
            programs[round_].kill()
            programs[round_].wait()
            for _ in range(20):
                client = self.connect(daemon)
                self.assert_echoes(client)
                client.close()
            programs[round_] = start(ports[round_])
            daemon.wait_for_line(rf":{ports[round_]} is up")


if __name__ == "__main__":
    main()
