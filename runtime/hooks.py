"""Hooks (config.md, "POSIX-platform Hooks"): programs that the bundle's owner has the runtime call around a container's life.

| kind | when | where |
|---|---|---|
| prestart, createRuntime | create, mounts made, before the pivot | runtime's namespaces |
| createContainer | create, before the pivot | container's namespaces, path and program are the host's |
| startContainer | start, before the program | in the container: a guest of a monitor, like any program of the image (`enter`) |
| poststart | start, the program runs | runtime's namespaces |
| poststop | delete | runtime's namespaces |

Each gets the state on standard input; its output is only shown in errors. An error of any but poststop ends the
container, poststop hooks included; an error of poststop is a warning.
"""

from __future__ import annotations

import os
import select

from pysandbox.oci import jsontext
from pysandbox.oci.errors import Error, LaunchError, host_reason
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn

    from pysandbox.oci.spec import Hook

_SIGKILL = 9
_SHOWN = 2048  # bytes of a hook's output in an error


class Streams:
    """Standard streams of one hook, in memory: a hook that leaves children behind holds up nobody who waits for an end
    of file. Descriptors are close-on-exec."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.stdin, self.stdout, self.stderr = (os.memfd_create(f"hook-{n}", os.MFD_CLOEXEC) for n in range(3))
        data = jsontext.dump(dict(state)).encode()
        while data:
            data = data[os.write(self.stdin, data) :]
        os.lseek(self.stdin, 0, os.SEEK_SET)

    def shown(self) -> str:
        out, err = (os.pread(fd, _SHOWN, 0).decode(errors="replace").strip() for fd in (self.stdout, self.stderr))
        return f"stdout: {out}, stderr: {err}"

    def close(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)


def run_hooks(
    kind: str,
    hooks: Sequence[Hook],
    state: Mapping[str, Any],
    *,
    cwd: str | int | None,
    env: Sequence[str] | None = None,
) -> None:
    """In their order, each after the end of the one before; `LaunchError` at the first that fails. `state`: as it is
    on standard input. `cwd`: path or directory descriptor. `env`: for a hook that has none; None: the runtime's own.
    """
    run_all(kind, hooks, state, lambda hook, streams: _spawn(hook, streams, cwd, env))


def run_all(kind: str, hooks: Sequence[Hook], state: Mapping[str, Any], spawn: Callable[[Hook, Streams], int]) -> None:
    """As `run_hooks`, where `spawn` starts each and returns its pid, a child of ours."""
    for number, hook in enumerate(hooks):
        reason = _run_one(hook, state, spawn)
        if reason:
            raise LaunchError(f"error running {kind} hook #{number}: {reason}")


def run_poststop(hooks: Sequence[Hook], state: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """After the container is gone: nothing can fail any more, so each runs, and what fails is a warning."""
    for number, hook in enumerate(hooks):
        try:
            run_hooks("poststop", (hook,), state, cwd=str(state.get("bundle", "/")))
        except Error as error:
            warn(error.message.replace("#0", f"#{number}", 1))


def _run_one(hook: Hook, state: Mapping[str, Any], spawn: Callable[[Hook, Streams], int]) -> str:
    """ "" or why it failed."""
    streams = Streams(state)
    try:
        try:
            pid = spawn(hook, streams)
        except OSError as error:
            return f"{error.filename}: {host_reason(error.errno)}" if error.filename else host_reason(error.errno)
        except Error as error:
            return error.message
        status = _wait(pid, hook.timeout)
        if status is None:
            return f"hook ran past specified timeout of {float(hook.timeout or 0):.1f}s"
        if status == 0:
            return ""
        # The words of runc 1.1 behind those of later versions: whoever searches for either finds it.
        return f"error running hook: {_end(status)}, {streams.shown()}"
    finally:
        streams.close()


def _end(status: int) -> str:
    """A wait status in the words of Go's os/exec, which engines show."""
    if os.WIFEXITED(status):
        return f"exit status {os.WEXITSTATUS(status)}"
    import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, at 4 ms

    number = os.WTERMSIG(status)
    return f"signal: {(_signal.strsignal(number) or str(number)).lower()}{' (core dumped)' if os.WCOREDUMP(status) else ''}"


def _wait(pid: int, timeout: int | None) -> int | None:
    """Wait status; None when the time was over, and the hook killed."""
    if timeout is not None:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        done = poll.poll(timeout * 1000)
        os.close(pidfd)
        if not done:
            os.kill(pid, _SIGKILL)
            os.waitpid(pid, 0)
            return None
    return os.waitpid(pid, 0)[1]


def _spawn(hook: Hook, streams: Streams, cwd: str | int | None, env: Sequence[str] | None) -> int:
    """Forks and executes; the pid. `OSError` when the program cannot be executed."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(hook, streams, cwd, env, tell)
    os.close(tell)
    failure = os.read(told, 2)
    os.close(told)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int.from_bytes(failure, "little"), "", hook.path)
    return pid


def _become(hook: Hook, streams: Streams, cwd: str | int | None, env: Sequence[str] | None, tell: int) -> NoReturn:
    try:
        # A hook is nothing without its runtime, and must not work on a container that is being taken back.
        native.prctl(native.PR_SET_PDEATHSIG, _SIGKILL)
        _reset_signals()
        if cwd is not None:
            try:
                os.chdir(cwd)
            except FileNotFoundError:
                os.chdir("/")  # the bundle went before its container
        own = hook.env if hook.env is not None else env
        variables = _callers_variables() if own is None else _variables(map(os.fsencode, own))
        for fd, to in ((streams.stdin, 0), (streams.stdout, 1), (streams.stderr, 2)):
            os.dup2(fd, to, inheritable=True)
        native.close_range(3, flags=native.CLOSE_RANGE_CLOEXEC)
        os.execve(hook.path, list(hook.args) or [hook.path], variables)
    except OSError as error:
        os.write(tell, (error.errno or 1).to_bytes(2, "little"))
    finally:
        os._exit(127)


def _variables(entries: Iterable[bytes]) -> dict[bytes, bytes]:
    pairs = (entry.partition(b"=") for entry in entries)
    return {name: value for name, sep, value in pairs if sep}


def _callers_variables() -> dict[bytes, bytes]:
    """As the runtime was started with: Python may have added LC_CTYPE to os.environ (PEP 538)."""
    with open("/proc/self/environ", "rb") as environ:
        return _variables(environ.read().split(b"\0"))


def _reset_signals() -> None:
    import _signal  # what `signal` wraps in enums, at 4 ms

    for signo in range(1, _signal.NSIG):
        if signo not in (9, 19, 32, 33):
            _signal.signal(signo, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
