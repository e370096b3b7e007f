# SPDX-License-Identifier: Apache-2.0
"""Starts the real daemon for a test, watches it, and ends it.

A test derives from DaemonTest. What it opens through it (daemons, sockets, programs) is closed at
its end, and every daemon must then hold no descriptor more than it started with, drain on SIGTERM
with exit code 0 and print its summary. A sanitizer's report or a failed CHECK fails the test.

The daemon is the one Bazel built; $PARKWAY names another. All ports are the kernel's choice.
"""

import collections
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import types
import unittest
from pathlib import Path

HOST = "127.0.0.1"
PR_CAPBSET_DROP = 24
CLONE_NEWNET = 0x40000000
IP_BIND_ADDRESS_NO_PORT = 24  # which Python has not
KIB, MIB = 1 << 10, 1 << 20


def find_parkway():
    here = Path(__file__).absolute().parent
    beside = here.parent / "parkway"  # in Bazel's runfiles
    built = here.parent.parent / "bazel-bin/server/parkway"  # run by hand
    return os.environ.get("PARKWAY") or str(beside if beside.exists() else built)


PARKWAY = find_parkway()
_BINARY = Path(PARKWAY).read_bytes()
SANITIZED = b"__asan_init" in _BINARY or b"__tsan_init" in _BINARY
del _BINARY
SLOW = 5 if SANITIZED else 1  # how much longer everything may take
PATIENCE = 20 * SLOW  # seconds until a wait has failed; a test that passes never waits so long

TROUBLE = re.compile(
    r"Sanitizer|runtime error:|CHECK failed|Check failed|SIGSEGV|SIGABRT|stack overflow|what\(\)")


def wait_until(condition, what, patience=PATIENCE):
    """Returns the first true value of condition()."""
    deadline = time.monotonic() + patience
    pause = 0.001
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience} s in vain: {what}")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return value


def limiting(nofile=None, cpus=None, without_capabilities=()):
    """What a child does before it becomes the program."""

    def limit():
        if nofile is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
        if cpus is not None:
            os.sched_setaffinity(0, cpus)
        for capability in without_capabilities:  # fails if the test has none itself
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)

    return limit


