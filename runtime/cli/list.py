"""`pysandbox list`: all containers of a state directory."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options]",
    flags=(
        Flag("--format -f", "FORMAT", "table or json", default="table"),
        Flag("--quiet -q", "", "ids only"),
    ),
    count=(0, 0),
)
_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def main(call: Call) -> int:
    import sys

    from pysandbox.oci.errors import StateError, UsageError
    from pysandbox.runtime.launch_state import open_store

    style = call.values["--format"]
    if style not in ("table", "json"):
        raise UsageError(f"invalid format option: {style}")
    store = open_store(call.root)
    reports = []
    for container_id in store.ids():
        try:
            reports.append(store.load(container_id).report())
        except StateError as error:
            call.warn(error.message)
    if call.values["--quiet"]:
        sys.stdout.write("".join(f"{report['id']}\n" for report in reports))
    elif style == "json":
        import json

        sys.stdout.write(json.dumps(reports) if reports else "null")
    else:
        rows = [[name.upper() for name in _COLUMNS]]
        rows += [[str(report[name]) for name in _COLUMNS[:-1]] + [report["owner"] or "root"] for report in reports]
        widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(_COLUMNS) - 1)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
            sys.stdout.write("".join(cells) + row[-1] + "\n")
    return 0
