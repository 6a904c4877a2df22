"""`pysandbox run`: create and start a container, and wait for it unless detached."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag
from pysandbox.runtime.cli.launching import FLAGS, options_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID",
    flags=(
        *FLAGS,
        Flag("--detach -d", "", "return when the program runs"),
        Flag("--keep", "", "do not delete the container after it has ended"),
        Flag("--no-subreaper", "", "accepted for compatibility: the launcher needs no subreaper"),
    ),
    count=(1, 1),
)


def main(call: Call) -> int:
    from pysandbox.runtime import launch_early

    launch_early.begin()
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.runtime import launch

    values = call.values
    options = options_of(
        call,
        detach=bool(values["--detach"]),
        keep=bool(values["--keep"]),
        no_subreaper=bool(values["--no-subreaper"]),
    )
    return launch.run(load_bundle(values["--bundle"] or ".", values["--config"]), options, call.warn)
