"""The launcher's side while a container process is being made: cgroups, plans for the program's text, the terminal. The
same for the first process (`launch`) and for further ones (`enter`).
"""

from __future__ import annotations

import os

from pysandbox.oci.errors import Error, LaunchError, from_os_error
from pysandbox.runtime import launch_channel, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pysandbox.oci.spec import Process
    from pysandbox.runtime.launch_channel import Channel
    from pysandbox.runtime.launch_wait import Running
    from pysandbox.runtime.rewriter.plans import PlanSet

    Handler = Callable[[str, list[int]], None]  # text and descriptors of a message


class Joiner:
    """Moves the container process into its cgroups, in a thread: the kernel makes the writer wait for all processors,
    and meanwhile the process can build its root and the launcher can plan."""

    def __init__(self, move: Callable[[], None], pid: int, channel: Channel) -> None:
        """`move` moves the process `pid`."""
        from _thread import allocate_lock, start_new_thread

        self._arguments = move, pid, channel
        self.error: Error | None = None
        self._finished = False
        self._ended = allocate_lock()
        self._ended.acquire()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        move, pid, channel = self._arguments
        try:
            try:
                move()
            except OSError as error:
                raise from_os_error("move the process into its cgroups", error, LaunchError) from None
            channel.send(launch_channel.JOINED)
        except Error as error:
            self._fail(error, pid)
        except OSError:
            pass  # the process has failed by itself, and says why
        except Exception as error:  # noqa: BLE001 -- the process waits for word, whatever it is
            self._fail(LaunchError(f"move the process into its cgroups: {error!r}"), pid)
        finally:
            self._ended.release()

    def _fail(self, error: Error, pid: int) -> None:
        # The process waits for the message: it must go first, then the channel ends and `finish` is called.
        self.error = error
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            self.error = None  # it failed by itself before, and says why

    def wait(self) -> None:
        """Until the thread makes and moves nothing any more. The process must not be reaped before: its number could be
        another one's."""
        if not self._finished:
            self._ended.acquire()
            self._finished = True

    def finish(self) -> None:
        """Waits for the thread; raises what it met. The launcher forks again later, with one thread only."""
        self.wait()
        if self.error is not None:
            raise self.error


def follow(
    channel: Channel,
    running: Running,
    process: Process,
    joiner: Joiner,
    warn: Callable[[str], None],
    *,
    console_socket: str = "",
    debug: Callable[[str], None] | None = None,
    more: Mapping[str, Handler] | None = None,
) -> None:
    """The child's messages until its exec. Raises the error it sends. `more`: handlers of further kinds."""
    # Imported while the child is busy with its root.
    from pysandbox.runtime.launch_vault import open_facts
    from pysandbox.runtime.rewriter import plans as _  # noqa: F401

    facts = open_facts()
    ready = False
    notes: list[str] = []
    while (message := channel.receive()) is not None:
        kind, text, fds = message
        if kind == launch_channel.ROOT:
            plans = _plan_program(fds[0], text, process, notes.append)
            running.plans = plans
            os.close(fds[0])
            try:
                facts = open_facts() if facts < 0 else facts  # the store may be new
                known = () if facts < 0 else (facts,)
                channel.send(launch_channel.PLANS, fds=(plans.index_fd, plans.store_fd, *known) if plans else ())
            except BrokenPipeError:
                continue  # the child has failed meanwhile; its message is still to be read
        elif kind == launch_channel.TERMINAL:
            _terminal(running, fds[0], console_socket)
        elif kind == launch_channel.WARNING:
            warn(text)
        elif kind == launch_channel.READY:
            ready = True
        elif kind == launch_channel.ERROR:
            raise launch_channel.error_from(text)
        elif kind == launch_channel.STEP and debug:
            debug(text)
        elif more and kind in more:
            more[kind](text, fds)
    joiner.finish()
    if facts >= 0:
        os.close(facts)
    if ready:
        # Not before: about a program that cannot run at all there is one thing to say.
        for note in notes:
            warn(note)
    else:
        raise LaunchError("the container process was killed before its program could start (out of memory?)")


def _plan_program(root: int, name: str, process: Process, warn: Callable[[str], None]) -> PlanSet | None:
    """Rewrites the program's text and what it loads, unless that was done before. An ELF nobody can analyse is no
    reason not to run it: the raw door serves it, only slower."""
    from pysandbox.runtime.rewriter.plans import ensure_plans

    path = program_in(root, name, process.env, process.cwd)
    if path is None:
        return None  # the child finds the same and says why
    try:
        plans = ensure_plans(root, path)
    except (Error, OSError) as error:
        warn(f"rewriting {path}: {error}")
        return None
    for note in plans.notes:
        warn(f"rewriting: {note}")
    return plans


def program_in(root: int, name: str, env: tuple[str, ...], cwd: str) -> str | None:
    """args[0] as a path inside the root, for planning only: whether it may be executed is decided elsewhere."""
    if "/" in name:
        candidates = [os.path.join(cwd, name)]
    else:
        path = next((entry[5:] for entry in reversed(env) if entry.startswith("PATH=")), "")
        candidates = [os.path.join(cwd, directory, name) for directory in path.split(":")]
    for candidate in candidates:
        try:
            fd = native.openat2(root, candidate.lstrip("/"), os.O_PATH, 0, native.RESOLVE_IN_ROOT)
        except OSError:
            continue
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if mode & 0o170000 == 0o100000 and mode & 0o111:
            return candidate
    return None


def _terminal(running: Running, master: int, console_socket: str) -> None:
    from pysandbox.runtime import launch_console

    if console_socket:
        launch_console.send_master(console_socket, master)
        os.close(master)
    else:
        running.proxy = launch_console.Proxy(master)


def write_pid_file(path: str, pid: int) -> None:
    """Decimal digits and nothing else: engines parse the whole file. Atomic: they may be watching for it."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        raise from_os_error(f"write pid file {path}", error, LaunchError) from None
