#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an operator types, and what the daemon answers."""

import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, PARKWAY, PATIENCE, DaemonTest, address_of, free_port, main, recv_exactly, recv_to_end,
    run_parkway)

CAP_NET_BIND_SERVICE = 10


class Questions(DaemonTest):
    def ask(self, *flags):
        done = run_parkway(*flags)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_version(self):
        self.assertRegex(self.ask("--version"), r"\Aparkway \d+\.\d+\.\d+\n\Z")

    def test_help_is_short_and_names_the_flags(self):
        text = self.ask("--help")
        lines = text.splitlines()
        self.assertLess(len(lines), 110)
        self.assertLess(max(len(line) for line in lines), 110)
        for flag in ("listen", "backend", "mode", "max_conns", "drain_timeout", "flagfile"):
            self.assertIn(f"--{flag}", text)
        self.assertNotIn("gflags", text)

    def test_help_of_everything_gives_reasons(self):
        self.assertIn("Raising it", self.ask("--help=all"))

    def test_help_is_answered_whatever_else_is_wrong(self):
        self.assertEqual(self.ask("--frobnicate", "--help"), self.ask("--help"))


class Mistakes(DaemonTest):
    """Exit code 2 and one line that names the flag and the value; nothing has started."""

    def refused(self, *flags, **options):
        done = run_parkway(*flags, **options)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertRegex(done.stderr, r"\Aparkway: [^\n]+\n\Z")
        return done.stderr[len("parkway: "):-1]

    def flagfile(self, text):
        path = Path(self.folder(), "parkway.flags")
        path.write_text(text)
        return str(path)

    def test_flags(self):
        for flag, message in (
                ("--frobnicate", "--frobnicate: unknown flag"),
                ("--frobnicate=1", "--frobnicate: unknown flag"),
                ("--idle_timeout=5", "--idle_timeout=5: add a unit, for example 5s"),
                ("--buffer_memory=64", "--buffer_memory=64: add a unit, for example 64KiB"),
                ("--idle_timeout=soon", "--idle_timeout=soon: not a duration"),
                ("--mode=tcp", "--mode=tcp: must be proxy, echo or discard"),
                ("--workers=-1", "--workers=-1: must be a whole number"),
                ("--workers=many", "--workers=many: must be a whole number"),
                ("--pin_cpus=perhaps", "--pin_cpus=perhaps: must be true or false"),
                ("--connect_timeout=0", "--connect_timeout=0: must be 1ms to 1h"),
                ("--listen", "--listen: needs a value"),
                ("--listen=here", "--listen=here: "),
                ("--listen=127.0.0.1:65536", "--listen=127.0.0.1:65536: "),
                ("serve", "serve: not a flag"),
        ):
            with self.subTest(flag):
                self.assertTrue(self.refused(flag).startswith(message), self.refused(flag))

    def test_a_flagfile_is_reported_with_its_line(self):
        path = self.flagfile("# Parkway\n\n--mode=echo\n--frobnicate=1\n")
        self.assertTrue(
            self.refused(f"--flagfile={path}").startswith(f"{path}:4: --frobnicate: unknown flag"))
        path = self.flagfile("--mode=echo\n--idle_timeout=5\n")
        self.assertEqual(self.refused(f"--flagfile={path}"),
                         f"{path}:2: --idle_timeout=5: add a unit, for example 5s")

    def test_an_unreadable_flagfile(self):
        missing = self.folder() + "/missing"
        self.assertEqual(self.refused(f"--flagfile={missing}"),
                         f"--flagfile={missing}: No such file or directory")
        self.assertEqual(self.refused(f"--flagfile={self.folder()}"),
                         f"--flagfile={self.folder()}: Is a directory")

    def test_flags_that_do_not_fit_together(self):
        self.assertIn("no --backend to relay to", self.refused(f"--listen={HOST}:0"))
        self.assertIn("--mode=echo has no backends",
                      self.refused("--mode=echo", f"--listen={HOST}:0", "--backend=127.0.0.1:9"))

    def test_a_port_in_use_by_another_program(self):
        taken = address_of(self.listen())
        self.assertEqual(self.refused("--mode=echo", f"--listen={taken}"),
                         f"--listen={taken}: Address already in use")

    def test_a_port_in_use_by_another_parkway(self):
        """Both would bind with SO_REUSEPORT, and the kernel would deal the clients to both."""
        for workers in (1, 2):
            taken = self.echo(f"--workers={workers}").address
            for others in (1, 2):
                self.assertEqual(
                    self.refused("--mode=echo", f"--listen={taken}", f"--workers={others}"),
                    f"--listen={taken}: Address already in use")

    def test_a_unix_path_in_use_by_another_parkway(self):
        path = self.folder() + "/front"
        first = self.start("--mode=echo", f"--listen=unix:{path}")
        self.assertEqual(self.refused("--mode=echo", f"--listen=unix:{path}"),
                         f"--listen=unix:{path}: Address already in use")
        self.assert_echoes(self.connect(first))

    def test_nothing_is_half_started(self):
        """With the second address taken, the first is free again, and no client was let in."""
        taken = address_of(self.listen())
        path = self.folder() + "/front"
        first = f"{HOST}:{free_port()}"
        self.assertEqual(
            self.refused("--mode=echo", f"--listen={first}", f"--listen=unix:{path}",
                         f"--listen={taken}"), f"--listen={taken}: Address already in use")
        self.assertFalse(os.path.exists(path))
        host, port = first.rsplit(":", 1)
        self.keep(socket.create_server((host, int(port))))

    def test_the_same_address_twice(self):
        path = self.folder() + "/front"
        self.assertIn(
            "an earlier address covers this one",
            self.refused("--mode=echo", f"--listen=unix:{path}", f"--listen=unix:{path}"))

    def test_an_address_of_another_machine(self):
        self.assertEqual(self.refused("--mode=echo", "--listen=192.0.2.1:0"),
                         "--listen=192.0.2.1:0: Cannot assign requested address")

    def test_a_listener_without_an_address(self):
        message = self.refused("--listen=no-such-host.invalid:80", "--backend=127.0.0.1:9")
        self.assertTrue(
            message.startswith("--listen=no-such-host.invalid:80: cannot resolve: "), message)

    def test_a_backend_that_is_its_own_listener(self):
        for listen in (f"{HOST}:47111", ":47111"):  # refused before anything is bound
            self.assertIn("would connect to itself",
                          self.refused(f"--listen={listen}", f"--backend={HOST}:47111"))

    def test_max_conns_above_what_the_open_files_allow(self):
        message = self.refused(f"--listen={HOST}:0", "--backend=127.0.0.1:9", "--max_conns=1000",
                               nofile=1000)
        self.assertRegex(message, r"^--max_conns=1000: the limit of 1000 open files allows 357; ")

    def test_a_privileged_port(self):
        lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
        if lowest == 0:
            self.skipTest("every port is for everybody here")
        address = f"{HOST}:{lowest - 1}"
        self.assertEqual(
            self.refused("--mode=echo", f"--listen={address}",
                         without_capabilities=(CAP_NET_BIND_SERVICE,)),
            f"--listen={address}: Permission denied")


