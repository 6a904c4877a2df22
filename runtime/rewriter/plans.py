"""Plans for the files a container will start with, and the index through which its monitors find them.

The way of one file: identity (fstat) -> known? done. Digest -> content known? then only the identity is new. Else a
private snapshot is taken, analysed in confinement, checked and patched here, and stored. With everything known this
reads a few headers and imports neither lief nor capstone.
"""

from __future__ import annotations

import fcntl
import os
from _struct import error  # type: ignore[attr-defined]

from .closure import Root, closure
from .elf import Elf, ElfError, looks_like_elf
from .store import CAPACITY, ENTRY, HEADER, Item, Store, find_entry, index_header, key_of

MIN_AGE_NS = 20_000_000  # a younger file may be written again without its ctime showing it
RECENT_NS = 60_000_000_000  # an older file is on disk: twice the time that the kernel lets a page stay dirty
SYNC_FILE_RANGE_WRITE_AND_WAIT = 7
SPARE = 512  # entries of a new index left to the planner
CHUNK = 1 << 20
F_ADD_SEALS, SEAL_SIZE = 1033, 0x1 | 0x2 | 0x4  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
SEALED = SEAL_SIZE | 0x8  # and F_SEAL_WRITE


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class PlanSet:
    """What a container needs. All descriptors are close-on-exec and belong to the caller.

    `index_fd`: memfd with struct psb_plan_index, opened read-only: for the vault. `store_fd`: the store, O_RDONLY: for
    the vault. `writer_fd`: the index opened for writing: for `planner.serve` only. `notes`: one line for each file
    that could not be planned, and why; such files are served by the raw door.
    """

    __slots__ = ("index_fd", "notes", "store_fd", "writer_fd")

    def __init__(self, index_fd: int, store_fd: int, writer_fd: int, notes: tuple[str, ...] = ()) -> None:
        self.index_fd = index_fd
        self.store_fd = store_fd
        self.writer_fd = writer_fd
        self.notes = notes

    def close(self) -> None:
        for fd in (self.index_fd, self.store_fd, self.writer_fd):
            os.close(fd)


def ensure_plans(rootfs: str | int, program: str, extra: Sequence[str] = (), *, store: Store | None = None) -> PlanSet:
    """Plans what starting `program` will map, and `extra`; both are paths inside `rootfs` (a path or a directory fd).

    Never fails for a file or for the store: what cannot be planned is noted and left to the raw door, which is correct
    and only slower. The index also names all that was planned on this machine before: what a shell starts is found.
    """
    keeper = store or Store()
    notes: list[str] = []
    root = Root(rootfs)
    try:
        files = _files(root, [program, *extra])
        try:
            view = keeper.view()
            for _ in range(2):  # a second time if the store was begun anew meanwhile
                unknown = [(path, fd) for path, fd in files if not view.lookup(key_of(os.fstat(fd)))]
                if not unknown:
                    break
                notes = plan_files(keeper, unknown)
                view.close()
                view = keeper.view()
        except OSError as e:
            note = f"plan store {keeper.path}: {(e.strerror or str(e)).lower()}"
            return _plan_set(b"", os.memfd_create("psb-store", os.MFD_CLOEXEC), (*notes, note))
        finally:
            for _, fd in files:
                os.close(fd)
    finally:
        root.close()
    os.close(view.dir_fd)
    return _plan_set(view.entries, view.store_fd, tuple(notes))


def _files(root: Root, programs: list[str]) -> list[tuple[str, int]]:
    out: list[tuple[str, int]] = []
    for program in programs:
        try:
            out += closure(root, program)
        except OSError:
            pass  # starting it will tell the user; a plan is not needed for that
    return out


