#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Backends that are names, with a real name server (BIND) whose records change meanwhile."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, PATIENCE, SANITIZED, SLOW, DaemonTest, Parallel, free_port, main, recv_exactly, run_parkway,
    wait_until)

os.environ["PATH"] += ":/usr/sbin:/sbin"
ZONE = "p.test"
# Lookups are soon repeated, whatever TTL the records have.
QUICK = ("--dns_ttl_min=50ms", "--dns_ttl_max=200ms", "--dns_timeout=300ms", "--dns_tries=2")

NAMED_CONF = """
options {{
  directory "{folder}"; pid-file none; session-keyfile none; listen-on port {port} {{ {host}; }};
  listen-on-v6 {{ none; }}; recursion no; allow-query {{ any; }}; notify no; dnssec-validation no;
  edns-udp-size 1232; max-udp-size 1232; minimal-responses yes; max-records-per-type 0;
}};
controls {{ }};
logging {{ channel out {{ stderr; severity warning; }}; category default {{ out; }}; }};
zone "{zone}" {{ type primary; file "{folder}/zone"; allow-update {{ {host}; }}; }};
zone "broken.test" {{ type secondary; primaries {{ 127.0.0.1 port 1; }}; file "{folder}/none"; }};
"""
ZONE_TEXT = """$TTL 0
@ IN SOA ns.p.test. root.p.test. 1 3600 600 86400 0
@ IN NS ns.p.test.
ns IN A 127.0.0.1
"""


class NameServer:
    """BIND with one zone, which changes as it is told."""

    def __init__(self, test, port=None):
        self.port = port or free_port()
        self.address = f"{HOST}:{self.port}"
        self._test = test
        folder = Path(test.folder(), f"named{self.port}")
        folder.mkdir(exist_ok=True)
        Path(folder, "zone").write_text(ZONE_TEXT)
        Path(folder, "named.conf").write_text(
            NAMED_CONF.format(folder=folder, port=self.port, host=HOST, zone=ZONE))
        self.program = test.run_program("named", "-g", "-n", "1", "-c", f"{folder}/named.conf")
        test.await_listening(self.address, self.program)  # TCP; and then UDP, too
        wait_until(lambda: self.ask("ns", "A") == ["127.0.0.1"], "the zone is served")

    def ask(self, name, kind):
        run = subprocess.run(
            ["dig", f"@{HOST}", "-p", str(self.port), "+short", "+time=1", "+tries=1", f"{name}.{ZONE}", kind],
            capture_output=True, text=True, check=False)
        return sorted(run.stdout.split())

    def update(self, *lines):
        text = "\n".join([f"server {HOST} {self.port}", f"zone {ZONE}", *lines, "send", ""])
        subprocess.run(["nsupdate"], input=text, text=True, check=True, capture_output=True)

    def set(self, name, *records, ttl=0):
        """The records of a name are these from now on: ("A", "127.0.0.2"), ..."""
        self.update(f"update delete {name}.{ZONE}",
                    *(f"update add {name}.{ZONE} {ttl} {kind} {data}" for kind, data in records))

    def set_hosts(self, name, *numbers, ttl=0):
        """127.0.0.NUMBER each."""
        self.set(name, *(("A", f"127.0.0.{number}") for number in numbers), ttl=ttl)


class ScriptedServer:
    """A name server that answers each question with what a function makes of it, or not at all: what
    a real one cannot be made to do."""

    def __init__(self, test, answer):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        test.addCleanup(self._socket.close)
        self.address = f"{HOST}:{self._socket.getsockname()[1]}"
        self.answer = answer
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                question, sender = self._socket.recvfrom(4096)
                self.asked += 1
                for reply in self.answer(question):
                    self._socket.sendto(reply, sender)


def question_of(query):
    """The question's own bytes."""
    at = 12
    while query[at]:
        at += query[at] + 1
    return query[12:at + 5]


def reply_to(query, rcode=0, addresses=(), ttl=0, count=None, flags=0x8180):
    """A well-formed one, except that it may lie about how many answers it has."""
    answers = b"".join(b"\xc0\x0c\0\x01\0\x01" + struct.pack(">IH", ttl, 4) + socket.inet_aton(address)
                       for address in addresses)
    count = len(addresses) if count is None else count
    return query[:2] + struct.pack(">HHHHH", flags | rcode, 1, count, 0, 0) + question_of(query) + answers


