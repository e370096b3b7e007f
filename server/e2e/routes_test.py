#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Several routes in one daemon: whom each serves, and what serves them."""

import collections
import json
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, MIB, SLOW, DaemonTest, address_of, free_port, main, run_parkway, wait_until)


class Routes(DaemonTest):
    def counts(self, address, connections):
        return collections.Counter(self.who_serves(address) for _ in range(connections))

    # ---- Each its own.

    def test_each_route_has_listeners_and_backends_of_its_own(self):
        daemon = self.start(f"--route=one listen={HOST}:0 to={self.named(b'1')}",
                            f"--route=two listen={HOST}:0,{HOST}:0 to={self.named(b'2')}")
        one, *two = daemon.listening
        self.assertEqual(self.who_serves(one), b"1")
        for address in two:
            self.assertEqual(self.who_serves(address), b"2")

    def test_the_shortest_form_is_a_route_beside_others(self):
        daemon = self.proxy(self.named(b"d"),
                            flags=(f"--route=other listen={HOST}:0 to={self.named(b'o')}",))
        self.assertEqual([self.who_serves(at) for at in daemon.listening], [b"d", b"o"])

    def test_echo_is_built_in(self):
        daemon = self.start(f"--route=echo listen={HOST}:0 to=echo",
                            f"--route=proxy listen={HOST}:0 to={self.named(b'p')}")
        client = self.connect(daemon.listening[0])
        self.assert_echoes(client)
        self.assertEqual(self.who_serves(daemon.listening[1]), b"p")

    def test_a_route_has_timeouts_of_its_own(self):
        hasty = 0.3 * SLOW
        daemon = self.start(
            f"--route=hasty listen={HOST}:0 to=echo idle_timeout={int(1000 * hasty)}ms",
            f"--route=calm listen={HOST}:0 to=echo")
        clients = [self.connect(at) for at in daemon.listening]
        for client in clients:
            self.assert_echoes(client)
        self.assert_ends(clients[0], "fin")
        self.assert_echoes(clients[1])

    # ---- Whose turn it is.

    def test_weights_are_shares(self):
        heavy, light = self.named(b"h"), self.named(b"l")
        daemon = self.start(f"--route=x listen={HOST}:0 to={heavy}*3,{light}")
        self.assertEqual(self.counts(daemon.address, 40), {b"h": 30, b"l": 10})

    def test_a_backup_serves_when_no_other_can(self):
        daemon = self.start(f"--route=x listen={HOST}:0 to={self.named(b'b')}@backup,"
                            f"{self.named(b'p')}")
        self.assertEqual(self.counts(daemon.address, 10), {b"p": 10})
        daemon = self.start(f"--route=x listen={HOST}:0 to={self.named(b'b')}@backup,"
                            f"{self.refuses()}")
        self.assertEqual(self.counts(daemon.address, 10), {b"b": 10})

    def test_a_drained_backend_gets_no_connections(self):
        daemon = self.start(f"--route=x listen={HOST}:0 to={self.named(b'd')}@drain,"
                            f"{self.named(b'p')},{self.named(b'0')}*0")
        self.assertEqual(self.counts(daemon.address, 10), {b"p": 10})

    # ---- Whom it serves.

    def test_of_routes_at_one_address_the_first_that_serves_the_client_has_it(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.start(f"--route=some listen={at} from=127.0.0.2,127.0.0.64/26 "
                            f"to={self.named(b's')}",
                            f"--route=rest listen={at} to={self.named(b'r')}")
        self.assertEqual(daemon.listening, [at])
        for source, name in (("127.0.0.1", b"r"), ("127.0.0.2", b"s"), ("127.0.0.100", b"s"),
                             ("127.0.0.128", b"r")):
            self.assertEqual(self.who_serves(at, source), name, source)

    def test_whom_no_route_serves_is_reset_and_counted(self):
        daemon = self.start(f"--route=some listen={HOST}:0 from=127.0.0.2 to=echo",
                            "--max_conns=1")
        for _ in range(3):
            self.assert_refused(daemon)
        client = self.connect(daemon, source="127.0.0.2")
        self.assert_echoes(client)
        client.close()
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 4, "no_route": 3, "client_fin": 1})

    # ---- Files, --check and --print_config.

    def routes_file(self, text):
        path = Path(self.folder(), "routes")
        path.write_text(text)
        return str(path)

    def test_a_file_of_routes(self):
        path = self.routes_file(f"# two routes\none listen={HOST}:0 to={self.named(b'1')}\n\n"
                                f"two listen={HOST}:0 \\\n    to={self.named(b'2')}  # the end\n")
        daemon = self.start(f"--routes_file={path}")
        self.assertEqual([self.who_serves(at) for at in daemon.listening], [b"1", b"2"])

    def test_a_mistake_names_its_place(self):
        path = self.routes_file(f"one listen={HOST}:0 to=echo\n"
                                f"two listen={HOST}:0 \\\n  idel_timeout=5s to=echo\n")
        done = run_parkway(f"--routes_file={path}")
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (2, "", f"parkway: {path}:3: column 3: idel_timeout: unknown key; did you "
                                 "mean idle_timeout?\n"))

    def test_check_starts_nothing(self):
        holder = self.listen()  # its port is taken, which only a start would notice
        done = run_parkway("--check", f"--listen={address_of(holder)}", "--backend=10.0.0.1:1",
                           f"--route=x listen={HOST}:0 to=10.0.0.1:1*2,10.0.0.2:1")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "parkway: the configuration is good: 2 routes, 2 addresses to "
                                      "listen on, 3 backends\n")
        self.assertEqual(run_parkway("--check", "--route=x to=echo").returncode, 2)

    def test_what_is_printed_can_be_fed_back(self):
        flags = [f"--route=web listen={HOST}:1,{HOST}:2 from=10.0.0.0/8 to=10.0.0.1:1*3,"
                 "10.0.0.2:1@backup idle_timeout=90s", "--listen=:3", "--backend=10.0.0.3:1*2",
                 "--connect_timeout=1s", "--workers=2"]
        printed = run_parkway("--print_config", *flags)
        self.assertEqual((printed.returncode, printed.stderr), (0, ""))
        self.assertIn(f"--route=web listen={HOST}:1,{HOST}:2 from=10.0.0.0/8 to=10.0.0.1:1*3,"
                      "10.0.0.2:1@backup idle_timeout=1m30s\n", printed.stdout)
        path = Path(self.folder(), "printed.flags")
        path.write_text(printed.stdout)
        again = run_parkway("--print_config", f"--flagfile={path}")
        self.assertEqual(again.stdout, printed.stdout)


