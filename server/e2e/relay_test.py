#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the daemon does with bytes, ends, slow receivers and broken backends: real sockets."""

import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, PATIENCE, SANITIZED, SLOW, DaemonTest, Parallel, Pattern, fill, free_port,
    in_parallel, main, queued, recv_exactly, recv_to_end, reset, run_parkway, send_all_acknowledged,
    unacknowledged, unread, wait_until)

STREAM = 64 * MIB if not SANITIZED else 16 * MIB


def queue_at_daemon(client, still=0.02):
    """Bytes of the client that the daemon leaves unread for a while."""
    least = 1 << 40
    until = time.monotonic() + still
    while time.monotonic() < until:
        least = min(least, queued(client.getpeername(), client.getsockname()).unread)
        time.sleep(still / 10)
    return least


# ---- How sessions end, where endings_test.py leaves something to say.


class Ends:
    """For each number of workers."""

    def proxied(self, *flags, receive_buffer=None):
        server = self.listen(receive_buffer=receive_buffer)
        self.daemon = self.proxy(server, flags=(f"--workers={self.WORKERS}", *flags))
        return self.session(self.daemon, server)

    def test_client_finishes_first_and_the_reply_drains(self):
        client, backend = self.proxied()
        request, reply = Pattern("request", MIB).bytes(), Pattern("reply", 8 * MIB)
        in_parallel((client.sendall, request), lambda: recv_exactly(backend, len(request)))
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin")
        in_parallel((reply.send, backend), (reply.receive, client))

    def test_backend_finishes_first_and_the_upload_drains(self):
        client, backend = self.proxied()
        backend.sendall(b"all I say")
        backend.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin", b"all I say")
        upload = Pattern("upload", 8 * MIB)
        in_parallel((upload.send, client), (upload.receive, backend))

    def test_a_fin_alone_passes_through_both_ways(self):
        client, backend = self.proxied()
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin")
        self.assert_silent(client)
        backend.close()
        self.assert_ends(client, "fin")

    def test_the_end_of_an_upload_is_not_hurried(self):
        """Both sides have sent FIN while the relay is blocked: that is no reset."""
        client, backend = self.proxied("--reset_linger=0")
        backend.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin")
        upload = Pattern("upload", 80 * MIB).bytes()
        sent, taken = fill(client, upload), b""
        while unacknowledged(client) > 0:  # until all is with the daemon
            taken += recv_exactly(backend, 16 * KIB)
        while not self.relay_is_blocked(client):
            send_all_acknowledged(client, upload[sent:sent + 16 * KIB])
            sent += 16 * KIB
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin", upload[len(taken):sent])
        self.assertTrue(upload.startswith(taken), "the bytes differ")

    def relay_is_blocked(self, client):
        """Bytes lie with the daemon, few enough for its smallest window, and it does not read."""
        return all(queue_at_daemon(client, still) >= 24 * KIB for still in (0.02, 0.2))

    def test_both_finish_at_once(self):
        client, backend = self.proxied()
        client.sendall(b"to the backend")
        backend.sendall(b"to the client")
        client.shutdown(socket.SHUT_WR)
        backend.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin", b"to the client")
        self.assert_ends(backend, "fin", b"to the backend")
        self.daemon.await_descriptors(0)
        self.stop(self.daemon)
        self.assertIn(self.daemon.summary(),  # whichever FIN the daemon saw first
                      ({"served": 1, "client_fin": 1}, {"served": 1, "upstream_fin": 1}))

    def check_blocked_bytes_before_reset(self, breaker, witness):
        """Every buffer on the way is full and the relay blocked in its write."""
        data = Pattern("flood", 64 * MIB)
        flood = data.bytes()
        sent = fill(breaker, flood)
        taken = sent - unacknowledged(breaker)  # what remains in our own kernel is lost with it
        self.assertGreater(sent - taken, 0)
        reset(breaker)
        got, end = recv_to_end(witness)
        self.assertEqual(end, "reset")
        self.assertGreaterEqual(len(got), taken)
        self.assertTrue(flood.startswith(got), "the bytes differ")

    def test_a_relay_blocked_in_its_write_delivers_before_a_client_reset(self):
        client, backend = self.proxied("--reset_linger=20s")
        self.check_blocked_bytes_before_reset(client, backend)

    def test_a_relay_blocked_in_its_write_delivers_before_a_backend_reset(self):
        client, backend = self.proxied("--reset_linger=20s")
        self.check_blocked_bytes_before_reset(backend, client)

    def test_reset_linger_zero_passes_the_reset_on_at_once(self):
        client, backend = self.proxied("--reset_linger=0s")
        fill(client, limit=32 * MIB)
        reset(client)
        self.assertEqual(recv_to_end(backend)[1], "reset")

    def test_client_that_closes_with_unread_bytes_resets_the_backend(self):
        client, backend = self.proxied()
        backend.sendall(b"nobody reads this")
        wait_until(lambda: unread(client) > 0, "bytes at the client")
        client.close()
        self.assert_ends(backend, "reset")

    def test_backend_that_breaks_while_the_client_uploads(self):
        client, backend = self.proxied()
        backend.sendall(b"go away")
        wait_until(lambda: unread(client) > 0, "bytes at the client")
        upload = Parallel()
        upload.add(self.send_until_it_breaks, client)
        recv_exactly(backend, MIB)
        reset(backend)
        upload.join()

    def send_until_it_breaks(self, client):
        with self.assertRaises(OSError) as raised:
            while True:
                client.sendall(bytes(64 * KIB))
        return raised.exception

    def test_reply_of_a_backend_that_then_breaks_arrives(self):
        """The backend answers and closes with unread input: its RST must not eat the answer."""
        client, backend = self.proxied()
        client.sendall(b"a request that nobody reads")
        wait_until(lambda: unread(backend) > 0, "bytes at the backend")
        answer = Pattern("answer", 100 * KIB).bytes()
        send_all_acknowledged(backend, answer)
        backend.close()
        self.assert_ends(client, "reset", answer)

    def test_a_reset_that_an_upload_meets_ends_a_client_that_does_not_read(self):
        """Its other half is blocked at the client, and may be told of the reset by nobody else."""
        server = self.listen()
        self.daemon = self.proxy(server, flags=(f"--workers={self.WORKERS}",
                                                "--reset_linger=100ms"))
        pairs = [self.session(self.daemon, server) for _ in range(10)]
        in_parallel(*((fill, backend, b"x" * 65536, 1 << 40, 0.1) for _, backend in pairs))
        uploads = Parallel()
        for client, _ in pairs:
            uploads.add(self.send_until_it_breaks, client)
        for _, backend in pairs:
            recv_exactly(backend, 64 * KIB)
            reset(backend)
        self.daemon.await_descriptors(0)  # well before half_close_timeout
        for client, _ in pairs:
            client.close()
        uploads.join()

    def test_half_an_answer_before_a_reset_never_looks_whole(self):
        """The kernel tells the relay that uploads of the reset, or the one that reads: not both."""
        server = self.listen()
        self.daemon = self.proxy(server, flags=(f"--workers={self.WORKERS}",))
        half = Pattern("half an answer", 200 * KIB).bytes()
        for _ in range(40):
            client, backend = self.session(self.daemon, server)
            told, upload = [], Parallel()
            upload.add(lambda: told.append(self.send_until_it_breaks(client)))
            recv_exactly(backend, 64 * KIB)
            backend.sendall(half)
            reset(backend)
            got, end = recv_to_end(client)
            self.assertTrue(half.startswith(got), "the bytes differ")
            upload.join()
            # So it is at the client. After a FIN its writer would be told EPIPE.
            self.assertTrue(end == "reset" or isinstance(told[0], ConnectionResetError),
                            f"a {end} after {len(got)} bytes, and {told[0]!r}")
            client.close()

    def echoing(self, *flags):
        self.daemon = self.echo(f"--workers={self.WORKERS}", *flags)
        return self.connect(self.daemon)

    def test_echo_answers_all_before_its_fin(self):
        client = self.echoing()
        data = Pattern("echo", 4 * MIB)
        in_parallel((data.send, client), (data.receive, client))
        self.daemon.await_descriptors(0)
        self.stop(self.daemon)
        self.assertEqual(self.daemon.summary(), {"served": 1, "client_fin": 1})


