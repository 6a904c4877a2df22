"""The last steps of a process on its way to its program, for a container's first process and for `exec` alike: all that
narrows its rights, then the program is looked up with the rights it will have, then vault, descriptors, exec of the
monitor.

The caller is in the container's namespaces and root already, and can import nothing any more.
"""

from __future__ import annotations

import os
import sys

from pysandbox.oci import process
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import Error, LaunchError, from_os_error
from pysandbox.runtime import abi, launch_channel, launch_console, launch_program, launch_vault, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from pysandbox.oci.process import CapabilitySets
    from pysandbox.oci.spec import Personality, Process
    from pysandbox.runtime.launch_channel import Channel

    class Inbox(Protocol):
        """What the launcher tells; each waits for it."""

        def joined(self) -> None: ...
        def plans(self) -> list[int]: ...


_SIGKILL = 9


class Program(Struct):
    """What to become. `listen_fds`, `preserve_fds`: how many descriptors from 3 on are passed, and behind them;
    `dispatch`, `trace`, `pin`: as in the start record; `keyring`: id of the container whose session
    keyring is joined, "" for none; `detach`: the process outlives the launcher; `path`: the program where args[0] does
    not name it; `stdio`: standard streams where they are not the launcher's; `keep_groups`: as crun's annotation;
    `keep_cpus`: the affinity is chosen already."""

    process: Process
    personality: Personality | None
    capabilities: CapabilitySets
    dispatch: int
    trace: int
    pin: int
    preserve_fds: int
    listen_fds: int
    keyring: str
    detach: bool
    path: str = ""
    stdio: tuple[int, ...] = ()
    keep_groups: bool = False
    keep_cpus: bool = False


def become(
    program: Program,
    roles: dict[int, int],
    inbox: Inbox,
    channel: Channel,
    *,
    terminal: int | None = None,
    start_socket: int | None = None,
) -> NoReturn:
    """`roles`: PSB_FD_* -> descriptor, all but the plans; `terminal`: slave to be the controlling terminal;
    `start_socket`: what the program waits on.
    """
    wanted = program.process
    for number, fd in enumerate(program.stdio):
        os.dup2(fd, number, inheritable=True)
    if terminal is not None:
        launch_console.take_terminal(terminal)
    os.umask(0o022 if wanted.user.umask is None else wanted.user.umask)
    if program.keyring:
        join_keyring(program.keyring)

    inbox.joined()
    if not program.keep_cpus:
        all_cpus(channel)
    plans = inbox.plans()
    if plans:
        roles = {**roles, abi.FD_PLAN_INDEX: plans[0], abi.FD_PLAN_STORE: plans[1]}
    facts_file = plans[2] if len(plans) > 2 else -1
    facts = b"" if facts_file < 0 else launch_vault.read_facts(facts_file)
    vault = launch_vault.make_vault(roles)

    process.set_scheduling(wanted)
    process.set_security_labels(wanted, roles[abi.FD_PROC])
    process.set_personality(program.personality)
    process.own_stdio(wanted.user.uid)
    nofile, stack = process.descriptor_limits(wanted.rlimits), process.stack_limit(wanted.rlimits)
    process.set_rlimits(wanted.rlimits)
    process.drop_bounding(program.capabilities)
    process.become_user(wanted, keep_groups=program.keep_groups)
    process.change_directory(wanted)
    # Always, whatever config.json says: the monitor's confinement rests on it.
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    process.set_capabilities(program.capabilities)
    # A change of credentials clears it.
    tie_to_launcher(channel)

    env = process.environment(wanted)
    if program.listen_fds:
        env.update(LISTEN_FDS=str(program.listen_fds), LISTEN_PID=str(os.getpid()))
    path = launch_program.find_program(program.path or wanted.args[0], env)
    launch_program.check_format(path)
    first_free = 3 + program.listen_fds + program.preserve_fds
    number = launch_vault.monitor_number(process.own_descriptor_limit(), first_free)
    waiting = [] if start_socket is None else [start_socket]
    leaving = [] if facts_file < 0 or facts else [facts_file]
    record = launch_vault.start_record(
        path=os.path.realpath(path),
        execfn=path,
        fds=[0, 1, 2, *range(3, first_free)],
        dispatch=program.dispatch,
        trace=program.trace,
        pin=program.pin,
        stack_limit=stack,
        nofile=nofile,
        wait_fd=number + 3 if waiting else 0,
        no_new_privs=wanted.no_new_privileges,
        facts=facts,
        facts_fd=number + 3 + len(waiting) if leaving else 0,
    )
    # Whatever an engine leaked into the runtime stops here; those at their numbers are set inheritable afterwards.
    native.close_range(first_free, flags=native.CLOSE_RANGE_CLOEXEC)
    launch_vault.place(number, roles[abi.FD_MONITOR], vault, record, *waiting, *leaving)
    channel.step(f"program {path}, monitor at descriptor {number}")
    channel.send(launch_channel.READY)
    if program.detach:
        native.prctl(native.PR_SET_PDEATHSIG, 0)
    try:
        os.execve(number, list(wanted.args), env)
    except OSError as error:
        raise from_os_error("start the monitor", error, LaunchError) from None


