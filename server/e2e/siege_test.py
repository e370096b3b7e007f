#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon under attack, with others in the same network: they are served meanwhile.

The attackers are in a network namespace of their own, with the even addresses of a /24; the odd
ones are their neighbours, who mean no harm.
"""

import collections
import contextlib
import json
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from faults_test import Cable, FaultTest, counter, run  # noqa: E402
from harness import (  # noqa: E402
    IP_BIND_ADDRESS_NO_PORT, KIB, MIB, PATIENCE, SANITIZED, SLOW, Parallel, enter_namespace, main,
    recv_exactly, sockaddr_of, wait_until)
from limits_test import hello, on_behalf_of  # noqa: E402
from programs_test import ProgramTest, find_program  # noqa: E402

COOKIES = "TCPReqQFullDoCookies"  # counts SYNs that found a queue full
ATTACKERS = Path(__file__).absolute().parent / "siege_attackers.py"
NETWORK = "10.77.1.0/24"
BAD = [f"10.77.1.{last}" for last in range(2, 255, 2)]
GOOD = [f"10.77.1.{last}" for last in range(1, 255, 2)]
HELLO = hello("a.test")


class SiegeTest(FaultTest, Cable):
    def setUp(self):
        super().setUp()
        self.lay_cable()
        run(*f"ip route add {NETWORK} via {self.THERE}".split())
        run(*f"{self.nsenter()} ip route add local {NETWORK} dev lo".split())

    def run_there(self, *command):
        return self.run_program(*self.nsenter().split(), *command)

    def attack(self, to, count, *options):
        return self.run_there(sys.executable, str(ATTACKERS), f"--to={to}", f"--count={count}",
                              f"--sources={','.join(BAD)}", f"--hello={HELLO.hex()}", *options)

    def flood(self, to):
        """SYNs from an address that never answers."""
        host, port = to.rsplit(":", 1)
        return self.run_there("hping3", "--quiet", "--syn", "--interval", "u200", "--destport",
                              port, "--spoof", self.NOBODY, host)

    def relieve(self, *programs):
        """Ends attacks."""
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(PATIENCE)

    # ---- Neighbours.

    def visit(self, at, source, words, answer):
        """Connects, says that, and has the answer; the seconds that took."""
        begun = time.monotonic()
        with socket.socket() as client:
            client.settimeout(PATIENCE)
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((source, 0))
            client.connect(sockaddr_of(at)[1])
            client.sendall(words)
            self.assertEqual(recv_exactly(client, len(answer)), answer)
        return time.monotonic() - begun

    @contextlib.contextmanager
    def neighbours(self, visit):
        """Meanwhile one after the other comes, and has to be served; how long each took."""
        times, over = [], threading.Event()

        def come():
            while not over.is_set():
                times.append(visit(len(times), GOOD[len(times) % len(GOOD)]))
                over.wait(0.01)  # within the limits of a source

        coming = Parallel()
        coming.add(self.over_there, come)
        try:
            yield times
        finally:
            over.set()
        coming.join()

    def check_served(self, times, beside):
        """In less than a second, which is what was promised."""
        worst, half = 1000 * max(times), 1000 * statistics.median(times)
        self.say(f"{len(times)} neighbours served beside {beside}: half of them in {half:.1f} ms, "
                 f"the worst in {worst:.0f} ms")
        self.assertLess(max(times), SLOW)


class Handshakes(SiegeTest):
    """Listeners that await what clients say first, with limits for each source."""

    HALF_OPEN = 400 if SANITIZED else 4000
    STORM = 750 if SANITIZED else 1500  # enough for more than a source may

    def besiege(self, daemon):
        """(the half-open ones, the floods, the storm). Half of the half-open ones are at each
        listener; of the first one's, half are within the PROXY header."""
        front, direct = daemon.listening
        half, quarter = self.HALF_OPEN // 2, self.HALF_OPEN // 4
        half_open = [self.attack(front, quarter, "--header", "--at_once=20"),
                     self.attack(front, quarter, "--header", "--at_once=50"),
                     self.attack(direct, half, "--at_once=9")]
        before = counter(COOKIES)
        floods = [self.flood(front), self.flood(direct)]
        wait_until(lambda: daemon.descriptors() >= daemon.baseline + self.HALF_OPEN,
                   "all are awaited")
        wait_until(lambda: counter(COOKIES) > before, "the queues are full")
        storm = [self.attack(front, self.STORM // 2, "--header"),
                 self.attack(direct, self.STORM // 2)]
        wait_until(lambda: all(self.log_of(program) for program in storm), "it has come")
        return half_open, floods, storm

    def counts_of(self, attackers):
        """What they say at their end, added up."""
        counts = collections.Counter()
        for program in attackers:
            counts.update(json.loads(self.log_of(program).splitlines()[-1]))
        return counts

    def check_siege(self, daemon, seconds):
        front, direct = daemon.listening

        def visit(number, source):
            at, header = (front, on_behalf_of(source)) if number % 2 else (direct, b"")
            return self.visit(at, source, header + HELLO, HELLO)

        flooded = counter(COOKIES)
        with self.neighbours(visit) as times:
            half_open, floods, storm = self.besiege(daemon)
            time.sleep(seconds)  # they are turned away and come again
            wait_until(lambda: counter(COOKIES) - flooded > 1000, "the queues stay full")
            self.relieve(*half_open, *floods, *storm)
        slow, fast = self.counts_of(half_open), self.counts_of(storm)
        flooded = counter(COOKIES) - flooded
        self.check_served(times, f"{self.HALF_OPEN} half-open ones, who were turned away "
                          f"{slow['ended']} times, a storm of which {fast['served']} were served "
                          f"and {fast['ended']} reset, and {flooded} SYNs")
        self.assertEqual(slow["served"], 0)
        self.assertGreater(flooded, 1000)
        self.assertGreater(fast["served"], 0)  # within the limits of their sources
        self.assertGreater(fast["ended"], 0)
        daemon.await_descriptors(0)

    def test_half_open_ones_and_a_flood_of_syn_and_a_storm(self):
        # Of each source, more than its share of the half-open ones, which would be reset beyond it.
        of_each = 20
        self.assertLess(self.HALF_OPEN / 2 / len(BAD), of_each)
        common = (f"listen={self.HERE}:0 sni=*.test to={self.echo().address} "
                  f"source_max_conns={of_each} source_conn_rate=2 handshake_timeout=5s")
        daemon = self.start(f"--route=front {common} accept_proxy=any trusted={NETWORK}",
                            f"--route=direct {common}", "--workers=2")
        before, left = daemon.rss(), []
        for seconds in (5, 1):
            self.check_siege(daemon, seconds)
            left.append(daemon.rss() - before)
        most = int(daemon.status("VmHWM").split()[0]) * KIB - before
        self.say(f"{most / MIB:.1f} MiB more meanwhile, {left[0] / MIB:.1f} after it, "
                 f"{left[1] / MIB:.1f} after another")
        self.check_memory(most, 32 * KIB * (self.HALF_OPEN + self.STORM))
        self.check_memory(max(left), 16 * MIB)
        self.check_nothing_is_left(daemon)
        ends = daemon.summary()
        for reason in ("proxy_timeout", "hello_timeout"):
            self.assertGreaterEqual(ends.get(reason, 0), self.HALF_OPEN // 4, reason)
        self.assertGreater(ends.get("source_too_fast", 0), self.STORM // 10)


class SlowHttp(SiegeTest, ProgramTest):
    """Requests and readers that are slow, of HTTP."""

    def attack_slowly(self, daemon, name, count, *how):
        return self.run_there(find_program("slowhttptest"), *how, "-c", str(count), "-r", "1000",
                              "-l", "60", "-u", f"http://{daemon.address}/{name}")

    def test_slow_headers(self):
        """A byte or two a second of each, from one source; nginx is kept from almost all."""
        most = 50
        daemon = self.start(f"--route=x listen={self.HERE}:0 to={self.nginx()} "
                            f"source_max_conns={most}", "--workers=2")

        def visit(_, source):
            return self.visit(daemon.address, source, b"GET /small HTTP/1.0\r\n\r\n",
                              b"HTTP/1.1 200 OK")

        with self.neighbours(visit) as times:
            attack = self.attack_slowly(daemon, "", 1000, "-H", "-i", "1", "-x", "2")
            wait_until(lambda: daemon.descriptors() >= daemon.baseline + 2 * most, "they come")
            time.sleep(3)
            held = daemon.descriptors() - daemon.baseline
            self.relieve(attack)
        self.check_served(times, f"{held} descriptors")
        self.assertLessEqual(held, 2 * most + 2)  # and of a neighbour
        self.check_nothing_is_left(daemon)
        self.assertGreater(daemon.summary()["source_too_many"], 100)

    def test_slow_readers(self):
        """Each of which asks for 8 MiB. That they keep nginx busy at first is its own affair: the
        neighbours are served by another."""
        count = 400
        daemon = self.start(f"--route=x listen={self.HERE}:0 to={self.nginx()}",
                            f"--route=y listen={self.HERE}:0 to={self.echo().address}",
                            "--workers=2")
        before = daemon.rss()
        with self.neighbours(
                lambda _, source: self.visit(daemon.listening[1], source, HELLO, HELLO)) as times:
            attack = self.attack_slowly(
                daemon, "large", count, "-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "16")
            wait_until(lambda: daemon.descriptors() >= daemon.baseline + 2 * count, "they come")
            time.sleep(3)
            grown = daemon.rss() - before
            self.relieve(attack)
        self.check_served(times, f"{count} slow readers, {grown / MIB:.1f} MiB")
        self.check_memory(grown, 32 * MIB)
        self.check_nothing_is_left(daemon)


if __name__ == "__main__":
    enter_namespace("hping3", "ip", "nft", "nsenter")
    main()
