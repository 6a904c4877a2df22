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
    import os
    import sys

    from pysandbox.oci import jsontext
    from pysandbox.oci.errors import ContainerNotFound, StateError, UsageError
    from pysandbox.runtime.launch_state import open_store

    style = call.values["--format"]
    if style not in ("table", "json"):
        raise UsageError(f"invalid format option: {style}")
    store = open_store(call.root)
    reports = []
    for container_id in store.ids():
        try:
            reports.append({**store.load(container_id).report(), "owner": _owner(os.path.join(store.root, container_id))})
        except ContainerNotFound:
            continue  # removed meanwhile
        except StateError as error:
            call.warn(error.message)
    if call.values["--quiet"]:
        sys.stdout.write("".join(f"{report['id']}\n" for report in reports))
    elif style == "json":
        sys.stdout.write((jsontext.dump(reports) if reports else "null") + "\n")
    else:
        rows = [[name.upper() for name in _COLUMNS]]
        rows += [[str(report[name]) for name in _COLUMNS] for report in reports]
        widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(_COLUMNS) - 1)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
            sys.stdout.write("".join(cells) + row[-1] + "\n")
    return 0


def _owner(path: str) -> str:
    """Name of the user who made the container; `#` and the number where it has none."""
    import os
    import pwd

    try:
        uid = os.stat(path).st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
