"""`pysandbox features`: what this runtime can do, as JSON."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="", count=(0, 0))


def main(call: Call) -> int:
    import json
    import sys

    from pysandbox.runtime.features import features

    sys.stdout.write(json.dumps(features(), indent=4) + "\n")
    return 0
