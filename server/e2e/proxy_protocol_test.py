#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The PROXY protocol: who may say for whom it connects, what becomes of it, and what backends are
told; with clients and backends of the test's own, and with HAProxy, nginx and curl."""

import collections
import contextlib
import os
import re
import signal
import socket
import struct
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, MIB, SANITIZED, SLOW, Pattern, address_of, free_port, in_parallel, main, recv_exactly,
    recv_to_end, reset, run_parkway, wait_until)
from logs_test import LogTest  # noqa: E402
from programs_test import ProgramTest  # noqa: E402
from reload_test import ReloadTest  # noqa: E402

# ---- Headers.

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21  # version 2 and a command
UNSPEC, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL = 1, 2, 3, 4, 5, 0x20
LONGEST = 4096


def v1(fields):
    return b"PROXY %s\r\n" % fields.encode()


def v2(command, family, body=b"", length=None):
    return SIGNATURE + struct.pack("!BBH", command, family, length or len(body)) + body


def block(source, destination):
    """Addresses as version 2 has them, from such as address_of() writes."""
    (host, port), (other_host, other_port) = (at.rsplit(":", 1) for at in (source, destination))
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    addresses = [socket.inet_pton(family, h.strip("[]")) for h in (host, other_host)]
    return b"".join(addresses) + struct.pack("!HH", int(port), int(other_port))


def unix_block(source, destination):
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def tlv(kind, value=b""):
    return struct.pack("!BH", kind, len(value)) + value


def tlvs_of(data):
    """{type: value}"""
    found = {}
    while data:
        kind, size = struct.unpack("!BH", data[:3])
        found[kind] = data[3:3 + size]
        data = data[3 + size:]
    return found


def crc32c(data):
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


def with_checksum(family, body, after=b""):
    """A header with its checksum behind `body`."""
    header = v2(PROXY, family, body + tlv(CRC32C, bytes(4)) + after)
    at = 16 + len(body) + 3
    return header[:at] + struct.pack("!I", crc32c(header)) + header[at + 4:]


V4, V6 = ("192.0.2.1:1111", "198.51.100.2:2222"), ("[2001:db8::1]:3", "[2001:db8::2]:44444")
MAPPED = "[::ffff:192.0.2.1]:1", "[::1]:2"
LINE4 = v1("TCP4 192.0.2.1 198.51.100.2 1111 2222")
LINE6 = v1("TCP6 2001:db8::1 2001:db8::2 3 44444")
BINARY4, BINARY6 = v2(PROXY, TCP4, block(*V4)), v2(PROXY, TCP6, block(*V6))
PATHS, ABSTRACT = unix_block(b"/run/client", b"/run/server"), unix_block(108 * b"x", b"\0abstract")
TLS = b"\x07" + bytes(4)  # which flags, and that the certificate was verified
ALL_ONES = ":".join(8 * ["ffff"])

Legal = collections.namedtuple("Legal", "header client")  # as the log has it; None: who connected
LEGAL = [
    Legal(LINE4, V4[0]),
    Legal(v1("TCP4 255.255.255.255 255.255.255.255 65535 65535"), "255.255.255.255:65535"),
    Legal(v1("TCP4 0.0.0.0 0.0.0.0 0 0"), "0.0.0.0:0"),
    Legal(LINE6, V6[0]),
    Legal(v1("TCP6 2001:DB8::1 ::FFFF:1.2.3.4 3 4"), V6[0]),
    Legal(v1(f"TCP6 {ALL_ONES} {ALL_ONES} 65535 65535"), f"[{ALL_ONES}]:65535"),
    Legal(v1("UNKNOWN"), None),
    Legal(v1("UNKNOWN TCP4 \r or \n is no end".ljust(99)), None),  # 107 bytes, the longest
    Legal(BINARY4, V4[0]),
    Legal(BINARY6, V6[0]),
    Legal(v2(PROXY, TCP6, block(*MAPPED)), "192.0.2.1:1"),
    Legal(v2(PROXY, UNIX, PATHS), "unix:"),
    Legal(v2(PROXY, UNIX, ABSTRACT + tlv(ALPN, b"h2")), "unix:"),
    Legal(v2(PROXY, UNSPEC), None),
    Legal(v2(PROXY, UNSPEC, b"\xff\xff"), None),
    Legal(v2(PROXY, UDP4, block(*V4)), None),  # datagrams are not what came
    Legal(v2(LOCAL, UNSPEC), None),
    Legal(v2(LOCAL, TCP4, block(*V4) + tlv(ALPN)[:2]), None),
    Legal(v2(LOCAL, 0xFF, b"\xee"), None),
    Legal(v2(PROXY, TCP4, block(*V4) + tlv(ALPN, b"h2") + tlv(AUTHORITY, b"example.org") +
             tlv(NOOP, bytes(5)) + tlv(UNIQUE_ID, 128 * b"u") + tlv(0xEA) + tlv(0x99, b"?") +
             tlv(0xF8, b"x")), V4[0]),
    Legal(v2(PROXY, TCP4, block(*V4) + tlv(SSL, TLS + tlv(0x21, b"TLSv1.3") + tlv(0x28))), V4[0]),
    Legal(with_checksum(TCP4, block(*V4)), V4[0]),
    Legal(with_checksum(TCP6, block(*V6) + tlv(NOOP), tlv(ALPN, b"h2")), V6[0]),
]

