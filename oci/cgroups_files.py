"""Reading and writing the files of control groups.

Directories come from `cgroups.plan` and lie in cgroup file systems, where no symbolic link can be made; a name never
contains "/". Errors name file and value in runc's words, which engines show to their users.
"""

from __future__ import annotations

import errno
import os

from pysandbox.oci.errors import ResourceError, from_os_error, host_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def read(directory: str, name: str) -> str:
    """The whole file; `OSError`."""
    fd = os.open(f"{directory}/{name}", _READ)
    try:
        data = os.read(fd, 65536)
        # The kernel gives a short file in one piece; only a full buffer can mean more.
        while chunk := os.read(fd, 65536) if len(data) >= 4096 else b"":
            data += chunk
        return data.decode("utf-8", "backslashreplace")
    finally:
        os.close(fd)


def read_number(directory: str, name: str) -> int:
    """A file with one number; "max" is 2**64-1, as to Go's runtimes. `OSError`, `ResourceError`."""
    text = read(directory, name).strip()
    if text == "max":
        return (1 << 64) - 1
    try:
        return max(0, int(text))
    except ValueError:
        raise ResourceError(f"unable to parse {text[:40]!r} in {directory}/{name}") from None


def read_pairs(directory: str, name: str) -> dict[str, int]:
    """A file of lines `key number`; lines of another form are left out. `OSError`."""
    pairs = {}
    for line in read(directory, name).splitlines():
        key, _, value = line.partition(" ")
        if value.isascii() and value.isdigit():
            pairs[key] = int(value)
    return pairs


def write(directory: str, name: str, value: str) -> None:
    """One write(2), which is one command to the kernel; never makes a file. `OSError`."""
    fd = os.open(f"{directory}/{name}", _WRITE)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def exists(directory: str, name: str) -> bool:
    return os.access(f"{directory}/{name}", os.F_OK)


def each_group(path: str, *, remove: bool = False) -> Generator[int, None, None]:
    """A descriptor of every group from `path` down, groups below first; it is closed when the next one is asked for.
    Groups that vanish meanwhile are left out. `remove`: what is below `path` is removed after it was looked at.

    What is below was made by the container. It may be nested deeper than a path can say or a recursion can go, so this
    steps from one directory into the next, with two of them open at a time.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    # For each level the names that are still to be visited, and the one that is being visited now.
    waiting: list[list[str]] = [_groups_in(fd)]
    inside: list[str] = []
    try:
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
                except OSError:
                    continue
                os.close(fd)
                fd = below
                inside.append(name)
                waiting.append(_groups_in(fd))
                continue
            yield fd
            waiting.pop()
            if not inside:
                return
            above = os.open("..", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = above
            name = inside.pop()
            if remove:
                try:
                    os.rmdir(name, dir_fd=fd)
                except OSError:
                    continue  # somebody is in it: whoever removes the top learns that
    finally:
        os.close(fd)


def _groups_in(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def members(group: int) -> list[int]:
    """Host pids of the processes in a group (a descriptor). 0 stands for one outside this pid namespace."""
    for name in ("cgroup.procs", "cgroup.threads"):  # a threaded group only knows its threads
        try:
            fd = os.open(name, _READ, dir_fd=group)
        except OSError:
            continue
        try:
            data = b""
            while chunk := os.read(fd, 65536):
                data += chunk
            return [int(word) for word in data.split()]
        except OSError:
            continue
        finally:
            os.close(fd)
    return []


class Setter:
    """Sets limits, and with `undo` can take back what it has set (a verb that fails half-way has changed nothing)."""

    def __init__(self, *, undo: bool = False) -> None:
        self._before: list[tuple[str, str, str]] | None = [] if undo else None

    def set(self, directory: str | None, name: str, value: object) -> None:
        """`ResourceError` naming the file that refused; `directory` None: the host has no such controller."""
        if directory is None:
            raise missing(name)
        text = str(value)
        try:
            fd = os.open(f"{directory}/{name}", _WRITE)
        except OSError as error:
            raise from_os_error(f"open {directory}/{name}", error) from None
        try:
            if self._before is not None:
                self._remember(directory, name)
            os.write(fd, text.encode())
        except OSError as error:
            raise ResourceError(
                f'failed to write "{text}": write {directory}/{name}: {host_reason(error.errno)}', errno=error.errno
            ) from None
        finally:
            os.close(fd)

    def _remember(self, directory: str, name: str) -> None:
        assert self._before is not None
        try:
            old = read(directory, name).strip()
        except OSError:
            return  # write-only
        # A table of devices has one line each and is set line by line: the old lines are written over again.
        if name == "memory.oom_control":
            old = "1" if "oom_kill_disable 1" in old else "0"
        self._before += [(directory, name, line) for line in reversed(old.splitlines())]

    def roll_back(self) -> None:
        """Writes the old values, last change first. What cannot be restored is left: the caller reports the cause."""
        for directory, name, text in reversed(self._before or []):
            try:
                write(directory, name, text)
            except OSError:
                continue
        self._before = []


def missing(name: str) -> ResourceError:
    """The error for a limit in a hierarchy that the host does not have (or that could not be joined)."""
    controller = name.partition(".")[0]
    return ResourceError(f"cannot set {controller} limit: container could not join or create cgroup", errno=errno.ENOENT)
