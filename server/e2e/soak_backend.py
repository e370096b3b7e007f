#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The wire between the soak's sessions and its backends; as a program, one backend.

A session begins with a header, which says what it will be; the backend answers with a greeting,
which says who it is, so that the soak knows which sessions a fault hits. On stdout the backend
prints a line per session: its id, how it ended, and how many bytes of it were right.
"""

import contextlib
import functools
import hashlib
import os
import random
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, SLOW, EarlyEnd, Pattern, WrongBytes, recv_exactly, reset)

HEADER = struct.Struct("!QBQQ")  # id, kind, bytes up, bytes down
GREETING = struct.Struct("!HH")  # the backend's number, the port of the daemon's end

# What the backend does. The clients' part is in soak.py.
ECHO = 0  # what comes goes back
STREAM = 1  # both ways at the same time
ANSWER = 2  # down after all of up
SLOW_UP = 3  # as STREAM, and reads slowly

PATIENCE = 45 * SLOW  # seconds a call may block; the longest fault and what follows take a third


class Stream(Pattern):
    """A Pattern that is made at once: one of a few blocks, from a place that the key chooses."""

    @staticmethod
    @functools.lru_cache(maxsize=None)
    def _block_of(number):
        # Three pieces, the last a copy of the first, so that any window of two lies within.
        block = hashlib.shake_256(f"soak {number}".encode()).digest(2 * Pattern.PIECE)
        return block + block[:Pattern.PIECE]

    def __init__(self, key, size):  # pylint: disable=super-init-not-called
        self.size = size
        place = key * 24_593 % self.PIECE
        self._block = memoryview(self._block_of(key % 16))[place:place + 2 * self.PIECE]


def up(number, size):
    return Stream(2 * number, size)


def down(number, size):
    return Stream(2 * number + 1, size)


RESETS = (ConnectionResetError, ConnectionAbortedError)


def prepare(connection):
    """So that a peer that has vanished without a word, its reset lost by a fault, is noticed."""
    connection.settimeout(PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 10)


def exchange(connection, sent, received, took):
    """Sends one stream and verifies the other at the same time. The kernel tells of a reset once:
    when it has told the sender, the end that is received looks like a FIN."""
    failures = []

    def send():
        try:
            sent.send(connection)
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    error = None
    try:
        received.receive(connection, took=took)
    except (OSError, AssertionError) as failure:
        error = failure
        shut_down(connection)  # wakes the sender, whose EPIPE then means nothing
    sender.join()
    was_reset = bool(failures) and isinstance(failures[0], RESETS)
    if isinstance(error, EarlyEnd) and was_reset:
        raise failures[0]
    if error is not None:
        raise error
    if failures:
        raise failures[0]


def shut_down(connection):
    with contextlib.suppress(OSError):  # the connection is gone
        connection.shutdown(socket.SHUT_RDWR)


def outcome_of(error):
    if isinstance(error, WrongBytes):
        return "wrong"
    if isinstance(error, EarlyEnd):
        return "short"
    if isinstance(error, TimeoutError) and error.errno is None:  # else the kernel's ETIMEDOUT
        return "stuck"
    return "cut"


class Backend:
    def __init__(self, number, *lies):
        self._number, self._lies = number, lies == ("lies",)

    def serve(self, connection, peer):
        prepare(connection)
        moved = [0]

        def took(count):
            moved[0] += count

        number = None
        try:
            number, kind, up_bytes, down_bytes = HEADER.unpack(
                recv_exactly(connection, HEADER.size))
            connection.sendall(GREETING.pack(self._number, peer[1]))
            if kind == ECHO:
                self._echo(connection, took)
            else:
                streams = up(number, up_bytes), self._answer(number, down_bytes)
                self._exchange(connection, kind, *streams, took)
            outcome = "done"
        except (OSError, AssertionError) as error:
            outcome = outcome_of(error)
        # Not by a FIN, which would say that all is well.
        connection.close() if outcome == "done" else reset(connection)
        if number is not None:
            os.write(1, f"{number} {outcome} {moved[0]}\n".encode())  # lines of threads stay whole

    @staticmethod
    def _echo(connection, took):
        while data := connection.recv(Pattern.PIECE):
            connection.sendall(data)
            took(len(data))

    def _answer(self, number, size):
        if self._lies and number % 100 == 50:
            return down(number + 1, size)
        if self._lies and number % 100 == 51:
            return down(number, size - 1)
        return down(number, size)

    @staticmethod
    def _exchange(connection, kind, received, sent, took):
        if kind == ANSWER:
            received.receive(connection, took=took)
            sent.send(connection)
            return

        def slowly(count):
            took(count)
            time.sleep(random.uniform(0.001, 0.02))  # The subject is a slow reader.

        exchange(connection, sent, received, slowly if kind == SLOW_UP else took)


def main():
    number, port = int(sys.argv[1]), int(sys.argv[2])
    backend = Backend(number, *sys.argv[3:])
    server = socket.create_server((HOST, port), backlog=4096)
    threading.stack_size(256 * KIB)
    threading.Thread(target=accept, args=(server, backend), daemon=True).start()
    sys.stdin.read()  # until the soak ends, however it does
    os._exit(0)  # sessions may still be open


def accept(server, backend):
    while True:
        connection, peer = server.accept()
        threading.Thread(target=backend.serve, args=(connection, peer), daemon=True).start()


if __name__ == "__main__":
    main()
