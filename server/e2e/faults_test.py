#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What breaks around a proxy, and what clients notice of it.

Each test makes one fault with the system's own tools, in a network namespace of its own, and says how
long it took until everybody was served at once again.
"""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, PATIENCE, SANITIZED, SLOW, DaemonTest, EarlyEnd, Parallel, Pattern, address_of,
    break_connections, enter_namespace, free_port, in_parallel, main, recv_exactly, reset,
    sockaddr_of, wait_until, within)

UNIT = Path(__file__).absolute().parent.parent.parent / "deploy/parkway.service"

CHECKS = (f"health=tcp health_interval=200ms health_timeout={300 * SLOW}ms "
          r"health_send=PING\r\n health_expect=+PONG")


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def counter(name):
    """One of the kernel's, for this namespace."""
    names, values = (line.split() for line in Path("/proc/net/netstat").read_text().splitlines()
                     if line.startswith("TcpExt:"))
    return int(values[names.index(name)])


class FaultTest(DaemonTest):
    def setUp(self):
        super().setUp()
        run("nft", "add table inet faults")
        self.addCleanup(run, "nft", "delete table inet faults")
        run("nft", "add chain inet faults input { type filter hook input priority 0; }")

    # ---- Redis behind the daemon.

    def redis(self, port=None):
        """(process, address)"""
        port = port or free_port()
        program = self.run_program("redis-server", "--port", str(port), "--bind", HOST, "--save", "",
                                   "--tcp-backlog", "4096", "--maxclients", "4000")
        self.await_listening(f"{HOST}:{port}", program)
        return program, f"{HOST}:{port}"

    def route(self, *backends, options="", flags=()):
        return self.start(f"--route=x listen={HOST}:0 to={','.join(backends)} {options}",
                          "--workers=2", *flags)

    def set_big(self, backend):
        """GET big answers with 60 kB."""
        with socket.create_connection((HOST, port_of(backend)), timeout=PATIENCE) as direct:
            direct.sendall(b"SET big %s\r\n" % (b"x" * 60_000))
            self.assertEqual(recv_exactly(direct, 5), b"+OK\r\n")

    def ping(self, client):
        client.sendall(b"PING\r\n")
        self.assertEqual(recv_exactly(client, 7), b"+PONG\r\n")

    def session(self, daemon):
        client = self.connect(daemon)
        self.ping(client)
        return client

    def session_with(self, daemon, backend):
        """One that is served by that backend."""
        for _ in range(10):
            client = self.session(daemon)
            client.sendall(b"CONFIG GET port\r\n")
            port = str(port_of(backend)).encode()
            if recv_exactly(client, 20 + len(port)).split()[-1] == port:
                return client
            client.close()
        raise AssertionError(f"no session with {backend}")

    def ask(self, daemon):
        """Connects and is served; the seconds that took."""
        begun = time.monotonic()
        _, where = sockaddr_of(daemon.address)
        with socket.create_connection(where, timeout=PATIENCE) as client:
            self.ping(client)
        return time.monotonic() - begun

    def worst(self, client, count=300):
        def once():
            begun = time.monotonic()
            self.ping(client)
            return time.monotonic() - begun

        return max(once() for _ in range(count))

    # ---- Faults of the network.

    def filter(self, rule):
        run("nft", f"add rule inet faults input tcp {rule}")

    @staticmethod
    def repair():
        run("nft", "flush chain inet faults input")

    # ---- Recovery.

    def recovered(self, daemon, since, at_once=0.2):
        """Until 20 clients in a row are served at once; prints since when."""
        good, first = 0, time.monotonic()
        while good < 20:
            begun = time.monotonic()
            self.assertLess(begun - since, PATIENCE, "it does not recover")
            try:
                took = self.ask(daemon)
            except OSError:
                took = PATIENCE
            if took > at_once * SLOW:
                good, first = 0, time.monotonic()
            else:
                good += 1
        self.say(f"recovered after {1000 * (first - since):.0f} ms")

    def say(self, text):
        print(f"    {text}", file=sys.stderr)

    def check_memory(self, grown, most):
        if not SANITIZED:  # whose own memory grows
            self.assertLess(grown, most)

    def check_nothing_is_left(self, daemon):
        self.assertTrue(daemon.running())
        daemon.await_descriptors(0)
        self.stop(daemon)


