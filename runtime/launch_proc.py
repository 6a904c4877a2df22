"""The procfs a monitor works with: it needs one of the container's pid namespace, whatever the container itself has."""

from __future__ import annotations

import errno
import os

from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.places import Places

_AT_FDCWD = -100


def own_proc() -> int:
    """A procfs of the container's pid namespace, mounted nowhere: the monitor needs one even where the container
    has none. To be called while / is the host's.
    """
    try:
        return native.detached_mount("proc", (), native.MOUNT_ATTR_NOSUID | native.MOUNT_ATTR_NODEV | native.MOUNT_ATTR_NOEXEC)
    except OSError as error:
        # The host's own pid namespace, of which root of a user namespace may not mount a procfs: there is one already.
        tree = _hosts_proc() if error.errno == errno.EPERM else -1
        if tree >= 0:
            return tree
        raise from_os_error("mount the monitor's procfs", error, LaunchError) from None


def _hosts_proc() -> int:
    """A copy of what is mounted at /proc, if this process is in its pid namespace, else -1."""
    try:
        tree = native.open_tree(_AT_FDCWD, "/proc", native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
    except OSError:
        return -1
    try:
        if native.statfs_type(tree) == native.PROC_SUPER_MAGIC and _is_of_own_namespace(tree):
            return tree
    except OSError:
        pass  # no procfs of this namespace
    os.close(tree)
    return -1


def _is_of_own_namespace(proc: int) -> bool:
    """NSpid has this process' number in each pid namespace from that of the procfs down to its own: proc(5)."""
    fd = os.open("self/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        lines = os.read(fd, 8192).split(b"\n")
    finally:
        os.close(fd)
    return [len(line.split()) for line in lines if line.startswith(b"NSpid:")] == [2]


def container_proc(places: Places, own: int) -> int:
    """The container's /proc as the monitor should use it: the same file system the program opens, so that what the
    program opened can be recognised, but without what is mounted on top of it. `own` where the container has none.
    """
    try:
        place = places.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return own
    try:
        tree = native.open_tree(place, "", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH)
    except OSError:
        return own
    finally:
        os.close(place)
    try:
        # Only a procfs has the namespace file of this very process; a directory of the image cannot pretend to.
        here, there = (os.stat("self/ns/pid", dir_fd=fd) for fd in (own, tree))
        same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        # And a procfs bound from another pid namespace knows this process by another number.
        same = same and os.readlink("self", dir_fd=own) == os.readlink("self", dir_fd=tree)
    except OSError:
        same = False
    os.close(own if same else tree)
    return tree if same else own