MALFORMED = [v1(fields) for fields in (
    "", " TCP4 1.2.3.4 1.2.3.4 1 2", "TCP4", "TCP4 ", "TCP4 1.2.3.4 1.2.3.4 1", "UNKNOWNX",
    "UDP4 1.2.3.4 1.2.3.4 1 2", "tcp4 1.2.3.4 1.2.3.4 1 2", "TCP4  1.2.3.4 1.2.3.4 1 2",
    "TCP4 1.2.3.4  1.2.3.4 1 2", "TCP4 1.2.3.4 1.2.3.4 1  2", "TCP4 1.2.3.4 1.2.3.4 1 2 ",
    "TCP4 1.2.3.4 1.2.3.4 1 2 3", "TCP4 1.2.3.4 1.2.3.4 01 2", "TCP4 1.2.3.4 1.2.3.4 1 00",
    "TCP4 1.2.3.4 1.2.3.4 +1 2", "TCP4 1.2.3.4 1.2.3.4 -1 2", "TCP4 1.2.3.4 1.2.3.4 1 65536",
    "TCP4 1.2.3.4 1.2.3.4 0x1 2", "TCP4 1.2.3.4 1.2.3.4 1 2\n", "TCP4 1.2.3.4 1.2.3.4 1 2\r",
    "TCP4 1.2.3.4 1.2.3.4 \0 2", "TCP4 1.2.3.4\0 1.2.3.4 1 2", "TCP4 1.2.3 1.2.3.4 1 2",
    "TCP4 1.2.3.4.5 1.2.3.4 1 2", "TCP4 1.2.3.256 1.2.3.4 1 2", "TCP4 1.2.3.04 1.2.3.4 1 2",
    "TCP4 0x1.2.3.4 1.2.3.4 1 2", "TCP4 ::1 ::1 1 2", "TCP6 1.2.3.4 1.2.3.4 1 2",
    "TCP6 ::1 1.2.3.4 1 2", "TCP6 1::2::3 ::1 1 2", "TCP6 12345:: ::1 1 2", "TCP6 [::1] ::1 1 2",
    "TCP6 1:2:3:4:5:6:7 ::1 1 2", "TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2", "TCP6 fe80::1%lo ::1 1 2",
    "TCP4\t1.2.3.4 1.2.3.4 1 2")
] + [
    v2(PROXY, TCP4), v2(PROXY, TCP4, block(*V4)[:-1]), v2(PROXY, TCP6, block(*V6)[:-1]),
    v2(PROXY, UNIX, bytes(215)),
] + [v2(PROXY, TCP4, block(*V4) + tlvs) for tlvs in (
    b"\x04", b"\x04\0", tlv(NOOP, b"12")[:-1], tlv(NOOP) + b"\x04\xff\xff", tlv(CRC32C, b"123"),
    tlv(CRC32C, b"12345"), tlv(CRC32C), tlv(UNIQUE_ID, 129 * b"u"), tlv(SSL, TLS[:4]),
    tlv(SSL, TLS + b"\x21\0"), tlv(SSL, TLS + tlv(0x21, b"TLSv1.3")[:-1]))
] + [
    with_checksum(TCP4, block(*V4), tlv(CRC32C, bytes(4))),
]
ILLEGAL = {
    "proxy_malformed": MALFORMED,
    "proxy_missing": [
        b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PROXIMITY", b"proxy TCP4",
        b" PROXY ",
        b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", b"\r\nPROXY ", b"\0",
        SIGNATURE[:-1] + b"\r\x21\x11"],
    "proxy_command": [v2(command, TCP4, block(*V4))
                      for command in (0x00, 0x11, 0x22, 0x2F, 0x30, 0x31, 0xF1)],
    "proxy_family": [v2(PROXY, family, bytes(216))
                     for family in (0x03, 0x13, 0x1F, 0x40, 0x41, 0xF1)],
    "proxy_checksum": [
        with_checksum(TCP4, block(*V4)).replace(b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"),
        v2(PROXY, TCP4, block(*V4) + tlv(CRC32C, bytes(4)))],
    "proxy_too_long": [
        v1("UNKNOWN".ljust(100)), b"PROXY UNKNOWN".ljust(108), b"PROXY ".ljust(107, b"\r"),
        v2(PROXY, TCP4, length=LONGEST - 15), v2(LOCAL, UNSPEC, length=65535),
        v2(PROXY, TCP4, length=65535)],
}


class ProxyTest(LogTest):
    """Its daemons have an access log, of JSON."""

    def route(self, *options, to="echo", listen=f"{HOST}:0", flags=()):
        """One that takes whatever header a client of this machine has, unless options differ."""
        to = to if isinstance(to, str) else address_of(to)
        given = {"accept_proxy": "any", "trusted": "127.0.0.0/8,::1"}
        given.update(option.split("=", 1) for option in options)
        text = " ".join(f"{name}={value}" for name, value in given.items())
        return self.start(f"--route=x listen={listen} to={to} {text}", "--workers=2",
                          f"--access_log={self.path}", "--access_log_format=json", *flags)

    def await_taken(self, daemon):
        """Until it has accepted all clients and read all that they sent."""
        waiting = re.compile(rf" 0100007F:{daemon.port:04X} \w+:\w+ \w\w \w+:(?!00000000)")
        wait_until(lambda: not waiting.search(Path("/proc/net/tcp").read_text()),
                   "the daemon reads what clients sent")

    def begun(self, daemon, data):
        """A client whose handshake has come so far."""
        client = self.connect(daemon.address)
        client.sendall(data)
        self.await_taken(daemon)
        return client

    def hear(self, backend):
        """(what a backend was told in version 2, its TLVs)"""
        header = recv_exactly(backend, 16)
        header += recv_exactly(backend, struct.unpack("!H", header[14:])[0])
        return header, tlvs_of(header[28:])

    def served_by(self, at, header):
        """The name of the backend that a client with that header gets."""
        client = self.connect(at)
        client.sendall(header)
        name = recv_exactly(client, 1)
        client.close()
        return name

    def assert_nobody_came(self, server):
        server.setblocking(False)
        with self.assertRaises(BlockingIOError):
            server.accept()

    def reasons(self, count):
        return sorted(line["reason"] for line in self.logged(count))


class Headers(ProxyTest):
    def relay(self, daemon, server, sent):
        """A client for each list of pieces, of which the daemon has taken one before the next
        comes, with a payload of its own behind the last; ends the session. The clients'
        addresses."""
        clients = [self.connect(daemon) for _ in sent]
        names = [address_of(client) for client in clients]
        for turn in range(max(map(len, sent))):
            for client, name, pieces in zip(clients, names, sent):
                if turn < len(pieces):
                    is_last = turn == len(pieces) - 1
                    client.sendall(pieces[turn] + (name.encode() if is_last else b""))
            self.await_taken(daemon)
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        got = []
        for _ in clients:
            backend = self.accept(server)
            data, end = recv_to_end(backend)
            got.append((data.decode(errors="replace"), end))
            backend.sendall(data[::-1])
            backend.close()
        self.assertEqual(sorted(got), sorted((name, "fin") for name in names))
        for client, name in zip(clients, names):
            self.assert_ends(client, "fin", name[::-1].encode())
            client.close()
        return names

    def check_logged(self, daemon, expected):
        """`expected` has a client as the log knows it, or None, for each that connected."""
        logged = self.logged(self.lines + len(expected))[self.lines:]
        lines = {line["proxy"]: line for line in logged}
        self.lines += len(expected)
        for name, client in expected:
            line = lines[name]
            self.assertEqual((line["client"], line["reason"], line["bytes_up"], line["listener"]),
                             (client or name, "client_fin", len(name), daemon.address))

    def setUp(self):
        super().setUp()
        self.lines = 0

    def test_every_legal_one_split_in_two_anywhere(self):
        server = self.listen()
        daemon = self.route("handshake_timeout=1h", to=server)
        for header, client in LEGAL:
            sent = [[header[:at], header[at:]] for at in range(len(header) + 1)]
            names = self.relay(daemon, server, sent)
            self.check_logged(daemon, [(name, client) for name in names])
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": self.lines, "client_fin": self.lines})

    def test_every_legal_one_byte_by_byte(self):
        server = self.listen()
        daemon = self.route("handshake_timeout=1h", to=server)
        sent = [[*(bytes([byte]) for byte in header), b""] for header, _ in LEGAL]
        names = self.relay(daemon, server, sent)
        self.check_logged(daemon, list(zip(names, (legal.client for legal in LEGAL))))

    def test_every_illegal_one(self):
        """In one piece, and byte by byte: nobody waits for more of it, no backend hears of it."""
        server = self.listen()
        daemon = self.route("handshake_timeout=1h", to=server)
        rows = [(reason, header) for reason, headers in ILLEGAL.items() for header in headers]
        expected = {}
        for pieces_of in (lambda data: [data], lambda data: [bytes([byte]) for byte in data]):
            for reason, header in rows:
                client = self.connect(daemon)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                expected[address_of(client)] = (reason, header)
                try:
                    for piece in pieces_of(header):
                        client.sendall(piece)
                except (ConnectionResetError, BrokenPipeError):
                    continue  # early
                self.assertEqual(recv_to_end(client), (b"", "reset"), (reason, header))
        self.assertEqual(len(expected), 2 * len(rows))
        for line in self.logged(len(expected)):
            reason, header = expected[line["client"]]
            self.assertEqual(line["reason"], reason, header)
            self.assertNotIn("proxy", line)
        self.assert_nobody_came(server)
        self.stop(daemon)
        counts = {reason: 2 * len(headers) for reason, headers in ILLEGAL.items()}
        self.assertEqual(daemon.summary(), {"served": 2 * len(rows), **counts})

    def test_a_version_that_is_not_accepted(self):
        for version, accepted, other in (("v1", LINE4, BINARY4), ("v2", BINARY4, LINE4)):
            daemon = self.route(f"accept_proxy={version}")
            client = self.connect(daemon)
            client.sendall(other[:1])
            self.assert_ends(client, "reset")
            client = self.connect(daemon)
            client.sendall(accepted)
            self.assert_echoes(client)
            client.close()
            daemon.await_descriptors(0)
            self.stop(daemon)
            self.assertEqual(daemon.summary(), {"served": 2, "client_fin": 1, "proxy_missing": 1})

    def test_the_longest(self):
        server = self.listen()
        daemon = self.route("handshake_timeout=1h", to=server)
        padding = LONGEST - 16 - 12 - 3
        header = v2(PROXY, TCP4, block(*V4) + tlv(0xEA, padding * b"x"))
        sent = [[header[:at], header[at:]] for at in (0, 16, 1000, LONGEST - 1, LONGEST)]
        names = self.relay(daemon, server, sent)
        self.check_logged(daemon, [(name, V4[0]) for name in names])

    def test_all_that_a_client_has_to_say_in_one_segment(self):
        """Of which the daemon hears nothing more."""
        server = self.listen()
        daemon = self.route("handshake_timeout=1h", to=server)
        daemon.signal(signal.SIGSTOP)
        clients = [self.connect(daemon) for _ in LEGAL]
        for client, (header, _) in zip(clients, LEGAL):
            client.sendall(header + b"all of it")
            client.shutdown(socket.SHUT_WR)
        daemon.signal(signal.SIGCONT)
        for _ in clients:
            backend = self.accept(server)
            self.assertEqual(recv_to_end(backend), (b"all of it", "fin"))
            backend.close()
        for client in clients:
            self.assert_ends(client, "fin")

    def test_an_echo_of_what_came_with_it(self):
        daemon = self.route()
        daemon.signal(signal.SIGSTOP)
        clients = [self.connect(daemon) for _ in LEGAL]
        for client, (header, _) in zip(clients, LEGAL):
            client.sendall(header + b"echo")
        daemon.signal(signal.SIGCONT)
        for client in clients:
            self.assertEqual(recv_exactly(client, 4), b"echo")
            self.assert_echoes(client)

    def test_large_flows_behind_it(self):
        server = self.listen()
        daemon = self.route("send_proxy=v2", to=server)
        client = self.connect(daemon)
        up, down = Pattern("up", 20 * MIB), Pattern("down", 20 * MIB)
        header = BINARY4
        client.sendall(header + up.piece(0))
        backend = self.accept(server)
        self.assertEqual(recv_exactly(backend, len(header)), header)
        recv_exactly(backend, up.PIECE)

        def send():
            for at in range(up.PIECE, up.size, up.PIECE):
                client.sendall(up.piece(at))
            client.shutdown(socket.SHUT_WR)

        def receive():
            for at in range(up.PIECE, up.size, up.PIECE):
                self.assertTrue(recv_exactly(backend, up.PIECE) == up.piece(at), at)
            self.assert_ends(backend, "fin")

        in_parallel(send, receive, (down.send, backend), (down.receive, client))


class Handshakes(ProxyTest):
    """Who may have one, and how it ends without a session."""

    def test_a_client_that_ends_without_a_byte(self):
        daemon = self.route()
        client = self.connect(daemon)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin")
        reset(self.connect(daemon))
        self.assertEqual(self.reasons(2), ["proxy_empty"] * 2)

    def test_a_client_that_ends_within_it(self):
        daemon = self.route()
        count = 0
        for header in (LINE4, BINARY4):
            for at in (1, 5, 11, 15, len(header) - 1):
                client = self.connect(daemon)
                client.sendall(header[:at])
                client.shutdown(socket.SHUT_WR)
                self.assert_ends(client, "reset")
                reset(self.begun(daemon, header[:at]))
                count += 2
        self.assertEqual(self.reasons(count), ["proxy_cut"] * count)

    def test_a_client_that_takes_too_long(self):
        """Though there is a byte now and then."""
        daemon = self.route("handshake_timeout=200ms")
        silent = self.connect(daemon)
        began = time.monotonic()
        self.assert_ends(silent, "reset")
        self.assertGreater(time.monotonic() - began, 0.19)
        for header in (v1(f"TCP6 {ALL_ONES} {ALL_ONES} 1 2"), v2(PROXY, UNIX, PATHS)):
            client = self.connect(daemon)
            client.settimeout(0.01)
            with self.assertRaises(ConnectionResetError):
                for at in range(len(header)):
                    client.sendall(header[at:at + 1])
                    with contextlib.suppress(TimeoutError):
                        client.recv(1)
        self.assertEqual(self.reasons(3), ["proxy_timeout"] * 3)

    def test_the_time_is_over_with_the_header(self):
        daemon = self.route(f"handshake_timeout={200 * SLOW}ms")
        client = self.connect(daemon)
        client.sendall(LINE4)
        self.assert_silent(client, 0.4 * SLOW)
        self.assert_echoes(client)

    def test_a_client_that_is_not_trusted(self):
        server = self.listen()
        daemon = self.route("trusted=10.0.0.0/8,::1", to=server)
        for header in (b"", LINE4, b"GET / HTTP/1.0\r\n\r\n"):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # as early as that
                client = self.connect(daemon)
                client.sendall(header)
                self.assert_ends(client, "reset")
        self.assertEqual(self.reasons(3), ["untrusted"] * 3)
        self.assert_nobody_came(server)

    def test_some_are_trusted(self):
        daemon = self.route("trusted=127.0.0.2,127.0.1.0/24")
        for source, trusted in (("127.0.0.1", False), ("127.0.0.2", True), ("127.0.0.3", False),
                                ("127.0.1.9", True)):
            if not trusted:
                self.assert_refused(daemon, source=source)
                continue
            client = self.connect(daemon, source=source)
            client.sendall(LINE4)
            self.assert_echoes(client)

    def test_ipv4_clients_of_an_ipv6_socket_are_trusted_as_such(self):
        for trusted, how in (("127.0.0.0/8", (True, False)), ("::1", (False, True))):
            daemon = self.route(f"trusted={trusted}", listen=":0")
            for host, is_trusted in zip((HOST, "[::1]"), how):
                at = f"{host}:{daemon.port}"
                if not is_trusted:
                    self.assert_refused(at)
                    continue
                client = self.connect(at)
                client.sendall(LINE4)
                self.assert_echoes(client)

    def test_clients_of_a_unix_socket_need_no_trust(self):
        at = f"unix:{self.folder()}/front"
        daemon = self.start(f"--route=x listen={at} to=echo accept_proxy=any",
                            f"--access_log={self.path}", "--access_log_format=json")
        for header, _ in LEGAL:
            client = self.connect(at)
            client.sendall(header + b"echo")
            self.assertEqual(recv_exactly(client, 4), b"echo")
            client.close()
        client = self.connect(at)
        client.sendall(b"GET / HTTP/1.0\r\n")
        self.assert_ends(client, "reset")
        lines = self.logged(len(LEGAL) + 1)
        self.assertEqual(sorted(line["client"] for line in lines),
                         sorted([legal.client or "unix:" for legal in LEGAL] + ["unix:"]))
        self.assertEqual({line.get("proxy") for line in lines}, {"unix:", None})
        daemon.await_descriptors(0)

    def test_silent_ones_take_places(self):
        daemon = self.route(f"handshake_timeout={300 * SLOW}ms", flags=("--max_conns=1",))
        silent = self.begun(daemon, b"PROXY")
        second = self.connect(daemon)
        second.sendall(LINE4 + b"echo")
        self.assert_silent(second, 0.1)
        self.assert_ends(silent, "reset")
        self.assertEqual(recv_exactly(second, 4), b"echo")
        second.close()
        self.assertEqual(self.reasons(2), ["client_fin", "proxy_timeout"])

    def served_as(self, at, client):
        """The name of the backend that a client of that address gets."""
        family, server = (TCP6, "[::1]:1") if client.startswith("[") else (TCP4, "127.0.0.1:1")
        return self.served_by(at, v2(PROXY, family, block(client, server)))

    def test_routes_go_by_the_address_it_tells(self):
        at = f"{HOST}:{free_port()}"
        common = "accept_proxy=any trusted=127.0.0.1"
        self.start(f"--route=a listen={at} from=192.0.2.0/24,2001:db8::/32 {common} "
                   f"to={self.named(b'a')}",
                   f"--route=b listen={at} from=127.0.0.0/8 {common} to={self.named(b'b')}",
                   f"--access_log={self.path}", "--access_log_format=json")
        for client, name in (("192.0.2.7:1", b"a"), ("[2001:db8::7]:1", b"a"),
                             ("[::ffff:192.0.2.7]:1", b"a"), ("127.0.0.9:1", b"b")):
            self.assertEqual(self.served_as(at, client), name, client)
        for header in (v2(LOCAL, UNSPEC), v1("UNKNOWN")):
            self.assertEqual(self.served_by(at, header), b"b")
        for header in (v1("TCP4 192.0.3.1 127.0.0.1 1 2"), v2(PROXY, UNIX, unix_block(b"a", b"b"))):
            client = self.connect(at)
            client.sendall(header)
            self.assert_ends(client, "reset")
        refused = [line for line in self.logged(8) if line["reason"] == "no_route"]
        self.assertEqual(sorted(line["client"] for line in refused), ["192.0.3.1:1", "unix:"])
        self.assertEqual([line["proxy"].split(":")[0] for line in refused], [HOST] * 2)

    def test_balance_goes_by_the_address_it_tells(self):
        backends = ",".join(self.named(name) for name in (b"a", b"b", b"c"))
        daemon = self.route("balance=source", to=backends)
        clients = [f"192.0.2.{number}" for number in range(30)]
        names = [self.served_as(daemon.address, f"{client}:1") for client in clients]
        self.assertEqual(set(names), {b"a", b"b", b"c"})
        again = [self.served_as(daemon.address, f"{client}:{port}")
                 for port, client in enumerate(reversed(clients), 40000)]
        self.assertEqual(again, names[::-1])

    def test_a_backend_that_is_down(self):
        daemon = self.route(to=self.refuses())
        client = self.connect(daemon)
        client.sendall(LINE4)
        self.assert_ends(client, "reset")
        line, = self.logged(1)
        self.assertEqual((line["client"], line["reason"]), (V4[0], "connect_refused"))


class Sent(ProxyTest):
    """What backends are told."""

    def check_told(self, client, server, expected):
        """That, and then what the client says; the backend may speak first."""
        backend = self.accept(server)
        self.assertEqual(recv_exactly(backend, len(expected)), expected)
        backend.sendall(b"welcome")
        self.assertEqual(recv_exactly(client, 7), b"welcome")
        self.assert_relays(client, backend)
        client.close()
        self.assert_ends(backend, "fin")
        backend.close()

    def test_of_clients_without_a_header(self):
        server = self.listen()
        path = self.folder() + "/front"
        for listen in (f"{HOST}:0", "[::1]:0", f"unix:{path}"):
            for options in ("send_proxy=v1", "send_proxy=v2",
                            "send_proxy=v2 send_proxy_tlvs=crc32c"):
                daemon = self.start(f"--route=x listen={listen} to={address_of(server)} {options}")
                client = self.connect(daemon)
                if client.family == socket.AF_UNIX:
                    family, line, body = UNIX, "UNKNOWN", unix_block(b"", path.encode())
                else:
                    family = TCP4 if client.family == socket.AF_INET else TCP6
                    host, port = client.getsockname()[:2]
                    line = f"TCP{4 if family == TCP4 else 6} {host} {host} {port} {daemon.port}"
                    body = block(address_of(client), daemon.address)
                with self.subTest(listen=listen, options=options):
                    self.check_told(client, server,
                                    v1(line) if options.endswith("v1") else
                                    v2(PROXY, family, body) if options.endswith("v2") else
                                    with_checksum(family, body))
                self.stop(daemon)

    def test_of_an_ipv4_client_of_an_ipv6_socket(self):
        server = self.listen()
        daemon = self.start(f"--route=x listen=:0 to={address_of(server)} send_proxy=v1")
        client = self.connect(f"{HOST}:{daemon.port}")
        self.check_told(client, server,
                        v1(f"TCP4 {HOST} {HOST} {client.getsockname()[1]} {daemon.port}"))

    def test_of_what_headers_told(self):
        server = self.listen()
        mapped = v2(PROXY, TCP6, block(*MAPPED))
        for version in ("v1", "v2"):
            daemon = self.route(f"send_proxy={version}", to=server)
            for header, line, binary in (
                    (BINARY4, LINE4, BINARY4), (LINE4, LINE4, BINARY4),
                    (BINARY6, LINE6, BINARY6), (LINE6, LINE6, BINARY6),
                    (mapped, v1("TCP6 ::ffff:192.0.2.1 ::1 1 2"), mapped),
                    *((v2(PROXY, UNIX, body), v1("UNKNOWN"), v2(PROXY, UNIX, body))
                      for body in (PATHS, ABSTRACT, bytes(216))),
                    (v2(LOCAL, TCP4, block(*V4)), None, None), (v1("UNKNOWN TCP4"), None, None)):
                client = self.connect(daemon)
                client.sendall(header)
                if line is None:  # who connected
                    port = client.getsockname()[1]
                    line = v1(f"TCP4 {HOST} {HOST} {port} {daemon.port}")
                    binary = v2(PROXY, TCP4, block(address_of(client), daemon.address))
                with self.subTest(version=version, header=header):
                    self.check_told(client, server, line if version == "v1" else binary)

    def hear_next(self, server):
        return self.hear(self.accept(server))

    def test_tlvs(self):
        server = self.listen()
        kept = tlv(ALPN, b"h2") + tlv(0xEA) + tlv(SSL, TLS)
        theirs = tlv(UNIQUE_ID, b"theirs")  # kept where it gets no other
        received = v2(PROXY, TCP4, block(*V4) + tlv(NOOP, b"123") + theirs + kept)
        for words, has_own, has_theirs in (("unique_id", True, False), ("received", False, True),
                                           ("unique_id,received", True, True),
                                           ("received,crc32c,unique_id", True, True)):
            daemon = self.route("send_proxy=v2", f"send_proxy_tlvs={words}", to=server)
            own = []
            for _ in range(2):
                client = self.connect(daemon)
                client.sendall(received)
                header, tlvs = self.hear_next(server)
                own.append(tlvs.get(UNIQUE_ID, b""))
                body = block(*V4) + (tlv(UNIQUE_ID, own[-1]) if has_own else b"")
                body += ((b"" if has_own else theirs) + kept) if has_theirs else b""
                with self.subTest(words):
                    self.assertEqual(header, with_checksum(TCP4, body) if "crc32c" in words else
                                     v2(PROXY, TCP4, body))
            if has_own:
                self.assertEqual([name.rsplit(b"-", 1)[1] for name in own], [b"1", b"2"])
                self.assertEqual(*(name.rsplit(b"-", 1)[0] for name in own))

    def test_as_many_tlvs_as_have_room(self):
        server = self.listen()
        last = self.route("send_proxy=v2", "send_proxy_tlvs=received", to=server)
        first = self.route("send_proxy=v2", "send_proxy_tlvs=crc32c,unique_id,received",
                           to=last.address)
        client = self.connect(first)
        body = block(*V4) + tlv(0xEA, b"kept") + tlv(0xEB, bytes(LONGEST - 28 - 7 - 3))
        client.sendall(v2(PROXY, TCP4, body))
        _, tlvs = self.hear_next(server)
        self.assertEqual(tlvs.keys(), {UNIQUE_ID, 0xEA})

    def test_the_next_backend_is_told_too(self):
        server = self.listen()
        daemon = self.route("send_proxy=v1", to=f"{self.refuses()},{address_of(server)}")
        for _ in range(2):
            client = self.connect(daemon)
            client.sendall(LINE4)
            self.check_told(client, server, LINE4)

    def test_checks_speak_for_themselves(self):
        for version in ("v1", "v2"):
            server = self.listen()
            daemon = self.start(
                f"--route=x listen={HOST}:0 to={address_of(server)} send_proxy={version} "
                "health=tcp health_interval=100ms health_send=ping health_expect=pong")
            for _ in range(3):
                check = self.accept(server)
                source, port = check.getpeername()
                expected = v2(LOCAL, UNSPEC) if version == "v2" else v1(
                    f"TCP4 {source} {HOST} {port} {server.getsockname()[1]}")
                self.assertEqual(recv_exactly(check, len(expected) + 4), expected + b"ping")
                check.sendall(b"pong")
                recv_to_end(check)
                check.close()
            server.close()
            daemon.wait_for_line("is down")
            self.stop(daemon)


NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ }}
stream {{
  log_format seen "$proxy_protocol_addr $status";
  access_log {folder}/seen seen;
  server {{
    listen {host}:{port} proxy_protocol;
    set $client "$proxy_protocol_addr:$proxy_protocol_port";
    return "$client $proxy_protocol_server_addr:$proxy_protocol_server_port";
  }}
}}
"""

HAPROXY = """
global
  log stdout format raw local0
