#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every way a session can end, as data: each row is a test, and docs/endings.md shows the rows.

What a peer sees is written as in the page: "all" or "part" of what was sent to it, if anything was,
and then "FIN" or "RST"; "—" for a peer that broke the connection itself, or has none.
"""

import collections
import re
import signal
import socket
import subprocess
import sys
import unittest
from pathlib import Path

TREE = Path(__file__).absolute().parent.parent.parent
sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, SLOW, DaemonTest, Pattern, address_of, enter_namespace, fill, in_namespace,
    in_parallel, main, queued, recv_exactly, recv_to_end, reset, send_all_acknowledged, unread,
    wait_until)

PAGE = TREE / "docs/endings.md"
HEAD = ("logged", "on its way", "the client sees", "the backend sees", "bounded by")
Row = collections.namedtuple("Row", "logged on_its_way client backend bound")

NOTHING = "nothing"
CONNECT = "the connect"
REPLY = "a reply, with the kernel"
REQUEST = "a request, with the kernel"
SLOW_REPLY = "a reply that the client does not take"
SLOW_REQUEST = "a request that the backend does not take"
SLOW_BOTH = "both of these"
AFTER_CLIENT, AFTER_BACKEND = ", after the client's FIN", ", after the backend's FIN"
NO_PLACE = "a client beyond `--max_conns`"
LISTENER_FULL = "a client beyond `--listener_max_conns`"
# What limits the second of two clients, which is reset.
BEYOND = {
    "a client beyond `--max_conns`, with `--overload=reset`": "--max_conns=1 --overload=reset",
    "a client beyond `--listener_conn_rate`, with `--overload=reset`":
        "--listener_conn_rate=1 --overload=reset",
    "a client beyond `--source_max_conns`": "--source_max_conns=1",
    "a client beyond `--source_conn_rate`": "--source_conn_rate=1",
}
DENIED = "a client that `--deny` names"
NO_MEMORY = "a client beyond `--memory_budget`"
NO_MEMORY_RESETS = "a client beyond `--memory_budget`, with `--overload=reset`"
NO_DESCRIPTOR = "a client, and no descriptor for it"
NO_DESCRIPTOR_BEHIND = "a client, and no descriptor for its backend"
NO_PORT = "a client, and no free port for its backend"
NO_ROUTE = "a client that no route serves"
ELSEWHERE = "a client that was going where `allow_dst` lets nobody go"
TO_ITSELF = "a client that was going to the daemon itself"
QUEUE_FULL = "a client, with every backend at its `max` and nobody allowed to wait"
QUEUE_TIMEOUT = "a client, with every backend at its `max`"
ALL_DOWN = "the connect, with no backend up"
UNTRUSTED = "a client that is none of `--trusted`"
V2 = b"\r\n\r\n\0\r\nQUIT\n"
# What a client sends of its PROXY header, and whether a FIN follows.
HEADERS = {
    "no header, but a FIN": (b"", True),
    "a part of a header, and a FIN": (b"PROXY TCP4 192.0.2", True),
    "a part of a header": (b"PROXY TCP4 192.0.2", False),
    "something else than a header": (b"GET / HTTP/1.1\r\n", False),
    "a header with a wrong field": (b"PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n", False),
    "a header of an unknown version or command": (V2 + b"\x31\x11\0\x0c", False),
    "a header of an unknown address family": (V2 + b"\x21\x41\0\x0c", False),
    "a header with a wrong checksum":
        (V2 + b"\x21\x11\0\x13" + bytes(12) + b"\x03\0\x04" + bytes(4), False),
    "a header without an end": (b"PROXY UNKNOWN " + 93 * b"x", False),
}
# Of its ClientHello likewise: records of a handshake.
HELLO = bytes.fromhex("1603010050" "0100004c" "0303")
HELLOS = {
    "no ClientHello, but a FIN": (b"", True),
    "a part of a ClientHello, and a FIN": (HELLO, True),
    "a part of a ClientHello": (HELLO, False),
    "a ClientHello with a wrong length": (bytes.fromhex("1603010000"), False),
    "a ClientHello of more than 64 KiB": (bytes.fromhex("1603014000" "01010000"), False),
}

HALF_CLOSE, LINGER = "`--half_close_timeout`", "`--reset_linger`"
IDLE, IDLE_THEN = "`--idle_timeout`", "`--idle_timeout`, then `--reset_linger`"
HALF_CLOSE_THEN = "`--half_close_timeout`, then `--reset_linger`"
DRAIN, DRAIN_THEN = "`--drain_timeout`", "`--drain_timeout`, then `--reset_linger`"
HANDSHAKE = "`--handshake_timeout`"
AT_ONCE = "at once"


def ended_by_the_daemon(reason, at_once, then):
    """Bounded by `at_once` with nothing on its way, else by `then`."""
    return [
        Row(reason, NOTHING, "FIN", "FIN", at_once),
        Row(reason, REPLY, "all, FIN", "FIN", then),
        Row(reason, REQUEST, "FIN", "all, FIN", then),
        Row(reason, SLOW_REPLY, "part, RST", "FIN", then),
        Row(reason, SLOW_REQUEST, "FIN", "part, RST", then),
        Row(reason, SLOW_BOTH, "part, RST", "part, RST", then),
    ]


SECTIONS = {
    "Peers": [
        Row("client_fin", NOTHING, "FIN", "FIN", HALF_CLOSE),
        Row("client_fin", SLOW_REPLY, "all, FIN", "FIN", HALF_CLOSE),
        Row("client_fin", SLOW_REQUEST, "FIN", "all, FIN", HALF_CLOSE),
        Row("upstream_fin", NOTHING, "FIN", "FIN", HALF_CLOSE),
        Row("upstream_fin", SLOW_REPLY, "all, FIN", "FIN", HALF_CLOSE),
        Row("upstream_fin", SLOW_REQUEST, "FIN", "all, FIN", HALF_CLOSE),
        Row("client_reset", NOTHING, "—", "RST", AT_ONCE),
        Row("client_reset", REQUEST, "—", "all, RST", LINGER),
        Row("client_reset", SLOW_REQUEST, "—", "part, RST", LINGER),
        Row("client_reset", SLOW_REPLY, "—", "RST", AT_ONCE),
        Row("upstream_reset", NOTHING, "RST", "—", AT_ONCE),
        Row("upstream_reset", REPLY, "all, RST", "—", LINGER),
        Row("upstream_reset", SLOW_REPLY, "part, RST", "—", LINGER),
        Row("upstream_reset", SLOW_REQUEST, "RST", "—", AT_ONCE),
    ],
    "Timeouts": [
        *ended_by_the_daemon("idle_timeout", IDLE, IDLE_THEN),
        Row("half_close_timeout", NOTHING + AFTER_CLIENT, "FIN", "FIN", HALF_CLOSE),
        Row("half_close_timeout", SLOW_REPLY + AFTER_CLIENT, "part, RST", "FIN", HALF_CLOSE_THEN),
        Row("half_close_timeout", NOTHING + AFTER_BACKEND, "FIN", "FIN", HALF_CLOSE),
        Row("half_close_timeout", SLOW_REQUEST + AFTER_BACKEND, "FIN", "part, RST",
            HALF_CLOSE_THEN),
    ],
    "Operator": [
        *ended_by_the_daemon("drain", DRAIN, DRAIN_THEN),
        Row("drain", NOTHING + AFTER_CLIENT, "FIN", "FIN", DRAIN),
        Row("drain", NOTHING + AFTER_BACKEND, "FIN", "FIN", DRAIN),
        Row("drain", CONNECT, "RST", "—", DRAIN),
        *ended_by_the_daemon("stop", AT_ONCE, AT_ONCE),
        Row("stop", CONNECT, "RST", "—", AT_ONCE),
    ],
    "Health": ended_by_the_daemon("backend_down", AT_ONCE, LINGER),
    "Connects": [
        Row("connect_refused", CONNECT, "RST", "—", "`--connect_timeout` per backend"),
        Row("connect_timeout", CONNECT, "RST", "—", "`--connect_timeout` per backend"),
        Row("connect_failed", CONNECT, "RST", "—", "`--connect_timeout` per backend"),
        Row("no_backend", ALL_DOWN, "RST", "—", AT_ONCE),
    ],
    "Source ports": [
        Row("no_source_port", NO_PORT, "RST", "—", "`--source`, `net.ipv4.ip_local_port_range`"),
    ],
    "Original destinations": [
        Row("dst_denied", ELSEWHERE, "RST", "—", AT_ONCE),
        Row("dst_loop", TO_ITSELF, "RST", "—", AT_ONCE),
    ],
    "PROXY protocol": [
        Row("proxy_empty", "no header, but a FIN", "FIN", "—", AT_ONCE),
        Row("proxy_cut", "a part of a header, and a FIN", "RST", "—", AT_ONCE),
        Row("proxy_timeout", "a part of a header", "RST", "—", HANDSHAKE),
        Row("proxy_missing", "something else than a header", "RST", "—", AT_ONCE),
        Row("proxy_malformed", "a header with a wrong field", "RST", "—", AT_ONCE),
        Row("proxy_command", "a header of an unknown version or command", "RST", "—", AT_ONCE),
        Row("proxy_family", "a header of an unknown address family", "RST", "—", AT_ONCE),
        Row("proxy_checksum", "a header with a wrong checksum", "RST", "—", AT_ONCE),
        Row("proxy_too_long", "a header without an end", "RST", "—", AT_ONCE),
        Row("untrusted", UNTRUSTED, "RST", "—", AT_ONCE),
        Row("drain", "a part of a header", "RST", "—", DRAIN),
        Row("stop", "a part of a header", "RST", "—", AT_ONCE),
    ],
    "TLS": [
        Row("hello_empty", "no ClientHello, but a FIN", "FIN", "—", AT_ONCE),
        Row("hello_cut", "a part of a ClientHello, and a FIN", "RST", "—", AT_ONCE),
        Row("hello_timeout", "a part of a ClientHello", "RST", "—", HANDSHAKE),
        Row("hello_malformed", "a ClientHello with a wrong length", "RST", "—", AT_ONCE),
        Row("hello_too_long", "a ClientHello of more than 64 KiB", "RST", "—", AT_ONCE),
    ],
    "Limits": [
        Row("—", NO_PLACE, "waits", "—", "`--max_conns`, `--backlog`"),
        Row("—", NO_DESCRIPTOR, "waits 1s, then FIN", "—", "RLIMIT_NOFILE"),
        Row("connect_failed", NO_DESCRIPTOR_BEHIND, "RST", "—", "RLIMIT_NOFILE"),
        Row("—", LISTENER_FULL, "waits", "—", "`--listener_max_conns`, `--backlog`"),
        Row("—", NO_MEMORY, "waits", "—", "`--memory_budget`, `--backlog`"),
        Row("memory_budget", NO_MEMORY_RESETS, "RST", "—", AT_ONCE),
        *(Row(reason, way, "RST", "—", AT_ONCE) for reason, way in
          zip(("too_many", "too_fast", "source_too_many", "source_too_fast"), BEYOND)),
        Row("denied", DENIED, "RST", "—", AT_ONCE),
        Row("no_route", NO_ROUTE, "RST", "—", AT_ONCE),
        Row("queue_full", QUEUE_FULL, "RST", "—", "`--max_queue`"),
        Row("queue_timeout", QUEUE_TIMEOUT, "RST", "—", "`--queue_timeout`"),
    ],
    "Echo": [
        Row("client_fin", NOTHING, "FIN", "—", IDLE),
        Row("client_fin", SLOW_REPLY, "all, FIN", "—", IDLE),
        Row("client_reset", NOTHING, "—", "—", AT_ONCE),
        Row("client_reset", SLOW_REPLY, "—", "—", AT_ONCE),
        Row("idle_timeout", NOTHING, "FIN", "—", IDLE),
        Row("idle_timeout", REPLY, "all, FIN", "—", IDLE_THEN),
        Row("idle_timeout", SLOW_REPLY, "part, RST", "—", IDLE_THEN),
        Row("drain", NOTHING, "FIN", "—", DRAIN),
        Row("drain", SLOW_REPLY, "part, RST", "—", DRAIN_THEN),
        Row("stop", NOTHING, "FIN", "—", AT_ONCE),
        Row("stop", SLOW_REPLY, "part, RST", "—", AT_ONCE),
    ],
}


def run_commands(*commands):
    for command in commands:
        subprocess.run(command.split(), check=True)


# ---- The page.


def cells_of(row):
    logged = row.logged if row.logged == "—" else f"`{row.logged}`"
    return (logged, *row[1:])


def tables_of(page):
    """{section: [cells, ...]} of the tables with our columns."""
    tables, section = {}, None
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| "):
            tables.setdefault(section, []).append(tuple(line.strip("| ").split(" | ")))
    return {section: rows[1:] for section, rows in tables.items() if rows[0] == HEAD}


def markdown(rows):
    lines = [HEAD, *map(cells_of, rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(HEAD), *text[1:]])


class Page(unittest.TestCase):
    maxDiff = None

    def test_the_page_shows_what_is_tested(self):
        shown = tables_of(PAGE.read_text())
        for section, rows in SECTIONS.items():
            self.assertEqual(shown.get(section), [*map(cells_of, rows)],
                             f"## {section} should have\n\n{markdown(rows)}\n")
        self.assertEqual(sorted(shown), sorted(SECTIONS))


# ---- The stage: one session, what is on its way there, and what its peers see at the end.


CHECKS = ("--health=tcp", "--health_interval=200ms", "--health_fall=2", f"--health_timeout={SLOW}s")


class Stage:
    FLOOD = Pattern("flood", MIB).bytes()
    LAST_WORDS = Pattern("last words", 256 * KIB).bytes()
    TIMEOUTS = {
        "idle_timeout": (f"--idle_timeout={1 + SLOW}s",),  # longer than it takes to get there
        "half_close_timeout": ("--half_close_timeout=500ms",),
        "drain": ("--drain_timeout=200ms",),
        "stop": ("--drain_timeout=1h",),
        "backend_down": CHECKS + ("--on_down=close",),
    }

    def __init__(self, test, row, echo):
        self.test, self.row = test, row
        self.state, _, self.finished = row.on_its_way.partition(", after the ")
        # Receivers that are waited for are given time; others are given up soon.
        in_kernel = self.state in (REPLY, REQUEST)
        flags = (f"--workers={test.WORKERS}", f"--reset_linger={'1m' if in_kernel else '200ms'}",
                 *self.TIMEOUTS.get(row.logged, ()))
        window = 8 * KIB if in_kernel else None
        if echo:
            self.daemon = test.echo(*flags)
            self.client, self.backend = test.connect(self.daemon, window), None
            test.assert_echoes(self.client)
        else:
            server = test.listen(receive_buffer=window)
            self.health = test.listen()
            if row.logged == "backend_down":
                flags += (f"--health_port={self.health.getsockname()[1]}",)
            self.daemon = test.proxy(server, flags=flags)
            self.client, self.backend = test.session(self.daemon, server, window)
            test.assert_relays(self.client, self.backend)
        self.sent = {"client": b"", "backend": b""}  # to whom
        self.put_on_the_way()

    def socket(self, name):
        return self.client if name == "client" else self.backend

    # ---- What is on its way.

    def put_on_the_way(self):
        for receiver in self.receivers():
            if self.is_slow():
                self.flood(receiver)
            else:
                self.hand_to_the_kernel(receiver)
        if self.finished:
            finisher = self.client if self.finished == "client's FIN" else self.backend
            finisher.shutdown(socket.SHUT_WR)

    def is_slow(self):
        return self.state in (SLOW_REPLY, SLOW_REQUEST, SLOW_BOTH)

    def receivers(self):
        return {REPLY: ["client"], SLOW_REPLY: ["client"], REQUEST: ["backend"],
                SLOW_REQUEST: ["backend"], SLOW_BOTH: ["client", "backend"]}.get(self.state, [])

    def sender_to(self, name):
        return self.client if self.backend is None or name == "backend" else self.backend

    def flood(self, to):
        """Until every buffer on the way is full, the daemon's own among them."""
        count = fill(self.sender_to(to), self.FLOOD)
        self.sent[to] = (self.FLOOD * (count // MIB + 1))[:count]

    def hand_to_the_kernel(self, to):
        """The daemon holds none of it any more, and the receiver's window is too small for it."""
        target, data = self.socket(to), self.LAST_WORDS
        send_all_acknowledged(self.sender_to(to), data)
        wait_until(lambda: unread(target) + self.at_daemon(target).unsent == len(data),
                   "the daemon hands all to its kernel")
        self.sent[to] = data

    def at_daemon(self, peer):
        """The daemon's end of that connection."""
        return queued(peer.getpeername(), peer.getsockname())

    # ---- What its peers see.

    def see(self, name):
        """Such as "all, FIN". A peer that sees a FIN ends its own stream too."""
        connection, sent = self.socket(name), self.sent[name]
        got, end = recv_to_end(connection)
        self.test.assertTrue(sent.startswith(got), "the bytes differ")
        if end == "fin":
            self.finish(connection)
        what = ("all, " if got == sent else "part, ") if sent else ""
        return what + {"fin": "FIN", "reset": "RST"}[end]

    def finish(self, connection):
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has been reset since

    def check(self, *names):
        """That these peers see what the row says, at the same time."""
        seen = {}
        in_parallel(*((lambda n=name: seen.update({n: self.see(n)})) for name in names))
        self.test.assertEqual(seen, {name: getattr(self.row, name) for name in names})

    def check_all(self):
        peers = ("client",) if self.backend is None else ("client", "backend")
        self.check(*(name for name in peers if getattr(self.row, name) != "—"))

    # ---- Its end.

    def cause(self):
        {
            "client_fin": lambda: self.client.shutdown(socket.SHUT_WR),
            "upstream_fin": lambda: self.backend.shutdown(socket.SHUT_WR),
            "client_reset": lambda: reset(self.client),
            "upstream_reset": lambda: reset(self.backend),
            "drain": lambda: self.daemon.signal(signal.SIGTERM),
            "backend_down": lambda: self.health.close(),
            "stop": lambda: self.test.signal_twice(self.daemon),
        }.get(self.row.logged, lambda: None)()

    def play(self):
        self.cause()
        if self.row.logged in ("client_fin", "upstream_fin"):
            self.check_all()
        elif self.state == NOTHING and not self.finished:
            self.check_all()
        elif self.finished or self.row.logged == "stop" or self.is_slow():
            self.await_end()
            self.check_all()
        elif self.row.logged.endswith("_reset"):
            self.check(*self.receivers())
        else:
            self.check_linger()
        self.await_end()
        self.check_summary()

    def check_linger(self):
        """What a peer says after the end does not destroy what is on its way to it."""
        (slow,) = self.receivers()
        wait_until(lambda: self.at_daemon(self.socket(slow)).state == "FIN_WAIT1",
                   "the daemon ends the session")
        self.socket(slow).sendall(b"and another thing")
        self.check_all()

    def await_end(self):
        if self.row.logged in ("drain", "stop"):
            self.daemon.check_end(1)
        else:
            self.daemon.await_descriptors(0)

    def check_summary(self):
        if self.daemon.exit_code is None:
            self.test.stop(self.daemon)
        self.test.assertEqual(self.daemon.summary(), {"served": 1, self.row.logged: 1})


class Rows(DaemonTest):
    WORKERS = 2
    echo_server = False

    def play(self, row):
        Stage(self, row, self.echo_server).play()

    @classmethod
    def take(cls, rows):
        for row in rows:
            name = "test_" + "_".join(re.findall(r"\w+", f"{row.logged} {row.on_its_way}"))
            setattr(cls, name, cls.method_for(row))

    @classmethod
    def method_for(cls, row):
        special = {CONNECT: "play_connect", NO_PLACE: "play_no_place",
                   LISTENER_FULL: "play_no_place", DENIED: "play_denied",
                   NO_MEMORY: "play_no_memory", NO_MEMORY_RESETS: "play_no_memory_resets",
                   **dict.fromkeys(BEYOND, "play_beyond"),
                   NO_DESCRIPTOR: "play_no_descriptor",
                   NO_DESCRIPTOR_BEHIND: "play_no_descriptor_behind", NO_ROUTE: "play_no_route",
                   NO_PORT: "play_no_port", ELSEWHERE: "play_destination",
                   TO_ITSELF: "play_destination",
                   QUEUE_FULL: "play_queue", QUEUE_TIMEOUT: "play_queue",
                   ALL_DOWN: "play_all_down", UNTRUSTED: "play_untrusted",
                   **dict.fromkeys(HEADERS, "play_header"),
                   **dict.fromkeys(HELLOS, "play_hello")}
        play = special.get(row.on_its_way, "play")
        return lambda self: getattr(self, play)(row)

    # ---- While the backend is being connected.

    def play_connect(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        (self.end_connect if row.logged in ("drain", "stop") else self.fail_connect)(row.logged)

    def fail_connect(self, reason):
        backends = {"connect_refused": self.refuses, "connect_timeout": self.blackhole,
                    "connect_failed": lambda: "unix:/nonexistent"}
        daemon = self.proxy(backends[reason](), flags=("--connect_timeout=300ms",))
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, reason)

    def end_connect(self, reason):
        daemon = self.proxy(self.blackhole(),
                            flags=("--connect_timeout=1h", *Stage.TIMEOUTS[reason]))
        client = self.connect(daemon)
        client.sendall(b"is anybody there?")
        daemon.await_descriptors(2)  # the client's and the backend's
        if reason == "drain":
            daemon.signal(signal.SIGTERM)
        else:
            self.signal_twice(daemon)
        daemon.check_end(1)
        self.assert_ends(client, "reset")
        self.assertEqual(daemon.summary(), {"served": 1, reason: 1})

    def check_logged(self, daemon, *reasons):
        self.stop(daemon)
        self.assertEqual(daemon.summary(),
                         {"served": len(reasons), **collections.Counter(reasons)})

    # ---- At a limit.

    def check_beside(self, daemon, client, backend, row):
        """The other session is whole, and ends by its client."""
        self.assert_relays(client, backend)
        client.close()
        self.assert_ends(backend, "fin")
        backend.close()
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged, "client_fin")

    def play_no_place(self, row):
        self.assertEqual((row.client, row.backend), ("waits", "—"))
        limit = "--max_conns" if row.on_its_way == NO_PLACE else "--listener_max_conns"
        daemon = self.echo(f"{limit}=1", "--workers=1")
        first = self.connect(daemon)
        self.assert_echoes(first)
        others = [self.connect(daemon) for _ in range(2)]  # one is accepted, one in the queue
        for client in others:
            client.sendall(b"me too")
            self.assert_silent(client)
        for gone, served in zip([first, *others], [*others, None]):
            gone.close()
            if served is not None:
                self.assertEqual(recv_exactly(served, 6), b"me too")
        daemon.await_descriptors(0)
        self.check_logged(daemon, *3 * ["client_fin"])

    def play_beyond(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        server = self.listen()
        daemon = self.proxy(server, flags=BEYOND[row.on_its_way].split())
        client, backend = self.session(daemon, server)
        self.assert_refused(daemon)
        self.check_beside(daemon, client, backend, row)

    LITTLE = "--memory_budget=1MiB"  # less than it takes alone

    def play_no_memory(self, row):
        self.assertEqual((row.client, row.backend), ("waits", "—"))
        daemon = self.echo(self.LITTLE, "--workers=1")
        clients = [self.connect(daemon) for _ in range(2)]  # one is accepted, one in the queue
        for client in clients:
            client.sendall(b"me too")
            self.assert_silent(client)
        daemon.wait_for_line(r"^parkway: no new clients for now: \d+MiB of memory in use, "
                             r"the budget is 1MiB \(1 times so far\)$")
        clients[1].close()
        daemon.signal(signal.SIGTERM)  # one that was accepted is served then
        self.assertEqual(recv_exactly(clients[0], 6), b"me too")
        clients[0].close()
        daemon.check_end(0)
        self.assertEqual(daemon.summary(), {"served": 1, "client_fin": 1})

    def play_no_memory_resets(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        daemon = self.echo(self.LITTLE, "--overload=reset")
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged)

    def play_denied(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        daemon = self.echo("--deny=192.0.2.1,127.0.0.0/8")
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged)

    def play_no_descriptor(self, row):
        self.assertEqual((row.client, row.backend), ("waits 1s, then FIN", "—"))
        daemon = self.echo("--workers=1")
        old = self.connect(daemon)
        self.assert_echoes(old)
        hard = self.starve(daemon, spare=0)
        client = self.connect(daemon)
        self.assert_silent(client)
        self.assert_ends(client, "fin")
        self.feed(daemon, hard)
        self.assert_echoes(old)
        old.close()
        daemon.await_descriptors(0)
        self.check_logged(daemon, "client_fin")

    def play_no_descriptor_behind(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1",))
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)
        hard = self.starve(daemon, spare=1)
        self.assert_refused(daemon)
        self.feed(daemon, hard)
        self.check_beside(daemon, client, backend, row)

    def play_no_port(self, row):
        """With and without a source address; each client takes the one port that there is."""
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        server = self.listen()
        daemons = [self.proxy(server, flags=(f"--source={it}",)) for it in ("", "127.0.0.2")]
        self.limit_ports(1)
        for daemon in daemons:
            client = self.connect(daemon, source="127.0.0.11")
            backend = self.accept(server)
            self.assert_refused(daemon, source="127.0.0.12")
            daemon.wait_for_line("Cannot assign requested address")
            self.check_beside(daemon, client, backend, row)

    def play_destination(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        daemon = self.start(f"--route=x listen={HOST}:0 to=original_dst allow_dst=10.0.0.0/8")
        run_commands(
            "ip address replace 192.0.2.9/32 dev lo", "nft flush ruleset", "nft add table ip x",
            "nft add chain ip x out { type nat hook output priority -100; }",
            f"nft add rule ip x out ip daddr 192.0.2.9 tcp dport 80 redirect to :{daemon.port}")
        self.assert_refused(daemon.address if row.on_its_way == TO_ITSELF else "192.0.2.9:80")
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged)

    def play_no_route(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        daemon = self.start(f"--route=no listen={HOST}:0 from=192.0.2.0/24 to=echo")
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged)

    def play_queue(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        server = self.listen()
        most = 0 if row.logged == "queue_full" else 1
        daemon = self.proxy(f"{address_of(server)}/max=1",
                            flags=(f"--max_queue={most}", "--queue_timeout=200ms"))
        client, backend = self.session(daemon, server)
        self.assert_refused(daemon)
        self.check_beside(daemon, client, backend, row)

    def play_all_down(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        daemon = self.proxy(self.refuses(), flags=CHECKS)
        daemon.wait_for_line("is down: 2 checks failed, the last: connect: Connection refused")
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged)


    # ---- What clients have to say first, to a daemon whose backend nobody may reach.

    def introduced(self, trusted, *flags):
        return self.proxy(self.refuses(), flags=(
            "--accept_proxy=any", f"--trusted={trusted}", "--health=off", *flags))

    def play_untrusted(self, row):
        self.assertEqual((row.client, row.backend), ("RST", "—"))
        daemon = self.introduced("192.0.2.0/24")
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, row.logged)

    def play_header(self, row):
        self.assertEqual(row.backend, "—")
        sent, finishes = HEADERS[row.on_its_way]
        by_operator = row.logged in ("drain", "stop")
        flags = Stage.TIMEOUTS[row.logged] if by_operator else (
            ["--handshake_timeout=300ms"] if row.logged == "proxy_timeout" else [])
        daemon = self.introduced(HOST, *flags)
        client = self.connect(daemon)
        client.sendall(sent)
        if finishes:
            client.shutdown(socket.SHUT_WR)
        self.check_unheard(daemon, client, row)

    def play_hello(self, row):
        self.assertEqual(row.backend, "—")
        sent, finishes = HELLOS[row.on_its_way]
        limit = "300ms" if row.logged == "hello_timeout" else "1m"
        daemon = self.start(f"--route=x listen={HOST}:0 sni=a.example to={self.refuses()} "
                            f"health=off handshake_timeout={limit}")
        client = self.connect(daemon)
        client.sendall(sent)
        if finishes:
            client.shutdown(socket.SHUT_WR)
        self.check_unheard(daemon, client, row)

    def check_unheard(self, daemon, client, row):
        by_operator = row.logged in ("drain", "stop")
        if by_operator:
            daemon.await_descriptors(1)
            (self.signal_twice if row.logged == "stop" else
             lambda it: it.signal(signal.SIGTERM))(daemon)
            daemon.check_end(1)
        self.assert_ends(client, {"FIN": "fin", "RST": "reset"}[row.client])
        if not by_operator:
            daemon.await_descriptors(0)
            self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, row.logged: 1})


