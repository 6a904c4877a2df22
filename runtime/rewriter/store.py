"""The plan store: patched images by content, and the identities of files already seen.

A store is a directory per version of the rewriter, so that a new rewriter never serves old plans:

    v1.1/lock      taken (flock) by whoever writes
    v1.1/store     one page of header, then page-aligned images; what monitors map (read-only)
    v1.1/index     struct psb_plan_index and entries: identity -> image; copied as it is into a container's index.
                   Its field `reserved` holds the length of `store` up to which images are complete
    v1.1/hashes    struct: sha256, offset, length of the image (0, 0: nothing to patch)

Writers may be killed at any time, and the machine may stop: an image is written and flushed before a record names it,
an entry before the count that covers it. What is half-written lies behind the end of what is published and is
overwritten. A damaged directory, or one that has grown too large, is renamed away and begun anew; who has files of it
open keeps them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from _struct import Struct, pack

from .. import abi
from .elf import PAGE, page_up

REWRITER_VERSION = 2  # changes whenever the same file would be given another image
CAPACITY = 4096  # entries of an index, in the store and in memory
KEEP_ENTRIES = 2048  # that survive when an index is full
MAX_STORE = 2 << 30  # bytes
STORE_MAGIC = b"PBPLANS1"
HEADER = abi.PlanIndex.SIZE
ENTRY = abi.PlanIndexEntry.SIZE
KEY = abi.PlanKey.SIZE
_HASH = Struct("<32sQQ")
_U64 = Struct("<Q")


Place = tuple[int, int]  # offset and length of an image in the store file; (0, 0): the file needs no patch


class Item:
    """What `publish` stores: the identity of a file, its digest, and its image (None: nothing to patch)."""

    __slots__ = ("image", "key", "sha256")

    def __init__(self, key: bytes, sha256: bytes, image: bytes | None) -> None:
        self.key = key
        self.sha256 = sha256
        self.image = image


def default_root() -> str:
    """`PSB_PLAN_DIR`, or /var/lib/pysandbox/plans for root, or the user's cache directory."""
    if chosen := os.environ.get("PSB_PLAN_DIR"):
        return chosen
    from pysandbox.oci.userns import is_users_own

    if not is_users_own():
        return "/var/lib/pysandbox/plans"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "pysandbox", "plans")


def key_of(st: os.stat_result) -> bytes:
    """A file's identity as struct psb_plan_key. A guest cannot set ctime."""
    return abi.PlanKey.pack(
        dev=st.st_dev, ino=st.st_ino, size=st.st_size, mtime_ns=_u64(st.st_mtime_ns), ctime_ns=_u64(st.st_ctime_ns)
    )


def _u64(n: int) -> int:
    return n & (1 << 64) - 1


def index_header(count: int, reserved: int = 0) -> bytes:
    return abi.PlanIndex.pack(
        magic=abi.PLAN_INDEX_MAGIC, version=abi.ABI_VERSION, capacity=CAPACITY, count=count, reserved=reserved
    )


class View:
    """A consistent state of the store, read at one moment: `entries` of the index and the `store_fd` they point into.

    Both descriptors are the caller's.
    """

    __slots__ = ("dir_fd", "entries", "store_fd")

    def __init__(self, dir_fd: int, store_fd: int, entries: bytes) -> None:
        self.dir_fd = dir_fd
        self.store_fd = store_fd
        self.entries = entries

    def lookup(self, key: bytes) -> bool:
        """Whether this identity is planned."""
        return find_entry(self.entries, key) >= 0

    def __enter__(self) -> View:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.dir_fd)
        os.close(self.store_fd)


