"""openat2: what a walk may not do, and what it meets. 1 NO_XDEV, 2 NO_MAGICLINKS, 4 NO_SYMLINKS, 8 BENEATH, 16 IN_ROOT."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
O_PATH, O_NOFOLLOW = os.O_PATH, os.O_NOFOLLOW


def openat2(directory, path, flags, resolve):
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)
    fd = libc.syscall(437, directory, path.encode(), how, 24)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    name = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return name


os.mkdir("/tmp/tree")
os.symlink("loop", "/tmp/tree/loop")
os.symlink("/etc", "/tmp/tree/away")
etc = os.open("/etc", O_PATH)
for where, path in (
    ("/proc", "self/root"), ("/proc", "self/cwd"), ("/proc", f"self/fd/{etc}"), ("/", f"proc/self/fd/{etc}/passwd"),
    ("/etc", "passwd"), ("/proc", "self/exe"), ("/proc/self", "root/etc"), ("/proc", "self/root/proc/version"),
    ("/tmp/tree", "loop"), ("/tmp/tree", "away/passwd"), ("/tmp/tree", "../tree"), ("/tmp/tree", "/etc"),
):  # fmt: skip
    directory = os.open(where, O_PATH)
    found = [openat2(directory, path, O_PATH, resolve) for resolve in (0, 1, 2, 4, 8, 16, 1 | 2, 8 | 2, 8 | 4)]
    print(where, path, found, openat2(directory, path, O_PATH | O_NOFOLLOW, 1), openat2(directory, path, O_NOFOLLOW, 8))
    os.close(directory)
