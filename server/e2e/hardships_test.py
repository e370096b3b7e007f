#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a machine or a network without enough of something does to a proxy, and what clients notice.

As in faults_test.py, each test makes one fault with the system's own tools, in a network namespace of its
own, and says how long it took until everybody was served at once again.
"""

import contextlib
import heapq
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

import faults_test  # noqa: E402
from harness import (  # noqa: E402
    HOST, KIB, MIB, PATIENCE, SLOW, Parallel, Pattern, address_of, enter_namespace, fill,
    in_parallel, main, recv_exactly, wait_until)


class HardshipTest(faults_test.FaultTest):
    def set_kernel(self, name, value):
        """A setting of this namespace, until the test ends."""
        path = Path("/proc/sys/net/ipv4", name)
        self.addCleanup(path.write_text, path.read_text())
        path.write_text(value)

    def stream(self, pairs, size):
        """Between pairs of (sender, receiver), to the last byte; the seconds that takes."""
        begun = time.monotonic()
        streams = Parallel()
        for number, (sender, receiver) in enumerate(pairs):
            pattern = Pattern(number, size)
            streams.add(pattern.send, sender)
            streams.add(pattern.receive, receiver)
        streams.join()
        return time.monotonic() - begun

    def both_ways(self, daemon, server, count):
        """`count` sessions as pairs of (sender, receiver), for each direction."""
        sessions = [self.session_of(daemon, server) for _ in range(count)]
        return sessions + [(backend, client) for client, backend in sessions]

    def session_of(self, daemon, server):
        return self.connect(daemon), self.accept(server)

    def check_streams_are_over(self, daemon, pairs):
        for connection in sum(pairs, ()):
            connection.close()
        self.check_nothing_is_left(daemon)


# ---- Packets.


class UnkindQueue:
    """Loses, doubles and holds back TCP packets that leave this namespace: what netem would do, by
    netfilter's queue to programs, in so many percent of cases."""

    PACKET, VERDICT, CONFIG = (3 << 8 | message for message in (0, 1, 2))  # NFNL_SUBSYS_QUEUE
    HEADER, VERDICT_HEADER, PAYLOAD = 1, 2, 10  # attributes
    DROP, ACCEPT = 0, 1
    MARK = 7  # of what was doubled, which is not asked for again
    RULE = f"OUTPUT -p tcp -m mark ! --mark {MARK} -j NFQUEUE --queue-num 0".split()

    def __init__(self, lost, doubled, held, held_most_ms):
        self.lost, self.doubled, self.held, self.held_most_ms = lost, doubled, held, held_most_ms
        self.counts = {"packets": 0, "lost": 0, "doubled": 0, "held": 0}
        self._dice = random.Random(1)
        self._waiting = []  # (when, packet), soonest first
        self._over = False
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
        self._netlink.setsockopt(socket.SOL_SOCKET, 33, 64 * MIB)  # SO_RCVBUFFORCE
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, 36, self.MARK)  # SO_MARK
        self._tell(self.CONFIG, 1, struct.pack("!BxH", 1, socket.AF_INET))  # bind
        self._tell(self.CONFIG, 2, struct.pack("!IB", 0xffff, 2))  # whole packets
        self._tell(self.CONFIG, 3, struct.pack("!I", 10_000))  # as many may wait
        subprocess.run(["iptables", "-A", *self.RULE], check=True)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self):
        subprocess.run(["iptables", "-D", *self.RULE], check=True)
        self._over = True
        self._thread.join()
        self._netlink.close()
        self._raw.close()

    def _tell(self, message, attribute, value):
        body = struct.pack("!BBH", 0, 0, 0)
        body += struct.pack("=HH", 4 + len(value), attribute) + value + bytes(-len(value) % 4)
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), message, 1, 0, 0) + body)

    def _decide(self, packet, verdict):
        self._tell(self.VERDICT, self.VERDICT_HEADER, struct.pack("!II", verdict, packet))

    def _serve(self):
        self._netlink.settimeout(0.001)
        while not self._over or self._waiting:
            with contextlib.suppress(TimeoutError):
                self._take(self._netlink.recv(1 << 17))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._decide(heapq.heappop(self._waiting)[1], self.ACCEPT)

    def _take(self, data):
        while len(data) >= 16:
            size, message = struct.unpack_from("=IH", data)
            if message == self.PACKET:
                attributes = self._attributes(data[20:size])
                self._treat(struct.unpack_from("!I", attributes[self.HEADER])[0],
                            attributes[self.PAYLOAD])
            data = data[(size + 3) & ~3:]

    @staticmethod
    def _attributes(data):
        found = {}
        while len(data) >= 4:
            size, kind = struct.unpack_from("=HH", data)
            found[kind] = data[4:size]
            data = data[(size + 3) & ~3:]
        return found

    def _treat(self, packet, payload):
        self.counts["packets"] += 1
        if self._happens(self.lost, "lost"):
            self._decide(packet, self.DROP)
            return
        if self._happens(self.doubled, "doubled"):
            self._raw.sendto(payload, (socket.inet_ntoa(payload[16:20]), 0))
        if self._happens(self.held, "held"):
            until = time.monotonic() + self._dice.random() * self.held_most_ms / 1000
            heapq.heappush(self._waiting, (until, packet))
        else:
            self._decide(packet, self.ACCEPT)

    def _happens(self, percent, what):
        happens = self._dice.random() * 100 < percent
        self.counts[what] += happens
        return happens


