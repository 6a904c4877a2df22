"""The process of `exec`, from the fork to the exec of its monitor. As `launch_child`, with namespaces that exist.

1. host side: session, OOM score, CPU affinity; a procfs of the container's pid namespace, while the host's rights are there
2. all of the container's namespaces at once, named by the descriptor of its first process; with the mount namespace the
   process gets the container's root and leaves the host's tree
3. terminal; the launcher plans the program's text meanwhile
4. what every process of a container does before its program (`launch_exec`)
"""

from __future__ import annotations

import os

from pysandbox.oci import process, rootfs, userns
from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.oci.places import Places
from pysandbox.oci.spec import Personality
from pysandbox.runtime import abi, launch_channel, launch_console, launch_exec, launch_proc, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pysandbox.runtime.enter import EntryPlan
    from pysandbox.runtime.launch_channel import Channel


def entered_process(plan: EntryPlan, channel: Channel, planner: int | None) -> NoReturn:
    """Never returns: becomes the program, or reports an error and exits."""
    launch_exec.report_errors(channel, "exec", lambda: _become(plan, channel, planner))


def _become(plan: EntryPlan, channel: Channel, planner: int | None) -> NoReturn:
    wanted, options = plan.process, plan.options
    launch_exec.tie_to_launcher(channel)
    launch_exec.reset_signals()
    os.setsid()
    affinity = wanted.exec_cpu_affinity
    if affinity is not None:
        process.set_affinity(affinity.initial)
    channel.step(f"nsexec: affinity: {sum(1 << cpu for cpu in os.sched_getaffinity(0)):#x}")
    warning = process.set_oom_score(wanted.oom_score_adj)
    if warning:
        channel.send(launch_channel.WARNING, warning)
    user_space = bool(plan.spaces & native.CLONE_NEWUSER)
    if user_space:
        process.raise_hard_limits(wanted.rlimits)
    launch_exec.preload()
    channel.step("nsexec container setup: joining the container's namespaces")
    spaces = plan.spaces & ~native.CLONE_NEWPID
    if plan.user_first:
        # In that namespace already, by which the mounts of the host are not its to change: those of a copy are.
        native.unshare(native.CLONE_NEWNS)
        spaces &= ~native.CLONE_NEWUSER
    own = launch_proc.own_proc()
    launch_exec.seal_imports()
    if spaces:
        try:
            native.setns(plan.init, spaces)
        except OSError as error:
            raise from_os_error("join the container's namespaces", error, LaunchError) from None
    os.close(plan.init)
    if user_space:
        userns.become_root()
        userns.become_root_group()
    if plan.kept.root:
        # A place in the state directory. Should the container have changed its own mounts, it is what it made of it.
        rootfs.enter_shared_root(os.open(plan.kept.root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    channel.step("child process in init(): inside")
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    places = Places(root)
    proc = launch_proc.container_proc(places, own)
    terminal = launch_console.open_terminal(places, wanted, channel, console=False) if wanted.terminal else None
    channel.send(launch_channel.ROOT, plan.path or wanted.args[0], (root,))
    os.close(root)
    inbox = _Inbox(channel)
    if affinity is not None:
        inbox.joined()
        process.set_affinity(affinity.final)
    roles = {**plan.roles, abi.FD_PROC: proc}
    if planner is not None:
        roles[abi.FD_PLANNER] = planner
    own_id = options.id if plan.kept.keyring else ""
    program = launch_exec.Program(
        process=wanted,
        personality=Personality(domain=plan.kept.personality) if plan.kept.personality else None,
        capabilities=plan.capabilities,
        dispatch=plan.kept.dispatch,
        trace=plan.kept.trace_mode,
        pin=plan.kept.pin,
        preserve_fds=options.preserve_fds,
        listen_fds=options.listen_fds,
        keyring=own_id,
        detach=options.detach,
        path=plan.path,
        stdio=plan.stdio,
        keep_cpus=affinity is not None,
    )
    channel.step("setns_init: about to exec the monitor")
    launch_exec.become(program, roles, inbox, channel, terminal=terminal)


class _Inbox:
    """What the launcher tells, in whatever order it comes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._told: dict[str, list[int]] = {}

    def _wait(self, kind: str) -> list[int]:
        while kind not in self._told:
            message = self._channel.receive()
            if message is None:
                os._exit(1)  # the launcher died, or gave up
            self._told[message[0]] = message[2]
        return self._told[kind]

    def joined(self) -> None:
        self._wait(launch_channel.JOINED)

    def plans(self) -> list[int]:
        return self._wait(launch_channel.PLANS)
