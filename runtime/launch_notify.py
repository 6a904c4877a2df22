"""SCMP_ACT_NOTIFY: the agent at `linux.seccomp.listenerPath` is told of a container (config-linux.md, "The Container Process
State") and gets the file through which it is asked (`notify_file`).
"""

from __future__ import annotations

import os
import sys

from pysandbox.oci import jsontext
from pysandbox.oci.errors import LaunchError, from_os_error, host_reason
from pysandbox.runtime import SPEC_VERSION, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket

    from pysandbox.oci.spec import Seccomp


def wanted(seccomp: Seccomp | None) -> bool:
    """Whether any rule asks an agent."""
    return seccomp is not None and any(rule.action == "SCMP_ACT_NOTIFY" for rule in seccomp.syscalls)


class Agent:
    """`asking`: the monitors' end of the socket. Descriptors are close-on-exec."""

    def __init__(self, path: str, metadata: str) -> None:
        from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, SOCK_STREAM, socket, socketpair

        self._metadata = metadata
        self._agent: socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            self._agent.connect(path)
        except OSError as error:
            raise LaunchError(
                f"failed to connect with seccomp agent specified in the seccomp profile: {path}: {host_reason(error.errno)}",
                errno=error.errno,
            ) from None
        try:
            self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error("SCMP_ACT_NOTIFY needs FUSE: open /dev/fuse", error, LaunchError) from None
        answering, asking = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        self._answering, self.asking = answering.detach(), asking.detach()

    def tell(self, pid: int, state: Mapping[str, object]) -> None:
        """Starts the process that answers, and sends the agent its file, with the state of the container whose process `pid`
        is. To be called once, behind the fork."""
        try:
            options = [("source", "pysandbox"), ("fd", str(self._fuse)), ("rootmode", "100600"), ("allow_other", None)]
            mount = native.detached_mount("fuse", [*options, ("user_id", str(os.geteuid())), ("group_id", str(os.getegid()))], 0)
        except OSError as error:
            raise from_os_error("mount the file of the seccomp agent", error, LaunchError) from None
        try:
            _spawn(self._answering, self._fuse)
            for fd in (self._fuse, self._answering, self.asking):
                os.close(fd)  # should that process fail, so will the next step
            file = os.open(f"/proc/self/fd/{mount}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error("open the file of the seccomp agent", error, LaunchError) from None
        finally:
            os.close(mount)
        self._send(pid, state, file)

    def _send(self, pid: int, state: Mapping[str, object], file: int) -> None:
        from socket import send_fds

        message = {"ociVersion": SPEC_VERSION, "fds": ["seccompFd"], "pid": pid, "metadata": self._metadata, "state": dict(state)}
        try:
            send_fds(self._agent, [jsontext.dump(message).encode()], [file])
            self._agent.close()
        except OSError as error:
            raise from_os_error("failed to send the container to the seccomp agent", error, LaunchError) from None
        finally:
            os.close(file)


def _spawn(sock: int, fuse: int) -> None:
    import fcntl

    from pysandbox.runtime.notify import FUSE, SOCKET

    site = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = "import sys; sys.path.append(sys.argv[1]); from pysandbox.runtime.notify import main; main()"
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (sock, fuse)]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    places = [(null, 0), (null, 1), (null, 2), (high[0], SOCKET), (high[1], FUSE)]
    try:
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-IS", "-c", code, site],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in places],
            setsid=True,
            setsigmask=(),
            setsigdef=[signo for signo in range(1, 65) if signo not in (9, 19, 32, 33)],
        )
    finally:
        for fd in (*high, null):
            os.close(fd)
