"""The container process, from the fork to the exec of the monitor. It runs in the launcher's image and reports
through the channel; every step is one of `pysandbox.oci`'s modules, and the order is the point of this file.

1. host side: session, OOM score (needs the host's /proc); the launcher moves the process into its cgroups meanwhile
2. namespaces
3. the root: mounts, devices, terminal; the launcher gets its descriptor and plans the program's text meanwhile
4. pivot
5. what every process of a container does before its program (`launch_exec`)
"""

from __future__ import annotations

import os

from pysandbox.oci import devices, mounts, namespaces, process, rootfs
from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.runtime import abi, launch_channel, launch_console, launch_exec, launch_proc, native
from pysandbox.runtime.launch_plan import LATE_ROLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pysandbox.oci.places import Places
    from pysandbox.runtime.launch_channel import Channel
    from pysandbox.runtime.launch_plan import LaunchPlan


def container_process(plan: LaunchPlan, channel: Channel, planner: int | None, start_socket: int | None) -> NoReturn:
    """Never returns: becomes the container's first program, or reports an error and exits. `start_socket`: what the
    program waits on.
    """
    launch_exec.report_errors(
        channel, "start container", lambda: _become_container(plan, channel, planner, start_socket)
    )


def _become_container(plan: LaunchPlan, channel: Channel, planner: int | None, start_socket: int | None) -> NoReturn:
    spec, options = plan.spec, plan.options
    launch_exec.tie_to_launcher(channel)
    launch_exec.reset_signals()
    os.setsid()
    inbox = Inbox(channel, plan)
    if not plan.namespaces.user:
        set_oom_score(plan, channel)
    launch_exec.preload()
    if "mount" in plan.namespaces.join:
        # Its tree may be another one, and no friend's.
        _preload_root()
        launch_exec.seal_imports()
    made = ", ".join(sorted(plan.namespaces.new))
    channel.step(f"nsexec container setup: new namespaces {made}")
    namespaces.enter(plan.namespaces)
    if spec.linux.net_devices:
        inbox.network()
    set_names(plan)

    channel.step(f"child process in init(): root {plan.rootfs}")
    terminal: int | None = None
    places = build_root(plan, inbox)
    root = places.root
    proc = launch_proc.own_proc()
    if spec.process.terminal:
        terminal = launch_console.open_terminal(places, spec.process, channel)
    channel.send(launch_channel.ROOT, spec.process.args[0], (root,))
    process.set_sysctls(spec, proc)
    make_cwd(root, spec.process.cwd)
    proc = launch_proc.container_proc(places, proc)
    if any(hooks for _, hooks in spec.hooks):
        _run_hooks(plan, channel, inbox, root)
    mounts.finish_dev(places)
    rootfs.readonly_paths(places, spec)
    rootfs.mask_paths(places, spec)
    launch_exec.seal_imports()
    if plan.shared_root:
        rootfs.enter_shared_root(root)
    elif options.no_pivot:
        rootfs.move_root(root)
    else:
        rootfs.pivot(root)
    rootfs.finish_root(spec)
    roles = {**plan.roles, **dict(zip(LATE_ROLES, inbox.late(), strict=False)), abi.FD_PROC: proc}
    if planner is not None:
        roles[abi.FD_PLANNER] = planner
    channel.step("init: closing the pipe to signal completion follows; root and mounts are made")
    launch_exec.become(_program(plan), roles, inbox, channel, terminal=terminal, start_socket=start_socket)


def _preload_root() -> None:
    """All modules that making a root may need."""
    import _socket  # noqa: F401
    import _struct  # noqa: F401
    import select  # noqa: F401
    import termios  # noqa: F401
    import time  # noqa: F401

    from pysandbox.oci import cgroups, copytree, userns  # noqa: F401
    from pysandbox.runtime import hooks  # noqa: F401


def _run_hooks(plan: LaunchPlan, channel: Channel, inbox: Inbox, root: int) -> None:
    """Those of the runtime first, then createContainer here: in the container's namespaces, the host's tree still seen."""
    spec = plan.spec
    channel.send(launch_channel.HOOKS)
    inbox.hooked()
    if spec.hooks.create_container:
        from pysandbox.runtime.hooks import run_hooks

        state: dict[str, object] = {"ociVersion": spec.oci_version, "id": plan.options.id, "status": "creating"}
        state.update(pid=os.getpid(), bundle=plan.bundle)
        if spec.annotations:
            state["annotations"] = dict(spec.annotations)
        run_hooks("createContainer", spec.hooks.create_container, state, cwd=root, env=spec.process.env)


