"""Containers as the state directory knows them: one directory each, with `state.json` and a lock.

    ROOT/                 0700, `--root`
    ROOT/@pending/ID      an empty file while ID is being made or removed; no id can contain `@`
    ROOT/ID/              0711
    ROOT/ID/state.json    0600, replaced atomically, so readers need no lock

Rules that let any verb be killed at any moment:
- A thing is recorded (`Container.record`) before it is made, so whatever exists is in a state file.
- The entry in @pending exists before ROOT/ID does and goes after it is complete or gone, so what has to be looked
  at after a crash is listed there and a healthy state directory costs one `listdir`.
- The creator is recorded by pid and start time. `Store.collect` takes back what belongs to a dead one.

Locks are flock(2) on the directory itself. Order: ROOT (brief, only for making and collecting), then ROOT/ID. They
are released with LOCK_UN, not by closing, because a forked child shares the descriptor until it executes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from pysandbox.oci import jsontext
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import (
    ConfigError,
    ContainerExists,
    ContainerIdError,
    ContainerNotFound,
    StateError,
    host_reason,
)
from pysandbox.oci.undo import KINDS, alive, process_start, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any, Self

VERSION = 1
DEFAULT_ROOT = "/run/pysandbox"
STATE_NAME = "state.json"
PENDING = "@pending"
ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")
ID_MAX = 255
"""NAME_MAX: an id is a directory name."""

LOCK_PATIENCE = 10.0
"""Seconds a verb waits for another one that works on the same container."""

_MAX_STATE = 4 << 20
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


# --- what is stored -----------------------------------------------------------------------------------------


class ProcessId(Struct):
    """A process for ever: pid in the host's namespace and start time in clock ticks since boot."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Still running, and not as a zombie."""
        return alive(self.pid, self.start)

    @staticmethod
    def of(pid: int) -> ProcessId:
        """The process that has this pid now. `StateError` if none has."""
        now = process_start(pid)
        if now is None:
            raise StateError(f"process {pid} does not exist", errno=errno.ESRCH)
        return ProcessId(pid=pid, start=now[1])


class Made(Struct):
    """One thing to take back. `kind`: process (pid, start), cgroup, cgroup-above (removed when empty), mount, file,
    directory (absolute path), unit (of systemd, its name as if it were a path)."""

    kind: str
    path: str = ""
    pid: int = 0
    start: int = 0


class State(Struct):
    """What state.json holds.

    `phase`: creating, created, started or deleting; `status` derives the specification's status from it.
    `created`: RFC 3339, UTC, nanoseconds. `owner`: the runtime process at work on it, while creating,
    starting or deleting. `init`: the container's first process. `made`: in the order of making. `data`: JSON that
    later verbs need (their own business).
    """

    id: str
    phase: str
    oci_version: str
    bundle: str
    rootfs: str
    created: str
    annotations: Mapping[str, str]
    owner: ProcessId | None = None
    init: ProcessId | None = None
    made: tuple[Made, ...] = ()
    data: Mapping[str, Any]

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped (runtime.md, "State"; paused as runc has it)."""
        if self.init is None:
            owner = self.owner
            return "creating" if self.phase == "creating" and owner is not None and owner.alive else "stopped"
        if not self.init.alive:
            return "stopped"
        if self.phase == "creating":
            return self.phase
        if any(m.kind == "cgroup" and _frozen(m.path) for m in self.made):
            return "paused"
        return "created" if self.phase == "created" else "running"

    @property
    def pid(self) -> int:
        """Of the first process, in the host's namespace; 0 when stopped."""
        return self.init.pid if self.init is not None and self.init.alive else 0

    def oci(self) -> dict[str, Any]:
        """The state that hooks get on their standard input (runtime.md, "State")."""
        out: dict[str, Any] = {"ociVersion": self.oci_version, "id": self.id, "status": self.status}
        if pid := self.pid:
            out["pid"] = pid
        out["bundle"] = self.bundle
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return out

    def report(self) -> dict[str, Any]:
        """What `state` and `list` print: runc's properties in runc's order."""
        out: dict[str, Any] = {
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": self.pid,
            "status": self.status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
        }
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        out["owner"] = ""
        return out