class Daemon:
    """A running Parkway that has printed its banner."""

    def __init__(self, *flags, env=None, wrapper=(), **limits):
        self.flags = flags
        if SANITIZED and not any(flag.startswith("--stall_report") for flag in flags):
            # Whose work stops workers, and reports would come between lines that are awaited.
            flags = ("--stall_report=0", *flags)
        self.exit_code = None
        self._lines = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [*wrapper, PARKWAY, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**os.environ, **(env or {})}, preexec_fn=limiting(**limits))
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()
        self._await_banner()
        self.baseline = self._descriptors_at_start()

    # ---- What it says.

    def _read_stderr(self):
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._lines.append(None)
            self._changed.notify_all()

    def stderr(self):
        with self._changed:
            return [line for line in self._lines if line is not None]

    def wait_for_line(self, pattern, patience=PATIENCE):
        """The match of the first line on stderr that has one."""

        def found():
            for line in self._lines:
                if line is None or (match := re.search(pattern, line)):
                    return True if line is None else match
            return None

        with self._changed:
            match = self._changed.wait_for(found, patience)
        if match in (None, True, False):
            raise AssertionError(f"no line {pattern!r} from {self.flags}:\n{self.report()}")
        return match

    def report(self):
        return "\n".join(["  stderr | " + line for line in self.stderr()])

    def _await_banner(self):
        self.workers = int(self.wait_for_line(r"^parkway .*, (\d+) workers")[1])
        self.listening = self.wait_for_line(r"^  listening on (.*)")[1].split()
        limits = self.wait_for_line(r"^  limits +(\d+) connections \((\d+) open files\)")
        self.max_conns, self.open_files = int(limits[1]), int(limits[2])
        # The line is the banner's last but for the one to try, which is written with it.

    # ---- Where it listens.

    @property
    def address(self):
        return self.listening[0]

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    # ---- What it holds, from /proc.

    def descriptors(self):
        """Without those of the pipes that large flows go through."""
        return len(self.open_files_now()) - 2 * self.pipes()

    def pipes(self):
        return sum(fd > 2 and target.startswith("pipe:")
                   for fd, target in self.open_files_now()) // 2

    def _descriptors_at_start(self):
        """Which it holds shortly after the banner."""
        doors = sum(1 if at.startswith("unix:") else self.workers for at in self.listening)
        embedded = not any(re.match("--(mode|listen|backend|flagfile|route)", f) for f in self.flags)
        doors += 2 * self.workers if embedded else 0
        # Standard streams; epoll and eventfd; the listening socket and its reserve.
        expected = 3 + 2 * self.workers + 2 * doors
        wait_until(lambda: self.descriptors() == expected,
                   f"{expected} descriptors\n{self.report()}")
        return expected

    def open_files_now(self):
        """Without the programs and libraries that a stall report has opened for their symbols."""
        folder = f"/proc/{self.pid}/fd"
        found = []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"{folder}/{name}")
                if not target.startswith("/") or target == "/dev/null":
                    found.append((int(name), target))
        return found

    def status(self, field):
        text = Path(f"/proc/{self.pid}/status").read_text()
        return re.search(rf"^{field}:\s*(.*)", text, re.MULTILINE)[1]

    def rss(self):
        return int(self.status("VmRSS").split()[0]) * KIB

    def cpu_seconds(self):
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            total += int(Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text().split()[0])
        return total / 1e9

    def threads(self):
        """Names of its threads with their status files."""
        tasks = Path(f"/proc/{self.pid}/task")
        return [((t / "comm").read_text().strip(), (t / "status").read_text())
                for t in tasks.iterdir()]

    def watched(self):
        """How many descriptors each of its epolls watches."""
        texts = [path.read_text() for path in Path(f"/proc/{self.pid}/fdinfo").iterdir()]
        return [text.count("tfd:") for text in texts if "tfd:" in text]

    def await_descriptors(self, extra, patience=PATIENCE):
        """Waits until it holds exactly `extra` more than at its start; without any extra, also no
        pipe but the one that each worker keeps."""

        def reached():
            return (self.descriptors() == self.baseline + extra and
                    (extra > 0 or self.pipes() <= self.workers))

        try:
            wait_until(reached, "", patience)
        except AssertionError:
            held = "\n".join(f"  fd {fd} | {target}" for fd, target in self.open_files_now())
            raise AssertionError(f"{self.descriptors()} descriptors and {self.pipes()} pipes, "
                                 f"expected {self.baseline} + {extra}\n{held}\n{self.report()}") from None

    # ---- Its end.

    def signal(self, number):
        os.kill(self.pid, number)

    def running(self):
        return self.process.poll() is None

    def wait(self, patience=PATIENCE):
        """Its exit code."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience} s\n{self.report()}") from None
        self._reader.join()
        self.exit_code = self.process.returncode
        return self.exit_code

    def summary(self):
        """What the line at its end counts, such as {'served': 3, 'client_fin': 3}."""
        line = self.wait_for_line(r"^parkway: served (\d+) connections(.*)")
        counts = {name: int(count) for name, count in re.findall(r", (\w+) (\d+)", line[2])}
        return {"served": int(line[1]), **counts}

    def check_end(self, code):
        """Fails unless it has ended, or now ends, in the orderly way."""
        if self.wait() != code:
            raise AssertionError(f"exit code {self.exit_code}, expected {code}\n{self.report()}")
        if self.trouble():
            raise AssertionError(f"trouble on stderr:\n{self.report()}")
        self.summary()

    def trouble(self):
        return any(TROUBLE.search(line) for line in self.stderr())

    def kill(self):
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()


def run_parkway(*flags, patience=PATIENCE, env=None, **limits):
    """Runs it to its end, for what must not serve."""
    return subprocess.run([PARKWAY, *flags], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=patience, env={**os.environ, **(env or {})}, preexec_fn=limiting(**limits),
                          text=True, errors="replace")


# ---- Sockets.


def free_port():
    """Free at the moment, for those that cannot take port 0. Not one that the kernel may give to a
    client meanwhile."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, lowest) if lowest > 11_000 else 0
        with contextlib.suppress(OSError), socket.create_server((HOST, port)) as probe:
            return probe.getsockname()[1]


