"""`pysandbox resume`: let the processes of a paused container go on."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="CONTAINER-ID", count=(1, 1))


def main(call: Call) -> int:
    from pysandbox.oci import cgroups, cgroups_freezer
    from pysandbox.oci.errors import StatusError
    from pysandbox.runtime.launch_state import open_store

    with open_store(call.root).open(call.arguments[0]) as container:
        if container.state.status != "paused":
            raise StatusError("container not paused")
        cgroups_freezer.thaw(cgroups.of_state(container.state).paths)
    return 0
