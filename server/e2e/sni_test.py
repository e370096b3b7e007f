#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Routes chosen by the TLS ClientHello: whom each serves, every way in which a hello may come, and
what becomes of clients that send none; with hellos of the test's own, and with OpenSSL, nginx, curl
and Python's TLS."""

import contextlib
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, PATIENCE, SANITIZED, SLOW, Pattern, address_of, free_port, in_parallel, main,
    recv_exactly, recv_to_end, reset, wait_until)
from logs_test import TEXT, LogTest, lines_of  # noqa: E402
from programs_test import ProgramTest, find_program  # noqa: E402
from reload_test import ReloadTest  # noqa: E402

# ---- ClientHellos.

SERVER_NAME, ALPN, PADDING, EARLY_DATA = 0, 16, 21, 42
LONGEST = 64 * KIB  # of records with their headers
RECORD = 16 * KIB   # the longest record carries so much
GREASE = 0x1A1A     # numbers of that form mean nothing (RFC 8701)


def vector(size, body):
    """With its length, of `size` bytes, before it."""
    return len(body).to_bytes(size, "big") + body


def extension(kind, body=b""):
    return struct.pack("!H", kind) + vector(2, body)


def asking(*names):
    return extension(SERVER_NAME, vector(2, b"".join(b"\0" + vector(2, name) for name in names)))


def offering(*protocols):
    return extension(ALPN, vector(2, b"".join(vector(1, protocol) for protocol in protocols)))


def message(*extensions, version=b"\3\3", session_id=bytes(32), ciphers=b"\x13\1\xc0\x2f",
            compressions=b"\0", behind=b""):
    body = (version + bytes(range(32)) + vector(1, session_id) + vector(2, ciphers) +
            vector(1, compressions) + vector(2, b"".join(extensions)) + behind)
    return b"\1" + vector(3, body)


def records(data, size=RECORD, kind=b"\x16"):
    return b"".join(kind + b"\3\1" + vector(2, data[at:at + size])
                    for at in range(0, len(data), size))


def hello(name=None, *protocols, first=(), last=()):
    """A whole one, in one record. `first` and `last` are further extensions."""
    extensions = [*first, *([asking(name.encode())] if name is not None else []),
                  *([offering(*(p.encode() for p in protocols))] if protocols else []), *last]
    return records(message(*extensions))


def message_of(size, name):
    """The message of a hello, padded to so many bytes."""
    without = len(message(asking(name), extension(PADDING)))
    return message(extension(PADDING, bytes(size - without)), asking(name))


