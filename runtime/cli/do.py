"""`pysandbox do`: see `pysandbox.runtime.do`."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] [--] PROGRAM [ARGUMENTS]",
    flags=(
        Flag("--net", "none|host", "network: loopback only, or the host's", default="none"),
        Flag("--rw", "DIR", "a directory where changes are real (may be repeated)", many=True),
        Flag("--workdir -w", "DIR", "working directory (default: the current one)"),
        Flag("--env -e", "NAME=VALUE", "set an environment variable (may be repeated)", many=True),
        Flag("--trace", "MODE", "ring, full or off", default="ring"),
        Flag("--policy", "FILE", "seccomp profile, or a config.json that has one"),
        Flag("--id", "ID", "name for `trace show` (default: a new one)"),
        Flag("--print-id", "", "print the name on standard error"),
    ),
    count=(1, None),
    leading=True,
)


def main(call: Call) -> int:
    import os

    from pysandbox.oci.errors import UsageError
    from pysandbox.oci.state import check_id
    from pysandbox.runtime import do

    values = call.values
    if values["--trace"] not in ("ring", "full", "off"):
        raise UsageError(f"--trace: {values['--trace']!r} is not ring, full or off")
    container_id = values["--id"] or do.new_id()
    check_id(container_id)
    if values["--print-id"]:
        os.write(2, f"{container_id}\n".encode())
    request = do.Request(
        args=tuple(call.arguments),
        net=values["--net"],
        writable=tuple(values.all("--rw")),
        workdir=values["--workdir"],
        env=tuple(values.all("--env")),
        trace=values["--trace"],
        policy=values["--policy"],
        id=container_id,
    )
    return do.run(request, call.root, call.warn)
