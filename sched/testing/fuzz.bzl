# SPDX-License-Identifier: Apache-2.0
"""A fuzz target: NAME.cc, its corpus in corpus/NAME/ and its words in NAME.dict."""

def fuzz_target(name, deps):
    """Declares `name`, which `./dev fuzz` runs, and `name`_test, which replays the corpus.

    Args:
      name: ends in _fuzz.
      deps: what the target parses with.
    """
    deps = deps + ["//sched/testing:fuzz"]

    # libFuzzer has the main(); only --config=fuzz has libFuzzer.
    native.cc_binary(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["manual"],
        deps = deps,
    )
    native.cc_test(
        name = name + "_test",
        size = "small",
        srcs = [name + ".cc"],
        args = ["%s/corpus/%s" % (native.package_name(), name)],
        data = native.glob(["corpus/%s/*" % name]),
        deps = deps + ["//sched/testing:fuzz_replay"],
    )
