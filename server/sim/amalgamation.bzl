# SPDX-License-Identifier: Apache-2.0
"""One source file of all that some libraries are made of.

The simulation needs the whole daemon built with PARKWAY_INTERLEAVE, and once more with the planted
bugs. As one translation unit each variant is one short compilation, beside the ordinary build and
without a configuration of its own.
"""

_SourcesInfo = provider(fields = ["files"])

def _collect_impl(target, ctx):
    files = []
    if target.label.workspace_name == "" and ctx.rule.kind == "cc_library":
        files = ctx.rule.files.srcs + ctx.rule.files.hdrs
    return [_SourcesInfo(files = depset(
        files,
        transitive = [dep[_SourcesInfo].files for dep in getattr(ctx.rule.attr, "deps", []) if _SourcesInfo in dep],
        order = "postorder",
    ))]

_collect = aspect(implementation = _collect_impl, attr_aspects = ["deps"])

def _amalgamation_impl(ctx):
    files = depset(
        ctx.files.srcs,
        transitive = [dep[_SourcesInfo].files for dep in ctx.attr.deps],
        order = "postorder",
    )
    args = ctx.actions.args()
    args.add("--out", ctx.outputs.out)
    inputs = [ctx.file._script] + ctx.files.mutants
    for mutant in ctx.files.mutants:
        args.add("--mutant", mutant)
    args.add_all(files)
    ctx.actions.run_shell(
        command = "python3 %s \"$@\"" % ctx.file._script.path,
        arguments = [args],
        inputs = depset(inputs, transitive = [files]),
        outputs = [ctx.outputs.out],
        mnemonic = "Amalgamate",
        use_default_shell_env = True,
    )

amalgamation = rule(
    implementation = _amalgamation_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cc"], doc = "Sources besides those of the libraries."),
        "deps": attr.label_list(aspects = [_collect], doc = "Libraries of this repository."),
        "mutants": attr.label_list(allow_files = [".mutant"], doc = "Bugs to plant."),
        "out": attr.output(mandatory = True),
        "_script": attr.label(default = "amalgamate.py", allow_single_file = True),
    },
)