class Peers(Rows):
    pass


class PeersOfOneWorker(Peers):
    WORKERS = 1


class Timeouts(Rows):
    pass


class Operator(Rows):
    pass


class Health(Rows):
    pass


class Connects(Rows):
    def test_the_last_backend_tried_gives_the_reason(self):
        daemon = self.proxy("unix:/nonexistent", self.refuses(), flags=("--workers=1",))
        for _ in range(2):
            self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.check_logged(daemon, "connect_refused", "connect_failed")


class InNamespace(Rows):
    """Change what the kernel does, and so run in a namespace only: when they are named."""

    def setUp(self):
        if not in_namespace():
            self.skipTest(f"run as root, with the argument {type(self).__name__}")
        super().setUp()


class SourcePorts(InNamespace):
    pass


class OriginalDestinations(InNamespace):
    pass


class ProxyProtocol(Rows):
    pass


class Tls(Rows):
    pass


class Limits(Rows):
    pass


class Echo(Rows):
    echo_server = True


class Linger(DaemonTest):
    """What ends the time after the end."""

    def ended(self, linger, *flags):
        """A session that has been ended, though its peers have not finished."""
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", f"--reset_linger={linger}", *flags))
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)
        if "--drain_timeout=0" in flags:
            daemon.signal(signal.SIGTERM)
        self.assert_ends(client, "fin")
        self.assert_ends(backend, "fin")
        return daemon, client, backend

    def test_peers_that_never_finish(self):
        daemon, _, _ = self.ended("200ms", f"--idle_timeout={1 + SLOW}s")
        daemon.await_descriptors(0)

    def test_a_peer_that_floods(self):
        daemon, client, backend = self.ended("1m", f"--idle_timeout={1 + SLOW}s")
        backend.shutdown(socket.SHUT_WR)
        with self.assertRaises(OSError):
            while True:
                client.sendall(bytes(64 * KIB))
        daemon.await_descriptors(0)

    def test_a_second_sigterm(self):
        daemon, _, _ = self.ended("1m", "--drain_timeout=0")
        daemon.signal(signal.SIGTERM)
        daemon.check_end(1)
        self.assertEqual(daemon.summary(), {"served": 1, "drain": 1})

    def test_a_second_sigterm_while_a_reset_waits_for_its_receiver(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--reset_linger=1m", "--drain_timeout=1h"))
        client, backend = self.session(daemon, server)
        fill(backend)
        reset(backend)
        self.signal_twice(daemon)
        daemon.check_end(1)
        self.assertEqual(daemon.summary(), {"served": 1, "upstream_reset": 1})
        self.assertEqual(recv_to_end(client)[1], "reset")

    def test_directions_of_a_crowd_end_each_by_itself(self):
        """Resetting a backend must not keep the other half from seeing that it had handed all on."""
        server = self.listen(receive_buffer=8 * KIB)
        daemon = self.proxy(server, flags=("--workers=4", "--drain_timeout=1h"))
        pairs = [self.session(daemon, server) for _ in range(80)]
        in_parallel(*((fill, client) for client, _ in pairs))
        self.signal_twice(daemon)
        daemon.check_end(1)
        ends = collections.Counter((recv_to_end(client)[1], recv_to_end(backend)[1])
                                   for client, backend in pairs)
        self.assertEqual(ends, {("fin", "reset"): len(pairs)})


for section in SECTIONS:
    globals()["".join(word.capitalize() for word in section.split())].take(SECTIONS[section])


if __name__ == "__main__":
    if {"SourcePorts", "OriginalDestinations"} & set(sys.argv):
        enter_namespace("ip", "nft")
    main()
