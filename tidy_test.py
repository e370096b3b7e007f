#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps the habits that compilers cannot: include direction, banned names, file headers.

Scans the source tree this file lies in. Every finding is one line, `path:line: what; why; instead`.
A line that has a good reason to differ carries `// tidy: <reason>` (or `# tidy: <reason>`), at its end or
alone on the line above. The rules themselves are tested first: each must fire on a planted line and stay
silent on clean code.

  bazel test //:tidy_test      or      python3 tidy_test.py
"""

import collections
import os
import re
import sys

ROOT = os.path.dirname(os.path.realpath(__file__))

CPP = (".cc", ".h", ".c")
SPDX = "SPDX-License-Identifier: Apache-2.0"
SPDX_SUFFIXES = CPP + (".S", ".py", ".sh", ".lua")

Finding = collections.namedtuple("Finding", "path line rule what why instead")


# ---- Which files a rule is about -------------------------------------------------------------------------


def is_cpp(path):
    return path.endswith(CPP)


def is_test(path):
    """Tests may use threads, randomness of their own and plain sockets: they play the outside world."""
    return path.endswith(("_test.cc", "_fuzz.cc")) or "/testing/" in path or "/sim/" in path


def below(path, *folders):
    return path.startswith(tuple(folder + "/" for folder in folders))


def is_host(path):
    return path == "sched/host.cc"


def is_kernel(path):
    return re.fullmatch(r"netpoll/kernel\w*\.(h|cc)", path) is not None


def reads_flags(path):
    return path in ("server/main.cc", "server/sim/main.cc") or re.fullmatch(r"server/config\w*\.cc", path) is not None


# ---- Rules about one line of C or C++ --------------------------------------------------------------------
#
# An IncludeRule matches the path between <> or ""; a NameRule matches code without comments and strings.

IncludeRule = collections.namedtuple("IncludeRule", "name applies pattern why instead")
NameRule = collections.namedtuple("NameRule", "name applies pattern why instead")

INCLUDE_RULES = [
    IncludeRule(
        "sched-direction",
        lambda path: below(path, "sched"),
        r"(netpoll|server|bench)/",
        "sched/ is the lowest layer: server -> netpoll -> sched",
        "move what both need down into sched/, or the code up",
    ),
    IncludeRule(
        "sched-sockets",
        lambda path: below(path, "sched"),
        r"sys/(epoll|socket|un)\.h$|netinet/|arpa/inet\.h$",
        "sched/ knows no sockets, so that it runs under any event source",
        "wait through sched::EventSource and put the socket code in netpoll/",
    ),
    IncludeRule(
        "netpoll-direction",
        lambda path: below(path, "netpoll"),
        r"(server|bench)/",
        "netpoll/ is a library below the daemon: server -> netpoll -> sched",
        "take what is needed as an argument or an option struct",
    ),
    IncludeRule(
        "sched-internal",
        lambda path: not below(path, "sched", "bench"),
        r"sched/internal/",
        "only sched/ and bench/ may depend on the scheduler's internals",
        "use a header directly under sched/, or extend one",
    ),
    IncludeRule(
        "netpoll-internal",
        lambda path: not below(path, "netpoll", "bench", "sched"),  # sched/ has the stricter rule above
        r"netpoll/internal/",
        "only netpoll/ and bench/ may depend on the netpoller's internals",
        "use a header directly under netpoll/, or extend one",
    ),
    IncludeRule(
        "server-private",
        lambda path: not below(path, "server", "netpoll", "sched"),  # the latter two have rules above
        r"server/",
        "nobody depends on the daemon",
        "talk to it over a socket",
    ),
    IncludeRule(
        "gflags",
        lambda path: not reads_flags(path),
        r"gflags/",
        "flags are process-wide state; only server/config*.cc and main.cc files read them",
        "take an option struct",
    ),
]

NAME_RULES = [
    NameRule(
        "wall-clock",
        lambda path: not is_host(path),
        r"\bsystem_clock\b|\babsl::Now\b|\bgettimeofday\b|\bCLOCK_REALTIME\b"
        r"|(?<![\w.>])time\s*\(\s*(nullptr|NULL|0)\s*\)",
        "the wall clock jumps, and a simulation must own every clock",
        "Host::Now for deadlines, Host::WallNow for time shown to people",
    ),
    NameRule(
        "thread",
        lambda path: not is_host(path) and not is_test(path),
        r"\bstd::j?thread\b|\bpthread_create\b",
        "a thread started elsewhere is invisible to simulation and to shutdown",
        "Host::StartThread, or a fiber",
    ),
    NameRule(
        "lock",
        lambda path: below(path, "sched", "netpoll", "server") and not is_host(path),
        r"\bstd::(recursive_|timed_|recursive_timed_|shared_|shared_timed_)?mutex\b"
        r"|\bstd::condition_variable(_any)?\b|\bpthread_(mutex|cond|rwlock|spin)_\w+",
        "it has no thread-safety annotations and no seam for simulation, and a condition variable blocks a whole worker",
        "sched::Mutex for short sections, Park/Ready to wait",
    ),
    NameRule(
        "sleep",
        lambda path: below(path, "sched", "netpoll", "server"),
        r"(?<![\w.>])u?sleep\s*\(|\b(clock_)?nanosleep\b|\bthis_thread::sleep_\w+|\babsl::SleepFor\b",
        "it blocks the worker with all its connections; in a test it is slow, and still a race",
        "wait on the thing; SleepUntil on a fiber when time itself is the thing",
    ),
    NameRule(
        "random",
        lambda path: not is_host(path) and not is_test(path),
        r"(?<![\w.>])s?rand\s*\(|\bstd::(random_device|mt19937(_64)?|minstd_rand0?|default_random_engine)\b"
        r"|\babsl::(Insecure)?BitGen\b|\bgetrandom\s*\(",
        "a run must be repeatable from one seed",
        "Host::Random(stream)",
    ),
    NameRule(
        "fence",
        lambda path: True,
        r"\b(__)?atomic_thread_fence\b|\b__sync_synchronize\b",
        "GCC's ThreadSanitizer does not model fences, so the race it hides is never reported",
        "a seq_cst load, store or exchange, naming its partner",
    ),
    NameRule(
        "kernel-seam",
        lambda path: below(path, "netpoll") and not is_kernel(path) and not is_test(path),
        r"(?<![\w>])::(socket|bind|listen|accept4?|connect|recv|recvfrom|recvmsg|send|sendto|sendmsg|readv|writev"
        r"|read|write|splice|pipe2?|shutdown|close|getsockopt|setsockopt|getsockname|getpeername|ioctl|eventfd"
        r"|epoll_\w+)\s*\(|(?<![\w.>:])(epoll_(create1?|ctl|p?wait2?)|eventfd|accept4)\s*\(",
        "a simulated kernel must see every system call of netpoll/",
        "the same call of netpoll::Kernel (netpoll/kernel.h)",
    ),
    NameRule(
        "throw",
        lambda path: not is_test(path),
        r"\bthrow\b",
        "no exception crosses our code",
        "IoResult on the hot path, absl::Status for set-up, CHECK for a broken invariant",
    ),
]


# ---- Rules about a whole file ----------------------------------------------------------------------------

# Spelled apart, since this file is scanned too.
MARKERS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")


def markers(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        found = MARKERS.search(line)
        if found:
            yield Finding(path, number, "marker", f"'{found.group()}' left in the text",
                          "a note nobody is told about is never done", "do it, or open an issue")


def licence(path, text):
    head = text.split("\n", 5)[:5]
    is_script = text.startswith("#!")
    if (path.endswith(SPDX_SUFFIXES) or is_script) and not any(SPDX in line for line in head):
        yield Finding(path, 1, "spdx", "no SPDX line in the first five lines",
                      "each file carries its licence wherever it is copied", f"start with '{SPDX}' in a comment")


def include_guard(path, text):
    if not path.endswith(".h"):
        return
    guard = "PARKWAY_" + re.sub(r"\W", "_", path[: -len(".h")]).upper() + "_H_"
    why = "one form of guard everywhere, named after the path so that no two collide"
    directives = [(number, line.strip()) for number, line in enumerate(code_of(text).split("\n"), 1)
                  if line.lstrip().startswith("#")]
    for number, line in directives:
        if re.match(r"#\s*pragma\s+once\b", line):
            yield Finding(path, number, "guard", "'#pragma once'", why, f"#ifndef {guard}")
            return
    if [line for _, line in directives[:2]] != [f"#ifndef {guard}", f"#define {guard}"]:
        yield Finding(path, directives[0][0] if directives else 1, "guard", f"the include guard is not {guard}",
                      why, f"begin with '#ifndef {guard}' and '#define {guard}'")
    elif text.rstrip().split("\n")[-1] != f"#endif  // {guard}":
        yield Finding(path, text.rstrip().count("\n") + 1, "guard", "the guard's #endif does not name it",
                      why, f"end with '#endif  // {guard}'")


FILE_RULES = [markers, licence, include_guard]


# ---- Scanning --------------------------------------------------------------------------------------------

TOKEN = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z))
      | (?P<raw>R"(?P<delimiter>[^()\\\s]{0,16})\(.*?\)(?P=delimiter)")
      | (?P<number>\b\d[\w']*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.S | re.X,
)
INCLUDE = re.compile(r'\s*#\s*include\s*[<"]([^>"]+)[>"]')
ESCAPE = re.compile(r"(?://|#|--|<!--)\s*tidy:(?P<reason>[^\n]*)")


def blank(token):
    return re.sub(r"[^\n]", " ", token)


def code_of(text):
    """C++ without comments and without what strings say; lines and columns stay."""

    def replace(match):
        if match.lastgroup == "number":
            return match.group()
        if match["comment"]:
            return blank(match.group())
        if is_include_line(text, match.start()):
            return match.group()
        return '"' + blank(match.group()[1:-1]) + '"'

    return TOKEN.sub(replace, text)


def is_include_line(text, at):
    return re.match(r"\s*#\s*include\b", text[text.rfind("\n", 0, at) + 1 : at]) is not None


def scan_code(path, text):
    include_rules = [rule for rule in INCLUDE_RULES if rule.applies(path)]
    name_rules = [rule for rule in NAME_RULES if rule.applies(path)]
    for number, line in enumerate(code_of(text).split("\n"), 1):
        include = INCLUDE.match(line)
        if include:
            for rule in include_rules:
                if re.match(rule.pattern, include[1]):
                    yield Finding(path, number, rule.name, f"includes '{include[1]}'", rule.why, rule.instead)
            continue
        for rule in name_rules:
            found = re.search(rule.pattern, line)
            if found:
                yield Finding(path, number, rule.name, f"'{found.group().strip()}'", rule.why, rule.instead)


def escapes_of(text):
    """Lines excused with a reason, and lines whose escape gives none."""
    excused, empty = set(), []
    for number, line in enumerate(text.split("\n"), 1):
        found = ESCAPE.search(line)
        if not found:
            continue
        if not re.search(r"\w", found["reason"]):
            empty.append(number)
            continue
        excused.add(number)
        if not line[: found.start()].strip():  # alone on its line: it speaks for the next one
            excused.add(number + 1)
    return excused, empty


def scan(path, text):
    excused, empty = escapes_of(text)
    found = [finding for rule in FILE_RULES for finding in rule(path, text)]
    if is_cpp(path):
        found += scan_code(path, text)
    found = [finding for finding in found if finding.line not in excused]
    for number in empty:
        found.append(Finding(path, number, "escape", "an escape without a reason",
                             "the next reader must know why the rule does not hold here", "say why after 'tidy:'"))
    return sorted(found, key=lambda finding: finding.line)


def source_files():
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if wanted_folder(folder, name))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                yield os.path.relpath(path, ROOT)


def wanted_folder(parent, name):
    if parent == ROOT and name.startswith("bazel-"):
        return False
    if os.path.islink(os.path.join(parent, name)) or name == "__pycache__":
        return False
    return name == ".ci" or not name.startswith(".")


def read_text(path):
    """None for what is not text."""
    try:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return file.read()
    except (UnicodeDecodeError, FileNotFoundError):  # the latter: an editor's file that came and went
        return None


def scan_tree():
    count, findings = 0, []
    for path in source_files():
        text = read_text(path)
        if text is None:
            continue
        count += 1
        findings += scan(path, text)
    return count, findings


# ---- The rules' own test ---------------------------------------------------------------------------------

# rule, path, a line that must be reported there.
PLANTED = [
    ("sched-direction", "sched/a.cc", '#include "netpoll/conn.h"'),
    ("sched-direction", "sched/a_test.cc", '#include "server/proxy.h"'),
    ("sched-direction", "sched/a.cc", '#  include "netpoll/internal/poll_slot.h"'),
    ("sched-sockets", "sched/internal/a.cc", "#include <sys/epoll.h>"),
    ("sched-sockets", "sched/a.cc", "#include <sys/socket.h>  // for sockaddr"),
    ("netpoll-direction", "netpoll/a.cc", '#include "server/proxy.h"'),
    ("sched-internal", "netpoll/a.cc", '#include "sched/internal/worker.h"'),
    ("sched-internal", "server/a.cc", '#include "sched/internal/worker.h"'),
    ("netpoll-internal", "server/a.cc", '#include "netpoll/internal/poll_slot.h"'),
    ("server-private", "bench/a.cc", '#include "server/proxy.h"'),
    ("gflags", "server/proxy.cc", "#include <gflags/gflags.h>"),
    ("gflags", "server/config.h", '#include "gflags/gflags.h"'),
    ("gflags", "sched/a_test.cc", "#include <gflags/gflags.h>"),
    ("gflags", "netpoll/a.cc", "#include <gflags/gflags.h>"),
    ("wall-clock", "server/a.cc", "auto t = std::chrono::system_clock::now();"),
    ("wall-clock", "server/a_test.cc", "absl::Time t = absl::Now();"),
    ("wall-clock", "netpoll/a.cc", "gettimeofday(&tv, nullptr);"),
    ("wall-clock", "server/a.cc", "const time_t t = ::time(nullptr);"),
    ("wall-clock", "server/a.cc", "srandom(time(NULL));"),
    ("wall-clock", "bench/a.c", "clock_gettime(CLOCK_REALTIME, &ts);"),
    ("thread", "sched/internal/worker.cc", "std::thread thread([] {});"),
    ("thread", "server/a.cc", "std::jthread thread;"),
    ("thread", "netpoll/a.h", "pthread_create(&thread, nullptr, Run, this);"),
    ("lock", "sched/a.h", "mutable std::mutex mu_;"),
    ("lock", "server/a_test.cc", "std::condition_variable ready;"),
    ("lock", "netpoll/a.cc", "std::shared_mutex mu;"),
    ("sleep", "netpoll/a_test.cc", "std::this_thread::sleep_for(1ms);"),
    ("sleep", "sched/a.cc", "usleep(1000);"),
    ("sleep", "server/a.cc", "::sleep(1);"),
    ("sleep", "server/a.cc", "  sleep (1);"),
    ("sleep", "sched/a_test.cc", "nanosleep(&ts, nullptr);"),
    ("sleep", "sched/a_test.cc", "absl::SleepFor(absl::Milliseconds(1));"),
    ("random", "server/a.cc", "int pick = rand() % n;"),
    ("random", "sched/a.cc", "std::random_device seed;"),
    ("random", "netpoll/a.cc", "std::mt19937_64 generator;"),
    ("fence", "sched/a_test.cc", "std::atomic_thread_fence(std::memory_order_seq_cst);"),
    ("kernel-seam", "netpoll/conn.cc", "ssize_t n = ::recv(fd, p, size, 0);"),
    ("kernel-seam", "netpoll/conn.cc", "return ::send(fd, p, size, MSG_NOSIGNAL);"),
    ("kernel-seam", "netpoll/internal/poll_shard.cc", "int n = epoll_pwait2(epfd, events, 64, &ts, nullptr);"),
    ("kernel-seam", "netpoll/internal/poll_shard.cc", "::epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event);"),
    ("kernel-seam", "netpoll/listener.cc", "int fd = accept4(listener, nullptr, nullptr, 0);"),
    ("kernel-seam", "netpoll/dial.cc", "if (::connect(fd, &address, size) != 0) return;"),
    ("kernel-seam", "netpoll/dial.cc", "int fd = ::socket(AF_INET, SOCK_STREAM, 0);"),
    ("throw", "server/a.cc", 'throw std::runtime_error("no");'),
    ("throw", "server/a.cc", "  throw;"),
    ("guard", "sched/a.h", "#pragma once"),
    ("marker", "docs/a.md", "TO" + "DO: write this"),
    ("marker", "server/a.cc", "// FIX" + "ME(me): later"),
    ("marker", "deploy/a.service", "# XX" + "X"),
    ("marker", "BUILD.bazel", "# a HA" + "CK around it"),
    ("escape", "server/a.cc", "int x = rand();  // ti" + "dy:"),
    ("escape", "tools.sh", "true  # ti" + "dy: ..."),
]

# path, a line that must not be reported there.
CLEAN = [
    ("sched/a.cc", '#include "sched/internal/worker.h"'),
    ("bench/a.cc", '#include "sched/internal/worker.h"'),
    ("bench/a.cc", '#include "netpoll/internal/poll_slot.h"'),
    ("netpoll/a.cc", '#include "sched/park.h"'),
    ("netpoll/a.cc", "#include <sys/epoll.h>"),
    ("server/a.cc", '#include "netpoll/conn.h"'),
    ("server/config.cc", '#include "gflags/gflags.h"'),
    ("server/config_test.cc", '#include "gflags/gflags.h"'),
    ("server/main.cc", "#include <gflags/gflags.h>"),
    ("server/a.cc", '// #include "netpoll/internal/poll_slot.h" would be shorter'),
    ("sched/host.cc", "auto t = std::chrono::system_clock::now();"),
    ("sched/host.cc", "threads_.push_back(std::thread(step));"),
    ("sched/host.cc", "std::random_device seed;"),
    ("sched/host.cc", "std::mutex mu_;"),
    ("sched/a_test.cc", "std::thread other([&] { Ready(fiber); });"),
    ("netpoll/testing/backend.cc", "std::jthread thread;"),
    ("netpoll/testing/backend.cc", "int fd = ::socket(AF_INET, SOCK_STREAM, 0);"),
    ("server/a.cc", "auto id = std::this_thread::get_id();"),
    ("server/a.cc", "const Duration run_time(0); wait_time(0); clock.time(0);"),
    ("sched/a.cc", "void SleepUntil(Deadline when); usleep_count(1); fiber.sleep(1); fiber->sleep(1);"),
    ("sched/a.cc", "// std::mutex would block the worker; so would sleep(1) or std::atomic_thread_fence"),
    ("sched/a.cc", "/* std::mutex\n   rand() */"),
    ("sched/a.cc", 'Log("std::mutex \\" rand()");'),
    ("sched/a.cc", 'Log(R"x(throw " std::mutex)x");'),
    ("sched/a.cc", "const int n = 1'000'000;  // rand() between the ticks of two numbers: 1'000"),
    ("sched/a.cc", "const char c = '\"'; /* std::mutex */ const char d = '\"';"),
    ("sched/a.cc", "int operand(int x); int y = operand(1); host.rand();"),
    ("bench/a.cc", "std::mutex mu;"),
    ("bench/a.c", "usleep(1000);"),
    ("server/a_test.cc", "std::mt19937 generator(seed);"),
    ("netpoll/kernel.cc", "return ::recv(fd, p, size, flags);"),
    ("netpoll/kernel.h", "int epoll_wait(int epfd, epoll_event* events, int count, int wait_ms);"),
    ("netpoll/conn.cc", "ssize_t n = kernel.recv(fd, p, size, 0); kernel->accept4(fd); Kernel::epoll_ctl(1);"),
    ("netpoll/conn_test.cc", "ASSERT_EQ(::send(fd, p, 1, 0), 1);"),
    ("server/a.cc", "ssize_t n = ::recv(fd, p, size, 0);"),
    ("server/a_test.cc", "throw 1;"),
    ("server/a.cc", 'Log("rethrow"); int throw_count = 0;'),
    ("docs/a.md", "mktemp /tmp/a.XXXXXX, hackers, a todo list"),
    ("server/a.cc", "int x = rand();  // tidy: the shuffle of a demo, seeded nowhere"),
    ("server/a.cc", "// tidy: the shuffle of a demo, seeded nowhere\nint x = rand();"),
    ("docs/a.md", "TO" + "DO lists are fine here  <!-- tidy: says what the marker is -->"),
]

GUARD = "PARKWAY_SCHED_INTERNAL_RUN_QUEUE_H_"
GUARDS = [  # text of sched/internal/run_queue.h, is it right
    (f"// {SPDX}\n#ifndef {GUARD}\n#define {GUARD}\n#endif  // {GUARD}\n", True),
    (f"// {SPDX}\n#ifndef RUN_QUEUE_H\n#define RUN_QUEUE_H\n#endif  // RUN_QUEUE_H\n", False),
    (f"// {SPDX}\n#ifndef {GUARD}\n#define {GUARD}X\n#endif  // {GUARD}\n", False),
    (f"// {SPDX}\n#ifndef {GUARD}\n#define {GUARD}\n#endif\n", False),
    (f"// {SPDX}\nint x;\n", False),
]

LICENCES = [  # path, text, is it right
    ("a.cc", f"// {SPDX}\n", True),
    ("a.py", f"#!/usr/bin/env python3\n# {SPDX}\n", True),
    ("a.S", "// context switch\n", False),
    ("a.lua", "", False),
    ("dev", "#!/usr/bin/env bash\n", False),
    ("a.md", "# Title\n", True),
]


def with_headers(path, line):
    """A file that is right but for the line under test."""
    comment = "//" if is_cpp(path) else "#"
    head = f"{comment} {SPDX}\n"
    if not path.endswith(".h") or "pragma" in line:
        return head + line + "\n"
    guard = "PARKWAY_" + re.sub(r"\W", "_", path[:-2]).upper() + "_H_"
    return f"{head}#ifndef {guard}\n#define {guard}\n{line}\n#endif  // {guard}\n"


def rules_reported(path, text):
    return sorted({finding.rule for finding in scan(path, text)})


def self_test():
    """Returns what the rules got wrong."""
    cases = []  # path, text, rules expected
    for rule, path, line in PLANTED:
        expected = {rule, "random"} if rule == "escape" and "rand()" in line else {rule}
        cases.append((path, with_headers(path, line), sorted(expected)))
    cases += [(path, with_headers(path, line), []) for path, line in CLEAN]
    cases += [("sched/internal/run_queue.h", text, [] if right else ["guard"]) for text, right in GUARDS]
    cases += [(path, text, [] if right else ["spdx"]) for path, text, right in LICENCES]

    wrong = []
    for path, text, expected in cases:
        reported = rules_reported(path, text)
        if reported != expected:
            wrong.append(f"self test: {path}: {text!r}: expected {expected}, reported {reported}")

    planted = {rule for rule, _, _ in PLANTED} | {"guard", "spdx", "marker", "escape"}
    for rule in INCLUDE_RULES + NAME_RULES:
        if rule.name not in planted:
            wrong.append(f"self test: rule {rule.name} has no planted line")
    return len(cases), wrong


def main():
    cases, wrong = self_test()
    if not os.path.exists(os.path.join(ROOT, "WORKSPACE")):
        wrong.append(f"{ROOT} is not the source tree: no WORKSPACE there")
    files, findings = scan_tree()
    for line in wrong:
        print(line)
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.what}; {finding.why}; instead: {finding.instead}")
    print(f"tidy: {files} files, {len(findings)} findings; self test: {cases} cases, {len(wrong)} wrong")
    return 1 if wrong or findings else 0


if __name__ == "__main__":
    sys.exit(main())
