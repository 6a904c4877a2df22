"""`pysandbox delete`: remove what a container still holds."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID",
    flags=(Flag("--force -f", "", "kill it first if it still runs; no error when there is no such container"),),
    count=(1, 1),
)


def main(call: Call) -> int:
    from pysandbox.oci.errors import ContainerNotFound
    from pysandbox.runtime.remove import delete

    force = bool(call.values["--force"])
    try:
        delete(call.root, call.arguments[0], call.warn, force=force)
    except ContainerNotFound:
        if not force:
            raise
    return 0
