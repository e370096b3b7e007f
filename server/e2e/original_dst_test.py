#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that a packet filter leads to the daemon, and backends that see the client's address.

Three network namespaces: this one is the router where the daemon runs, on its left are clients, on
its right is nginx, at several addresses and ports, which says where it was reached and by whom.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))

from harness import (  # noqa: E402
    KIB, DaemonTest, address_of, enter_namespace, in_parallel, main, recv_exactly, recv_to_end,
    reset, run_parkway, within)

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13

NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ }}
stream {{
  server {{
    listen 80;
    listen 81;
    listen [::]:80 ipv6only=on;
    return "$remote_addr at $server_addr:$server_port";
  }}
  server {{
    listen 90 proxy_protocol;
    listen [::]:90 ipv6only=on proxy_protocol;
    return "$proxy_protocol_addr to $proxy_protocol_server_addr:$proxy_protocol_server_port by $remote_addr";
  }}
}}
"""

PAGE = Path(__file__).absolute().parent.parent.parent / "docs/routes.md"


def shown():
    """The indented lines of the page."""
    return "".join(line[4:] if line.startswith("    ") else "\n"
                   for line in PAGE.read_text().splitlines(keepends=True))


def rules_with(word):
    """The page's rules of that kind, for our interface and more ports."""
    tables = re.findall(r"^table inet parkway {\n.*?^}\n", shown(), re.M | re.S)
    [rules] = [table for table in tables if word in table]
    return rules.replace("lan0", "left").replace("{ 80, 443 }", "{ 80-99, 8000-8999 }")


def with_what_is_ours(rules):
    """They lead what was for this machine to the daemon, too, who has to see what that is."""
    return rules.replace("fib daddr type != local ", "")


REDIRECT_OTHERS, TPROXY_OTHERS = rules_with("redirect to"), rules_with("tproxy to")
REDIRECT, TPROXY = map(with_what_is_ours, (REDIRECT_OTHERS, TPROXY_OTHERS))
# Of connections that the daemon has already, also the answers to those that it has made with a
# client's address.
DIVERT = re.sub(r".*tproxy to.*\n", "", TPROXY).replace("parkway", "divert")
REDIRECT_OUR_OWN = """
table inet nat {
  chain output {
    type nat hook output priority -100;
    meta mark != 7 tcp dport 80 redirect to :3128
  }
}
"""


def run(command, **options):
    return subprocess.run(command.split(), check=True, **options)


