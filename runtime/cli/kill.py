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


def main(call: Call) -> int:
    from pysandbox.runtime.kill import kill, kill_all, signal_number
    from pysandbox.runtime.launch_state import open_store

    signo = signal_number(call.arguments[1] if len(call.arguments) > 1 else "SIGTERM")
    state = open_store(call.root).load(call.arguments[0])
    if call.values["--all"]:
        kill_all(state, signo)
    else:
        kill(state, signo)
    return 0
