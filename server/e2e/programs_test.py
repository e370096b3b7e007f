#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real programs before and behind the daemon: nginx, curl, wrk, redis, HAProxy."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    HOST, MIB, PATIENCE, DaemonTest, Pattern, free_port, main, recv_exactly, wait_until)

PACKAGES = {  # program: Debian package
    "curl": "curl", "haproxy": "haproxy", "nginx": "nginx", "openssl": "openssl",
    "redis-benchmark": "redis-tools", "redis-cli": "redis-tools", "redis-server": "redis-server",
    "rsync": "rsync", "ss": "iproute2", "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "slowhttptest": "slowhttptest", "sshd": "openssh-server", "wrk": "wrk",
}

NGINX_CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {host}:{port};
    root {root};
    location = /name {{ return 200 "{name}\\n"; }}
  }}
}}
"""

HAPROXY_CONFIG = """
global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen front
  bind {front}
  server back {back}
"""


def find_program(name):
    """Debian keeps some daemons out of a user's PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise AssertionError(
            f"{name} is not installed: ./dev test installs it, or apt-get install {PACKAGES[name]}")
    return found


def run_to_end(name, *arguments, cwd=None):
    return subprocess.run([find_program(name), *arguments], capture_output=True, text=True, cwd=cwd,
                          timeout=6 * PATIENCE, stdin=subprocess.DEVNULL, errors="replace")


class ProgramTest(DaemonTest):
    def start_program(self, port, name, *arguments):
        program = self.run_program(find_program(name), *arguments)
        self.await_listening(f"{HOST}:{port}", program)
        return f"{HOST}:{port}"

    def nginx(self, name="one"):
        port, folder = free_port(), Path(self.folder(), f"nginx-{name}")
        root = folder / "root"
        root.mkdir(parents=True)
        (root / "small").write_text("small\n")
        (root / "large").write_bytes(Pattern("large", 8 * MIB).bytes())
        config = folder / "nginx.conf"
        config.write_text(
            NGINX_CONFIG.format(folder=folder, root=root, host=HOST, port=port, name=name,
                                # Root would become nobody, whom a sandbox may not have.
                                user="user root root;" if os.geteuid() == 0 else ""))
        return self.start_program(port, "nginx", "-p", str(folder), "-c", str(config))

    def redis(self):
        port = free_port()
        return self.start_program(port, "redis-server", "--port", str(port), "--bind", HOST,
                                  "--save", "", "--appendonly", "no", "--dir", self.folder())

    def haproxy(self, back):
        port = free_port()
        config = Path(self.folder(), "haproxy.cfg")
        config.write_text(HAPROXY_CONFIG.format(front=f"{HOST}:{port}", back=back))
        return self.start_program(port, "haproxy", "-f", str(config))

    # ---- Programs that ask.

    def curl(self, *arguments):
        done = run_to_end("curl", "--silent", "--show-error", "--max-time", str(3 * PATIENCE),
                          *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def redis_cli(self, address, *arguments):
        host, port = address.split(":")
        done = run_to_end("redis-cli", "-h", host, "-p", port, *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.strip()

    def check_file(self, address, name, expected):
        path = os.path.join(self.folder(), "downloaded")
        self.curl("--output", path, f"http://{address}/{name}")
        self.assertTrue(Path(path).read_bytes() == expected, "the bytes differ")


class Http(ProgramTest):
    def test_curl_gets_the_bytes_that_nginx_has(self):
        daemon = self.proxy(self.nginx())
        self.check_file(daemon.address, "small", b"small\n")
        self.check_file(daemon.address, "large", Pattern("large", 8 * MIB).bytes())

    def test_curl_head_and_missing_file(self):
        daemon = self.proxy(self.nginx())
        head = self.curl("--head", f"http://{daemon.address}/large")
        self.assertIn("200 OK", head)
        self.assertIn(f"Content-Length: {8 * MIB}", head)
        status = self.curl("--output", "/dev/null", "--write-out", "%{http_code}",
                           f"http://{daemon.address}/missing")
        self.assertEqual(status, "404")

    def test_requests_share_a_connection(self):
        daemon = self.proxy(self.nginx())
        urls = [f"http://{daemon.address}/small"] * 5
        connects = self.curl(*urls, "--write-out", "%{num_connects}\n")
        self.assertEqual(connects, "small\n1\n" + 4 * "small\n0\n")
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, "client_fin": 1})

    def test_two_nginx_take_turns(self):
        daemon = self.proxy(self.nginx("one"), self.nginx("two"))
        answers = [self.curl(f"http://{daemon.address}/name").strip() for _ in range(6)]
        self.assertEqual(sorted(answers), ["one"] * 3 + ["two"] * 3)

    def check_wrk(self, address, connections):
        done = run_to_end("wrk", "-t1", f"-c{connections}", "-d2s", f"http://{address}/small")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("Socket errors", done.stdout)
        self.assertNotIn("Non-2xx", done.stdout)
        self.assertGreater(int(re.search(r"(\d+) requests in", done.stdout)[1]), 0, done.stdout)

    def test_wrk_sees_no_errors(self):
        self.check_wrk(self.proxy(self.nginx(), flags=("--workers=2",)).address, 64)

    def test_behind_haproxy(self):
        front = self.haproxy(self.proxy(self.nginx()).address)
        self.check_file(front, "large", Pattern("large", 8 * MIB).bytes())

    def test_before_haproxy(self):
        daemon = self.proxy(self.haproxy(self.nginx()))
        self.check_file(daemon.address, "large", Pattern("large", 8 * MIB).bytes())
        self.check_wrk(daemon.address, 32)


