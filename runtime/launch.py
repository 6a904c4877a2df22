"""Starting a container: config.json -> `LaunchPlan` -> fork -> monitor.

The launcher stays outside of all namespaces. Its child (`launch_child`) becomes the container's first process; the
launcher plans the program's text while the child builds its root, then waits for the end (`launch_wait`).
"""

from __future__ import annotations

import os

from pysandbox.oci import cgroups
from pysandbox.oci.errors import Error, LaunchError, from_os_error
from pysandbox.oci.namespaces import for_children
from pysandbox.runtime import launch_channel, launch_plan, launch_release, launch_state, launch_wait, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.oci.bundle import Bundle
    from pysandbox.oci.state import Container, Store
    from pysandbox.runtime.launch_channel import Channel
    from pysandbox.runtime.launch_plan import LaunchPlan, Options
    from pysandbox.runtime.rewriter.plans import PlanSet


def run(bundle: Bundle, options: Options, warn: Callable[[str], None]) -> int:
    """Runs a container. In the foreground: until it ends; its exit status, 128+signal when killed. Detached: 0 once the
    program runs. An error before that leaves nothing behind."""
    store = launch_state.open_store(options.root)
    running = _make(store, bundle, options, warn)
    if options.detach:
        running.leave()
        return 0
    try:
        return running.wait()
    finally:
        if not options.keep:
            launch_state.destroy(store, options.id, warn)
        launch_state.left_foreground(store, options.id)


def create(bundle: Bundle, options: Options, warn: Callable[[str], None]) -> None:
    """Makes a container whose program waits for `start`. An error leaves nothing behind."""
    options = options.replace(detach=True, wait=True)
    _make(launch_state.open_store(options.root), bundle, options, warn).leave()


def _make(store: Store, bundle: Bundle, options: Options, warn: Callable[[str], None]) -> launch_wait.Running:
    made_trace = False
    try:
        with store.create(
            options.id,
            bundle=bundle.dir,
            rootfs=bundle.rootfs,
            oci_version=bundle.spec.oci_version,
            annotations=bundle.spec.annotations,
            data={} if options.detach else launch_state.foreground_data(),
        ) as container:
            plan = launch_plan.make_plan(bundle, options)
            made_trace = plan.trace is not None
            for name in plan.capabilities.missing:
                warn(f"capability {name} is not in this host's bounding set and was not given")
            return start(plan, container, warn)
    except Error:
        if made_trace:
            from pysandbox.runtime import launch_traces

            directory = bundle.spec.annotations.get("dev.pysandbox.trace.dir", "")
            launch_traces.discard(options.root, options.id, directory)
        raise


def start(plan: LaunchPlan, container: Container, warn: Callable[[str], None]) -> launch_wait.Running:
    """Makes the container's first process and sees it through to its program. On an error the process is gone and the
    error raised; what else was made is in `container`'s state."""
    from pysandbox.oci.state import Made

    options = plan.options
    groups = cgroups.directories(plan.cgroup)
    container.record(*(Made(kind="cgroup", path=path) for path in groups if not os.path.isdir(path)))
    cgroups.create(plan.cgroup)
    cgroups.apply(plan.cgroup, plan.spec.linux.resources)

    # From here on signals wait: they are passed to the container once it exists.
    signals = None if options.detach else launch_wait.Signals()
    planner = None if options.detach else _planner_pair()
    start_socket = launch_release.listener(container.directory) if options.wait else None
    ours, theirs = launch_channel.channel_pair()
    try:
        with for_children(plan.namespaces, plan.spec):
            pid = os.fork()
            if pid == 0:
                ours.close()
                if planner:
                    os.close(planner[0])
                from pysandbox.runtime.launch_child import container_process

                container_process(
                    plan, theirs, planner[1] if planner else None, start_socket.fileno() if start_socket else None
                )
    except OSError as error:
        raise from_os_error("fork", error, LaunchError) from None
    theirs.close()
    if planner:
        os.close(planner[1])
    if start_socket:
        start_socket.close()
    running = launch_wait.Running(pid, plan, signals, planner[0] if planner else None)
    try:
        container.set_init(pid)
        joiner = Joiner(plan, pid, ours)
        _follow(ours, running, plan, joiner, warn)
        if options.wait and not launch_release.ask(container.directory):
            raise LaunchError("the container process ended before it could wait for its start")
        if options.pid_file:
            _write_pid_file(options.pid_file, pid)
        if not options.detach:
            launch_state.enter_foreground(container)
        container.commit("created" if options.wait else "started")
    except BaseException:
        running.abort()
        raise
    finally:
        ours.close()
    return running


