"""The launcher's part in a container with a user namespace.

The container's process must own its pid and time namespaces *in* the user namespace, and the launcher cannot enter that
and come back (`launch_sibling`).

Inside, the process has no rights over the host's files: the root and the sources of bind mounts are opened for it by
another child, which has the launcher's credentials and enters only the container's mount namespace. What is cloned
there keeps the flags that the kernel locks for a less privileged namespace, and the propagation of the container's root.
"""

from __future__ import annotations

import os

from pysandbox.oci import mounts, namespaces, process, rootfs
from pysandbox.oci.errors import Error, LaunchError, from_os_error
from pysandbox.runtime import launch_channel, launch_child, native
from pysandbox.runtime.launch_sibling import fork_sibling

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


def serve_sources(plan: LaunchPlan, pid: int, channel: Channel, wanted: str) -> None:
    """Sends the container's process `pid` its root (O_PATH, a mount in its namespace) and then, in the order of
    config.json, a detached mount for each bind mount; `wanted`: that for the bind mount of this number only, which shows what was
    mounted before. Errors go to it, too: it fails by them.
    """
    helper = os.fork()
    if helper:
        os.waitpid(helper, 0)
        return
    try:
        native.prctl(native.PR_SET_PDEATHSIG, _SIGKILL)
        try:
            fds = _open_sources(plan, pid, wanted)
        except Error as error:
            channel.send_error(error)
        except OSError as error:
            channel.send_error(from_os_error("enter the container's mount namespace", error, LaunchError))
        else:
            for first in range(0, len(fds), launch_channel.MAX_FDS):
                channel.send(launch_channel.SOURCES, fds=tuple(fds[first : first + launch_channel.MAX_FDS]))
    finally:
        os._exit(0)


def _open_sources(plan: LaunchPlan, pid: int, wanted: str) -> list[int]:
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    native.setns(fd, native.CLONE_NEWNS)
    os.close(fd)
    numbers = [int(wanted)] if wanted else [n for n in mounts.binds(plan.spec) if n not in plan.late_sources]
    fds = [] if wanted else [rootfs.prepare_root(plan.spec, plan.rootfs)]
    for number in numbers:
        mount = plan.spec.mounts[number]
        options = mounts.parse_options(mount.options)
        fds.append(mounts.open_source(mount, options, plan.bundle, plan.namespaces.idmaps.get(number)))
    return fds
