"""`pysandbox trace ...`: see `pysandbox.runtime.trace.cli`, which parses for itself."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="show|stats TARGET [options]", passed_on=True)


def main(call: Call) -> int:
    from pysandbox.runtime.trace.cli import main as trace_main

    return trace_main(call.arguments, call.root)