class Joiner:
    """Moves the container process into its cgroups, in a thread: the kernel makes the writer wait for all processors,
    and meanwhile the process can build its root and the launcher can plan."""

    def __init__(self, plan: LaunchPlan, pid: int, channel: Channel) -> None:
        from _thread import allocate_lock, start_new_thread

        self._arguments = plan.cgroup, pid, channel
        self.error: Error | None = None
        self._ended = allocate_lock()
        self._ended.acquire()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        groups, pid, channel = self._arguments
        try:
            cgroups.join(groups, pid)
            channel.send(launch_channel.JOINED)
        except Error as error:
            # The process waits for the message: it must go first, then the channel ends and `finish` is called.
            self.error = error
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                self.error = None  # it failed by itself before, and says why
        except OSError:
            pass  # the process has failed by itself, and says why
        finally:
            self._ended.release()

    def finish(self) -> None:
        """Waits for the thread; raises what it met. The launcher forks again later, with one thread only."""
        self._ended.acquire()
        if self.error is not None:
            raise self.error


def _planner_pair() -> tuple[int, int]:
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socketpair

    one, other = socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    return one.detach(), other.detach()


def _follow(
    channel: Channel, running: launch_wait.Running, plan: LaunchPlan, joiner: Joiner, warn: Callable[[str], None]
) -> None:
    """The child's messages until its exec. Raises the error it sends."""
    # Imported while the child is busy with its root.
    from pysandbox.runtime.rewriter import plans as _  # noqa: F401

    ready = False
    while (message := channel.receive()) is not None:
        kind, text, fds = message
        if kind == launch_channel.ROOT:
            plans = _plan_program(fds[0], text, plan, warn)
            running.plans = plans
            os.close(fds[0])
            try:
                channel.send(launch_channel.PLANS, fds=(plans.index_fd, plans.store_fd) if plans else ())
            except BrokenPipeError:
                continue  # the child has failed meanwhile; its message is still to be read
        elif kind == launch_channel.TERMINAL:
            _terminal(running, fds[0], plan)
        elif kind == launch_channel.WARNING:
            warn(text)
        elif kind == launch_channel.READY:
            ready = True
        elif kind == launch_channel.ERROR:
            raise launch_channel.error_from(text)
    joiner.finish()
    if not ready:
        raise LaunchError("the container process was killed before its program could start (out of memory?)")


def _plan_program(root: int, name: str, plan: LaunchPlan, warn: Callable[[str], None]) -> PlanSet | None:
    """Rewrites the program's text and what it loads, unless that was done before. An ELF nobody can analyse is no
    reason not to run it: the raw door serves it, only slower."""
    from pysandbox.runtime.rewriter.plans import ensure_plans

    path = program_in(root, name, plan.spec.process.env, plan.spec.process.cwd)
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


def _terminal(running: launch_wait.Running, master: int, plan: LaunchPlan) -> None:
    from pysandbox.runtime import launch_console

    if plan.options.console_socket:
        launch_console.send_master(plan.options.console_socket, master)
        os.close(master)
    else:
        running.proxy = launch_console.Proxy(master)


def _write_pid_file(path: str, pid: int) -> None:
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
