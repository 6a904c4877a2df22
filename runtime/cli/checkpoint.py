"""`pysandbox checkpoint`: says that it cannot. `checkpoint --help` fails, too: that is how podman asks;
`-h` is what people type."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="[options] CONTAINER-ID", passed_on=True)


def main(call: Call) -> int:
    if call.arguments == ["-h"]:
        import sys

        from pysandbox.runtime.cli import VERBS, called

        sys.stdout.write(ARGUMENTS.help(f"{called()} checkpoint", VERBS["checkpoint"][1]))
        return 0
    from pysandbox.oci.errors import UnsupportedError

    raise UnsupportedError("checkpoint is not supported: the state of a container's virtual machines cannot be saved")