def of_python(name, *protocols, version=None):
    """What a real client sends first."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(protocols)
    if version is not None:
        context.maximum_version = version
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def unframed(data):
    """What the records carry that `data` are from end to end."""
    carried = b""
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        carried += data[5:size]
        data = data[size:]
    return carried


NOT_TLS = [
    b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0", b"\x16\2\0\0\1\1",
    b"\x16\4\0\0\1\1",
    b"\x80\x2e\1\3\1",                               # SSL 2
    records(b"\2\x28", kind=b"\x15"),                # an alert
    records(b"x", kind=b"\x17"),                     # data
    records(b"\2" + vector(3, b"\3\3" + bytes(70))),  # a ServerHello
]

WHOLE = message(asking(b"a.test"))
BAD_RECORDS = [
    b"\x16\3\1\0\0", records(WHOLE[:9]) + b"\x16\3\1\0\0",  # of no bytes
    b"\x16\3\1\x40\1" + WHOLE, b"\x16\3\1\xff\xff" + WHOLE,  # too long
    records(WHOLE[:9]) + records(b"x", kind=b"\x17"),
    records(WHOLE[:9]) + records(b"\2\x28", kind=b"\x15"),
    records(WHOLE[:9]) + b"GET / HTTP/1.1\r\n",
]
BAD_FIELDS = [records(bad) for bad in (
    b"\1" + vector(3, b""), b"\1" + vector(3, bytes(300)), b"\1" + vector(3, 300 * b"\xff"),
    b"\1" + vector(3, b"\3\3" + bytes(31)), message(version=b"\2\3"),
    message(session_id=bytes(33)), message(ciphers=b""), message(ciphers=b"\x13\1\xc0"),
    message(compressions=b""), message(behind=b"x"), message(b"\0"), message(b"\0\0\0\5x"),
    message(extension(SERVER_NAME)), message(asking()), message(asking(b"")),
    message(asking(b"a\0.test")), message(asking(b"a test")), message(asking("ä.test".encode())),
    message(asking(256 * b"a")), message(asking(b".")), message(asking(b"a.test", b"b.test")),
    message(asking(b"a.test"), asking(b"a.test")),
    message(extension(SERVER_NAME, b"\0\5\0\0\7a")), message(extension(ALPN)),
    message(offering()), message(offering(b"")), message(offering(b"h2"), offering(b"h2")),
    message(offering(*(65 * [b"h2"]))), message(extension(ALPN, b"\0\4\4h2x")))
]
TOO_LONG = [
    b"\x16\3\1\x40\0\1\xff\xff\xff", b"\x16\3\1\x40\0\1\0\xff\xff",
    records(message_of(LONGEST - 4 * 5 + 1, b"a.test"))[:9],
    records(message_of(LONGEST - 4 * 5 + 1, b"a.test")),
    records(message_of(LONGEST // 6 + 1, b"a.test"), 1),
]


class HelloTest(LogTest):
    """Its daemons have an access log, of JSON."""

    def choose(self, *routes, options="", flags=()):
        """A daemon whose routes, each without `listen`, accept at one address."""
        at = f"{HOST}:{free_port()}"
        return self.start(*(f"--route={route} listen={at} {options}" for route in routes),
                          f"--access_log={self.path}", "--access_log_format=json",
                          *(flags or ("--workers=2",)))

    def say(self, daemon, data, source=None):
        """A client that has sent that."""
        client = self.connect(daemon, source=source)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # at its first bytes
            client.sendall(data)
        return client

    def served_by(self, daemon, data, source=None):
        """The name of the backend that a client with that hello gets, which has all of it."""
        client = self.say(daemon, data, source)
        name = recv_exactly(client, 1)
        self.assertTrue(recv_exactly(client, len(data)) == data, "the bytes differ")
        client.close()
        return name

    def assert_serves(self, daemon, rows):
        for data, name in rows:
            self.assertEqual(self.served_by(daemon, data), name, data)

    def assert_turned_away(self, daemon, data, source=None):
        with contextlib.suppress(ConnectionResetError):  # while it connects
            self.assert_ends(self.say(daemon, data, source), "reset")

    def assert_nobody_came(self, server):
        server.setblocking(False)
        with self.assertRaises(BlockingIOError):
            server.accept()

    def await_heard(self, daemon, count):
        """Until it has so many clients whose hellos it waits for, and has looked at what they sent.
        One that came after them is served by then, by the only worker."""
        daemon.await_descriptors(count)
        client = self.say(daemon, hello("probe.test"))
        recv_exactly(client, len(hello("probe.test")))
        client.close()
        daemon.await_descriptors(count)

    def reasons(self, count):
        return sorted(line["reason"] for line in self.logged(count))


class Choice(HelloTest):
    def test_names(self):
        daemon = self.choose(f"a sni=a.test,Www.A.Test to={self.named(b'a')}",
                             f"w sni=*.Wild.test to={self.named(b'w')}",
                             f"r to={self.named(b'r')}")
        self.assert_serves(daemon, [
            (hello(name), served) for name, served in (
                ("a.test", b"a"), ("A.TEST", b"a"), ("a.test.", b"a"), ("www.a.test", b"a"),
                ("x.a.test", b"r"), ("aa.test", b"r"), ("a.test.test", b"r"), ("test", b"r"),
                ("wild.test", b"r"), ("x.wild.test", b"w"), ("X.y.WILD.test", b"w"),
                (".wild.test", b"r"), ("xwild.test", b"r"), ("127.0.0.1", b"r"), (253 * "x", b"r"),
                (None, b"r"))])

    def test_the_first_that_fits(self):
        b, w, s = self.named(b"b"), self.named(b"w"), self.named(b"s")
        before = self.choose(f"b sni=b.a.test to={b}", f"w sni=*.a.test to={w}",
                             f"s sni=*.test to={s}")
        after = self.choose(f"s sni=*.test to={s}", f"w sni=*.a.test to={w}",
                            f"b sni=b.a.test to={b}")
        names = [hello(name) for name in ("b.a.test", "c.a.test", "c.test")]
        self.assert_serves(before, zip(names, (b"b", b"w", b"s")))
        self.assert_serves(after, zip(names, (b"s", b"s", b"s")))

    def test_protocols(self):
        daemon = self.choose(f"h alpn=h2 to={self.named(b'h')}",
                             f"s alpn=imap,pop3 to={self.named(b's')}",
                             f"r to={self.named(b'r')}")
        self.assert_serves(daemon, [
            (hello("a.test", "h2", "http/1.1"), b"h"), (hello("a.test", "http/1.1", "h2"), b"h"),
            (hello(None, "h2"), b"h"), (hello(None, "pop3"), b"s"),
            (hello(None, "x", "imap"), b"s"), (hello(None, "imap", "h2"), b"h"),
            (hello("a.test", "H2"), b"r"),
            (hello("a.test", "http/1.1"), b"r"), (hello("a.test"), b"r"), (hello("h2"), b"r"),
            (hello(None, *(63 * ["x"]), "h2"), b"h")])

    def test_all_conditions_have_to_hold(self):
        daemon = self.choose(
            f"all sni=a.test alpn=h2 from=127.0.0.2 to={self.named(b'a')}",
            f"two sni=a.test from=127.0.0.2 to={self.named(b't')}",
            f"from from=127.0.0.2 to={self.named(b'f')}",
            f"alpn alpn=h2 to={self.named(b'h')}",
            f"rest to={self.named(b'r')}")
        for data, source, name in (
                (hello("a.test", "h2"), "127.0.0.2", b"a"), (hello("a.test"), "127.0.0.2", b"t"),
                (hello("b.test", "h2"), "127.0.0.2", b"f"), (b"no TLS", "127.0.0.2", b"f"),
                (hello("a.test", "h2"), "127.0.0.3", b"h"), (hello("a.test"), "127.0.0.3", b"r"),
                (b"no TLS", "127.0.0.3", b"r")):
            self.assertEqual(self.served_by(daemon, data, source), name, (data, source))

    def test_the_rest_gets_whoever_speaks_no_tls(self):
        """As soon as that is known."""
        daemon = self.choose(f"a sni=a.test to={self.named(b'a')}", f"r to={self.named(b'r')}",
                             options="handshake_timeout=1h")
        self.assert_serves(daemon, [(data, b"r") for data in NOT_TLS])
        self.assert_serves(daemon, [(data, b"r") for data in (b"G", b"\x15", b"\x17", b"\n")])

    def test_whom_no_route_serves_is_reset(self):
        server = self.listen()
        daemon = self.choose(f"a sni=a.test to={address_of(server)}",
                             f"b sni=*.b.test alpn=h2 to={address_of(server)}",
                             f"c alpn=x from=10.0.0.0/8 to={address_of(server)}")
        turned_away = [*NOT_TLS, hello(), hello("b.test", "h2"), hello("x.b.test"),
                       hello(None, "x"), hello("c.test", "h2")]
        for data in turned_away:
            self.assert_turned_away(daemon, data)
        self.assertEqual(self.reasons(len(turned_away)), ["no_route"] * len(turned_away))
        names = sorted(line.get("sni", "") for line in self.logged(len(turned_away)))
        self.assertEqual(names[-3:], ["b.test", "c.test", "x.b.test"])
        self.assert_nobody_came(server)
        self.stop(daemon)
        self.assertEqual(daemon.summary(),
                         {"served": len(turned_away), "no_route": len(turned_away)})

    def test_real_hellos(self):
        daemon = self.choose(f"a sni=a.test alpn=h2 to={self.named(b'a')}",
                             f"w sni=*.test to={self.named(b'w')}", f"r to={self.named(b'r')}")
        for version in (None, ssl.TLSVersion.TLSv1_2):
            self.assert_serves(daemon, [
                (of_python("a.test", "http/1.1", "h2", version=version), b"a"),
                (of_python("A.test", version=version), b"w"),
                (of_python(None, "h2", version=version), b"r")])

    def test_the_log_has_the_name(self):
        text = Path(self.folder(), "text")
        for path, form in ((text, "text"), (self.path, "json")):
            daemon = self.start(
                f"--route=a sni=*.test listen={HOST}:0 to=echo", f"--access_log={path}",
                f"--route=b listen={HOST}:0 to=echo", f"--access_log_format={form}")
            hears, does_not = daemon.listening
            for at, data in ((hears, hello("Name.TEST.")), (does_not, hello("b.test"))):
                client = self.say(at, data)
                client.shutdown(socket.SHUT_WR)
                self.assert_ends(client, "fin", data)
            self.assert_turned_away(hears, hello())
        found = []
        for line in lines_of(text, 3):
            columns = TEXT.match(line)
            found.append((columns["route"], columns["what"], line[columns.end():]))
        self.assertEqual(sorted(found), [("-", "no_route", " - -"),
                                         ("a", "client_fin", " - name.test"),
                                         ("b", "client_fin", "")])
        self.assertEqual(sorted((line.get("sni", ""), line["reason"]) for line in self.logged(3)),
                         [("", "client_fin"), ("", "no_route"), ("name.test", "client_fin")])

    def test_a_hello_whose_backend_refuses(self):
        daemon = self.choose(f"a sni=a.test to={self.refuses()}", "r to=echo")
        self.assert_turned_away(daemon, hello("a.test"))
        line, = self.logged(1)
        self.assertEqual((line["sni"], line["route"], line["reason"]),
                         ("a.test", "a", "connect_refused"))


class Arrival(HelloTest):
    """However a hello comes, the backend gets all of it, and then all that follows."""

    def setUp(self):
        super().setUp()
        self.relayed = 0

    def choose_one(self, to, options="", flags=("--workers=1",)):
        return self.choose(f"a sni=a.test to={address_of(to)}", "probe sni=probe.test to=echo",
                           options=f"handshake_timeout=1h {options}", flags=flags)

    def relay(self, daemon, server, sent):
        """A client for each list of pieces, with a payload of its own behind the last; the backend
        gets their sum and that. Of few pieces the daemon has looked at one before the next comes.
        Ends the sessions."""
        clients = [self.connect(daemon) for _ in sent]
        payloads = [f"payload {number:05}".encode() for number in range(len(sent))]
        for client in clients:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        turns = max(map(len, sent))
        for turn in range(turns):
            if turns < 5:
                self.await_heard(daemon, sum(1 if turn < len(pieces) else 2 for pieces in sent))
            for client, pieces, payload in zip(clients, sent, payloads):
                if turn < len(pieces):
                    client.sendall(pieces[turn] + (payload if turn == len(pieces) - 1 else b""))
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        got = {}
        for _ in clients:
            backend = self.accept(server)
            data, end = recv_to_end(backend)
            self.assertEqual(end, "fin")
            payload = data[-len(payloads[0]):]
            got[payload] = data
            backend.sendall(payload)
            backend.close()
        self.assertEqual(sorted(got), payloads)
        for client, pieces, payload in zip(clients, sent, payloads):
            self.assertTrue(got[payload] == b"".join(pieces) + payload, "the bytes differ")
            self.assert_ends(client, "fin", payload)
            client.close()
        self.relayed += len(sent)
        daemon.await_descriptors(0)

    def check_log(self):
        """That of all clients of relay(); the others were to find out what was heard."""

        def of_clients():
            logged = [line for line in self.logged(1) if line.get("sni") != "probe.test"]
            return logged if len(logged) == self.relayed else None

        logged = wait_until(of_clients, f"{self.relayed} lines")
        self.assertEqual({(line.get("sni"), line["reason"]) for line in logged},
                         {("a.test", "client_fin")})

    def in_two(self, data):
        return [[data[:at], data[at:]] for at in range(len(data))]

    def test_in_two_anywhere(self):
        server = self.listen()
        daemon = self.choose_one(server)
        for data in (hello("a.test", "h2"), of_python("a.test", "h2")):
            self.relay(daemon, server, self.in_two(data))
        self.check_log()

    def test_two_records_in_two_anywhere(self):
        server = self.listen()
        daemon = self.choose_one(server)
        whole = message(asking(b"a.test"))
        for size in (1, 3, 4, 50, len(whole) - 1):
            self.relay(daemon, server, self.in_two(records(whole[:size]) + records(whole[size:])))

    def test_byte_by_byte(self):
        server = self.listen()
        daemon = self.choose_one(server)
        data = [hello("a.test", "h2"), of_python("a.test", "h2"),
                records(message(asking(b"a.test")), 1), records(message(asking(b"a.test")), 7)]
        self.relay(daemon, server, [[bytes([byte]) for byte in each] for each in data])

    def test_in_small_records(self):
        server = self.listen()
        daemon = self.choose_one(server)
        real = unframed(of_python("a.test", "h2"))
        sent = []
        for size in (1, 2, 100, 256):
            small = records(real, size)
            sent += [[small], [small[:len(small) // 2], small[len(small) // 2:]],
                     [small[:-1], small[-1:]]]
        self.relay(daemon, server, sent)
        self.relay(daemon, server, [[records(real[at:at + 1]) for at in range(len(real))]])
        self.check_log()

    def check_size(self, daemon, server, size, of_record):
        data = records(message_of(size, b"a.test"), of_record)
        with self.subTest(size=size, of_record=of_record):
            self.relay(daemon, server, [
                [data], [data[:1], data[1:]], [data[:5], data[5:]], [data[:-1], data[-1:]],
                [data[:len(data) // 2], data[len(data) // 2:]],
                [data[at:at + 1448] for at in range(0, len(data), 1448)]])

    def test_large_ones(self):
        server = self.listen()
        daemon = self.choose_one(server)
        for size in (2 * KIB - 5, 2 * KIB - 4, RECORD, RECORD + 1, 60 * KIB, LONGEST - 4 * 5):
            self.check_size(daemon, server, size, RECORD)
        self.check_log()

    def test_large_ones_in_small_records(self):
        """What is there already is not looked at again and again."""
        server = self.listen()
        daemon = self.choose_one(server)
        sent = [[records(message_of(size, b"a.test"), of_record)] for size, of_record in (
            (2 * KIB, 1), (2 * KIB, 2), (30 * KIB, 100), (60 * KIB, 100), (LONGEST // 6, 1))]
        self.relay(daemon, server, sent)
        self.relay(daemon, server, [[data[:at], data[at:]] for data, in sent
                                    for at in (1, 6, len(data) // 2, len(data) - 1)])
        self.check_log()

    def test_with_data_behind_it(self):
        """0-RTT: more than any buffer holds, before the backend has said anything."""
        server = self.listen()
        daemon = self.choose_one(server)
        data = hello("a.test", last=(extension(EARLY_DATA),))
        early = Pattern("early", 3 * MIB)
        for at in (0, 9, len(data) - 1, len(data)):
            client = self.say(daemon, data[:at])
            self.await_heard(daemon, 1 if at < len(data) else 2)
            backends = []
            in_parallel((client.sendall, data[at:] + early.bytes()),
                        lambda: backends.append(self.take(server, data, early)))
            self.assert_relays(client, backends[0])
            client.close()
            self.assert_ends(backends[0], "fin")
            backends[0].close()

    def take(self, server, data, early):
        backend = self.accept(server)
        self.assertEqual(recv_exactly(backend, len(data)), data)
        self.assertTrue(recv_exactly(backend, early.size) == early.bytes(), "the bytes differ")
        return backend

    def test_with_another_behind_it(self):
        daemon = self.choose(f"a sni=a.test to={self.named(b'a')}",
                             f"b sni=b.test to={self.refuses()}")
        self.assert_serves(daemon, [(hello("a.test") + hello("b.test"), b"a")])

    def test_with_its_end_behind_it(self):
        server = self.listen()
        daemon = self.choose_one(server)
        daemon.signal(signal.SIGSTOP)
        clients = [self.say(daemon, hello("a.test") + b"all of it") for _ in range(20)]
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        daemon.signal(signal.SIGCONT)
        for _ in clients:
            backend = self.accept(server)
            self.assertEqual(recv_to_end(backend), (hello("a.test") + b"all of it", "fin"))
            backend.close()
        for client in clients:
            self.assert_ends(client, "fin")

    def test_numbers_that_mean_nothing(self):
        """And extensions that nobody knows, and lists that have other things too."""
        other_type = b"\7" + vector(2, b"?") + b"\0" + vector(2, b"a.test")
        server = self.listen()
        daemon = self.choose_one(server)
        self.relay(daemon, server, [[data] for data in (
            hello("a.test", "\x3a\x3a", "h2", first=(extension(GREASE),),
                  last=(extension(0x2A2A, b"\0"), extension(PADDING, bytes(200)))),
            records(message(asking(b"a.test"), ciphers=b"\x4a\x4a\x13\1")),
            records(message(asking(b"a.test"), version=b"\3\x7f", session_id=b"")),
            records(message(extension(SERVER_NAME, vector(2, other_type)))),
            b"\x16\3\x7f" + records(message(asking(b"a.test")))[3:],
            hello("a.test", last=tuple(extension(kind, b"x") for kind in range(17, 1000))))])

    def test_over_a_unix_socket(self):
        server = self.listen()
        daemon = self.start(f"--route=a sni=a.test listen=unix:{self.folder()}/front "
                            f"to={address_of(server)}", "--workers=1")
        data = hello("a.test", "h2")
        for at in range(0, len(data), 5):
            client = self.connect(daemon)
            client.sendall(data[:at])
            daemon.await_descriptors(1)
            client.sendall(data[at:])
            self.check_relayed(daemon, client, server, data)
        client = self.connect(daemon)
        data = records(message_of(20 * KIB, b"a.test"), KIB)
        client.sendall(data[:-1])
        daemon.await_descriptors(1)
        client.sendall(data[-1:])
        self.check_relayed(daemon, client, server, data)

    def check_relayed(self, daemon, client, server, data):
        backend = self.accept(server)
        self.assertTrue(recv_exactly(backend, len(data)) == data, "the bytes differ")
        self.assert_relays(client, backend)
        client.close()
        self.assert_ends(backend, "fin")
        backend.close()
        daemon.await_descriptors(0)

    def test_into_a_small_buffer(self):
        """Which has room for twice as much."""
        server = self.listen()
        daemon = self.choose_one(server, options="rcvbuf=8KiB")
        data = records(message_of(4 * KIB - 5, b"a.test"))
        self.relay(daemon, server, [
            [data], *([data[:at], data[at:]] for at in (1, 5, 6, 2000, 3000, len(data) - 1)),
            [records(message_of(1000, b"a.test"), 100)]])

    # ---- Behind proxies, and before backends, that tell whose connection it is.

    LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 2222\r\n"

    def test_behind_a_proxy_header(self):
        server = self.listen()
        data = hello("a.test")
        accepting = "accept_proxy=any trusted=127.0.0.0/8"
        probe = self.LINE + hello("probe.test")
        for options, header in (("", b""), ("send_proxy=v1", self.LINE)):
            daemon = self.choose(
                f"a sni=a.test from=192.0.2.0/24 to={address_of(server)} {options}",
                "probe sni=probe.test to=echo", "r to=echo",
                options=f"handshake_timeout=1h {accepting}", flags=("--workers=1",))
            sent = self.in_two(self.LINE + data)
            clients = [self.say(daemon, pieces[0]) for pieces in sent]
            daemon.await_descriptors(len(clients))
            self.assertEqual(recv_exactly(self.say(daemon, probe), len(hello("probe.test"))),
                             hello("probe.test"))
            for client, pieces in zip(clients, sent):
                client.sendall(pieces[1])
            for _ in clients:
                backend = self.accept(server)
                self.assertEqual(recv_exactly(backend, len(header + data)), header + data)
                backend.close()
            for client in clients:
                self.assert_ends(client, "fin")
                client.shutdown(socket.SHUT_WR)
        logged = [line for line in self.logged(2 * len(sent)) if line["sni"] == "a.test"]
        self.assertEqual({(line["client"], line["reason"]) for line in logged},
                         {("192.0.2.1:1111", "upstream_fin")})
        self.assertLessEqual({address_of(client) for client in clients},
                             {line["proxy"] for line in logged})

    def test_before_a_backend_that_is_told(self):
        server = self.listen()
        daemon = self.choose(f"a sni=a.test to={address_of(server)} send_proxy=v2")
        client = self.say(daemon, hello("a.test"))
        backend = self.accept(server)
        expected = (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + 2 * socket.inet_aton(HOST) +
                    struct.pack("!HH", client.getsockname()[1], daemon.port) + hello("a.test"))
        self.assertEqual(recv_exactly(backend, len(expected)), expected)
        self.assert_relays(client, backend)

    def test_a_header_without_a_hello(self):
        server = self.listen()
        daemon = self.choose(f"a sni=a.test to={address_of(server)}",
                             options="accept_proxy=v1 trusted=127.0.0.1 handshake_timeout=300ms")
        for count, (data, reason) in enumerate((
                (self.LINE, "hello_timeout"), (self.LINE[:-1], "proxy_timeout"),
                (hello("a.test"), "proxy_missing"),
                (self.LINE + BAD_RECORDS[0], "hello_malformed")), 1):
            self.assert_turned_away(daemon, data)
            line = self.logged(count)[-1]
            self.assertEqual(line["reason"], reason)
            self.assertEqual(line["client"].startswith("192.0.2.1:"), reason[:5] == "hello")
        client = self.say(daemon, self.LINE)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin")
        self.assertEqual(self.logged(5)[-1]["reason"], "hello_empty")
        self.assert_nobody_came(server)


class Refused(HelloTest):
    """Clients that send no hello, or a bad one; nothing of it reaches a backend."""

    def choose_all(self, options="handshake_timeout=1h"):
        """(a daemon with a route for all, its backend)"""
        server = self.listen()
        to = address_of(server)
        return self.choose(f"a sni=a.test to={to}", f"r to={to}", options=options), server

    def test_bad_ones(self):
        """In one piece, and byte by byte: nobody waits for more of it."""
        daemon, server = self.choose_all()
        rows = [("hello_malformed", data) for data in BAD_RECORDS + BAD_FIELDS]
        rows += [("hello_malformed", records(unframed(data), 3)) for data in BAD_FIELDS]
        rows += [("hello_too_long", data) for data in TOO_LONG]
        filler = bytes(RECORD)  # so that the record that has begun is whole
        expected = {}
        for in_bytes in (False, True):
            for reason, data in rows:
                if in_bytes and len(data) > KIB:
                    continue
                client = self.say(daemon, b"" if in_bytes else data)
                expected[address_of(client)] = (reason, data)
                try:
                    for byte in data if in_bytes else b"":
                        client.sendall(bytes([byte]))
                    client.sendall(filler if in_bytes else b"")
                    self.assertEqual(recv_to_end(client), (b"", "reset"), (reason, data[:100]))
                except (ConnectionResetError, BrokenPipeError):
                    continue  # early
        for line in self.logged(len(expected)):
            reason, data = expected[line["client"]]
            self.assertEqual(line["reason"], reason, data[:100])
            self.assertNotIn("sni", line)
        self.assert_nobody_came(server)
        self.stop(daemon)
        self.assertEqual(sum(daemon.summary().values()), 2 * len(expected))

    def test_one_in_too_many_pieces(self):
        """Each of which costs the daemon a look at all."""
        daemon, server = self.choose_all()
        data = records(message_of(LONGEST // 6, b"a.test"), 1)
        client = self.say(daemon, b"")
        client.settimeout(0.001)
        with self.assertRaises((ConnectionResetError, BrokenPipeError)):
            for at in range(0, len(data), 6):
                client.sendall(data[at:at + 6])
                with contextlib.suppress(TimeoutError):
                    client.recv(1)
        self.assertLess(at, len(data) / 2)
        self.assertEqual(self.reasons(1), ["hello_too_long"])
        self.assert_nobody_came(server)

    def test_an_end_without_a_byte(self):
        daemon, server = self.choose_all()
        client = self.connect(daemon)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin")
        reset(self.connect(daemon))
        self.assertEqual(self.reasons(2), ["hello_empty"] * 2)
        self.assert_nobody_came(server)

    def test_an_end_within_it(self):
        server = self.listen()
        to = address_of(server)
        daemon = self.choose(f"a sni=a.test to={to}", "probe sni=probe.test to=echo", f"r to={to}",
                             options="handshake_timeout=1h", flags=("--workers=1",))
        data = hello("a.test")
        large = records(message_of(20 * KIB, b"a.test"))
        parts = [data[:at] for at in range(1, len(data))]
        parts += [large[:at] for at in (3 * KIB, RECORD + 5, RECORD + 7, len(large) - 1)]
        for end in (lambda client: client.shutdown(socket.SHUT_WR), reset):
            for sees_part_first in (False, True):
                clients = [self.say(daemon, part) for part in parts]
                if sees_part_first:
                    self.await_heard(daemon, len(clients))
                for client in clients:
                    end(client)
                for client in clients if end is not reset else ():
                    self.assert_ends(client, "reset")
                daemon.await_descriptors(0)
        self.assert_nobody_came(server)
        self.stop(daemon)
        counts = daemon.summary()
        # One that breaks the connection before it is looked at may have said nothing.
        self.assertGreaterEqual(counts["hello_cut"], 3 * len(parts))
        self.assertEqual(counts["hello_cut"] + counts.get("hello_empty", 0), 4 * len(parts))

    def test_silence(self):
        """Or a byte now and then: the time is for all of it."""
        daemon, server = self.choose_all("handshake_timeout=500ms")
        data = hello("a.test")
        large = records(message_of(20 * KIB, b"a.test"))
        # The daemon's clock began before the test's, by the time that the first takes to connect.
        began = time.monotonic()
        clients = [self.say(daemon, part) for part in (
            b"", data[:1], data[:5], data[:-1], large[:-1], large[:RECORD + 5])]
        slow = self.say(daemon, b"")
        slow.settimeout(0.02)
        with self.assertRaises((ConnectionResetError, BrokenPipeError)):
            for at in range(len(large)):
                slow.sendall(large[at:at + 1])
                with contextlib.suppress(TimeoutError):
                    slow.recv(1)
        took = time.monotonic() - began
        self.assertTrue(0.5 <= took < 1 + SLOW, took)
        for client in clients:
            self.assert_ends(client, "reset")
        self.assertEqual(self.reasons(7), ["hello_timeout"] * 7)
        self.assert_nobody_came(server)

    def test_the_time_is_over_with_the_hello(self):
        daemon = self.choose("a sni=a.test to=echo", options=f"handshake_timeout={200 * SLOW}ms")
        client = self.say(daemon, hello("a.test"))
        self.assertEqual(recv_exactly(client, len(hello("a.test"))), hello("a.test"))
        self.assert_silent(client, 0.4 * SLOW)
        self.assert_echoes(client)

    def test_one_that_the_buffer_cannot_hold(self):
        """It gets its time, and the daemon no work: neither what came nor what does not fit."""
        server = self.listen()
        daemon = self.choose(f"a sni=a.test to={address_of(server)}",
                             options=f"handshake_timeout={1000 * SLOW}ms rcvbuf=8KiB")
        large = records(message_of(RECORD, b"a.test"))
        small = records(message_of(RECORD, b"a.test"), 100)
        parts = [large, small, large + 100 * KIB * b"x"]
        clients = [self.connect(daemon) for _ in range(40)]
        for number, client in enumerate(clients):
            client.setblocking(False)
            client.send(parts[number % len(parts)])
            client.settimeout(PATIENCE)
        daemon.await_descriptors(len(clients))
        before = daemon.cpu_seconds()
        for client in clients:
            self.assert_ends(client, "reset")
        used = daemon.cpu_seconds() - before
        print(f"{1000 * used:.1f} ms of CPU time for {len(clients)} ", file=sys.stderr, end="")
        self.assertLess(used, 0.1 * SLOW)
        self.assertEqual(self.reasons(len(clients)), ["hello_timeout"] * len(clients))
        self.assert_nobody_came(server)


class ServerFirst(HelloTest):
    """Protocols in which the server speaks first."""

    def test_a_listener_without_names_hears_nobody(self):
        daemon = self.start(f"--route=a listen={HOST}:0 sni=a.test to={self.named(b'a')}",
                            f"--route=b listen={HOST}:0 to={self.named(b'b')} "
                            "handshake_timeout=1ms", f"--access_log={self.path}")
        client = self.connect(daemon.listening[1])
        self.assertEqual(recv_exactly(client, 1), b"b")
        self.assert_echoes(client)
        client.close()
        self.assertTrue(TEXT.fullmatch(lines_of(self.path, 1)[0]))  # no columns for what it said

    def test_with_names_they_wait_for_each_other(self):
        daemon = self.choose(f"a sni=a.test to={self.named(b'a')}", f"r to={self.named(b'r')}",
                             options="handshake_timeout=300ms")
        self.assert_ends(self.connect(daemon), "reset")
        self.assertEqual(self.reasons(1), ["hello_timeout"])


class Crowd(HelloTest):
    def test_silent_clients_hold_nobody_up(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if hard < 5000:
            self.skipTest(f"only {hard} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        count = 500 if SANITIZED else min(4000, hard // 2 - 500)
        daemon = self.start(
            f"--route=a listen={HOST}:0 sni=a.test to=echo handshake_timeout={2 * SLOW}s",
            f"--route=b listen={HOST}:0 to={self.named(b'b')}", "--workers=2")
        heard, other = daemon.listening
        for at in (heard, other):
            self.legitimate(at, other)
        daemon.await_descriptors(0)
        base, rests = daemon.rss(), []
        for _ in range(2):
            clients = [self.connect(heard) for _ in range(count)]
            for client in clients[::2]:
                client.sendall(hello("a.test")[:9])
            daemon.await_descriptors(count)
            peak = daemon.rss()
            took = [self.legitimate(at, other) for _ in range(50) for at in (heard, other)]
            daemon.await_descriptors(count)  # all are still there
            for client in clients:
                self.assert_ends(client, "reset")
                client.close()
            daemon.await_descriptors(0)
            rests.append(daemon.rss())
        print(f"worst {1000 * max(took):.1f} ms beside {count}, of {(peak - base) // count} bytes "
              f"each, {[rest - base for rest in rests]} left ", file=sys.stderr, end="")
        self.assertLess(max(took), 1 * SLOW)
        if not SANITIZED:  # which keep what is freed
            self.assertLess(peak - base, 32 * KIB * count)
            self.assertLess(rests[1] - base, 8 * MIB)
            self.assertLess(rests[1] - rests[0], MIB)
        self.stop(daemon)
        self.assertEqual(daemon.summary()["hello_timeout"], 2 * count)

    def legitimate(self, at, other):
        """How long a connection and an echo take."""
        began = time.monotonic()
        client = self.connect(at)
        if at == other:
            self.assertEqual(recv_exactly(client, 1), b"b")
        self.assert_echoes(client, hello("a.test"))
        client.close()
        return time.monotonic() - began

    def test_they_take_places(self):
        daemon = self.choose("a sni=a.test to=echo", options=f"handshake_timeout={300 * SLOW}ms",
                             flags=("--max_conns=1",))
        silent = self.connect(daemon)
        daemon.await_descriptors(1)
        second = self.say(daemon, hello("a.test"))
        self.assert_silent(second, 0.1)
        self.assert_ends(silent, "reset")
        self.assertEqual(recv_exactly(second, len(hello("a.test"))), hello("a.test"))


# ---- Reloads and ends.


class Reloads(ReloadTest, HelloTest):
    def setUp(self):
        super().setUp()
        self.at = f"{HOST}:{free_port()}"

    def route(self, name, keys=""):
        return f"{name.decode()} listen={self.at} {keys} to={self.named(name)}"

    def test_a_listener_that_is_given_names(self):
        plain, a = self.route(b"p"), self.route(b"a", "sni=a.test")
        daemon = self.serve(plain)
        early = self.connect(self.at)
        self.assertEqual(recv_exactly(early, 1), b"p")
        self.reload(daemon, a, plain)
        self.assert_serves(self.at, [(hello("a.test"), b"a"), (hello("b.test"), b"p")])
        self.assert_silent(self.connect(self.at))
        self.assert_echoes(early)
        self.reload(daemon, plain)
        self.assertEqual(self.who_serves(self.at), b"p")
        self.assert_echoes(early)

    def test_names_that_change_while_a_hello_comes(self):
        """The routes at its end are those that count."""
        a, b = self.route(b"a", "sni=a.test"), self.route(b"b", "sni=a.test")
        daemon = self.serve(a)
        data = hello("a.test")
        clients = [self.say(self.at, data[:at]) for at in (0, 1, 9, len(data) - 1)]
        daemon.await_descriptors(len(clients))
        self.reload(daemon, b)
        for client, at in zip(clients, (0, 1, 9, len(data) - 1)):
            client.sendall(data[at:])
            self.assertEqual(recv_exactly(client, 1), b"b")
            self.assertEqual(recv_exactly(client, len(data)), data)
        client = self.say(self.at, data[:9])
        daemon.await_descriptors(2 * len(clients) + 1)
        self.reload(daemon, self.route(b"p"))
        client.sendall(data[9:])
        self.assertEqual(recv_exactly(client, 1), b"p")

    def test_a_listener_that_goes_while_a_hello_comes(self):
        other = f"y listen={HOST}:0 to=echo"
        daemon = self.serve(self.route(b"a", "sni=a.test"), other)
        data = hello("a.test")
        client = self.say(self.at, data[:9])
        daemon.await_descriptors(1)
        self.reload(daemon, other)
        self.await_refusal(daemon)
        client.sendall(data[9:])
        self.assertEqual(recv_exactly(client, 1), b"a")
        self.assertEqual(recv_exactly(client, len(data)), data)
        daemon.baseline -= 4  # the listener's sockets and their reserves


class Ends(HelloTest):
    """SIGTERM while hellos are awaited."""

    def begun(self, *flags, options="handshake_timeout=1h"):
        """(a daemon, clients that have sent so much of a hello)"""
        daemon = self.choose("a sni=a.test to=echo", "probe sni=probe.test to=echo",
                             options=options, flags=("--workers=1", *flags))
        data = hello("a.test")
        clients = [self.say(daemon, data[:at]) for at in (0, 1, 9, len(data) - 1)]
        self.await_heard(daemon, len(clients))
        return daemon, clients

    def test_what_is_left_at_the_deadline_is_reset(self):
        daemon, clients = self.begun("--drain_timeout=300ms")
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        for client in clients:
            self.assert_ends(client, "reset")
        self.assertGreater(time.monotonic() - began, 0.25)
        daemon.check_end(1)
        self.assertLess(time.monotonic() - began, 2 * SLOW)
        self.assertEqual(daemon.summary(), {"served": 5, "client_fin": 1, "drain": 4})

    def test_a_second_signal_ends_it_now(self):
        daemon, clients = self.begun("--drain_timeout=1h")
        self.signal_twice(daemon)
        for client in clients:
            self.assert_ends(client, "reset")
        daemon.check_end(1)
        self.assertEqual(daemon.summary(), {"served": 5, "client_fin": 1, "stop": 4})

    def test_hellos_that_come_during_the_drain(self):
        daemon, clients = self.begun("--drain_timeout=1h")
        daemon.signal(signal.SIGTERM)
        self.await_refusal(daemon)
        data = hello("a.test")
        clients[0].sendall(b"\x16\3\1\0\0")
        self.assert_ends(clients[0], "reset")
        for client, at in zip(clients[1:], (1, 9, len(data) - 1)):
            client.sendall(data[at:])
            self.assertEqual(recv_exactly(client, len(data)), data)
            self.assert_echoes(client)
            client.close()
        daemon.check_end(0)
        self.assertEqual(daemon.summary(),
                         {"served": 5, "client_fin": 4, "hello_malformed": 1})

    def test_a_drain_waits_for_no_hello_longer_than_handshake_timeout(self):
        daemon, clients = self.begun("--drain_timeout=1h",
                                     options=f"handshake_timeout={500 * SLOW}ms")
        daemon.signal(signal.SIGTERM)
        for client in clients:
            self.assert_ends(client, "reset")
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 5, "client_fin": 1, "hello_timeout": 4})


# ---- Programs.

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{servers}
}}
"""

