# SPDX-License-Identifier: Apache-2.0
"""Idle connections that make a Parkway of two workers place all further ones on one of them."""

import contextlib
import re
import socket
from pathlib import Path

from harness import lockstep
from harness.process import BenchError

COUNT = 200


@contextlib.contextmanager
def one_sided(server):
    """Of COUNT idle connections only those of one worker stay, which so has more than the other."""
    with contextlib.ExitStack() as stack:
        clients = lockstep.connect(stack, server.port, COUNT)
        lockstep.exchange(clients, 1)  # from here on each is waited for
        first, second = _ports_by_epoll(server.pids()[0], server.port)
        gone = min(first, second, key=len)
        if not gone or len(gone) == COUNT:
            raise BenchError(f"of {COUNT} connections one worker got {len(gone)}")
        for client in clients:
            if client.getsockname()[1] in gone:
                client.shutdown(socket.SHUT_WR)
                client.recv(1)  # it has ended there
        yield


def _ports_by_epoll(pid, port):
    """The client ports that each of the process's two epolls watches."""
    by_inode = {}  # the socket's: its peer's port
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            by_inode[fields[9]] = int(fields[2].partition(":")[2], 16)
    epolls = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        watched = re.findall(r"^tfd:\s*(\d+)", info.read_text(), re.MULTILINE)
        links = (Path(f"/proc/{pid}/fd/{fd}").readlink().name for fd in watched)
        ports = {by_inode.get(link.removeprefix("socket:[").removesuffix("]")) for link in links}
        if watched:
            epolls.append(ports - {None, 0})  # 0: a listener
    if len(epolls) != 2:
        raise BenchError(f"the server has {len(epolls)} epolls, not 2")
    return epolls
