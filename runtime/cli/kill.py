"""`pysandbox kill`: a signal to a container."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID [SIGNAL]",
    flags=(Flag("--all -a", "", "send it to all of the container's processes"),),
    count=(1, 2),
)


def signal_number(text: str) -> int:
    """`9`, `KILL` or `SIGKILL`. `UsageError`."""
    import signal

    from pysandbox.oci.errors import UsageError

    if text.isascii() and text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper()
    try:
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise UsageError(f"unknown signal {text!r}") from None


def main(call: Call) -> int:
    import os

    from pysandbox.oci import cgroups
    from pysandbox.oci.errors import StatusError
    from pysandbox.runtime.launch_state import open_store

    signo = signal_number(call.arguments[1] if len(call.arguments) > 1 else "SIGTERM")
    with open_store(call.root).open(call.arguments[0]) as container:
        state = container.state
        if call.values["--all"]:
            # Also of a container whose first process has ended: engines clean up this way.
            for pid in cgroups.processes([made.path for made in state.made if made.kind == "cgroup"]):
                try:
                    os.kill(pid, signo)
                except ProcessLookupError:
                    continue
            return 0
        pid = state.pid
        try:
            if not pid:
                raise ProcessLookupError
            # A descriptor names this process for good; the check after opening it settles whether it is the right one.
            pidfd = os.pidfd_open(pid)
            try:
                if state.pid != pid:
                    raise ProcessLookupError
                import signal

                signal.pidfd_send_signal(pidfd, signo)
            finally:
                os.close(pidfd)
        except ProcessLookupError:
            raise StatusError("container not running") from None
    return 0
