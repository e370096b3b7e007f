# SPDX-License-Identifier: Apache-2.0
"""Server processes on free loopback ports, pinned to CPUs, and the CPU time they use."""

import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 20
STOP_SECONDS = 10

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """Something the person at the keyboard can mend; its text says how."""


def free_port():
    """A free port below the ephemeral range, so that no outgoing connection can take it first."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(min(10240, low - 1000), low)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise BenchError(f"no free port between 10240 and {low}")


def find_program(name):
    """The path of a program, also from the folders a plain user's PATH leaves out, or None."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def require_program(name, package):
    path = find_program(name)
    if path is None:
        raise BenchError(f"{name} is not installed; install it with: apt-get install {package}")
    return path


def split_cpus():
    """(server CPU, load CPUs): the last allowed CPU serves, all the others make the load."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[-1], cpus[:-1] or cpus


def pinned(cpus):
    """For Popen's preexec_fn: the child stays on these CPUs and ends when this program dies.

    It also gets all the descriptors it may have, which the peers that ask for them get anyway.
    """

    def settle():
        os.sched_setaffinity(0, cpus)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return settle


def run(name, main):
    """A program's main(), with its own mistakes as one line.

    SIGTERM unwinds like ^C, so that every server this program started is ended.
    """

    def unwind(*_):
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, unwind)
    try:
        main()
    except BenchError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def family(pid):
    """The process and its living descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended meanwhile.
            parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(parents.get(parent, []))
    return found


def cpu_seconds(pids):
    """CPU time of the processes, user and kernel, all threads, ended threads too.

    Read from each process's CPU clock, which counts nanoseconds; /proc/PID/stat counts ticks of
    10 ms. The number of that clock is how the kernel's clock_getcpuclockid(3) makes it.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Server:
    """A server process: `with Server(...)` starts it, waits until it listens, and ends it."""

    def __init__(self, name, command, port, cpus, folder=None):
        self.name = name
        self.command = [str(word) for word in command]
        self.port = port
        self._cpus = cpus
        self._folder = folder
        self._log = tempfile.TemporaryFile(mode="w+")
        self._process = None

    def __enter__(self):
        try:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                preexec_fn=pinned(self._cpus), start_new_session=True)
            self._await_listening()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)  # Its own session: workers, too.
                self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._log.close()

    def pids(self):
        return family(self._process.pid)

    def end(self):
        """Ends it by SIGTERM before the `with` does, for what a program writes at its end."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not end on SIGTERM in {STOP_SECONDS} s") from None

    def log(self):
        self._log.seek(0)
        return self._log.read()

    def check_alive(self):
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with status {self._process.returncode}\n"
                             f"  command: {' '.join(self.command)}\n"
                             f"  its last words: {self.log().strip()[-2000:] or '(none)'}")

    def _await_listening(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise BenchError(f"{self.name} does not listen on {HOST}:{self.port} after "
                         f"{START_SECONDS} s\n  command: {' '.join(self.command)}")