class Names(DaemonTest):
    """What the operator reads."""

    def test_the_banner_shows_each_route(self):
        server = self.listen()
        daemon = self.start(f"--route=web listen={HOST}:0 to={address_of(server)}*2",
                            f"--route=echo listen={HOST}:0 to=echo idle_timeout=5s")
        web, echo = daemon.listening
        daemon.wait_for_line(rf"^  route        web listen={web} to={address_of(server)}\*2$")
        daemon.wait_for_line(rf"^  route        echo listen={echo} to=echo idle_timeout=5s$")

    def test_a_failed_backend_is_told_with_its_route(self):
        daemon = self.start(f"--route=web listen={HOST}:0 to={self.refuses()}",
                            f"--route=echo listen={HOST}:0 to=echo")
        self.assert_refused(daemon)
        daemon.wait_for_line(r"^parkway: route web: backend .*: Connection refused")


class Discard(DaemonTest):
    def test_reads_all_and_then_finishes_too(self):
        daemon = self.start("--mode=discard", "--listen=127.0.0.1:0", "--workers=2")
        self.assertIn(": discard, ", daemon.stderr()[0])
        client = self.connect(daemon.address)
        client.sendall(b"x" * 8 * MIB)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin")
        self.assertEqual(daemon.pipes(), 0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, "client_fin": 1})

    def test_beside_others_and_in_the_log(self):
        log = Path(self.folder(), "access")
        daemon = self.start("--route=a listen=127.0.0.1:0 to=discard", "--workers=2",
                            "--route=b listen=127.0.0.1:0 to=echo", f"--access_log={log}",
                            "--access_log_format=json")
        client = self.connect(daemon.listening[0])
        client.sendall(b"x" * 1000)
        self.assert_silent(client)
        echoed = self.connect(daemon.listening[1])
        self.assert_echoes(echoed)
        client.close()
        line = wait_until(lambda: log.read_text(), "its line")
        entry = json.loads(line.splitlines()[0])
        self.assertEqual((entry["backend"], entry["bytes_up"], entry["bytes_down"]),
                         ("discard", 1000, 0))
        self.assertNotIn("first_byte_ms", entry)
        echoed.close()
        self.stop(daemon)


if __name__ == "__main__":
    main()
