#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the daemon writes of its sessions and of itself, and what happens when nobody takes it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, MIB, PARKWAY, PATIENCE, SLOW, DaemonTest, address_of, main, obstacle, recv_exactly, recv_to_end,
    reset, sockaddr_of, wait_until)

TEXT = re.compile(
    r"(?P<client>\S+) \[(?P<time>\S+)\] (?P<listener>\S+) (?P<route>\S+?)/(?P<backend>\S+) "
    r"(?P<queue>\S+?)/(?P<connect>\S+?)/(?P<first>\S+?)/(?P<total>\S+) "
    r"(?P<up>\d+)/(?P<down>\d+) (?P<what>\w+) (?P<sessions>\d+)/(?P<retries>\d+) (?P<id>\d+)")


def lines_of(path, count):
    """The lines of a log, once there are so many, each whole."""

    def whole():
        text = path.read_text() if path.exists() else ""
        lines = text.splitlines()
        return lines if len(lines) >= count and text.endswith("\n") else None

    return wait_until(whole, f"{count} lines in {path.name}")


class LogTest(DaemonTest):
    def setUp(self):
        super().setUp()
        self.path = Path(self.folder(), "access")

    def logged(self, count):
        return [json.loads(line) for line in lines_of(self.path, count)]

    def serve(self, *flags, to=None, **options):
        where = ["--mode=echo"] if to is None else [f"--backend={at}" for at in to]
        return self.start("--listen=127.0.0.1:0", *where, "--workers=2",
                          f"--access_log={self.path}", *flags, **options)

    def exchange(self, daemon, data=b"hello"):
        """One session that the client ends; its client's address."""
        client = self.connect(daemon.address)
        at = address_of(client)
        client.sendall(data)
        self.assertEqual(recv_exactly(client, len(data)), data)
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(client, "fin")
        client.close()
        return at

    def turned_away(self, daemon):
        """A client that is reset, perhaps before it knows that it is connected; its address."""
        client = self.keep(socket.socket())
        client.settimeout(PATIENCE)
        client.bind((HOST, 0))
        at = address_of(client)
        with self.assertRaises(ConnectionResetError):
            client.connect(sockaddr_of(daemon.address)[1])
            client.recv(1)
        return at