defaults
  log global
  timeout connect 5s
  timeout client 30s
  timeout server 30s
"""

HAPROXY_BEHIND = HAPROXY + """
frontend tells
  mode http
  option httplog
  bind {host}:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "{text}"
"""
TOLD = "%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_unique_id] %[fc_pp_authority]"

HAPROXY_BEFORE = """
listen front{port}
  mode tcp
  bind {host}:{port}
  unique-id-format %ci
  server back {back} {options}
"""


class Programs(ProgramTest, ProxyTest):
    def nginx_behind(self, port=None):
        """One that expects a header, says what it was told, and ends."""
        port = port or free_port()
        config = Path(self.folder(), "nginx.conf")
        user = "user root root;" if os.geteuid() == 0 else ""
        config.write_text(NGINX.format(folder=self.folder(), user=user, host=HOST, port=port))
        return self.start_program(port, "nginx", "-p", self.folder(), "-c", str(config))

    def haproxy_behind(self):
        """One that expects a header, and says what it was told to who asks by HTTP."""
        port = free_port()
        config = Path(self.folder(), "behind.cfg")
        config.write_text(HAPROXY_BEHIND.format(host=HOST, port=port, text=TOLD))
        return self.start_program(port, "haproxy", "-f", str(config))

    def haproxy_before(self, back, options):
        port = free_port()
        config = Path(self.folder(), f"before{port}.cfg")
        config.write_text(
            HAPROXY + HAPROXY_BEFORE.format(host=HOST, port=port, back=back, options=options))
        return self.start_program(port, "haproxy", "-f", str(config))

    def told(self, at, header=b""):
        """(a new client there, what nginx behind was told)"""
        connection = self.connect(at)
        client = address_of(connection)
        connection.sendall(header)
        data, end = recv_to_end(connection)
        self.assertEqual(end, "fin")
        return client, data.decode()

    def asked(self, at, *arguments):
        """(the address of a curl, what HAProxy behind was told)"""
        answer = self.curl(*arguments, "--write-out", "\n%{local_ip}:%{local_port}",
                           f"http://{at}/")
        text, client = answer.split("\n")
        return client, text

    def test_haproxy_before(self):
        server = self.listen()
        daemon = self.route("send_proxy=v2", "send_proxy_tlvs=received,crc32c", to=server)
        clients = []
        for options in ("send-proxy", "send-proxy-v2",
                        "send-proxy-v2 proxy-v2-options crc32c,unique-id"):
            front = self.haproxy_before(daemon.address, options)
            self.accept(server).close()  # of the client that found it listening
            client = self.connect(front)
            client.sendall(b"hello")
            backend = self.accept(server)
            if "unique-id" in options:
                header, tlvs = self.hear(backend)
                self.assertTrue(tlvs[UNIQUE_ID])
                self.assertEqual(header[16:28], block(address_of(client), front))
            else:
                header = with_checksum(TCP4, block(address_of(client), front))
                self.assertEqual(recv_exactly(backend, len(header)), header)
            self.assertEqual(recv_exactly(backend, 5), b"hello")
            self.assert_relays(client, backend)
            clients.append(address_of(client))
            client.close()
            self.assert_ends(backend, "fin")
            backend.close()
        logged = [line["client"] for line in self.logged(2 * len(clients))]
        self.assertLess(set(clients), set(logged))

    def test_nginx_behind(self):
        nginx = self.nginx_behind()
        for options in ("send_proxy=v1", "send_proxy=v2",
                        "send_proxy=v2 send_proxy_tlvs=crc32c,unique_id,received"):
            daemon = self.route(*options.split(), to=nginx)
            client, told = self.told(daemon.address, v1("UNKNOWN"))
            self.assertEqual(told, f"{client} {daemon.address}")
            for header, (source, destination) in (
                    (LINE4, V4), (BINARY4, V4),
                    (LINE6, V6), (with_checksum(TCP6, block(*V6)), V6)):
                _, told = self.told(daemon.address, header)
                self.assertEqual(told, f"{source} {destination}".translate({91: None, 93: None}))

    def test_haproxy_behind_and_curl_before(self):
        haproxy = self.haproxy_behind()
        for options in ("send_proxy=v1", "send_proxy=v2",
                        "send_proxy=v2 send_proxy_tlvs=crc32c,unique_id,received"):
            daemon = self.route("accept_proxy=v1", *options.split(), to=haproxy)
            client, told = self.asked(daemon.address, "--haproxy-protocol")
            self.assertRegex(told, rf"^{client} {daemon.address} " +
                             (r"\d+-1 $" if "unique_id" in options else " $"))
        daemon = self.route(*options.split(), to=haproxy)
        client = self.connect(daemon)
        client.sendall(with_checksum(TCP6, block(*V6), tlv(AUTHORITY, b"example.org")) +
                       b"GET / HTTP/1.0\r\n\r\n")
        answer, _ = recv_to_end(client)
        self.assertRegex(answer.decode(), r"\r\n2001:db8::1:3 2001:db8::2:44444 \d+-1 example.org$")

    def test_chains_keep_the_first_client(self):
        nginx = self.nginx_behind()
        last = self.route("send_proxy=v1", to=nginx)
        first = self.route("send_proxy=v2", "send_proxy_tlvs=crc32c,received", to=last.address)
        for options in ("send-proxy", "send-proxy-v2 proxy-v2-options crc32c"):
            front = self.haproxy_before(first.address, options)
            client, told = self.told(front)
            self.assertEqual(told, f"{client} {front}")
            self.assertEqual(self.told(first.address, LINE6)[1],
                             "2001:db8::1:3 2001:db8::2:44444")

    def check_checks(self, at, options, log, text):
        """That of each check, the backend has such a text in its log, and stays up."""
        daemon = self.start(f"--route=x listen={HOST}:0 to={at} health_interval=100ms {options}")
        before = log().count(text)
        wait_until(lambda: log().count(text) >= before + 4, "checks come")
        self.assertFalse([line for line in daemon.stderr() if "is down" in line])
        self.stop(daemon)

    def test_nginx_does_not_complain_of_checks(self):
        nginx = self.nginx_behind()
        program, seen = self._programs[-1], Path(self.folder(), "seen")
        for version, text in (("v1", f"{HOST} 200\n"), ("v2", "- 200\n")):
            self.check_checks(nginx, f"send_proxy={version} health=tcp", seen.read_text, text)
        # Of the client that found it listening.
        self.assertEqual(self.log_of(program).count("broken header"), 1, self.log_of(program))
        self.assertIn('broken header: ""', self.log_of(program))

    def test_haproxy_does_not_complain_of_checks(self):
        haproxy = self.haproxy_behind()
        program = self._programs[-1]
        for kind, text in (("tcp", "<BADREQ>"),  # since no request comes
                           ("http", "GET / HTTP/1.1")):
            for version in ("v1", "v2"):
                self.check_checks(haproxy, f"send_proxy={version} health={kind}",
                                  lambda: self.log_of(program), text)
        self.assertEqual(self.log_of(program).count("PROXY protocol"), 1, self.log_of(program))

    def test_nginx_comes_up(self):
        port, other = free_port(), self.named(b"o")
        daemon = self.start(f"--route=x listen={HOST}:0 to={HOST}:{port},{other} send_proxy=v2 "
                            "health_interval=200ms")
        while not any("is down" in line for line in daemon.stderr()):
            self.connect(daemon).recv(1)
        self.nginx_behind(port)
        daemon.wait_for_line(rf":{port} is up: 2 checks passed")
        self.assertIn("- 200\n", Path(self.folder(), "seen").read_text())


class Ends(ProxyTest):
    """The daemon's end and reloads, while somebody has not said all of a header."""

    def test_what_is_left_at_the_deadline_is_reset(self):
        daemon = self.route(flags=("--drain_timeout=300ms",))
        clients = [self.begun(daemon, data) for data in (b"", b"PROXY", SIGNATURE)]
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        for client in clients:
            self.assert_ends(client, "reset")
        self.assertGreater(time.monotonic() - began, 0.25)
        daemon.check_end(1)
        self.assertEqual(daemon.summary(), {"served": 3, "drain": 3})
        self.assertEqual(self.reasons(3), ["drain"] * 3)

    def test_a_second_signal_ends_it_now(self):
        daemon = self.route(flags=("--drain_timeout=1h",))
        client = self.begun(daemon, b"PROXY")
        self.signal_twice(daemon)
        self.assert_ends(client, "reset")
        daemon.check_end(1)
        self.assertEqual(daemon.summary(), {"served": 1, "stop": 1})

    def test_a_header_that_comes_during_the_drain(self):
        server = self.listen()
        daemon = self.route("send_proxy=v1", to=server, flags=("--drain_timeout=1h",))
        header = LINE4
        client, illegal = self.begun(daemon, header[:9]), self.begun(daemon, header[:9])
        daemon.signal(signal.SIGTERM)
        self.await_refusal(daemon)
        illegal.sendall(b"\r\n")
        self.assert_ends(illegal, "reset")
        client.sendall(header[9:] + b"served")
        backend = self.accept(server)
        self.assertEqual(recv_exactly(backend, len(header) + 6), header + b"served")
        self.assert_relays(client, backend)
        self.assertTrue(daemon.running())
        client.close()
        self.assert_ends(backend, "fin")
        backend.close()
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 2, "client_fin": 1, "proxy_malformed": 1})

    def test_a_drain_waits_for_no_header_longer_than_handshake_timeout(self):
        daemon = self.route("handshake_timeout=200ms", flags=("--drain_timeout=1h",))
        client = self.begun(daemon, b"PROXY")
        daemon.signal(signal.SIGTERM)
        self.assert_ends(client, "reset")
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 1, "proxy_timeout": 1})

    def test_queued_clients_are_served(self):
        daemon = self.route(flags=("--drain_timeout=1h",))
        daemon.signal(signal.SIGSTOP)
        clients = [self.connect(daemon) for _ in range(50)]
        for client in clients:
            client.sendall(LINE4 + b"echo")
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGCONT)
        for client in clients:
            self.assertEqual(recv_exactly(client, 4), b"echo")
            client.close()
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 50, "client_fin": 50})


