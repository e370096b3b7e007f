#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The commands that the pages show do what the pages say.

Every indented or fenced line of a page is run by a test below (@runs), or named in NOT_RUN with the
reason, or is no command (OTHER_TEXT). A new line fails until it has its place here. Ports and
folders are replaced by free ones.
"""

import functools
import json
import re
import shlex
import subprocess
import sys
import unittest
from pathlib import Path

TREE = Path(__file__).absolute().parent  # the source tree, or Bazel's copy of the files named there
sys.path.insert(0, str(TREE / "server/e2e"))

from harness import (  # noqa: E402
    HOST, PARKWAY, PATIENCE, address_of, free_port, main, recv_exactly, run_parkway)
import programs_test  # noqa: E402

PAGES = ("README.md", "bench/README.md", "bench/loadgen/README.md", "deploy/README.md",
         "docs/operations.md", "docs/routes.md", "docs/scaling.md",
         "netpoll/README.md", "sched/README.md", "server/README.md", "server/sim/README.md")

BAZEL = "Bazel itself runs this test, and takes one command at a time"
MACHINE = "changes the machine; //deploy:deploy_test checks the files"
MINUTES = "takes minutes; //bench:run_smoke_test runs the programs shortly"
LOADGEN = "//bench/loadgen:loadgen_test runs both programs"
SIM = BAZEL + "; //server/sim:sim_test runs the program with such flags"
SCALING = "takes minutes; //bench:scaling_test runs the program shortly"
FUZZ = BAZEL + "; .ci/run does it for minutes"
NOT_RUN = {
    "./dev run": BAZEL + "; .ci/run does it",
    "./dev test": "runs this test",
    "./dev bench": MINUTES,
    "./dev bench --quick": MINUTES,
    "./dev bench --full --out=report": MINUTES,
    "./dev bench --only=proxy-64,idle": MINUTES,
    "bazel build --config=opt //bench/loadgen //bench/limit:echo": BAZEL,
    "bazel-bin/bench/loadgen/loadgen --address=127.0.0.1:7000": LOADGEN,
    "./dev sim": SIM,
    "./dev sim --seeds=1000000 --seed=50000": SIM,
    "./dev sim --seeds=1000 --scenario=resets": SIM,
    "./dev sim --seed=7 --events": SIM,
    "./dev sim --ending='client_reset: a request, with the kernel' --seeds=1000":
        BAZEL + "; //server/sim:endings_test does so for every row",
    "bazel build -c opt //server/sim:crowd": BAZEL,
    "bazel-bin/server/sim/crowd 1000000": "takes minutes; //server/sim:crowd_test runs it shortly",
    "./dev fuzz": FUZZ,
    "./dev fuzz flagfile endpoint --seconds=600": FUZZ,
    "./dev fuzz --keep": FUZZ,
    "./dev soak --minutes=10": "takes minutes; //server/e2e:soak_smoke_test runs it shortly",
    "bazel build --config=opt //server:parkway": BAZEL,
    "bazel build --config=opt //server:parkway //bench/limit/... //bench/loadgen": BAZEL,
    "bazel build --config=opt //bench/peers:asio //bench/peers:go_echo //bench/peers:go_proxy":
        BAZEL,
    "bazel test //bench:run_smoke_test": BAZEL,
    "bazel build --config=opt //bench:costs": BAZEL,
    "python3 bench/scaling.py --measure 15": SCALING,
    "python3 bench/scaling.py --picture docs/scaling.svg": SCALING,
    "python3 bench/scaling.py --sensitivity": SCALING,
    "bazel test //bench:scaling_test": BAZEL,
    "apt-get install golang-go haproxy libboost-dev libnginx-mod-stream linux-perf nginx "
    "python3-matplotlib valgrind wrk":
        "changes the machine; ./dev installs them",
    "sudo sysctl --system": MACHINE,
    "sudo systemctl daemon-reload": MACHINE,
    "sudo systemctl enable --now parkway": MACHINE,
    "systemctl status parkway": "needs systemd",
    "journalctl -u parkway": "needs systemd",
    "systemctl kill --kill-whom=main --signal=USR1 parkway":
        "needs systemd; //server/e2e:logs_test sends the signal",
    "sudo systemctl edit parkway": MACHINE,
    **dict.fromkeys((
        "ip rule add fwmark 1 lookup 100", "ip route add local 0.0.0.0/0 dev lo table 100",
        "ip -6 rule add fwmark 1 lookup 100", "ip -6 route add local ::/0 dev lo table 100",
    ), "changes the machine; //server/e2e:original_dst_test takes it from the page"),
}

OTHER_TEXT = (  # what programs print, and what goes into files
    r"parkway \d+\.\d+\.\d+: ", r"  (listening on|backends|limits|try) ",
    r"parkway: --idle_timeout=5: ", r"parkway: the configuration is good: ",
    r"parkway: --route=pg lissten", r"(pg|lan|world) +listen=", r"       to=10.0.0.4",
    r"seed 1199: ", r"fails also with 18 parts", r"  ./dev sim --seed=1199 ",
    r"--(listen|backend)=\S+$",
    r'192.0.2.7:33313 ', r'{"time":', r"parkway: --access_log=/var/log/parkway/access: No space",
    r"\[Service\]$", r"TimeoutStopSec=10min$",
    # Of nft, which //server/e2e:original_dst_test takes from the page.
    r"table inet parkway {$", r"  chain prerouting {$", r"    (type|iifname|socket) ", r" *}$",
)

RUN = {}  # line: the test that runs it


def runs(*lines):
    """The test gets them as its argument."""

    def register(test):
        for line in lines:
            RUN[line] = test.__name__

        @functools.wraps(test)
        def run(self):
            test(self, *lines)

        return run

    return register


def shown_lines(page):
    """Indented and fenced lines, without prompt and comment."""
    text = (TREE / page).read_text()
    if page in ("netpoll/README.md", "sched/README.md"):
        text = text[text.index("\n| "):]  # the example before is C++
    lines, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            lines.append(line)
        elif line.startswith("    "):
            lines.append(line[4:])
    return [line for line in map(command_of, lines) if line]


def command_of(line):
    return re.sub(r"(^| )# .*", "", line.removeprefix("$ ")).rstrip()


class Coverage(unittest.TestCase):
    def test_every_line_has_its_place(self):
        for page in PAGES:
            for line in shown_lines(page):
                known = line in RUN or line in NOT_RUN or any(
                    re.match(pattern, line) for pattern in OTHER_TEXT)
                self.assertTrue(known, f"{page} shows {line!r}: run it here, or say why not")

    def test_the_libraries_examples_are_compiled_as_shown(self):
        for library in ("netpoll", "sched"):
            shown = re.search(r"\n\n((?:    .*\n)+)", (TREE / library / "README.md").read_text())[1]
            compiled = (TREE / library / "readme_test.cc").read_text()
            self.assertIn(" ".join(shown.split()), " ".join(compiled.split()), library)

    def test_nothing_here_is_out_of_date(self):
        shown = {line for page in PAGES for line in shown_lines(page)}
        self.assertEqual(sorted({*RUN, *NOT_RUN} - shown), [])


class Daemon(programs_test.ProgramTest):
    @runs("./dev run --listen=:8080 --backend=127.0.0.1:9001 --backend=127.0.0.1:9002")
    def test_in_front_of_two_backends(self, line):
        backends = [self.listen(), self.listen()]
        flags = line.removeprefix("./dev run ").replace(":8080", ":0").split()
        for port, backend in zip(("127.0.0.1:9001", "127.0.0.1:9002"), backends):
            flags = [flag.replace(port, address_of(backend)) for flag in flags]
        daemon = self.start(*flags)
        for backend in backends:
            client = self.connect(f"{HOST}:{daemon.port}")
            self.assert_relays(client, self.accept(backend))

    @runs("./dev run --mode=echo --listen=127.0.0.1:7007")
    def test_as_an_echo_server(self, line):
        flags = line.removeprefix("./dev run ").replace(":7007", ":0").split()
        self.assert_echoes(self.connect(self.start(*flags)))

    @runs("./dev run --idle_timeout=5")
    def test_told_nonsense(self, line):
        done = run_parkway(*line.removeprefix("./dev run ").split())
        self.assertEqual(done.returncode, 2)
        self.assertIn("    " + done.stderr, (TREE / "README.md").read_text())

    def test_the_banner_of_a_trial_run(self):
        self.skip_if_taken(8080)
        shown = [line for line in shown_lines("README.md")
                 if re.match(OTHER_TEXT[0], line) or re.match(OTHER_TEXT[1], line)]
        daemon = self.start()
        daemon.wait_for_line("^  try ")
        without_numbers = functools.partial(re.sub, r"\d+", "N")
        self.assertEqual([*map(without_numbers, daemon.stderr())],
                         [*map(without_numbers, shown)])


class Routes(programs_test.ProgramTest):
    @runs("parkway --listen=:6379 --backend=10.0.0.1:6379 --backend=10.0.0.2:6379",
          "parkway --route='pg listen=:5432 to=10.0.0.1:5432*3,10.0.0.2:5432 idle_timeout=5m' "
          "--route='web listen=:80 to=10.0.0.3:8080,10.0.0.4:8080@backup'",
          "./dev run --route='pg listen=:5432 to=127.0.0.1:9001*3,127.0.0.1:9002' "
          "--route='web listen=:8081 to=127.0.0.1:9003'")
    def test_command_lines(self, *lines):
        for line in lines:
            flags = shlex.split(line.removeprefix("./dev run ").removeprefix("parkway "))
            done = run_parkway("--check", *flags)
            self.assertEqual((done.returncode, done.stderr), (0, ""), line)

    @runs(r"parkway --check --route='redis listen=:6379 to=10.0.0.1:6379,10.0.0.2:6379@backup health=tcp "
          r"health_send=PING\r\n health_expect=+PONG on_down=close'",
          "parkway --check --route='web listen=:80 to=10.0.0.3:8080,10.0.0.4:8080 balance=leastconn "
          "health=http health_port=8081 health_path=/healthz slow_start=30s'",
          "parkway --check --route='db listen=:5432 to=10.0.0.1:5432,10.0.0.2:5432 "
          "source=10.0.0.8,10.0.0.9 user_timeout=30s backend_keepalive_idle=60s'",
          "parkway --check --route='web listen=:80 to=10.0.0.1:80 accept_proxy=any "
          "trusted=10.9.0.0/16 send_proxy=v2 send_proxy_tlvs=crc32c,received'",
          "parkway --check --max_conn_rate=2000 --route='web listen=:443 to=10.0.0.1:443 "
          "deny=192.0.2.0/24 source_max_conns=100 source_conn_rate=20 listener_max_conns=5000 "
          "overload=reset'",
          "parkway --check --route='a listen=:443 sni=a.example.com to=10.0.0.1:443' "
          "--route='b listen=:443 sni=*.example.com alpn=h2 to=10.0.0.2:443' "
          "--route='rest listen=:443 to=10.0.0.3:443'",
          "parkway --check --route='out listen=:3128 to=original_dst "
          "allow_dst=203.0.113.0/24,2001:db8::/32'",
          "parkway --check --route='web listen=:80 to=10.0.0.1:80,10.0.0.2:80 source=client'",
          "parkway --check --dns_ttl_max=10s --route='pg listen=:5432 to=db.example.com:5432/max=100' "
          "--route='web listen=:80 to=srv:_http._tcp.example.com balance=leastconn'")
    def test_options_of_a_route(self, *lines):
        for line in lines:
            done = run_parkway(*shlex.split(line)[1:])
            self.assertEqual((done.returncode, done.stderr), (0, ""), line)

    @runs("parkway --check --routes_file=/etc/parkway/routes")
    def test_the_file_shown(self, line):
        page = (TREE / "docs/routes.md").read_text()
        text = re.search(r"\n\n((?:    .*\n)*?    pg  (?:.*\n)+?)\n", page)[1]
        path = Path(self.folder(), "routes")
        path.write_text(text)
        done = run_parkway(*line.replace("/etc/parkway/routes", str(path)).split()[1:])
        self.assertIn(f"    {done.stdout}", page)

    @runs("parkway --check --route='pg lissten=:5432 to=10.0.0.1:5432'")
    def test_a_mistake(self, line):
        done = run_parkway(*shlex.split(line)[1:])
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"    {done.stderr}", (TREE / "docs/routes.md").read_text())


class Operations(programs_test.ProgramTest):
    @runs("./dev run --listen=:8080 --backend=127.0.0.1:9001 --access_log=stdout",
          "mv /var/log/parkway/access /var/log/parkway/access.1",
          "awk '{print $7}' /var/log/parkway/access | sort | uniq -c")
    def test_the_access_log(self, start, rename, count):
        path = str(Path(self.folder(), "access"))
        backend = self.listen()
        flags = start.removeprefix("./dev run ").replace(":8080", ":0").replace("stdout", path)
        daemon = self.start(*flags.replace("127.0.0.1:9001", address_of(backend)).split())
        for _ in range(2):
            client = self.connect(f"{HOST}:{daemon.port}")
            server = self.accept(backend)
            self.assert_relays(client, server)
            client.close()
            self.assert_ends(server, "fin")
            server.close()
        self.stop(daemon)
        counted = self.shell(count, path)
        self.assertEqual(counted.split(), ["2", "client_fin"])
        self.shell(rename, path)
        self.assertTrue(Path(path + ".1").exists())

    def shell(self, line, path):
        line = line.replace("/var/log/parkway/access", path)
        return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout

    def test_the_lines_shown(self):
        page = (TREE / "docs/operations.md").read_text()
        shown = [line for line in shown_lines("docs/operations.md") if "client_fin" in line]
        tested = (TREE / "server/access_log_test.cc").read_text()
        for name in json.loads(shown[1]):
            self.assertIn(f'"{name}"', tested)
            self.assertIn(f"`{name}`", page)
        self.assertEqual(len(shown[0].split()), 9)

    @runs("parkway --check --route='web listen=:80 to=10.0.0.1:80 log_sample=100' "
          "--route='db listen=:5432 to=10.0.0.2:5432 log_sessions=all' "
          "--access_log=/var/log/parkway/access --access_log_progress=1m")
    def test_routes_that_log(self, line):
        done = run_parkway(*shlex.split(line)[1:])
        self.assertEqual((done.returncode, done.stderr), (0, ""), line)


class Deploy(programs_test.ProgramTest):
    @runs("sudo install -m 755 bazel-bin/server/parkway /usr/bin/parkway",
          "sudo install -D -m 644 deploy/parkway.flags /etc/parkway/parkway.flags",
          "sudo install -m 644 deploy/parkway.service /etc/systemd/system/",
          "sudo install -m 644 deploy/90-parkway.conf /etc/sysctl.d/")
    def test_install(self, *lines):
        root = Path(self.folder(), "root")
        for folder in ("usr/bin", "etc/systemd/system", "etc/sysctl.d"):  # every machine has them
            (root / folder).mkdir(parents=True)
        for line in lines:
            command = line.removeprefix("sudo ").replace(" /", f" {root}/").replace(
                "bazel-bin/server/parkway", PARKWAY)
            subprocess.run(command.split(), check=True, cwd=TREE)
        for path in ("usr/bin/parkway", "etc/parkway/parkway.flags",
                     "etc/systemd/system/parkway.service", "etc/sysctl.d/90-parkway.conf"):
            self.assertTrue((root / path).is_file(), path)
        unit = (root / "etc/systemd/system/parkway.service").read_text()
        started = re.search(r"^ExecStart=(.*)", unit, re.MULTILINE)[1].split()
        self.assertTrue((root / started[0][1:]).is_file(), started)
        self.assertTrue((root / started[1].split("=")[1][1:]).is_file(), started)

    def test_the_flag_file_shown(self):
        flags = [line for line in shown_lines("deploy/README.md") if line.startswith("--")]
        path = Path(self.folder(), "parkway.flags")
        path.write_text("\n".join(flags).replace("--listen=:6379", "--listen=:0") + "\n")
        daemon = self.start(f"--flagfile={path}")
        for flag in flags[1:]:
            self.assertIn(flag.split("=")[1], "\n".join(daemon.stderr()))


class Bench(programs_test.ProgramTest):
    @runs("python3 bench/paired.py --only=echo-64",
          "python3 bench/run.py",
          "python3 bench/run.py --scenario all",
          "python3 bench/run.py --rounds 3 --seconds 1 --scenario proxy --payload 16384",
          "python3 bench/run.py --scenario echo --connections 1000 --markdown report.md",
          "python3 bench/syscalls.py",
          "python3 bench/syscalls.py --check",
          "python3 bench/instructions.py",
          "python3 bench/instructions.py --check",
          "python3 bench/instructions.py --contestants floor,haproxy,nginx --scenario proxy",
          "python3 bench/memory.py",
          "python3 bench/memory.py --check",
          "python3 bench/memory.py --connections 4000 --contestants parkway,haproxy,nginx")
    def test_the_programs_know_their_flags(self, *lines):
        """They would run for minutes; it is the last thing they look at whether Parkway exists."""
        for line in lines:
            done = subprocess.run([sys.executable, *line.split()[1:], "--parkway=/missing"], cwd=TREE,
                                  capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("no such program: /missing", done.stderr, line)

    def check_wrk(self, line, port, address):
        command = line.replace("-d3s", "-d1s").replace(port, address)
        done = programs_test.run_to_end(command.split()[0], *command.split()[1:], cwd=TREE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"bench requests=[1-9]\d* errors=0 ", command)

    @runs("wrk -t1 -c64 -d3s -s bench/wrk/echo.lua http://127.0.0.1:7000",
          "wrk -t1 -c64 -d3s -s bench/wrk/echo.lua http://127.0.0.1:7000 -- 16384",
          "wrk -t1 -c64 -d3s -s bench/wrk/echo.lua http://127.0.0.1:7000 -- 64 16",
          "wrk -t1 -c64 -d3s -s bench/wrk/echo.lua http://127.0.0.1:7000 -- 64 1 close")
    def test_wrk_and_an_echo_server(self, *lines):
        address = self.echo().address
        for line in lines:
            self.check_wrk(line, "127.0.0.1:7000", address)

    @runs("wrk -t1 -c64 -d3s -s bench/wrk/http.lua http://127.0.0.1:8080/")
    def test_wrk_and_http(self, line):
        self.check_wrk(line, "127.0.0.1:8080/", self.proxy(self.nginx()).address + "/small")

    @runs("bazel-bin/bench/limit/echo 7000",
          "bazel-bin/bench/limit/proxy 7001 127.0.0.1 7000")
    def test_the_floor_alone(self, echo, proxy):
        ports = {"7000": str(free_port()), "7001": str(free_port())}
        for line in (echo, proxy):
            program, *arguments = line.split()
            arguments = [ports.get(argument, argument) for argument in arguments]
            built = TREE / program.removeprefix("bazel-bin/")  # in Bazel's copy of the tree
            self.await_listening(
                f"{HOST}:{arguments[0]}",
                self.run_program(str(built if built.exists() else TREE / program), *arguments))
        client = self.connect(f"{HOST}:{ports['7001']}")
        client.sendall(b"hello")
        self.assertEqual(recv_exactly(client, 5), b"hello")


if __name__ == "__main__":
    main()