class Sessions(LogTest):
    def test_a_line_says_how_a_session_went(self):
        server = self.listen()
        # With one worker, since another that takes the session over may have a round of before.
        daemon = self.serve("--workers=1", to=[address_of(server)])
        client, backend = self.session(daemon, server)
        at = address_of(client)
        client.sendall(b"x" * 1000)
        recv_exactly(backend, 1000)
        backend.sendall(b"y" * 3 * MIB)  # some of it is spliced
        backend.close()
        self.assertEqual(len(recv_to_end(client)[0]), 3 * MIB)
        client.close()
        line = TEXT.fullmatch(lines_of(self.path, 1)[0])
        self.assertEqual(
            (line["client"], line["listener"], line["route"], line["backend"], line["what"]),
            (at, daemon.address, "default", address_of(server), "upstream_fin"))
        self.assertEqual((int(line["up"]), int(line["down"])), (1000, 3 * MIB))
        self.assertEqual((line["sessions"], line["retries"], line["id"]), ("1", "0", "1"))
        spans = [float(line[name]) for name in ("queue", "connect", "first", "total")]
        self.assertEqual(spans[0], 0)
        self.assertTrue(0 < spans[1] <= spans[2] <= spans[3], spans)
        written = datetime.fromisoformat(line["time"].replace("Z", "+00:00"))
        self.assertLess(abs((datetime.now(timezone.utc) - written).total_seconds()), 60)
        self.stop(daemon)

    def test_json_has_the_same_and_the_worker(self):
        daemon = self.serve("--access_log_format=json", "--log_sessions=all")
        at = self.exchange(daemon)
        # The worker that ends it may hand its line on before that which began it.
        end, start = sorted(self.logged(2), key=lambda line: line["event"])
        self.assertEqual((start["event"], end["event"]), ("start", "end"))
        self.assertNotIn("reason", start)
        for line in (start, end):
            self.assertEqual((line["client"], line["route"], line["backend"], line["id"]),
                             (at, "default", "echo", 1))
            self.assertIn(line["worker"], (0, 1))
        self.assertEqual((end["bytes_up"], end["bytes_down"], end["reason"]), (5, 5, "client_fin"))
        self.stop(daemon)

    def test_a_client_that_gets_no_backend_has_its_line(self):
        refusing = [self.refuses() for _ in range(2)]
        daemon = self.serve("--access_log_format=json", "--health=off", to=refusing)
        self.turned_away(daemon)
        line, = self.logged(1)
        self.assertEqual((line["reason"], line["retries"], line["bytes_up"]),
                         ("connect_refused", 1, 0))
        self.assertIn(line["backend"], refusing)
        self.assertNotIn("connect_ms", line)
        self.stop(daemon)

    def test_a_client_that_no_route_serves_has_its_line(self):
        daemon = self.start("--route=x listen=127.0.0.1:0 from=10.0.0.0/8 to=echo", "--workers=2",
                            f"--access_log={self.path}")
        at = self.turned_away(daemon)
        line = TEXT.fullmatch(lines_of(self.path, 1)[0])
        self.assertEqual((line["client"], line["route"], line["backend"], line["what"]),
                         (at, "-", "-", "no_route"))
        self.stop(daemon)

    def test_a_client_that_waited_for_a_backend_has_the_time(self):
        server = self.listen()
        daemon = self.start(
            f"--route=x listen=127.0.0.1:0 to={address_of(server)}/max=1", "--workers=2",
            f"--access_log={self.path}", "--access_log_format=json")
        first, backend = self.session(daemon, server)
        second = self.connect(daemon.address)
        time.sleep(0.05)  # what is measured
        first.close()
        self.assert_ends(backend, "fin")
        backend.close()
        self.accept(server).close()
        second.close()
        waited = [line["queue_ms"] for line in self.logged(2)]
        self.assertEqual(min(waited), 0)
        self.assertGreaterEqual(max(waited), 40)
        self.stop(daemon)

    def test_a_long_session_is_told_of_while_it_lasts(self):
        daemon = self.serve("--access_log_format=json", "--access_log_progress=1s")
        client = self.connect(daemon.address)
        for count in (1, 2):
            self.assert_echoes(client, b"z" * 100)
            line = self.logged(count)[-1]
            self.assertEqual((line["event"], line["bytes_up"]), ("progress", 100 * count))
            self.assertNotIn("reason", line)
        client.close()
        wait_until(lambda: "end" in [line["event"] for line in self.logged(3)], "its end")
        self.stop(daemon)

    def test_one_session_of_ten(self):
        daemon = self.serve("--log_sample=10", "--log_sessions=all")
        for _ in range(100):
            self.exchange(daemon)
        self.assertEqual(len(lines_of(self.path, 20)), 20)
        self.stop(daemon)
        self.assertEqual(len(lines_of(self.path, 20)), 20)

    def test_a_route_has_what_it_says(self):
        daemon = self.start(
            "--route=loud listen=127.0.0.1:0 to=echo log_sessions=all",
            "--route=quiet listen=127.0.0.1:0 to=echo log_sessions=off",
            "--workers=2", f"--access_log={self.path}")
        for at in daemon.listening:
            client = self.connect(at)
            self.assert_echoes(client)
            client.close()
        wait_until(lambda: daemon.descriptors() == daemon.baseline, "both ended")
        self.stop(daemon)
        lines = [TEXT.fullmatch(line) for line in lines_of(self.path, 2)]
        self.assertEqual(sorted((line["route"], line["what"]) for line in lines),
                         [("loud", "client_fin"), ("loud", "start")])

    def test_every_session_has_one_line_at_the_end(self):
        daemon = self.serve()
        clients = 500
        for _ in range(clients):
            client = self.connect(daemon.address)
            client.sendall(b"x")
            reset(client)
        daemon.wait_for_line("^parkway", 1)
        self.stop(daemon)
        lines = [TEXT.fullmatch(line) for line in lines_of(self.path, clients)]
        self.assertEqual(sorted(int(line["id"]) for line in lines), list(range(1, clients + 1)))