class Reloads(ReloadTest, ProxyTest):
    OPTIONS = "accept_proxy=any trusted=127.0.0.1"

    def setUp(self):
        super().setUp()
        self.at, self.other = f"{HOST}:{free_port()}", f"y listen={HOST}:0 to=echo"

    def route_to(self, name):
        return f"x listen={self.at} to={self.named(name)} {self.OPTIONS}"

    def test_a_listener_that_goes_while_a_header_comes(self):
        route = self.route_to(b"b")
        daemon = self.serve(route, self.other)
        clients = [self.begun(daemon, LINE4[:at]) for at in range(10)]
        self.reload(daemon, self.other)
        self.await_refusal(daemon)
        self.reload(daemon)  # what is gone may be freed now
        for at, client in enumerate(clients):
            client.sendall(LINE4[at:])
            self.assertEqual(recv_exactly(client, 1), b"b")
            self.assert_echoes(client)
        for _ in range(2):
            self.reload(daemon, route, self.other)
            self.assertEqual(self.served_by(self.at, LINE4), b"b")
            self.reload(daemon, self.other)
        for client in clients:
            self.assert_echoes(client)
        daemon.baseline -= 4  # the listener's sockets and their reserves

    def test_a_backend_that_is_replaced_while_a_header_comes(self):
        daemon = self.serve(self.route_to(b"1"))
        client = self.begun(daemon, LINE4[:-1])
        self.reload(daemon, self.route_to(b"2"))
        client.sendall(LINE4[-1:])
        self.assertEqual(recv_exactly(client, 1), b"2")

    def test_a_drain_after_a_listener_has_gone(self):
        daemon = self.serve(self.route_to(b"b"), self.other, flags=("--drain_timeout=200ms",))
        client = self.begun(daemon, b"PROXY")
        self.reload(daemon, self.other)
        daemon.signal(signal.SIGTERM)
        self.assert_ends(client, "reset")
        daemon.check_end(1)

    def test_the_version_stays_until_the_next_start(self):
        daemon = self.serve(self.route_to(b"b"))
        self.reload(daemon, f"x listen={self.at} to=echo accept_proxy=v1 trusted={HOST}")
        daemon.wait_for_line(
            f"^parkway: accept_proxy of {self.at} takes effect at the next start$")
        client = self.connect(self.at)
        client.sendall(v2(LOCAL, UNSPEC))
        self.assert_echoes(client)

    def test_who_is_trusted_does_not(self):
        """Also where the file changes, and not its name."""
        blocks = Path(self.folder(), "blocks")
        blocks.write_text(f"{HOST}\n")
        route = f"x listen={self.at} to=echo accept_proxy=any trusted=@{blocks}"
        daemon = self.serve(route)
        client = self.connect(self.at)
        client.sendall(LINE4)
        self.assert_echoes(client)
        blocks.write_text("10.0.0.0/8\n")
        self.reload(daemon, route)
        self.assert_echoes(client)
        self.assert_refused(daemon)
        client.close()
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 2, "client_fin": 1, "untrusted": 1})


