"""Taking back what a container made: processes, cgroups, mounts, files. Used by `delete` and after a crash.

Every step is safe to repeat and safe when the thing was never made, because it is recorded before it is made.
A record comes out of a state file, so it is not trusted further than needed: processes are identified by pid
and start time, cgroups must look like cgroups, directories are only removed when empty.
"""

from __future__ import annotations

import errno
import os
import time

from pysandbox.oci import cgroups_files
from pysandbox.oci.errors import StateError, host_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox.oci.state import Made

_PATIENCE = 5.0
"""Seconds to wait for killed processes to go and for a cgroup to become empty."""

_SIGKILL = 9
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)


def undo(made: Made, groups: Sequence[str] = ()) -> None:
    """Removes one recorded thing; nothing happens if it is not there. `StateError` if it stays. `groups`: the
    container's cgroups, where a process may be frozen.
    """
    try:
        if made.kind == "process":
            _process(made, groups)
        else:
            _HANDLERS[made.kind](made)
    except OSError as e:
        if e.errno not in _GONE:
            raise StateError(
                f"cannot remove {made.kind} {made.path or made.pid}: {host_reason(e.errno)}", errno=e.errno
            ) from None


def process_start(pid: int) -> tuple[bool, int] | None:
    """Whether a process still runs, and its start time (clock ticks since boot); None if there is none.

    The two numbers pid and start time name a process for ever: proc(5), /proc/pid/stat, fields 3, 20 and 22.
    A zombie does not run, unless it is only the first thread that has ended and others go on.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:  # ESRCH: it went between open and read
        return None
    finally:
        os.close(fd)
    # The second field is the command in brackets and may contain spaces and brackets itself.
    fields = text[text.rindex(b")") + 2 :].split()
    runs = fields[0] not in (b"Z", b"X", b"x") or int(fields[17]) > 1
    return runs, int(fields[19])


def alive(pid: int, start: int) -> bool:
    """Whether exactly this process still runs."""
    return process_start(pid) == (True, start)


def _process(made: Made, groups: Sequence[str]) -> None:
    """Kill and wait. The pidfd is opened before the identity is checked, so a reused pid cannot be hit."""
    if made.pid <= 1 or made.pid == os.getpid():
        return
    import signal  # imports `enum`; only those pay for it who have something to kill

    fd = os.pidfd_open(made.pid)
    try:
        if alive(made.pid, made.start):
            signal.pidfd_send_signal(fd, _SIGKILL)
            for group in groups:
                _thaw_below(group)
                _bring_home(made.pid, group)
            _wait_until(lambda: not alive(made.pid, made.start), f"process {made.pid}")
    finally:
        os.close(fd)


def _bring_home(pid: int, group: str) -> None:
    """A process that somebody has moved to a frozen group elsewhere (version 1) dies in its own, which is thawed. The other
    group may hold processes of others and stays as it is."""
    if not os.path.exists(f"{group}/freezer.state"):
        return
    try:
        with open(f"/proc/{pid}/cgroup") as lines:
            place = next((line.rstrip("\n").split(":", 2)[2] for line in lines if ":freezer:" in line), "")
        if place and not group.endswith(place):
            cgroups_files.write(group, "cgroup.procs", str(pid))
    except OSError as e:
        if e.errno not in _GONE:
            raise StateError(f"move process {pid} to {group}: {host_reason(e.errno)}", errno=e.errno) from None


def _cgroup(made: Made) -> None:
    """Kill everything below the directory, then remove it from the leaves up."""
    if not os.path.exists(os.path.join(made.path, "cgroup.procs")):
        return
    if os.path.ismount(made.path):
        raise StateError(f"will not remove {made.path}: it is the root of a cgroup hierarchy", errno=errno.EPERM)
    _wait_until(lambda: _remove_cgroup(made.path), f"cgroup {made.path}")


def _remove_cgroup(path: str) -> bool:
    try:
        os.rmdir(path)
        return True  # the usual case: everything has ended
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    try:
        # Version 2, Linux 5.14: everything below at once, whatever it does meanwhile.
        cgroups_files.write(path, "cgroup.kill", "1")
    except OSError:
        pass  # one by one, then
    # Groups below first: a child cannot be moved or made by processes that are dead already.
    for group in cgroups_files.each_group(path, remove=True):
        _kill_members(group)
        _thaw_group(group)
    try:
        os.rmdir(path)
    except OSError as e:
        if e.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _cgroup_above(made: Made) -> None:
    """A group that was made on the way to a container's own, and where others may live by now."""
    try:
        os.rmdir(made.path)
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise


def _unit(made: Made) -> None:
    """A unit of systemd's; its processes are gone or go with it."""
    from pysandbox.oci import cgroups_systemd
    from pysandbox.oci.errors import Error

    try:
        cgroups_systemd.stop(made.path.lstrip("/"))
    except Error as e:
        raise StateError(e.message, errno=e.errno) from None


def _kill_members(group: int) -> None:
    for pid in cgroups_files.members(group):
        # 0 stands for processes outside this pid namespace; the runtime itself never enters a container's cgroup.
        if pid > 1 and pid != os.getpid():
            try:
                os.kill(pid, _SIGKILL)
            except ProcessLookupError:
                continue


def _thaw_below(path: str) -> None:
    """Thaws a group and those that the container made in it, where this is the hierarchy of the freezer."""
    if os.path.exists(f"{path}/freezer.state") or os.path.exists(f"{path}/cgroup.freeze"):
        for group in cgroups_files.each_group(path):
            _thaw_group(group)


def thaw(path: str) -> None:
    """Lets the processes of one group go on: a frozen one does not die of SIGKILL under cgroup v1."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # gone
    try:
        _thaw_group(fd)
    finally:
        os.close(fd)


def _thaw_group(group: int) -> None:
    for name, word in (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0")):
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
        except OSError:  # this hierarchy has no such file
            continue
        try:
            os.write(fd, word)
        except OSError as e:
            if e.errno not in (*_GONE, errno.ENODEV):
                raise
        finally:
            os.close(fd)


def _mount(made: Made) -> None:
    """Everything mounted there, one over the other; EINVAL says that nothing is left."""
    from pysandbox.runtime import native

    mnt_detach, umount_nofollow = 2, 8
    for _ in range(64):
        try:
            native.umount(made.path, mnt_detach | umount_nofollow)
        except OSError as e:
            if e.errno == errno.EINVAL:
                return
            raise


def _file(made: Made) -> None:
    os.unlink(made.path)


def _directory(made: Made) -> None:
    try:
        os.rmdir(made.path)
    except OSError as e:
        # Someone put something there that is not the container's to remove.
        if e.errno != errno.ENOTEMPTY:
            raise


def _wait_until(done: Callable[[], bool], what: str) -> None:
    """Polls with growing pauses: kills take about a millisecond, an unlucky exit much longer."""
    deadline = time.monotonic() + _PATIENCE
    pause = 0.0005
    while not done():
        if time.monotonic() > deadline:
            raise StateError(f"{what} does not go away", errno=errno.EBUSY)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


_HANDLERS: dict[str, Callable[[Made], None]] = {
    "cgroup": _cgroup,
    "cgroup-above": _cgroup_above,
    "unit": _unit,
    "mount": _mount,
    "file": _file,
    "directory": _directory,
}
KINDS = frozenset(("process", *_HANDLERS))
