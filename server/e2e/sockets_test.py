#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Options of sockets: what backends see of them, and what the daemon's own sockets have.

In a network namespace of its own, whose ports and settings it changes.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, DaemonTest, address_of, enter_namespace, main, recv_exactly, run_parkway)

SYS_PIDFD_GETFD = 438
SO_MARK, SO_PROTOCOL = 36, 38
TCP_USER_TIMEOUT = 18
IPPROTO_MPTCP = 262
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13


def sysctl(name):
    return Path("/proc/sys") / name.replace(".", "/")


def of_daemon(daemon, peer):
    """The daemon's end of that connection, as a socket of ours."""
    process = os.pidfd_open(daemon.pid)
    try:
        for fd, target in daemon.open_files_now():
            if not target.startswith("socket:"):
                continue
            found = socket.socket(fileno=ctypes.CDLL(None).syscall(SYS_PIDFD_GETFD, process, fd, 0))
            with contextlib.suppress(OSError):  # a listener has no peer
                if (found.getsockname(), found.getpeername()) == (peer.getpeername(),
                                                                  peer.getsockname()):
                    return found
            found.close()
    finally:
        os.close(process)
    raise AssertionError(f"the daemon has no connection with {peer}")


class Sources(DaemonTest):
    def route(self, *backends, options):
        return self.start(f"--route=x listen={HOST}:0 to={','.join(map(address_of, backends))} "
                          f"{options}", "--workers=2")

    def served_from(self, daemon, server):
        """(client, backend, the address that the backend sees)"""
        client = self.connect(daemon)
        backend = self.accept(server)
        self.assert_relays(client, backend)
        return client, backend, backend.getpeername()[0]

    def end(self, client, backend):
        client.close()
        self.assert_ends(backend, "fin")
        backend.close()

    def test_the_backend_sees_each_in_turn(self):
        server = self.listen()
        daemon = self.route(server, options="source=127.0.0.2,127.0.0.3,127.0.0.4")
        seen = []
        for _ in range(6):
            client, backend, source = self.served_from(daemon, server)
            seen.append(source)
            self.end(client, backend)
        self.assertEqual(sorted(seen[:3]), ["127.0.0.2", "127.0.0.3", "127.0.0.4"])
        self.assertEqual(seen[3:], seen[:3])

    def test_checks_come_from_them_too(self):
        server = self.listen()
        self.route(server, options="source=127.0.0.2,127.0.0.3 health=tcp health_interval=50ms")
        seen = set()
        while len(seen) < 2:
            check, (source, _) = server.accept()
            seen.add(source)
            check.close()
        self.assertEqual(seen, {"127.0.0.2", "127.0.0.3"})

    def test_an_ipv6_backend(self):
        server = self.listen("::1")
        daemon = self.route(server, options="source=::1")
        client, backend, source = self.served_from(daemon, server)
        self.assertEqual(source, "::1")
        self.end(client, backend)

    def test_all_ports_of_all_of_them_are_used(self):
        """Each has as many for each backend as there are."""
        servers = [self.listen(), self.listen()]
        daemon = self.start(f"--route=x listen=unix:@{self.id()} source=127.0.0.2,127.0.0.3 "
                            f"to={','.join(map(address_of, servers))}")
        self.limit_ports(10)
        clients = [self.connect(daemon) for _ in range(2 * 2 * 10)]
        backends = [self.accept(server) for server in servers for _ in range(20)]
        for client in clients:
            client.sendall(b"x")
        for backend in backends:
            self.assertEqual(recv_exactly(backend, 1), b"x")
        for _ in range(3):
            self.assert_ends(self.connect(daemon), "fin")  # a Unix socket has no reset
        daemon.wait_for_line("Cannot assign requested address")
        self.assertFalse(any(" is down" in line for line in daemon.stderr()))
        for connection in backends + clients:
            connection.close()  # backends first, or the daemon's ports would rest in TIME_WAIT
        daemon.await_descriptors(0)
        again = [self.connect(daemon) for _ in servers]
        for backend in [self.accept(server) for server in servers]:
            backend.close()
        for client in again:
            self.assert_ends(client, "fin")
            client.close()
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 45, "upstream_fin": 42, "no_source_port": 3})


