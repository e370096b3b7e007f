# SPDX-License-Identifier: Apache-2.0
"""Who takes part, and how each of them is started."""

import subprocess
import tempfile
from pathlib import Path

from harness.process import BenchError, HOST, Server, find_program, free_port

BENCH = Path(__file__).absolute().parent.parent
REPOSITORY = BENCH.parent

BUILD_HINT = "./dev bench builds it"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

NAMES = ("parkway", "floor", "haproxy", "nginx")
SPLICING_NAMES = ("splice", "haproxy-splice")  # else the same as another
ALL_NAMES = (*NAMES, "go", "asio", "parkway-two", "parkway-skewed", *SPLICING_NAMES)
ECHO_NAMES = ("parkway", "parkway-two", "parkway-skewed", "floor", "go", "asio")
LABELS = {"parkway": "Parkway", "floor": "floor", "haproxy": "HAProxy", "nginx": "nginx stream",
          "go": "Go", "asio": "Boost.Asio", "parkway-two": "Parkway, 2 workers",
          "parkway-skewed": "the same, all on one",
          "splice": "splicing floor", "haproxy-splice": "HAProxy, splicing"}
PROGRAMS = {"haproxy-splice": "haproxy"}  # where it is not the contestant's name


def add_arguments(parser):
    binaries = parser.add_argument_group("programs under test")
    binaries.add_argument("--bin", metavar="FOLDER", default=REPOSITORY / "bazel-bin", type=Path,
                          help="where Bazel built them (default: bazel-bin of this repository)")
    binaries.add_argument("--parkway", metavar="PATH", help="default: server/parkway there")
    binaries.add_argument("--parkway_flags", default="", metavar="FLAGS",
                          help="further flags for Parkway, separated by spaces")
    binaries.add_argument("--contestants", default=",".join(NAMES), metavar="LIST",
                          help="default: %(default)s")


class Programs:
    """The binaries of this repository."""

    def __init__(self, args):
        folder = args.bin.absolute()
        self.parkway = Path(args.parkway or folder / "server/parkway").absolute()
        if args.parkway and not self.parkway.is_file():
            raise BenchError(f"no such program: {args.parkway}\n  {BUILD_HINT}")
        self.parkway_flags = args.parkway_flags.split()
        self.limit_echo = folder / "bench/limit/echo"
        self.limit_proxy = folder / "bench/limit/proxy"
        self.limit_splice = folder / "bench/limit/splice_proxy"
        self.loadgen = folder / "bench/loadgen/loadgen"
        self.go_echo = folder / "bench/peers/echo"
        self.go_proxy = folder / "bench/peers/proxy"
        self.asio = folder / "bench/peers/asio"


def missing(contestant, kind, programs):
    """Why a contestant cannot take part in an "echo" or "proxy" comparison, or None."""
    echo = kind == "echo"
    ours = {
        "parkway": programs.parkway,
        "parkway-two": programs.parkway,
        "parkway-skewed": programs.parkway,
        "floor": programs.limit_echo if echo else programs.limit_proxy,
        "splice": programs.limit_splice,
        "go": programs.go_echo if echo else programs.go_proxy,
        "asio": programs.asio,
    }
    if contestant in ours:
        path = ours[contestant]
        return None if path.is_file() else f"no program at {path}; {BUILD_HINT}"
    program = PROGRAMS.get(contestant, contestant)
    if find_program(program) is None:
        return f"not installed; apt-get install {program}"
    if contestant == "nginx" and not (STREAM_MODULE.is_file() or _stream_built_in()):
        return "no stream module; apt-get install libnginx-mod-stream"
    return None


def choose(requested, kind, programs):
    """The requested contestants that can run this kind, and a sentence for each that cannot."""
    names = requested.split(",")
    unknown = [name for name in names if name not in ALL_NAMES]
    if unknown:
        raise BenchError(f"unknown contestant {unknown[0]!r}; known: {', '.join(ALL_NAMES)}")
    reasons = {name: missing(name, kind, programs)
               for name in names if kind == "proxy" or name in ECHO_NAMES}
    present = [name for name, reason in reasons.items() if reason is None]
    remarks = [f"without {LABELS[name]}: {reason}" for name, reason in reasons.items() if reason]
    if "parkway" in present and not _optimised(programs.parkway):
        remarks.append("Parkway was not built with --config=opt: its figures say nothing")
    if not present:
        raise BenchError("\n  ".join([f"nobody to measure as {kind}", *remarks]))
    return present, remarks


def backend(kind, programs, payload, cpus):
    """What stands behind a proxy, kind "echo" or "http"; None when kind is empty."""
    if not kind:
        return None
    return _http_backend(payload, cpus) if kind == "http" else _echo_backend(programs, cpus)