def address_of(server):
    """As --backend and --listen write it."""
    name = server.getsockname()
    if server.family == socket.AF_UNIX:
        return "unix:" + name
    host = f"[{name[0]}]" if server.family == socket.AF_INET6 else name[0]
    return f"{host}:{name[1]}"


def sockaddr_of(address):
    """(family, what connect takes) of such text."""
    if address.startswith("unix:"):
        path = address[len("unix:"):]
        return socket.AF_UNIX, "\0" + path[1:] if path.startswith("@") else path
    host, port = address.rsplit(":", 1)
    if host.startswith("["):
        return socket.AF_INET6, (host[1:-1], int(port))
    return socket.AF_INET, (host, int(port))


def reset(connection):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def unacknowledged(connection):
    """Bytes the peer's kernel has not taken yet."""
    answer = fcntl.ioctl(connection, termios.TIOCOUTQ, struct.pack("i", 0))
    return struct.unpack("i", answer)[0]


def unread(connection):
    """Bytes that wait here."""
    answer = fcntl.ioctl(connection, termios.FIONREAD, struct.pack("i", 0))
    return struct.unpack("i", answer)[0]


Queued = collections.namedtuple("Queued", "state unsent unread")
STATES = {"01": "ESTABLISHED", "04": "FIN_WAIT1", "05": "FIN_WAIT2"}


def queued(local, remote):
    """What the kernel holds of a connection of another process, named by its addresses."""
    here, there = (f"0100007F:{port:04X}" for _, port in (local, remote))
    table = Path("/proc/net/tcp").read_text()
    found = re.search(rf" {here} {there} (\w\w) (\w+):(\w+)", table)
    if found is None:
        return Queued("", 0, 0)
    return Queued(STATES.get(found[1], found[1]), int(found[2], 16), int(found[3], 16))


def break_connections(pairs):
    """Breaks connections of other processes, as an administrator may: who holds one is told
    ECONNABORTED, and its peer gets a reset. Of each pair of ports the first is the end to break."""
    # Not an end whose program has closed it, with both FINs sent: from LAST_ACK and CLOSING the
    # kernel sends no reset (Linux 6.18), so the peer would wait for what was thrown away.
    states = ("exclude", "last-ack", "exclude", "closing")
    which = " or ".join(f"( sport = :{here} and dport = :{there} )" for here, there in pairs)
    subprocess.run(["ss", "-K", "-t", "-H", *states, which],
                   env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def send_all_acknowledged(connection, data):
    connection.sendall(data)
    wait_until(lambda: unacknowledged(connection) == 0, "the peer's kernel takes the bytes")


def fill(connection, pattern=b"x" * 65536, limit=1 << 40, quiet=0.3):
    """Sends until nothing has moved for `quiet` seconds; how much that was."""
    connection.setblocking(False)
    sent, still_since = 0, time.monotonic()
    while time.monotonic() - still_since < quiet and sent < limit:
        try:
            at = sent % len(pattern)
            sent += connection.send(memoryview(pattern)[at:][:limit - sent])
            still_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.005)
    connection.settimeout(PATIENCE)
    return sent


class EarlyEnd(AssertionError):
    """A FIN where bytes were to come."""


class WrongBytes(AssertionError):
    """Not what the other side sent."""


def recv_exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EarlyEnd(f"the end after {len(data)} of {count} bytes: {bytes(data[-80:])}")
        data += piece
    return bytes(data)


def recv_to_end(connection):
    """(what came until FIN or reset, "fin" or "reset")"""
    data = bytearray()
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            return bytes(data), "reset"
        if not piece:
            return bytes(data), "fin"
        data += piece


