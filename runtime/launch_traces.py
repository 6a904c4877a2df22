"""Where traces live and how long. A trace outlives its container.

    ROOT/traces/ID/trace.psb          of the container that has (or last had) this id
    ROOT/traces/ID/trace-NANOS.psb    of earlier containers with the id, by the time they were replaced

Old ones go while a container runs in the foreground (`run`), and when one is made and a quarter too many are there: more
than PSB_TRACE_KEEP_COUNT traces (64), older than PSB_TRACE_KEEP_DAYS days (7), or more than PSB_TRACE_KEEP_BYTES bytes in
total (1 GiB). The environment wins over `[trace]` in
/etc/pysandbox.ini (`keep_count`, `keep_days`, `keep_bytes`), that over the defaults. The trace of a live container
stays.
"""

from __future__ import annotations

import os
import time

from pysandbox.oci.errors import Error, LaunchError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = "/etc/pysandbox.ini"
DEFAULTS = {"keep_count": 64, "keep_days": 7, "keep_bytes": 1 << 30}
NAME = "trace.psb"


def new_trace(root: str, container_id: str, mode: str, directory: str = "") -> int:
    """Makes the trace file of a new container; its descriptor (read and write). `directory` "": below the state root.

    A full disk is reported here, not when the container runs.
    """
    from pysandbox.runtime.trace import create_trace_file

    place = directory or os.path.join(root, "traces", container_id)
    try:
        os.makedirs(place, 0o700, exist_ok=True)
        path = os.path.join(place, NAME)
        try:
            os.rename(path, os.path.join(place, f"trace-{time.time_ns()}.psb"))
        except FileNotFoundError:
            pass
        try:
            fd: int = create_trace_file(path, container_id, mode)
        except (OSError, Error):
            _discard(place)
            raise
    except OSError as error:
        raise from_os_error(f"create trace in {place}", error, LaunchError) from None
    if len(os.listdir(os.path.join(root, "traces"))) > limits()["keep_count"] * 5 // 4:
        prune(root, container_id)
    return fd


def discard(root: str, container_id: str, directory: str = "") -> None:
    """Of a container that never started: it has nothing to tell. An earlier trace of the id gets its name back."""
    _discard(directory or os.path.join(root, "traces", container_id))


def _discard(place: str) -> None:
    try:
        path = os.path.join(place, NAME)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        earlier = [name for name in os.listdir(place) if name.startswith("trace-") and name.endswith(".psb")]
        if earlier:
            os.rename(os.path.join(place, max(earlier)), path)
        else:
            os.rmdir(place)
            os.rmdir(os.path.dirname(place))
    except OSError:
        pass  # a directory that is not empty or was not ours to make


def limits() -> dict[str, int]:
    """The retention in force. `LaunchError` for a value that is no number."""
    values = dict(DEFAULTS)
    if os.path.exists(CONFIG):
        from configparser import ConfigParser
        from configparser import Error as BadFile

        parser = ConfigParser()
        try:
            parser.read(CONFIG)
            for key in values:
                values[key] = parser.getint("trace", key, fallback=values[key])
        except (BadFile, ValueError) as error:
            raise LaunchError(f"{CONFIG}: {error}") from None
    for key in values:
        text = os.environ.get(f"PSB_TRACE_{key.upper()}")
        if text is not None:
            if not text.isdigit():
                raise LaunchError(f"PSB_TRACE_{key.upper()}: {text!r} is not a number")
            values[key] = int(text)
    return values


def prune(root: str, keep_id: str, alive: Callable[[str], bool] | None = None) -> list[str]:
    """Removes what retention no longer covers; the paths removed. `keep_id`: its current trace stays, as do those of
    ids for which `alive` says so (default: a state directory with a running container)."""
    found = _traces(os.path.join(root, "traces"))
    keep = limits()
    total = sum(size for _, size, _, _ in found)
    oldest = time.time() - keep["keep_days"] * 86400
    count = len(found)
    removed: list[str] = []
    found.sort()
    for mtime, size, path, owner in found:
        if count <= keep["keep_count"] and total <= keep["keep_bytes"] and mtime >= oldest:
            break
        if owner and (owner == keep_id or (alive or _alive(root))(owner)):
            continue
        try:
            os.unlink(path)
            os.rmdir(os.path.dirname(path))
        except OSError:
            pass  # other traces of the id are there, or somebody else removed it
        removed.append(path)
        count -= 1
        total -= size
    return removed


def prune_sometimes(root: str, keep_id: str) -> None:
    """Looking at as many traces as are kept takes a millisecond: one container in eight does it."""
    if os.urandom(1)[0] < 32:
        prune(root, keep_id)


def _traces(base: str) -> list[tuple[float, int, str, str]]:
    """Of each trace: mtime, allocated bytes, path, id ("" for an earlier trace). What another command is removing or
    renaming meanwhile is left out."""
    found = []
    with os.scandir(base) as ids:
        for entry in ids:
            if not entry.is_dir(follow_symlinks=False):
                continue
            try:
                with os.scandir(entry.path) as files:
                    for file in files:
                        if file.name.endswith(".psb"):
                            info = file.stat(follow_symlinks=False)
                            owner = entry.name if file.name == NAME else ""
                            found.append((info.st_mtime, info.st_blocks * 512, file.path, owner))
            except FileNotFoundError:
                continue
    return found


def _alive(root: str) -> Callable[[str], bool]:
    from pysandbox.oci.errors import StateError
    from pysandbox.oci.state import Store

    store = Store(root)

    def alive(container_id: str) -> bool:
        try:
            return store.load(container_id).status != "stopped"
        except StateError:
            return False

    return alive
