#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that besiege a listener: a program, so that they take no time from who measures.

Keeps so many connections open at a time, from many addresses, until SIGTERM: every second all whose
connection has ended come again. Each says at once as much as it is told, and then a byte a second.
Prints a line when all have come, and at its end, as JSON, how many connections were served (got a
byte back), ended without one, or failed to begin.
"""

import argparse
import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import IP_BIND_ADDRESS_NO_PORT, sockaddr_of  # noqa: E402


class Siege:
    def __init__(self, where, sources, words, at_once):
        self._where, self._sources = where, sources
        self._words, self._at_once = words, at_once  # what each source says, how much of it at once
        self._epoll = select.epoll()
        self._clients = {}  # by descriptor: [socket, its words, how much of them is said]
        self._begun = 0
        self.counts = {"served": 0, "ended": 0, "failed": 0}

    def come(self):
        source = self._sources[self._begun % len(self._sources)]
        self._begun += 1
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((source, 0))
        with contextlib.suppress(BlockingIOError):
            client.connect(self._where)
        self._clients[client.fileno()] = [client, self._words[source], 0]
        self._epoll.register(client.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def go(self, fd, how):
        self.counts[how] += 1
        self._epoll.unregister(fd)
        self._clients.pop(fd)[0].close()

    def say(self, fd, count):
        client, words, said = self._clients[fd]
        piece = words[said:said + count]
        client.sendall(piece)
        self._clients[fd][2] += len(piece)

    def serve(self, fd, events):
        """What has become of one."""
        client, words, said = self._clients[fd]
        try:
            if said == 0 and events & select.EPOLLOUT:  # it is connected
                self.say(fd, self._at_once or len(words))
                self._epoll.modify(fd, select.EPOLLIN)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self.go(fd, "served" if client.recv(4096) else "ended")
        except OSError:
            self.go(fd, "failed" if said == 0 else "ended")

    def drip(self):
        for fd, (_, _, said) in list(self._clients.items()):
            if said > 0:
                with contextlib.suppress(OSError):  # its end is told by epoll
                    self.say(fd, 1)

    def run(self, count):
        turn = time.monotonic()
        while True:
            if time.monotonic() >= turn:
                self.drip()
                while len(self._clients) < count:
                    self.come()
                if self._begun == count:
                    print("all have come", flush=True)
                turn += 1
            for fd, events in self._epoll.poll(max(0, turn - time.monotonic())):
                self.serve(fd, events)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--sources", required=True, help="addresses, separated by commas")
    parser.add_argument("--hello", required=True, help="hexadecimal")
    parser.add_argument("--header", action="store_true", help="say first who it is, to a proxy")
    parser.add_argument("--at_once", type=int, default=0, help="so many bytes; 0 is all")
    given = parser.parse_args()
    os.nice(10)  # as if on another machine, they take no time that the daemon needs
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def words(source):
        header = b"PROXY TCP4 %s 127.0.0.1 1 2\r\n" % source.encode() if given.header else b""
        return header + bytes.fromhex(given.hello)

    sources = given.sources.split(",")
    siege = Siege(sockaddr_of(given.to)[1], sources, {s: words(s) for s in sources}, given.at_once)

    def end(*_):
        print(json.dumps(siege.counts), flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    siege.run(given.count)


if __name__ == "__main__":
    main()
