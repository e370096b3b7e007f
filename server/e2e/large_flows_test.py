#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Flows that are spliced: real sockets, and real pipes until there are no more."""

import contextlib
import fcntl
import os
import resource
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    MIB, SANITIZED, DaemonTest, Parallel, Pattern, break_connections, in_parallel, main, queued,
    recv_exactly, recv_to_end, reset)

STREAM = 64 * MIB if not SANITIZED else 24 * MIB
STANDSTILL = 0.3  # seconds for kernels and daemon to fill up; less makes no test fail wrongly
CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 21, 24  # who has one is granted pipes beyond the limit


@contextlib.contextmanager
def all_pipes_taken():
    """As many as an ordinary user is granted, of the largest size."""
    pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    size = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    taken = []
    try:
        with contextlib.suppress(PermissionError):
            for _ in range(pages * resource.getpagesize() // size + 1):
                taken.append(os.pipe())
                fcntl.fcntl(taken[-1][1], fcntl.F_SETPIPE_SZ, size)
        yield
    finally:
        for ends in taken:
            os.close(ends[0])
            os.close(ends[1])


def flood(connection):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(bytes(MIB))


class LargeFlow(DaemonTest):
    """A backend that sends faster than its client reads makes a large flow: the daemon never finds
    its source empty."""

    def flow(self, daemon, server, name="large"):
        client, backend = self.session(daemon, server)
        backend.settimeout(None)  # it may be sent as late as its client reads
        stream, sender = Pattern(name, STREAM), Parallel()
        sender.add(stream.send, backend)
        time.sleep(STANDSTILL)
        return client, stream, sender

    def receive(self, daemon, client, stream, sender):
        """Whether it went through a pipe."""
        spliced = []
        stream.receive(client, took=lambda _: spliced or daemon.pipes() and spliced.append(True))
        sender.join()
        return bool(spliced)


class LargeFlows(LargeFlow):
    def test_it_is_spliced_and_whole(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1",))
        self.assertTrue(self.receive(daemon, *self.flow(daemon, server)))
        self.assertLessEqual(daemon.pipes(), 1)

    def test_large_messages_that_take_turns_are_spliced(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1",))
        client, backend = self.session(daemon, server)
        message = Pattern("message", MIB)
        for _ in range(20):
            in_parallel((client.sendall, message.bytes()),
                        (lambda: message.receive(backend, stop=MIB),))
            in_parallel((backend.sendall, message.bytes()),
                        (lambda: message.receive(client, stop=MIB),))
        self.assertEqual(daemon.pipes(), 1)

    def test_without_memory_for_pipes_it_is_copied(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--splice_memory=0",))
        self.assertFalse(self.receive(daemon, *self.flow(daemon, server)))

    def test_both_directions_at_once(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2",))
        client, backend = self.session(daemon, server)
        up, down = Pattern("up", STREAM), Pattern("down", STREAM)
        in_parallel((up.send, client), (down.send, backend),
                    (up.receive, backend), (down.receive, client))

    def test_requests_after_it_are_answered_at_once(self):
        server = self.listen()
        daemon = self.proxy(server)
        client, backend = self.session(daemon, server)
        stream = Pattern("large", STREAM).bytes()
        sender = Parallel()
        sender.add(backend.sendall, stream)
        time.sleep(STANDSTILL)
        Pattern("large", STREAM).receive(client, stop=STREAM)
        sender.join()
        for _ in range(100):
            self.assert_relays(client, backend)

    def test_an_urgent_byte_does_not_stall_it(self):
        server = self.listen()
        daemon = self.proxy(server)
        client, backend = self.session(daemon, server)
        halves = [Pattern(("half", number), STREAM // 2) for number in range(2)]

        def send():
            backend.sendall(halves[0].bytes())
            backend.send(b"!", socket.MSG_OOB)
            halves[1].send(backend)

        sender = Parallel()
        sender.add(send)
        time.sleep(STANDSTILL)
        halves[0].receive(client, stop=halves[0].size)
        halves[1].receive(client)
        sender.join()

    def test_blocked_flows_hold_pipes_within_the_bound_and_stop_nobody(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1", "--splice_memory=2MiB"))
        flows = [self.flow(daemon, server, number) for number in range(8)]
        for client, stream, _ in flows:  # so far that each is large, and then not to its end
            stream.receive(client, stop=8 * MIB)
        time.sleep(STANDSTILL)
        self.assertLessEqual(daemon.pipes(), 4)
        other, other_backend = self.session(daemon, server)
        self.assert_relays(other, other_backend)
        reset(flows[0][0])
        for client, stream, sender in flows[1:]:
            tail = bytearray()
            while data := client.recv(MIB):
                tail += data
            self.assertEqual(bytes(tail), stream.bytes()[8 * MIB:])
            sender.join()

    def test_a_reset_while_a_pipe_is_full(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1",))
        for number in range(20):
            client, stream, _ = self.flow(daemon, server, number)
            stream.receive(client, stop=8 * MIB)
            reset(client)
            daemon.await_descriptors(0)


class BrokenHere(LargeFlow):
    """As root, outside of any sandbox."""

    def test_the_part_before_its_connection_broke_here_is_not_taken_for_the_whole(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1",))
        for number in range(10):
            client, backend = self.session(daemon, server)
            threading.Thread(target=flood, args=(backend,), daemon=True).start()
            time.sleep(STANDSTILL)
            client.shutdown(socket.SHUT_WR)  # from here on the daemon's end may close as any does
            recv_exactly(client, 8 * MIB)
            there, here = backend.getpeername(), backend.getsockname()
            break_connections([(there[1], here[1])])
            if queued(there, here).state:
                self.skipTest("this user may not break connections (ss -K)")
            self.assertEqual(recv_to_end(client)[1], "reset")
            daemon.await_descriptors(0)


class PipeLimits(LargeFlow):
    """Alone: the pipes of all tests count together, and one that ends makes room."""

    def test_an_ordinary_user_whose_pipes_are_used_up(self):
        server = self.listen()
        with all_pipes_taken():
            daemon = self.proxy(server, without_capabilities=(CAP_SYS_ADMIN, CAP_SYS_RESOURCE))
            self.assertFalse(self.receive(daemon, *self.flow(daemon, server)))
        time.sleep(1)  # before that no worker asks again
        self.assertTrue(self.receive(daemon, *self.flow(daemon, server)))


if __name__ == "__main__":
    main()
