"""`pysandbox start`: run the program of a created container."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="CONTAINER-ID", count=(1, 1))


def main(call: Call) -> int:
    from pysandbox.runtime.start import start

    start(call.root, call.arguments[0], call.warn)
    return 0