def loadgen_backend(mode, programs, cpus):
    """The load generator's own server, such as "--mode=source"."""
    port = free_port()
    return Server("the load generator's server",
                  [programs.loadgen, *mode, f"--address={HOST}:{port}"], port, cpus)


def server(contestant, kind, programs, cpus, backend_port=None, wrapper=()):
    """A contestant's server: kind "echo", or "proxy" to `backend_port`.

    `wrapper` is a command put before the server's own, such as valgrind.
    """
    port = free_port()
    command, folder = _COMMANDS[contestant](kind, programs, port, backend_port)
    return Server(LABELS[contestant], [*wrapper, *command], port, cpus, folder)


def _parkway(kind, programs, port, backend, workers=1):
    command = [programs.parkway, f"--mode={kind}", f"--listen={HOST}:{port}",
               f"--workers={workers}",
               "--stall_report=0"]  # Valgrind cannot stand the signal that samples a stack.
    if kind == "proxy":
        command.append(f"--backend={HOST}:{backend}")
    return command + programs.parkway_flags, None


def _parkway_two(kind, programs, port, backend):
    return _parkway(kind, programs, port, backend, workers=2)


def _go(kind, programs, port, backend):
    if kind == "echo":
        return [programs.go_echo, port], None
    return [programs.go_proxy, port, HOST, backend], None


def _asio(kind, programs, port, backend):
    return [programs.asio, port, *([HOST, backend] if kind == "proxy" else [])], None


def _floor(kind, programs, port, backend):
    if kind == "echo":
        return [programs.limit_echo, port], None
    return [programs.limit_proxy, port, HOST, backend], None


def _splice(_, programs, port, backend):
    return [programs.limit_splice, port, HOST, backend], None


def _haproxy(_, __, port, backend, splice=""):
    folder = _folder()
    config = _config("haproxy.cfg.in", folder, PORT=port, BACKEND_PORT=backend, SPLICE=splice)
    return [find_program("haproxy"), "-db", "-f", config], folder


def _haproxy_splice(kind, programs, port, backend):
    return _haproxy(kind, programs, port, backend, splice="option splice-auto")


def _nginx_stream(_, __, port, backend):
    folder = _folder()
    load = f"load_module {STREAM_MODULE};" if STREAM_MODULE.is_file() else ""
    config = _config("nginx-stream.conf.in", folder, PORT=port, BACKEND_PORT=backend,
                     LOAD_STREAM_MODULE=load)
    return _nginx(find_program("nginx"), config), folder


_COMMANDS = {"parkway": _parkway, "floor": _floor, "haproxy": _haproxy, "nginx": _nginx_stream,
             "go": _go, "asio": _asio, "parkway-two": _parkway_two,
             "parkway-skewed": _parkway_two, "splice": _splice,
             "haproxy-splice": _haproxy_splice}


def _echo_backend(programs, cpus):
    """The floor's echo server."""
    if not programs.limit_echo.is_file():
        raise BenchError(f"the proxies need a backend, and there is no program at "
                         f"{programs.limit_echo}; {BUILD_HINT}")
    port = free_port()
    return Server("the echo backend", [programs.limit_echo, port], port, cpus)


def _http_backend(payload, cpus):
    """nginx with a file /payload of that many bytes."""
    nginx = find_program("nginx")
    if nginx is None:
        raise BenchError("nginx, the HTTP backend, is not installed; apt-get install nginx")
    port = free_port()
    folder = _folder()
    (folder / "www").mkdir()
    (folder / "www/payload").write_bytes(b"x" * payload)
    config = _config("nginx-http.conf.in", folder, PORT=port)
    return Server("the HTTP backend", _nginx(nginx, config), port, cpus, folder)


def _nginx(nginx, config):
    return [nginx, "-e", "stderr", "-p", config.parent, "-c", config]


def _optimised(path):
    """False where the path itself says so: Bazel names its output folders after the mode."""
    resolved = str(path.resolve())
    return "-fastbuild/" not in resolved and "-dbg/" not in resolved


def _stream_built_in():
    version = subprocess.run([find_program("nginx"), "-V"], capture_output=True, text=True)
    return "--with-stream " in version.stderr + " "


def _folder():
    folder = Path(tempfile.mkdtemp(prefix="parkway-bench-"))
    folder.chmod(0o755)  # nginx's worker is another user when its master is root.
    return folder


def _config(template, folder, **words):
    text = (BENCH / "peers" / template).read_text()
    for word, value in {"DIR": folder, **words}.items():
        text = text.replace(f"@{word}@", str(value))
    path = folder / template.removesuffix(".in")
    path.write_text(text)
    return path