NGINX_SERVER = """
  server {{
    listen {host}:{port} ssl {http2};
    server_name {name};
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root {folder};
    location = /name {{ return 200 "{name} of {which} to $ssl_server_name, $server_protocol\\n"; }}
  }}
"""


class Programs(ProgramTest, HelloTest):
    def certificate(self, *names):
        """(file of a new one for these names, file of its key); its subject is the first. All of
        them are in the file that authorities() names."""
        certificate, key = (Path(self.folder(), f"{names[0]}.{kind}") for kind in ("crt", "key"))
        done = subprocess.run(
            [find_program("openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2",
             "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={names[0]}", "-addext",
             "subjectAltName=" + ",".join(f"DNS:{name}" for name in names), "-keyout", key, "-out",
             certificate], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.authorities(), "a") as file:
            file.write(certificate.read_text())
        return str(certificate), str(key)

    def authorities(self):
        return os.path.join(self.folder(), "authorities")

    def openssl_server(self, *names, options=("-rev",)):
        """One that sends each line back in reverse, and ends a connection that says CLOSE."""
        certificate, key = self.certificate(*names)
        port = free_port()
        return self.start_program(port, "openssl", "s_server", "-accept", f"{HOST}:{port}", "-cert",
                                  certificate, "-key", key, *options)

    def openssl_client(self, at, *options, code=0):
        """All that it says about the connection and what came over it."""
        done = subprocess.run(
            [find_program("openssl"), "s_client", "-connect", at, "-ign_eof", "-CAfile",
             self.authorities(), *options], input="parkway\nCLOSE\n", capture_output=True,
            text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode == 0, code == 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def nginx_server(self, *names, which="one", http2="http2"):
        """One that has a server for each name, of which the first is for all others."""
        port, folder = free_port(), Path(self.folder(), f"nginx-{which}")
        folder.mkdir()
        (folder / "large").write_bytes(Pattern("large", 4 * MIB).bytes())
        servers = []
        for name in names:
            certificate, key = self.certificate(name)
            servers.append(NGINX_SERVER.format(host=HOST, port=port, name=name, folder=folder,
                                               certificate=certificate, key=key, which=which,
                                               http2=http2))
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, servers="".join(servers),
                                       user="user root root;" if os.geteuid() == 0 else ""))
        return self.start_program(port, "nginx", "-p", str(folder), "-c", str(config))

    def https(self, daemon, name, path, *options):
        """What curl gets of https://NAME/PATH through the daemon."""
        return self.curl("--cacert", self.authorities(), "--resolve",
                         f"{name}:{daemon.port}:{HOST}", *options,
                         f"https://{name}:{daemon.port}/{path}")

    def test_openssl(self):
        daemon = self.choose(f"one sni=a.test to={self.openssl_server('one', 'a.test')}",
                             f"two sni=*.b.test to={self.openssl_server('two', 'x.b.test')}",
                             f"rest to={self.openssl_server('rest', 'c.test')}",
                             options="handshake_timeout=1h")
        for name, server in (("a.test", "one"), ("A.Test", "one"), ("x.b.test", "two"),
                             ("X.B.TEST", "two"), ("b.test", "rest"), ("c.test", "rest"),
                             (None, "rest")):
            for version in ("tls1_2", "tls1_3"):
                named_so = ("-noservername",) if name is None else ("-servername", name)
                said = self.openssl_client(daemon.address, f"-{version}", *named_so)
                with self.subTest(name=name, version=version):
                    self.assertIn(f"subject=CN = {server}\n", said)
                    self.assertIn("\nyawkrap\n", said)
                    self.assertIn(f"New, TLSv{version[3:].replace('_', '.')}, ", said)
                    self.assertIn("Verify return code: 0 (ok)", said)

    def test_openssl_with_protocols(self):
        alpn = ("-rev", "-alpn")
        daemon = self.choose(
            f"h sni=a.test alpn=h2 to={self.openssl_server('h', options=(*alpn, 'h2'))}",
            f"m alpn=imap,pop3 to={self.openssl_server('m', options=(*alpn, 'pop3,imap'))}",
            f"a sni=a.test to={self.openssl_server('a', options=(*alpn, 'http/1.1'))}",
            options="handshake_timeout=1h")
        for name, offered, server, chosen in (
                ("a.test", "http/1.1,h2", "h", "h2"), ("a.test", "http/1.1", "a", "http/1.1"),
                ("b.test", "h2,imap", "m", "imap"), ("a.test", "imap", "m", "imap"),
                ("a.test", "h2,imap", "h", "h2")):
            said = self.openssl_client(daemon.address, "-servername", name, "-alpn", offered)
            with self.subTest(name=name, offered=offered):
                self.assertIn(f"subject=CN = {server}\n", said)
                self.assertIn(f"ALPN protocol: {chosen}\n", said)
                self.assertIn("\nyawkrap\n", said)
        self.openssl_client(daemon.address, "-servername", "b.test", "-alpn", "h2", code=1)
        self.assertEqual(self.reasons(6).count("no_route"), 1)

    def test_openssl_resumes_with_early_data(self):
        server = self.openssl_server("one", options=("-early_data", "-quiet"))
        program = self._programs[-1]
        daemon = self.choose(f"one sni=a.test to={server}", f"rest to={self.refuses()}")
        session, early = (Path(self.folder(), name) for name in ("session", "early"))
        early.write_text("words that are early\n")
        command = [find_program("openssl"), "s_client", "-connect", daemon.address, "-servername",
                   "a.test", "-CAfile", self.authorities()]
        with subprocess.Popen([*command, "-sess_out", session], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            wait_until(lambda: session.exists() and "END" in session.read_text(), "a ticket comes")
            client.communicate(b"Q\n", PATIENCE)
        done = subprocess.run([*command, "-sess_in", session, "-early_data", early], input="",
                              capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertIn("Reused, TLSv1.3", done.stdout)
        self.assertIn("Early data was accepted", done.stdout)
        wait_until(lambda: early.read_text() in self.log_of(program), "the server has them")

    def test_nginx_and_curl(self):
        """Several servers of one nginx behind one route, which passes on whom they ask for."""
        names = ("a.test", "b.test", "c.test")
        nginx = self.nginx_server(*names)
        daemon = self.choose(f"web sni=*.test alpn=h2,http/1.1 to={nginx}",
                             f"rest sni=*.test to={self.refuses()}")
        for name in names:
            self.assertEqual(self.https(daemon, name, "name"),
                             f"{name} of one to {name}, HTTP/2.0\n")
            self.assertEqual(self.https(daemon, name, "name", "--http1.1", "--tls-max", "1.2"),
                             f"{name} of one to {name}, HTTP/1.1\n")
        path = Path(self.folder(), "downloaded")
        for version in ("--http1.1", "--http2"):
            self.https(daemon, "b.test", "large", version, "--output", str(path))
            self.assertTrue(path.read_bytes() == Pattern("large", 4 * MIB).bytes(),
                            "the bytes differ")
        self.assertEqual({line.get("sni") for line in self.logged(8)}, set(names))

    def test_nginx_and_curl_by_protocol(self):
        daemon = self.choose(
            f"new sni=a.test alpn=h2 to={self.nginx_server('a.test', which='new')}",
            f"old sni=a.test to={self.nginx_server('a.test', which='old', http2='')}")
        for options, which, version in ((("--http2",), "new", "2.0"), ((), "new", "2.0"),
                                        (("--http1.1",), "old", "1.1"),
                                        (("--no-alpn",), "old", "1.1")):
            # Each has a certificate of its own for that name, the second in place of the first.
            self.assertEqual(self.https(daemon, "a.test", "name", "--insecure", *options),
                             f"a.test of {which} to a.test, HTTP/{version}\n")

    def test_curl_by_http_to_a_listener_with_names(self):
        daemon = self.choose(f"tls sni=*.test to={self.refuses()}", f"rest to={self.nginx()}")
        self.assertEqual(self.curl(f"http://{daemon.address}/small"), "small\n")

    def test_python_on_both_sides(self):
        """Bytes of both directions at once, through TLS through the daemon."""
        certificates = {name: self.certificate(name) for name in ("a.test", "b.test")}
        servers = {name: self.listen() for name in certificates}
        daemon = self.choose(*(f"{name} sni={name} to={address_of(server)}"
                               for name, server in servers.items()))
        up, down = Pattern("up", 4 * MIB), Pattern("down", 4 * MIB)

        def serve(name):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificates[name])
            asked = []
            context.sni_callback = lambda connection, name, context: asked.append(name)
            with context.wrap_socket(self.accept(servers[name]), server_side=True) as backend:
                self.assertEqual(asked, [name])
                self.assertEqual(recv_exactly(backend, up.size), up.bytes())
                backend.sendall(down.bytes())

        def ask(name, version):
            context = ssl.create_default_context(cafile=self.authorities())
            context.maximum_version = version
            with context.wrap_socket(self.connect(daemon), server_hostname=name) as client:
                self.assertEqual(client.getpeercert()["subject"], ((("commonName", name),),))
                client.sendall(up.bytes())
                self.assertEqual(recv_exactly(client, down.size), down.bytes())

        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            in_parallel(*((serve, name) for name in servers),
                        *((ask, name, version) for name in servers))
        context = ssl.create_default_context(cafile=self.authorities())
        with self.assertRaises(ConnectionResetError):
            context.wrap_socket(self.connect(daemon), server_hostname="c.test")

if __name__ == "__main__":
    main()
