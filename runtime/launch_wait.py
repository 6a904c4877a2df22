"""The launcher after the start: passes signals on, serves terminal and planner, learns the end."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, at 4 ms
import os
import select

from pysandbox.oci import cgroups
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox.runtime.launch_console import Proxy
    from pysandbox.runtime.rewriter.plans import PlanSet

_SIGCHLD, _SIGWINCH, _SIGKILL = 17, 28, 9
# Not passed on: cannot be caught, faults of the launcher itself, its own business (children, window), and the two the
# C library keeps for itself.
_NOT_FORWARDED = frozenset((9, 19, 4, 5, 7, 8, 11, 32, 33))


class Signals:
    """Signals of the launcher as a descriptor; blocked from construction until `restore`."""

    def __init__(self) -> None:
        wanted = [signo for signo in range(1, 65) if signo not in _NOT_FORWARDED]
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, wanted)
        self.fd = native.signalfd(wanted)

    def read(self) -> list[int]:
        try:
            data = os.read(self.fd, 128 * 16)
        except BlockingIOError:
            return []
        return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 128)]

    def restore(self) -> None:
        os.close(self.fd)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


class Running:
    """A process of a container that is a child of the caller. `groups`: cgroups whose processes end with it."""

    def __init__(
        self,
        pid: int,
        signals: Signals | None,
        warn: Callable[[str], None],
        planner: int | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        self.pid = pid
        self._warn = warn
        self.plans: PlanSet | None = None
        self.proxy: Proxy | None = None
        self._groups = groups
        self._signals = signals
        self._planner = planner
        self._status: int | None = None

    def wait(self) -> int:
        """Until the container has ended: its exit status, 128+signal when killed by one."""
        assert self._signals is not None, "only for the foreground"
        poll = select.poll()
        registered: dict[int, int] = {}
        try:
            while self._status is None:
                wanted = {self._signals.fd: select.POLLIN}
                if self._planner is not None and self.plans:
                    wanted[self._planner] = select.POLLIN
                if self.proxy:
                    wanted.update(self.proxy.interest())
                for fd in registered.keys() - wanted.keys():
                    poll.unregister(fd)
                for fd, events in wanted.items():
                    poll.register(fd, events)
                registered = wanted
                for fd, _ in poll.poll():
                    self._ready(fd)
        finally:
            if self.proxy:
                self.proxy.close()
            self._finish()
        return os.waitstatus_to_exitcode(self._status) if os.WIFEXITED(self._status) else 128 + os.WTERMSIG(self._status)

    def leave(self) -> None:
        """Detached: the container goes on without the launcher."""

    def abort(self) -> None:
        """The start failed: the process and what it may have started are killed and reaped."""
        try:
            os.kill(self.pid, _SIGKILL)
        except ProcessLookupError:
            pass
        if self._status is None:
            os.waitpid(self.pid, 0)
        if self.proxy:
            self.proxy.close()
        self._finish()

    def _ready(self, fd: int) -> None:
        assert self._signals is not None
        if fd == self._signals.fd:
            for signo in self._signals.read():
                if signo == _SIGCHLD:
                    self._reap()
                elif signo == _SIGWINCH and self.proxy:
                    self.proxy.resize()
                elif self._status is None:
                    os.kill(self.pid, signo)
        elif fd == self._planner:
            self._hand_over(fd)
        elif self.proxy and not self.proxy.handle(fd):
            # The program closed its terminal for good; its end is what we wait for now.
            self.proxy.close()
            self.proxy = None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:  # else a planner, which ends by itself
                self._status = status

    def _hand_over(self, fd: int) -> None:
        """The first request came, or the last monitor has ended: a process of its own serves this and all later requests."""
        from _socket import MSG_DONTWAIT, MSG_PEEK, socket

        assert self.plans is not None
        sock = socket(fileno=fd)
        try:
            asked = bool(sock.recv(1, MSG_PEEK | MSG_DONTWAIT))
        except OSError:
            asked = False
        if asked:
            from pysandbox.runtime import planner

            planner.spawn(sock.detach(), self.plans.writer_fd, self._warn)
        else:
            sock.detach()
        os.close(fd)
        self._planner = None

    def _finish(self) -> None:
        if self._groups:
            for pid in cgroups.processes(list(self._groups)):
                try:
                    os.kill(pid, _SIGKILL)
                except ProcessLookupError:
                    pass
        if self._signals:
            self._signals.restore()
            self._signals = None
