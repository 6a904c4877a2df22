"""`pysandbox rewrite ELF`: see `pysandbox.runtime.rewriter.cli`, which parses for itself."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="ELF [--json]", passed_on=True)


def main(call: Call) -> int:
    from pysandbox.runtime.rewriter import cli

    return cli.main(call.arguments)