class Router(DaemonTest):
    LEFT, LEFT6 = "10.1.0.2", "fd01::2"
    ROUTER, ROUTER6 = "10.1.0.1", "fd01::1"  # as the left sees it
    TOWARDS, TOWARDS6 = "10.2.0.1", "fd02::1"  # as the right does
    FIRST, SECOND, SIXTH = "10.2.0.2", "10.2.0.3", "fd02::2"  # on the right
    ALL = "10.2.0.0/24,fd02::/64"

    def setUp(self):
        super().setUp()
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", name).write_text("1")
        self.left = self.lay_cable("left", (self.ROUTER, self.ROUTER6), (self.LEFT, self.LEFT6))
        self.right = self.lay_cable("right", (self.TOWARDS, self.TOWARDS6),
                                    (self.FIRST, self.SECOND, self.SIXTH))
        self.addCleanup(run, "nft flush ruleset")
        self.start_nginx()

    def lay_cable(self, name, ours, theirs):
        """Another namespace, whose way to everywhere is through here."""
        there = self.new_namespace()
        run(f"ip link add {name} type veth peer name {name} netns {there.pid}")
        self.addCleanup(subprocess.run, ["ip", "link", "del", name], check=False,
                        stderr=subprocess.DEVNULL)
        enter = f"nsenter --net=/proc/{there.pid}/ns/net "
        for where, addresses in (("", ours), (enter, theirs)):
            for address in addresses:
                size = "64 nodad" if ":" in address else "24"
                prefix, _, flags = size.partition(" ")
                run(f"{where}ip address add {address}/{prefix} dev {name} {flags}")
            run(f"{where}ip link set {name} up")
        run(f"{enter}ip link set lo up")
        run(f"{enter}ip route add default via {ours[0]}")
        run(f"{enter}ip -6 route add default via {ours[1]}")
        return there

    def start_nginx(self):
        config = Path(self.folder(), "nginx.conf")
        config.write_text(NGINX.format(folder=self.folder()))
        nginx = self.run_program("nsenter", f"--net=/proc/{self.right.pid}/ns/net", "nginx", "-p",
                                 self.folder(), "-c", str(config))
        within(self.right, self.await_listening, f"{self.FIRST}:80", nginx)
        within(self.right, self.await_listening, f"[{self.SIXTH}]:90", nginx)

    # ---- The daemon, and the rules that lead to it.

    def route(self, options, *flags, listen=":0", to="original_dst"):
        return self.start(f"--route=x listen={listen} to={to} {options}", *flags)

    def apply(self, rules, daemon):
        subprocess.run(["nft", "-f", "-"], input=rules.replace(":3128", f":{daemon.port}"),
                       text=True, check=True)

    def redirected(self, options, *flags, **more):
        daemon = self.route(options, *flags, **more)
        self.apply(REDIRECT, daemon)
        return daemon

    def lead_marked_here(self):
        """Packets with mark 1 are for this machine, whatever their address."""
        commands = re.findall(r"^ip .*", shown(), re.M)
        self.assertEqual(len(commands), 4)
        for command in commands:
            run(command)
            self.addCleanup(run, command.replace(" add ", " del "))

    def handed_over(self, options, *flags, **more):
        self.lead_marked_here()
        daemon = self.route(f"transparent=true {options}", *flags, **more)
        self.apply(TPROXY, daemon)
        return daemon

    # ---- Clients.

    def client(self, to, namespace=None):
        return within(namespace or self.left, self.connect, to)

    def told(self, to, namespace=None):
        """What the server says to a client on the left."""
        client = self.client(to, namespace)
        said, end = recv_to_end(client)
        client.close()
        self.assertEqual(end, "fin", said)
        return said.decode()

    def refused(self, to, namespace=None):
        within(namespace or self.left, self.assert_refused, to)

    def end(self, client, backend):
        """The client first."""
        client.close()
        self.assertEqual(backend.recv(1), b"")
        backend.close()

    def ended(self, daemon, **counts):
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": sum(counts.values()), **counts})


