"""`delete`: everything of a container goes, then its poststop hooks run (runtime.md, "Delete")."""

from __future__ import annotations

from pysandbox.oci import decode
from pysandbox.oci.errors import StateError, StatusError
from pysandbox.runtime import kept
from pysandbox.runtime.launch_state import left_foreground, open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox.oci.spec import Hook
    from pysandbox.oci.state import Container, Store


def delete(root: str, container_id: str, warn: Callable[[str], None], *, force: bool = False) -> None:
    """`ContainerNotFound`; `StatusError` for one that still runs, unless `force`."""
    store = open_store(root)
    with store.open(container_id) as container:
        status = container.state.status
        # A created one has not run yet: it goes without force, as with runc.
        if status not in ("stopped", "created") and not force:
            raise StatusError(f"cannot delete container {container_id} that is not stopped: {status}")
        hooks = destroy(store, container, warn)
    run_after(container, hooks, warn)


def destroy(store: Store, container: Container, warn: Callable[[str], None]) -> Sequence[Hook]:
    """Removes the container, whatever its status; the hooks to run when the lock is given back (`run_after`)."""
    hooks: Sequence[Hook] = ()
    try:
        raw = kept.load(container.directory, container.id).hooks
        if raw.get("poststop"):
            hooks = decode.hooks(raw).poststop
    except StateError as error:
        # Removing is more important than what else should have happened.
        warn(f"poststop hooks of container {container.id} are not known: {error.message}")
    container.destroy()
    left_foreground(store, container.id)
    return hooks


def run_after(container: Container, hooks: Sequence[Hook], warn: Callable[[str], None]) -> None:
    if hooks:
        from pysandbox.runtime.hooks import run_poststop

        run_poststop(hooks, container.state.oci(), warn)
