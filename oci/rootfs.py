"""Paths inside a root file system that the container's owner controls, and the switch into it.

Every path of config.json that means a place in the container is resolved by the kernel *inside* the root (openat2 with
RESOLVE_IN_ROOT) to an O_PATH descriptor, and used through that descriptor only: a symbolic link in the image can
neither lead out of the root nor change between check and use.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from pysandbox.oci.errors import ResourceError, from_os_error
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.places import Places
    from pysandbox.oci.spec import Spec

_INSIDE = native.RESOLVE_IN_ROOT | native.RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 40
_AT_FDCWD = -100

# linux.rootfsPropagation and the propagation options of mounts.
PROPAGATION = {
    "private": native.MS_PRIVATE,
    "shared": native.MS_SHARED,
    "slave": native.MS_SLAVE,
    "unbindable": native.MS_UNBINDABLE,
    "rprivate": native.MS_PRIVATE | native.MS_REC,
    "rshared": native.MS_SHARED | native.MS_REC,
    "rslave": native.MS_SLAVE | native.MS_REC,
    "runbindable": native.MS_UNBINDABLE | native.MS_REC,
}


def fd_path(fd: int) -> str:
    """A path for calls that know no descriptors. Valid while the host's procfs is at /proc: before the pivot."""
    return f"/proc/self/fd/{fd}"


