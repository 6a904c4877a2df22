"""`pysandbox state`: a container's state as JSON."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="CONTAINER-ID", count=(1, 1))


def main(call: Call) -> int:
    import json
    import sys

    from pysandbox.runtime.launch_state import open_store

    report = open_store(call.root).load(call.arguments[0]).report()
    sys.stdout.write(json.dumps(report, indent=2))
    return 0
