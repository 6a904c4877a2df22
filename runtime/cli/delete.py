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
    from pysandbox.oci.errors import ContainerNotFound, StatusError
    from pysandbox.runtime.launch_state import left_foreground, open_store

    store = open_store(call.root)
    container_id, force = call.arguments[0], bool(call.values["--force"])
    try:
        with store.open(container_id) as container:
            status = container.state.status
            # A created one has not run yet: it goes without force, as with runc.
            if status not in ("stopped", "created") and not force:
                raise StatusError(f"cannot delete container {container_id} that is not stopped: {status}")
            container.destroy()
            left_foreground(store, container_id)
    except ContainerNotFound:
        if not force:
            raise
    return 0
