#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who is let in: lists of addresses, and limits of a source, of a listener and of the daemon."""

import contextlib
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, IP_BIND_ADDRESS_NO_PORT, KIB, MIB, PATIENCE, SANITIZED, SLOW, Parallel, address_of,
    free_port, in_parallel, main, recv_exactly, recv_to_end, reset, run_parkway, wait_until)
from proxy_protocol_test import ProxyTest, v1  # noqa: E402
from reload_test import ReloadTest  # noqa: E402

TRUSTED = "accept_proxy=any trusted=127.0.0.0/8"


def on_behalf_of(address):
    """A PROXY header."""
    return v1(f"TCP6 {address} ::1 1 2" if ":" in address else f"TCP4 {address} {HOST} 1 2")


def hello(name):
    """The ClientHello of a TLS client."""
    sent = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()


class LimitsTest(ReloadTest, ProxyTest):
    """Its daemons echo, and have an access log, of JSON."""

    def echoes(self, *routes, flags=()):
        """One of routes that are given without their `to`, and maybe without their `listen`."""
        placed = [route if "listen=" in route else f"listen={HOST}:0 {route}" for route in routes]
        return self.start(*(f"--route=r{number} {route} to=echo"
                            for number, route in enumerate(placed)), "--workers=2",
                          f"--access_log={self.path}", "--access_log_format=json", *flags)

    def write_blocks(self, *lines):
        """How a list names the file of them."""
        path = Path(self.folder(), "blocks")
        path.write_text("".join(line + "\n" for line in lines))
        return f"@{path}"

    def try_one(self, to, source=None, header=b"", data=b"?"):
        """A client whose data are echoed behind its header, or None if it was reset."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client = self.connect(to, source=source)
            client.sendall(header + data)
            if got := client.recv(len(data)):
                self.assertEqual(got + recv_exactly(client, len(data) - len(got)), data)
                return client
            self.assertEqual(client.family, socket.AF_UNIX)  # which has no reset
        return None

    def is_served(self, to, *arguments, **options):
        client = self.try_one(to, *arguments, **options)
        if client is not None:
            client.close()
        return client is not None

    def assert_served(self, *arguments, **options):
        """The client."""
        client = self.try_one(*arguments, **options)
        self.assertIsNotNone(client, (arguments, options))
        return client

    def assert_reset(self, *arguments, **options):
        self.assertIsNone(self.try_one(*arguments, **options), (arguments, options))

    def await_served(self, *arguments, **options):
        """Once there is room again."""
        return wait_until(lambda: self.try_one(*arguments, **options), "a client is served")

    def ask(self, to, count):
        """Clients that have sent what is to be echoed."""
        clients = [self.connect(to) for _ in range(count)]
        for client in clients:
            client.sendall(b"?")
        return clients

    def answered(self, clients, seconds=PATIENCE):
        """Those of them that are served by then, or at once."""
        ready, _, _ = select.select(clients, [], [], seconds)
        for client in ready:
            self.assertEqual(client.recv(1), b"?")
        return ready

    def end(self, daemon):
        """Its summary, once it holds nothing that a client has left."""
        for connection in self._sockets:
            connection.close()
        daemon.await_descriptors(0)
        self.stop(daemon)
        return daemon.summary()


class Lists(LimitsTest):
    def check_served(self, at, clients, **options):
        for client, is_welcome in clients.items():
            self.assertEqual(self.is_served(at, source=client, **options), is_welcome,
                             (at, client))

    def test_each_way_to_write_one(self):
        blocks = self.write_blocks("# friends", "127.0.0.2", "", "\t127.0.1.0/24 # and these\r",
                                   "2001:db8::/32")
        nothing = Path(self.folder(), "nothing")
        nothing.write_text("# nobody")
        clients = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.9")
        rows = {
            "allow=127.0.0.2": "no yes no no",
            "allow=127.0.0.2,::1,127.0.0.1": "yes yes no no",
            "deny=127.0.0.2/31": "yes no no yes",
            "deny=127.0.0.0/8": "no no no no",
            "allow=0.0.0.0/0": "yes yes yes yes",
            "allow=::/0": "no no no no",
            f"allow={blocks}": "no yes no yes",
            f"deny={blocks}": "yes no yes no",
            f"allow=127.0.0.3,{blocks}": "no yes yes yes",
            f"allow={blocks},127.0.0.3 deny=127.0.0.2": "no no yes yes",
            f"allow=127.0.0.0/24 deny={blocks}": "yes no yes no",
            f"allow=@{nothing}": "no no no no",
            f"deny=@{nothing}": "yes yes yes yes",
        }
        daemon = self.echoes(*rows)
        for at, expected in zip(daemon.listening, rows.values()):
            self.check_served(at, {client: word == "yes"
                                   for client, word in zip(clients, expected.split())})
        served = " ".join(rows.values()).split()
        self.assertEqual(self.end(daemon), {"served": len(served),
                                            "client_fin": served.count("yes"),
                                            "denied": served.count("no")})

    def test_flags_are_the_defaults_of_routes(self):
        daemon = self.echoes("", "deny=127.0.0.3", flags=("--deny=127.0.0.2",))
        self.check_served(daemon.listening[0], {"127.0.0.2": False, "127.0.0.3": True})
        self.check_served(daemon.listening[1], {"127.0.0.2": True, "127.0.0.3": False})

    def test_clients_of_both_families(self):
        """An IPv4 client of an IPv6 socket is one."""
        rows = {"allow=127.0.0.0/8": (True, False), "allow=::1": (False, True),
                "deny=0.0.0.0/0": (False, True), "deny=::/0": (True, False),
                "deny=::/1": (True, False), "allow=::1,127.0.0.1": (True, True)}
        daemon = self.echoes(*(f"listen=:0 {row}" for row in rows))
        for at, expected in zip(daemon.listening, rows.values()):
            port = at.rsplit(":", 1)[1]
            self.assertEqual((self.is_served(f"{HOST}:{port}"), self.is_served(f"[::1]:{port}")),
                             expected, at)

    def test_clients_of_unix_sockets_are_on_no_list(self):
        path = f"unix:{self.folder()}/0"
        daemon = self.echoes(f"listen={path} deny=0.0.0.0/0,::/0")
        self.assert_served(path)
        self.assertEqual(self.end(daemon), {"served": 1, "client_fin": 1})

    def test_the_address_that_a_proxy_tells_counts(self):
        path = f"unix:{self.folder()}/front"
        lists = "allow=10.0.0.0/8,2001:db8::/32 deny=10.1.0.0/16"
        daemon = self.echoes(f"{TRUSTED} {lists}", f"listen={path} accept_proxy=any {lists}",
                             f"{TRUSTED} deny=127.0.0.0/8")
        clients = {"10.0.0.1": True, "10.1.2.3": False, "2001:db8::1": True,
                   "2001:db9::1": False, "::ffff:10.0.0.1": True, HOST: False}
        for at in daemon.listening[:2]:
            for client, is_welcome in clients.items():
                self.assertEqual(self.is_served(at, header=on_behalf_of(client)), is_welcome,
                                 (at, client))
        self.assert_served(daemon.listening[2], header=on_behalf_of("10.0.0.1"))
        self.assert_reset(daemon.listening[2], header=v1("UNKNOWN"))  # the proxy for itself
        self.assertEqual(self.end(daemon), {"served": 14, "client_fin": 7, "denied": 7})

    def test_a_client_that_its_route_denies_has_no_other(self):
        at = f"{HOST}:{free_port()}"
        one, two = self.named(b"1"), self.named(b"2")
        daemon = self.start(f"--route=a listen={at} from=127.0.0.0/30 deny=127.0.0.2 to={one}",
                            f"--route=b listen={at} deny=127.0.0.1 to={two}",
                            f"--access_log={self.path}", "--access_log_format=json")
        self.assertEqual(self.who_serves(at, "127.0.0.1"), b"1")
        self.assertEqual(self.who_serves(at, "127.0.0.9"), b"2")
        self.assert_refused(at, "127.0.0.2")
        denied, = [line for line in self.logged(3) if line["reason"] == "denied"]
        self.assertTrue(denied["client"].startswith("127.0.0.2:"), denied)
        self.assertEqual((denied["listener"], denied["bytes_up"]), (at, 0))
        self.assertEqual(self.end(daemon), {"served": 3, "client_fin": 2, "denied": 1})

    def test_a_large_file(self):
        count = 60_000
        blocks = self.write_blocks(*(f"10.{i >> 8}.{i & 255}.0/24" for i in range(count)),
                                   "127.0.0.2")
        began = time.monotonic()
        checked = run_parkway("--check", "--mode=echo", f"--deny={blocks}")
        took = time.monotonic() - began
        self.assertEqual(checked.returncode, 0, checked.stderr)
        began = time.monotonic()
        daemon = self.echoes(f"{TRUSTED} deny={blocks}", f"deny={blocks}")
        print(f"{count} blocks: checked in {took * 1e3:.0f} ms, twice at start: "
              f"{(time.monotonic() - began) * 1e3:.0f} ms, {daemon.rss() / MIB:.1f} MiB")
        self.assertLess(took, 1 * SLOW)
        behind, at = daemon.listening
        last = count - 1
        for client, is_welcome in {
                "10.0.0.0": False, "10.0.0.255": False, f"10.{last >> 8}.{last & 255}.7": False,
                f"10.{count >> 8}.{count & 255}.0": True, "9.255.255.255": True}.items():
            self.assertEqual(self.is_served(behind, header=on_behalf_of(client)), is_welcome,
                             client)
        self.check_served(at, {"127.0.0.1": True, "127.0.0.2": False})
        self.write_blocks(*(f"10.{i >> 8}.{i & 255}.0/24" for i in range(count)))
        daemon.signal(signal.SIGHUP)
        times = []
        while not any("reloaded: 2 routes, 2 changed" in line for line in daemon.stderr()):
            began = time.monotonic()
            self.assert_served(at).close()
            times.append(time.monotonic() - began)
            self.assertLess(sum(times), PATIENCE)
        print(f"worst of {len(times)} clients meanwhile: {max(times) * 1e3:.1f} ms")
        self.assertLess(max(times), 0.5 * SLOW)
        self.check_served(at, {"127.0.0.2": True})

    def test_sighup_reads_files_again(self):
        at = f"{HOST}:{free_port()}"
        blocks = self.write_blocks("127.0.0.2")
        daemon = self.serve(f"x listen={at} to=echo deny={blocks}")
        old = self.assert_served(at)
        self.check_served(at, {"127.0.0.2": False})
        self.write_blocks("127.0.0.1", "127.0.0.3")
        self.check_served(at, {"127.0.0.1": True, "127.0.0.2": False})  # not before
        self.assertEqual(self.reload(daemon), "parkway: reloaded: 1 route, 1 changed")
        self.check_served(at, {"127.0.0.1": False, "127.0.0.2": True, "127.0.0.3": False})
        self.assert_echoes(old)
        self.assertEqual(self.reload(daemon), "parkway: reloaded: 1 route, none changed")

    def test_a_mistake_in_a_file_changes_nothing(self):
        at = f"{HOST}:{free_port()}"
        blocks = self.write_blocks("127.0.0.2")
        daemon = self.serve(f"x listen={at} to=echo deny={blocks}")
        path = blocks[1:]
        for lines, problem in ((["127.0.0.1", "# more", "127.0.0.3/24"], f" {path}:3: has bits "),
                               (["127.0.0.1", "localhost"], f" {path}:2: not an address"),
                               (["127.0.0.1/33"], f" {path}:1: the prefix must be 0 to 32")):
            self.write_blocks(*lines)
            said = self.reload(daemon, says="reload failed, nothing has changed: ")
            self.assertIn(problem, said)
            self.check_served(at, {"127.0.0.1": True, "127.0.0.2": False})
        Path(path).unlink()
        said = self.reload(daemon, says="reload failed, nothing has changed: ")
        self.assertIn(f" {blocks}: No such file or directory", said)
        self.check_served(at, {"127.0.0.1": True, "127.0.0.2": False})

    def test_a_list_may_come_and_go(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.serve(f"x listen={at} to=echo")
        old = self.assert_served(at)
        for options, is_welcome in (("deny=127.0.0.1", False), ("", True),
                                    ("allow=127.0.0.2", False), ("", True)):
            self.reload(daemon, f"x listen={at} to=echo {options}")
            self.check_served(at, {"127.0.0.1": is_welcome, "127.0.0.2": True})
        self.assert_echoes(old)


class Sources(LimitsTest):
    def test_most_clients_at_a_time(self):
        daemon = self.echoes("source_max_conns=2")
        for _ in range(3):
            held = {source: [self.await_served(daemon, source=source) for _ in range(2)]
                    for source in ("127.0.0.1", "127.0.0.2")}
            for source, clients in held.items():
                self.assert_reset(daemon, source=source)
                clients.pop().close()
                clients.append(self.await_served(daemon, source=source))
            for client in sum(held.values(), []):
                self.assert_echoes(client)
                client.close()
        daemon.await_descriptors(0)

    def test_clients_that_are_reset_take_no_place_of_their_source(self):
        daemon = self.echoes("source_max_conns=1 deny=127.0.0.2", flags=("--max_conns=1",))
        first = self.assert_served(daemon)
        for source in ("127.0.0.1", "127.0.0.2") * 20:
            self.assert_reset(daemon, source=source)
        first.close()
        self.await_served(daemon)

    def test_backends_that_fail_give_places_back(self):
        daemon = self.start(f"--route=x listen={HOST}:0 to={self.refuses()} source_max_conns=1",
                            f"--access_log={self.path}", "--access_log_format=json")
        for count in range(1, 6):
            self.assert_refused(daemon)
            self.logged(count)
            daemon.await_descriptors(0)
        self.assertEqual(self.reasons(5), ["connect_refused"] * 5)

    def test_each_route_counts_for_itself(self):
        path = f"unix:{self.folder()}/front"
        daemon = self.echoes("source_max_conns=1", "source_max_conns=1",
                             f"listen={path} source_max_conns=1")
        for at in daemon.listening[:2]:
            self.assert_served(at)
            self.assert_reset(at)
        for _ in range(5):  # clients that have no address have no source
            self.assert_served(path)

    def test_clients_of_both_families(self):
        daemon = self.echoes("listen=:0 source_max_conns=1")
        for host in ("[::1]", HOST):
            at = f"{host}:{daemon.port}"
            client = self.assert_served(at)
            self.assert_reset(at)
            client.close()
            self.await_served(at)

    def test_sources_behind_one_proxy(self):
        """The first 64 bits of an IPv6 address are one."""
        daemon = self.echoes(f"{TRUSTED} source_max_conns=1")
        apart = [f"10.0.{i}.1" for i in range(100)] + [f"2001:db8:0:{i:x}::1" for i in range(100)]
        for client in apart + ["a00:1::"]:  # which begins with the bytes of 10.0.0.1
            self.assert_served(daemon, header=on_behalf_of(client))
        for client in ("10.0.7.1", "::ffff:10.0.7.1", "2001:db8::1", "2001:db8:0:63:ffff::2"):
            self.assert_reset(daemon, header=on_behalf_of(client))
        self.assert_served(daemon, header=v1("UNKNOWN"))
        self.assert_reset(daemon, header=v1("UNKNOWN"))
        self.assertEqual(self.end(daemon), {"served": 207, "client_fin": 202,
                                            "source_too_many": 5})

    def test_new_clients_a_second(self):
        rate = 20
        daemon = self.echoes(f"source_conn_rate={rate}")
        for source in ("127.0.0.1", "127.0.0.2"):
            began = time.monotonic()
            served = sum(self.is_served(daemon, source=source) for _ in range(3 * rate))
            self.assertGreaterEqual(served, rate)
            self.assertLessEqual(served, rate + 1 + rate * (time.monotonic() - began))
        self.await_served(daemon)
        counts = self.end(daemon)
        self.assertGreater(counts["source_too_fast"], 0)
        self.assertEqual(set(counts), {"served", "client_fin", "source_too_fast"})

    def test_a_reload_changes_limits(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.serve(f"x listen={at} to=echo")
        old = [self.assert_served(at, source="127.0.0.2") for _ in range(3)]
        for most in (1, 3):
            self.reload(daemon, f"x listen={at} to=echo source_max_conns={most}")
            clients = [self.await_served(at) for _ in range(most)]
            self.assert_reset(at)
            for client in clients:
                client.close()
            daemon.await_descriptors(len(old))
        self.reload(daemon, f"x listen={at} to=echo source_conn_rate=1")
        self.assert_served(at)
        self.assert_reset(at)
        self.reload(daemon, f"x listen={at} to=echo")
        for _ in range(10):
            self.assert_served(at)
        for client in old:
            self.assert_echoes(client)

    def test_a_reload_that_leaves_limits_alone_leaves_counts_alone(self):
        at = f"{HOST}:{free_port()}"
        blocks = self.write_blocks("127.0.0.9")
        daemon = self.serve(f"x listen={at} to=echo source_max_conns=2 deny={blocks}")
        old = [self.assert_served(at) for _ in range(2)]
        self.write_blocks("127.0.0.8")
        self.assertEqual(self.reload(daemon), "parkway: reloaded: 1 route, 1 changed")
        self.assert_reset(at)
        old.pop().close()
        self.await_served(at)

    def test_more_sources_than_are_known_at_a_time(self):
        """They take constant memory, and no source that has clients, or was just here, is
        forgotten for them."""
        count, rate, every = 100_000 // SLOW, 10, 250
        path = f"unix:{self.folder()}/front"
        daemon = self.start(f"--route=x listen={path} to=echo accept_proxy=any source_max_conns=1 "
                            f"source_conn_rate={rate}", "--workers=2")
        where = path.removeprefix("unix:")
        stays, returns = on_behalf_of("192.0.2.1"), on_behalf_of("192.0.2.2")
        self.assert_served(path, header=stays)
        served = resets = 0
        began = time.monotonic()
        for number in range(count):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(where)
                client.sendall(b"PROXY TCP4 10.%d.%d.%d 1.1.1.1 1 2\r\n" % (
                    number >> 16, number >> 8 & 255, number & 255))
            if number % every == 0:
                self.assert_reset(path, header=stays)
                resets += 1
                served += self.is_served(path, header=returns)
            if number == 10_000 // SLOW:
                before = daemon.rss()
        took = time.monotonic() - began
        grown = daemon.rss() - before
        print(f"{count} sources in {took:.1f} s: {grown / MIB:.2f} MiB more, one of them served "
              f"{served} times of {resets}")
        if not SANITIZED:
            self.assertLess(grown, 4 * MIB)
        self.assertGreaterEqual(served, rate)
        self.assertLessEqual(served, rate + 1 + rate * took)
        counts = self.end(daemon)
        self.assertEqual(counts["served"], 1 + count + 2 * resets)
        self.assertEqual(counts["source_too_many"] + counts.get("source_too_fast", 0),
                         2 * resets - served)

    def test_a_storm_from_one_source(self):
        rate, seconds = 10, 2
        daemon = self.start(f"--route=x listen={HOST}:0 to=echo source_conn_rate={rate}",
                            "--workers=2")
        where = HOST, daemon.port
        served, resets = [], []
        began = time.monotonic()
        over = threading.Event()

        def storm():
            while not over.is_set():
                client = socket.socket()
                client.settimeout(PATIENCE)
                client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                client.bind(("127.0.0.2", 0))
                try:
                    client.connect(where)
                    client.sendall(b"?")
                    served.append(client.recv(1))
                except (ConnectionResetError, BrokenPipeError):
                    resets.append(1)
                reset(client)

        storms = Parallel()
        for _ in range(2):
            storms.add(storm)
        times = []
        try:
            while time.monotonic() - began < seconds:
                neighbour = f"127.1.{len(times) >> 8}.{len(times) & 255}"
                start = time.monotonic()
                client = self.assert_served(daemon, source=neighbour)
                times.append(time.monotonic() - start)
                client.close()
        finally:
            over.set()
            storms.join()
        took = time.monotonic() - began
        print(f"{len(served) + len(resets)} connects in {took:.1f} s, {len(served)} served; worst "
              f"of {len(times)} neighbours: {max(times) * 1e3:.1f} ms")
        self.assertLess(max(times), 0.5 * SLOW)
        self.assertEqual(set(served), {b"?"})
        self.assertLessEqual(len(served), rate + 1 + rate * took)
        self.assertGreater(len(resets), 1000 // SLOW)
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary()["source_too_fast"], len(resets))


class Places(LimitsTest):
    """listener_max_conns and max_conns."""

    def check_wait(self, workers, *flags):
        """Beyond two, where another listener is without a limit unless all have one."""
        daemon = self.start("--route=x listen=127.0.0.1:0 to=echo listener_max_conns=2",
                            "--route=y listen=127.0.0.1:0 to=echo", f"--workers={workers}", *flags)
        x, y = daemon.listening
        stays, leaves = [self.assert_served(x) for _ in range(2)]
        waiting = self.ask(x, 10)
        order = list(waiting)
        self.assertEqual(self.answered(waiting, 0.1), [])
        for _ in range(10):
            self.assert_served(y)
        while waiting:
            leaves.close()
            leaves, = self.answered(waiting)
            waiting.remove(leaves)
            if workers == 1:
                self.assertIs(leaves, order[-len(waiting) - 1])
        self.assert_echoes(stays)
        self.assertEqual(self.end(daemon), {"served": 22, "client_fin": 22})

    def test_clients_wait_with_one_worker(self):
        """In the order in which they came."""
        self.check_wait(1)

    def test_clients_wait_with_two_workers(self):
        self.check_wait(2)

    def test_each_address_has_its_own(self):
        daemon = self.echoes(f"listen={HOST}:0,{HOST}:0 listener_max_conns=1 overload=reset",
                             f"listen=unix:{self.folder()}/front listener_max_conns=1 "
                             "overload=reset")
        for at in daemon.listening:
            self.assert_served(at)
            self.assert_reset(at)
        self.assertEqual(self.end(daemon), {"served": 6, "client_fin": 3, "too_many": 3})

    def test_routes_share_that_of_their_address(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.echoes(
            f"listen={at} from=127.0.0.2 listener_max_conns=2 overload=reset",
            f"listen={at} listener_max_conns=2 overload=reset")
        for source in ("127.0.0.1", "127.0.0.2"):
            self.assert_served(daemon, source=source)
        for source in ("127.0.0.1", "127.0.0.2"):
            self.assert_reset(daemon, source=source)

    def test_clients_are_reset(self):
        daemon = self.echoes("listener_max_conns=2 overload=reset", "")
        x, y = daemon.listening
        held = [self.assert_served(x) for _ in range(2)]
        for _ in range(20):
            self.assert_reset(x)
            self.assert_served(y)
        held.pop().close()
        held.append(self.await_served(x))
        self.assert_reset(x)
        self.assert_echoes(held[0])
        counts = self.end(daemon)
        self.assertEqual(set(counts), {"served", "client_fin", "too_many"})
        self.assertEqual(counts["client_fin"], 23)
        self.assertGreaterEqual(counts["too_many"], 21)

    def test_clients_of_all_are_reset(self):
        daemon = self.echoes("", "", flags=("--max_conns=2", "--overload=reset"))
        held = [self.assert_served(at) for at in daemon.listening]
        for at in daemon.listening:
            self.assert_reset(at)
        self.assertEqual(self.reasons(2), ["too_many"] * 2)
        held.pop().close()
        self.await_served(daemon)

    def test_some_are_reset_while_others_wait(self):
        daemon = self.echoes("overload=reset", "overload=pause", flags=("--max_conns=2",))
        resets, pauses = daemon.listening
        held = [self.assert_served(at) for at in daemon.listening]
        waiting = self.ask(pauses, 3)
        for _ in range(10):
            self.assert_reset(resets)
        self.assertEqual(self.answered(waiting, 0.1), [])
        for client in held:
            client.close()
        while waiting:
            for client in self.answered(waiting):
                waiting.remove(client)
                client.close()
        self.await_served(resets)

    def test_a_drain_serves_who_was_accepted(self):
        """One for each worker; the others are in the kernel's queue, and it is reset."""
        daemon = self.echoes("listener_max_conns=1", flags=("--workers=1",))
        first = self.assert_served(daemon)
        waiting = self.ask(daemon, 3)
        daemon.await_descriptors(2)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(self.answered(waiting[:1]), waiting[:1])
        for client in waiting[1:]:
            self.assert_ends(client, "reset")
        for client in (first, waiting[0]):
            self.assert_echoes(client)
            client.close()
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 2, "client_fin": 2})

    def test_nobody_who_waits_is_forgotten(self):
        """Where listeners and all are at their limits, and clients come and go."""
        routes = 2 * ["listener_max_conns=1"]
        daemon = self.echoes(*routes, flags=("--max_conns=1", "--workers=4"))
        sessions = 1000 // SLOW

        def come_and_go(at):
            for _ in range(sessions // 10):
                with socket.create_connection((HOST, int(at.rsplit(":", 1)[1]))) as client:
                    client.settimeout(PATIENCE)
                    self.assert_echoes(client)

        in_parallel(*((come_and_go, at) for at in 5 * daemon.listening))
        self.assertEqual(self.end(daemon)["served"], 10 * (sessions // 10))

    def test_a_limit_of_a_listener_changes_at_the_next_start(self):
        at = f"{HOST}:{free_port()}"
        flags = Path(self.folder(), "flags")
        flags.write_text("")
        daemon = self.serve(f"x listen={at} to=echo listener_max_conns=1 overload=reset",
                            flags=(f"--flagfile={flags}",))
        self.assert_served(at)
        flags.write_text("--max_conn_rate=7\n")
        self.reload(daemon, f"x listen={at} to=echo listener_max_conns=2 listener_conn_rate=5")
        for name in ("listener_max_conns", "listener_conn_rate", "overload"):
            daemon.wait_for_line(f"^parkway: {name} of {at} takes effect at the next start$")
        daemon.wait_for_line("^parkway: --max_conn_rate=7 takes effect at the next start$")
        for _ in range(10):
            self.assert_reset(at)


class Rates(LimitsTest):
    """listener_conn_rate and max_conn_rate. As many as the rate may come at once."""

    RATE = 20

    def served_in_time(self, clients):
        """(clients as they were served, when)"""
        waiting, order, times = list(clients), [], []
        while waiting:
            for client in self.answered(waiting):
                waiting.remove(client)
                order.append(client)
                times.append(time.monotonic())
        return order, times

    def check_wait(self, *routes, flags):
        """For their turn, all of them together."""
        daemon = self.echoes(*routes, flags=flags)
        count = 2 * self.RATE
        began = time.monotonic()
        clients = [client for at in daemon.listening
                   for client in self.ask(at, count // len(daemon.listening))]
        order, times = self.served_in_time(clients)
        self.assertLess(times[self.RATE - 1] - began, 0.9 * SLOW)
        least = (count - self.RATE) / self.RATE
        self.assertGreater(times[-1] - began, 0.95 * least)
        self.assertLess(times[-1] - began, (least + 1) * SLOW)
        self.assertEqual(self.end(daemon), {"served": count, "client_fin": count})
        return clients, order

    def test_clients_of_a_listener_wait(self):
        """In the order in which they came, with one worker."""
        clients, order = self.check_wait(f"listener_conn_rate={self.RATE}", flags=("--workers=1",))
        self.assertEqual([clients.index(client) for client in order], list(range(len(clients))))

    def test_clients_of_all_wait(self):
        self.check_wait("", "", flags=(f"--max_conn_rate={self.RATE}",))

    def check_resets(self, *routes, flags=(), own=True):
        """Each listener has a rate of its own, or all have one."""
        daemon = self.echoes(*routes, flags=(*flags, "--overload=reset"))
        began = time.monotonic()
        served = dict.fromkeys(daemon.listening, 0)
        asked = 0  # at each
        while asked < 2 * self.RATE or asked * len(served) == sum(served.values()):
            asked += 1
            self.assertLess(asked, 100 * self.RATE, served)
            for at in served:
                served[at] += self.is_served(at)
        took = time.monotonic() - began
        for count in served.values() if own else [sum(served.values())]:
            self.assertGreaterEqual(count, self.RATE)
            self.assertLessEqual(count, self.RATE + 1 + self.RATE * took)
        asked, total = asked * len(served), sum(served.values())
        self.assertEqual(self.reasons(asked),
                         ["client_fin"] * total + ["too_fast"] * (asked - total))
        for at in daemon.listening:
            self.await_served(at)  # the time of one is over

    def test_clients_of_each_listener_are_reset(self):
        self.check_resets(*2 * [f"listener_conn_rate={self.RATE}"])

    def test_clients_of_all_are_reset(self):
        self.check_resets("", "", flags=(f"--max_conn_rate={self.RATE}",), own=False)

    def test_who_waits_leaves_turns_to_who_does_not(self):
        daemon = self.start(f"--route=waits listen={HOST}:0 to=echo",
                            f"--route=resets listen={HOST}:0 to=echo overload=reset",
                            "--workers=2", f"--max_conn_rate={self.RATE}")
        waits, resets = daemon.listening
        self.ask(waits, 4 * self.RATE)
        self.await_served(resets)

    def test_both(self):
        """The one that allows less counts."""
        rates = (f"--max_conn_rate={10 * self.RATE}", f"--listener_conn_rate={self.RATE}")
        self.check_resets("", "", flags=rates)

    def test_who_is_turned_away_takes_no_turn(self):
        daemon = self.echoes("deny=127.0.0.2 listener_conn_rate=1 overload=reset")
        for _ in range(10):
            self.assert_reset(daemon, source="127.0.0.2")
        self.assert_served(daemon)
        self.assert_reset(daemon)

    def test_a_drain_does_not_wait_for_turns(self):
        daemon = self.echoes("listener_conn_rate=1", "", flags=("--max_conn_rate=1",))
        self.assert_served(daemon)
        waiting = [client for at in daemon.listening for client in self.ask(at, 5)]
        self.assertEqual(self.answered(waiting, 0.1), [])
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        self.served_in_time(waiting)
        self.assertLess(time.monotonic() - began, 0.9 * SLOW)
        for client in self._sockets:
            client.close()
        daemon.check_end(0)
        self.assertLess(time.monotonic() - began, 0.9 * SLOW)
        self.assertEqual(daemon.summary(), {"served": 11, "client_fin": 11})

    def test_who_waits_for_its_turn_holds_up_no_other_listener(self):
        daemon = self.echoes("listener_conn_rate=1", "")
        slow, calm = daemon.listening
        self.assert_served(slow)
        began = time.monotonic()
        waiting = self.ask(slow, 50)
        for _ in range(100):
            self.assert_served(calm).close()
        answered = len(self.answered(waiting, 0))
        self.assertLessEqual(answered, time.monotonic() - began)
        self.assertLess(answered, 25)  # or the calm ones have waited, too
        for client in self._sockets:
            client.close()
        self.stop(daemon)


class Bandwidth(LimitsTest):
    """Bytes per second, in each direction."""

    RATE = 400 * KIB

    def rates_of(self, daemon, server, count, up, seconds=1.5):
        """Of so many endless streams, from before they begin."""
        began = time.monotonic()
        receivers = self.flows(daemon, server, count, up)
        counts = [0] * count
        while (left := began + seconds - time.monotonic()) > 0:
            ready, _, _ = select.select(receivers, [], [], left)
            for receiver in ready:
                counts[receivers.index(receiver)] += len(receiver.recv(MIB))
        took = time.monotonic() - began + 0.1  # 50 ms' worth may come at once, and be on its way
        return [count / took for count in counts]

    def flows(self, daemon, server, count, up):
        """Receivers of endless streams."""
        receivers = []
        for _ in range(count):
            client, backend = self.session(daemon, server)
            sender, receiver = (client, backend) if up else (backend, client)
            threading.Thread(target=self.send_on, args=(sender,), daemon=True).start()
            receivers.append(receiver)
        return receivers

    @staticmethod
    def send_on(sender):
        with contextlib.suppress(OSError):
            while True:
                sender.sendall(bytes(MIB))

    def check(self, option, count, up, share):
        server = self.listen()
        daemon = self.start(f"--route=x listen={HOST}:0 to={address_of(server)} "
                            f"{option}={self.RATE // KIB}KiB", "--workers=2")
        rates = self.rates_of(daemon, server, count, up)
        print(f"{option}, {'up' if up else 'down'}: "
              f"{', '.join(f'{rate / KIB:.0f} KiB/s' for rate in rates)}")
        for rate in rates:
            self.assertLess(rate, 1.05 * self.RATE)
            self.assertGreater(rate, share * self.RATE / SLOW)
        return rates

    def test_each_connection_has_its_own(self):
        for up in (False, True):
            self.check("bandwidth", 2, up, 0.5)

    def test_connections_of_a_route_share_one(self):
        rates = self.check("route_bandwidth", 3, False, 0.1)
        self.assertLess(sum(rates), 1.15 * self.RATE)  # each moves a slice before it asks

    def test_a_large_one_is_spliced(self):
        server = self.listen()
        daemon = self.start(f"--route=x listen={HOST}:0 to={address_of(server)} bandwidth=32MiB",
                            "--workers=2")
        rate, = self.rates_of(daemon, server, 1, False)
        self.assertLess(rate, 1.1 * 32 * MIB)

    def test_bytes_stay_as_they_are_and_the_end_comes(self):
        server = self.listen()
        daemon = self.start(f"--route=x listen={HOST}:0 to={address_of(server)} bandwidth=1MiB",
                            "--workers=2")
        client, backend = self.session(daemon, server)
        data = os.urandom(300 * KIB)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(recv_to_end(backend), (data, "fin"))
        backend.close()
        self.assert_ends(client, "fin")

    def test_a_drain_does_not_wait_for_it(self):
        server = self.listen()
        daemon = self.start(f"--route=x listen={HOST}:0 to={address_of(server)} bandwidth=1KiB",
                            "--workers=2", "--drain_timeout=100ms")
        client, backend = self.session(daemon, server)
        client.sendall(bytes(64 * KIB))
        recv_exactly(backend, 1024)
        daemon.signal(signal.SIGTERM)
        daemon.check_end(1)


class Handshakes(LimitsTest):
    """Clients of whom it is known only after what they say first whether they are let in."""

    def test_who_is_denied_by_all_need_not_be_heard(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.start(f"--route=a listen={at} sni=a.test deny=127.0.0.2 to=echo",
                            f"--route=b listen={at} deny=127.0.0.2,127.0.0.3 to=echo",
                            "--workers=2", "--max_conns=1")
        for _ in range(3):
            self.assert_reset(at, source="127.0.0.2")
        self.assert_served(at)
        self.assertEqual(self.end(daemon), {"served": 4, "denied": 3, "client_fin": 1})

    def test_who_no_route_serves_need_not_be_heard(self):
        at = f"{HOST}:{free_port()}"
        daemon = self.start(f"--route=a listen={at} sni=a.test from=127.0.0.1 to=echo",
                            f"--route=b listen={at} from=127.0.0.1 to=echo", "--workers=2")
        self.assert_reset(at, source="127.0.0.2")
        self.assert_served(at)
        self.assertEqual(self.end(daemon), {"served": 2, "no_route": 1, "client_fin": 1})

    LIMITS = {"denied": ("deny=10.0.0.0/8", "10.0.0.2"),
              "source_too_many": ("source_max_conns=1", "192.0.2.1"),
              "source_too_fast": ("source_conn_rate=1", "192.0.2.1")}

    def test_who_is_denied_then_gives_its_place_back(self):
        common = f"listen={HOST}:{free_port()} {TRUSTED}"
        name = "a.example.com"
        for reason, (limit, client) in self.LIMITS.items():
            self.path = Path(self.folder(), reason)
            daemon = self.echoes(f"{common} sni=*.example.com {limit}", common,
                                 flags=("--max_conns=2",))
            first = self.assert_served(daemon, header=on_behalf_of("192.0.2.1"), data=hello(name))
            greeting = on_behalf_of(client) + hello(name)
            for _ in range(10):
                other = self.connect(daemon)
                proxy = address_of(other)
                other.sendall(greeting)
                self.assert_ends(other, "reset")
            self.assert_served(daemon, header=on_behalf_of("192.0.2.9"), data=hello(name)).close()
            self.assert_echoes(first)
            lines = [line for line in self.logged(11) if line["reason"] == reason]
            self.assertEqual(len(lines), 10)
            self.assertEqual((lines[-1]["client"], lines[-1]["sni"]), (f"{client}:1", name))
            self.assertIn(proxy, [line["proxy"] for line in lines])
            # The limit is of one route.
            self.assert_served(daemon, header=on_behalf_of(client), data=hello("example.org"))
            self.assertEqual(self.end(daemon), {"served": 13, "client_fin": 3, reason: 10})

    def test_who_is_not_heard_yet_is_of_its_source(self):
        """And uses nothing of its source's rate before."""
        other, greeting = "127.0.0.2", hello("a.example.com")
        daemon = self.echoes("sni=*.example.com source_max_conns=2 source_conn_rate=1",
                             flags=("--workers=1",))  # so that they come one after another
        silent = [self.connect(daemon, source=other) for _ in range(2)]
        self.assert_reset(daemon, source=other, data=greeting)
        self.assert_served(daemon, data=greeting)
        silent[0].sendall(greeting)  # the place that it has suffices
        self.assertEqual(recv_exactly(silent[0], len(greeting)), greeting)
        self.assert_reset(daemon, source=other, data=greeting)
        silent[1].sendall(greeting)
        self.assert_ends(silent[1], "reset")
        time.sleep(1)  # a client's worth of the rate
        self.await_served(daemon, source=other, data=greeting)
        reasons = [line["reason"] for line in self.logged(3)]
        self.assertEqual(reasons, ["source_too_many", "source_too_many", "source_too_fast"])

    def test_who_is_not_heard_yet_is_of_the_first_route_with_a_place(self):
        other, greeting = "127.0.0.2", hello("a.example.com")
        at = f"listen={HOST}:{free_port()}"
        daemon = self.echoes(f"{at} sni=*.example.com source_max_conns=2",
                             f"{at} from=127.0.0.3 source_max_conns=9",
                             f"{at} source_max_conns=1",
                             flags=("--workers=1",))  # so that they come one after another
        silent = [self.connect(daemon, source=other) for _ in range(3)]
        self.assert_reset(daemon, source=other)
        silent.pop().close()
        self.logged(2)
        self.assert_served(daemon, source=other)
        for client in silent:
            client.sendall(greeting)
            self.assertEqual(recv_exactly(client, len(greeting)), greeting)

    def test_a_reload_leaves_places_to_who_is_not_heard_yet(self):
        route = f"x listen={HOST}:{free_port()} sni=*.example.com source_max_conns=1 to=echo"
        daemon, greeting = self.serve(route), hello("a.example.com")
        silent = self.connect(daemon)
        self.reload(daemon, f"{route} idle_timeout=9s")
        self.assert_reset(daemon, data=greeting)
        silent.sendall(greeting)
        self.assertEqual(recv_exactly(silent, len(greeting)), greeting)
        silent.close()
        self.await_served(daemon, data=greeting)

    def test_whose_source_a_proxy_has_yet_to_tell_is_of_none(self):
        """But holds a place."""
        common = f"{TRUSTED} source_max_conns=1 source_conn_rate=1"
        daemon = self.echoes(f"{common} listener_max_conns=3 overload=reset")
        silent = [self.begun(daemon, b"PROXY") for _ in range(2)]
        self.assert_served(daemon, header=on_behalf_of("192.0.2.1"))
        self.assert_reset(daemon, header=on_behalf_of("192.0.2.2"))
        silent.pop().close()
        self.logged(2)
        self.await_served(daemon, header=on_behalf_of("192.0.2.3"))
        self.assertEqual({line["reason"] for line in self.logged(2)} - {"too_many"}, {"proxy_cut"})

    def test_who_waits_for_a_place_may_then_be_denied(self):
        daemon = self.echoes(f"{TRUSTED} deny=10.0.0.0/8",
                             flags=("--max_conns=1", "--workers=1"))
        first = self.assert_served(daemon, header=on_behalf_of("192.0.2.1"))
        others = [self.connect(daemon) for _ in range(4)]
        for number, client in enumerate(others):
            client.sendall(on_behalf_of(f"{10 + number % 2}.0.0.1") + b"?")
        self.assert_silent(others[0], 0.1)
        first.close()
        for number, client in enumerate(others):
            if number % 2 == 0:
                self.assert_ends(client, "reset")
            else:
                self.assertEqual(recv_exactly(client, 1), b"?")
            client.close()
        self.assertEqual(self.end(daemon), {"served": 5, "client_fin": 3, "denied": 2})

    def test_a_reload_counts_for_who_has_not_said_it_yet(self):
        at = f"{HOST}:{free_port()}"
        route = f"x listen={at} to=echo {TRUSTED}"
        daemon = self.serve(route)
        client = self.begun(daemon, b"PROXY TCP4 10.0.0.1 ")
        self.reload(daemon, f"{route} deny=10.0.0.0/8")
        client.sendall(b"127.0.0.1 1 2\r\n")
        self.assert_ends(client, "reset")
        self.assertEqual(self.end(daemon), {"served": 1, "denied": 1})


if __name__ == "__main__":
    main()