class Options(DaemonTest):
    ALL = ("keepalive_idle=70s backend_keepalive_idle=80s user_timeout=5s congestion=reno mark=77 "
           "rcvbuf=100000B sndbuf=90000B")

    def session_of(self, options, server):
        daemon = self.start(f"--route=x listen={HOST}:0 to={address_of(server)} {options}")
        return daemon, *self.session(daemon, server)

    def test_sockets_of_both_sides_have_them(self):
        server = self.listen()
        daemon, client, backend = self.session_of(self.ALL, server)
        for peer, idle in ((client, 70), (backend, 80)):
            mine = of_daemon(daemon, peer)
            with self.subTest(idle=idle), mine:
                self.assertEqual(mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)
                self.assertEqual(mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), idle)
                self.assertEqual(mine.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT), 5000)
                name = mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                self.assertEqual(name.rstrip(b"\0"), b"reno")
                self.assertEqual(mine.getsockopt(socket.SOL_SOCKET, SO_MARK), 77)
                self.assertEqual(mine.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 200_000)
                self.assertEqual(mine.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 180_000)
        self.assert_relays(client, backend)

    def test_backends_have_no_keepalive_by_default(self):
        server = self.listen()
        daemon, client, backend = self.session_of("", server)
        for peer, keepalive in ((client, 1), (backend, 0)):
            with of_daemon(daemon, peer) as mine:
                self.assertEqual(mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), keepalive)

    def test_defer_accept(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--defer_accept=60s",))
        client = self.connect(daemon)
        server.settimeout(0.3)
        with self.assertRaises(TimeoutError):
            server.accept()
        server.settimeout(None)
        client.sendall(b"here I am")
        backend = self.accept(server)
        self.assertEqual(recv_exactly(backend, 9), b"here I am")
        self.assert_relays(client, backend)

    def test_fast_open(self):
        setting = sysctl("net.ipv4.tcp_fastopen")
        self.addCleanup(setting.write_text, setting.read_text())
        setting.write_text("3")
        daemon = self.echo("--fastopen=100")
        for _ in range(2):  # the first is given the cookie
            client = self.keep(socket.socket())
            client.settimeout(None)  # else it does not wait for the connection
            client.sendto(b"early", socket.MSG_FASTOPEN, (HOST, daemon.port))
            self.assertEqual(recv_exactly(client, 5), b"early")
            client.close()
        names, values = re.findall(r"^TcpExt: (.*)", Path("/proc/net/netstat").read_text(), re.M)
        counts = dict(zip(names.split(), values.split()))
        self.assertEqual(counts["TCPFastOpenPassive"], "1")

    def test_multipath(self):
        if not sysctl("net.mptcp.enabled").exists():
            self.skipTest("the kernel has no MPTCP")
        server = self.listen()
        daemon = self.proxy(server, flags=("--mptcp",))
        for protocol in (0, IPPROTO_MPTCP):
            client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol))
            client.connect((HOST, daemon.port))
            backend = self.accept(server)
            self.assert_relays(client, backend)
            with of_daemon(daemon, client) as mine:
                self.assertEqual(mine.getsockopt(socket.SOL_SOCKET, SO_PROTOCOL),
                                 protocol or socket.IPPROTO_TCP)
            data = os.urandom(2000 * KIB)
            backend.sendall(data)  # enough to be spliced where that can be
            self.assertEqual(recv_exactly(client, len(data)), data)
            client.shutdown(socket.SHUT_WR)
            self.assert_ends(backend, "fin")
            backend.sendall(b"half-closed")
            backend.close()
            self.assert_ends(client, "fin", b"half-closed")
            client.close()
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 2, "client_fin": 2})


class Refused(DaemonTest):
    """What the machine does not grant is said at start, once."""

    def refused(self, *flags, **options):
        done = run_parkway(*flags, **options)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertRegex(done.stderr, r"\Aparkway: [^\n]+\n\Z")
        return done.stderr[len("parkway: "):-1]

    def proxy_refused(self, *flags, **options):
        return self.refused(f"--listen={HOST}:0", f"--backend={HOST}:1", *flags, **options)

    def test_a_source_of_another_machine(self):
        self.assertEqual(self.proxy_refused("--source=127.0.0.2,192.0.2.1"),
                         "--source=192.0.2.1: not an address of this machine")
        self.assertEqual(
            self.refused(f"--route=x listen={HOST}:0 to={HOST}:1 source=192.0.2.1"),
            "route x: source=192.0.2.1: not an address of this machine")

    def test_congestion_control_that_the_kernel_has_not(self):
        self.assertEqual(self.proxy_refused("--congestion=none_such"),
                         "--congestion=none_such: the kernel has no such algorithm; "
                         "net.ipv4.tcp_available_congestion_control has them")
        self.assertRegex(
            self.refused(f"--route=x listen={HOST}:0 to=echo congestion=none_such"),
            rf"^route x: {HOST}:0: congestion=none_such: the kernel has no such algorithm;")

    def test_a_mark_without_the_right_to_set_one(self):
        self.assertEqual(self.proxy_refused("--mark=7",
                                            without_capabilities=(CAP_NET_ADMIN, CAP_NET_RAW)),
                         "--mark=7: needs CAP_NET_ADMIN")

    def test_a_buffer_larger_than_the_kernel_grants(self):
        self.assertEqual(self.proxy_refused("--rcvbuf=256MiB"),
                         "--rcvbuf=268435456B: more than net.core.rmem_max")

    def test_multipath_that_is_turned_off(self):
        enabled = sysctl("net.mptcp.enabled")
        if enabled.exists():
            self.addCleanup(enabled.write_text, enabled.read_text())
            enabled.write_text("0")
        self.assertEqual(self.proxy_refused("--mptcp"),
                         f"--listen={HOST}:0: mptcp=true: the kernel has none, or "
                         "net.mptcp.enabled is 0")

    def test_a_reload(self):
        server = self.listen()
        routes = os.path.join(self.folder(), "routes")
        route = f"x listen={HOST}:0 to={address_of(server)}"
        Path(routes).write_text(route)
        daemon = self.start(f"--routes_file={routes}")
        Path(routes).write_text(route + " source=192.0.2.1")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("^parkway: reload failed, nothing has changed: route x: "
                             "source=192.0.2.1: not an address of this machine$")
        Path(routes).write_text(route + " source=127.0.0.2 mark=7 mptcp=true")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("^parkway: reloaded: 1 route, 1 changed$")
        for name in ("mark", "mptcp"):
            daemon.wait_for_line(f"^parkway: {name} of {HOST}:0 takes effect at the next start$")
        _, backend = self.session(daemon, server)
        self.assertEqual(backend.getpeername()[0], "127.0.0.2")


if __name__ == "__main__":
    enter_namespace("ip", "nft")
    main()
