"""`kill`: a signal to the first process of a container, or to all of its processes.

No lock is taken: a hook that runs while another verb holds it may send signals, too.
"""

from __future__ import annotations

import errno
import os

from pysandbox.oci import cgroups
from pysandbox.oci.errors import StatusError, UsageError, from_os_error
from pysandbox.oci.undo import thaw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.state import State

_SIGKILL = 9


def signal_number(text: str) -> int:
    """`9`, `KILL`, `SIGKILL` or `sigkill`; 0 only asks whether there is a process. `UsageError`."""
    if text.isascii() and text.isdigit() and int(text) <= 64:
        return int(text)
    import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, at 4 ms

    name = text.upper()
    number = getattr(_signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(number, int) or name in ("SIG_DFL", "SIG_IGN") or name.startswith("SIG_"):
        raise UsageError(f"unknown signal {text!r}")
    return number


def kill(state: State, signo: int) -> None:
    """To the first process; SIGKILL to all, where the end of the first one is not that of the others, because their pid namespace
    is somebody else's. `StatusError` ("container not running") when it has ended."""
    if signo == _SIGKILL and inner_pid(state.pid) != 1 and cgroups.processes(groups_of(state)):
        kill_all(state, signo)
    else:
        _kill_first(state, signo)


def _kill_first(state: State, signo: int) -> None:
    pid = state.pid
    try:
        if not pid:
            raise ProcessLookupError
        # A descriptor names this process for good; the check after opening it settles whether it is the right one.
        pidfd = os.pidfd_open(pid)
        try:
            if state.pid != pid:
                raise ProcessLookupError
            _send(pidfd, signo)
        finally:
            os.close(pidfd)
    except ProcessLookupError:
        raise StatusError("container not running", errno=errno.ESRCH) from None
    except OSError as error:
        raise from_os_error(f"kill process {pid}", error, StatusError) from None
    if signo == _SIGKILL:
        _thaw_all(state)


def kill_all(state: State, signo: int) -> None:
    """To all of the container's processes, also when the first one has ended: engines clean up this way."""
    groups = groups_of(state)
    if not any(map(os.path.isdir, groups)):
        if state.pid:
            _kill_first(state, signo)
            return
        raise StatusError("container not running", errno=errno.ESRCH)
    # Until a look finds nobody new: a process may fork between the look and its signal.
    told: set[int] = set()
    for _ in range(64):
        fresh = [pid for pid in cgroups.processes(groups) if pid not in told]
        if not fresh:
            break
        for pid in fresh:
            told.add(pid)
            try:
                os.kill(pid, signo)
            except ProcessLookupError:
                continue
        if signo != _SIGKILL:
            break  # told once is enough, and twice may mean something else
    if signo == _SIGKILL:
        _thaw_all(state)


def inner_pid(pid: int) -> int:
    """The number of a process in its own pid namespace (proc(5), NSpid); 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)
    except OSError:
        return 0


def groups_of(state: State) -> list[str]:
    """Directories of the container's cgroups."""
    return [made.path for made in state.made if made.kind == "cgroup"]


def _thaw_all(state: State) -> None:
    """A frozen process dies of nothing under version 1."""
    for path in groups_of(state):
        thaw(path)


def _send(pidfd: int, signo: int) -> None:
    import _signal

    _signal.pidfd_send_signal(pidfd, signo)
