"""Stopping and continuing all processes of a container at once: the freezers of both versions.

https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html, and `cgroup.freeze` in cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import time

from pysandbox.oci import cgroups_files as files
from pysandbox.oci.errors import ResourceError, from_os_error

_GONE = (errno.ENOENT, errno.ENODEV)
_V1_ROUNDS = 1000
_V2_PATIENCE = 10.0  # seconds


def directory_of(paths: dict[str, str]) -> str:
    """Where the freezer of a container with these groups is. `ResourceError` without one."""
    path = paths.get("freezer") or paths.get("")
    if not path:
        raise ResourceError("cannot toggle freezer: cgroups not configured for container", errno=errno.ENOENT)
    return path


def freeze(paths: dict[str, str]) -> None:
    """Returns when nothing in the groups runs any more; on an error everything runs again. `ResourceError`."""
    directory = directory_of(paths)
    try:
        if "freezer" in paths:
            _freeze_v1(directory)
        else:
            _freeze_v2(directory)
    except OSError as error:
        raise from_os_error(f"freeze {directory}", error) from None


def thaw(paths: dict[str, str]) -> None:
    """`ResourceError`."""
    directory = directory_of(paths)
    try:
        _thaw(directory, "freezer" in paths)
    except OSError as error:
        raise from_os_error(f"thaw {directory}", error) from None


def is_frozen(paths: dict[str, str]) -> bool:
    """Whether the groups themselves were frozen, not one above them. False where there is no freezer."""
    try:
        if "freezer" in paths:
            return files.read(paths["freezer"], "freezer.self_freezing").strip() == "1"
        return bool(paths.get("")) and files.read(paths[""], "cgroup.freeze").strip() == "1"
    except OSError:
        return False


def _thaw(directory: str, v1: bool) -> None:
    files.write(directory, *(("freezer.state", "THAWED") if v1 else ("cgroup.freeze", "0")))


def _freeze_v1(directory: str) -> None:
    """A group in which processes are started meanwhile may stay FREEZING; writing again gets the new ones, too. To
    thaw now and then helps one that waits for another which is frozen already.
    """
    try:
        for attempt in range(_V1_ROUNDS):
            if attempt % 50 == 49:
                _thaw(directory, True)
                time.sleep(0.01)
            files.write(directory, "freezer.state", "FROZEN")
            if attempt % 25 == 24:
                time.sleep(0.0001)
            if attempt % 200 == 199:
                time.sleep(0.5)
            if files.read(directory, "freezer.state").strip() == "FROZEN":
                return
        raise ResourceError("unable to freeze", errno=errno.EBUSY)
    except BaseException:
        try:
            _thaw(directory, True)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        raise


def _freeze_v2(directory: str) -> None:
    """`cgroup.events` says when the last process has stopped, and wakes up whoever polls it."""
    import select

    fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        files.write(directory, "cgroup.freeze", "1")
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        deadline = time.monotonic() + _V2_PATIENCE
        while b"frozen 1" not in os.pread(fd, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                _thaw(directory, False)
                raise ResourceError("unable to freeze", errno=errno.EBUSY)
            poll.poll(left * 1000)
    finally:
        os.close(fd)
