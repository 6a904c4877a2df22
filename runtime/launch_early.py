"""Something to wait for is begun before it is needed.

The first write into a `cgroup.procs` file for a while makes the kernel wait until all processors have passed through its
scheduler (a percpu-rwsem turns to its writers: 5 to 20 ms); writes that follow shortly after do not wait again. So a command
whose verb will move a process into cgroups begins, before anything else is loaded, with a write that changes nothing, the
process into the group it is in already, and does it in a thread. The container's own moves then take 0.2 ms.

A fork does not wait for the thread: it sits in a system call and holds nothing that the child could miss.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, start_new_thread

_begun = False
_ended = allocate_lock()


def begin() -> None:
    """Returns at once; only the first call does anything. What goes wrong is no matter: the moves that count only take longer."""
    global _begun
    if not _begun:
        _begun = True
        _ended.acquire()
        start_new_thread(_touch, ())


def finish() -> None:
    """Before what only a process with one thread may do. Waits no longer than the first move itself would."""
    with _ended:
        pass


def _touch() -> None:
    try:
        _enter_own_group()
    finally:
        _ended.release()


def _enter_own_group() -> None:
    try:
        with open("/proc/self/cgroup", "rb") as lines:
            groups = [line.rstrip(b"\n").split(b":", 2)[1:] for line in lines]
    except OSError:
        return
    for name, path in groups:  # version 2 is the one without a name
        hierarchy = b"/sys/fs/cgroup/" + name.removeprefix(b"name=")
        try:
            fd = os.open(hierarchy + path + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(fd, b"0")
            return
        except OSError:
            continue
        finally:
            os.close(fd)
