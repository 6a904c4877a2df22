"""Waiting between `create` and `start`: the socket ROOT/ID/start on which a created container's first process listens
(`shim/abi.h`, "How a monitor is started"; `runtime/monitor/release.c`).

Who may connect is decided by the state directory: nobody but its owner gets there.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket

from pysandbox.oci.errors import LaunchError, StateError, from_os_error
from pysandbox.runtime import abi

NAME = "start"


def listener(directory: int) -> socket:
    """The socket for the container process; `directory`: descriptor of the container's state directory."""
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        sock.bind(_path(directory))
        sock.listen(8)
    except OSError as error:
        sock.close()
        raise from_os_error("make the start socket", error, StateError) from None
    finally:
        os.umask(before)
    return sock


def ask(directory: int) -> bool:
    """Whether the process waits for its release. False: it was released, or it is gone."""
    return _talk(directory, abi.RELEASE_ASK) == abi.RELEASE_WAITING


def release(directory: int) -> None:
    """Lets the program run. `LaunchError` when it does not come to that."""
    if _talk(directory, abi.RELEASE_START) != abi.RELEASE_STARTED:
        raise LaunchError("the container process ended before its program could run")


def _talk(directory: int, word: int) -> int:
    """The answer; 0 when there is none."""
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        sock.connect(_path(directory))
        sock.sendmsg([bytes((word,))], [], 0x4000)  # MSG_NOSIGNAL
        answer = sock.recv(1)
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, FileNotFoundError):
        return 0
    except OSError as error:
        raise from_os_error("talk to the container process", error, StateError) from None
    finally:
        sock.close()
    return answer[0] if answer else 0


def _path(directory: int) -> str:
    # Through the descriptor: the path of a socket may have no more than 107 bytes, a state directory's any number.
    return f"/proc/self/fd/{directory}/{NAME}"
