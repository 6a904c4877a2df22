"""A root made for one container: the host's files below, a private writable layer on top, gone with the container.

All of it is mounted in the container's own mount namespace: nothing is left to unmount, whatever happens.
"""

from __future__ import annotations

import os

from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.launch_plan import Overlay

# Host mounts whose content is not files to work on: the container gets its own, or none.
_VIRTUAL = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fuse.lxcfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "ramfs",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)
_HIDDEN = ("/proc", "/sys", "/dev")


def mount_overlay(overlay: Overlay) -> None:
    """Mounts the root at `root_of(overlay)`. To be called in a fresh mount namespace. `LaunchError`."""
    scratch = overlay.scratch
    try:
        native.mount(None, "/", None, native.MS_SLAVE | native.MS_REC)
        below = host_mounts(overlay.lower)
        # Taken before there is a scratch mount: they must not show it.
        writable = [native.open_tree(-100, place, native.OPEN_TREE_CLONE | native.AT_RECURSIVE) for place in overlay.writable]
        native.mount("pysandbox", scratch, "tmpfs", native.MS_NOSUID | native.MS_NODEV, "mode=700")
        merged = root_of(overlay)
        _mount_layer(scratch, 0, overlay.lower, merged)
        for number, (place, is_directory) in enumerate(below, 1):
            target = merged + place
            if place == scratch or not os.path.lexists(target):
                continue
            if is_directory and _try_layer(scratch, number, place, target):
                continue
            # A file, or a file system that cannot be below an overlay (another overlay too deep, some network file
            # systems): seen as it is, but not writable.
            tree = native.open_tree(-100, place, native.OPEN_TREE_CLONE)
            native.mount_setattr(tree, 0, native.MOUNT_ATTR_RDONLY | native.MOUNT_ATTR_NOSUID)
            _attach(tree, target)
        for place, tree in zip(overlay.writable, writable, strict=True):
            _attach(tree, merged + place)
    except OSError as error:
        raise from_os_error("lay a writable layer over the host's files (overlay)", error, LaunchError) from None


def root_of(overlay: Overlay) -> str:
    return os.path.join(overlay.scratch, "root")


def _mount_layer(scratch: str, number: int, lower: str, target: str) -> None:
    upper, work = f"{scratch}/{number}.upper", f"{scratch}/{number}.work"
    os.mkdir(upper, 0o755)
    os.mkdir(work, 0o755)
    found = os.stat(lower)
    os.chown(upper, found.st_uid, found.st_gid)
    os.chmod(upper, found.st_mode & 0o7777)
    if number == 0:
        os.mkdir(target, 0o755)
    # Key by key: a path may hold the commas and colons that separate options in mount(2)'s string.
    tree = native.detached_mount(
        "overlay",
        (
            ("source", "overlay"),
            ("lowerdir", lower.replace("\\", "\\\\").replace(":", "\\:")),
            ("upperdir", upper),
            ("workdir", work),
        ),
        native.MOUNT_ATTR_NOSUID | native.MOUNT_ATTR_NODEV,
    )
    _attach(tree, target)


def _try_layer(scratch: str, number: int, lower: str, target: str) -> bool:
    try:
        _mount_layer(scratch, number, lower, target)
        return True
    except OSError:
        return False


def _attach(tree: int, target: str) -> None:
    place = os.open(target, os.O_PATH | os.O_CLOEXEC)
    native.move_mount(tree, place)
    os.close(place)
    os.close(tree)


def host_mounts(root: str) -> list[tuple[str, bool]]:
    """(place, is a directory) of the host's mounts of real files below `root`, outer ones first."""
    found: dict[str, bool] = {}
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            place = left.split(" ")[4].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
            kind = right.split(" ", 1)[0]
            inside = place.startswith(root.rstrip("/") + "/") and place != "/"
            hidden = any(place == top or place.startswith(top + "/") for top in _HIDDEN)
            if inside and not hidden and kind not in _VIRTUAL:
                try:
                    found[place] = os.path.isdir(place)
                except OSError:
                    continue
    return sorted(found.items())
