"""The process between monitors and the agent of `listenerPath`: one for a container's processes, one for those of each `exec`.

Monitors ask through a socket (struct psb_notify_request), one message a call, with the socket for the answer in it; the agent
receives and answers through a file (`notify_file`). The process ends when the agent has closed its file, upon which calls answer
ENOSYS as the kernel has it, or a little after the last monitor.
"""

from __future__ import annotations

import os
import struct
import time

from pysandbox.runtime import abi
from pysandbox.runtime.notify_file import NotifyFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

SOCKET, FUSE = 3, 4
_FAREWELL = 2.0
"""Seconds in which an agent can learn that nobody asks any more."""


class Question:
    """A call of a guest that waits on the other end of `sock`."""

    def __init__(self, sock: socket, pid: int, request: abi.NotifyRequest) -> None:
        self.sock = sock
        # struct seccomp_notif behind its id: pid, flags, then struct seccomp_data.
        self.packed = struct.pack("<IIiIQ6Q", pid, 0, request.nr, request.arch, request.ip, *request.args)
        self._added: Callable[[int], None] | None = None

    def answer(self, value: int, error: int) -> bool:
        return self._send(abi.NOTIFY_ANSWER, value, error)

    def go_on(self) -> bool:
        return self._send(abi.NOTIFY_CONTINUE, 0, 0)

    def add(self, fd: int, cloexec: bool, last: bool, done: Callable[[int], None], at: int | None) -> bool:
        kind = abi.NOTIFY_ADD_AND_ANSWER if last else abi.NOTIFY_ADD
        how = (abi.NOTIFY_CLOEXEC if cloexec else 0) | (0 if at is None else abi.NOTIFY_AT)
        if not self._send(kind, how, at or 0, fd):
            return False
        self._added = done
        return True

    def _send(self, kind: int, value: int, error: int, *fds: int) -> bool:
        from socket import SCM_RIGHTS, SOL_SOCKET

        data = abi.NotifyAnswer.pack(kind=kind, error=error, value=value)
        rights = [(SOL_SOCKET, SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in fds))] if fds else []
        try:
            self.sock.sendmsg([data], rights, 0x4000)  # MSG_NOSIGNAL
        except OSError:
            return False
        return True

    def told(self) -> bool:
        """The monitor's side has said something: the number of an added descriptor, or that it does not wait any more."""
        try:
            data = self.sock.recv(8)
        except OSError:
            data = b""
        done, self._added = self._added, None
        if done is not None:
            done(int.from_bytes(data, "little", signed=True) if len(data) == 8 else -3)  # ESRCH
        return len(data) == 8


def receive(sock: socket) -> Question | None:
    """The next question; None when no monitor is left. What is not a request is dropped."""
    from socket import SCM_CREDENTIALS, SCM_RIGHTS, SOL_SOCKET, socket

    while True:
        data, ancillary, _, _ = sock.recvmsg(abi.NotifyRequest.SIZE + 1, 256, 0x40000000)  # MSG_CMSG_CLOEXEC
        if not data:
            return None
        fds: list[int] = []
        pid = 0
        for level, kind, value in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds += [int.from_bytes(value[i : i + 4], "little") for i in range(0, len(value) - 3, 4)]
            elif level == SOL_SOCKET and kind == SCM_CREDENTIALS:
                pid = int.from_bytes(value[:4], "little")
        if len(fds) == 1 and len(data) == abi.NotifyRequest.SIZE:
            request = abi.NotifyRequest.unpack(data)
            if request.magic == abi.NOTIFY_MAGIC:
                return Question(socket(fileno=fds[0]), pid, request)
        for fd in fds:
            os.close(fd)


def serve(sock: socket, fuse: int) -> None:
    import select

    file = NotifyFile(fuse)
    questions: dict[int, tuple[int, Question]] = {}  # by the descriptor of its socket
    poll = select.poll()
    poll.register(fuse, select.POLLIN)
    poll.register(sock, select.POLLIN)
    until = 0.0
    while not file.released and not (until and time.monotonic() > until):
        for fd, _ in poll.poll(1000 * _FAREWELL if until else None):
            if fd == fuse:
                file.serve()
            elif fd == sock.fileno():
                question = receive(sock)
                if question is None:
                    poll.unregister(sock)
                    file.end()
                    until = time.monotonic() + _FAREWELL
                else:
                    poll.register(question.sock, select.POLLIN)
                    questions[question.sock.fileno()] = file.ask(question), question
            elif fd in questions:
                number, question = questions[fd]
                if not question.told():
                    file.forget(number)
                    poll.unregister(fd)
                    del questions[fd]
                    question.sock.close()


def main() -> None:
    from socket import SO_PASSCRED, SOL_SOCKET, socket

    os.closerange(FUSE + 1, 1 << 20)  # what the runtime's caller has let it inherit: somebody may wait for its end
    sock = socket(fileno=SOCKET)
    sock.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
    try:
        serve(sock, FUSE)
    except OSError as error:
        if error.errno not in (19, 103, 107):  # ENODEV, ECONNABORTED, ENOTCONN: the file system is gone
            raise
