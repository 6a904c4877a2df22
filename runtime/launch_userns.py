"""The launcher's part in a container with a user namespace.

The container's process must own its pid and time namespaces *in* the user namespace, and the launcher cannot enter that
and come back: so a child enters it, makes them, and forks the process as its own sibling. The process is the
launcher's child all the same.

Inside, the process has no rights over the host's files: the root and the sources of bind mounts are opened for it by
another child, which has the launcher's credentials and enters only the container's mount namespace. What is cloned
there keeps the flags that the kernel locks for a less privileged namespace, and the propagation of the container's root.
"""

from __future__ import annotations

import os

from pysandbox.oci import mounts, namespaces, process, rootfs
from pysandbox.oci.errors import Error, LaunchError, from_os_error, host_reason
from pysandbox.runtime import launch_channel, launch_child, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pysandbox.runtime.launch_channel import Channel
    from pysandbox.runtime.launch_plan import LaunchPlan

_SIGKILL = 9


def fork_process(plan: LaunchPlan, channel: Channel, become: Callable[[], NoReturn]) -> int:
    """Forks the container's first process into its user, pid and time namespaces, where it runs `become`; the pid."""

    def enter() -> None:
        # What the root of a user namespace may not do; inherited.
        launch_child.set_oom_score(plan, channel)
        process.raise_hard_limits(plan.spec.process.rlimits)
        namespaces.enter_user(plan.namespaces, plan.spec)

    pid = fork_sibling(enter)
    if pid == 0:
        become()
    return pid


def fork_sibling(enter: Callable[[], None]) -> int:
    """Forks a process from a child of ours that has run `enter`; returns like fork(2). The process is our child, too.

    Raises what `enter` raises. In the process itself the call returns 0 when the caller has its pid.
    """
    told, tell = os.pipe()
    helper = os.fork()
    if helper:
        os.close(tell)
        return _sibling_pid(told, helper)
    try:
        os.close(told)
        native.prctl(native.PR_SET_PDEATHSIG, _SIGKILL)
        born, birth = os.pipe()
        enter()
        pid = native.fork_sibling()
        if pid == 0:
            os.close(tell)
            os.close(birth)
            os.read(born, 1)  # until the helper is gone: it has told our pid then
            os.close(born)
            return 0
        answer = f"P{pid}"
    except Error as error:
        answer = "\0".join((f"E{type(error).__name__}", str(error.errno or 0), str(error.status), error.message))
    except BaseException as error:  # noqa: BLE001 -- a fork must not go on as a second launcher, whatever happens
        reason = host_reason(error.errno) if isinstance(error, OSError) else repr(error)
        answer = "\0".join(("ELaunchError", "0", "1", f"enter user namespace: {reason}"))
    try:
        os.write(tell, answer.encode(errors="replace")[:4096])
    finally:
        os._exit(0)


def _sibling_pid(told: int, helper: int) -> int:
    answer = os.read(told, 4096).decode(errors="replace")
    os.close(told)
    os.waitpid(helper, 0)
    if answer[:1] == "P":
        return int(answer[1:])
    if answer[:1] == "E":
        raise launch_channel.error_from(answer[1:])
    raise LaunchError("the process that enters the user namespace was killed")


def serve_sources(plan: LaunchPlan, pid: int, channel: Channel) -> None:
    """Sends the container's process `pid` its root (O_PATH, a mount in its namespace) and then, in the order of
    config.json, a detached mount for each bind mount. Errors go to it, too: it fails by them.
    """
    helper = os.fork()
    if helper:
        os.waitpid(helper, 0)
        return
    try:
        native.prctl(native.PR_SET_PDEATHSIG, _SIGKILL)
        try:
            fds = _open_sources(plan, pid)
        except Error as error:
            channel.send_error(error)
        except OSError as error:
            channel.send_error(from_os_error("enter the container's mount namespace", error, LaunchError))
        else:
            for first in range(0, len(fds), launch_channel.MAX_FDS):
                channel.send(launch_channel.SOURCES, fds=tuple(fds[first : first + launch_channel.MAX_FDS]))
    finally:
        os._exit(0)


def _open_sources(plan: LaunchPlan, pid: int) -> list[int]:
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    native.setns(fd, native.CLONE_NEWNS)
    os.close(fd)
    fds = [rootfs.prepare_root(plan.spec, plan.rootfs)]
    for number, mount in enumerate(plan.spec.mounts):
        options = mounts.parse_options(mount.options)
        if mounts.is_bind(mount, options):
            fds.append(mounts.open_source(mount, options, plan.bundle, plan.namespaces.idmaps.get(number)))
    return fds