class Packets(HardshipTest, faults_test.Cable):
    def test_lost_doubled_late_and_out_of_order(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2",))
        for mtu in ("1500", "65536"):  # for many packets
            self.addCleanup(faults_test.run, "ip", "link", "set", "lo", "mtu", mtu)
        faults_test.run("ip", "link", "set", "lo", "mtu", "1500")
        pairs = self.both_ways(daemon, server, 3)
        queue = UnkindQueue(lost=2, doubled=3, held=20, held_most_ms=10)
        took = self.stream(pairs, MIB)
        queue.end()
        self.say(f"{len(pairs)} streams of a MiB in {took:.1f} s, of "
                 + ", ".join(f"{count} {what}" for what, count in queue.counts.items()))
        for what in ("lost", "doubled", "held"):
            self.assertGreater(queue.counts[what], 20, what)
        since = time.monotonic()
        self.stream(self.both_ways(daemon, server, 1), MIB)
        self.say(f"then a MiB each way within {1000 * (time.monotonic() - since):.0f} ms")
        self.assertLess(time.monotonic() - since, 2 * SLOW)
        self.check_streams_are_over(daemon, pairs)

    def test_a_hole_for_large_packets(self):
        """A network that takes packets of up to 576 bytes, and tells nobody; its two sides agreed on
        1500 before. With net.ipv4.tcp_mtu_probing the daemon's kernel finds out."""
        self.lay_cable()
        self.set_kernel("tcp_mtu_probing", "1")
        self.set_kernel("tcp_base_mss", "512")
        faults_test.run("ip", "link", "set", "here", "gso_max_segs", "1")  # one packet is one packet
        server = self.over_there(self.listen, self.THERE)
        daemon = self.proxy(server, listen=f"{self.HERE}:0", flags=("--workers=2",))
        pairs = [(self.over_there(self.connect, daemon), self.accept(server))]
        pairs.append(pairs[0][::-1])
        there = self.nsenter().split()
        faults_test.run(*there, "nft", "add table inet hole")
        faults_test.run(*there, "nft", "add chain inet hole in { type filter hook prerouting priority 0; }")
        faults_test.run(*there, "nft", "add rule inet hole in meta length > 576 drop")
        took = self.stream(pairs, 64 * KIB)
        self.say(f"64 KiB each way through the hole after {took:.1f} s")
        self.assertGreater(took, 0.5, "there is no hole")
        self.assertLess(took, 10)
        self.check_streams_are_over(daemon, pairs)


# ---- Memory.


class ControlGroup:
    """A new control group of one controller, of either version."""

    V1, V2 = Path("/sys/fs/cgroup"), (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))

    def __init__(self, controller):
        self.folder, self.is_v2, reasons = None, False, []
        for root, is_v2 in ((self.V1 / controller, False), *((root, True) for root in self.V2)):
            try:
                if not (root / "cgroup.procs").exists():
                    raise OSError(f"no {root}")
                if is_v2:
                    if controller not in (root / "cgroup.controllers").read_text().split():
                        raise OSError(f"{root} has no {controller}")
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")
                self.folder = root / f"parkway-{os.getpid()}"
                self.folder.mkdir()
                self.is_v2 = is_v2
                return
            except OSError as error:
                self.folder = None
                reasons.append(str(error))
        self.why_not = "; ".join(reasons)

    def set(self, v1, v2, value):
        (self.folder / (v2 if self.is_v2 else v1)).write_text(str(value))

    def inside(self):
        """The command that begins what follows it in there."""
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh")

    def take(self, pid):
        (self.folder / "cgroup.procs").write_text(str(pid))

    def end(self):
        def gone():
            with contextlib.suppress(OSError):  # what ended in it may still be counted
                self.folder.rmdir()
            return not self.folder.exists()

        wait_until(gone, f"{self.folder} is empty")