class DnsTest(DaemonTest):
    def setUp(self):
        super().setUp()
        self.backend_port = free_port()

    def backends(self, *numbers):
        """At 127.0.0.NUMBER each, all at one port; each says its number as one byte."""
        for number in numbers:
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((f"127.0.0.{number}", self.backend_port))
            self.serve_as(bytes([number]), self.keep(server))

    def route(self, to, *flags, servers=(), options=""):
        return self.start(f"--route=x listen={HOST}:0 to={to} {options}", "--workers=2",
                          f"--dns_servers={','.join(servers)}", *QUICK, *flags)

    def host(self, name="db"):
        return f"{name}.{ZONE}:{self.backend_port}"

    def serving(self, daemon, rounds=12):
        """Who serves new clients."""
        return {self.who_serves(daemon)[0] for _ in range(rounds)}

    def await_serving(self, daemon, *numbers):
        def served():
            with contextlib.suppress(ConnectionError, AssertionError):
                return self.serving(daemon) == set(numbers)
            return False

        wait_until(served, f"{numbers} serve, and nobody else")

    def lines(self, daemon, text):
        return [line for line in daemon.stderr() if text in line]


class Records(DnsTest):
    """What name servers say."""

    def setUp(self):
        super().setUp()
        self.names = NameServer(self)

    def test_all_addresses_of_a_name_serve_from_the_first_client_on(self):
        self.backends(2, 3)
        self.names.set_hosts("db", 2, 3)
        daemon = self.route(self.host(), servers=[self.names.address])
        self.assertEqual(self.serving(daemon), {2, 3})
        daemon.wait_for_line(r"name db\.p\.test added 127\.0\.0\.2, 127\.0\.0\.3 \(2 in all\)$")

    def test_records_change_under_load_and_no_session_is_lost(self):
        self.backends(2, 3, 4, 5)
        self.names.set_hosts("db", 2, 3)
        daemon = self.route(self.host(), servers=[self.names.address])
        stop = threading.Event()
        asked = []

        def long_session():
            client = self.connect(daemon)
            recv_exactly(client, 1)
            while not stop.is_set():
                self.assert_echoes(client)
                asked.append(1)
                time.sleep(0.001)
            client.close()

        def short_sessions():
            while not stop.is_set():
                client = self.connect(daemon)
                recv_exactly(client, 1)
                self.assert_echoes(client)
                client.close()
                asked.append(1)
                time.sleep(0.001)

        load = Parallel()
        for _ in range(8):
            load.add(long_session)
        for _ in range(2):
            load.add(short_sessions)
        try:
            for numbers in ((3, 4), (4, 5), (2,), (2, 3, 4, 5), (5,), (2, 3)):
                self.names.set_hosts("db", *numbers)
                self.await_serving(daemon, *numbers)
        finally:
            stop.set()
        load.join()
        self.assertGreater(len(asked), 1000)
        self.assertEqual(self.lines(daemon, "failed connects"), [])

    def test_who_has_left_keeps_its_sessions_and_gets_no_more(self):
        self.backends(2, 3)
        self.names.set_hosts("db", 2)
        daemon = self.route(self.host(), servers=[self.names.address])
        client = self.connect(daemon)
        self.assertEqual(recv_exactly(client, 1), b"\2")
        self.names.set_hosts("db", 3)
        self.await_serving(daemon, 3)
        self.assert_echoes(client)
        self.names.set_hosts("db", 2)
        self.await_serving(daemon, 2)
        self.assert_echoes(client)
        client.close()

    def test_who_comes_back_has_the_sessions_that_it_had(self):
        self.backends(2, 3)
        self.names.set_hosts("db", 2)
        daemon = self.route(self.host() + "/max=1", servers=[self.names.address])
        client = self.connect(daemon)
        self.assertEqual(recv_exactly(client, 1), b"\2")
        self.names.set_hosts("db", 3)
        daemon.wait_for_line(r"name db\.p\.test removed 127\.0\.0\.2 \(1 in all\)$")
        self.names.set_hosts("db", 2, 3)
        daemon.wait_for_line(r"name db\.p\.test added 127\.0\.0\.2 \(2 in all\)$")
        self.assertEqual(self.serving(daemon), {3})
        self.assert_echoes(client)
        client.close()
        self.await_serving(daemon, 2, 3)

    def test_a_name_that_stops_resolving_keeps_its_addresses(self):
        self.backends(2)
        self.names.set_hosts("db", 2)
        daemon = self.route(self.host(), servers=[self.names.address])
        self.assertEqual(self.serving(daemon), {2})
        self.names.program.send_signal(signal.SIGSTOP)  # a server that does not answer
        daemon.wait_for_line(r"name db\.p\.test does not resolve: no name server answers in time; its 1 addresses stay$")
        self.assertEqual(self.serving(daemon), {2})
        time.sleep(1)  # several lookups fail
        self.assertEqual(self.serving(daemon), {2})
        self.names.program.send_signal(signal.SIGCONT)
        daemon.wait_for_line(r"name db\.p\.test resolves again$")
        self.assertEqual(len(self.lines(daemon, "does not resolve")), 1)

    def test_a_name_that_is_gone_loses_its_addresses_when_that_is_confirmed(self):
        self.backends(2)
        self.names.set_hosts("db", 2)
        daemon = self.route(self.host(), servers=[self.names.address])
        client = self.connect(daemon)
        self.assertEqual(recv_exactly(client, 1), b"\2")
        self.names.update(f"update delete db.{ZONE}")
        daemon.wait_for_line(r"name db\.p\.test does not resolve: no such name; its 1 addresses stay until")
        daemon.wait_for_line(r"name db\.p\.test removed 127\.0\.0\.2 \(0 in all\)$")
        self.assert_refused(daemon)
        self.assert_echoes(client)
        self.names.set_hosts("db", 2)
        self.await_serving(daemon, 2)
        client.close()

    def test_servfail_is_no_answer(self):
        daemon = self.route("db.broken.test:80", servers=[self.names.address])
        daemon.wait_for_line(r"name db\.broken\.test does not resolve: all name servers fail or refuse$")
        self.assert_refused(daemon)

    def test_500_records_come_by_tcp(self):
        self.backends(*range(2, 6))
        self.names.update(*(f"update add db.{ZONE} 0 A 127.0.{i // 250}.{2 + i % 250}" for i in range(500)))
        # Those that nobody listens at are passed over, or go down.
        daemon = self.route(self.host(), servers=[self.names.address], options="balance=first")
        daemon.wait_for_line(r"name db\.p\.test added .* and 492 more \(500 in all\)$")

    def test_ttl_0_is_asked_for_once_in_ttl_min(self):
        self.backends(2)
        self.names.set_hosts("db", 2, ttl=0)
        daemon = self.route(self.host(), "--dns_ttl_min=1s", "--dns_ttl_max=1s", servers=[self.names.address])
        self.assertEqual(self.serving(daemon), {2})
        before = daemon.cpu_seconds()
        time.sleep(2)
        self.assertLess(daemon.cpu_seconds() - before, 0.2 * SLOW)

    def test_services_have_ports_weights_and_ranks(self):
        self.backends(2, 3, 4)
        self.names.set_hosts("a", 2)
        self.names.set_hosts("b", 3)
        self.names.set_hosts("c", 4)
        self.names.set("_db._tcp", ("SRV", f"1 30 {self.backend_port} a.{ZONE}."),
                       ("SRV", f"1 10 {self.backend_port} b.{ZONE}."),
                       ("SRV", f"2 99 {self.backend_port} c.{ZONE}."))
        daemon = self.route(f"srv:_db._tcp.{ZONE}", servers=[self.names.address])
        got = [self.who_serves(daemon)[0] for _ in range(40)]
        self.assertEqual((got.count(2), got.count(3), got.count(4)), (30, 10, 0))
        # The first rank is gone: the second serves.
        self.names.set("_db._tcp", ("SRV", f"2 99 {self.backend_port} c.{ZONE}."))
        self.await_serving(daemon, 4)

    def test_names_of_one_route_keep_their_marks(self):
        self.backends(2, 3)
        self.names.set_hosts("a", 2)
        self.names.set_hosts("b", 3)
        daemon = self.route(f"{self.host('a')},{self.host('b')}@backup", servers=[self.names.address])
        self.assertEqual(self.serving(daemon), {2})
        self.names.update(f"update delete a.{ZONE}")
        self.await_serving(daemon, 3)

    def test_an_address_beside_a_name_serves_before_the_name_resolves(self):
        self.backends(2, 3)
        daemon = self.route(f"127.0.0.2:{self.backend_port},{self.host()}", servers=[self.names.address])
        self.assertEqual(self.serving(daemon), {2})
        self.names.set_hosts("db", 3)
        self.await_serving(daemon, 2, 3)

    def test_a_name_that_stands_for_the_daemon_itself_is_not_connected_to(self):
        self.backends(2)
        port = free_port()
        self.names.set_hosts("db", 2)
        self.names.set_hosts("me", 1)
        daemon = self.start(f"--route=x listen={HOST}:{port} to={self.host()},me.{ZONE}:{port}",
                            f"--dns_servers={self.names.address}", *QUICK)
        self.assertEqual(self.serving(daemon), {2})

    def test_each_address_is_checked(self):
        self.backends(2, 3)
        self.names.set_hosts("db", 2, 3, 9)
        daemon = self.route(self.host(), servers=[self.names.address], options="health=tcp health_interval=50ms")
        daemon.wait_for_line(r"backend 127\.0\.0\.9:\d+ is down: 3 checks failed")
        self.names.set_hosts("db", 2, 3, 8)
        daemon.wait_for_line(r"backend 127\.0\.0\.8:\d+ is down: 3 checks failed")
        self.assertEqual(self.serving(daemon), {2, 3})

    def test_health_outlasts_changes_of_other_addresses(self):
        self.backends(2, 4)
        self.names.set_hosts("db", 2, 3)
        daemon = self.route(self.host(), servers=[self.names.address], options="health=tcp health_interval=50ms")
        daemon.wait_for_line(r"backend 127\.0\.0\.3:\d+ is down")
        self.names.set_hosts("db", 2, 3, 4)
        daemon.wait_for_line(r"added 127\.0\.0\.4 ")
        for _ in range(20):
            self.assertIn(self.who_serves(daemon)[0], (2, 4))
        self.assertEqual(len(self.lines(daemon, "127.0.0.3:")), 1)
        self.assertEqual(self.lines(daemon, "failed connects"), [])


