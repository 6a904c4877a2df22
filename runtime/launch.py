"""Starting a container: config.json -> `LaunchPlan` -> fork -> monitor.

The launcher stays outside of all namespaces. Its child (`launch_child`) becomes the container's first process; the
launcher plans the program's text while the child builds its root, then waits for the end (`launch_wait`).
"""

from __future__ import annotations

import os

from pysandbox.oci import cgroups
from pysandbox.oci.errors import Error, LaunchError, from_os_error
from pysandbox.oci.namespaces import for_children
from pysandbox.runtime import (
    kept,
    launch_channel,
    launch_console,
    launch_early,
    launch_follow,
    launch_plan,
    launch_release,
    launch_state,
    launch_wait,
)
from pysandbox.runtime import planner as planners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from pysandbox.oci.bundle import Bundle
    from pysandbox.oci.state import Container, Made, State, Store
    from pysandbox.runtime.launch_channel import Channel
    from pysandbox.runtime.launch_plan import LaunchPlan, Options
    from pysandbox.runtime.rewriter.plans import PlanSet


def run(bundle: Bundle, options: Options, warn: Callable[[str], None]) -> int:
    """Runs a container. In the foreground: until it ends; its exit status, 128+signal when killed. Detached: 0 once the
    program runs. An error before that leaves nothing behind."""
    store = launch_state.open_store(options.root)
    hooks = bundle.spec.hooks
    if hooks.start_container or hooks.poststart:
        # They belong to `start`: its program waits for them, as after `create`.
        options = options.replace(wait=True)
    running = _make(store, bundle, options, warn)
    if options.wait:
        _start_at_once(running, options, warn)
    if options.detach:
        running.leave()
        return 0
    try:
        if bundle.spec.annotations.get("dev.pysandbox.trace") != "off":
            from pysandbox.runtime import launch_traces

            launch_traces.prune_sometimes(options.root, options.id)  # there is time now
        return running.wait()
    finally:
        if not options.keep:
            state = launch_state.destroy(store, options.id, warn)
            if hooks.poststop and state is not None:
                from pysandbox.runtime.hooks import run_poststop

                run_poststop(hooks.poststop, state.oci(), warn)
        launch_state.left_foreground(store, options.id)


def _start_at_once(running: launch_wait.Running, options: Options, warn: Callable[[str], None]) -> None:
    from pysandbox.runtime.start import start as start_created

    try:
        start_created(options.root, options.id, warn)
    except BaseException:
        running.abort()
        store = launch_state.open_store(options.root)
        launch_state.destroy(store, options.id, warn)
        launch_state.left_foreground(store, options.id)
        raise


def create(bundle: Bundle, options: Options, warn: Callable[[str], None]) -> None:
    """Makes a container whose program waits for `start`. An error leaves nothing behind."""
    options = options.replace(detach=True, wait=True)
    _make(launch_state.open_store(options.root), bundle, options, warn).leave()


def _make(store: Store, bundle: Bundle, options: Options, warn: Callable[[str], None]) -> launch_wait.Running:
    state: State | None = None
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
            for line in plan.capabilities.warnings:
                warn(line)
            state = container.state
            return start(plan, container, bundle.raw, warn)
    except Error:
        if state is not None:
            launch_state.left_foreground(store, options.id)
        if state is not None and bundle.spec.hooks.poststop:
            from pysandbox.runtime.hooks import run_poststop

            run_poststop(bundle.spec.hooks.poststop, state.replace(phase="deleting").oci(), warn)
        raise


def start(
    plan: LaunchPlan, container: Container, raw: Mapping[str, Any], warn: Callable[[str], None]
) -> launch_wait.Running:
    """Makes the container's first process and sees it through to its program. On an error the process and its trace are gone
    and the error raised; what else was made is in `container`'s state. `raw`: config.json as parsed.

    The process is forked early: while it builds its root, what it needs at its end is made."""
    from pysandbox.oci.state import Made

    options = plan.options
    cgroups.refuse_frozen(plan.cgroup)
    made = [Made(kind=kind, path=path) for kind, path in cgroups.footprint(plan.cgroup)]
    container.update(made=(*container.state.made, *made), data={**container.state.data, "cgroup": plan.cgroup.record()})
    # The groups are made while the process builds its root, unless it has to know first which of them there are.
    groups_first = bool(plan.namespaces.user) or cgroups.may_be_refused(plan.cgroup)
    refused = _make_groups(plan, container, warn) if groups_first else set()
    # Joined groups have other processes, whose end is not this container's business.
    groups = [thing.path for thing in made if thing.kind == "cgroup" and thing.path not in refused]
    if plan.shared_root:
        _make_shared_root(plan.shared_root, container)

    # From here on signals wait: they are passed to the container once it exists.
    signals = None if options.detach else launch_wait.Signals()
    # Requests for plans are served by a process that a detached container gets at once, others at the first request.
    planner = planners.socket_pair()
    start_socket = launch_release.listener(container.directory) if options.wait else None
    ours, theirs = launch_channel.channel_pair(verbose=options.debug is not None)
    if plan.namespaces.private("time"):
        launch_early.finish()
    try:

        def become() -> NoReturn:
            ours.close()
            os.close(planner[0])
            from pysandbox.runtime.launch_child import container_process

            container_process(plan, theirs, planner[1], start_socket.fileno() if start_socket else None)

        pid = _fork(plan, theirs, become)
    except OSError as error:
        raise from_os_error("fork", error, LaunchError) from None
    theirs.close()
    os.close(planner[1])
    if start_socket:
        start_socket.close()
    # No pid namespace whose end would take the rest along: then the launcher does.
    shared = not plan.namespaces.private("pid")
    running = launch_wait.Running(pid, signals, warn, planner[0], groups if shared else ())
    late: launch_plan.Late | None = None
    joiner: launch_follow.Joiner | None = None
    try:
        container.set_init(pid)

        def move() -> None:
            if not groups_first:
                _make_groups(plan, container, warn)
            cgroups.join(plan.cgroup, pid, plan.spec.linux.resources)

        joiner = launch_follow.Joiner(move, pid, ours)
        late = launch_plan.open_late(plan, container.directory)
        kept.keep(container, plan, late, raw)
        _send_late(ours, late)
        if plan.agent is not None:
            plan.agent.tell(pid, {**container.state.oci(), "pid": pid, "status": "creating"})
        more = _handlers(plan, pid, ours)
        joining = joiner
        more[launch_channel.HOOKS] = lambda _text, _fds: _run_hooks(plan, container, joining, ours)
        launch_follow.follow(
            ours,
            running,
            plan.spec.process,
            joiner,
            warn,
            console_socket=options.console_socket,
            debug=options.debug,
            more=more,
        )
        if options.wait and not launch_release.ask(container.directory):
            raise LaunchError("the container process ended before it could wait for its start")
        if options.pid_file:
            launch_follow.write_pid_file(options.pid_file, pid)
        if options.pidfd_socket:
            launch_console.send_pidfd(options.pidfd_socket, pid)
        if not options.detach:
            launch_state.enter_foreground(container)
        helpers = () if not options.detach or running.plans is None else _spawn_planner(running.plans, planner[0], warn)
        container.commit("created" if options.wait else "started", *helpers)
    except BaseException:
        if joiner is not None:
            joiner.wait()  # else it might make groups that were just taken back
        running.abort()
        if late is not None and late.trace is not None:
            from pysandbox.runtime import launch_traces

            directory = plan.spec.annotations.get("dev.pysandbox.trace.dir", "")
            launch_traces.discard(options.root, options.id, directory)
        raise
    finally:
        ours.close()
    return running


