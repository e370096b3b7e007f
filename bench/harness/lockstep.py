# SPDX-License-Identifier: Apache-2.0
"""A client in lockstep, for what is counted and not timed.

On every connection a request, then all the answers.
"""

import socket

from harness.process import BenchError, HOST

ANSWER_SECONDS = 60


def connect(stack, port, count):
    """That many connections, which end with the stack."""
    clients = [stack.enter_context(socket.create_connection((HOST, port), ANSWER_SECONDS))
               for _ in range(count)]
    for client in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return clients


def exchange(clients, payload):
    """All of them are active at once; every answer is compared."""
    request = bytes(index % 251 for index in range(payload))
    for client in clients:
        client.sendall(request)
    for client in clients:
        if client.recv(payload, socket.MSG_WAITALL) != request:
            raise BenchError("the server did not echo what it was sent")


def finish(clients):
    """The clients end first, and see the server end."""
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    for client in clients:
        if client.recv(1) != b"":
            raise BenchError("the server sent more than it was sent")