def _frozen(cgroup: str) -> bool:
    """Freezer of cgroup v1 (also on its way: FREEZING) or v2; a directory of another controller has neither."""
    for name in ("freezer.state", "cgroup.freeze"):
        try:
            with open(os.path.join(cgroup, name), "rb", buffering=0) as f:
                word = f.read(32).strip()
        except OSError:
            continue
        return word in (b"FROZEN", b"FREEZING", b"1")
    return False


def encode(state: State) -> bytes:
    """state.json."""

    def process(p: ProcessId | None) -> list[int] | None:
        return None if p is None else [p.pid, p.start]

    return jsontext.dump(
        {
            "version": VERSION,
            "id": state.id,
            "phase": state.phase,
            "ociVersion": state.oci_version,
            "bundle": state.bundle,
            "rootfs": state.rootfs,
            "created": state.created,
            "annotations": dict(state.annotations),
            "owner": process(state.owner),
            "init": process(state.init),
            "made": [[m.kind, m.pid, m.start] if m.kind == "process" else [m.kind, m.path] for m in state.made],
            "data": dict(state.data),
        }
    ).encode()


def decode(data: bytes, container_id: str) -> State:
    """The inverse of `encode`; `StateError` for whatever `encode` would not write."""
    try:
        o = jsontext.parse(data, STATE_NAME)
        if o.get("version") != VERSION:
            raise _Damaged(f"version {o.get('version')!r}, expected {VERSION}")
        if o["id"] != container_id:
            raise _Damaged("it is another container's")
        if o["phase"] not in ("creating", "created", "started", "deleting"):
            raise _Damaged("unknown phase")
        texts = {key: _text(o[key]) for key in ("ociVersion", "bundle", "rootfs", "created")}
        annotations, extra, made = o["annotations"], o["data"], o["made"]
        if not isinstance(extra, dict) or not isinstance(annotations, dict) or not isinstance(made, list):
            raise _Damaged("annotations, data or made is of the wrong type")
        return State(
            id=container_id,
            phase=o["phase"],
            oci_version=texts["ociVersion"],
            bundle=texts["bundle"],
            rootfs=texts["rootfs"],
            created=texts["created"],
            annotations={key: _text(value) for key, value in annotations.items()},
            owner=_process(o.get("owner")),
            init=_process(o.get("init")),
            made=tuple([_made(m) for m in made]),
            data=extra,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise StateError(f"state of container {container_id} is damaged: {e}") from None
    except ConfigError as e:
        raise StateError(f"state of container {container_id} is damaged: {e.message}") from None


class _Damaged(ValueError):
    """Said by the parts of `decode`."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Damaged("expected a string")
    return value


def _number(value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise _Damaged("expected a number")
    return value


def _process(value: object) -> ProcessId | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise _Damaged("expected a list")
    pid, start = value
    return ProcessId(pid=_number(pid, 2), start=_number(start, 0))


def _made(value: object) -> Made:
    if not isinstance(value, list):
        raise _Damaged("expected a list")
    kind, *rest = value
    if kind not in KINDS:
        raise _Damaged("unknown kind of thing made")
    if kind == "process":
        pid, start = rest
        return Made(kind=kind, pid=_number(pid, 2), start=_number(start, 0))
    (path,) = rest
    if not _text(path).startswith("/") or ".." in path.split("/"):
        raise _Damaged("expected a clean absolute path")
    return Made(kind=kind, path=path)


# --- ids and places -----------------------------------------------------------------------------------------


def check_id(container_id: str) -> None:
    """`ContainerIdError` unless this is an id: runc's characters, not `.` or `..`, at most `ID_MAX` of them."""
    if not container_id:
        raise ContainerIdError("container id cannot be empty")
    if len(container_id) > ID_MAX:
        raise ContainerIdError(f"invalid id format: longer than {ID_MAX} characters")
    if container_id in (".", "..") or not ID_CHARACTERS.issuperset(container_id):
        raise ContainerIdError(f"invalid id format: {container_id!r}")


def default_root() -> str:
    """/run/pysandbox for root; below $XDG_RUNTIME_DIR, where there is one, for others."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime_dir.startswith("/"):
        from pysandbox.oci.userns import is_users_own

        if is_users_own():
            return os.path.join(runtime_dir, "pysandbox")
    return DEFAULT_ROOT


def now() -> str:
    """RFC 3339, UTC, nanoseconds."""
    ns = time.time_ns()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ns // 10**9))}.{ns % 10**9:09d}Z"


# --- one container ------------------------------------------------------------------------------------------


class Container:
    """A container whose lock is held. A context manager: leaving it releases the lock.

    Left by an exception while still `creating`, it takes everything back first.
    """

    def __init__(self, store: Store, fd: int, state: State) -> None:
        self._store = store
        self._fd = fd
        self._pid = os.getpid()
        self.state = state
        self.path = os.path.join(store.root, state.id)

    @property
    def id(self) -> str:
        """The container's id."""
        return self.state.id

    @property
    def root(self) -> str:
        """The state directory that the container is in."""
        return self._store.root

    @property
    def directory(self) -> int:
        """Descriptor of the container's state directory, while it is held."""
        return self._fd

    def begin(self) -> None:
        """Something is begun that a later command must look at if this process dies before `commit`."""
        self._store._mark(self.id)
        self.update(owner=ProcessId.of(os.getpid()))

    def update(self, **changes: Any) -> None:
        """Replaces fields of the state, on disk before in memory. `StateError`, and then nothing has changed."""
        new = self.state.replace(**changes)
        _write(self._fd, new)
        self.state = new

    def record(self, *made: Made) -> None:
        """To be called before these things are made."""
        self.update(made=self.state.made + made)

    def forget(self, *made: Made) -> None:
        """To be called after these things were taken back."""
        self.update(made=tuple([m for m in self.state.made if m not in made]))

    def set_init(self, pid: int) -> None:
        """Records the container's first process, which must not get going before this returns."""
        init = ProcessId.of(pid)
        self.update(init=init, made=(*self.state.made, Made(kind="process", pid=init.pid, start=init.start)))

    def commit(self, phase: str = "created", *made: Made) -> None:
        """Making is over: `created` (or `started`, for `run`). From here on the creator's death means nothing. `made`:
        what was made last, and goes by itself if this is not reached."""
        self.update(phase=phase, owner=None, made=self.state.made + made)
        self._store._settled(self.id)

    def destroy(self) -> None:
        """Takes everything back, the directory included. `StateError` for what stays; then it can be repeated."""
        self._store._mark(self.id)
        try:
            self.update(phase="deleting", owner=ProcessId.of(os.getpid()))
        except StateError as e:
            # A full disk must not prevent the removal that frees it; killed now, this can be repeated by hand.
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        self._take_back()

    def _take_back(self) -> None:
        problems: list[StateError] = []
        groups = [made.path for made in self.state.made if made.kind == "cgroup"]
        for made in reversed(self.state.made):
            try:
                undo(made, groups)
            except StateError as e:
                problems.append(e)
        if problems:
            raise problems[0]
        _remove_directory(self._store.root, self._fd, self.id)
        self._store._settled(self.id)

    def release(self) -> None:
        """Gives the lock back; repeating it is harmless. In a forked child it only closes the descriptor."""
        if self._fd >= 0:
            if os.getpid() == self._pid:
                _unlock(self._fd)
            else:
                os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A forked child that leaves by an exception has no say in this.
            mine = self._fd >= 0 and os.getpid() == self._pid
            if error is not None and mine and self.state.phase == "creating":
                # No state is written on this way out: a full disk may be the reason for it.
                self._take_back()
        except StateError as e:
            if error is None:
                raise
            error.add_note(e.message)
        finally:
            self.release()


# --- all of them --------------------------------------------------------------------------------------------


class Store:
    """The state directory. Nothing is created before the first container is."""

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root or default_root())

    def create(
        self,
        container_id: str,
        *,
        bundle: str,
        rootfs: str,
        oci_version: str,
        annotations: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Container:
        """A new container in phase `creating`, locked. `ContainerExists`, `ContainerIdError`, `StateError`.

        `data` is JSON; a null in it will be absent when it is read again.
        """
        check_id(container_id)
        self.collect()
        state = State(
            id=container_id,
            phase="creating",
            oci_version=oci_version,
            bundle=bundle,
            rootfs=rootfs,
            created=now(),
            annotations=annotations or {},
            owner=ProcessId.of(os.getpid()),
            data=data or {},
        )
        self._make_root()
        # Held over all of this, so that `collect` never meets a directory whose state.json is still to come.
        root_fd = self._lock_root()
        try:
            if os.path.lexists(os.path.join(self.root, container_id)):
                raise ContainerExists(container_id)
            self._mark(container_id)
            try:
                fd = self._make_directory(container_id, root_fd)
                try:
                    _write(fd, state)
                except BaseException:
                    _remove_directory(self.root, fd, container_id)
                    _unlock(fd)
                    raise
            except BaseException:
                self._settled(container_id)
                raise
        finally:
            _unlock(root_fd)
        return Container(self, fd, state)

    def open(self, container_id: str, *, patience: float = LOCK_PATIENCE) -> Container:
        """An existing container, locked. `ContainerNotFound`; `StateError` if another verb keeps it too long."""
        check_id(container_id)
        fd = self._open_directory(container_id)
        try:
            if not _lock(fd, patience):
                raise StateError(f"container {container_id} is busy: another command works on it", errno=errno.EBUSY)
            # The directory may have been removed, and one of the same name made, while this waited.
            if not _same(fd, os.path.join(self.root, container_id)):
                raise ContainerNotFound(container_id)
            return Container(self, fd, _read(fd, container_id))
        except BaseException:
            _unlock(fd)
            raise

    def load(self, container_id: str) -> State:
        """The state as last written, without a lock. `ContainerNotFound`, `StateError`."""
        check_id(container_id)
        fd = self._open_directory(container_id)
        try:
            return _read(fd, container_id)
        finally:
            os.close(fd)

    def ids(self) -> list[str]:
        """All ids, sorted; a directory without a state is no container."""
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        except OSError as e:
            raise self._error("read", e) from None
        return sorted(
            n for n in names if ID_CHARACTERS.issuperset(n) and os.path.exists(os.path.join(self.root, n, STATE_NAME))
        )

    def collect(self) -> list[str]:
        """Takes back what commands that died left half made or half removed; the ids. Never raises for one of them.

        What cannot be taken back now (another command holds it, the state is damaged, a process does not die)
        stays listed for the next command.
        """
        try:
            names = os.listdir(os.path.join(self.root, PENDING))
        except OSError:  # nothing was ever pending here, or this user may not look
            return []
        done: list[str] = []
        for name in names:
            if ID_CHARACTERS.issuperset(name) and name not in (".", ".."):
                try:
                    if self._collect_one(name):
                        done.append(name)
                except StateError:
                    continue
        return done

    def _collect_one(self, container_id: str) -> bool:
        root_fd = self._lock_root()
        try:
            try:
                fd = self._open_directory(container_id)
            except ContainerNotFound:
                # Died before the directory was made, or after it was removed.
                self._settled(container_id)
                return False
            if not _lock(fd, 0):
                # Its owner works, or a child of a dead owner lives: that one is in the record.
                os.close(fd)
                return self._kill_leftovers(container_id)
        finally:
            _unlock(root_fd)
        try:
            try:
                state = _read(fd, container_id)
            except ContainerNotFound:
                # Died between directory and state.json: nothing else was made yet.
                _remove_directory(self.root, fd, container_id)
                self._settled(container_id)
                return True
            if state.owner is not None and state.owner.alive:
                return False
            if state.phase in ("created", "started"):
                # Died just before doing this itself, or in `start`: then the process knows whether it was released.
                if state.phase == "created" and state.owner is not None:
                    from pysandbox.runtime import launch_release

                    phase = "created" if launch_release.ask(fd) else "started"
                    _write(fd, state.replace(phase=phase, owner=None))
                self._settled(container_id)
                return False
            Container(self, fd, state)._take_back()
            return True
        finally:
            _unlock(fd)

    def _kill_leftovers(self, container_id: str) -> bool:
        """The lock of a dead owner is kept by a child that shares its descriptor: kill it, then try again."""
        owner = self.load(container_id).owner
        if owner is None or owner.alive:
            return False
        # Read again: the owner may have finished its work and ended between the two steps above. The dead write no more.
        state = self.load(container_id)
        if state.phase in ("created", "started") or state.owner != owner:
            return False
        killed = False
        for made in state.made:
            if made.kind in ("process", "cgroup"):
                undo(made)
                killed = True
        if not killed:
            return False
        with self.open(container_id, patience=1.0) as container:
            container._take_back()
        return True

    # -- the directory itself

    def _error(self, what: str, error: OSError) -> StateError:
        return StateError(f"cannot {what} state directory {self.root}: {host_reason(error.errno)}", errno=error.errno)

    def _make_root(self) -> None:
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            os.makedirs(os.path.join(self.root, PENDING), mode=0o700, exist_ok=True)
        except OSError as e:
            raise self._error("make", e) from None

    def _lock_root(self) -> int:
        try:
            fd = os.open(self.root, _DIR_FLAGS & ~os.O_NOFOLLOW)
        except OSError as e:
            raise self._error("open", e) from None
        if not _lock(fd, LOCK_PATIENCE):
            os.close(fd)
            raise StateError(f"state directory {self.root} is busy", errno=errno.EBUSY)
        return fd

    def _open_directory(self, container_id: str) -> int:
        try:
            return os.open(os.path.join(self.root, container_id), _DIR_FLAGS)
        except FileNotFoundError:
            raise ContainerNotFound(container_id) from None
        except OSError as e:
            raise StateError(f"container {container_id}: {host_reason(e.errno)}", errno=e.errno) from None

    def _make_directory(self, container_id: str, root_fd: int) -> int:
        """Made and locked; the caller holds the root's lock, so nobody else can have locked it first."""
        try:
            os.mkdir(container_id, 0o711, dir_fd=root_fd)
            try:
                fd = os.open(container_id, _DIR_FLAGS, dir_fd=root_fd)
            except OSError:
                os.rmdir(container_id, dir_fd=root_fd)
                raise
            os.fchmod(fd, 0o711)  # whatever the umask made of it
        except FileExistsError:
            raise ContainerExists(container_id) from None
        except OSError as e:
            raise StateError(f"make state of container {container_id}: {host_reason(e.errno)}", errno=e.errno) from None
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def _mark(self, container_id: str) -> None:
        path = os.path.join(self.root, PENDING, container_id)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError as e:
            # Removing must work on a full disk; making must not begin without the mark.
            if e.errno not in (errno.ENOSPC, errno.EDQUOT) or not os.path.lexists(
                os.path.join(self.root, container_id, STATE_NAME)
            ):
                raise self._error("write to", e) from None

    def _settled(self, container_id: str) -> None:
        try:
            os.unlink(os.path.join(self.root, PENDING, container_id))
        except FileNotFoundError:
            pass
        except OSError as e:
            raise self._error("write to", e) from None


def _lock(fd: int, patience: float) -> bool:
    """Exclusive flock; False if it is still held by somebody else after `patience` seconds."""
    deadline = time.monotonic() + patience
    pause = 0.001
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _same(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _write(fd: int, state: State) -> None:
    """Replaces state.json in the directory `fd`; on failure the old one is untouched and nothing is left."""
    data = encode(state)
    # One writer at a time (the lock), so one name will do, and a left-over of a killed one is overwritten.
    temporary = STATE_NAME + ".new"
    try:
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=fd)
        try:
            # With blocks still to be allocated ext4 would write it to the disk when it replaces the old one: a millisecond.
            os.posix_fallocate(out, 0, len(data))
            while data:
                data = data[os.write(out, data) :]
        finally:
            os.close(out)
        os.rename(temporary, STATE_NAME, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError as e:
        try:
            os.unlink(temporary, dir_fd=fd)
        except FileNotFoundError:
            pass
        raise StateError(f"write state of container {state.id}: {host_reason(e.errno)}", errno=e.errno) from None


def _read(fd: int, container_id: str) -> State:
    """`ContainerNotFound` if the directory has no state.json; `StateError` if it is not one of ours."""
    try:
        file = os.open(STATE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    except FileNotFoundError:
        raise ContainerNotFound(container_id) from None
    except OSError as e:
        raise StateError(f"read state of container {container_id}: {host_reason(e.errno)}", errno=e.errno) from None
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_STATE:
            raise StateError(f"state of container {container_id} is damaged: not a file of this program's")
        # It names processes to kill and directories to remove: whoever can write it has this user's rights.
        if info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
            raise StateError(f"state of container {container_id} is not trusted: others may write to it")
        return decode(jsontext.read_fd(file, STATE_NAME, info.st_size), container_id)
    finally:
        os.close(file)


def _remove_directory(root: str, fd: int, container_id: str) -> None:
    """Empties ROOT/ID, state.json last, and removes it. Subdirectories are not followed: they must be recorded."""
    try:
        names = os.listdir(fd)
        for name in sorted(names, key=lambda n: n == STATE_NAME):
            os.unlink(name, dir_fd=fd)
        os.rmdir(os.path.join(root, container_id))
    except OSError as e:
        raise StateError(f"remove state of container {container_id}: {host_reason(e.errno)}", errno=e.errno) from None