class Pattern:
    """A stream that never repeats within its length, made and checked piece by piece."""

    PIECE = 1 << 16

    def __init__(self, seed, size):
        self.size = size
        self._block = hashlib.shake_256(str(seed).encode()).digest(2 * self.PIECE)

    def piece(self, at):
        """Bytes from `at` on, at most PIECE and not past a multiple of it."""
        number, offset = divmod(at, self.PIECE)
        start = number * 8191 % self.PIECE  # each piece begins elsewhere
        return memoryview(self._block)[start + offset:start + self.PIECE][:self.size - at]

    def bytes(self):
        return b"".join(bytes(self.piece(at)) for at in range(0, self.size, self.PIECE))

    def send(self, connection):
        at = 0
        while at < self.size:
            piece = self.piece(at)
            connection.sendall(piece)
            at += len(piece)
        connection.shutdown(socket.SHUT_WR)

    def receive(self, connection, stop=None, took=lambda count: None):
        """Reads to FIN, or `stop` bytes, and raises at the first byte that differs. `took` is
        called with the size of each piece that was right."""
        at, stop = 0, self.size + 1 if stop is None else stop
        buffer = bytearray(self.PIECE)
        while at < stop:
            count = connection.recv_into(buffer, min(self.PIECE, stop - at))
            if count == 0:
                break
            self._check(memoryview(buffer)[:count], at)
            at += count
            took(count)
        if at != min(stop, self.size):
            raise EarlyEnd(f"the end after {at} of {self.size} bytes")

    def _check(self, got, at):
        while len(got) > 0:
            expected = self.piece(at)
            count = min(len(expected), len(got))
            # Copies, since memoryviews are compared one by one: fifty times slower.
            if count == 0 or bytes(got[:count]) != bytes(expected[:count]):
                raise WrongBytes(f"wrong bytes within {count} of {at}")
            got, at = got[count:], at + count


class Parallel:
    """Calls that run at the same time on threads; join() raises what one of them raised."""

    def __init__(self):
        self._threads, self._errors = [], []

    def add(self, function, *arguments):
        def run():
            try:
                function(*arguments)
            except BaseException as error:  # pylint: disable=broad-except
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, patience=3 * PATIENCE):
        deadline = time.monotonic() + patience
        for thread in self._threads:
            while thread.is_alive() and not self._errors:
                thread.join(0.05)
                if time.monotonic() > deadline:
                    raise AssertionError(f"not done after {patience} s")
        if self._errors:
            raise self._errors[0]


def in_parallel(*calls):
    """Each call is a function, or a tuple of one with its arguments."""
    parallel = Parallel()
    for call in calls:
        parallel.add(*(call if isinstance(call, tuple) else (call,)))
    parallel.join()


# ---- The test.


