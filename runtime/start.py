"""`start`: the program of a created container runs (runtime.md, "Start")."""

from __future__ import annotations

from pysandbox.oci.errors import Error, StatusError
from pysandbox.runtime import kept, launch_release, launch_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pysandbox.oci.state import Container, Store


def start(root: str, container_id: str, warn: Callable[[str], None]) -> None:
    """`StatusError` unless the container is `created`; `LaunchError` when its program does not get to run. The error of
    a hook ends and removes the container."""
    store = launch_state.open_store(root)
    failed: Error | None = None
    with store.open(container_id) as container:
        _check_status(container.state.status)
        container.begin()
        hooks = kept.load(container.directory, container.id).hooks
        try:
            if hooks.get("startContainer"):
                _run_inside(store, container, hooks, warn)
        except Error as error:
            failed = error
            from pysandbox.runtime import remove

            after = remove.destroy(store, container, warn)
        else:
            launch_release.release(container.directory)
            container.commit("started")
    # Without the lock: a hook may well call the runtime.
    if failed is not None:
        remove.run_after(container, after, warn)
        raise failed
    if hooks.get("poststart"):
        _run_poststart(container, hooks, warn)


def _check_status(status: str) -> None:
    if status == "stopped":
        raise StatusError("cannot start a container that has stopped")
    if status == "running":
        raise StatusError("cannot start an already running container")
    if status != "created":
        raise StatusError(f"cannot start a container in the {status} state")


def _run_inside(store: Store, container: Container, raw: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """startContainer: programs of the image, so each is a guest with a monitor of its own, and no process of the host."""
    from pysandbox.oci import decode
    from pysandbox.runtime import enter
    from pysandbox.runtime.hooks import run_all
    from pysandbox.runtime.kill import inner_pid

    state = container.state
    shown = state.oci()
    # The container's own view: what numbers the host has is not its business.
    shown["pid"] = inner_pid(state.pid)
    run_all(
        "startContainer",
        decode.hooks(raw).start_container,
        shown,
        lambda hook, streams: enter.start_hook(store, state, hook, streams, warn),
    )


def _run_poststart(container: Container, raw: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    from pysandbox.oci import decode
    from pysandbox.runtime.hooks import run_hooks

    state = container.state
    try:
        run_hooks("poststart", decode.hooks(raw).poststart, state.oci(), cwd=state.bundle)
    except Error:
        from pysandbox.runtime.remove import delete

        delete(container.root, container.id, warn, force=True)
        raise