class Cable:
    """Another namespace, "there", and a cable to it."""

    HERE, THERE, NOBODY = "10.77.0.1", "10.77.0.2", "10.77.0.9"

    def lay_cable(self):
        self.there = self.new_namespace()
        run(*f"ip link add here type veth peer name there netns {self.there.pid}".split())
        self.addCleanup(subprocess.run, ["ip", "link", "del", "here"], check=False,
                        stderr=subprocess.DEVNULL)  # it may have gone with the namespace
        for where, name, address in (("", "here", self.HERE), (self.nsenter(), "there", self.THERE)):
            run(*f"{where} ip address add {address}/24 dev {name}".split())
            run(*f"{where} ip link set {name} up".split())

    def nsenter(self):
        return f"nsenter --net=/proc/{self.there.pid}/ns/net"

    def over_there(self, function, *arguments):
        return within(self.there, function, *arguments)


class Backends(FaultTest):
    def test_killed(self):
        (one, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, second)
        lost, kept = self.session_with(daemon, first), self.session_with(daemon, second)
        since = time.monotonic()
        one.kill()
        one.wait()
        for _ in range(30):
            self.ask(daemon)  # nobody is refused
        self.recovered(daemon, since)
        self.ping(kept)
        self.assertNotEqual(lost.recv(1), b"+")
        kept.close()
        lost.close()
        daemon.wait_for_line(f"{first} is down")
        self.redis(port_of(first))
        daemon.wait_for_line(f"{first} is up")
        self.check_nothing_is_left(daemon)

    def test_frozen(self):
        (one, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, second, options=CHECKS)
        other = self.session_with(daemon, second)
        calm = self.worst(other)
        one.send_signal(signal.SIGSTOP)
        since = time.monotonic()
        meanwhile = self.worst(other)
        self.say(f"worst answer of the other: {1e6 * calm:.0f} us before, {1e6 * meanwhile:.0f} us "
                 "meanwhile")
        daemon.wait_for_line(f"{first} is down")
        self.recovered(daemon, since)
        one.send_signal(signal.SIGCONT)
        daemon.wait_for_line(f"{first} is up")
        other.close()
        self.check_nothing_is_left(daemon)

    def test_a_black_hole_for_connects(self):
        (_, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, second, options="connect_timeout=300ms health_interval=200ms "
                            "health_timeout=200ms")
        self.filter(f"dport {port_of(first)} drop")
        since = time.monotonic()
        for _ in range(8):
            self.assertLess(self.ask(daemon), 0.3 + SLOW)  # the next backend, when it is over
        daemon.wait_for_line(f"{first} is down: 3 connects failed, the last: timed out")
        self.recovered(daemon, since)
        self.repair()
        daemon.wait_for_line(f"{first} is up")
        self.check_nothing_is_left(daemon)

    def test_a_black_hole_in_mid_stream(self):
        (_, first) = self.redis()
        daemon = self.route(first, options=f"idle_timeout={SLOW}s reset_linger=200ms")
        clients = [self.session(daemon) for _ in range(20)]
        self.filter(f"dport {port_of(first)} drop")
        self.filter(f"sport {port_of(first)} drop")
        since = time.monotonic()
        for client in clients:
            client.sendall(b"PING\r\n")
        for client in clients:
            self.assertEqual(client.recv(10), b"")
            client.close()
        daemon.await_descriptors(0)
        self.repair()
        self.recovered(daemon, since)
        self.check_nothing_is_left(daemon)

    def test_rejected_with_a_reset(self):
        (_, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, second)
        self.filter(f"dport {port_of(first)} reject with tcp reset")
        since = time.monotonic()
        for _ in range(10):
            self.assertLess(self.ask(daemon), SLOW)
        self.recovered(daemon, since)
        self.check_nothing_is_left(daemon)

    def test_all_connections_broken_at_once(self):
        (_, first) = self.redis()
        daemon = self.route(first)
        clients = [self.session(daemon) for _ in range(200)]
        rows = subprocess.run(["ss", "-tnH", "state", "established", f"dport = :{port_of(first)}"],
                              capture_output=True, text=True, check=True).stdout.splitlines()
        ports = [port_of(row.split()[2]) for row in rows]
        self.assertEqual(len(ports), len(clients))
        since = time.monotonic()
        break_connections((port, port_of(first)) for port in ports)
        for client in clients:
            self.assert_ends(client, "reset")
            client.close()
        self.recovered(daemon, since)
        self.check_nothing_is_left(daemon)

    def test_flapping(self):
        (one, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, second, options="connect_timeout=200ms " + CHECKS)
        over = threading.Event()

        def flap():
            rejecting = False
            while not over.wait(0.5):
                rejecting = not rejecting
                if rejecting:  # what is connected goes on
                    self.filter(f"dport {port_of(first)} tcp flags & (syn | ack) == syn "
                                "reject with tcp reset")
                else:
                    self.repair()
            self.repair()

        flapping = threading.Thread(target=flap)
        flapping.start()
        until = time.monotonic() + 4
        served = 0
        while time.monotonic() < until:
            self.ask(daemon)
            served += 1
        over.set()
        flapping.join()
        changes = sum(" is down" in line or " is up" in line for line in daemon.stderr())
        self.say(f"{served} clients served, {changes} changes in 4 s")
        self.assertLess(changes, 12)
        self.recovered(daemon, time.monotonic())
        self.check_nothing_is_left(daemon)


