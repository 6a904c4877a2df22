"""Messages between the launcher and the container process it forked, until the process becomes its program.

A SOCK_SEQPACKET pair, close-on-exec: the end of the stream without an error message is the news that exec happened. One
message is one packet: a kind byte, then text.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, CMSG_LEN, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET, socketpair

from pysandbox.oci import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

ROOT = "R"  # child: all mounts are made; descriptor: the root (O_PATH); text: the program as config.json names it
TERMINAL = "T"  # child: descriptor: master of the container's terminal
STEP = "G"  # child: what it does now; only with --debug
WARNING = "W"  # child: something asked for was not applied
READY = "Y"  # child: all is set up; only the exec is left
MOUNTS = "M"  # child in a user namespace: its mount namespace is made; it waits for SOURCES
SOURCES = "S"  # launcher: descriptors: root, then bind mounts in order; several messages
HOOKS = "H"  # child: everything is mounted, hooks may run; it waits for HOOKED
HOOKED = "D"  # launcher: hooks in the runtime's namespaces have run
NETWORK = "N"  # child: its network namespace is made, it waits for devices of the host; launcher: they are there
JOINED = "J"  # launcher: the process is in its cgroups
LATE = "L"  # launcher: descriptors of launch_plan.LATE_ROLES
PLANS = "P"  # launcher: descriptors: plan index and plan store; go on
ERROR = "E"  # child: class name, errno, status, message, separated by NUL; the child ends after it

_MAX_TEXT = 65536
MAX_FDS = 5


class Channel:
    """One end. Packets are small, so a send never blocks for long; the other end may be gone (see `send`)."""

    def __init__(self, sock: socket, verbose: bool = False) -> None:
        self._sock = sock
        self._verbose = verbose

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, kind: str, text: str = "", fds: tuple[int, ...] = ()) -> None:
        """Raises BrokenPipeError when the other process is gone."""
        payload = (kind + text).encode("utf-8", "surrogateescape")[:_MAX_TEXT]
        ancillary = []
        if fds:
            ancillary.append((SOL_SOCKET, SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in fds)))
        try:
            self._sock.sendmsg([payload], ancillary, 0x4000)  # MSG_NOSIGNAL
        except ConnectionResetError:
            raise BrokenPipeError from None  # the same, said when a message of ours was left unread

    def step(self, text: str) -> None:
        """For the debug log. Where runc tells of the same step its words are in the text: logs are searched for them."""
        if self._verbose:
            self.send(STEP, text)

    def receive(self) -> tuple[str, str, list[int]] | None:
        """(kind, text, descriptors), or None at the end. Waits."""
        for _ in range(2):
            try:
                payload, ancillary, _, _ = self._sock.recvmsg(_MAX_TEXT, CMSG_LEN(4 * MAX_FDS), 0x40000000)  # MSG_CMSG_CLOEXEC
                break
            except ConnectionResetError:
                continue  # said once when the other end left a message of ours unread; what it sent itself is still there
        else:
            return None
        if not payload:
            return None
        fds: list[int] = []
        for level, kind, data in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds += [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data) - 3, 4)]
        text = payload.decode("utf-8", "surrogateescape")
        return text[0], text[1:], fds

    def closed(self) -> bool:
        """True when the other end is gone and nothing from it waits."""
        try:
            return not self._sock.recv(1, 0x42)  # MSG_PEEK | MSG_DONTWAIT
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def send_error(self, error: errors.Error) -> None:
        fields = (type(error).__name__, str(error.errno or 0), str(error.status), error.message)
        self.send(ERROR, "\0".join(fields))

    def close(self) -> None:
        self._sock.close()


def channel_pair(*, verbose: bool = False) -> tuple[Channel, Channel]:
    one, other = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    return Channel(one, verbose), Channel(other, verbose)


def error_from(text: str) -> errors.Error:
    """The error a child sent. Its class is restored by name where the plain constructor does."""
    name, number, status, message = text.split("\0", 3)
    kind = getattr(errors, name, errors.LaunchError)
    plain = isinstance(kind, type) and issubclass(kind, errors.Error) and kind.__init__ is errors.Error.__init__
    return (kind if plain else errors.LaunchError)(message, errno=int(number) or None, status=int(status))


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