class Memory(HardshipTest):
    def group(self, controller):
        group = ControlGroup(controller)
        if group.folder is None:
            self.skip(group.why_not)
        self.addCleanup(group.end)
        return group

    def skip(self, why):
        self.say(f"SKIPPED: {why}")
        self.skipTest(why)

    def storm(self, daemon, most):
        """Clients that stay, until one is not served at once, or the daemon is gone."""
        clients = []
        with contextlib.suppress(OSError, AssertionError):
            while len(clients) < most:
                client = self.keep(socket.create_connection((HOST, daemon.port)))
                client.settimeout(0.5 * SLOW)
                client.sendall(b"x" * 100)
                recv_exactly(client, 100)
                client.settimeout(PATIENCE)
                clients.append(client)
        return clients

    # Beside a daemon there is room for about 5,000 clients.
    LIMIT = 12 * MIB

    def in_group(self, *flags):
        group = self.group("memory")
        group.set("memory.limit_in_bytes", "memory.max", self.LIMIT)
        if group.is_v2:
            with contextlib.suppress(OSError):
                (group.folder / "memory.swap.max").write_text("0")
        return self.echo("--workers=2", *flags, wrapper=group.inside())

    def test_the_limit_of_a_control_group(self):
        daemon = self.in_group()
        self.assertIn(f"memory {self.LIMIT // 10 * 9 // MIB}MiB", "\n".join(daemon.stderr()))
        clients = self.storm(daemon, 9000)
        self.assertTrue(daemon.running(), "the kernel killed it")
        self.say(f"{len(clients)} clients until its memory was short")
        self.assertGreater(len(clients), 500)
        self.assertLess(len(clients), 9000)
        daemon.wait_for_line("^parkway: no new clients for now: ")
        for client in clients[::50]:
            self.assert_echoes(client)
        since = time.monotonic()
        for client in clients[100:]:
            client.close()
        self.await_echo(daemon)
        self.say(f"recovered after {1000 * (time.monotonic() - since):.0f} ms")
        daemon.wait_for_line("^parkway: new clients again: ")
        for client in clients[:100]:
            self.assert_echoes(client)
            client.close()
        self.close_all()
        self.check_nothing_is_left(daemon)

    def await_echo(self, daemon):
        with socket.create_connection((HOST, daemon.port), timeout=PATIENCE) as client:
            self.assert_echoes(client)

    def close_all(self):
        for connection in self._sockets:
            connection.close()

    def test_the_same_without_a_budget(self):
        """What the budget is for: else the kernel kills."""
        daemon = self.in_group("--memory_budget=off")
        self.storm(daemon, 12_000)
        self.assertEqual(daemon.wait(), -signal.SIGKILL)

    def test_its_own_memory(self):
        self.set_kernel("tcp_wmem", "4096 16384 16384")
        self.set_kernel("tcp_rmem", "4096 131072 131072")
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--memory_budget=4MiB", "--splice_memory=0",
                                           "--overload=reset"))
        calm = self.session_of(daemon, server)
        deaf = []
        server.settimeout(0.5)
        for _ in range(200):
            try:
                client, backend = self.session_of(daemon, server)
            except OSError:  # reset at once, or never at the backend
                break
            deaf += (client, backend)
            fill(backend, limit=4 * MIB, quiet=0.02)
        self.say(f"{len(deaf) // 2} slow receivers until its memory was short")
        self.assertLess(len(deaf), 400)
        daemon.wait_for_line("^parkway: no new clients for now: ")
        self.assert_relays(*calm)
        since = time.monotonic()
        for connection in deaf:
            connection.close()
        wait_until(lambda: self.is_served(daemon, server), "a client is served")
        self.say(f"recovered after {1000 * (time.monotonic() - since):.0f} ms")
        self.assertLess(time.monotonic() - since, 2 * SLOW)
        self.assert_relays(*calm)
        daemon.await_descriptors(2)
        wait_until(lambda: self.sleeps_for(daemon, 0.5), "nothing wakes it while nobody comes")
        self.close_all()
        self.check_nothing_is_left(daemon)
        self.assertGreater(daemon.summary()["memory_budget"], 0)

    @staticmethod
    def sleeps_for(daemon, seconds):
        def waits():
            return [re.search(r"^voluntary_ctxt_switches:.*", status, re.MULTILINE)[0]
                    for _, status in daemon.threads()]

        before = waits()
        time.sleep(seconds)
        return waits() == before

    def is_served(self, daemon, server):
        try:
            with self.connect(daemon) as client, self.accept(server) as backend:
                self.assert_relays(client, backend)
            return True
        except OSError:
            return False

    # ---- The kernel's, for TCP.

    def check_little_for_tcp(self, daemon, server):
        """Streams arrive, and who waits for memory does not spin."""
        pairs = self.both_ways(daemon, server, 4)
        for sender, _ in pairs:
            fill(sender, bytes(MIB), quiet=0.05)
        before = daemon.cpu_seconds()
        time.sleep(1)
        spent = daemon.cpu_seconds() - before
        self.assertLess(spent, 0.02 * SLOW)
        for connection in sum(pairs, ()):
            connection.close()
        daemon.await_descriptors(0)
        before, pairs = daemon.cpu_seconds(), self.both_ways(daemon, server, 4)
        took = self.stream(pairs, 256 * KIB)
        self.say(f"{len(pairs)} streams of 256 KiB in {took:.1f} s, {daemon.cpu_seconds() - before:.2f} s "
                 f"of them on the CPU; {100 * spent:.1f} % of a CPU while nobody read")
        self.check_streams_are_over(daemon, pairs)

    def test_small_buffers_of_tcp(self):
        for name in ("tcp_rmem", "tcp_wmem"):
            self.set_kernel(name, "4096 4096 8192")
        server = self.listen()
        self.check_little_for_tcp(self.proxy(server, flags=("--workers=2",)), server)

    def test_little_memory_for_tcp(self):
        group = self.group("memory")
        if group.is_v2 or not (group.folder / "memory.kmem.tcp.limit_in_bytes").exists():
            self.skip("version 2 of cgroups has no limit of TCP's memory alone")
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--memory_budget=off"),
                            wrapper=group.inside())
        limit = 64 * KIB
        (group.folder / "memory.kmem.tcp.limit_in_bytes").write_text(str(limit))
        self.check_little_for_tcp(daemon, server)
        most = int((group.folder / "memory.kmem.tcp.max_usage_in_bytes").read_text())
        self.say(f"the kernel, which may use {limit // KIB} KiB, used {most // KIB} KiB at most")
        self.assertGreater(most, limit)  # what there is no memory for already is