def report_errors(channel: Channel, what: str, become: Callable[[], NoReturn]) -> NoReturn:
    """Runs a forked child: whatever it meets is sent through the channel, and then it ends. `what` it was doing."""
    try:
        become()
    except Error as error:
        _report(channel, error)
    except OSError as error:
        doing = error.filename if isinstance(error.filename, str) else what
        _report(channel, from_os_error(doing, error, LaunchError))
    except BaseException as error:  # noqa: BLE001 -- whatever it is must reach the user through the launcher, not die in a fork
        _report(channel, LaunchError(f"internal error: {type(error).__name__}: {error}"))
        if os.environ.get("PSB_DEBUG"):
            import traceback

            traceback.print_exc()
    finally:
        os._exit(1)


def _report(channel: Channel, error: Error) -> None:
    try:
        channel.send_error(error)
    except OSError:
        pass  # the launcher is gone: nobody to tell


def preload() -> None:
    """All modules that the process needs once the host's files are out of sight."""
    import _signal  # type: ignore[import-not-found]  # noqa: F401
    import _struct  # noqa: F401
    import errno  # noqa: F401
    import fcntl  # noqa: F401
    import resource  # noqa: F401


def seal_imports() -> None:
    """From here on Python's module path names files of the *container*. Importing one would run its code with the
    launcher's rights, so there is no import any more: a module forgotten in `preload` is an error, never an escape."""
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


def tie_to_launcher(channel: Channel) -> None:
    """The launcher's death is this process's, too. It may have died just before: then the channel has ended."""
    native.prctl(native.PR_SET_PDEATHSIG, _SIGKILL)
    if channel.closed():
        os._exit(1)


def reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and an engine may leave others blocked or ignored: the program starts
    clean.
    """
    import _signal  # what `signal` wraps in enums, at 4 ms

    for signo in range(1, _signal.NSIG):
        if signo not in (9, 19, 32, 33):
            _signal.signal(signo, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def all_cpus(channel: Channel) -> None:
    """A launcher bound to some CPUs, by a service manager say, does not bind its containers: their cgroup does. Since 6.2 the
    kernel keeps what was asked for across a change of cpuset, so joining the cgroup alone does not undo it."""
    try:
        native.all_cpus()
    except OSError as error:
        channel.send(launch_channel.WARNING, f"CPU affinity is the runtime's own: {error.strerror}")


def join_keyring(container_id: str) -> None:
    """A session keyring of the container's own: keys of the caller's session stay outside."""
    try:
        native.join_session_keyring(f"_ses.{container_id}")
    except OSError as error:
        import errno

        # Kernel without keys, or a quota used up by other containers: the old keyring is left behind all the same,
        # because the program's keyctl is decided by policy.
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise from_os_error("join session keyring", error, LaunchError) from None