class Clients(FaultTest):
    def test_a_lost_fin(self):
        (_, first) = self.redis()
        daemon = self.route(first, options=f"idle_timeout={SLOW}s reset_linger=200ms")
        clients = [self.session(daemon) for _ in range(10)]
        self.filter(f"dport {daemon.port} tcp flags & (fin | rst) == fin drop")
        since = time.monotonic()
        for client in clients:
            client.close()
        daemon.await_descriptors(0)
        self.say(f"descriptors were free after {1000 * (time.monotonic() - since):.0f} ms")
        self.repair()
        self.check_nothing_is_left(daemon)

    def test_one_that_never_reads(self):
        (_, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, flags=(f"--route=deaf listen=unix:@{self.id()} to={second}",))
        self.set_big(second)
        self.ask(daemon)
        before = daemon.rss()
        deaf = [self.connect(f"unix:@{self.id()}") for _ in range(20)]
        for client in deaf:
            client.sendall(b"GET big\r\n" * 50)
        for _ in range(50):
            self.ask(daemon)
        grown = daemon.rss() - before
        self.say(f"20 clients that do not read 3 MB each cost {grown / KIB:.0f} KiB")
        self.check_memory(grown, 20 * 256 * KIB)
        for client in deaf:
            client.close()
        self.check_nothing_is_left(daemon)

    def test_bytes_one_by_one(self):
        (_, first) = self.redis()
        daemon = self.route(first)
        client = self.session(daemon)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = daemon.rss()
        for _ in range(300):
            for byte in b"PING\r\n":
                client.sendall(bytes([byte]))
            self.assertEqual(recv_exactly(client, 7), b"+PONG\r\n")
        self.check_memory(daemon.rss() - before, 256 * KIB)
        client.close()
        self.check_nothing_is_left(daemon)

    def test_a_storm_that_comes_back(self):
        """All sessions are broken at once, and all clients come again at once, some of them twice."""
        (_, first) = self.redis()
        daemon = self.route(first)
        calm = self.session(daemon)
        each = 500 // SLOW

        def storm():
            clients = [socket.create_connection((HOST, daemon.port), timeout=PATIENCE)
                       for _ in range(each)]
            for client in clients:
                self.ping(client)
            for client in clients:
                client.close()

        since = time.monotonic()
        worst = []
        in_parallel(storm, storm, storm, lambda: worst.append(self.worst(calm, 200)))
        self.say(f"{3 * each} clients at once: worst answer of a session meanwhile "
                 f"{1000 * worst[0]:.0f} ms")
        self.recovered(daemon, since)
        calm.close()
        self.check_nothing_is_left(daemon)


    def test_more_than_the_queue_holds(self):
        """Clients of a daemon that does not accept; whom the kernel has no place for comes again."""
        (_, first) = self.redis()
        daemon = self.route(first, options="backlog=8")
        overflows = counter("ListenDrops")
        daemon.signal(signal.SIGSTOP)
        clients = [self.keep(socket.socket()) for _ in range(50)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((HOST, daemon.port))
        wait_until(lambda: counter("ListenDrops") > overflows + 10, "the queue overflows")
        daemon.signal(signal.SIGCONT)
        since = time.monotonic()
        for client in clients:
            client.settimeout(PATIENCE)
            self.ping(client)  # as soon as it is connected
            client.close()
        self.say(f"all {len(clients)} were served after {1000 * (time.monotonic() - since):.0f} ms")
        self.recovered(daemon, since)
        self.check_nothing_is_left(daemon)


class Network(FaultTest, Cable):
    # ---- A slow link, from here to there.

    STREAMS, EACH, MBIT = 8, MIB, 20

    def slow_down(self):
        run(*f"tc qdisc add dev here root tbf rate {self.MBIT}mbit burst 32k latency 50ms".split())
        # The kernel brings all there is, and takes little: the daemon could hoard the rest.
        for name, sizes in (("tcp_wmem", "4096 16384 65536"), ("tcp_rmem", "4096 2097152 2097152")):
            path = Path("/proc/sys/net/ipv4", name)
            self.addCleanup(path.write_text, path.read_text())
            path.write_text(sizes)

    def slow_route(self, listen, server, *flags):
        """Beside the route to Redis, which is served as ever."""
        (_, first) = self.redis()
        return self.route(first, flags=(
            f"--route=slow listen={listen}:0 to={address_of(server)}", *flags))

    def check_slow(self, daemon, pairs):
        """Streams between pairs of (sender, receiver) arrive; what that costs the daemon and others."""
        calm = self.session(daemon)
        self.worst(calm)
        before, most, answers = daemon.rss(), 0, []
        begun = time.monotonic()
        streams, done = Parallel(), []
        for number, (sender, receiver) in enumerate(pairs):
            pattern = Pattern(number, self.EACH)
            streams.add(pattern.send, sender)
            streams.add(lambda p=pattern, r=receiver: done.append(p.receive(r)))
        while len(done) < len(pairs) and time.monotonic() < begun + PATIENCE:
            answers.append(self.worst(calm, 1))
            most = max(most, daemon.rss())
        streams.join()
        took = time.monotonic() - begun
        self.say(f"{len(pairs)} streams in {took:.1f} s cost {(most - before) / KIB:.0f} KiB; of "
                 f"{len(answers)} answers to another the worst took {1e6 * max(answers):.0f} us")
        self.assertGreater(took, 0.7 * len(pairs) * self.EACH * 8 / (self.MBIT * 1e6), "not slow")
        self.check_memory(most - before, len(pairs) * 256 * KIB)
        self.assertLess(max(answers), 0.3 * SLOW)
        for connection in (calm, *sum(pairs, ())):
            connection.close()
        self.check_nothing_is_left(daemon)

    def test_a_slow_link_to_clients(self):
        self.lay_cable()
        server = self.listen()
        daemon = self.slow_route(self.HERE, server)
        self.slow_down()
        pairs = []
        for _ in range(self.STREAMS):
            client = self.over_there(self.connect, daemon.listening[1])
            pairs.append((self.accept(server), client))
        self.check_slow(daemon, pairs)

    def test_a_slow_link_to_a_backend(self):
        self.lay_cable()
        server = self.over_there(self.listen, self.THERE)
        daemon = self.slow_route(HOST, server, "--splice_memory=0")
        self.slow_down()
        pairs = []
        for _ in range(self.STREAMS):
            client = self.connect(daemon.listening[1])
            pairs.append((client, self.accept(server)))
        self.check_slow(daemon, pairs)

    # ---- A flood.

    def test_a_flood_of_syn(self):
        """From an address that never answers: half-open connections fill the kernel's queue."""
        self.lay_cable()
        (_, first) = self.redis()
        daemon = self.start(f"--route=x listen={self.HERE}:0 to={first} backlog=16", "--workers=2")
        flood = self.run_program(*self.nsenter().split(), "hping3", "--quiet", "--syn", "--interval",
                                 "u200", "--destport", str(daemon.port), "--spoof", self.NOBODY,
                                 self.HERE)
        wait_until(lambda: counter("TCPReqQFullDoCookies") > 0, "the queue is full")
        before, times = counter("TCPReqQFullDoCookies"), []
        until = time.monotonic() + 3
        while time.monotonic() < until:
            times.append(self.over_there(self.ask, daemon))
        flood.terminate()
        flood.wait()
        since = time.monotonic()
        self.say(f"{len(times)} clients served, the last after {1000 * max(times):.0f} ms, beside "
                 f"{counter('TCPReqQFullDoCookies') - before} SYNs that found the queue full")
        self.assertLess(max(times), SLOW)
        self.assertGreater(counter("TCPReqQFullDoCookies"), before + 100)
        self.recovered(daemon, since)
        self.check_nothing_is_left(daemon)


class Machine(FaultTest):
    def test_few_descriptors(self):
        """100 clients, and room for a fraction of them."""
        (_, first) = self.redis()
        daemon = self.route(first)
        _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (100, hard))
        clients, served = [], 0
        for _ in range(100):
            try:
                client = self.keep(socket.create_connection((HOST, daemon.port), timeout=0.05 * SLOW))
                clients.append(client)
                client.sendall(b"PING\r\n")
                served += recv_exactly(client, 7) == b"+PONG\r\n"
            except (OSError, AssertionError):
                pass
        time.sleep(0.5)  # what was accepted has settled
        before = daemon.cpu_seconds()
        time.sleep(2)
        spent = (daemon.cpu_seconds() - before) / 2
        self.say(f"{served} of 100 served, {100 * spent:.1f} % of a CPU while starved")
        self.assertGreater(served, 20)
        self.assertLessEqual(spent, 0.02 * SLOW)  # as it is built for tests
        self.assertNotIn("is down", "\n".join(daemon.stderr()))
        since = time.monotonic()
        for client in clients:
            client.close()
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
        self.recovered(daemon, since)
        self.assertLess(time.monotonic() - since, 1 + SLOW)
        self.check_nothing_is_left(daemon)

    def test_killed_and_started_again(self):
        """As deploy/parkway.service says, and so soon."""
        pause = re.search(r"^RestartSec=(\d+)ms$", UNIT.read_text(), re.MULTILINE)
        (_, first) = self.redis()
        flags = (f"--route=x listen={HOST}:{free_port()} to={first}", "--workers=2")
        daemons = [self.start(*flags)]

        def supervise():
            self.assertEqual(daemons[-1].wait(), -signal.SIGKILL)
            time.sleep(int(pause[1]) / 1000)  # as the supervisor does
            daemons.append(self.start(*flags))

        for _ in range(3):
            held = [self.session(daemons[-1]) for _ in range(20)]
            supervisor = Parallel()
            supervisor.add(supervise)
            daemons[-1].signal(signal.SIGKILL)
            since = time.monotonic()
            wait_until(lambda: self.is_served(daemons[0]), "a client is served")
            took = time.monotonic() - since
            self.say(f"served again after {1000 * took:.0f} ms")
            self.assertLess(took, SLOW)
            supervisor.join()
            for client in held:
                self.check_cut(client)
        self.check_nothing_is_left(daemons[-1])

    def is_served(self, daemon):
        with contextlib.suppress(OSError, EarlyEnd):
            return self.ask(daemon)

    def check_cut(self, client):
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(client.recv(1), b"")
        client.close()

    def test_no_port_left(self):
        (_, first), (_, second) = self.redis(), self.redis()
        path = "unix:" + os.path.join(self.folder(), "socket")
        redis = self.run_program("redis-server", "--port", "0", "--unixsocket", path[5:], "--save", "")
        self.await_listening(path, redis)
        daemon = self.start(f"--route=x listen=unix:@ports to={first},{path} balance=first")
        self.limit_ports(10)
        clients = []
        for _ in range(30):
            clients.append(self.connect("unix:@ports"))
            self.ping(clients[-1])  # over the other backend, when ports are gone
        daemon.wait_for_line("Cannot assign requested address")
        self.assertNotIn("is down", "\n".join(daemon.stderr()))
        for client in clients:
            client.close()
        self.check_nothing_is_left(daemon)

    def test_a_circle(self):
        """Two daemons that relay to each other hold what max_conns allows, and no more."""
        there, back = (f"{HOST}:{free_port()}" for _ in range(2))
        limits = ("--max_conns=200", f"--idle_timeout={SLOW}s", "--reset_linger=0", "--workers=1",
                  "--drain_timeout=0")
        one = self.start(f"--route=x listen={there} to={back}", f"--route=e listen={HOST}:0 to=echo",
                         *limits)
        other = self.start(f"--route=x listen={back} to={there}", *limits)
        client = self.connect(there)
        client.sendall(b"round and round")
        wait_until(lambda: one.descriptors() > one.baseline + 300, "the circle is full")
        before = one.cpu_seconds()
        time.sleep(2)
        self.say(f"a full circle takes {50 * (one.cpu_seconds() - before):.0f} % of a CPU")
        reset(client)
        for daemon in (one, other):  # which may have nothing open just then
            daemon.signal(signal.SIGTERM)
            self.assertIn(daemon.wait(), (0, 1))


if __name__ == "__main__":
    enter_namespace("hping3", "ip", "nft", "nsenter", "ss", "tc")
    main()
