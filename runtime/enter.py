"""`exec`: a further process in a running container, with a monitor of its own, the container's policy and its trace.

The launcher stays outside. Its child is born into the container's pid namespace, enters the others, and becomes the
program as the container's first process did (`launch_exec`). Nothing that decides is taken from inside the container:
policy, trace and cgroups come from the state directory, the monitor from the installation.
"""

from __future__ import annotations

import os

from pysandbox.oci import cgroups
from pysandbox.oci._struct import Struct
from pysandbox.oci.bundle import parse_process
from pysandbox.oci.errors import LaunchError, StatusError, UnsupportedError, from_os_error
from pysandbox.oci.namespaces import is_open_to_us
from pysandbox.oci.process import CapabilitySets
from pysandbox.runtime import (
    abi,
    activation,
    enter_process,
    kept,
    launch_channel,
    launch_console,
    launch_follow,
    launch_plan,
    launch_state,
    launch_vault,
    launch_wait,
    native,
)
from pysandbox.runtime import planner as planners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.oci.spec import Hook, Process
    from pysandbox.oci.state import State, Store
    from pysandbox.runtime.enter_process import Wishes
    from pysandbox.runtime.hooks import Streams
    from pysandbox.runtime.kept import Kept
    from pysandbox.runtime.launch_notify import Agent

_CAP_SYS_ADMIN = 21
# Name under /proc/PID/ns -> flag of setns(2), but for the pid namespace, which is for children.
_SPACES = {
    "user": native.CLONE_NEWUSER,
    "mnt": native.CLONE_NEWNS,
    "ipc": native.CLONE_NEWIPC,
    "uts": native.CLONE_NEWUTS,
    "net": native.CLONE_NEWNET,
    "cgroup": native.CLONE_NEWCGROUP,
    "time": native.CLONE_NEWTIME,
}


class Options(Struct):
    """How `exec` is asked, apart from the process itself; names as runc's flags. `debug`: where steps are told."""

    id: str
    root: str
    detach: bool = False
    pid_file: str = ""
    console_socket: str = ""
    pidfd_socket: str = ""
    preserve_fds: int = 0
    listen_fds: int = 0
    ignore_paused: bool = False
    cgroup: tuple[str, ...] = ()
    debug: Callable[[str], None] | None = None


class EntryPlan(Struct):
    """All that the new process needs, inherited across the fork. Integers are descriptors of the launcher. `spaces`:
    flags of the namespaces to enter, `init`: pidfd of the container's first process; `user_first`: the rights to enter
    them come with the user namespace; `path`, `stdio`: of a hook (`launch_exec.Program`)."""

    options: Options
    process: Process
    kept: Kept
    capabilities: CapabilitySets
    init: int
    spaces: int
    user_first: bool
    cgroup: cgroups.Cgroup
    roles: dict[int, int]
    path: str = ""
    stdio: tuple[int, ...] = ()
    agent: Agent | None = None


def run(options: Options, wishes: Wishes, warn: Callable[[str], None]) -> int:
    """Exit status of the process, 128+signal when killed; 0 for a detached one, once its program runs."""
    store = launch_state.open_store(options.root)
    state = store.load(options.id)
    _check_status(state, options)
    own, policy = _kept(store, state)
    wanted = enter_process.wanted_process(wishes, own.process, warn)
    plan = _make_plan(state, own, policy, options, wanted, warn)
    running = _start(plan, state, warn, None if options.detach else launch_wait.Signals())
    return 0 if options.detach else running.wait()


def start_hook(store: Store, state: State, hook: Hook, streams: Streams, warn: Callable[[str], None]) -> int:
    """Starts a startContainer hook: with the rights of the container's own program. The pid, a child of ours."""
    own, policy = _kept(store, state)
    raw = {**own.process, "args": list(hook.args) or [hook.path], "terminal": False}
    raw.pop("consoleSize", None)
    if hook.env is not None:
        raw["env"] = list(hook.env)
    options = Options(id=state.id, root=store.root)
    plan = _make_plan(state, own, policy, options, parse_process(raw), warn)
    stdio = (streams.stdin, streams.stdout, streams.stderr)
    return _start(plan.replace(path=hook.path, stdio=stdio), state, warn, None).pid


