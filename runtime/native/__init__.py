"""Linux calls that Python's standard library lacks, as plain functions that raise `OSError`.

The constants are the kernel's (include/uapi/linux/{mount,sched,prctl,openat2}.h), under their own names. Each
function's semantics are those of the manual page of the call it names.
"""

from __future__ import annotations

import os

from pysandbox.runtime.native._host import ffi as _ffi
from pysandbox.runtime.native._host import lib as _lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# mount(2)
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_POSIXACL = 0x10000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000
MNT_DETACH = 2

# open_tree(2), move_mount(2), fsopen(2), fsmount(2), mount_setattr(2)
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# openat2(2)
RESOLVE_NO_XDEV = 0x1
RESOLVE_NO_MAGICLINKS = 0x2
RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_BENEATH = 0x8
RESOLVE_IN_ROOT = 0x10

# unshare(2), setns(2)
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_CLOEXEC = 4

PROC_SUPER_MAGIC = 0x9FA0
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270

_NULL = _ffi.NULL


def _check(result: int, path: str | None = None) -> int:
    if result >= 0:
        return result
    if path is None:
        raise OSError(-result, os.strerror(-result))
    raise OSError(-result, os.strerror(-result), path)


def _bytes(text: str | None) -> object:
    return _NULL if text is None else os.fsencode(text)


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    _check(_lib.psb_mount(_bytes(source), os.fsencode(target), _bytes(fstype), flags, _bytes(data)), target)


def umount(target: str, flags: int = 0) -> None:
    _check(_lib.psb_umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    _check(_lib.psb_pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def unshare(flags: int) -> None:
    _check(_lib.psb_unshare(flags))


def setns(fd: int, nstype: int = 0) -> None:
    _check(_lib.psb_setns(fd, nstype))


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """The descriptor is close-on-exec. EAGAIN (a rename raced with the walk) is retried here."""
    encoded = os.fsencode(path)
    for _ in range(64):
        result: int = _lib.psb_openat2(dirfd, encoded, flags | os.O_CLOEXEC, mode, resolve)
        if result != -11:
            break
    return _check(result, path)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    return _check(_lib.psb_open_tree(dirfd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC), path)


def move_mount(from_fd: int, to_fd: int) -> None:
    """Attaches the detached mount `from_fd` on the directory or file that `to_fd` (O_PATH) names."""
    _check(_lib.psb_move_mount(from_fd, b"", to_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))


def detached_mount(fstype: str, options: Iterable[tuple[str, str | None]], attributes: int) -> int:
    """A new file system that is mounted nowhere; returns its root (O_PATH). `options`: in order, each with its value or
    None; a value may have 255 bytes (fsconfig(2)). `attributes` are MOUNT_ATTR_*."""
    context = _check(_lib.psb_fsopen(fstype.encode(), FSOPEN_CLOEXEC), fstype)
    try:
        for key, value in options:
            if value is None:
                _check(_lib.psb_fsconfig(context, FSCONFIG_SET_FLAG, os.fsencode(key), _NULL, 0), key)
            else:
                _check(_lib.psb_fsconfig(context, FSCONFIG_SET_STRING, os.fsencode(key), os.fsencode(value), 0), key)
        _check(_lib.psb_fsconfig(context, FSCONFIG_CMD_CREATE, _NULL, _NULL, 0), fstype)
        return _check(_lib.psb_fsmount(context, FSMOUNT_CLOEXEC, attributes), fstype)
    finally:
        os.close(context)


def mount_setattr(fd: int, flags: int, set_: int = 0, clear: int = 0, propagation: int = 0, userns_fd: int = -1) -> None:
    _check(_lib.psb_mount_setattr(fd, b"", flags | AT_EMPTY_PATH, set_, clear, propagation, userns_fd))


def pidfd_getfd(pidfd: int, number: int) -> int:
    """A close-on-exec copy of another process' descriptor (pidfd_getfd(2))."""
    return _check(_lib.psb_pidfd_getfd(pidfd, number))


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return _check(_lib.psb_prctl(option, a, b, c, d))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Each set is a mask of 1 << CAP_*."""
    _check(_lib.psb_capset(effective, permitted, inheritable))


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of the caller."""
    out = _ffi.new("unsigned long long[3]")
    _check(_lib.psb_capget(out))
    return out[0], out[1], out[2]


def join_session_keyring(name: str) -> int:
    return _check(_lib.psb_join_session_keyring(name.encode()))


def setdomainname(name: str) -> None:
    encoded = name.encode()
    _check(_lib.psb_setdomainname(encoded, len(encoded)))


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    _check(_lib.psb_close_range(first, last, flags))


def personality(persona: int) -> int:
    return _check(_lib.psb_personality(persona))


def signalfd(signals: list[int]) -> int:
    """Non-blocking, close-on-exec; each read gives 128-byte records whose first 4 bytes are the signal number."""
    mask = 0
    for signo in signals:
        mask |= 1 << (signo - 1)
    return _check(_lib.psb_signalfd(mask))


def statfs_type(fd: int) -> int:
    """f_type of the file system that holds the open file."""
    return _check(_lib.psb_statfs_type(fd))


def ioprio_set(ioclass: int, priority: int) -> None:
    _check(_lib.psb_ioprio_set(ioclass, priority))


def all_cpus() -> None:
    """The caller may use every CPU of its cpuset."""
    _check(_lib.psb_all_cpus())


def sched_setattr(
    policy: int, flags: int = 0, nice: int = 0, priority: int = 0, runtime: int = 0, deadline: int = 0, period: int = 0
) -> None:
    """Scheduling of the caller; times in nanoseconds."""
    _check(_lib.psb_sched_setattr(policy, flags, nice, priority, runtime, deadline, period))


def attach_device_filter(cgroup_fd: int, instructions: bytes) -> None:
    """Attaches a BPF device program (8-byte instructions) to a version 2 cgroup, in the place of those already there."""
    _check(_lib.psb_device_filter(cgroup_fd, instructions, len(instructions) // 8))


def fork_sibling() -> int:
    """fork(2) with CLONE_PARENT: the new process is a child of the caller's parent. The caller must have one thread."""
    return _check(_lib.psb_fork_sibling())


def rdtsc() -> int:
    """The time stamp counter of the CPU we are on."""
    return int(_lib.psb_rdtsc())