def _plan_set(entries: bytes, store_fd: int, notes: tuple[str, ...]) -> PlanSet:
    newest = entries[-(CAPACITY - SPARE) * ENTRY :]
    writer = os.memfd_create("psb-plans", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(writer, HEADER + CAPACITY * ENTRY)
    os.pwrite(writer, index_header(len(newest) // ENTRY) + newest, 0)
    fcntl.fcntl(writer, F_ADD_SEALS, SEAL_SIZE)
    reader = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
    return PlanSet(reader, store_fd, writer, notes)


# --- planning ------------------------------------------------------------------------------------


def plan_files(store: Store, files: Sequence[tuple[str, int]], workshop: Any = None) -> list[str]:
    """Plans open files and publishes the result; notes for those that cannot be planned. Raises OSError (store)."""
    from .confine import MAX_FILE, Workshop

    notes: list[str] = []
    done: list[Item] = []
    snapshots: list[tuple[str, bytes, bytes, int]] = []  # path, identity, digest, sealed memfd
    with store.view() as view:
        for path, fd in files:
            if os.fstat(fd).st_size > MAX_FILE:
                notes.append(f"{path}: too large to be rewritten")
                continue
            try:
                key, digest, _ = _read(fd, keep=False)
                if store.find_hash(view, digest) is not None:
                    done.append(Item(key, digest, None))
                    continue
                key, digest, memfd = _read(fd, keep=True)
                snapshots.append((path, key, digest, memfd))
            except OSError as e:
                notes.append(f"{path}: {(e.strerror or str(e)).lower()}")
    try:
        own = workshop or Workshop()
        try:
            answers = own.analyse([memfd for _, _, _, memfd in snapshots]) if snapshots else []
        finally:
            if workshop is None:
                own.close()
        for (path, key, digest, memfd), answer in zip(snapshots, answers, strict=True):
            try:
                done.append(Item(key, digest, _image(memfd, answer, digest)))
            except ElfError as e:
                notes.append(f"{path}: {e.message}")
    finally:
        for _, _, _, memfd in snapshots:
            os.close(memfd)
    if done:
        store.publish(done)
    return notes


def _image(memfd: int, answer: Any, digest: bytes) -> bytes | None:
    """The image for a snapshot and what a worker said about it. Raises ElfError where the two do not fit."""
    import mmap

    from .analysis import Site
    from .image import MAX_SITES, image_of

    if "error" in answer:
        raise ElfError(str(answer["error"])[:200])
    raw = answer["sites"]
    sites = []
    for row in raw if len(raw) <= MAX_SITES else ():
        numbers = row[:5] if isinstance(row, list) and len(row) == 6 else ()
        if len(numbers) != 5 or not all(type(n) is int and -1 <= n < 1 << 48 for n in numbers):
            raise ElfError("analysis gave a malformed site")
        sites.append(Site(*numbers))
    if not sites:
        return None
    with mmap.mmap(memfd, 0, prot=mmap.PROT_READ) as data:  # sealed: cannot shrink under the mapping
        try:
            return image_of(Elf(data), sites, digest)
        except (error, IndexError, ValueError, OverflowError) as e:
            raise ElfError("analysis gave impossible sites") from e


def _write_back(fd: int, recent: bool) -> None:
    """Leaves no page of the file dirty: what is written to a shared mapping of a page that is so already changes no time, and no
    identity. sync_file_range(2) takes no more than that, but an overlay does nothing for it."""
    import ctypes
    from contextlib import suppress

    libc = ctypes.CDLL(None, use_errno=True)
    libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE_AND_WAIT)
    if recent:
        with suppress(OSError):  # a file system without: nothing of it is ever dirty
            os.fdatasync(fd)


def _read(fd: int, keep: bool) -> tuple[bytes, bytes, int]:
    """Identity and digest of a file that did not change while it was read; with `keep`, a sealed copy (else -1)."""
    import hashlib
    import time

    before = os.fstat(fd)
    age = time.time_ns() - before.st_ctime_ns
    if 0 <= age < MIN_AGE_NS:
        time.sleep((MIN_AGE_NS - age) / 1e9)
    _write_back(fd, recent=age < RECENT_NS)
    digest = hashlib.sha256()
    copy = os.memfd_create("psb-elf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if keep else -1
    try:
        at = 0
        while at < before.st_size and (piece := os.pread(fd, min(CHUNK, before.st_size - at), at)):
            digest.update(piece)
            at += len(piece)
            while keep and piece:
                piece = piece[os.write(copy, piece) :]
        if at != before.st_size or key_of(os.fstat(fd)) != key_of(before):
            raise OSError("changed while it was read")
        if keep:
            fcntl.fcntl(copy, F_ADD_SEALS, SEALED)
    except BaseException:
        if keep:
            os.close(copy)
        raise
    return key_of(before), digest.digest(), copy


def plannable(fd: int) -> bool:
    """Whether a descriptor is of a file worth planning."""
    return looks_like_elf(os.pread(fd, 20, 0))


def entry_of(entries: bytes, key: bytes) -> bytes | None:
    """The whole entry of a key."""
    at = find_entry(entries, key)
    return entries[at : at + ENTRY] if at >= 0 else None
