"""The planner of a container: processes of their own.

psb-waiter, a program of some kilobytes that blocks, starts `main` when the first request comes (a container that maps nothing
new never pays for Python, lief and capstone). After `IDLE` seconds without a request `main` ends. The waiter ends with the
container's last monitor, whose socket it waits on, or is killed by `delete`; `main` first finishes what was asked for, because
the next container with these files will need it (`rewriter.planner.LINGER` seconds at most).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = 20.0
"""Seconds."""
SOCKET, INDEX = 3, 4
_NICENESS = 10
_KEPT_VARIABLES = ("PSB_PLAN_DIR", "HOME", "USER", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")  # where the plan store is


def socket_pair() -> tuple[int, int]:
    """(planner's end, monitors' end): its end of file is the end of the last monitor."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair

    one, other = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    return one.detach(), other.detach()


def spawn(sock: int, index: int, warn: Callable[[str], None]) -> int | None:
    """Starts the waiter, outside of everything of the container; its pid. `sock`: planner's end, `index`:
    `PlanSet.writer_fd`. None, with one warning, when the host refuses: programs run without plans, only slower, so a host
    short of memory or processes does not end a container that runs."""
    try:
        return _spawn(sock, index)
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "out of memory"
        warn(f"start {_waiter()}: {reason}: programs are not planned from here on")
        return None


def _spawn(sock: int, index: int) -> int:
    import fcntl

    env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    opened: list[int] = []
    try:
        # None of them may stand where another has to go.
        for fd in (sock, index):
            opened.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10))
        opened.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        sock, index, null = opened
        places = [(null, 0), (null, 1), (null, 2), (sock, SOCKET), (index, INDEX)]
        return os.posix_spawn(
            _waiter(),
            [_waiter(), *_command()],
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in places],
            setsid=True,
            setsigmask=(),
            setsigdef=[signo for signo in range(1, 65) if signo not in (9, 19, 32, 33)],
        )
    finally:
        for fd in opened:
            os.close(fd)


def _waiter() -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "psb-waiter")


def _command() -> list[str]:
    site = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = "import sys; sys.path.append(sys.argv[1]); from pysandbox.runtime.planner import main; main()"
    return [sys.executable, "-IS", "-c", code, site]


def main() -> None:
    """Serves until the end, or until there is nothing to do."""
    from socket import socket

    from pysandbox.runtime.rewriter import planner

    os.nice(_NICENESS)
    planner.serve(socket(fileno=SOCKET), INDEX, idle=IDLE)