class Redis(ProgramTest):
    def test_redis_cli(self):
        daemon = self.proxy(self.redis())
        self.assertEqual(self.redis_cli(daemon.address, "ping"), "PONG")
        self.assertEqual(self.redis_cli(daemon.address, "set", "key", "value"), "OK")
        self.assertEqual(self.redis_cli(daemon.address, "get", "key"), "value")

    def check_benchmark(self, daemon, *flags):
        host, port = daemon.address.split(":")
        done = run_to_end("redis-benchmark", "-h", host, "-p", port, "-n", "4800", "-c", "50",
                          "-t", "set,get,incr", "--csv", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("rror", done.stdout + done.stderr)
        self.assertRegex(done.stdout, r'"SET","\d[\s\S]*"GET","\d[\s\S]*"INCR","\d')

    def test_redis_benchmark(self):
        """Every increment arrives, and once."""
        daemon = self.proxy(self.redis(), flags=("--workers=2",))
        for flags in ((), ("-P", "16"), ("-d", "20000")):
            with self.subTest(flags):
                self.assertEqual(self.redis_cli(daemon.address, "flushall"), "OK")
                self.check_benchmark(daemon, *flags)
                self.assertEqual(self.redis_cli(daemon.address, "get", "counter:__rand_int__"),
                                 "4800")

    def test_publish_reaches_subscribers_through_the_proxy(self):
        daemon = self.proxy(self.redis())
        subscribers = [self.connect(daemon) for _ in range(3)]
        for subscriber in subscribers:
            subscriber.sendall(b"SUBSCRIBE news\r\n")
            recv_exactly(subscriber, len(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"))
        for number in range(100):
            self.assertEqual(self.redis_cli(daemon.address, "publish", "news", f"{number:03}")
                             if number % 25 == 0 else self.publish(daemon, f"{number:03}"), "3")
        for subscriber in subscribers:
            for number in range(100):
                message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\n%03d\r\n" % number
                self.assertEqual(recv_exactly(subscriber, len(message)), message)

    def publish(self, daemon, text):
        with socket.create_connection((HOST, daemon.port), PATIENCE) as client:
            client.sendall(f"PUBLISH news {text}\r\n".encode())
            return recv_exactly(client, 4).decode()[1:2]

    def test_a_value_of_several_mebibytes(self):
        daemon = self.proxy(self.redis())
        value = Pattern("value", 8 * MIB).bytes()
        client = self.connect(daemon)
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n" % (len(value), value))
        self.assertEqual(recv_exactly(client, 5), b"+OK\r\n")
        client.sendall(b"GET k\r\n")
        head = b"$%d\r\n" % len(value)
        self.assertEqual(recv_exactly(client, len(head)), head)
        self.assertTrue(recv_exactly(client, len(value)) == value, "the bytes differ")

    def test_a_backend_that_is_restarted(self):
        port = free_port()
        arguments = ("--port", str(port), "--bind", HOST, "--save", "", "--dir", self.folder())
        self.start_program(port, "redis-server", *arguments)
        daemon = self.proxy(f"{HOST}:{port}")
        self.assertEqual(self.redis_cli(daemon.address, "ping"), "PONG")
        self._programs[-1].kill()
        self._programs[-1].wait()
        self.assert_refused(daemon)
        self.start_program(port, "redis-server", *arguments)
        wait_until(lambda: self.redis_cli(daemon.address, "ping") == "PONG", "redis answers")


if __name__ == "__main__":
    main()
