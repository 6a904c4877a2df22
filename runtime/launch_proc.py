"""The procfs a monitor works with: it needs one of the container's pid namespace, whatever the container itself has."""

from __future__ import annotations

import os

from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.places import Places


def own_proc() -> int:
    """A procfs of the container's pid namespace, mounted nowhere: the monitor needs one even where the container
    has none.
    """
    try:
        return native.detached_mount("proc", (), native.MOUNT_ATTR_NOSUID | native.MOUNT_ATTR_NODEV | native.MOUNT_ATTR_NOEXEC)
    except OSError as error:
        raise from_os_error("mount the monitor's procfs", error, LaunchError) from None


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