class DaemonTest(unittest.TestCase):
    """Has what a test needs to start; takes it down and looks for what is left."""

    def __init__(self, method="runTest"):
        super().__init__(method)
        noting = self._noting_failure(getattr(self, method))
        setattr(self, method, types.MethodType(noting, self))  # a method: loaders ask

    @staticmethod
    def _noting_failure(test):
        """unittest does not tell tearDown how the test went."""

        @functools.wraps(test)
        def noting(this):
            try:
                test()
            except unittest.SkipTest:
                raise
            except BaseException:
                this._failed = True
                raise

        return noting

    def setUp(self):
        self._daemons, self._sockets, self._programs = [], [], []
        self._folder = None
        self._failed = False

    # ---- Daemons.

    def start(self, *flags, **options):
        daemon = Daemon(*flags, **options)
        self._daemons.append(daemon)
        return daemon

    def echo(self, *flags, **options):
        return self.start("--mode=echo", f"--listen={HOST}:0", *flags, **options)

    def proxy(self, *backends, flags=(), listen=f"{HOST}:0", **options):
        """Before the given backends: listening sockets or addresses."""
        named = [b if isinstance(b, str) else address_of(b) for b in backends]
        return self.start(f"--listen={listen}", *(f"--backend={b}" for b in named), *flags,
                          **options)

    def stop(self, daemon, code=0, number=signal.SIGTERM):
        """As an operator does, now instead of at the end of the test."""
        daemon.signal(number)
        daemon.check_end(code)

    def await_refusal(self, daemon):
        """Until its listeners are closed. A connect would be one more client."""
        listening = f" 0100007F:{daemon.port:04X} 00000000:0000 0A "
        wait_until(lambda: listening not in Path("/proc/net/tcp").read_text(),
                   "the listeners close")

    def signal_twice(self, daemon):
        daemon.signal(signal.SIGTERM)
        self.await_refusal(daemon)  # two signals at once are one
        daemon.signal(signal.SIGTERM)

    def starve(self, daemon, spare):
        """Leaves it `spare` descriptors more than it has now."""
        highest = max(fd for fd, _ in daemon.open_files_now())
        _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
        return hard

    def feed(self, daemon, hard):
        """Undoes starve."""
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))

    # ---- Sockets, closed at the end of the test.

    def keep(self, connection):
        connection.settimeout(PATIENCE)
        self._sockets.append(connection)
        return connection

    def listen(self, host=HOST, backlog=4096, receive_buffer=None):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = socket.socket(family)
        if receive_buffer is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        server.bind((host, 0))
        server.listen(backlog)
        return self.keep(server)

    def listen_unix(self, path):
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(4096)
        return self.keep(server)

    def refuses(self):
        """An address that refuses connections and is nobody else's meanwhile."""
        holder = self.keep(socket.socket())
        holder.bind((HOST, 0))
        return address_of(holder)

    def blackhole(self):
        """An address where connects neither succeed nor fail: its queue is full."""
        server = self.listen(backlog=0)
        for _ in range(4):
            filler = self.keep(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        return server

    def connect(self, to, receive_buffer=None, source=None):
        """To a daemon or an address, maybe from an IPv4 address."""
        family, where = sockaddr_of(to.address if isinstance(to, Daemon) else to)
        client = self.keep(socket.socket(family))
        if source is not None:
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((source, 0))
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(where)
        return client

    def skip_if_taken(self, port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                self.skipTest(f"port {port} is taken by another program")

    def assert_refused(self, to, source=None):
        """A new connection to a daemon ends by reset, which connect() itself may tell already."""
        try:
            client = self.connect(to, source=source)
        except ConnectionResetError:
            return
        self.assert_ends(client, "reset")
        client.close()

    def accept(self, server):
        connection = self.keep(server.accept()[0])
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def session(self, daemon, server, receive_buffer=None):
        """(client, backend), both ends of a new one."""
        client = self.connect(daemon, receive_buffer)
        return client, self.accept(server)

    # ---- Backends that say their name, which is one byte, to whoever connects, and echo then.

    def named(self, name):
        """The address of a new one."""
        return address_of(self.serve_as(name, self.listen()))

    def serve_as(self, name, server):
        """Makes a bound socket one; returns it."""
        server.listen(4096)

        def accept():
            while server.fileno() >= 0:  # until it is closed, at the end of the test
                with contextlib.suppress(OSError):  # a check may be gone already
                    connection = self.keep(server.accept()[0])
                    connection.sendall(name)  # whoever reads it may end the test: it is kept by then
                    threading.Thread(target=echo, args=(connection,), daemon=True).start()

        def echo(connection):
            with contextlib.suppress(OSError):
                while piece := connection.recv(4096):
                    connection.sendall(piece)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        return server

    def who_serves(self, at, source=None):
        """The name of the backend that a new client of a daemon, or of an address, gets."""
        client = self.connect(at, source=source)
        name = recv_exactly(client, 1)
        client.close()
        return name

    def limit_ports(self, count):
        """What connects has so many ports, until the test ends. In a namespace only."""
        assert in_namespace()
        ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
        self.addCleanup(ports.write_text, ports.read_text())
        ports.write_text(f"40000 {40000 + count - 1}")

    # ---- Other programs.

    def await_listening(self, address, program):
        """Until the program of that Popen accepts connections there."""
        family, where = sockaddr_of(address)

        def accepts():
            if program.poll() is not None:
                raise AssertionError(f"{program.args} ended with {program.returncode}")
            with socket.socket(family) as probe:
                return probe.connect_ex(where) == 0

        wait_until(accepts, f"{address} accepts")

    def folder(self):
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="parkway-e2e-")
        return self._folder

    def run_program(self, *command):
        """Started in the background, ended with the test."""
        with open(os.path.join(self.folder(), f"program{len(self._programs)}.log"), "wb") as log:
            program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT)
        self._programs.append(program)
        return program

    def new_namespace(self):
        """A process in a network namespace of its own, which lasts as long."""
        program = self.run_program("unshare", "--net", "sleep", "inf")
        ours, its = (f"/proc/{pid}/ns/net" for pid in ("self", program.pid))
        wait_until(lambda: os.readlink(ours) != os.readlink(its), "there is another namespace")
        return program

    def log_of(self, program):
        number = self._programs.index(program)
        return Path(self.folder(), f"program{number}.log").read_text(errors="replace")

    # ---- Assertions.

    def assert_echoes(self, connection, data=b"parkway\n"):
        connection.sendall(data)
        self.assertEqual(recv_exactly(connection, len(data)), data)

    def assert_relays(self, client, backend, data=b"there and back"):
        client.sendall(data)
        self.assertEqual(recv_exactly(backend, len(data)), data)
        backend.sendall(data[::-1])
        self.assertEqual(recv_exactly(client, len(data)), data[::-1])

    def assert_ends(self, connection, how, data=b""):
        """The rest of the stream is `data`, then "fin" or "reset"."""
        got, end = recv_to_end(connection)
        self.assertEqual((len(got), end), (len(data), how))
        self.assertTrue(got == data, "the bytes differ")

    def assert_silent(self, connection, seconds=0.2):
        connection.settimeout(seconds)
        try:
            got = connection.recv(1)
        except TimeoutError:
            return
        finally:
            connection.settimeout(PATIENCE)
        self.fail(f"got {got!r} instead of silence")

    # ---- The end of a test.

    def tearDown(self):
        for connection in self._sockets:
            connection.close()
        self._end_programs()
        failed = self._failed
        try:
            for daemon in self._daemons:
                if not failed and daemon.exit_code is None:
                    daemon.await_descriptors(0)
                    self.stop(daemon)
        except BaseException:
            failed = True
            raise
        finally:
            self._end_everything(failed)

    def _end_programs(self):
        for program in self._programs:
            program.terminate()  # nginx ends its workers
            program.send_signal(signal.SIGCONT)
        for program in self._programs:
            try:
                program.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def _end_everything(self, failed):
        for daemon in self._daemons:
            daemon.kill()
            if failed:
                print(f"parkway {' '.join(daemon.flags)}\n{daemon.report()}", file=sys.stderr)
        for program in self._programs:
            if failed:
                print(f"{program.args}\n{self.log_of(program)}", file=sys.stderr)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def obstacle(*tools):
    """Why this process cannot have a network namespace of its own, with these tools; or None."""
    if os.geteuid() != 0:
        return "needs root, for a network namespace"
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-ec", "ip link set lo up; nft add table inet trial"],
        capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"may not do this: {tried.stderr.strip()}"


def enter_namespace(*tools):
    """Goes on in a network namespace of its own, where only `lo` is; or ends, and says why not."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if not in_namespace():
        if text := obstacle(*tools):
            print(f"SKIPPED: {text}")
            sys.exit(0)
        os.environ["PARKWAY_IN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def within(namespace, function, *arguments):
    """Its result, in the network namespace of that process; a socket that it opens stays there."""
    results = []

    def call():
        with open(f"/proc/{namespace.pid}/ns/net") as file:
            if ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET) != 0:
                raise AssertionError("setns failed")
        results.append(function(*arguments))

    in_parallel(call)  # on a thread: a namespace is entered by one
    return results[0]


def in_namespace():
    return os.environ.get("PARKWAY_IN_NAMESPACE") == "1"


def main():
    started = time.monotonic()
    program = unittest.main(verbosity=2, exit=False)
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
    sys.exit(0 if program.result.wasSuccessful() else 1)