class EndsOfOneWorker(Ends, DaemonTest):
    WORKERS = 1


class EndsOfTwoWorkers(Ends, DaemonTest):
    WORKERS = 2


# ---- Streams.


class Streams:
    """Byte by byte what was sent, whatever the sizes."""

    def test_long_streams_both_ways_at_once(self):
        server = self.listen()
        client, backend = self.session(self.proxy(server, flags=(self.workers(),)), server)
        up, down = Pattern("up", STREAM), Pattern("down", STREAM)
        in_parallel((up.send, client), (up.receive, backend),
                    (down.send, backend), (down.receive, client))

    def test_long_echo(self):
        client = self.connect(self.echo(self.workers()))
        stream = Pattern("echo", STREAM)
        in_parallel((stream.send, client), (stream.receive, client))

    def workers(self):
        return f"--workers={self.WORKERS}"

    def test_writes_of_one_byte(self):
        server = self.listen()
        client, backend = self.session(self.proxy(server, flags=(self.workers(),)), server)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = Pattern("bytes", 5000).bytes()

        def trickle(connection):
            for at in range(len(data)):
                connection.send(data[at:at + 1])

        in_parallel((trickle, client), (trickle, backend),
                    lambda: self.assertEqual(recv_exactly(client, len(data)), data),
                    lambda: self.assertEqual(recv_exactly(backend, len(data)), data))

    def test_one_byte_there_and_back(self):
        client = self.connect(self.echo(self.workers()))
        for number in range(1000):
            self.assert_echoes(client, bytes([number % 256]))

    def test_pipelined_small_messages(self):
        server = self.listen()
        client, backend = self.session(self.proxy(server, flags=(self.workers(),)), server)
        messages = b"".join(b"message %d\n" % number for number in range(50_000))

        def answer():
            left = len(messages)
            while left > 0:
                piece = backend.recv(1000)
                backend.sendall(piece)
                left -= len(piece)

        in_parallel((client.sendall, messages), answer,
                    lambda: self.assertEqual(recv_exactly(client, len(messages)), messages))

    def test_messages_of_every_size_around_the_buffer(self):
        client = self.connect(self.echo(self.workers()))
        for size in (1, 2, 4095, 4096, 16384, 65535, 65536, 65537, 131072, 131073):
            self.assert_echoes(client, Pattern(size, size).bytes())

    def test_urgent_data_does_not_stall_the_stream(self):
        server = self.listen()
        client, backend = self.session(self.proxy(server, flags=(self.workers(),)), server)
        for turn in range(50):
            # The urgent byte itself is lost, as in every proxy; those around it are not.
            client.sendall(b"before")
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"behind%d." % turn)
            self.assertEqual(recv_exactly(backend, 14 + (turn > 9)), b"beforebehind%d." % turn)
            self.assert_relays(client, backend)

    def test_a_stream_with_urgent_bytes_in_it(self):
        """Each mark loses its byte, or leaves it in the stream once the next mark follows."""
        client = self.connect(self.echo(self.workers()))
        pieces = [Pattern(("urgent", n), 64 * KIB).bytes() for n in range(32)]
        got = []
        receiver = Parallel()
        receiver.add(lambda: got.extend(recv_to_end(client)))
        for piece in pieces:
            client.sendall(piece)
            client.send(b"!", socket.MSG_OOB)
        client.shutdown(socket.SHUT_WR)
        receiver.join()
        rest, end = got
        for number, piece in enumerate(pieces):
            self.assertTrue(rest.startswith(piece), f"piece {number}")
            rest = rest[len(piece):]
            followed = number + 1 < len(pieces) and rest.startswith(pieces[number + 1])
            if rest[:1] == b"!" and not followed:
                rest = rest[1:]
        self.assertEqual((rest, end), (b"", "fin"))

    def test_many_short_connections_leave_nothing(self):
        server = self.listen()
        daemon = self.proxy(server, flags=(self.workers(),))
        for number in range(1000):
            client = socket.create_connection((HOST, daemon.port), PATIENCE)
            backend = server.accept()[0]
            client.sendall(b"%d" % number)
            self.assertEqual(recv_exactly(backend, len(b"%d" % number)), b"%d" % number)
            backend.close()
            self.assert_ends(client, "fin")
            client.close()
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1000, "upstream_fin": 1000})

    def test_clients_that_connect_and_leave_at_once(self):
        """By FIN and by RST, some before they are accepted."""
        daemon = self.echo(self.workers())
        for number in range(2000):
            client = socket.create_connection((HOST, daemon.port), PATIENCE)
            (reset if number % 2 else socket.socket.close)(client)
        self.assert_echoes(self.connect(daemon))

    def test_clients_that_leave_before_their_backend_is_there(self):
        server = self.listen()
        daemon = self.proxy(server, flags=(self.workers(),))
        for number in range(300):
            client = socket.create_connection((HOST, daemon.port), PATIENCE)
            (reset if number % 2 else socket.socket.close)(client)
        for _ in range(300):
            server.accept()[0].close()
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)

    def test_many_connections_at_once(self):
        daemon = self.echo(self.workers())
        clients = [self.connect(daemon) for _ in range(500)]
        for turn in range(3):
            for number, client in enumerate(clients):
                client.sendall(b"%d/%d" % (number, turn))
            for number, client in enumerate(clients):
                text = b"%d/%d" % (number, turn)
                self.assertEqual(recv_exactly(client, len(text)), text)
        daemon.await_descriptors(500)


