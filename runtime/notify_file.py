"""The descriptor an agent gets: a file that answers the requests of a seccomp listener (seccomp_unotify(2)).

The kernel's own listeners belong to calls that the kernel makes. Here monitors make them, and an answer "go on" must lead back
into the monitor, never to a host call with the guest's arguments. So the file is one of FUSE's: a file system of one file,
mounted nowhere, whose ioctl and poll this process answers. Source: linux/fuse.h (version 7.31), linux/seccomp.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Question(Protocol):
        """A call that waits for an answer. `packed`: struct seccomp_data behind pid and flags. The methods say whether it
        still waits."""

        packed: bytes

        def answer(self, value: int, error: int) -> bool: ...
        def go_on(self) -> bool: ...
        def add(self, fd: int, cloexec: bool, last: bool, done: Callable[[int], None], at: int | None) -> bool: ...


_INIT, _GETATTR, _OPEN, _RELEASE, _INTERRUPT, _IOCTL, _POLL = 26, 3, 14, 18, 36, 39, 40
_FORGET, _BATCH_FORGET, _DESTROY = 2, 42, 38
_NOTIFY_POLL = 1
_READ_SIZE = 128 << 10
_DIRECT_IO, _NONSEEKABLE, _NOFLUSH = 1, 4, 32
_SCHEDULE_NOTIFY = 1

_RECV, _SEND, _ID_VALID, _ADDFD, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0x40082104
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_ADDFD_SETFD, _ADDFD_SEND = 1, 2
_POLLIN, _POLLOUT, _POLLHUP = 1, 4, 16
_O_CLOEXEC = 0o2000000
_INT_MAX = 0x7FFFFFFF

class NotifyFile:
    """`fd`: of /dev/fuse. `released`: the agent, and whoever it gave the file to, has closed it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._next = 1
        self._waiting: deque[int] = deque()  # questions nobody has received
        self._known: dict[int, Question] = {}
        self._received: set[int] = set()
        self._readers: deque[int] = deque()  # RECV requests without a question
        self._polled: set[int] = set()
        self._ended = False
        self.released = False

    # --- questions ----------------------------------------------------------------------------------------------------

    def ask(self, question: Question) -> int:
        number, self._next = self._next, self._next + 1
        self._known[number] = question
        self._waiting.append(number)
        if self._readers:
            self._hand_out(self._readers.popleft())
        else:
            self._wake()
        return number

    def forget(self, number: int) -> None:
        """The call was interrupted, or its process has ended."""
        self._known.pop(number, None)
        self._received.discard(number)
        if number in self._waiting:
            self._waiting.remove(number)

    def end(self) -> None:
        """No process is left that could ask."""
        self._ended = True
        while self._readers:
            self._reply(self._readers.popleft(), -errno.ENOENT)
        self._wake()

    def _hand_out(self, unique: int) -> None:
        number = self._waiting.popleft()
        self._received.add(number)
        self._reply_ioctl(unique, 0, struct.pack("<Q", number) + self._known[number].packed)

    # --- FUSE ---------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """One request. OSError (ENODEV) when the file system is gone."""
        request = os.read(self._fd, _READ_SIZE)
        _, opcode, unique, _, _, _, tid, _, _ = struct.unpack_from("<IIQQIIIHH", request)
        body = request[40:]
        if opcode == _INIT:
            flags = struct.pack("<IIIIHHIIHHII24x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0, 0)
            self._reply(unique, 0, flags)
        elif opcode == _OPEN:
            self._reply(unique, 0, struct.pack("<QII", 1, _DIRECT_IO | _NONSEEKABLE | _NOFLUSH, 0))
        elif opcode == _GETATTR:
            attributes = struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o100600, 1, os.geteuid(), 0, 0, 4096, 0)
            self._reply(unique, 0, struct.pack("<QII", 1, 0, 0) + attributes)
        elif opcode == _IOCTL:
            self._ioctl(unique, tid, body)
        elif opcode == _POLL:
            self._poll(unique, body)
        elif opcode == _INTERRUPT:
            (target,) = struct.unpack_from("<Q", body)
            if target in self._readers:
                self._readers.remove(target)
                self._reply(target, -errno.EINTR)
        elif opcode == _RELEASE:
            self.released = True
            self._reply(unique, 0)
        elif opcode == _DESTROY:
            self._reply(unique, 0)
        elif opcode not in (_FORGET, _BATCH_FORGET):
            self._reply(unique, -errno.ENOSYS)

    def _ioctl(self, unique: int, tid: int, body: bytes) -> None:
        _, _, command, _, size, _ = struct.unpack_from("<QIIQII", body)
        data = body[32 : 32 + size]
        if command == _RECV:
            if any(data):
                self._reply(unique, -errno.EINVAL)
            elif self._waiting:
                self._hand_out(unique)
            elif self._ended:
                self._reply(unique, -errno.ENOENT)
            else:
                self._readers.append(unique)
        elif command == _SEND:
            # The structure is written back as it came.
            self._reply_ioctl(unique, self._send(data), data)
        elif command == _ID_VALID:
            (number,) = struct.unpack("<Q", data)
            self._reply_ioctl(unique, 0 if number in self._received else -errno.ENOENT)
        elif command == _ADDFD:
            self._add(unique, tid, data)
        else:
            self._reply_ioctl(unique, -errno.EINVAL)

    def _send(self, data: bytes) -> int:
        number, value, error, flags = struct.unpack("<QqiI", data)
        if flags & ~_CONTINUE or (flags and (value or error)):
            return -errno.EINVAL
        if number not in self._known:
            return -errno.ENOENT
        if number not in self._received:
            return -errno.EINPROGRESS
        question = self._known[number]
        self.forget(number)
        waits = question.go_on() if flags else question.answer(value, error)
        return 0 if waits else -errno.ENOENT

    def _add(self, unique: int, tid: int, data: bytes) -> None:
        """A descriptor of the agent's for the process that asks; with SETFD in place of whatever has this number there."""
        number, flags, source, target, new_flags = struct.unpack("<QIIII", data)
        at = min(target, _INT_MAX) if flags & _ADDFD_SETFD else None
        if flags & ~(_ADDFD_SEND | _ADDFD_SETFD) or (target and at is None) or new_flags & ~_O_CLOEXEC:
            self._reply_ioctl(unique, -errno.EINVAL)
            return
        if number not in self._received:
            self._reply_ioctl(unique, -errno.ENOENT if number not in self._known else -errno.EINPROGRESS)
            return
        try:
            fd = take_descriptor(tid, source)
        except OSError as failed:
            self._reply_ioctl(unique, -(failed.errno or errno.EBADF))
            return
        question, last = self._known[number], bool(flags & _ADDFD_SEND)
        if last:
            self.forget(number)
        try:
            if not question.add(fd, bool(new_flags), last, lambda result: self._reply_ioctl(unique, result), at):
                self._reply_ioctl(unique, -errno.ENOENT)
        finally:
            os.close(fd)

    def _poll(self, unique: int, body: bytes) -> None:
        _, handle, flags, _ = struct.unpack("<QQII", body)
        ready = (_POLLIN if self._waiting else 0) | (_POLLOUT if self._received else 0) | (_POLLHUP if self._ended else 0)
        if flags & _SCHEDULE_NOTIFY:
            self._polled.add(handle)
        self._reply(unique, 0, struct.pack("<II", ready, 0))

    def _wake(self) -> None:
        for handle in self._polled:
            self._write(struct.pack("<IiQQ", 24, _NOTIFY_POLL, 0, handle))
        self._polled.clear()

    def _reply_ioctl(self, unique: int, result: int, data: bytes = b"") -> None:
        self._reply(unique, 0, struct.pack("<iIII", result, 0, 0, 0) + data)

    def _reply(self, unique: int, error: int, data: bytes = b"") -> None:
        self._write(struct.pack("<IiQ", 16 + len(data), error, unique) + data)

    def _write(self, message: bytes) -> None:
        try:
            os.write(self._fd, message)
        except FileNotFoundError:
            pass  # who asked has been interrupted, or is gone


def take_descriptor(tid: int, number: int) -> int:
    """A copy of a descriptor of the process that the thread `tid`, which waits for us, belongs to. `OSError`."""
    from pysandbox.runtime import native

    with open(f"/proc/{tid}/status") as status:
        tgid = next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))
    process = os.pidfd_open(tgid)
    try:
        return native.pidfd_getfd(process, number)
    finally:
        os.close(process)
