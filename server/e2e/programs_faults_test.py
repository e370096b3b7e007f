#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real programs through the daemon while backends are killed and frozen under load.

What a fault costs is counted by the programs themselves: requests are lost on the connections that it
cuts, and on no other; what arrives is what was sent. Each test says how long it took until a new client
was served.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, KIB, MIB, PATIENCE, SLOW, Pattern, free_port, main, wait_until)
from programs_test import ProgramTest, find_program, run_to_end  # noqa: E402

CHECKS = f"health_interval=200ms health_timeout={500 * SLOW}ms"


def pids_below(pid):
    children = subprocess.run(["pgrep", "--parent", str(pid)], capture_output=True, text=True,
                              check=False).stdout.split()
    return [*map(int, children), *sum(map(pids_below, children), [])]


def send_signal(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_with_children(program):
    program.send_signal(signal.SIGSTOP)  # it would start others in their place
    children = pids_below(program.pid)
    program.kill()
    program.wait()  # its listening socket is closed: who comes again is not cut again
    send_signal(children, signal.SIGKILL)


@contextlib.contextmanager
def frozen(pids):
    send_signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(pids, signal.SIGCONT)


class FaultTest(ProgramTest):
    def backend(self, start, *arguments):
        """(program, address)"""
        address = start(*arguments)
        return self._programs[-1], address

    def route(self, *backends, checks=""):
        """Each backend gets its part of what stays, whatever else a program asks before."""
        return self.start(f"--route=x listen={HOST}:0 to={','.join(backends)} balance=leastconn "
                          f"{CHECKS} {checks}", "--workers=2")

    def finish(self, program):
        """(exit code, what it said)"""
        program.wait(3 * PATIENCE)
        return program.returncode, self.log_of(program)

    def connections_to(self, address):
        """The ports that they come from."""
        port = address.rsplit(":", 1)[1]
        rows = subprocess.run([find_program("ss"), "-tnH", "state", "established",
                               f"dport = :{port}"], capture_output=True, text=True, check=True)
        return {row.split()[2] for row in rows.stdout.splitlines()}

    def say_served(self, since):
        print(f"    a new client was served after {1000 * (time.monotonic() - since):.0f} ms",
              file=sys.stderr)


class Nginx(FaultTest):
    CONNECTIONS = 32
    SECONDS = 3 + 2 * SLOW  # longer than it takes checks to notice a frozen backend

    def setUp(self):
        super().setUp()
        (self.one, self.first), (_, self.second) = (
            self.backend(self.nginx, name) for name in ("one", "two"))

    def load(self, daemon):
        """A running wrk, with all its connections."""
        wrk = self.run_program(find_program("wrk"), "-t1", f"-c{self.CONNECTIONS}",
                               f"-d{self.SECONDS}s", "--timeout", f"{PATIENCE}s",
                               f"http://{daemon.address}/small")
        wait_until(lambda: sum(len(self.connections_to(at)) for at in (self.first, self.second)) ==
                   self.CONNECTIONS, "wrk has its connections")
        return wrk

    def lost(self, wrk):
        """How many requests, when it has ended; none of them because it could not connect."""
        code, said = self.finish(wrk)
        self.assertEqual(code, 0, said)
        self.assertNotIn("Non-2xx", said)
        self.assertGreater(int(re.search(r"(\d+) requests in", said)[1]), 100, said)
        errors = dict(re.findall(r"(connect|read|write|timeout) (\d+)", said))
        self.assertEqual({errors.get(kind, "0") for kind in ("connect", "timeout")}, {"0"}, said)
        return int(errors.get("read", 0)) + int(errors.get("write", 0))

    def check_bytes(self, daemon):
        for _ in range(4):
            self.check_file(daemon.address, "large", Pattern("large", 8 * MIB).bytes())

    def test_killed(self):
        daemon = self.route(self.first, self.second)
        wrk = self.load(daemon)
        served, kept = self.connections_to(self.first), self.connections_to(self.second)
        kill_with_children(self.one)
        since = time.monotonic()
        self.check_file(daemon.address, "small", b"small\n")
        self.say_served(since)
        self.assertLessEqual(kept, self.connections_to(self.second))
        self.assertIsNone(wrk.poll())
        self.check_bytes(daemon)
        lost = self.lost(wrk)
        daemon.wait_for_line(f"{self.first} is down")
        daemon.await_descriptors(0)
        self.stop(daemon)
        ends = daemon.summary()
        cut = ends.get("upstream_fin", 0) + ends.get("upstream_reset", 0)
        # Some may come again before the dying process has closed its listening socket too.
        self.assertGreaterEqual(cut, len(served))
        self.assertEqual(lost, cut)
        print(f"    {lost} requests were lost of {len(served)} connections", file=sys.stderr)

    def test_frozen(self):
        daemon = self.route(self.first, self.second, checks="health=http health_path=/small")
        wrk = self.load(daemon)
        with frozen([self.one.pid, *pids_below(self.one.pid)]):
            since = time.monotonic()
            daemon.wait_for_line(f"{self.first} is down")
            self.check_file(daemon.address, "small", b"small\n")
            self.say_served(since)
            self.check_bytes(daemon)
            self.assertIsNone(wrk.poll())
        self.assertEqual(self.lost(wrk), 0)
        daemon.wait_for_line(f"{self.first} is up")


class Redis(FaultTest):
    CLIENTS, REQUESTS = 6, 20_000 // SLOW

    def setUp(self):
        super().setUp()
        (self.one, self.first), (_, self.second) = (self.backend(self.redis) for _ in range(2))

    def load(self, daemon):
        """Running redis-benchmarks, each with one connection: one that is cut ends its program."""
        host, port = daemon.address.split(":")
        clients = [
            self.run_program(find_program("redis-benchmark"), "-h", host, "-p", port, "-c", "1", "-n",
                             str(self.REQUESTS), "-t", "incr", "-q") for _ in range(self.CLIENTS)]
        wait_until(lambda: self.serving(self.first) + self.serving(self.second) == self.CLIENTS and
                   self.serving(self.first) > 0, "all are served")
        return clients

    def serving(self, address):
        return self.redis_cli(address, "client", "list").count("cmd=incr")

    def served(self, address):
        return int(self.redis_cli(address, "get", "counter:__rand_int__"))

    def test_killed(self):
        daemon = self.route(self.first, self.second)
        clients = self.load(daemon)
        cut = self.serving(self.first)
        kill_with_children(self.one)
        since = time.monotonic()
        self.assertEqual(self.redis_cli(daemon.address, "ping"), "PONG")
        self.say_served(since)
        whole = [self.finish(client)[0] for client in clients].count(0)
        self.assertEqual(whole, self.CLIENTS - cut)
        self.assertEqual(self.served(self.second), whole * self.REQUESTS)

    def test_frozen(self):
        daemon = self.route(self.first, self.second,
                            checks=r"health=tcp health_send=PING\r\n health_expect=+PONG")
        clients = self.load(daemon)
        others = self.serving(self.second)
        with frozen([self.one.pid]):
            since = time.monotonic()
            daemon.wait_for_line(f"{self.first} is down")
            self.assertEqual(self.redis_cli(daemon.address, "ping"), "PONG")
            self.say_served(since)
            wait_until(lambda: self.served(self.second) == others * self.REQUESTS,
                       "the other's clients are done")
        self.assertEqual([self.finish(client)[0] for client in clients], [0] * self.CLIENTS)
        self.assertEqual(self.served(self.first), (self.CLIENTS - others) * self.REQUESTS)
        daemon.wait_for_line(f"{self.first} is up")


class PostgreSQL(FaultTest):
    CLIENTS, TRANSACTIONS = 8, 400
    # A startup packet that asks for TLS; the answer is N, for no.
    CHECK = r"health=tcp health_send=\x00\x00\x00\x08\x04\xd2\x16\x2f health_expect=N"
    ROWS = 50_000
    COPY = f"COPY (SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i) TO STDOUT"

    def setUp(self):
        super().setUp()
        self.bin = self.find_binaries()
        Path(self.folder()).chmod(0o711)  # for the servers, which are another user's
        self.make_cluster("one")
        subprocess.run(["cp", "-a", self.path("one"), self.path("two")], check=True)
        (self.one, self.first), (_, self.second) = (
            self.backend(self.postgres, name, free_port()) for name in ("one", "two"))

    @staticmethod
    def find_binaries():
        """Debian keeps them out of the PATH, or wraps them."""
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not folders:
            raise AssertionError("PostgreSQL is not installed: ./dev test installs it, or apt-get "
                                 "install postgresql")
        return folders[-1]

    def path(self, name):
        return os.path.join(self.folder(), name)

    def unprivileged(self, name, program, *arguments):
        """A program that refuses to be root, in a folder of its user's."""
        prefix = ["env", f"--chdir={self.path(name)}"]
        if os.geteuid() == 0:
            prefix += ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        return self.run_program(*prefix, self.bin / program, *arguments)

    def make_cluster(self, name):
        os.mkdir(self.path(name), 0o700)
        if os.geteuid() == 0:
            shutil.chown(self.path(name), "postgres", "postgres")
        initdb = self.unprivileged(name, "initdb", "--pgdata=data", "--no-sync", "--auth=trust",
                                   "--username=parkway", "--no-locale")
        self.assertEqual(self.finish(initdb)[0], 0)

    def postgres(self, name, port):
        program = self.unprivileged(name, "postgres", "-D", "data", "-h", HOST, "-p", str(port), "-k",
                                    self.path(name), "-F")
        address = f"{HOST}:{port}"
        self.await_listening(address, program)
        wait_until(lambda: self.psql(address, "CREATE TABLE IF NOT EXISTS hits (client int)")
                   .returncode == 0, "PostgreSQL has started")
        return address

    # ---- Questions.

    def psql(self, address, query):
        host, port = address.split(":")
        return run_to_end(self.bin / "psql", "-XAtq", "-h", host, "-p", port, "-U", "parkway", "-d",
                          "postgres", "-c", query)

    def sql(self, address, query):
        done = self.psql(address, query)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def hits(self, address):
        """{client: how many of its transactions are there}"""
        rows = self.sql(address, "SELECT client, count(*) FROM hits GROUP BY client").split()
        return {int(client): int(count) for client, count in (row.split("|") for row in rows)}

    def check_bytes(self, daemon):
        expected = "".join(f"{i}\t{hashlib.md5(str(i).encode()).hexdigest()}\n"
                           for i in range(1, self.ROWS + 1))
        for _ in range(4):
            self.assertTrue(self.sql(daemon.address, self.COPY) == expected, "the bytes differ")

    def load(self, daemon):
        """A running pgbench, whose clients have been served by both: (it, clients of the first)."""
        script = Path(self.folder(), "script")
        script.write_text("INSERT INTO hits VALUES (:client_id);\n\\sleep 5 ms\n")
        host, port = daemon.address.split(":")
        pgbench = self.run_program(
            self.bin / "pgbench", "-h", host, "-p", port, "-U", "parkway", "-n", "-c",
            str(self.CLIENTS), "-j", "2", "-t", str(self.TRANSACTIONS), "-f", script, "postgres")
        wait_until(lambda: len(self.hits(self.first)) + len(self.hits(self.second)) == self.CLIENTS,
                   "all clients are served")
        clients = set(self.hits(self.first))
        self.assertIn(len(clients), range(1, self.CLIENTS))
        return pgbench, clients

    def whole(self, clients):
        return {client: self.TRANSACTIONS for client in clients}

    # ---- Faults.

    def test_killed(self):
        daemon = self.route(self.first, self.second, checks=self.CHECK)
        pgbench, cut = self.load(daemon)
        kill_with_children(self.one)
        since = time.monotonic()
        self.assertEqual(self.sql(daemon.address, "SELECT 1"), "1\n")
        self.say_served(since)
        self.check_bytes(daemon)
        _, said = self.finish(pgbench)
        self.assertEqual(set(map(int, re.findall(r"client (\d+) .*aborted", said))), cut, said)
        self.assertEqual(self.hits(self.second), self.whole(set(range(self.CLIENTS)) - cut))
        self.postgres("one", int(self.first.split(":")[1]))
        daemon.wait_for_line(f"{self.first} is up")

    def test_frozen(self):
        daemon = self.route(self.first, self.second, checks=self.CHECK)
        pgbench, waiting = self.load(daemon)
        others = self.whole(set(range(self.CLIENTS)) - waiting)
        with frozen([self.one.pid, *pids_below(self.one.pid)]):
            since = time.monotonic()
            daemon.wait_for_line(f"{self.first} is down")
            self.assertEqual(self.sql(daemon.address, "SELECT 1"), "1\n")
            self.say_served(since)
            self.check_bytes(daemon)
            wait_until(lambda: self.hits(self.second) == others, "the other's clients are done")
        code, said = self.finish(pgbench)
        self.assertEqual((code, "aborted" in said), (0, False), said)
        self.assertEqual(self.hits(self.first), self.whole(waiting))
        daemon.wait_for_line(f"{self.first} is up")


SSHD_CONFIG = """
Port {port}
ListenAddress {host}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
"""

SSH_CONFIG = """
Host parkway
HostName {host}
Port {port}
HostKeyAlias parkway
UserKnownHostsFile {folder}/known
StrictHostKeyChecking yes
IdentityFile {folder}/user
IdentitiesOnly yes
BatchMode yes
"""


class Rsync(FaultTest):
    """Over ssh, which lets no wrong byte pass."""

    def setUp(self):
        super().setUp()
        self.tree = Path(self.folder(), "tree")
        for number in range(100):
            (self.tree / f"{number % 10}").mkdir(parents=True, exist_ok=True)
            (self.tree / f"{number % 10}" / f"{number}").write_bytes(bytes(number))
        for number in range(4):
            (self.tree / f"large{number}").write_bytes(Pattern(number, 4 * MIB).bytes())
        self.server, address = self.backend(self.sshd)
        self.daemon = self.route(address)
        self.write("ssh_config", SSH_CONFIG, self.daemon.port)

    def write(self, name, template, port):
        path = Path(self.folder(), name)
        path.write_text(template.format(folder=self.folder(), host=HOST, port=port))
        return str(path)

    def sshd(self):
        for name in ("host", "user"):
            made = run_to_end("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                              os.path.join(self.folder(), name))
            self.assertEqual(made.returncode, 0, made.stderr)
        public = Path(self.folder(), "host.pub").read_text()
        Path(self.folder(), "known").write_text("parkway " + public)
        port = free_port()
        config = self.write("sshd_config", SSHD_CONFIG, port)
        return self.start_program(port, *self.with_run_sshd(), find_program("sshd"), "-D", "-e", "-f",
                                  config)

    def with_run_sshd(self):
        """Root's sshd wants this folder, which not every machine has: in a view of its own."""
        if os.geteuid() != 0:
            return ["env"]
        return ["unshare", "--mount", "sh", "-ec",
                'mount -t tmpfs none /run; mkdir -m 755 /run/sshd; exec "$@"', "-"]

    # ---- Copies.

    def rsync(self, source, target, *flags):
        ssh = f"{find_program('ssh')} -F {self.folder()}/ssh_config"
        return self.run_program(find_program("rsync"), "--archive", "--rsh", ssh, *flags, source,
                                target)

    def pull(self, name, *flags):
        return self.rsync(f"parkway:{self.tree}/", f"{self.folder()}/{name}/", *flags)

    def push(self, name, *flags):
        return self.rsync(f"{self.tree}/", f"parkway:{self.folder()}/{name}/", *flags)

    def check_served(self):
        since = time.monotonic()
        done = run_to_end("ssh", "-F", f"{self.folder()}/ssh_config", "parkway", "echo here")
        self.assertEqual((done.returncode, done.stdout), (0, "here\n"), done.stderr)
        self.say_served(since)

    def under_way(self, start, name):
        """(a slow copy that has begun, the processes that serve it)"""
        before = set(pids_below(self.server.pid))
        copy = start(name, f"--bwlimit={8 * MIB // KIB}")
        wait_until(lambda: self.size(name) > MIB, "a part is copied")
        self.assertIsNone(copy.poll())
        return copy, set(pids_below(self.server.pid)) - before

    def files(self, root):
        return [path for path in Path(root).rglob("*") if path.is_file()]

    def size(self, name):
        with contextlib.suppress(FileNotFoundError):  # files are renamed when they are whole
            return sum(path.stat().st_size for path in self.files(Path(self.folder(), name)))

    def contents(self, root):
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).digest()
                for path in self.files(root)}

    def check_whole(self, copy, name):
        code, said = self.finish(copy)
        self.assertEqual((code, said), (0, ""))
        self.assertEqual(self.contents(Path(self.folder(), name)), self.contents(self.tree))

    # ---- Faults.

    def test_there_and_back(self):
        self.check_whole(self.push("there"), "there")
        self.check_whole(self.pull("back"), "back")

    def test_killed(self):
        kept, _ = self.under_way(self.pull, "kept")
        cut, sessions = self.under_way(self.pull, "cut")
        send_signal(sessions, signal.SIGKILL)
        self.check_served()
        self.assertNotEqual(self.finish(cut)[0], 0)
        self.assertNotEqual(self.contents(Path(self.folder(), "cut")), self.contents(self.tree))
        self.check_whole(self.pull("cut"), "cut")
        self.check_whole(kept, "kept")

    def test_frozen(self):
        kept, _ = self.under_way(self.push, "kept")
        delayed, sessions = self.under_way(self.push, "delayed")
        with frozen(sessions):
            self.check_served()
            self.check_whole(self.push("new"), "new")
            self.check_whole(kept, "kept")
            self.assertIsNone(delayed.poll())
        self.check_whole(delayed, "delayed")


if __name__ == "__main__":
    main()