class Memory(ProxyTest):
    def test_nothing_is_left(self):
        server = self.named(b"s")
        daemon = self.route("send_proxy=v2", "send_proxy_tlvs=crc32c,unique_id,received", to=server)
        illegal = [header for headers in ILLEGAL.values() for header in headers]

        def serve():
            for header, _ in LEGAL:
                client = self.connect(daemon)
                client.sendall(header)
                self.assertEqual(recv_exactly(client, 1), b"s")
                client.close()
                client = self.connect(daemon)
                client.sendall(header[:-1])
                reset(client)
            for header in illegal:
                client = self.connect(daemon)
                client.sendall(header)
                self.assert_ends(client, "reset")
                client.close()

        for _ in range(4):
            serve()
        before = daemon.rss()
        for _ in range(12 // SLOW):
            serve()
        daemon.await_descriptors(0)
        if not SANITIZED:  # whose own memory grows
            self.assertLess(daemon.rss() - before, MIB)


class Mistakes(unittest.TestCase):
    def test_routes_that_cannot_be(self):
        for options, problem in (
                ("accept_proxy=any", "accept_proxy needs trusted=BLOCKS: the proxies that may say "
                                     "for whom they connect"),
                ("send_proxy=v1 send_proxy_tlvs=crc32c", "send_proxy=v1 has no TLVs"),
                ("accept_proxy=v3", "accept_proxy=v3"),
                ("accept_proxy=v1 trusted=10.0.0.0/33", "trusted=10.0.0.0/33"),
                ("send_proxy=any", "send_proxy=any"),
                ("send_proxy=v2 send_proxy_tlvs=crc32", "send_proxy_tlvs=crc32"),
                ("handshake_timeout=0", "handshake_timeout=0")):
            with self.subTest(options):
                done = run_parkway(
                    "--check", f"--route=x listen=unix:@x,{HOST}:0 to=127.0.0.1:1 {options}")
                self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                self.assertIn(problem, done.stderr)

    def test_routes_that_can_be(self):
        for options in ("accept_proxy=any trusted=0.0.0.0/0,::/0 listen=:0",
                        "accept_proxy=v1 listen=unix:@x", "trusted=10.0.0.0/8 listen=:0",
                        "send_proxy=v2 send_proxy_tlvs=received,crc32c,unique_id listen=:0"):
            done = run_parkway("--check", f"--route=x to=127.0.0.1:1 {options}")
            self.assertEqual((done.returncode, done.stderr), (0, ""), options)


if __name__ == "__main__":
    main()
