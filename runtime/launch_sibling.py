"""Forking a child of the launcher from inside namespaces that the launcher cannot leave again.

A pid or time namespace takes effect for children, and who wants to come back needs rights over the own one; a user namespace
is never left. So a helper enters them and forks the process as its own sibling (`CLONE_PARENT`).
"""

from __future__ import annotations

import os

from pysandbox.oci.errors import Error, LaunchError, host_reason
from pysandbox.runtime import launch_channel, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIGKILL = 9


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
        answer = "\0".join(("ELaunchError", "0", "1", f"enter namespaces: {reason}"))
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
    raise LaunchError("the process that enters the container's namespaces was killed")
