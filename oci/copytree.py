"""Copying a directory's content by descriptors, for `tmpcopyup`: never through a name that could lead elsewhere."""

from __future__ import annotations

import os
import stat

_CHUNK = 1 << 20


def copy_tree(source: int, target: int) -> None:
    """Copies what is in directory `source` into directory `target` (O_PATH descriptors): owners, modes, times, links,
    special files and extended attributes included; hard links become separate files. `OSError` on failure."""
    from_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    to_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        _copy_directory(from_fd, to_fd)
        _copy_attributes(from_fd, to_fd)
    finally:
        os.close(from_fd)
        os.close(to_fd)


def _copy_directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            copy = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            _copy_directory(below, copy)
        elif kind == stat.S_IFREG:
            # Somebody may put a FIFO in its place: that must not make us wait.
            below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
            copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            while os.sendfile(copy, below, None, _CHUNK):
                pass
        else:
            if kind == stat.S_IFLNK:
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            else:
                os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
                os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
            os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)
            continue
        _copy_attributes(below, copy)
        os.close(below)
        os.close(copy)


def _copy_attributes(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            if not name.startswith(("security.", "trusted.")):
                continue  # tmpfs without user attributes (before Linux 6.6): content matters more
            raise
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
