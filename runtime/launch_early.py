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
_writes = allocate_lock()
_ended = allocate_lock()


def begin() -> None:
    """Returns when the kernel waits; only the first call does anything. What goes wrong is no matter: the moves that count only
    take longer."""
    global _begun
    if not _begun:
        _begun = True
        _ended.acquire()
        _writes.acquire()
        start_new_thread(_touch, ())
        _writes.acquire()  # or the thread would get the interpreter some milliseconds from now


def finish() -> None:
    """Before what only a process with one thread may do. Waits no longer than the first move itself would."""
    with _ended:
        pass


def _touch() -> None:
    fd = -1
    try:
        fd = _open_own_group()
    finally:
        _writes.release()
        try:
            if fd >= 0:
                os.write(fd, b"0")
                os.close(fd)
        except OSError:
            pass
        _ended.release()


def _open_own_group() -> int:
    """`cgroup.procs` of a group this process is in; -1 where it cannot be written."""
    try:
        with open("/proc/self/cgroup", "rb", 0) as lines:
            groups = [line.split(b":", 2)[1:] for line in lines.read().splitlines()]
    except OSError:
        return -1
    for name, path in groups:  # version 2 is the one without a name
        try:
            return os.open(b"/sys/fs/cgroup/" + name.removeprefix(b"name=") + path + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1