class Targets(LogTest):
    def test_sigusr1_opens_a_file_anew_that_was_renamed(self):
        daemon = self.serve()
        self.exchange(daemon)
        lines_of(self.path, 1)
        renamed = self.path.with_name("access.1")
        self.path.rename(renamed)
        self.exchange(daemon)
        lines_of(renamed, 2)
        daemon.signal(signal.SIGUSR1)
        wait_until(self.path.exists, "the file is there again")
        self.exchange(daemon)
        self.assertEqual(len(lines_of(self.path, 1)), 1)
        self.assertEqual(len(lines_of(renamed, 2)), 2)
        self.stop(daemon)

    def test_the_operators_lines_go_where_they_are_asked_to(self):
        log = Path(self.folder(), "log")
        daemon = self.serve(f"--log={log}", to=[self.refuses()])
        self.turned_away(daemon)
        line, = lines_of(log, 1)
        self.assertRegex(
            line, r"^\d{4}-\d\d-\d\dT\S+Z parkway: backend \S+: Connection refused \(1 failed ")
        self.assertFalse([line for line in daemon.stderr() if "refused" in line])
        self.stop(daemon)

    def test_lack_of_descriptors_is_told_once_a_second(self):
        daemon = self.serve(nofile=64)
        self.starve(daemon, 0)
        clients = [self.connect(daemon.address) for _ in range(20)]
        began = time.monotonic()
        daemon.wait_for_line(r"^parkway: \S+ accepts no clients for now: Too many open files \(")
        wait_until(lambda: sum("accepts no" in line for line in daemon.stderr()) == 3, "3 lines")
        self.assertGreater(time.monotonic() - began, 1.5)
        self.feed(daemon, 64)
        for client in clients:
            client.close()
        self.stop(daemon)

    def test_a_log_that_nobody_reads_holds_nobody_up(self):
        pipe = Path(self.folder(), "pipe")
        os.mkfifo(pipe)
        self.path = pipe
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        daemon = self.serve("--log_sessions=all")
        for _ in range(200):
            self.exchange(daemon)
        filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        fill(filler)
        os.close(filler)
        worst = max(self.time_of_an_exchange(daemon) for _ in range(200))
        print(f"worst of 200 sessions while nobody reads the log: {worst * 1e3:.1f} ms")
        self.assertLess(worst, 1 * SLOW)  # had it waited for the log, kPatienceMs at least
        daemon.wait_for_line(r"^parkway: --access_log=\S+: takes nothing \(\d+ lines lost so far\)")
        os.close(reader)
        self.assertEqual(daemon.process.poll(), None)
        self.exchange(daemon)
        self.stop(daemon)
        self.assertRegex(daemon.stderr()[-1], r"^parkway: --access_log=\S+: \d+ lines lost so far$")

    def time_of_an_exchange(self, daemon):
        began = time.monotonic()
        self.exchange(daemon)
        return time.monotonic() - began

    def test_what_a_full_disk_does_not_take_is_counted(self):
        self.path = Path("/dev/full")
        daemon = self.serve()
        for _ in range(10):
            self.exchange(daemon)
        daemon.wait_for_line(
            r"^parkway: --access_log=/dev/full: No space left on device \(\d+ lines lost so far\)")
        self.stop(daemon)
        self.assertEqual(daemon.stderr()[-1], "parkway: --access_log=/dev/full: 10 lines lost so far")

    def test_a_log_is_complete_again_once_it_is_read(self):
        pipe = Path(self.folder(), "pipe")
        os.mkfifo(pipe)
        self.path = pipe
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
            daemon = self.serve("--log_sessions=all")
            filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            fill(filler)
            os.close(filler)
            self.exchange(daemon)
            daemon.wait_for_line(r"^parkway: --access_log=\S+: takes nothing ")
            while reader.read(MIB):
                pass
            self.exchange(daemon)
            text = b""
            while text.count(b"\n") < 2:
                text += reader.read(MIB) or b""
            for line in text.decode().splitlines():
                self.assertTrue(TEXT.fullmatch(line), line)
            self.stop(daemon)

    def test_an_end_that_nobody_reads_of_is_an_end(self):
        """stderr is a pipe that takes nothing any more, from before the end on."""
        read_end, write_end = os.pipe()
        at = f"unix:{self.folder()}/parkway"
        process = subprocess.Popen(
            [PARKWAY, f"--listen={at}", "--mode=echo", "--workers=2", "--access_log=stderr"],
            stderr=write_end)
        self.addCleanup(process.kill)
        self.assertIn(b"parkway ", os.read(read_end, MIB))  # its banner
        filler = os.open(f"/proc/self/fd/{write_end}", os.O_WRONLY | os.O_NONBLOCK)
        fill(filler)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(at.removeprefix("unix:"))
            client.settimeout(PATIENCE)
            client.sendall(b"x")
            self.assertEqual(client.recv(1), b"x")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)
        for end in (read_end, write_end, filler):
            os.close(end)