class Turn:
    """A lock for the time of a `with`. Not by contextlib, whose import takes longer than a container's first plan."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            os.close(self._fd)
            raise

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def find_entry(entries: bytes | bytearray, key: bytes) -> int:
    """Offset of the entry with this key, or -1."""
    at = entries.find(key)
    while at >= 0 and at % ENTRY:
        at = entries.find(key, at + 1)
    return at


class Store:
    """The store under `root` (default: `default_root()`). Safe to use from many processes at once."""

    def __init__(self, root: str | None = None) -> None:
        self.root = root or default_root()
        self.name = f"v{abi.ABI_VERSION}.{REWRITER_VERSION}"
        self.path = os.path.join(self.root, self.name)

    # -- reading --------------------------------------------------------------------------------

    def view(self) -> View:
        """Opens the store, making or mending it first where necessary. Raises OSError (no space, no permission)."""
        for _ in range(3):
            found = self._open()
            if found is not None:
                return found
            self.begin_anew()
        raise OSError(errno.EIO, "plan store cannot be kept in order", self.path)

    def _open(self) -> View | None:
        """None: missing or damaged."""
        try:
            dir_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        store_fd = index_fd = -1
        try:
            store_fd = os.open("store", os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
            index_fd = os.open("index", os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
            entries = _checked_index(index_fd, store_fd)
        except FileNotFoundError:
            entries = None
        finally:
            if index_fd >= 0:
                os.close(index_fd)
        if entries is None:
            os.close(dir_fd)
            if store_fd >= 0:
                os.close(store_fd)
            return None
        return View(dir_fd, store_fd, entries)

    def find_hash(self, view: View, sha256: bytes) -> Place | None:
        """The image of a file with this content; None: not known (or its record does not hold)."""
        from .image import check_header

        try:
            with open(os.open("hashes", os.O_RDONLY | os.O_CLOEXEC, dir_fd=view.dir_fd), "rb") as f:
                raw = f.read()
        except FileNotFoundError:
            return None
        at = raw.find(sha256)
        while at >= 0 and at % _HASH.size:
            at = raw.find(sha256, at + 1)
        if at < 0 or at + _HASH.size > len(raw):
            return None
        _, offset, length = _HASH.unpack_from(raw, at)
        if offset == 0:
            return (0, 0) if length == 0 else None
        if offset % PAGE or offset + length > os.fstat(view.store_fd).st_size:
            return None
        image = check_header(os.pread(view.store_fd, abi.PlanImage.SIZE, offset), length)
        return (offset, length) if image is not None and image.sha256 == sha256 else None

    # -- writing --------------------------------------------------------------------------------

    def turn(self, key: bytes) -> Turn:
        """A context in which nobody else is in the turn of the same file; of another file perhaps, so that there are never more
        analyses under way on this machine than half of its CPUs."""
        turns = max(1, (os.cpu_count() or 1) // 2)
        with self.view() as view:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            return Turn(os.open(f"turn{sum(key) % turns}", flags, 0o600, dir_fd=view.dir_fd))

    def publish(self, items: list[Item]) -> list[Place]:
        """Stores images and identities; places in order of the items. Content already stored is not stored again.

        Raises OSError, for instance without space; nothing is published then.
        """
        with _Locked(self) as dir_fd:
            store_fd = os.open("store", os.O_RDWR | os.O_CLOEXEC, dir_fd=dir_fd)
            index_fd = os.open("index", os.O_RDWR | os.O_CLOEXEC, dir_fd=dir_fd)
            hashes_fd = os.open("hashes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
            try:
                return self._publish(items, View(dir_fd, store_fd, b""), index_fd, hashes_fd)
            finally:
                for fd in (store_fd, index_fd, hashes_fd):
                    os.close(fd)

    def _publish(self, items: list[Item], view: View, index_fd: int, hashes_fd: int) -> list[Place]:
        head = abi.PlanIndex.unpack(os.pread(index_fd, HEADER, 0))
        end = head.reserved
        places: list[Place] = []
        records: list[bytes] = []
        fresh: dict[bytes, Place] = {}
        for item in items:
            place = fresh.get(item.sha256) or self.find_hash(view, item.sha256)
            if place is None:
                place = (0, 0)
                if item.image is not None:
                    place = (page_up(end), len(item.image))
                    _write_at(view.store_fd, item.image, place[0])
                    end = sum(place)
                records.append(_HASH.pack(item.sha256, *place))
                fresh[item.sha256] = place
            places.append(place)
        if end != head.reserved:
            os.fdatasync(view.store_fd)  # before anything names it: a lost page would be zeros in somebody's text
            os.pwrite(index_fd, _U64.pack(end), abi.PlanIndex.OFFSET["reserved"])
        size = os.fstat(hashes_fd).st_size
        _write_at(hashes_fd, b"".join(records), size - size % _HASH.size)
        entries = os.pread(index_fd, head.count * ENTRY, HEADER)
        new = [item.key + pack("<QQ", *place) for item, place in zip(items, places, strict=True)]
        self._append(view.dir_fd, index_fd, entries, [e for e in new if find_entry(entries, e[:KEY]) < 0], end)
        return places

    @staticmethod
    def _append(dir_fd: int, index_fd: int, entries: bytes, new: list[bytes], end: int) -> None:
        count = len(entries) // ENTRY
        if not new:
            return
        if count + len(new) <= CAPACITY:
            _write_at(index_fd, b"".join(new), HEADER + count * ENTRY)
            os.pwrite(index_fd, _U64.pack(count + len(new)), abi.PlanIndex.OFFSET["count"])
            return
        # Full: the newest identities go on in a new file; containers that run have copies of their own.
        kept = (entries + b"".join(new))[-KEEP_ENTRIES * ENTRY :]
        fd = os.open("index.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
        try:
            _write_at(fd, index_header(len(kept) // ENTRY, end) + kept, 0)
        finally:
            os.close(fd)
        os.rename("index.new", "index", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def _usable(self) -> bool:
        view = self._open()
        if view is not None:
            view.close()
        return view is not None

    def begin_anew(self, overgrown: bool = False) -> None:
        """Puts an empty store in place of a missing, damaged or overgrown one."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        unique = f"{os.getpid()}.{os.urandom(4).hex()}"
        old, new = (os.path.join(self.root, f"{kind}.{unique}") for kind in ("old", "new"))
        os.mkdir(new, 0o700)
        try:
            for name, content in (
                ("lock", b""),
                ("store", STORE_MAGIC.ljust(PAGE, b"\0")),
                ("index", index_header(0, PAGE)),
                ("hashes", b""),
            ):
                fd = os.open(os.path.join(new, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    _write_at(fd, content, 0)
                finally:
                    os.close(fd)
            if overgrown or not self._usable():
                try:
                    os.rename(self.path, old)
                except FileNotFoundError:
                    pass  # there was none
            os.rename(new, self.path)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # somebody else was faster; theirs is as good
                raise
        finally:
            self._sweep()

    def _sweep(self) -> None:
        """Removes renamed directories, ours and those of processes that were killed."""
        import shutil

        for name in os.listdir(self.root):
            kind, _, rest = name.partition(".")
            pid = rest.partition(".")[0]
            if kind not in ("old", "new") or not pid.isdigit():
                continue
            if kind == "new" and int(pid) != os.getpid() and os.path.exists(f"/proc/{pid}"):
                continue  # being made
            shutil.rmtree(os.path.join(self.root, name), ignore_errors=True)


class _Locked:
    """The store's directory, checked, with the lock held; begun anew first if damaged or too large."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.view: View | None = None
        self.lock = -1

    def __enter__(self) -> int:
        while True:
            view = self.view = self.store.view()
            self.lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=view.dir_fd)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            if _same_directory(view.dir_fd, self.store.path):  # not begun anew while we waited
                if os.fstat(view.store_fd).st_size <= MAX_STORE:
                    return view.dir_fd
                self.store.begin_anew(overgrown=True)
            self.__exit__()

    def __exit__(self, *exc: object) -> None:
        assert self.view is not None
        os.close(self.lock)
        self.view.close()


def _checked_index(index_fd: int, store_fd: int) -> bytes | None:
    """The index's entries; None if index and store do not fit together."""
    raw = os.pread(index_fd, HEADER + CAPACITY * ENTRY, 0)
    if len(raw) < HEADER:
        return None
    head = abi.PlanIndex.unpack(raw)
    if (
        head.magic != abi.PLAN_INDEX_MAGIC
        or head.version != abi.ABI_VERSION
        or head.capacity != CAPACITY
        or head.count > CAPACITY
        or len(raw) < HEADER + head.count * ENTRY
        or head.reserved < PAGE
        or head.reserved > os.fstat(store_fd).st_size
        or os.pread(store_fd, len(STORE_MAGIC), 0) != STORE_MAGIC
    ):
        return None
    return raw[HEADER : HEADER + head.count * ENTRY]


def _same_directory(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _write_at(fd: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)
