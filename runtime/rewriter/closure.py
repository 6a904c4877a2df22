"""What a program loads when it starts, resolved inside its root directory: interpreter, `#!` interpreter, libraries.

Only a forecast: what it misses is planned when it is mapped. But no symbolic link or `..` leads out of the root,
because what is found is read by the runtime. Sources: ld.so(8) for the order of search, glibc's elf/dl-cache.h for
ld.so.cache (format "glibc-ld.so.cache1.1"), execve(2) for `#!`.
"""

from __future__ import annotations

import errno
import os
import stat
from _struct import error, iter_unpack, unpack_from  # type: ignore[attr-defined]

from .elf import DT_NEEDED, DT_RPATH, DT_RUNPATH, Elf, ElfError, looks_like_elf

MAX_LINKS = 40
MAX_OBJECTS = 512
MAX_SCRIPTS = 4
_DEFAULT = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
)
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"


class Root:
    """A directory tree that paths cannot leave. Takes a path or an open directory (which stays the caller's)."""

    def __init__(self, where: str | int) -> None:
        self._own = isinstance(where, str)
        self.fd: int = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if isinstance(where, str) else where

    def close(self) -> None:
        if self._own:
            os.close(self.fd)

    def open(self, path: str) -> int:
        """Opens a regular file for reading. Raises OSError as open(2) would (EACCES for what is no regular file)."""
        stack = [self.fd]
        parts = path.split("/")[::-1]
        links = 0
        try:
            while parts:
                part = parts.pop()
                if part in ("", "."):
                    continue
                if part == "..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    continue
                fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stack[-1])
                mode = os.fstat(fd).st_mode
                if stat.S_ISDIR(mode):
                    stack.append(fd)
                    continue
                try:
                    if stat.S_ISLNK(mode):
                        links += 1
                        if links > MAX_LINKS:
                            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                        target = os.readlink("", dir_fd=fd)
                        if target.startswith("/"):
                            while len(stack) > 1:
                                os.close(stack.pop())
                        parts += target.split("/")[::-1]
                        continue
                    if any(p not in ("", ".") for p in parts):
                        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                    return self._regular(part, stack[-1], fd, path)
                finally:
                    os.close(fd)
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        finally:
            for fd in stack[1:]:
                os.close(fd)

    @staticmethod
    def _regular(name: str, parent: int, known: int, path: str) -> int:
        """Opens what `known` was found to be: opening a device or a FIFO can have effects, so look first."""
        if not stat.S_ISREG(os.fstat(known).st_mode):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent)
        if not os.path.samestat(os.fstat(fd), os.fstat(known)):
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return fd


class Pages:
    """A file as `Elf` wants it, read piece by piece: headers need little, and a mapping could raise SIGBUS."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self.size)
        return os.pread(self.fd, max(0, min(stop - start, 1 << 20)), start)


def closure(root: Root, program: str) -> list[tuple[str, int]]:
    """(path, descriptor) of the ELF files that starting `program` maps; the caller closes them.

    What cannot be found or read is left out; the program itself failing raises OSError.
    """
    return _Search(root).run(program)


class _Search:
    def __init__(self, root: Root) -> None:
        self.root = root
        self.found: list[tuple[str, int]] = []
        self.seen: set[tuple[int, int]] = set()
        self.names: set[str] = set()
        self.cache: LibraryCache | None = None

    def run(self, program: str) -> list[tuple[str, int]]:
        fd = self.root.open(program)
        for _ in range(MAX_SCRIPTS):
            head = os.pread(fd, 256, 0)
            if head[:2] != b"#!":
                break
            os.close(fd)
            words = head[2:].split(b"\n")[0].split()
            if not words:
                return []
            program = os.fsdecode(words[0])
            fd = self.root.open(program)
        try:
            self._add(program, fd)
            at = 0
            while at < len(self.found) and len(self.found) < MAX_OBJECTS:
                self._needed(*self.found[at])
                at += 1
        except BaseException:
            for _, kept in self.found:
                os.close(kept)
            raise
        return self.found

    def _add(self, path: str, fd: int) -> None:
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) in self.seen or not looks_like_elf(os.pread(fd, 20, 0)):
            os.close(fd)
            return
        self.seen.add((st.st_dev, st.st_ino))
        self.found.append((path, fd))

    def _try(self, path: str) -> bool:
        try:
            fd = self.root.open(path)
        except OSError:
            return False
        self._add(path, fd)
        return True

    def _needed(self, path: str, fd: int) -> None:
        try:
            elf = Elf(Pages(fd))
            interpreter = elf.interpreter
            needed = elf.dynamic_strings(DT_NEEDED)
            search = elf.dynamic_strings(DT_RUNPATH) or elf.dynamic_strings(DT_RPATH)
        except (ElfError, error):
            return
        if interpreter:
            self._try(interpreter)
        origin = os.path.dirname(path)
        directories = [
            d.replace("$ORIGIN", origin).replace("${ORIGIN}", origin).replace("$LIB", "lib/x86_64-linux-gnu")
            for entry in search
            for d in entry.split(":")
            if d
        ]
        for name in needed:
            if name in self.names:
                continue
            self.names.add(name)
            if "/" in name:
                self._try(name)
                continue
            if any(self._try(f"{d}/{name}") for d in directories):
                continue
            if self._cached(name):
                continue
            any(self._try(f"{d}/{name}") for d in _DEFAULT)

    def _cached(self, name: str) -> bool:
        if self.cache is None:
            raw = b""
            try:
                fd = self.root.open("/etc/ld.so.cache")
                try:
                    raw = os.pread(fd, 1 << 24, 0)
                finally:
                    os.close(fd)
            except OSError:
                pass
            self.cache = LibraryCache(raw)
        path = self.cache.find(name)
        return path is not None and self._try(path)


class LibraryCache:
    """The content of an ld.so.cache. Damaged parts are left out. A container's start looks up a handful of its hundreds of names,
    so these are looked for and the others not read."""

    def __init__(self, raw: bytes) -> None:
        start = max(raw.find(_CACHE_MAGIC), 0)
        self._raw = raw[start:]
        count = unpack_from("<I", self._raw, 20)[0] if self._raw.startswith(_CACHE_MAGIC) and len(self._raw) >= 48 else 0
        table = self._raw[48 : 48 + 24 * min(count, 1 << 16)]
        whole = iter_unpack("<iIIIQ", table[: len(table) // 24 * 24])
        # x86-64, glibc 2; no variants for special CPUs. The first entry of a name wins.
        self._values: dict[int, tuple[int, int]] = {}
        for place, (flags, key, value, _, hwcap) in enumerate(whole):
            if flags == 0x303 and not hwcap and key not in self._values:
                self._values[key] = place, value

    def find(self, name: str) -> str | None:
        """The path of a library."""
        text = os.fsencode(name) + b"\0"
        found: list[tuple[int, int]] = []
        at = -1
        for _ in range(1 << 16):  # a name stands at the end of its paths, too; a hostile file has it everywhere
            at = self._raw.find(text, at + 1)
            if at < 0:
                break
            if at in self._values:
                found.append(self._values[at])
        if not found:
            return None
        value = min(found)[1]
        end = self._raw.find(b"\0", value)
        return os.fsdecode(self._raw[value:end]) if end >= 0 else None
