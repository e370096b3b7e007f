#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real daemon under load, with a fault every few seconds.

Sessions of several kinds run through a proxy to backends that are processes of their own, all in a
network namespace of their own, and every byte is verified on both sides. A seed makes the list of
faults. A fault may cut the sessions it hits and nothing else:

  - what a side receives is what the other sent, from the first byte on;
  - a session that no fault has hit ends whole, and a FIN comes only after a whole stream, unless
    the fault is one that makes it (a killed process's kernel sends them);
  - while some backends are broken, the sessions of the others go on;
  - when the load has stopped, the daemon holds the descriptors and the memory that it held after a
    third of the time, when each kind of fault had had its turn; on SIGTERM it drains, and its
    counts add up.

Drops and pauses only delay: they excuse nothing.
"""

import argparse
import collections
import contextlib
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, SANITIZED, Daemon, EarlyEnd, Pattern, WrongBytes, break_connections, free_port,
    obstacle, recv_exactly, reset, wait_until)
from soak_backend import (  # noqa: E402
    ANSWER, ECHO, GREETING, HEADER, PATIENCE, SLOW_UP, STREAM, down, exchange, outcome_of, prepare,
    up)

BACKENDS = 4
CROWD = {"echo": 20, "stream": 6, "slow client": 8, "slow backend": 4, "answer": 6, "churn": 4}
# The warm-up needs more memory than anything after it: the daemon keeps the stacks of its fibers, and
# buffers of what slow clients had not taken.
BURST = 300  # connects at once; twice as many then
DEAF = 40  # clients that do not read, then
WARM_UP_ROUNDS = 3
PROGRESS_S = 10
DRIFT_MAX = 0.02
DRIFT_FROM_S = 120  # before that, memory still warms up
FAILURES_SHOWN = 20
TOOLS = ("ip", "nft", "ss", "unshare")

os.environ["PATH"] += ":/usr/sbin:/sbin"
started = time.monotonic()


def now():
    return time.monotonic() - started


def say(text):
    print(f"{now():7.1f} s  {text}", flush=True)


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


# ---- Sessions, and what is known about them.


class Session:
    __slots__ = ("number", "kind", "begin", "end", "port", "backend", "backend_port", "moved",
                 "leaves_early")

    def __init__(self, number, kind):
        self.number, self.kind = number, kind
        self.begin, self.end = now(), None
        self.port = None  # the client's own
        self.backend, self.backend_port = None, None  # known after the greeting
        self.moved = 0  # bytes the client has received and found right
        self.leaves_early = False

    def took(self, count):
        self.moved += count

    def __str__(self):
        until = "now" if self.end is None else f"{self.end:.1f} s"
        return (f"session {self.number} ({self.kind}, port {self.port}, backend {self.backend}, "
                f"from {self.begin:.1f} s to {until})")


class Fault:
    """`hits` says which sessions it may cut; `fin`, whether they may see a FIN then. The sessions
    of the backends in `spares` must go on meanwhile."""

    def __init__(self, text, start, seconds=0.0, stop=lambda: None, hits=lambda session: False,
                 fin=False, spares=()):
        self.text, self.start, self.seconds, self.stop = text, start, seconds, stop
        self.hits, self.fin, self.spares = hits, fin, spares
        self.begin, self.end = None, None

    def explains(self, session, outcome):
        """How one side of the session has just ended; the other may have long before."""
        over = self.end is not None and self.end < session.begin
        return not over and self.hits(session) and (self.fin or outcome != "short")


class Board:
    """Counts, and judges how sessions end."""

    def __init__(self):
        self._lock = threading.Lock()
        self._next = 0
        self._live, self._unreported = {}, {}
        self._moved = collections.Counter()  # by backend, of ended sessions
        self._bytes_up = 0
        self.faults, self.kinds = [], collections.Counter()
        self.done, self.cut, self.wrong, self.failures = 0, 0, 0, 0

    def open(self, kind):
        with self._lock:
            self._next += 1
            session = Session(self._next, kind)
            self._live[session.number] = self._unreported[session.number] = session
            return session

    def close(self, session, outcome):
        with self._lock:
            session.end = now()
            del self._live[session.number]
            self._moved[session.backend] += session.moved
            if outcome == "done":
                self.done += 1
            elif self._judge("client", session, outcome):
                self.cut += 1

    def backend_says(self, number, outcome, moved):
        with self._lock:
            self._bytes_up += moved
            session = self._unreported.pop(number, None)
            if session is None:
                return self._fail(f"a backend knows a session {number}, which nobody began")
            if outcome != "done" and not (session.leaves_early and outcome == "cut"):
                self._judge("backend", session, outcome)

    def forget_old(self):
        """Sessions that no backend will report any more: it was killed, or never got them."""
        with self._lock:
            limit = now() - 2 * PATIENCE
            for session in [*self._unreported.values()]:
                if session.end is not None and session.end < limit:
                    del self._unreported[session.number]

    def begin_fault(self, kind, fault):
        with self._lock:
            self.kinds[kind] += 1
            fault.begin = now()
            self.faults.append(fault)

    def _judge(self, side, session, outcome):
        """Whether a fault explains it."""
        if outcome == "wrong":
            self.wrong += 1
        elif outcome != "stuck" and any(f.explains(session, outcome) for f in self.faults):
            return True
        self._fail(f"{side}'s side of {session}: {outcome}")
        return False

    def fail(self, text):
        with self._lock:
            self._fail(text)

    def _fail(self, text):
        self.failures += 1
        if self.failures <= FAILURES_SHOWN:
            say(f"FAILED: {text}")

    def live(self):
        with self._lock:
            return [*self._live.values()]

    def moved(self, backends):
        with self._lock:
            return (sum(self._moved[b] for b in backends) +
                    sum(s.moved for s in self._live.values() if s.backend in backends))

    def bytes_verified(self):
        with self._lock:
            return (self._bytes_up + self._moved.total() +
                    sum(s.moved for s in self._live.values()))


# ---- Load.


class Load:
    """Clients, each on a thread, one session after the other."""

    def __init__(self, seed, daemon, board):
        self._daemon, self._board = daemon, board
        self._go = threading.Event()
        threading.stack_size(256 * KIB)
        for kind, count in CROWD.items():
            for number in range(count):
                rng = random.Random(f"{seed} {kind} {number}")
                threading.Thread(target=self._repeat, args=(kind, rng), daemon=True).start()

    def start(self):
        self._go.set()

    def stop(self):
        """Returns when all sessions have ended."""
        self._go.clear()
        wait_until(lambda: not self._board.live(), "the sessions end", 2 * PATIENCE)

    def _stopping(self):
        return not self._go.is_set()

    def _repeat(self, kind, rng):
        call = getattr(self, "_" + kind.replace(" ", "_"))
        while self._go.wait():
            session = self._board.open(kind)
            self._end(session, lambda: call(session, rng))

    def _end(self, session, call):
        self._board.close(session, self._attempt(session, call))

    def _attempt(self, session, call):
        try:
            call()
            return "done"
        except (OSError, AssertionError) as error:
            return outcome_of(error)
        except BaseException as error:  # a mistake of this program
            self._board.fail(f"{session}: {error!r}")
            return "stuck"

    @contextlib.contextmanager
    def _connected(self, session, what, up_bytes=0, down_bytes=0, receive_buffer=None):
        connection = socket.socket()
        try:
            prepare(connection)
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.connect((HOST, self._daemon.port))
            session.port = connection.getsockname()[1]
            connection.sendall(HEADER.pack(session.number, what, up_bytes, down_bytes))
            yield connection
        except BaseException:
            reset(connection)  # a FIN would say that all is well
            raise
        connection.close()

    @staticmethod
    def _greeted(session, connection):
        session.backend, session.backend_port = GREETING.unpack(
            recv_exactly(connection, GREETING.size))

    def _exchange(self, session, what, up_bytes, down_bytes, took=None, receive_buffer=None):
        with self._connected(session, what, up_bytes, down_bytes, receive_buffer) as connection:
            self._greeted(session, connection)
            exchange(connection, up(session.number, up_bytes), down(session.number, down_bytes),
                     took or session.took)

    def _echo(self, session, rng):
        stream, at = up(session.number, 1 << 40), 0
        size = rng.choice((64, 1 * KIB, 16 * KIB, Pattern.PIECE))
        until = now() + rng.uniform(0.5, 5)
        with self._connected(session, ECHO) as connection:
            self._greeted(session, connection)
            while now() < until and not self._stopping():
                sent = bytes(stream.piece(at)[:size])
                connection.sendall(sent)
                if recv_exactly(connection, len(sent)) != sent:
                    raise WrongBytes
                session.took(len(sent))
                at += len(sent)
                time.sleep(rng.uniform(0, 0.02))  # A client thinks.
            connection.shutdown(socket.SHUT_WR)
            if connection.recv(1) != b"":
                raise WrongBytes

    def _stream(self, session, rng):
        self._exchange(session, STREAM, int(2**rng.uniform(16, 25)), int(2**rng.uniform(16, 25)))

    def _slow_client(self, session, rng):
        def slowly(count):
            session.took(count)
            if not self._stopping():
                time.sleep(rng.uniform(0.005, 0.05))  # The subject is a slow reader.

        self._exchange(session, STREAM, rng.randrange(64 * KIB),
                       rng.randrange(256 * KIB, MIB), slowly, receive_buffer=16 * KIB)

    def _slow_backend(self, session, rng):
        self._exchange(session, SLOW_UP, rng.randrange(MIB, 8 * MIB), rng.randrange(64 * KIB))

    def _answer(self, session, rng):
        self._ask_and_hear(session, rng.randrange(1, 256 * KIB),
                           rng.randrange(64 * KIB, 4 * MIB))

    def _churn(self, session, rng):
        up_bytes, down_bytes = rng.randrange(1, 2000), rng.randrange(1, 2000)
        session.leaves_early = rng.random() < 0.25
        if session.leaves_early:
            with self._connected(session, ANSWER, up_bytes, down_bytes) as connection:
                up(session.number, up_bytes).send(connection)
        else:
            self._ask_and_hear(session, up_bytes, down_bytes)
        time.sleep(rng.uniform(0, 0.02))  # A client thinks.

    def _ask_and_hear(self, *arguments):
        collections.deque(self._question(*arguments), maxlen=0)

    def _question(self, session, up_bytes, down_bytes):
        """In two steps: asks, with a FIN; hears the answer."""
        with self._connected(session, ANSWER, up_bytes, down_bytes) as connection:
            up(session.number, up_bytes).send(connection)
            yield
            self._greeted(session, connection)
            down(session.number, down_bytes).receive(connection, took=session.took)

    def burst(self, count):
        """All ask before the first one hears."""
        self._in_two_steps("burst", count, lambda s: self._question(s, KIB, KIB))

    def deaf(self, count, seconds):
        """Clients that ask for much and do not read, so that the daemon holds it for them."""
        self._in_two_steps("deaf", count, lambda s: self._ask_only(s, 16 * MIB), seconds)

    def _ask_only(self, session, down_bytes):
        session.leaves_early = True
        with self._connected(session, STREAM, 0, down_bytes, receive_buffer=16 * KIB):
            yield

    def _in_two_steps(self, kind, count, talk_of, pause=0):
        begun = []
        for _ in range(count):
            session = self._board.open(kind)
            talk = talk_of(session)
            outcome = self._attempt(session, lambda t=talk: next(t))
            if outcome == "done":
                begun.append((session, talk))
            else:
                self._board.close(session, outcome)
        time.sleep(pause)
        for session, talk in begun:
            self._end(session, lambda t=talk: next(t, None))


# ---- Faults.


class BackendProcess:
    def __init__(self, number, lies, board):
        self.number, self.port = number, free_port()
        self._lies, self._board = lies, board
        self._process = None
        self.start()

    def start(self):
        program = str(Path(__file__).absolute().parent / "soak_backend.py")
        self._process = subprocess.Popen(
            [sys.executable, program, str(self.number), str(self.port),
             *(["lies"] if self._lies else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

        def listens():
            if self._process.poll() is not None:
                raise AssertionError(f"backend {self.number} ended by itself")
            with socket.socket() as probe:
                return probe.connect_ex((HOST, self.port)) == 0

        wait_until(listens, f"backend {self.number} listens")

    def _read(self, lines):
        for line in lines:
            if line.endswith("\n"):  # else it was killed while it wrote
                number, outcome, moved = line.split()
                self._board.backend_says(int(number), outcome, int(moved))
        lines.close()

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


class Faults:
    """Makes them, in an order and with parameters that the seed alone decides. Each kind has its
    turn before one comes again."""

    KINDS = ("abort", "freeze_backend", "kill_backend", "drop_backend", "drop_clients",
             "reject_backend", "starve", "pause_daemon", "burst")

    def __init__(self, seed, daemon, backends, load, board):
        self._rng = random.Random(f"{seed} faults")
        self._daemon, self._backends, self._load, self._board = daemon, backends, load, board
        self._deck = []
        run("nft", "-f", "-", input="table inet soak {\n chain input {\n"
            "  type filter hook input priority 0;\n }\n}\n")

    def next(self):
        if not self._deck:
            self._deck = self._rng.sample(self.KINDS, len(self.KINDS))
        kind = self._deck.pop()
        return kind, getattr(self, "_" + kind)(self._rng)

    def _others(self, number):
        return {b.number for b in self._backends} - {number}

    def _abort(self, rng):
        """Of one of a session's four sockets."""
        side = rng.choice(("client's end", "daemon's end to the client",
                           "daemon's end to the backend", "backend's end"))
        count, choice = rng.randrange(1, 13), random.Random(rng.random())
        hit = set()

        def ports(session):
            to_client = (session.port, self._daemon.port)
            to_backend = (session.backend_port, self._backends[session.backend].port)
            return {"client's end": to_client, "daemon's end to the client": to_client[::-1],
                    "daemon's end to the backend": to_backend,
                    "backend's end": to_backend[::-1]}[side]

        def start():
            greeted = [s for s in self._board.live() if s.backend_port is not None]
            chosen = choice.sample(greeted, min(count, len(greeted)))
            hit.update(s.number for s in chosen)
            if chosen:
                break_connections(ports(s) for s in chosen)

        return Fault(f"abort {count} sessions at the {side}", start,
                     hits=lambda s: s.number in hit)

    def _freeze_backend(self, rng):
        backend, seconds = rng.choice(self._backends), rng.uniform(0.2, 2)
        return Fault(f"freeze backend {backend.number} for {seconds:.1f} s",
                     lambda: backend.signal(signal.SIGSTOP), seconds,
                     lambda: backend.signal(signal.SIGCONT),
                     spares=self._others(backend.number))

    def _kill_backend(self, rng):
        backend, seconds = rng.choice(self._backends), rng.uniform(0.1, 1.5)
        return Fault(f"kill backend {backend.number}, start it again after {seconds:.1f} s",
                     backend.kill, seconds, backend.start, fin=True,
                     hits=lambda s: s.backend in (None, backend.number),
                     spares=self._others(backend.number))

    def _filter(self, rule):
        return lambda: run("nft", f"add rule inet soak input tcp {rule}")

    @staticmethod
    def _unfilter():
        run("nft", "flush chain inet soak input")

    def _drop_backend(self, rng):
        backend, seconds = rng.choice(self._backends), rng.uniform(0.5, 3)
        way = rng.choice(("dport", "sport"))
        return Fault(f"drop what goes {'to' if way == 'dport' else 'from'} backend "
                     f"{backend.number} for {seconds:.1f} s",
                     self._filter(f"{way} {backend.port} drop"), seconds, self._unfilter,
                     spares=self._others(backend.number))

    def _drop_clients(self, rng):
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        first = rng.randrange(low, high - (high - low) // 4)
        last = first + (high - low) // 4
        seconds = rng.uniform(0.5, 3)
        way, other = rng.sample(("dport", "sport"), 2)
        return Fault(f"drop what goes {'to' if way == 'dport' else 'from'} clients at ports "
                     f"{first}-{last} for {seconds:.1f} s",
                     self._filter(f"{other} {self._daemon.port} tcp {way} {first}-{last} drop"),
                     seconds, self._unfilter)

    def _reject_backend(self, rng):
        backend, seconds = rng.choice(self._backends), rng.uniform(0.5, 3)
        return Fault(f"reject what goes to backend {backend.number} for {seconds:.1f} s",
                     self._filter(f"dport {backend.port} reject with tcp reset"), seconds,
                     self._unfilter, hits=lambda s: s.backend in (None, backend.number),
                     spares=self._others(backend.number))

    def _starve(self, rng):
        spare, seconds = rng.randrange(40), rng.uniform(1, 2)
        before = resource.prlimit(self._daemon.pid, resource.RLIMIT_NOFILE)

        def start():
            resource.prlimit(self._daemon.pid, resource.RLIMIT_NOFILE,
                             (self._daemon.baseline + spare, before[1]))

        def stop():
            resource.prlimit(self._daemon.pid, resource.RLIMIT_NOFILE, before)

        return Fault(f"starve the daemon of descriptors beyond {spare} for {seconds:.1f} s", start,
                     seconds, stop, fin=True, hits=lambda s: s.backend is None,
                     spares=self._others(None))

    def _pause_daemon(self, rng):
        seconds = rng.uniform(0.1, 1)
        return Fault(f"pause the daemon for {seconds:.1f} s",
                     lambda: self._daemon.signal(signal.SIGSTOP), seconds,
                     lambda: self._daemon.signal(signal.SIGCONT))

    def _burst(self, rng):
        count = rng.randrange(BURST // 3, BURST)
        return Fault(f"{count} connects at once", lambda: threading.Thread(
            target=self._load.burst, args=(count,), daemon=True).start())


# ---- The run.


class Soak:
    def __init__(self, options):
        self._options = options
        self._board = Board()
        self._backends = [BackendProcess(n, options.backends_lie, self._board)
                          for n in range(BACKENDS)]
        self._daemon = Daemon(
            f"--listen={HOST}:0", *(f"--backend={HOST}:{b.port}" for b in self._backends),
            "--keepalive_idle=5s",  # finds peers whose reset a fault has swallowed
            "--buffer_memory=1MiB",  # is used up now and then, and all of it touched in the warm-up
            # The load takes all cores, so that a stall says nothing; a report would load symbols.
            "--stall_report=2s")
        self._load = Load(options.seed, self._daemon, self._board)
        self._faults = Faults(options.seed, self._daemon, self._backends, self._load, self._board)
        self._gaps = random.Random(f"{options.seed} gaps")
        self._over = threading.Event()
        self._cpu = None

    def run(self):
        seconds = self._options.minutes * 60
        threading.Thread(target=self._report_progress, daemon=True).start()
        self._warm_up()
        begun = now()
        base = self._spell(begun + 0.3 * seconds)
        end = self._spell(begun + seconds)
        self._over.set()
        self._cpu = self._daemon.cpu_seconds()
        self._daemon.signal(signal.SIGTERM)
        self._daemon.check_end(0)
        self._check_summary()
        return self._report(base, end, seconds)

    def close(self):
        self._over.set()
        if hasattr(self, "_daemon"):
            self._daemon.kill()
        for backend in self._backends:
            backend.kill()

    def _warm_up(self):
        self._load.start()
        for _ in range(WARM_UP_ROUNDS):
            self._load.burst(2 * BURST)
            self._load.deaf(DEAF, 0.5)
        self._load.stop()

    def _spell(self, until):
        """Load and faults; then what is left of the daemon."""
        self._load.start()
        self._make_faults(until)
        self._load.stop()
        left = self._quiet()
        say(f"quiet: {left[0] / MIB:.2f} MiB, {left[1]} descriptors")
        return left

    def _quiet(self):
        """(memory, descriptors) of the daemon when it has nothing to do."""
        self._daemon.await_descriptors(0, 2 * PATIENCE)
        time.sleep(1)  # Nothing tells when freed memory has gone back.
        return self._memory(), self._daemon.descriptors()

    def _memory(self):
        """Exact; VmRSS may lag by dozens of pages per CPU."""
        text = Path(f"/proc/{self._daemon.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Rss:\s*(\d+) kB", text, re.MULTILINE)[1]) * KIB

    def _make_faults(self, until):
        time.sleep(min(1, self._options.pause))  # The load begins.
        while True:
            due = now() + self._gaps.uniform(0.4, 1) * self._options.pause
            kind, fault = self._faults.next()
            if due + fault.seconds > until:
                return
            self._make(kind, fault)
            time.sleep(max(due - now(), 0.1))

    def _make(self, kind, fault):
        say(fault.text)
        self._board.begin_fault(kind, fault)
        before = self._board.moved(fault.spares)
        fault.start()
        try:
            time.sleep(fault.seconds)
            if fault.spares and fault.seconds >= 0.5 and self._board.moved(fault.spares) == before:
                self._board.fail(f"nothing moved at backends {fault.spares} meanwhile")
        finally:
            fault.stop()
        fault.end = now()
        if not self._daemon.running():
            raise AssertionError(f"the daemon has ended\n{self._daemon.report()}")

    def _report_progress(self):
        done = 0
        while not self._over.wait(PROGRESS_S):
            board = self._board
            board.forget_old()
            with contextlib.suppress(OSError):  # it ends at this moment
                say(f"{board.done} sessions done, {board.cut} cut, "
                    f"{board.bytes_verified() / MIB:.0f} MiB verified, {len(board.faults)} faults; "
                    f"daemon {self._memory() / MIB:.1f} MiB, {self._daemon.descriptors()} "
                    f"descriptors, {self._daemon.cpu_seconds():.0f} s of CPU")
            if board.done == done:
                board.fail(f"no session was done in {PROGRESS_S} s")
            done = board.done

    def _check_summary(self):
        counts = self._daemon.summary()
        say("the daemon: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        if counts["served"] != sum(counts.values()) - counts["served"]:
            self._board.fail("what it served is not the sum of how it ended")

    def _report(self, base, end, seconds):
        board = self._board
        drift = end[0] / base[0] - 1
        if abs(drift) >= DRIFT_MAX and seconds >= DRIFT_FROM_S and not SANITIZED:
            board.fail(f"memory drifted by {100 * drift:.1f} %")
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(board.kinds.items()))
        print(f"""
seed         {self._options.seed}, {now():.0f} s
sessions     {board.done} done, {board.cut} cut by faults
verified     {board.bytes_verified() / MIB:.0f} MiB, {board.wrong} sessions with wrong bytes
faults       {len(board.faults)}: {kinds.replace("_", " ")}
memory       {base[0] / MIB:.2f} MiB after a third of it, {end[0] / MIB:.2f} MiB at the end, {100 * drift:+.2f} %
descriptors  {base[1]} and {end[1]}
CPU          {self._cpu:.1f} s, {100 * self._cpu / seconds:.0f} % of a core
result       {"ok" if board.failures == 0 else f"{board.failures} FAILED"}""", flush=True)
        return board.failures == 0


def parse():
    parser = argparse.ArgumentParser(prog="dev soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="default 10")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32),
                        help="of the faults; the default is random and printed")
    parser.add_argument("--pause", type=float, default=5, metavar="S",
                        help="most seconds from fault to fault; default 5")
    parser.add_argument("--backends_lie", action="store_true", help=argparse.SUPPRESS)  # for a test
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parse()
    if not options.inside:
        if text := obstacle(*TOOLS):
            sys.exit(f"soak: {text}")
        arguments = [*sys.argv[1:], f"--seed={options.seed}", "--inside"]
        os.execvp("unshare", ["unshare", "--net", sys.executable, __file__, *arguments])
    run("ip", "link", "set", "lo", "up")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    say(f"seed {options.seed}, {options.minutes:g} minutes")
    soak = Soak(options)
    try:
        good = soak.run()
    finally:
        soak.close()
    sys.stdout.flush()
    os._exit(0 if good else 1)  # the clients' threads wait for ever


if __name__ == "__main__":
    main()