def _kept(store: Store, state: State) -> tuple[Kept, bytes]:
    """What the state directory has about the container, and its policy."""
    directory = os.open(os.path.join(store.root, state.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return kept.load(directory, state.id), kept.load_policy(directory, state.id)
    finally:
        os.close(directory)


def _check_status(state: State, options: Options) -> None:
    status = state.status
    if status == "stopped":
        raise StatusError("cannot exec in a stopped container")
    if status == "paused" and not options.ignore_paused:
        raise StatusError("cannot exec in a paused container (use --ignore-paused to override)")
    if status == "creating":
        raise StatusError("cannot exec in a container that is still being created")


def _make_plan(
    state: State, own: Kept, policy: bytes, options: Options, wanted: Process, warn: Callable[[str], None]
) -> EntryPlan:
    if wanted.terminal and options.detach and not options.console_socket:
        raise LaunchError("cannot allocate tty if pysandbox will detach without setting console socket")
    if options.console_socket and not (wanted.terminal and options.detach):
        raise LaunchError("cannot use console socket if pysandbox will not detach or allocate tty")
    activation.check_descriptors(options.listen_fds + options.preserve_fds)
    if wanted.apparmor_profile and not os.path.isdir("/sys/kernel/security/apparmor"):
        raise UnsupportedError("an AppArmor profile is asked for, but AppArmor is not enabled on this host")
    if wanted.selinux_label and not os.path.isdir("/sys/fs/selinux"):
        raise UnsupportedError("a process label is asked for, but SELinux is not enabled on this host")
    init = _open_init(state)
    agent = None
    if own.listener:
        from pysandbox.runtime.launch_notify import Agent

        agent = Agent(own.listener[0], own.listener[1])
    spaces = _spaces(state.pid)
    capabilities = CapabilitySets(wanted.capabilities, new_user=bool(spaces & native.CLONE_NEWUSER))
    for line in capabilities.warnings:
        warn(line)
    return EntryPlan(
        options=options,
        process=wanted,
        kept=own,
        capabilities=capabilities,
        init=init,
        spaces=spaces,
        user_first=bool(spaces & native.CLONE_NEWUSER) and not native.capget()[0] >> _CAP_SYS_ADMIN & 1,
        cgroup=_cgroup(state, options),
        roles=_roles(own, policy, agent, os.path.join(options.root, state.id)),
        agent=agent,
    )


def _open_init(state: State) -> int:
    """A descriptor names the process for good; the state is looked at again behind it, against a reused pid."""
    pid = state.pid
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        raise StatusError("cannot exec in a stopped container") from None
    if state.pid != pid:
        raise StatusError("cannot exec in a stopped container")
    return fd


def _spaces(pid: int) -> int:
    """Flags of the namespaces in which the container's first process is and the caller is not."""
    flags = 0
    for name, flag in (*_SPACES.items(), ("pid", native.CLONE_NEWPID)):
        try:
            here, there = (os.stat(f"/proc/{who}/ns/{name}") for who in ("self", pid))
        except FileNotFoundError:
            if not os.path.exists(f"/proc/{pid}/ns"):
                raise StatusError("cannot exec in a stopped container") from None
            continue  # a kernel without this kind
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            flags |= flag
    return flags


def _cgroup(state: State, options: Options) -> cgroups.Cgroup:
    """The container's groups, or those below them that --cgroup names: `[CONTROLLER[,CONTROLLER]:]PATH`."""
    own = cgroups.of_state(state)
    paths = dict(own.paths)
    for wish in options.cgroup:
        controllers, colon, below = wish.partition(":")
        if not colon:
            controllers, below = "", wish
        if colon and "" in paths:
            raise LaunchError(f"--cgroup: {wish}: no controllers can be named with cgroup version 2")
        for controller in controllers.split(",") if controllers else paths:
            if controller not in paths:
                raise LaunchError(f"--cgroup: unknown controller {controller} in {wish}")
            paths[controller] = os.path.normpath(f"{own.paths[controller]}/{below}")
            if not f"{paths[controller]}/".startswith(f"{own.paths[controller]}/"):
                raise LaunchError(f"--cgroup: {below} is not a sub cgroup path")
    return cgroups.Cgroup(paths=paths)


def _roles(own: Kept, policy: bytes, agent: Agent | None, directory: str) -> dict[int, int]:
    roles = {
        abi.FD_KVM: launch_plan.open_kvm(),
        abi.FD_MONITOR: launch_vault.monitor_memfd(),
        abi.FD_POLICY: launch_vault.sealed_memfd("pysandbox-policy", policy),
        abi.FD_HOST_SELF: os.open("/proc/thread-self", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC),
        abi.FD_CTL: launch_vault.open_control(directory),
        abi.FD_POOL: launch_vault.pool_memfd(own.memory),
    }
    if agent is not None:
        roles[abi.FD_NOTIFY] = agent.asking
    if own.trace:
        try:
            roles[abi.FD_TRACE] = os.open(own.trace, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            # A call that cannot be recorded is not made: so nothing runs without the trace it should have.
            raise from_os_error(f"open the container's trace {own.trace}", error, LaunchError) from None
    return roles


def _start(
    plan: EntryPlan, state: State, warn: Callable[[str], None], signals: launch_wait.Signals | None
) -> launch_wait.Running:
    options = plan.options
    planner = planners.socket_pair() if signals or options.detach else None  # served as a container's
    ours, theirs = launch_channel.channel_pair(verbose=options.debug is not None)
    # Before the fork: the container's processes see the new one at once, and must not reach this program through it.
    native.prctl(native.PR_SET_DUMPABLE, 0)
    try:
        pid = _fork(plan)
        if pid == 0:
            ours.close()
            if planner:
                os.close(planner[0])
            from pysandbox.runtime.enter_child import entered_process

            entered_process(plan, theirs, planner[1] if planner else None)
    except (OSError, LaunchError) as error:
        # ENOMEM: no process can be made any more in a pid namespace whose init has ended.
        if state.status == "stopped":
            raise StatusError("cannot exec in a stopped container") from None
        raise from_os_error("fork", error, LaunchError) if isinstance(error, OSError) else error from None
    theirs.close()
    if planner:
        os.close(planner[1])
    running = launch_wait.Running(pid, signals, warn, planner[0] if planner else None)
    joiner: launch_follow.Joiner | None = None
    try:
        # Whoever names a group means that one, and no other that might do.
        init = 0 if options.cgroup else state.pid
        joiner = launch_follow.Joiner(lambda: cgroups.enter(plan.cgroup, pid, init), pid, ours)
        if plan.agent is not None:
            plan.agent.tell(pid, state.oci())
        launch_follow.follow(
            ours, running, plan.process, joiner, warn, console_socket=options.console_socket, debug=options.debug
        )
        if options.pid_file:
            launch_follow.write_pid_file(options.pid_file, pid)
        if options.pidfd_socket:
            launch_console.send_pidfd(options.pidfd_socket, pid)
        if options.detach and planner and running.plans:
            planners.spawn(planner[0], running.plans.writer_fd, warn)
    except BaseException:
        if joiner is not None:
            joiner.wait()
        running.abort()
        raise
    finally:
        ours.close()
    return running


def _fork(plan: EntryPlan) -> int:
    """Forks a child of ours into the container's pid namespace; returns like fork(2)."""
    if not plan.spaces & native.CLONE_NEWPID:
        return os.fork()
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if plan.user_first or not is_open_to_us(home, native.CLONE_NEWPID):
            from pysandbox.runtime.launch_sibling import fork_sibling

            flags = native.CLONE_NEWPID | (native.CLONE_NEWUSER if plan.user_first else 0)
            return fork_sibling(lambda: native.setns(plan.init, flags))
        native.setns(plan.init, native.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:  # not in the child, which cannot
                native.setns(home, native.CLONE_NEWPID)
        return pid
    finally:
        os.close(home)