class Banner(DaemonTest):
    def text(self, daemon):
        return "\n".join(daemon.stderr())

    def test_it_says_where_it_listens_and_what_holds(self):
        path = self.folder() + "/front"
        backend = self.refuses()
        daemon = self.proxy(backend, flags=(f"--listen=unix:{path}", "--workers=3",
                                            "--connect_timeout=2s", "--idle_timeout=90s"))
        text = self.text(daemon)
        self.assertIn("proxy, 3 workers", text)
        self.assertRegex(text, rf"listening on {HOST}:\d+ unix:{path}\n")
        self.assertIn(f"backends     {backend}\n", text)
        self.assertIn(f"{daemon.max_conns} connections ({daemon.open_files} open files)", text)
        self.assertIn("connect 2s, idle 1m30s", text)
        self.connect(daemon.listening[1])

    def check_line_to_try(self, daemon):
        line = daemon.wait_for_line(r"^  try +(.*)")[1]
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stdout), (0, "hello\n"), done.stderr)

    def test_the_line_to_try_works(self):
        for listen in (f"{HOST}:0", "[::1]:0", ":0"):
            with self.subTest(listen):
                self.check_line_to_try(self.start("--mode=echo", f"--listen={listen}"))

    def test_flags_from_a_file(self):
        path = Path(self.folder(), "parkway.flags")
        path.write_text(f"# echo\n--mode=echo\n--listen={HOST}:0\n--workers=1\n")
        daemon = self.start(f"--flagfile={path}", "--max_conns=7")
        self.assertEqual((daemon.workers, daemon.max_conns), (1, 7))
        self.assert_echoes(self.connect(daemon))


