"""The launcher's dealings with the state directory.

A container in the foreground belongs to its launcher: when that is killed the container dies with it, and the next
command removes what is left. Such containers are listed in ROOT/@foreground (no id can contain `@`), so that looking
for left-overs costs one directory read.
"""

from __future__ import annotations

import os

from pysandbox.oci.errors import ContainerNotFound, StateError, host_reason
from pysandbox.oci.state import ProcessId, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pysandbox.oci.state import Container, State

_FOREGROUND = "@foreground"


def open_store(root: str) -> Store:
    """The state directory, with what dead commands left behind taken back. Every verb begins here."""
    store = Store(root)
    store.collect()
    collect_foreground(store)
    return store


def foreground_data() -> Mapping[str, Any]:
    me = ProcessId.of(os.getpid())
    return {"foreground": [me.pid, me.start]}


def enter_foreground(container: Container) -> None:
    """Before `commit`: from there on the launcher's death is noticed by this entry alone."""
    directory = os.path.join(os.path.dirname(container.path), _FOREGROUND)
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        os.close(os.open(os.path.join(directory, container.id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StateError(f"write to state directory {directory}: {host_reason(error.errno)}", errno=error.errno) from None


def left_foreground(store: Store, container_id: str) -> None:
    try:
        os.unlink(os.path.join(store.root, _FOREGROUND, container_id))
    except FileNotFoundError:
        pass


def collect_foreground(store: Store) -> list[str]:
    """Removes containers whose foreground launcher is dead; the ids. Never raises for one of them."""
    try:
        names = os.listdir(os.path.join(store.root, _FOREGROUND))
    except OSError:
        return []
    done = []
    for name in names:
        try:
            state = store.load(name)
            launcher = state.data.get("foreground")
            if isinstance(launcher, list) and len(launcher) == 2 and ProcessId(pid=launcher[0], start=launcher[1]).alive:
                continue
            if isinstance(launcher, list):
                with store.open(name, patience=0) as container:
                    if container.state.data.get("foreground") != launcher:
                        continue  # another container by now, which took the name
                    container.destroy()
                done.append(name)
        except ContainerNotFound:
            pass
        except StateError:
            continue  # busy or damaged: stays listed for the next command
        left_foreground(store, name)
    return done


def destroy(store: Store, container_id: str, warn: Callable[[str], None]) -> State | None:
    """After the container's end; its last state. None: somebody else has deleted it meanwhile, or it resists."""
    try:
        with store.open(container_id) as container:
            # The usual case: the first process was reaped, its groups are empty. `destroy` would look closer, at
            # each in turn, and this is time the caller waits for the exit status. It writes the state first.
            left = []
            for made in container.state.made:
                if made.kind == "cgroup":
                    try:
                        os.rmdir(made.path)
                    except OSError:
                        left.append(made)
                elif made.kind != "process" or ProcessId(pid=made.pid, start=made.start).alive:
                    left.append(made)
            container.state = container.state.replace(made=tuple(left))
            container.destroy()
            return container.state
    except ContainerNotFound:
        pass
    except StateError as error:
        warn(f"remove container {container_id}: {error.message}")
    return None
