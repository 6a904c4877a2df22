"""`pysandbox restore`: says that it cannot. `restore --help` fails, too: that is how podman asks."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="[options] CONTAINER-ID", passed_on=True)


def main(call: Call) -> int:
    from pysandbox.oci.errors import UnsupportedError

    raise UnsupportedError("restore is not supported: the state of a container's virtual machines cannot be saved")
