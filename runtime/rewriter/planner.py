"""Plans what a running container maps without a plan: the far end of PSB_FD_PLANNER.

One planner per container, best run in a process of its own at low priority and in the container's cgroup, so that a
guest that maps a thousand strange files pays for it itself. Requests come from monitors, files from the guest; both are
treated as hostile: the identity comes from the descriptor, never from the message.
"""

from __future__ import annotations

import mmap
import os
import select
import stat
from struct import pack
from time import monotonic
from typing import TYPE_CHECKING

from .. import abi
from .plans import entry_of, plan_files, plannable
from .store import CAPACITY, ENTRY, HEADER, Store, find_entry, key_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from .confine import Workshop

O_ACCMODE_PATH = os.O_ACCMODE | os.O_PATH
LINGER = 60.0
"""Seconds after the end of whoever asked, in which what was asked for is still begun."""


class LiveIndex:
    """The index of a running container, through a writable descriptor of its memfd. One writer at a time."""

    def __init__(self, fd: int) -> None:
        self.map = mmap.mmap(fd, HEADER + CAPACITY * ENTRY)

    @property
    def count(self) -> int:
        return min(abi.PlanIndex.unpack(self.map[:HEADER]).count, CAPACITY)

    def has(self, key: bytes) -> bool:
        return find_entry(self.map[HEADER : HEADER + self.count * ENTRY], key) >= 0

    def append(self, entry: bytes) -> bool:
        """Publishes an entry; False if the index is full."""
        count = self.count
        if count >= CAPACITY:
            return False
        at = HEADER + count * ENTRY
        self.map[at : at + ENTRY] = entry
        # Readers look at `count` first. The store below is one aligned 8-byte copy, and x86 keeps stores in order.
        offset = abi.PlanIndex.OFFSET["count"]
        self.map[offset : offset + 8] = pack("<Q", count + 1)
        return True

    def close(self) -> None:
        self.map.close()


def serve(
    sock: socket,
    index_fd: int,
    store: Store | None = None,
    *,
    idle: float | None = None,
    log: Callable[[str], None] | None = None,
) -> bool:
    """Answers requests until the peer closes. `index_fd`: `PlanSet.writer_fd`. `log` gets a line per file not planned.

    Returns False when the socket reports end of file (SOCK_SEQPACKET, SOCK_STREAM), an empty datagram, or a closed peer;
    True after `idle` seconds without a request.
    """
    from .confine import Workshop

    planner = _Planner(LiveIndex(index_fd), store or Store(), log)
    sock.settimeout(idle)
    last = 0.0
    try:
        with Workshop() as workshop:
            while planner.one(sock, workshop) and not (last and monotonic() > last):
                if not last and _peer_is_gone(sock):
                    last = monotonic() + LINGER
        return False
    except TimeoutError:
        return True
    finally:
        planner.index.close()


def _peer_is_gone(sock: socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))  # POLLHUP is always looked for


class _Planner:
    def __init__(self, index: LiveIndex, store: Store, log: Callable[[str], None] | None) -> None:
        self.index = index
        self.store = store
        self.log = log

    def one(self, sock: socket, workshop: Workshop) -> bool:
        """Serves one request; False at the end."""
        from socket import recv_fds

        try:
            message, fds, _, _ = recv_fds(sock, abi.PlanWanted.SIZE, 4)
        except (ConnectionResetError, InterruptedError):
            return False
        try:
            if not message:
                return False
            if len(message) == abi.PlanWanted.SIZE and len(fds) == 1:
                self.plan(fds[0], workshop)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def plan(self, fd: int, workshop: Workshop) -> None:
        """Makes the index know this file. What fails is entered as having nothing to patch: nobody asks twice."""
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or _flags(fd) & O_ACCMODE_PATH != os.O_RDONLY:
            return
        key = key_of(st)
        if self.index.has(key):
            return
        entry = None
        try:
            if plannable(fd):
                entry = self._stored(key)
                if entry is None:
                    # Many containers may meet the same file for the first time together.
                    with self.store.turn(key):
                        entry = self._stored(key)
                        if entry is None:
                            for note in plan_files(self.store, [(f"inode {st.st_ino}", fd)], workshop):
                                self._note(note)
                            entry = self._stored(key)
        except OSError as e:
            self._note(f"inode {st.st_ino}: {(e.strerror or str(e)).lower()}")
        if not self.index.append(entry or key + pack("<QQ", 0, 0)):
            self._note("plan index of the container is full")

    def _stored(self, key: bytes) -> bytes | None:
        with self.store.view() as view:
            return entry_of(view.entries, key)

    def _note(self, line: str) -> None:
        if self.log is not None:
            self.log(line)


def _flags(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL)