class Servers(DnsTest):
    """What becomes of name servers."""

    def test_it_starts_while_name_servers_are_down(self):
        self.backends(2)
        port = free_port()
        begun = time.monotonic()
        daemon = self.route(self.host(), servers=[f"{HOST}:{port}"])
        self.assertLess(time.monotonic() - begun, 5 * SLOW)
        daemon.wait_for_line(r"name db\.p\.test does not resolve: ")
        self.assert_refused(daemon)
        NameServer(self, port).set_hosts("db", 2)
        self.await_serving(daemon, 2)

    def test_a_dead_server_is_passed_over(self):
        self.backends(2)
        names = NameServer(self)
        names.set_hosts("db", 2)
        dead = ScriptedServer(self, lambda query: [])
        daemon = self.route(self.host(), servers=[dead.address, names.address])
        self.assertEqual(self.serving(daemon), {2})  # from the first client on
        self.assertGreater(dead.asked, 0)

    def test_garbage_is_survived_and_changes_nothing(self):
        self.backends(2)
        good = [lambda query: [reply_to(query, addresses=["127.0.0.2"])]]
        server = ScriptedServer(self, lambda query: good[0](query))
        daemon = self.route(self.host(), servers=[server.address])
        self.assertEqual(self.serving(daemon), {2})
        garbage = [
            lambda query: [os.urandom(100)],
            lambda query: [b""],
            lambda query: [query[:2]],
            lambda query: [query[:2] + os.urandom(500)],
            lambda query: [reply_to(query, addresses=["127.0.0.9"], count=9)],  # fewer than it says
            lambda query: [reply_to(query)[:12] + b"\xc0\x0c" * 20],  # a name that points to itself
            lambda query: [b"\0\0" + reply_to(query, addresses=["127.0.0.9"])[2:]],  # another's number
            lambda query: [reply_to(query, rcode=2)],
            lambda query: [reply_to(query, rcode=5)],
            lambda query: [reply_to(query, addresses=["127.0.0.9"])[:-3]],
            lambda query: [reply_to(query, addresses=["0.0.0.0"])] ,
        ]
        for answer in garbage[:-1]:
            good[0] = answer
            before = server.asked
            wait_until(lambda: server.asked >= before + 3, "it asks again")
            self.assertEqual(self.serving(daemon, rounds=3), {2})
        # An address that means this machine is none, and so the name has none.
        good[0] = garbage[-1]
        daemon.wait_for_line("it has no addresses")

    def test_a_failing_search_domain_is_no_proof_that_there_is_no_such_name(self):
        """A name server that fails for the name, and knows nothing of it in other domains."""
        self.backends(2)
        fails = []

        def answer(query):
            asked = question_of(query)
            if not asked.startswith(b"\x02db\x01p\x04test\0"):
                return [reply_to(query, rcode=3)]
            return [reply_to(query, rcode=2)] if fails else [reply_to(query, addresses=["127.0.0.2"])]

        server = ScriptedServer(self, answer)
        daemon = self.route(self.host(), servers=[server.address])
        self.assertEqual(self.serving(daemon), {2})
        fails.append(1)
        daemon.wait_for_line("does not resolve: all name servers fail or refuse; its 1 addresses stay")
        time.sleep(0.5)
        self.assertEqual(self.serving(daemon), {2})

    @unittest.skipIf(SANITIZED, "a sanitizer needs more stack")
    def test_a_small_stack_is_enough(self):
        self.backends(2)
        names = NameServer(self)
        names.update(*(f"update add db.{ZONE} 0 A 127.0.{i // 250}.{2 + i % 250}" for i in range(300)))
        daemon = self.route(self.host(), "--stack_size=16KiB", servers=[names.address])
        daemon.wait_for_line(r"\(300 in all\)$")

    def test_a_flood_of_changes_is_bounded_in_the_log(self):
        number = [0]

        def answer(query):
            number[0] += 1
            return [reply_to(query, addresses=[f"10.0.{number[0] % 200}.{i}" for i in range(30)])]

        server = ScriptedServer(self, answer)
        daemon = self.route(self.host(), servers=[server.address])
        wait_until(lambda: server.asked > 20, "it asks again")
        self.assertLess(len(self.lines(daemon, "name db")), server.asked + 3)
        self.assertLess(max(len(line) for line in daemon.stderr()), 600)