# ---- Calls that fail.


class Calls(HardshipTest):
    """By strace, since the daemon makes most of them without the C library (netpoll/kernel_syscall.h),
    so that nothing that is preloaded there would see them."""

    # The call, how it fails, which ones of each thread; whether every client is served nevertheless.
    FAULTS = (
        ("recvfrom", "EINTR", "1+2", True),
        ("sendto", "EINTR", "1+2", True),
        ("epoll_pwait2", "EINTR", "1+2", True),
        ("accept4", "EINTR", "1+2", True),
        ("accept4", "EPROTO", "1+2", True),
        ("accept4", "ENOBUFS", "3+5", True),
        ("accept4", "ENFILE", "3+5", True),
        ("setsockopt", "ENOBUFS", "1+1", True),
        ("socket", "ENOMEM", "3+5", False),
        ("connect", "ENOBUFS", "3+5", False),
        ("epoll_ctl", "ENOMEM", "7+11", False),
        ("recvfrom", "ENOMEM", "7+11", False),
        ("sendto", "ENOBUFS", "7+11", False),
    )
    CLIENTS = 30

    @contextlib.contextmanager
    def failing(self, daemon, call, error, when):
        tracer = self.run_program("strace", "-f", "-qq", "-e", f"trace={call}", "-e",
                                  f"inject={call}:error={error}:when={when}", "-p", str(daemon.pid))
        wait_until(lambda: all("TracerPid:\t0" not in text for _, text in daemon.threads()),
                   "strace has every thread")
        yield tracer
        tracer.send_signal(signal.SIGINT)
        tracer.wait()

    def served(self, daemon):
        """How many clients are; the others are ended, and nobody gets anything wrong."""
        count = 0
        for _ in range(self.CLIENTS):
            with contextlib.suppress(OSError, EOFError):
                with socket.create_connection((HOST, daemon.port), timeout=2 * SLOW) as client:
                    for _ in range(3):
                        client.sendall(b"PING\r\n")
                        self.expect_pong(client)
                    count += 1
        return count

    def expect_pong(self, client):
        got = b""
        while len(got) < 7:
            piece = client.recv(7 - len(got))
            if not piece:
                raise EOFError
            got += piece
        self.assertEqual(got, b"+PONG\r\n")

    def test_system_calls(self):
        (_, first) = self.redis()
        daemon = self.route(first, options="health=off")
        for call, error, when, all_served in self.FAULTS:
            with self.subTest(call=call, error=error):
                with self.failing(daemon, call, error, when) as tracer:
                    served = self.served(daemon)
                injected = self.log_of(tracer).count("(INJECTED)")
                self.say(f"{call}: {error}: {injected} times, {served} of {self.CLIENTS} served")
                self.assertTrue(daemon.running())
                if all_served:
                    self.assertEqual(served, self.CLIENTS)
                else:
                    self.assertGreater(served, self.CLIENTS // 3)
                daemon.await_descriptors(0)
        self.recovered(daemon, time.monotonic())
        self.check_nothing_is_left(daemon)

    def test_no_memory_for_stacks(self):
        """Sessions that connect to a backend that does not answer need one each, and wait for each
        other's where there are no more."""
        (_, first) = self.redis()
        daemon = self.route(first, flags=(f"--route=hole listen={HOST}:0 to={address_of(self.blackhole())} "
                                          "connect_timeout=200ms connect_retries=0", "--stall_report=0"))
        calm = self.session(daemon)
        with self.failing(daemon, "mmap", "ENOMEM", "1+1") as tracer:
            clients = [self.connect(daemon.listening[1]) for _ in range(600)]
            self.ping(calm)
            for client in clients:
                self.assert_ends(client, "reset")
        self.say(f"mmap: ENOMEM: {self.log_of(tracer).count('(INJECTED)')} times, "
                 f"{len(clients)} clients ended all the same")
        self.ping(calm)
        calm.close()
        self.recovered(daemon, time.monotonic())
        self.check_nothing_is_left(daemon)


# ---- Time.


class Time(HardshipTest):
    def checked_route(self, *flags):
        (_, first), (_, second) = self.redis(), self.redis()
        daemon = self.route(first, second, options=faults_test.CHECKS, flags=flags)
        return daemon, [self.session(daemon) for _ in range(20)]

    def check_all_is_well(self, daemon, sessions):
        time.sleep(0.7 * SLOW)  # a few checks
        self.assertNotIn("is down", "\n".join(daemon.stderr()))
        for client in sessions:
            self.ping(client)
            client.close()
        self.close_all()
        self.check_nothing_is_left(daemon)

    def close_all(self):
        for connection in self._sockets:
            connection.close()

    def test_stopped_for_five_seconds(self):
        at = f"unix:@{self.id()}"
        daemon, sessions = self.checked_route(
            f"--route=idle listen={at} to=echo idle_timeout=1s reset_linger=0")
        idle = [self.connect(at) for _ in range(20)]
        for client in idle:
            self.assert_echoes(client)
        daemon.signal(signal.SIGSTOP)
        time.sleep(5)
        daemon.signal(signal.SIGCONT)
        since = time.monotonic()
        for client in idle:
            self.assert_ends(client, "fin")
        self.say(f"timers of 1 s were heeded {1000 * (time.monotonic() - since):.0f} ms after that")
        self.assertLess(time.monotonic() - since, SLOW)
        self.recovered(daemon, since)
        self.check_all_is_well(daemon, sessions)
        self.assertEqual(daemon.summary()["idle_timeout"], len(idle))  # each once

    def check_starved(self, daemon, sessions):
        until, worst = time.monotonic() + 4, 0
        while time.monotonic() < until:
            begun = time.monotonic()
            self.ping(random.choice(sessions))
            self.ask(daemon)
            worst = max(worst, time.monotonic() - begun)
        self.say(f"the worst of a client, and an answer to another, took {1000 * worst:.0f} ms")
        self.assertLess(worst, 2 * SLOW)
        return time.monotonic()

    def test_among_busy_neighbours(self):
        daemon, sessions = self.checked_route()
        busy = [self.run_program("sh", "-c", "while :; do :; done") for _ in range(8)]
        since = self.check_starved(daemon, sessions)
        for program in busy:
            program.kill()
            program.wait()
        self.recovered(daemon, since)
        self.check_all_is_well(daemon, sessions)

    def test_little_of_a_cpu(self):
        """Five percent: it stands still for 95 ms of 100."""
        group = ControlGroup("cpu")
        if group.folder is None:
            self.say(f"SKIPPED: {group.why_not}")
            self.skipTest(group.why_not)
        self.addCleanup(group.end)
        daemon, sessions = self.checked_route()
        if group.is_v2:
            (group.folder / "cpu.max").write_text("5000 100000")
        else:
            (group.folder / "cpu.cfs_quota_us").write_text("5000")
        group.take(daemon.pid)
        since = self.check_starved(daemon, sessions)
        (group.folder.parent / "cgroup.procs").write_text(str(daemon.pid))
        self.recovered(daemon, since)
        self.check_all_is_well(daemon, sessions)


if __name__ == "__main__":
    enter_namespace("ip", "iptables", "nft", "nsenter", "strace")
    main()
