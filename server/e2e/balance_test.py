#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Which backend a connection gets, and what it waits for."""

import collections
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import HOST, DaemonTest, address_of, main, recv_exactly  # noqa: E402


class Balance(DaemonTest):
    def route(self, options, *backends, count=3):
        to = ",".join(backends or [self.named(b"%d" % i) for i in range(count)])
        return self.start(f"--route=x listen={HOST}:0 to={to} {options}")

    def open(self, daemon, source=HOST):
        """(client, the name of its backend)"""
        client = self.connect(daemon, source=source)
        return client, recv_exactly(client, 1)

    def shares(self, daemon, count, **options):
        return collections.Counter(self.open(daemon, **options)[1] for _ in range(count))

    def test_leastconn_goes_by_the_sessions_there_are(self):
        daemon = self.route("balance=leastconn")
        sessions = [self.open(daemon) for _ in range(9)]
        self.assertEqual(collections.Counter(name for _, name in sessions),
                         {b"0": 3, b"1": 3, b"2": 3})
        for client, name in sessions:
            if name == b"1":
                client.close()
        daemon.await_descriptors(2 * 6)
        self.assertEqual(self.shares(daemon, 3), {b"1": 3})

    def test_random2_leaves_nobody_out(self):
        shares = self.shares(self.route("balance=random2"), 30)
        self.assertEqual(sum(shares.values()), 30)
        self.assertGreaterEqual(min(shares[name] for name in (b"0", b"1", b"2")), 6)

    def test_a_hash_gives_a_client_the_same_backend_in_every_process(self):
        servers = [self.named(b"%d" % i) for i in range(3)]
        for way in ("source", "maglev"):
            first, second = (self.route(f"balance={way}", *servers) for _ in range(2))
            homes = set()
            for last in range(1, 30):
                source = f"127.0.0.{last}"
                home = self.shares(first, 3, source=source)
                self.assertEqual(len(home), 1, source)
                self.assertEqual(self.shares(second, 3, source=source), home)
                homes |= set(home)
            self.assertEqual(homes, {b"0", b"1", b"2"})

    def test_a_busy_client_has_its_bound(self):
        shares = self.shares(self.route("balance=source hash_balance_factor=150"), 30)
        self.assertEqual(sum(shares.values()), 30)
        self.assertLessEqual(max(shares.values()), 15)

    def test_first_fills_one_after_the_other(self):
        servers = [self.named(b"%d" % i) + "/max=2" for i in range(3)]
        daemon = self.route("balance=first", *servers)
        sessions = [self.open(daemon) for _ in range(5)]
        self.assertEqual([name for _, name in sessions], [b"0", b"0", b"1", b"1", b"2"])
        sessions[0][0].close()
        daemon.await_descriptors(2 * 4)
        self.assertEqual(self.open(daemon)[1], b"0")

    def test_who_waits_is_served_in_turn(self):
        daemon = self.route("queue_timeout=1m", self.named(b"s") + "/max=1")
        first, _ = self.open(daemon)
        waiting = []
        for number in range(3):
            waiting.append(self.connect(daemon))
            daemon.await_descriptors(3 + number)
            time.sleep(0.05)  # its fiber comes to the queue; nothing tells from outside
        for client in waiting:
            self.assert_silent(client, 0.05)
        for leaves, served in zip([first, *waiting], waiting):
            leaves.close()
            self.assertEqual(recv_exactly(served, 1), b"s")

    def test_who_waits_for_one_backend_does_not_keep_others_from_another(self):
        holder = self.keep(socket.socket())
        holder.bind((HOST, 0))  # refuses, until it listens
        daemon = self.route("balance=first health=off queue_timeout=1m",
                            self.named(b"s") + "/max=1", address_of(holder))
        self.assertEqual(self.open(daemon)[1], b"s")
        waits = self.connect(daemon)
        daemon.await_descriptors(3)
        self.assert_silent(waits)  # the one is full, and the other has been tried
        holder.listen()
        other = self.connect(daemon)
        holder.settimeout(10)
        self.keep(holder.accept()[0]).sendall(b"o")
        self.assertEqual(recv_exactly(other, 1), b"o")

    def test_who_waits_is_ended_by_a_drain(self):
        daemon = self.start(f"--route=x listen={HOST}:0 to={self.named(b's')}/max=1 "
                            "queue_timeout=1h", "--drain_timeout=200ms")
        served, _ = self.open(daemon)
        waits = self.connect(daemon)
        daemon.await_descriptors(3)
        self.stop(daemon, code=1)
        self.assert_ends(served, "fin")
        self.assert_ends(waits, "reset")
        self.assertEqual(daemon.summary(), {"served": 2, "drain": 2})

    def test_retries_are_counted(self):
        dead = [self.refuses() for _ in range(3)]
        good = self.named(b"g")
        daemon = self.route("connect_retries=2 health=off balance=first", *dead, good)
        self.assert_refused(daemon)
        daemon = self.route("connect_retries=3 health=off balance=first", *dead, good)
        self.assertEqual(self.open(daemon)[1], b"g")


if __name__ == "__main__":
    main()