class Reloads(DnsTest):
    def setUp(self):
        super().setUp()
        self.names = NameServer(self)
        self.backends(2, 3)
        self.file = os.path.join(self.folder(), "routes")

    def write(self, *routes):
        Path(self.file).write_text("\n".join(routes) + "\n")

    def start_with(self, *routes):
        self.write(*routes)
        self.port = free_port()
        return self.start(f"--routes_file={self.file}", f"--dns_servers={self.names.address}", *QUICK)

    def reload(self, daemon):
        before = len(self.lines(daemon, "reload"))
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: len(self.lines(daemon, "reload")) > before, "it reloads")

    def test_a_changed_route_keeps_what_its_name_stands_for(self):
        self.names.set_hosts("db", 2)
        port = free_port()
        daemon = self.start_with(f"x listen={HOST}:{port} to={self.host()}")
        client = self.connect(daemon)
        self.assertEqual(recv_exactly(client, 1), b"\2")
        self.names.program.send_signal(signal.SIGSTOP)
        self.write(f"x listen={HOST}:{port} to={self.host()} balance=leastconn")
        self.reload(daemon)
        self.assertEqual(self.serving(daemon), {2})
        self.assert_echoes(client)
        self.names.program.send_signal(signal.SIGCONT)
        self.names.set_hosts("db", 3)
        self.await_serving(daemon, 3)
        self.assert_echoes(client)
        client.close()

    def test_a_new_name_is_known_when_its_route_serves(self):
        self.names.set_hosts("db", 2)
        self.names.set_hosts("other", 3)
        port = free_port()
        daemon = self.start_with(f"x listen={HOST}:{port} to={self.host()}")
        self.assertEqual(self.serving(daemon), {2})
        self.write(f"x listen={HOST}:{port} to={self.host('other')}")
        self.reload(daemon)
        self.assertEqual(self.serving(daemon), {3})

    def test_a_name_that_no_route_has_any_more_is_not_asked_for(self):
        asked = []
        server = ScriptedServer(self, lambda query: asked.append(1) or [reply_to(query, addresses=["127.0.0.2"])])
        port = free_port()
        self.write(f"x listen={HOST}:{port} to={self.host()}")
        daemon = self.start(f"--routes_file={self.file}", f"--dns_servers={server.address}", *QUICK)
        self.assertEqual(self.serving(daemon), {2})
        self.write(f"x listen={HOST}:{port} to=127.0.0.3:{self.backend_port}")
        self.reload(daemon)
        time.sleep(0.5)
        before = len(asked)
        time.sleep(1)
        self.assertEqual(len(asked), before)
        self.reload(daemon)  # which frees it
        self.assertEqual(self.serving(daemon), {3})

    def test_check_does_not_resolve(self):
        run = run_parkway("--check", "--dns_servers=127.0.0.1:1", "--backend=no.such.name.test:80")
        self.assertEqual((run.returncode, run.stderr), (0, ""))

    def test_what_is_printed_is_what_was_written(self):
        backend = "srv:_db._tcp.p.test*3@backup/max=5"
        run = run_parkway("--print_config", "--backend=db.p.test:80", f"--backend={backend}")
        self.assertIn("--backend=db.p.test:80\n", run.stdout)
        self.assertIn(f"--backend={backend}\n", run.stdout)


if __name__ == "__main__":
    os.environ["LOCALDOMAIN"] = ZONE  # instead of this machine's, of which these servers know nothing
    for tool in ("named", "nsupdate", "dig"):
        if shutil.which(tool) is None:
            sys.exit(f"needs {tool}")
    main()
