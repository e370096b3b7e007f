# SPDX-License-Identifier: Apache-2.0
"""A test in Python that starts the daemon."""

def e2e_test(name, srcs, data = [], **kwargs):
    native.sh_test(
        name = name,
        srcs = srcs,
        data = [
            ":harness",
            "//server:parkway",
        ] + data,
        timeout = kwargs.pop("timeout", "moderate"),
        **kwargs
    )
