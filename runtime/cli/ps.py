"""`pysandbox ps`: the processes of a container, with the host's pids."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID [ps options]",
    flags=(Flag("--format -f", "FORMAT", "table or json", default="table"),),
    count=(1, None),
    leading=True,
)


def main(call: Call) -> int:
    import sys

    from pysandbox.oci import jsontext
    from pysandbox.oci.errors import UsageError
    from pysandbox.runtime.launch_state import open_store
    from pysandbox.runtime.processes import of_container, table

    style = call.values["--format"]
    if style not in ("table", "json"):
        raise UsageError(f"invalid format option: {style}")
    pids = of_container(open_store(call.root).load(call.arguments[0]))
    if style == "json":
        sys.stdout.write(jsontext.dump(pids) + "\n" if pids else "null\n")
    else:
        sys.stdout.write(table(pids, call.arguments[1:] or ["-ef"]))
    return 0