def _make_groups(plan: LaunchPlan, container: Container, warn: Callable[[str], None]) -> set[str]:
    """The container's groups with their limits; the paths of those that were refused."""
    wanted = set(plan.cgroup.paths.values())
    cgroups.create(plan.cgroup, plan.spec.linux.resources, warn)
    refused = wanted.difference(plan.cgroup.paths.values())
    if refused:
        kept_made = tuple(thing for thing in container.state.made if thing.path not in refused)
        container.update(made=kept_made, data={**container.state.data, "cgroup": plan.cgroup.record()})
    cgroups.apply(plan.cgroup, plan.spec.linux.resources)
    return refused


def _make_shared_root(place: str, container: Container) -> None:
    from pysandbox.oci.state import Made

    container.record(Made(kind="directory", path=place), Made(kind="mount", path=place))
    try:
        os.mkdir(place, 0o700)
    except OSError as error:
        raise from_os_error(f"make {place}", error, LaunchError) from None


def _send_late(channel: Channel, late: launch_plan.Late) -> None:
    try:
        channel.send(launch_channel.LATE, fds=late.fds)
    except BrokenPipeError:
        pass  # the process has failed by itself; its message is read next


def _run_hooks(plan: LaunchPlan, container: Container, joiner: launch_follow.Joiner, channel: Channel) -> None:
    """The hooks of `create` that run in the runtime's namespaces, when the process is in its cgroups."""
    joiner.finish()
    hooks = plan.spec.hooks
    if hooks.prestart or hooks.create_runtime:
        from pysandbox.runtime.hooks import run_hooks

        state = container.state.oci()
        run_hooks("prestart", hooks.prestart, state, cwd=plan.bundle)
        run_hooks("createRuntime", hooks.create_runtime, state, cwd=plan.bundle)
    channel.send(launch_channel.HOOKED)


def _handlers(plan: LaunchPlan, pid: int, channel: Channel) -> dict[str, Callable[[str, list[int]], None]]:
    """For messages that few containers send."""
    handlers: dict[str, Callable[[str, list[int]], None]] = {}
    if plan.namespaces.foreign_files:
        from pysandbox.runtime.launch_userns import serve_sources

        handlers[launch_channel.MOUNTS] = lambda text, _fds: serve_sources(plan, pid, channel, text)
    net_devices = plan.spec.linux.net_devices
    if net_devices:
        from pysandbox.runtime import launch_netdevs

        handlers[launch_channel.NETWORK] = lambda _text, _fds: launch_netdevs.serve(net_devices, pid, channel)
    return handlers


def _spawn_planner(plans: PlanSet, sock: int, warn: Callable[[str], None]) -> tuple[Made, ...]:
    from pysandbox.oci.state import Made, ProcessId

    pid = planners.spawn(sock, plans.writer_fd, warn)
    if pid is None:
        return ()
    process = ProcessId.of(pid)
    return (Made(kind="process", pid=process.pid, start=process.start),)


def _fork(plan: LaunchPlan, channel: Channel, become: Callable[[], NoReturn]) -> int:
    """Forks a process into the container's user, pid and time namespaces, where it runs `become`; the pid. `channel`:
    the process' end.
    """
    if plan.namespaces.user:
        from pysandbox.runtime.launch_userns import fork_process

        return fork_process(plan, channel, become)
    spaces = for_children(plan.namespaces, plan.spec)
    if not spaces.can_come_back:
        from pysandbox.runtime.launch_sibling import fork_sibling

        pid = fork_sibling(spaces.enter)
        if pid == 0:
            become()
        return pid
    with spaces:
        pid = os.fork()
        if pid == 0:
            become()
    return pid
