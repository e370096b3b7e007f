# SPDX-License-Identifier: Apache-2.0
"""One scenario set up on this machine: CPUs divided, contestants chosen, backend running."""

import contextlib
import functools

from harness import contestants, report
from harness.load import Load
from harness.process import split_cpus

WARM_UP_SECONDS = 0.4


class Stage:
    """A scenario with its backend running; servers are started on it one at a time."""

    def __init__(self, scenario, names, remarks, load, start):
        self.scenario = scenario
        self.names = names
        self.remarks = remarks
        self.title = load.title(scenario)
        self.load_cpus = load.cpus
        self.server = start  # server(name, wrapper=()) → a Server for a `with`.
        self._load = load

    def wrk_command(self, server, seconds):
        return self._load.wrk_command(self.scenario, server.port, seconds)

    def load(self, server, seconds):
        return self._load.run(self.scenario, server.port, seconds)

    def warm_up(self, server):
        self.load(server, WARM_UP_SECONDS)


class Machine:
    """The programs to measure and the CPUs to measure them on.

    `saturate`: the load may use the server's CPU too, so that the server is the bottleneck whatever
    the load costs. For counting, not for timing.
    """

    def __init__(self, args, saturate=False):
        self._contestants = args.contestants
        self._programs = contestants.Programs(args)
        self._server_cpu, load_cpus = split_cpus()
        if saturate:
            load_cpus = sorted({self._server_cpu, *load_cpus})
        elif self._server_cpu in load_cpus:
            report.note("only one CPU: server and load share it, and times are worth little")
        self._load = Load(args.connections, args.payload, load_cpus,
                          threads=len(load_cpus) if saturate else 1)

    @contextlib.contextmanager
    def stage(self, scenario):
        self._load.check(scenario)
        names, remarks = contestants.choose(self._contestants, scenario.kind, self._programs)
        for remark in remarks:
            report.note(remark)
        backend = contestants.backend(scenario.backend, self._programs, self._load.payload,
                                      self._load.cpus)
        with backend or contextlib.nullcontext():
            start = functools.partial(contestants.server, kind=scenario.kind,
                                      programs=self._programs, cpus=[self._server_cpu],
                                      backend_port=backend and backend.port)
            yield Stage(scenario, names, remarks, self._load, start)