def open_in(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Opens `path` inside the root; links are followed inside. `OSError` as open(2)."""
    return native.openat2(root, path.lstrip("/") or ".", flags, 0, _INSIDE)


def ensure_dir(root: int, path: str, mode: int = 0o755, *, links: bool = True) -> int:
    """O_PATH descriptor of the directory, made with its parents when missing. NotADirectoryError when it is
    something else, ELOOP for a link where `links` are not wanted.
    """
    resolve = _INSIDE if links else _INSIDE | native.RESOLVE_NO_SYMLINKS
    try:
        return native.openat2(root, path.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, 0, resolve)
    except FileNotFoundError:
        made = _create(root, path, mode, directory=True)
        if links:
            return made
        # Somebody may have put a link in its place since: then this fails.
        os.close(made)
        return native.openat2(root, path.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, 0, resolve)


def ensure_file(root: int, path: str) -> int:
    """O_PATH descriptor of whatever is at `path`; an empty file is made when nothing is."""
    try:
        return open_in(root, path)
    except FileNotFoundError:
        return _create(root, path, 0o755, directory=False)


def _create(root: int, path: str, mode: int, *, directory: bool) -> int:
    """Walks name by name, expanding links as the kernel would with `root` as /, and makes what is missing.

    A dangling link leads to its target being made, inside the root.
    """
    todo = [part for part in path.split("/") if part not in ("", ".")]
    done: list[str] = []
    links = 0
    fd = os.dup(root)
    try:
        while todo:
            name = todo.pop(0)
            if name == "..":
                if done:
                    done.pop()
                os.close(fd)
                fd = -1
                fd = native.openat2(
                    root, "/".join(done) or ".", os.O_PATH, 0, native.RESOLVE_IN_ROOT | native.RESOLVE_NO_SYMLINKS
                )
                continue
            try:
                below = native.openat2(fd, name, os.O_PATH | os.O_NOFOLLOW, 0, native.RESOLVE_BENEATH)
            except FileNotFoundError:
                if todo or directory:
                    _mkdir(name, mode, fd)
                else:
                    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=fd))
                below = native.openat2(fd, name, os.O_PATH | os.O_NOFOLLOW, 0, native.RESOLVE_BENEATH)
            kind = os.fstat(below).st_mode
            if stat.S_ISLNK(kind):
                links += 1
                target = os.readlink("", dir_fd=below)
                os.close(below)
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                todo[:0] = [part for part in target.split("/") if part not in ("", ".")]
                if target.startswith("/"):
                    done.clear()
                    os.close(fd)
                    fd = -1
                    fd = os.dup(root)
                continue
            if (todo or directory) and not stat.S_ISDIR(kind):
                os.close(below)
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            os.close(fd)
            fd = below
            done.append(name)
        result, fd = fd, -1
        return result
    finally:
        if fd >= 0:
            os.close(fd)


def _mkdir(name: str, mode: int, dir_fd: int) -> None:
    try:
        os.mkdir(name, mode, dir_fd=dir_fd)
    except FileExistsError:
        pass  # somebody else was faster; what it is, is checked by the caller


def prepare_root(spec: Spec, rootfs: str) -> int:
    """Cuts mount propagation to the host and makes the root a mount of its own; O_PATH descriptor of it."""
    propagation = spec.linux.rootfs_propagation
    flags = PROPAGATION[propagation] if propagation else native.MS_SLAVE | native.MS_REC
    if flags & native.MS_UNBINDABLE:
        flags = native.MS_PRIVATE | native.MS_REC  # what is unbindable cannot become the root; `finish_root` sees to it
    try:
        native.mount(None, "/", None, flags)
        if flags & native.MS_SHARED or not flags & native.MS_REC:
            _make_parent_private(rootfs)
        native.mount(rootfs, rootfs, "bind", native.MS_BIND | native.MS_REC)
        return os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"prepare root {rootfs}", error) from None


def prepare_shared_root(rootfs: str, place: str) -> int:
    """The root of a container without a mount namespace: a copy of the host's tree there, attached at the directory `place`
    for whoever takes it back, so that neither the host's mounts nor their propagation change. O_PATH descriptor of it.
    """
    try:
        tree = native.open_tree(_AT_FDCWD, rootfs, native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
        target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        native.move_mount(tree, target)
        os.close(target)
        # After the move: below a shared mount it made them shared, and the container's mounts would show elsewhere.
        native.mount_setattr(tree, native.AT_RECURSIVE, propagation=native.MS_PRIVATE)
        return tree
    except OSError as error:
        raise from_os_error(f"prepare root {rootfs}", error) from None


def _make_parent_private(rootfs: str) -> None:
    """pivot_root refuses a shared parent mount; and what the container mounts there would reach the host."""
    place = os.path.realpath(rootfs)
    while True:
        try:
            native.mount(None, place, None, native.MS_PRIVATE)
            return
        except OSError as error:
            # EINVAL: not a mount point. "/" always is one.
            if error.errno != errno.EINVAL or place == "/":
                raise
        place = os.path.dirname(place)


def pivot(root: int) -> None:
    """Makes `root` the process's /, and lets go of the host's tree.

    With "." for both arguments the old root is stacked on the new one and unmounted from there, so no directory
    for it is needed in a root that may be read-only.
    """
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        native.pivot_root(".", ".")
        os.fchdir(old)
        # Slave, not private: an unmount on the host must not be held up by this copy.
        native.mount(None, ".", None, native.MS_SLAVE | native.MS_REC)
        native.umount(".", native.MNT_DETACH)
        os.chdir("/")
    except OSError as error:
        raise from_os_error("pivot_root", error) from None
    finally:
        os.close(old)


def enter_shared_root(root: int) -> None:
    """Instead of the pivot where the mount namespace is the host's: it has the host's root, and keeps it."""
    try:
        os.fchdir(root)
        os.chroot(".")
        os.chdir("/")
    except OSError as error:
        raise from_os_error("chroot", error) from None


def move_root(root: int) -> None:
    """--no-pivot: for a host that runs from its initramfs, whose root cannot be pivoted away."""
    try:
        os.fchdir(root)
        native.mount(fd_path(root), "/", None, native.MS_MOVE)
        os.chroot(".")
        os.chdir("/")
    except OSError as error:
        raise from_os_error("move root", error) from None


def finish_root(spec: Spec) -> None:
    """After the pivot: propagation of the new root as asked, then read-only if asked.

    Of the root alone: what mounts say for themselves holds.
    """
    propagation = spec.linux.rootfs_propagation
    try:
        if propagation:
            native.mount(None, "/", None, PROPAGATION[propagation] & ~native.MS_REC)
        if spec.root.readonly:
            fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            _make_readonly(fd)
            os.close(fd)
    except OSError as error:
        raise from_os_error("set up /", error) from None


def _make_readonly(fd: int) -> None:
    """EBUSY: somebody is in the middle of a write through this very mount. That passes; a mount that stays busy is
    an error all the same.
    """
    for attempt in range(50):
        try:
            native.mount_setattr(fd, 0, native.MOUNT_ATTR_RDONLY)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == 49:
                raise
        time.sleep(0.002)


def mask_paths(places: Places, spec: Spec) -> None:
    """maskedPaths: a file is covered by the container's null device, a directory by an empty read-only tmpfs, one for all."""
    null = empty = -1
    try:
        for path in spec.linux.masked_paths:
            try:
                target = places.open(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # nothing there to hide: the specification's intent is met
            if stat.S_ISDIR(os.fstat(target).st_mode) and empty < 0:
                cover = native.detached_mount("tmpfs", (("source", "tmpfs"), ("ro", None)), native.MOUNT_ATTR_RDONLY)
                empty = os.dup(cover)
            elif stat.S_ISDIR(os.fstat(target).st_mode):
                cover = native.open_tree(empty, "", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH)
            else:
                if null < 0:
                    null = open_null(places)
                cover = native.open_tree(null, "", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH)
            native.move_mount(cover, target)
            os.close(cover)
            os.close(target)
    except OSError as error:
        raise from_os_error(f"mask {path}", error) from None
    finally:
        for fd in (null, empty):
            if fd >= 0:
                os.close(fd)


def open_null(places: Places) -> int:
    """The container's /dev/null (`O_PATH`), and nothing that merely has its name: a link there would expose its target
    instead. `ResourceError`.
    """
    fd = places.open("/dev/null", os.O_PATH | os.O_NOFOLLOW)
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        os.close(fd)
        raise ResourceError("/dev/null in the container is not the null device")
    return fd


def readonly_paths(places: Places, spec: Spec) -> None:
    """readonlyPaths: each is bound over itself, with what is mounted below it, and its top made read-only."""
    for path in spec.linux.readonly_paths:
        try:
            try:
                target = places.open(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            copy = native.open_tree(target, "", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH | native.AT_RECURSIVE)
            native.mount_setattr(copy, 0, native.MOUNT_ATTR_RDONLY)
            native.move_mount(copy, target)
            os.close(copy)
            os.close(target)
        except OSError as error:
            raise from_os_error(f"make {path} read-only", error) from None