class StreamsOfOneWorker(Streams, DaemonTest):
    WORKERS = 1


class StreamsOfTwoWorkers(Streams, DaemonTest):
    WORKERS = 2


# ---- Receivers that are slow or never read.


class SlowReceivers(DaemonTest):
    def test_a_client_that_never_reads_costs_bounded_memory_and_nobody_else(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--buffer_memory=1MiB", "--splice_memory=0"))
        other, other_backend = self.session(daemon, server)
        self.assert_relays(other, other_backend)
        before = daemon.rss()
        _, backend = self.session(daemon, server)
        fill(backend)
        for _ in range(100):
            self.assert_relays(other, other_backend)
        if not SANITIZED:  # which keep what is freed
            self.assertLess(daemon.rss() - before, MIB)

    def test_a_slow_receiver_that_reads_is_not_idle(self):
        """It takes longer than the limit until the kernel reports its socket writable again.

        Not slower than this: a kernel announces new room in its receive buffer only when that is a
        whole segment, 64 KiB on loopback, so until then the daemon sees nothing move."""
        server = self.listen()
        daemon = self.proxy(server, flags=("--idle_timeout=2s",))
        stream = Pattern("slow", 64 * MIB).bytes()
        client, backend = self.session(daemon, server, receive_buffer=256 * KIB)
        sent = fill(backend, stream)
        sipped = sum(self.sip(client) for _ in range(50))
        self.assertLess(sipped, sent)
        self.assertEqual(daemon.descriptors(), daemon.baseline + 2, "ended as idle")

    def sip(self, client):
        time.sleep(0.1)  # The subject of the test is a slow reader.
        return len(recv_exactly(client, 32 * KIB))

    def start_exhausted(self, sessions, workers):
        """More slow receivers than buffers; what each backend has to send."""
        server = self.listen()
        daemon = self.proxy(server, flags=(f"--workers={workers}", "--buffer_memory=256KiB",
                                           "--splice_memory=0"))
        pairs = [self.session(daemon, server) for _ in range(sessions)]
        streams = [Pattern(f"slow {number}", 12 * MIB) for number in range(sessions)]
        senders = Parallel()
        for (_, backend), stream in zip(pairs, streams):
            senders.add(stream.send, backend)
        return daemon, pairs, streams, senders

    def await_standstill(self, daemon):
        """Until its CPU time does not move: all relays wait."""
        def still():
            before = daemon.cpu_seconds()
            time.sleep(0.1)
            return daemon.cpu_seconds() - before < 0.001 * SLOW

        wait_until(still, "all relays to wait")

    def check_exhausted_pool_recovers(self, workers):
        daemon, pairs, streams, senders = self.start_exhausted(16, workers)
        self.await_standstill(daemon)
        receivers = Parallel()
        for (client, _), stream in zip(pairs, streams):
            receivers.add(stream.receive, client)
        receivers.join()
        senders.join()

    def test_an_exhausted_pool_serves_all_and_recovers_with_one_worker(self):
        self.check_exhausted_pool_recovers(1)

    def test_an_exhausted_pool_serves_all_and_recovers_with_two_workers(self):
        self.check_exhausted_pool_recovers(2)

    def test_relays_that_waited_for_a_buffer_go_on_when_the_holders_are_gone(self):
        """Each buffer that comes back wakes one; who needs none must pass it on."""
        daemon, pairs, _, _ = self.start_exhausted(16, workers=1)
        self.await_standstill(daemon)
        server = self._sockets[0]
        quick = [self.session(daemon, server) for _ in range(40)]
        for client, _ in quick:
            client.sendall(b"does it get through?")
        for client, backend in pairs:
            reset(client)
        for _, backend in quick:
            self.assertEqual(recv_exactly(backend, 20), b"does it get through?")
        for client, backend in quick:
            self.assert_relays(client, backend)

    def test_slow_receivers_that_use_up_the_pool_stop_nobody_else(self):
        """More of them than there are buffers: whoever's receiver reads goes on without."""
        daemon, _, _, _ = self.start_exhausted(16, workers=2)
        self.await_standstill(daemon)
        server = self._sockets[0]
        client, backend = self.session(daemon, server)
        for _ in range(20):
            self.assert_relays(client, backend)
        up, down = Pattern("up", 8 * MIB), Pattern("down", 8 * MIB)
        in_parallel((up.send, client), (up.receive, backend),
                    (down.send, backend), (down.receive, client))

    def test_a_backend_that_answers_as_it_reads_does_not_need_two_buffers(self):
        """The upload waits until the backend reads on, and that until its answer is taken."""
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=1", "--buffer_memory=64KiB", "--splice_memory=0"))
        client, backend = self.session(daemon, server)
        stream = Pattern("round trip", 32 * MIB)

        def echo():
            while data := backend.recv(64 * KIB):
                backend.sendall(data)
            backend.shutdown(socket.SHUT_WR)

        in_parallel((stream.send, client), echo, (stream.receive, client))

    def test_an_exhausted_pool_keeps_memory_bounded(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2", "--buffer_memory=512KiB", "--splice_memory=0"))
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)
        before = daemon.rss()
        pairs = [self.session(daemon, server) for _ in range(50)]
        in_parallel(*((fill, backend, b"x" * 65536, 16 * MIB) for _, backend in pairs))
        if not SANITIZED:
            stacks = 50 * 2 * 16 * KIB
            self.assertLess(daemon.rss() - before, stacks + MIB)

    def test_pool_waiters_leave_with_their_sessions(self):
        daemon, pairs, _, _ = self.start_exhausted(16, workers=2)
        self.await_standstill(daemon)
        for client, backend in pairs:
            reset(client)
        daemon.await_descriptors(0)


# ---- Backends.


class Backends(DaemonTest):
    def start_backend(self):
        """A process that accepts one connection and echoes."""
        program = (
            "import socket, sys\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "print(server.getsockname()[1], flush=True)\n"
            "connection = server.accept()[0]\n"
            "while data := connection.recv(65536):\n"
            "    connection.sendall(data)\n")
        process = self.run_program(sys.executable, "-c", program)
        port = wait_until(lambda: self.log_of(process).endswith("\n") and self.log_of(process),
                          "the backend's port")
        return process, f"{HOST}:{int(port)}"

    def test_a_backend_killed_in_mid_stream_ends_the_client(self):
        process, address = self.start_backend()
        daemon = self.proxy(address)
        client = self.connect(daemon)
        self.assert_echoes(client)
        process.kill()
        self.assertIn(recv_to_end(client), ((b"", "fin"), (b"", "reset")))

    def test_a_backend_killed_under_load_ends_the_client(self):
        process, address = self.start_backend()
        daemon = self.proxy(address)
        client = self.connect(daemon)
        flood = Parallel()
        flood.add(self.send_until_broken, client)
        recv_exactly(client, MIB)
        process.kill()
        recv_to_end(client)
        client.close()
        flood.join()
        daemon.await_descriptors(0)

    def send_until_broken(self, client):
        try:
            while True:
                client.sendall(bytes(64 * KIB))
        except OSError:
            pass

    def test_idle_timeout_ends_the_session_of_a_frozen_backend(self):
        process, address = self.start_backend()
        daemon = self.proxy(address, flags=("--idle_timeout=500ms",))
        client = self.connect(daemon)
        self.assert_echoes(client)
        process.send_signal(signal.SIGSTOP)
        self.assertEqual(recv_to_end(client)[0], b"")
        client.close()
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, "idle_timeout": 1})

    def test_half_close_timeout_ends_the_session_of_a_frozen_backend(self):
        process, address = self.start_backend()
        daemon = self.proxy(address, flags=("--half_close_timeout=500ms",))
        client = self.connect(daemon)
        self.assert_echoes(client)
        process.send_signal(signal.SIGSTOP)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(recv_to_end(client)[0], b"")
        client.close()
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, "half_close_timeout": 1})

    def test_a_frozen_backend_leaves_the_sessions_of_others_alone(self):
        process, address = self.start_backend()
        server = self.listen()
        daemon = self.proxy(address, server, flags=("--workers=1",))
        frozen = self.connect(daemon)
        self.assert_echoes(frozen)
        process.send_signal(signal.SIGSTOP)
        client, backend = self.session(daemon, server)
        fill(frozen)
        for _ in range(100):
            self.assert_relays(client, backend)

    def test_a_refused_backend_resets_the_client_and_is_reported_at_most_once_a_second(self):
        address = self.refuses()
        daemon = self.proxy(address)
        started = time.monotonic()
        for _ in range(200):
            self.assert_refused(daemon)
        lines = [line for line in daemon.stderr() if "failed connects" in line]
        self.assertGreaterEqual(len(lines), 1)
        self.assertLessEqual(len(lines), time.monotonic() - started + 1)
        self.assertRegex(lines[0], rf"^parkway: backend {address}: .*refused.* \(1 failed")
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 200, "connect_refused": 200})

    def test_bytes_sent_before_the_backend_is_known_to_refuse(self):
        daemon = self.proxy(self.refuses())
        for _ in range(20):
            try:
                client = self.connect(daemon)
                client.sendall(b"hello?")
            except OSError:
                continue
            self.assertEqual(recv_to_end(client), (b"", "reset"))

    def accepted_of(self, daemon, servers, count):
        """How the sessions spread over the servers."""
        for server in servers:
            server.settimeout(0)
        for _ in range(count):
            self.connect(daemon)
        counts = [0] * len(servers)

        def accept_some():
            for number, server in enumerate(servers):
                try:
                    self.accept(server)
                    counts[number] += 1
                except BlockingIOError:
                    pass
            return sum(counts) == count

        wait_until(accept_some, f"{count} sessions")
        return counts

    def test_backends_take_turns(self):
        for number in (2, 3):
            servers = [self.listen() for _ in range(number)]
            daemon = self.proxy(*servers, flags=("--workers=2",))
            counts = self.accepted_of(daemon, servers, 60)
            self.assertEqual(counts, [60 // number] * number)

    def test_a_refusing_backend_is_passed_over(self):
        servers = [self.listen(), self.listen()]
        daemon = self.proxy(servers[0], self.refuses(), servers[1], flags=("--workers=2",))
        counts = self.accepted_of(daemon, servers, 60)
        self.assertGreaterEqual(min(counts), 15, counts)

    def test_every_backend_is_tried_before_a_client_is_given_up(self):
        """Also when many clients take turns at the same time."""
        last = self.listen()
        daemon = self.proxy(self.blackhole(), self.blackhole(), last,
                            flags=("--workers=2", "--connect_timeout=200ms"))
        self.assertEqual(self.accepted_of(daemon, [last], 40), [40])

    def test_connect_timeout_gives_up_a_backend_that_does_not_answer(self):
        daemon = self.proxy(self.blackhole(), flags=("--connect_timeout=300ms",))
        started = time.monotonic()
        client = self.connect(daemon)
        self.assert_ends(client, "reset")
        self.assertGreater(time.monotonic() - started, 0.25)
        self.assertIn("timed out", daemon.wait_for_line(r"^parkway: backend .*")[0])

    def test_a_backend_that_returns_is_used_again(self):
        port = free_port()
        daemon = self.proxy(f"{HOST}:{port}")
        self.assert_refused(daemon)
        server = self.keep(socket.create_server((HOST, port)))
        self.assert_relays(*self.session(daemon, server))

    def test_unix_sockets_on_both_sides(self):
        front, back = self.folder() + "/front", self.folder() + "/back"
        server = self.listen_unix(back)
        daemon = self.proxy(server, listen="unix:" + front, flags=("--workers=2",))
        pairs = [self.session(daemon, server) for _ in range(10)]
        for client, backend in pairs:
            self.assert_relays(client, backend)
        up, down = Pattern("up", 4 * MIB), Pattern("down", 4 * MIB)
        client, backend = pairs[0]
        in_parallel((up.send, client), (up.receive, backend),
                    (down.send, backend), (down.receive, client))
        client, backend = pairs[1]
        client.close()
        self.assert_ends(backend, "fin")
        self.stop_with_sockets_closed(daemon)
        self.assertFalse(os.path.exists(front))

    def stop_with_sockets_closed(self, daemon):
        for connection in self._sockets:
            connection.close()
        daemon.await_descriptors(0)
        self.stop(daemon)

    def test_an_abstract_unix_socket(self):
        name = f"@parkway-e2e-{secrets.token_hex(8)}"
        daemon = self.start("--mode=echo", f"--listen=unix:{name}")
        self.assert_echoes(self.connect(daemon))

    def test_a_unix_path_left_behind_is_taken_over(self):
        path = self.folder() + "/front"
        first = self.start("--mode=echo", f"--listen=unix:{path}")
        first.kill()
        first.exit_code = -9
        self.assertTrue(os.path.exists(path))
        self.assert_echoes(self.connect(self.start("--mode=echo", f"--listen=unix:{path}")))

    def test_a_file_at_a_unix_path_is_no_socket_left_behind(self):
        path = self.folder() + "/precious"
        Path(path).write_text("data")
        done = run_parkway("--mode=echo", f"--listen=unix:{path}")
        self.assertEqual((done.returncode, done.stderr),
                         (2, f"parkway: --listen=unix:{path}: File exists\n"))
        self.assertEqual(Path(path).read_text(), "data")

    def test_connections_of_a_unix_listener_go_to_all_workers(self):
        path = self.folder() + "/front"
        daemon = self.start("--mode=echo", f"--listen=unix:{path}", "--workers=2")

        def watched():
            return [Path(f"/proc/{daemon.pid}/fdinfo/{fd}").read_text().count("tfd:")
                    for fd, target in daemon.open_files_now() if "eventpoll" in target]

        def both_serve():  # while a worker is late, the other takes all
            self.assert_echoes(self.connect(daemon))
            return min(watched()) >= 3

        wait_until(both_serve, "each worker to watch its eventfd and two clients")

    def test_a_full_unix_backend_is_waited_for(self):
        path = self.folder() + "/back"
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(1)
        self.keep(server)
        daemon = self.proxy(server)
        clients = [self.connect(daemon) for _ in range(20)]
        for client in clients:
            client.sendall(b"me too")
        for _ in clients:
            self.assertEqual(recv_exactly(self.accept(server), 6), b"me too")

    def test_ipv6_on_both_sides(self):
        server = self.listen("::1")
        daemon = self.proxy(server, listen="[::1]:0", flags=("--workers=2",))
        self.assertTrue(daemon.address.startswith("[::1]:"), daemon.address)
        self.assert_relays(*self.session(daemon, server))

    def test_every_address_takes_ipv4_and_ipv6(self):
        daemon = self.start("--mode=echo", "--listen=:0", "--workers=2")
        self.assert_echoes(self.connect(f"{HOST}:{daemon.port}"))
        self.assert_echoes(self.connect(f"[::1]:{daemon.port}"))

    def test_several_listeners(self):
        path = self.folder() + "/front"
        server = self.listen()
        daemon = self.proxy(server, flags=("--listen=[::1]:0", f"--listen=unix:{path}"))
        self.assertEqual(len(daemon.listening), 3)
        for address in daemon.listening:
            client = self.connect(address)
            self.assert_relays(client, self.accept(server))


# ---- Timeouts.


class Timeouts(DaemonTest):
    def test_idle_timeout_ends_a_silent_session(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--idle_timeout=500ms",))
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)
        started = time.monotonic()
        in_parallel((self.assert_ends, client, "fin"), (self.assert_ends, backend, "fin"))
        self.assertGreater(time.monotonic() - started, 0.4)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, "idle_timeout": 1})

    def check_keeps_alive(self, speaker, listener, daemon):
        """For four times the limit, one of the two says something well within it."""
        for _ in range(20):
            time.sleep(0.2)
            speaker.sendall(b".")
            self.assertEqual(recv_exactly(listener, 1), b".")

    def test_bytes_that_came_in_time_win_over_a_daemon_that_was_stopped(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--idle_timeout=1s", "--workers=2"))
        client, backend = self.session(daemon, server)
        self.assert_relays(client, backend)
        daemon.signal(signal.SIGSTOP)
        wait_until(lambda: all("State:\tT" in status for _, status in daemon.threads()),
                   "all its threads to stop")
        client.sendall(b"in time")
        time.sleep(1.5)  # The subject of the test is a daemon that sleeps past its deadline.
        daemon.signal(signal.SIGCONT)
        self.assertEqual(recv_exactly(backend, 7), b"in time")
        self.assert_relays(client, backend)

    def test_bytes_of_one_direction_keep_a_session_alive(self):
        server = self.listen()
        daemon = self.proxy(server, flags=(f"--idle_timeout={SLOW}s",))
        up, down = self.session(daemon, server), self.session(daemon, server)
        in_parallel((self.check_keeps_alive, *up, daemon),
                    (self.check_keeps_alive, *reversed(down), daemon))

    def test_half_close_timeout_ends_the_silent_rest(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--half_close_timeout=500ms", "--workers=2"))
        first, second = self.session(daemon, server), self.session(daemon, server)
        quiet = self.session(daemon, server)
        started = time.monotonic()
        first[0].shutdown(socket.SHUT_WR)
        second[1].shutdown(socket.SHUT_WR)
        for client, backend in (first, second):
            self.assert_ends(client, "fin")
            self.assert_ends(backend, "fin")
        self.assertGreater(time.monotonic() - started, 0.4)
        daemon.await_descriptors(2)  # the third has not half-closed
        self.assert_relays(*quiet)

    def test_bytes_keep_a_half_closed_session_alive(self):
        server = self.listen()
        daemon = self.proxy(server, flags=(f"--half_close_timeout={SLOW}s",))
        client, backend = self.session(daemon, server)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin")
        self.check_keeps_alive(backend, client, daemon)

    def test_without_timeouts_silence_lasts(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--idle_timeout=0", "--half_close_timeout=0"))
        client, backend = self.session(daemon, server)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin")
        self.assert_silent(client, 1)
        backend.sendall(b"late")
        self.assertEqual(recv_exactly(client, 4), b"late")


# ---- Limits.


class Limits(DaemonTest):
    def check_max_conns(self, most, workers, extra=5):
        """`most` are served at a time; the others are, when those leave."""
        server = self.listen()
        daemon = self.proxy(server, flags=(f"--max_conns={most}", f"--workers={workers}"))
        clients = [self.connect(daemon) for _ in range(most + extra)]
        for number, client in enumerate(clients):
            client.sendall(b"%3d" % number)
        served, backends = set(), {}
        while len(served) < len(clients):
            backend = self.accept(server)
            number = int(recv_exactly(backend, 3))
            served.add(number)
            backends[number] = backend
            if len(backends) < most:
                continue
            server.settimeout(0.1)
            with self.assertRaises(TimeoutError):
                self.accept(server)
            server.settimeout(PATIENCE)
            number, backend = backends.popitem()
            backend.close()
            self.assert_ends(clients[number], "fin")
            clients[number].close()

    def test_max_conns_with_one_worker(self):
        self.check_max_conns(4, workers=1)

    def test_max_conns_with_two_workers(self):
        self.check_max_conns(4, workers=2)

    def test_max_conns_of_one_with_one_worker(self):
        self.check_max_conns(1, workers=1)

    def test_max_conns_of_one_with_two_workers(self):
        self.check_max_conns(1, workers=2)

    def test_max_conns_of_one_with_many_workers(self):
        """More listening sockets than sessions."""
        self.check_max_conns(1, workers=16)

    def test_max_conns_of_echo(self):
        daemon = self.echo("--max_conns=2", "--workers=1")
        clients = [self.connect(daemon) for _ in range(4)]
        for client in clients:
            client.sendall(b"x")
        served = [client for client in clients if self.answers(client)]
        self.assertEqual(len(served), 2)
        for client in served:
            client.close()
        for client in set(clients) - set(served):
            self.assertEqual(recv_exactly(client, 1), b"x")

    def answers(self, client):
        client.settimeout(0.3 * SLOW)
        try:
            return client.recv(1) == b"x"
        except TimeoutError:
            return False
        finally:
            client.settimeout(PATIENCE)

    def test_a_limit_above_what_descriptors_allow_is_refused(self):
        done = run_parkway("--mode=echo", f"--listen={HOST}:0", "--max_conns=1000", nofile=300)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr,
                         r"\Aparkway: --max_conns=1000: [^\n]*300 open files[^\n]*\n\Z")

    def test_a_stray_sigusr2_leaves_the_other_signals_alone(self):
        daemon = self.echo()
        for _ in range(3):
            daemon.signal(signal.SIGUSR2)
        self.assert_echoes(self.connect(daemon))
        daemon.await_descriptors(1)
        for connection in self._sockets:
            connection.close()
        self.stop(daemon)

    def test_the_limit_follows_from_the_descriptors(self):
        kept = 256 + 2 * (1000 // 64)  # two for each pipe
        self.assertEqual(self.echo(nofile=1000).max_conns, 1000 - kept)
        self.assertEqual(self.proxy(self.refuses(), nofile=1000).max_conns, (1000 - kept) // 2)
        without = self.echo("--splice_memory=0", nofile=1000)
        self.assertEqual(without.max_conns, 1000 - 256)

    def test_echo_survives_without_descriptors_and_resumes(self):
        daemon = self.echo("--workers=2")
        old = self.connect(daemon)
        self.assert_echoes(old)
        hard = self.starve(daemon, spare=3)
        crowd = [self.connect(daemon) for _ in range(10)]
        wait_until(lambda: daemon.descriptors() >= daemon.baseline + 4, "its last descriptors")
        cpu, started = daemon.cpu_seconds(), time.monotonic()
        self.assert_echoes(old)
        time.sleep(0.5)
        share = (daemon.cpu_seconds() - cpu) / (time.monotonic() - started)
        self.assertLess(share, 0.05 * SLOW, "it spins")
        self.feed(daemon, hard)
        for client in crowd:
            client.sendall(b"x")
        answered = sum(self.echoes_or_is_closed(client) for client in crowd)
        self.assertGreaterEqual(answered, 3)
        for _ in range(10):
            self.assert_echoes(self.connect(daemon))
        self.assert_echoes(old)

    def echoes_or_is_closed(self, client):
        """After a second without descriptors some of the queue are closed unserved."""
        try:
            return client.recv(1) == b"x"
        except ConnectionResetError:
            return False

    def test_proxy_survives_without_descriptors_for_backends_and_resumes(self):
        server = self.listen()
        daemon = self.proxy(server, flags=("--workers=2",))
        old = self.session(daemon, server)
        self.assert_relays(*old)
        hard = self.starve(daemon, spare=1)  # for the client, none for its backend
        self.assert_refused(daemon)
        self.assertIn("open files", daemon.wait_for_line(r"^parkway: backend .*")[0])
        self.assert_relays(*old)
        self.feed(daemon, hard)
        self.assert_relays(*self.session(daemon, server))


if __name__ == "__main__":
    main()