class Redirected(Router):
    def test_everybody_gets_to_where_he_was_going(self):
        daemon = self.redirected(f"allow_dst={self.ALL}")
        for _ in range(3):
            self.assertEqual(self.told(f"{self.FIRST}:80"), f"{self.TOWARDS} at {self.FIRST}:80")
            self.assertEqual(self.told(f"{self.FIRST}:81"), f"{self.TOWARDS} at {self.FIRST}:81")
            self.assertEqual(self.told(f"{self.SECOND}:80"), f"{self.TOWARDS} at {self.SECOND}:80")
            self.assertEqual(self.told(f"[{self.SIXTH}]:80"),
                             f"{self.TOWARDS6} at {self.SIXTH}:80")
        self.ended(daemon, upstream_fin=12)

    def test_sockets_of_one_family(self):
        for listen, to, source in ((f"{self.ROUTER}:0", f"{self.FIRST}:80", self.TOWARDS),
                                   ("0.0.0.0:0", f"{self.FIRST}:80", self.TOWARDS),
                                   ("[::]:0", f"[{self.SIXTH}]:80", self.TOWARDS6)):
            with self.subTest(listen=listen):
                daemon = self.redirected(f"allow_dst={self.ALL}", listen=listen)
                self.assertTrue(self.told(to).startswith(f"{source} at "))
                run("nft flush ruleset")
                self.ended(daemon, upstream_fin=1)

    def test_bytes_and_half_closes(self):
        server = within(self.right, self.listen, self.SECOND)
        port = server.getsockname()[1]
        daemon = self.route(f"allow_dst={self.SECOND}")
        self.apply(REDIRECT.replace("80-99", str(port)), daemon)
        client = self.client(f"{self.SECOND}:{port}")
        backend = self.accept(server)
        data = os.urandom(3000 * KIB)
        in_parallel(lambda: client.sendall(data),
                    lambda: self.assertEqual(recv_exactly(backend, len(data)), data))
        client.shutdown(socket.SHUT_WR)
        self.assert_ends(backend, "fin")
        backend.sendall(b"half-closed")
        backend.close()
        self.assert_ends(client, "fin", b"half-closed")
        other = self.client(f"{self.SECOND}:{port}")
        backend = self.accept(server)
        self.assert_relays(other, backend)
        reset(backend)
        self.assert_ends(other, "reset")
        self.ended(daemon, client_fin=1, upstream_reset=1)

    def test_who_may_not_go_there_is_reset(self):
        daemon = self.redirected(f"allow_dst={self.FIRST}")
        self.refused(f"{self.SECOND}:80")
        self.refused(f"[{self.SIXTH}]:80")
        self.told(f"{self.FIRST}:81")
        self.ended(daemon, dst_denied=2, upstream_fin=1)

    def test_the_logs_name_the_destination(self):
        log = Path(self.folder(), "access")
        daemon = self.redirected(f"allow_dst={self.FIRST},fd02::/64", f"--access_log={log}")
        self.told(f"{self.FIRST}:81")
        self.refused(f"{self.FIRST}:99")
        daemon.wait_for_line(rf"^parkway: route x: backend {self.FIRST}:99: Connection refused "
                             r"\(1 failed connects so far\)$")
        self.refused(f"[{self.SIXTH}]:99")
        self.refused(f"{self.SECOND}:80")
        self.refused(f"{self.ROUTER}:{daemon.port}")
        self.ended(daemon, upstream_fin=1, connect_refused=2, dst_denied=1, dst_loop=1)
        columns = sorted(tuple(line.split()[i] for i in (3, 6)) for line in
                         log.read_text().splitlines())
        self.assertEqual(columns, sorted([
            (f"x/{self.FIRST}:81", "upstream_fin"), (f"x/{self.FIRST}:99", "connect_refused"),
            (f"x/[{self.SIXTH}]:99", "connect_refused"), (f"x/{self.SECOND}:80", "dst_denied"),
            ("x/-", "dst_loop")]))
        self.assertEqual({len(line.split()) for line in log.read_text().splitlines()}, {9})

    def test_others_are_served_while_one_destination_is_silent(self):
        """There is nothing that goes down."""
        daemon = self.redirected(f"allow_dst={self.ALL} connect_timeout=300ms")
        for _ in range(5):
            self.refused(f"{self.FIRST}:99")
        run(f"nsenter --net=/proc/{self.right.pid}/ns/net nft add table ip x")
        run(f"nsenter --net=/proc/{self.right.pid}/ns/net nft add chain ip x in "
            "{ type filter hook input priority 0; }")
        run(f"nsenter --net=/proc/{self.right.pid}/ns/net nft add rule ip x in "
            f"ip daddr {self.SECOND} tcp dport 81 drop")
        self.refused(f"{self.SECOND}:81")
        self.told(f"{self.FIRST}:80")
        self.told(f"{self.SECOND}:80")
        self.ended(daemon, connect_refused=5, connect_timeout=1, upstream_fin=2)

    def test_the_proxy_protocol(self):
        """Its destination is where the client was going."""
        for version in ("v1", "v2"):
            with self.subTest(version=version):
                daemon = self.redirected(f"allow_dst={self.ALL} send_proxy={version}")
                self.assertEqual(self.told(f"{self.FIRST}:90"),
                                 f"{self.LEFT} to {self.FIRST}:90 by {self.TOWARDS}")
                self.assertEqual(self.told(f"[{self.SIXTH}]:90"),
                                 f"{self.LEFT6} to {self.SIXTH}:90 by {self.TOWARDS6}")
                run("nft flush ruleset")
                self.ended(daemon, upstream_fin=2)

    def test_a_reload(self):
        routes = Path(self.folder(), "routes")
        blocks = Path(self.folder(), "blocks")
        blocks.write_text(f"{self.FIRST}  # alone\n")
        routes.write_text(f"x listen=:0 to=original_dst allow_dst=@{blocks}")
        daemon = self.start(f"--routes_file={routes}")
        self.apply(REDIRECT, daemon)
        self.refused(f"{self.SECOND}:80")
        self.told(f"{self.FIRST}:80")
        blocks.write_text(f"{self.SECOND}\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("^parkway: reloaded: 1 route, 1 changed$")
        self.told(f"{self.SECOND}:80")
        self.refused(f"{self.FIRST}:80")
        self.ended(daemon, dst_denied=2, upstream_fin=2)


class Circles(Router):
    EVERYWHERE = "0.0.0.0/0,::/0,10.1.0.0/24,fd01::/64"

    def test_who_comes_directly(self):
        """With and without a filter that tracks connections."""
        for listen, to in ((":0", (self.ROUTER, f"[{self.ROUTER6}]", self.TOWARDS)),
                           (f"{self.ROUTER}:0", (self.ROUTER,))):
            for rules in ("", REDIRECT):
                with self.subTest(listen=listen, rules=rules):
                    daemon = self.route(f"allow_dst={self.EVERYWHERE}", listen=listen)
                    self.apply(rules, daemon)
                    for address in to:
                        self.refused(f"{address}:{daemon.port}")
                    run("nft flush ruleset")
                    self.ended(daemon, dst_loop=len(to))

    def test_listeners_of_the_daemon(self):
        """Which are led to another of its listeners: by a wildcard, and by their own addresses."""
        daemon = self.redirected(
            f"allow_dst={self.EVERYWHERE}",
            "--route=own listen=:8123 to=echo",
            f"--route=one listen={self.ROUTER}:8124,[{self.ROUTER6}]:8124 to=echo")
        for port in (8123, 8124):
            self.refused(f"{self.ROUTER}:{port}")
            self.refused(f"[{self.ROUTER6}]:{port}")
        # An address of this machine where nobody listens is none.
        self.refused(f"{self.ROUTER}:8125")
        self.refused(f"{self.TOWARDS}:8124")
        # Another machine's with such a port is none either.
        server = within(self.right, socket.create_server, (self.FIRST, 8123))
        self.keep(server)
        client = self.client(f"{self.FIRST}:8123")
        self.assert_relays(client, backend := self.accept(server))
        self.end(client, backend)
        self.ended(daemon, dst_loop=4, connect_refused=2, client_fin=1)

    def test_what_is_for_this_machine_is_left_out(self):
        """As the page has it."""
        server = self.keep(socket.create_server(("", 8125)))
        for rules, options in ((REDIRECT_OTHERS, ""), (TPROXY_OTHERS, "transparent=true")):
            with self.subTest(rules=rules):
                if options:
                    self.lead_marked_here()
                daemon = self.route(f"allow_dst={self.EVERYWHERE} {options}")
                self.apply(rules, daemon)
                client = self.client(f"{self.ROUTER}:8125")
                connection, peer = server.accept()
                self.assertEqual(peer[0], self.LEFT)
                for end in (client, connection):
                    end.close()
                self.told(f"{self.FIRST}:80")
                run("nft flush ruleset")
                self.ended(daemon, upstream_fin=1)

    def test_the_port_that_is_redirected_may_be_the_daemons(self):
        daemon = self.redirected(f"allow_dst={self.EVERYWHERE}", listen=":80")
        self.assertEqual(self.told(f"{self.FIRST}:80"), f"{self.TOWARDS} at {self.FIRST}:80")
        self.assertEqual(self.told(f"[{self.SIXTH}]:80"), f"{self.TOWARDS6} at {self.SIXTH}:80")
        self.refused(f"{self.ROUTER}:80")
        self.ended(daemon, upstream_fin=2, dst_loop=1)

    def test_listeners_that_a_reload_brings_and_takes(self):
        routes = Path(self.folder(), "routes")
        route = f"x listen=:0 to=original_dst allow_dst={self.EVERYWHERE}\n"
        routes.write_text(route)
        daemon = self.start(f"--routes_file={routes}")
        self.apply(REDIRECT, daemon)
        self.refused(f"{self.ROUTER}:8123")
        routes.write_text(route + "more listen=:8123 to=echo\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("^parkway: reloaded: 2 routes, 1 new$")
        self.refused(f"{self.ROUTER}:8123")
        routes.write_text(route)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("^parkway: reloaded: 1 route, 1 gone$")
        self.refused(f"{self.ROUTER}:8123")
        self.ended(daemon, connect_refused=2, dst_loop=1)

    def test_connections_of_the_daemon_that_come_back(self):
        """A filter that does not leave them out leads each of them here again. It ends soon."""
        clients = 20
        for workers in (1, 2, 4):
            with self.subTest(workers=workers):
                daemon = self.route(f"allow_dst={self.ALL}", f"--workers={workers}")
                self.apply(REDIRECT_OUR_OWN.replace("meta mark != 7 ", ""), daemon)
                for to in (f"{self.FIRST}:80", f"[{self.SIXTH}]:80"):
                    for _ in range(clients // 2):
                        self.assert_refused(to)
                daemon.await_descriptors(0)
                run("nft flush ruleset")
                self.stop(daemon)
                counts = daemon.summary()
                self.assertGreaterEqual(counts["dst_loop"], clients)
                self.assertLess(counts["served"], 5 * clients)

    def special(self, address, block):
        """Denied where everything is allowed; served where it is named. By clients of this machine."""
        if not address.startswith("127."):
            run(f"ip address replace {address}/32 dev lo")
            self.addCleanup(run, f"ip address del {address}/32 dev lo")
        server = self.keep(socket.create_server((address, 80)))
        for allowed, reaches in (("0.0.0.0/0", False), (f"0.0.0.0/0,{block}", True)):
            daemon = self.route(f"allow_dst={allowed} mark=7", listen="127.0.0.1:0")
            self.apply(REDIRECT_OUR_OWN, daemon)
            if reaches:
                client = self.connect(f"{address}:80")
                self.assert_relays(client, backend := self.accept(server))
                self.end(client, backend)
            else:
                self.assert_refused(f"{address}:80")
            run("nft flush ruleset")
            self.ended(daemon, **{"client_fin" if reaches else "dst_denied": 1})

    def test_loopback(self):
        self.special("127.0.0.5", "127.0.0.0/8")

    def test_link_local(self):
        self.special("169.254.9.9", "169.254.0.0/16")


class Transparent(Router):
    def test_everybody_gets_to_where_he_was_going(self):
        daemon = self.handed_over(f"allow_dst={self.ALL}")
        self.assertEqual(self.told(f"{self.FIRST}:80"), f"{self.TOWARDS} at {self.FIRST}:80")
        self.assertEqual(self.told(f"{self.FIRST}:81"), f"{self.TOWARDS} at {self.FIRST}:81")
        self.assertEqual(self.told(f"{self.SECOND}:80"), f"{self.TOWARDS} at {self.SECOND}:80")
        self.assertEqual(self.told(f"[{self.SIXTH}]:80"), f"{self.TOWARDS6} at {self.SIXTH}:80")
        self.ended(daemon, upstream_fin=4)

    def test_backends_see_the_client(self):
        daemon = self.handed_over(f"allow_dst={self.ALL} source=client")
        for _ in range(3):
            self.assertEqual(self.told(f"{self.FIRST}:80"), f"{self.LEFT} at {self.FIRST}:80")
            self.assertEqual(self.told(f"[{self.SIXTH}]:80"), f"{self.LEFT6} at {self.SIXTH}:80")
        self.ended(daemon, upstream_fin=6)

    def test_who_may_not_go_there_is_reset(self):
        daemon = self.handed_over(f"allow_dst={self.FIRST} source=client",
                                  "--route=own listen=:8123 to=echo")
        self.refused(f"{self.SECOND}:80")
        self.refused(f"[{self.SIXTH}]:80")
        self.refused(f"{self.ROUTER}:{daemon.port}")  # directly
        self.refused(f"{self.ROUTER}:8123")
        self.told(f"{self.FIRST}:80")
        self.ended(daemon, dst_denied=2, dst_loop=2, upstream_fin=1)

    def test_the_proxy_protocol(self):
        daemon = self.handed_over(f"allow_dst={self.ALL} send_proxy=v2 source=client")
        self.assertEqual(self.told(f"{self.FIRST}:90"),
                         f"{self.LEFT} to {self.FIRST}:90 by {self.LEFT}")
        self.assertEqual(self.told(f"[{self.SIXTH}]:90"),
                         f"{self.LEFT6} to {self.SIXTH}:90 by {self.LEFT6}")
        self.ended(daemon, upstream_fin=2)

    def test_a_fixed_backend_is_told_where_the_client_was_going(self):
        daemon = self.handed_over("send_proxy=v1", to=f"{self.FIRST}:90")
        self.assertEqual(self.told(f"{self.SECOND}:85"),
                         f"{self.LEFT} to {self.SECOND}:85 by {self.TOWARDS}")
        self.ended(daemon, upstream_fin=1)


class ClientsAsSources(Router):
    """With backends that are given, and with clients that are redirected."""

    def given(self, options, to):
        self.lead_marked_here()
        daemon = self.route(f"source=client {options}", to=to)
        self.apply(DIVERT, daemon)
        return daemon

    def test_a_backend_sees_the_client(self):
        daemon = self.given("", f"{self.FIRST}:80")
        self.assertEqual(self.told(f"{self.ROUTER}:{daemon.port}"),
                         f"{self.LEFT} at {self.FIRST}:80")
        # Of another family, its address cannot be the source.
        self.assertEqual(self.told(f"[{self.ROUTER6}]:{daemon.port}"),
                         f"{self.TOWARDS} at {self.FIRST}:80")
        self.ended(daemon, upstream_fin=2)

    def test_addresses_from_which_nothing_leads_to_a_backend(self):
        """They are not tried, and take no backend down."""
        daemon = self.given("accept_proxy=v1 trusted=127.0.0.1 health_fall=1",
                            f"{self.FIRST}:80,{self.FIRST}:81")
        for source in ("127.0.0.1", "169.254.1.1", "224.0.0.1"):
            client = self.connect(f"127.0.0.1:{daemon.port}")
            client.sendall(f"PROXY TCP4 {source} 192.0.2.1 5 80\r\n".encode())
            said, end = recv_to_end(client)
            client.close()
            self.assertEqual((said.decode().split(" at ")[0], end), (self.TOWARDS, "fin"))
        self.ended(daemon, upstream_fin=3)

    def test_a_client_without_a_way_back_is_not_a_backends_failure(self):
        run("nft -f -", text=True, input="""
            table inet hole {
              chain output {
                type filter hook output priority filter;
                ip saddr 10.1.0.66 drop
              }
            }""")
        daemon = self.given("accept_proxy=v1 trusted=127.0.0.1 health_fall=1 connect_timeout=100ms",
                            f"{self.FIRST}:80,{self.FIRST}:81")
        for source, end in (("10.1.0.66", "reset"), ("10.1.0.67", "fin")):
            client = self.connect(f"127.0.0.1:{daemon.port}")
            client.sendall(f"PROXY TCP4 {source} 192.0.2.1 5 80\r\n".encode())
            self.assertEqual(recv_to_end(client)[1], end)
            client.close()
        self.ended(daemon, connect_timeout=1, upstream_fin=1)

    def test_whom_a_proxy_speaks_for(self):
        daemon = self.given(f"accept_proxy=v1 trusted={self.LEFT}", f"{self.FIRST}:80")
        client = self.client(f"{self.ROUTER}:{daemon.port}")
        client.sendall(b"PROXY TCP4 10.1.0.77 192.0.2.1 5 80\r\n")
        self.assert_ends(client, "fin", f"10.1.0.77 at {self.FIRST}:80".encode())
        client.close()
        self.ended(daemon, upstream_fin=1)

    def test_checks_come_from_this_machine(self):
        server = within(self.right, self.listen, self.FIRST)
        self.given("health=tcp health_interval=50ms", address_of(server))
        check, (source, _) = server.accept()
        check.close()
        self.assertEqual(source, self.TOWARDS)

    def test_redirected(self):
        self.lead_marked_here()
        daemon = self.route(f"allow_dst={self.ALL} source=client")
        self.apply(DIVERT + REDIRECT, daemon)
        self.assertEqual(self.told(f"{self.SECOND}:81"), f"{self.LEFT} at {self.SECOND}:81")
        self.assertEqual(self.told(f"[{self.SIXTH}]:80"), f"{self.LEFT6} at {self.SIXTH}:80")
        self.ended(daemon, upstream_fin=2)

    def test_many_at_once(self):
        """Each connection has a port of its own at the client's address."""
        daemon = self.given("", f"{self.FIRST}:80")
        said = []

        def ask():
            said.extend(self.told(f"{self.ROUTER}:{daemon.port}") for _ in range(20))

        in_parallel(*[ask] * 4)
        self.assertEqual(set(said), {f"{self.LEFT} at {self.FIRST}:80"})
        self.ended(daemon, upstream_fin=80)


class Refused(DaemonTest):
    """Without the right, one line at start."""

    def problem(self, route):
        done = run_parkway(f"--route=x listen=127.0.0.1:0 {route}",
                           without_capabilities=(CAP_NET_ADMIN, CAP_NET_RAW))
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertRegex(done.stderr, r"\Aparkway: [^\n]+\n\Z")
        return done.stderr[len("parkway: "):-1]

    def test_transparent(self):
        self.assertEqual(self.problem("to=echo transparent=true"),
                         "route x: 127.0.0.1:0: transparent=true: needs CAP_NET_RAW or CAP_NET_ADMIN")

    def test_the_source(self):
        for to in ("to=127.0.0.1:1", "to=[::1]:1", "to=original_dst allow_dst=10.0.0.0/8"):
            self.assertEqual(self.problem(f"{to} source=client"),
                             "route x: source=client: needs CAP_NET_RAW or CAP_NET_ADMIN")

    def test_redirected_clients_need_none(self):
        daemon = self.start("--route=x listen=127.0.0.1:0 to=original_dst allow_dst=10.0.0.0/8",
                            without_capabilities=(CAP_NET_ADMIN, CAP_NET_RAW))
        self.assert_refused(daemon)
        daemon.await_descriptors(0)
        self.stop(daemon)
        self.assertEqual(daemon.summary(), {"served": 1, "dst_loop": 1})


if __name__ == "__main__":
    enter_namespace("ip", "nft", "nginx", "nsenter")
    main()
