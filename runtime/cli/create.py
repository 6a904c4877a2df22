"""`pysandbox create`: set a container up; its program runs at `start`."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments
from pysandbox.runtime.cli.launching import FLAGS, options_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="[options] CONTAINER-ID", flags=FLAGS, count=(1, 1))


def main(call: Call) -> int:
    from pysandbox.runtime import launch_early

    launch_early.begin()
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.runtime import launch

    options = options_of(call, detach=True)
    launch.create(load_bundle(call.values["--bundle"] or ".", call.values["--config"]), options, call.warn)
    return 0