def fill(pipe):
    """`pipe` does not block. One that has something in it takes no whole page more in the end."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)


class Start(LogTest):
    def test_signals_during_the_start_wait_for_its_end(self):
        flags = Path(self.folder(), "flags")
        os.mkfifo(flags)
        log = Path(self.folder(), "log")
        process = subprocess.Popen([PARKWAY, f"--flagfile={flags}"], stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        text = f"--listen=127.0.0.1:0\n--mode=echo\n--workers=2\n--log={log}\n--stall_report=0\n"
        with open(flags, "w") as file:  # once the daemon has opened it
            for number in (signal.SIGUSR1, signal.SIGHUP):
                process.send_signal(number)
            file.write(text)
        self.assertIn(b"parkway", process.stderr.readline())
        flags.write_text(text)  # for the reload
        self.assertIn("reload", lines_of(log, 1)[0])
        process.terminate()
        process.stderr.close()
        self.assertEqual(process.wait(PATIENCE), 0)


def with_dev_log(path, folder):
    """A command that runs another where /dev is `folder`, with the socket as /dev/log."""
    script = """
        set -e
        socket=$1 dev=$2
        shift 2
        mount -t tmpfs none "$dev"
        for name in null urandom; do touch "$dev/$name"; mount --bind "/dev/$name" "$dev/$name"; done
        touch "$dev/log"
        mount --bind "$socket" "$dev/log"
        mount --rbind "$dev" /dev
        exec "$@"
        """
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(path), str(folder)]


class Syslog(LogTest):
    """In a mount namespace whose /dev has a syslog socket of the test's own."""

    def test_lines_go_to_syslog_one_by_one(self):
        if text := obstacle("unshare", "mount"):
            self.skipTest(text)
        socket_path, dev = Path(self.folder(), "log"), Path(self.folder(), "dev")
        dev.mkdir()
        syslog = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        syslog.bind(str(socket_path))
        syslog.settimeout(PATIENCE)
        daemon = self.start(
            "--listen=127.0.0.1:0", f"--backend={self.refuses()}", "--access_log=syslog",
            "--log=syslog", "--workers=2", wrapper=with_dev_log(socket_path, dev))
        self.turned_away(daemon)
        texts = sorted(syslog.recv(4096).decode() for _ in range(2))
        # daemon.info and daemon.warning (RFC 3164: 8 times 3, and 6 or 4)
        self.assertRegex(texts[0], r"^<28>.* parkway\[\d+\]: backend \S+ Connection refused")
        self.assertRegex(texts[1], r"^<30>.* parkway\[\d+\]: 127.0.0.1:\d+ \[.* connect_refused ")
        self.stop(daemon)

if __name__ == "__main__":
    main()