def _program(plan: LaunchPlan) -> launch_exec.Program:
    spec, options = plan.spec, plan.options
    return launch_exec.Program(
        process=spec.process,
        personality=spec.linux.personality,
        capabilities=plan.capabilities,
        dispatch=plan.dispatch,
        trace=plan.trace_mode,
        pin=plan.pin,
        preserve_fds=options.preserve_fds,
        listen_fds=options.listen_fds,
        keyring="" if options.no_new_keyring else options.id,
        detach=options.detach,
        keep_groups=spec.annotations.get("run.oci.keep_original_groups") in ("1", "true"),
    )


def set_oom_score(plan: LaunchPlan, channel: Channel) -> None:
    warning = process.set_oom_score(plan.spec.process.oom_score_adj)
    if warning:
        channel.send(launch_channel.WARNING, warning)


def set_names(plan: LaunchPlan) -> None:
    """hostname and domainname."""
    if plan.spec.hostname:
        from _socket import sethostname

        try:
            sethostname(plan.spec.hostname)
        except OSError as error:
            raise from_os_error("sethostname", error, LaunchError) from None
    if plan.spec.domainname:
        try:
            native.setdomainname(plan.spec.domainname)
        except OSError as error:
            raise from_os_error("setdomainname", error, LaunchError) from None


class Inbox:
    """What the launcher tells, in whatever order it comes."""

    def __init__(self, channel: Channel, plan: LaunchPlan) -> None:
        self._channel = channel
        self._namespaces = plan.namespaces
        self._fds: dict[str, list[int]] = {}
        self._entered = False

    def _wait(self, kind: str, count: int = 0) -> list[int]:
        """The descriptors of messages of this kind, when there has been one and there are at least `count`."""
        while kind not in self._fds or len(self._fds[kind]) < count:
            message = self._channel.receive()
            if message is None:
                os._exit(1)  # the launcher died, or gave up
            if message[0] == launch_channel.ERROR:
                raise launch_channel.error_from(message[1])
            self._fds.setdefault(message[0], []).extend(message[2])
        return self._fds[kind]

    def joined(self) -> None:
        """Waits until this process is in its cgroups; its cgroup namespace begins there."""
        self._wait(launch_channel.JOINED)
        if not self._entered:
            self._entered = True
            namespaces.enter_cgroup(self._namespaces)

    def hooked(self) -> None:
        """Waits until the hooks that are run by the launcher have ended; this process is in its cgroups then, too."""
        self.joined()
        self._wait(launch_channel.HOOKED)

    def network(self) -> None:
        """Waits until the host's network devices are in this process' namespace."""
        self._channel.send(launch_channel.NETWORK)
        self._wait(launch_channel.NETWORK)

    def late(self) -> list[int]:
        """Descriptors in the order of `LATE_ROLES`."""
        return self._wait(launch_channel.LATE)

    def plans(self) -> list[int]:
        """Descriptors of plan index, plan store and the facts about this host where they can be had; none without plans."""
        return self._wait(launch_channel.PLANS)

    def sources(self, plan: LaunchPlan) -> tuple[int, Callable[[int], int]]:
        """The root, and what gives the source of the bind mount with a number; opened by someone with the host's rights."""
        numbers = [number for number in mounts.binds(plan.spec) if number not in plan.late_sources]
        self._channel.send(launch_channel.MOUNTS)
        root, *trees = self._wait(launch_channel.SOURCES, len(numbers) + 1)
        opened = dict(zip(numbers, trees, strict=True))

        def source(number: int) -> int:
            if number in opened:
                return opened[number]
            count = len(self._fds[launch_channel.SOURCES])
            self._channel.send(launch_channel.MOUNTS, str(number))
            return self._wait(launch_channel.SOURCES, count + 1)[count]

        return root, source


def build_root(plan: LaunchPlan, inbox: Inbox) -> Places:
    """The container's root with all its mounts and devices, not yet entered."""
    spec, place = plan.spec, plan.rootfs
    if plan.options.overlay is not None:
        from pysandbox.runtime import launch_overlay

        launch_overlay.mount_overlay(plan.options.overlay)
        place = launch_overlay.root_of(plan.options.overlay)
    sources: Callable[[int], int] | None = None
    if plan.namespaces.foreign_files:
        root, sources = inbox.sources(plan)
    elif plan.shared_root:
        root = rootfs.prepare_shared_root(place, plan.shared_root)
    else:
        root = rootfs.prepare_root(spec, place)
    idmaps, shared = plan.namespaces.idmaps, bool(plan.shared_root)
    places = mounts.mount_all(root, spec, plan.bundle, plan.cgroup, inbox.joined, idmaps, sources, host=shared)
    if devices.needs_dev(spec):
        devices.make_devices(places, spec)
        devices.own_null(places)
    return places


def make_cwd(root: int, cwd: str) -> None:
    """A missing cwd is made, as runc does; before the root becomes read-only."""
    try:
        os.close(rootfs.ensure_dir(root, cwd))
    except OSError as error:
        raise from_os_error(f"mkdir {cwd}", error, LaunchError) from None
