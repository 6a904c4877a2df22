"""`start`: the program of a created container runs (runtime.md, "Start")."""

from __future__ import annotations

from pysandbox.oci.errors import StatusError
from pysandbox.runtime import launch_release, launch_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def start(root: str, container_id: str, warn: Callable[[str], None]) -> None:
    """`StatusError` unless the container is `created`; `LaunchError` when its program does not get to run."""
    with launch_state.open_store(root).open(container_id) as container:
        status = container.state.status
        if status == "stopped":
            raise StatusError("cannot start a container that has stopped")
        if status == "running":
            raise StatusError("cannot start an already running container")
        if status != "created":
            raise StatusError(f"cannot start a container in the {status} state")
        container.begin()
        launch_release.release(container.directory)
        container.commit("started")