class Process(DaemonTest):
    def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 1024:
            self.skipTest(f"the hard limit is {hard}")
        done = subprocess.Popen(["bash", "-c", f"ulimit -Sn 300; exec {PARKWAY} --mode=echo "
                                               f"--listen=unix:{self.folder()}/front"],
                                stderr=subprocess.PIPE, text=True)
        self.addCleanup(done.wait)
        self.addCleanup(done.kill)
        self.addCleanup(done.stderr.close)
        for line in done.stderr:
            if match := re.search(r"\((\d+) open files\)", line):
                self.assertEqual(int(match[1]), hard)
                break
        self.assertEqual(resource.prlimit(done.pid, resource.RLIMIT_NOFILE), (hard, hard))

    def cpus_by_quota(self):
        """What the cgroup's quota allows, read as it stands (no test may change it)."""
        def read(path):
            try:
                return Path("/sys/fs/cgroup", path).read_text().split()
            except OSError:
                return []

        quota = read("cpu.max") or read("cpu/cpu.cfs_quota_us") + read("cpu/cpu.cfs_period_us")
        if len(quota) < 2 or not quota[0].isdigit() or int(quota[0]) == 0:
            return 1024
        return -(-int(quota[0]) // int(quota[1]))

    def test_a_worker_per_cpu_that_it_may_use(self):
        mine = os.sched_getaffinity(0)
        self.assertEqual(self.echo().workers, min(len(mine), self.cpus_by_quota()))
        self.assertEqual(self.echo(cpus={min(mine)}).workers, 1)

    def cpus_of_workers(self, daemon):
        return sorted(re.search(r"Cpus_allowed_list:\s*(\S+)", status)[1]
                      for name, status in daemon.threads() if name.startswith("worker-"))

    def test_pin_cpus_gives_each_worker_a_cpu(self):
        cpus = sorted(os.sched_getaffinity(0))
        daemon = self.echo("--pin_cpus", f"--workers={len(cpus)}")
        self.assertEqual(self.cpus_of_workers(daemon), sorted(str(cpu) for cpu in cpus))
        self.assertIn("pinned", daemon.stderr()[0])
        daemon = self.echo("--pin_cpus", "--workers=1", cpus={cpus[-1]})
        self.assertEqual(self.cpus_of_workers(daemon), [str(cpus[-1])])

    def test_without_pin_cpus_workers_may_run_anywhere(self):
        allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", Path("/proc/self/status").read_text())[1]
        self.assertEqual(set(self.cpus_of_workers(self.echo("--workers=2"))), {allowed})

    def notifications(self, name):
        receiver = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(name)
        return receiver

    def test_the_service_manager_is_told(self):
        path = self.folder() + "/notify"
        abstract = f"parkway-e2e-notify-{secrets.token_hex(8)}"
        for name, variable in ((path, path), ("\0" + abstract, "@" + abstract)):
            with self.subTest(variable):
                receiver = self.notifications(name)
                daemon = self.echo(env={"NOTIFY_SOCKET": variable})
                self.assertEqual(receiver.recv(100), b"READY=1")
                client = self.connect(daemon)  # ready means ready
                self.assert_echoes(client)
                daemon.signal(signal.SIGTERM)
                self.assertEqual(receiver.recv(100), b"STOPPING=1")
                client.close()
                daemon.check_end(0)

    def test_garbage_in_notify_socket_is_harmless(self):
        for name in ("", "/nonexistent/socket", "@", "nonsense", "x" * 200, self.folder()):
            with self.subTest(name):
                daemon = self.echo(env={"NOTIFY_SOCKET": name})
                self.assert_echoes(self.connect(daemon))

    def start_without_streams(self, *flags):
        """Standard input, output and error are closed, as some supervisors start daemons."""
        path = self.folder() + "/front"
        command = f"exec {PARKWAY} --listen=unix:{path} {' '.join(flags)} 0<&- 1>&- 2>&-"
        process = self.run_program("bash", "-c", command)
        self.await_listening(f"unix:{path}", process)
        return process, f"unix:{path}"

    def test_closed_standard_streams_are_harmless(self):
        """Above all, what it reports must not go to a client whose socket got number 2."""
        process, address = self.start_without_streams(f"--backend={self.refuses()}")
        for _ in range(3):
            self.assertEqual(recv_to_end(self.connect(address))[0], b"")
        for stream in range(3):
            self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/{stream}"), "/dev/null")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_reader_of_stderr_that_leaves_is_harmless(self):
        path = self.folder() + "/front"
        process = subprocess.Popen(
            [PARKWAY, f"--listen=unix:{path}", f"--backend={self.refuses()}"],
            stderr=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        process.stderr.close()
        self.await_listening(f"unix:{path}", process)
        for _ in range(3):
            self.assertEqual(recv_to_end(self.connect(f"unix:{path}"))[0], b"")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)


class TrialRun(DaemonTest):
    """Without flags, on port 8080: the target runs alone."""

    def setUp(self):
        super().setUp()
        self.skip_if_taken(8080)

    def test_it_relays_to_backends_of_its_own_and_says_so(self):
        daemon = self.start()
        self.assertEqual(daemon.listening, [f"{HOST}:8080"])
        self.assertEqual(len(daemon.wait_for_line(r"backends +(.*) \(built-in echo\)")[1].split()),
                         2)
        Banner.check_line_to_try(self, daemon)
        for _ in range(4):
            self.assert_echoes(self.connect(daemon))

    def test_max_conns_counts_clients_only(self):
        """The built-in backends must not take the places of the clients they serve."""
        daemon = self.start("--max_conns=2")
        clients = [self.connect(daemon) for _ in range(2)]
        for client in clients:
            self.assert_echoes(client)
        third = self.connect(daemon)
        third.sendall(b"x")
        self.assert_silent(third)
        clients[0].close()
        self.assertEqual(recv_exactly(third, 1), b"x")


if __name__ == "__main__":
    main()
