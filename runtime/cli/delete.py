"""`pysandbox delete`: remove what a container still holds."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID   or   [options] --regex EXPRESSION",
    flags=(
        Flag("--force -f", "", "kill it first if it still runs; no error when there is no such container"),
        Flag("--regex", "", "the argument is a regular expression, found in the ids of the containers to delete (as crun)"),
    ),
    count=(1, 1),
)


def main(call: Call) -> int:
    if call.values["--regex"]:
        return _all_that_match(call, call.arguments[0])
    _one(call, call.arguments[0], bool(call.values["--force"]))
    return 0


def _one(call: Call, container_id: str, force: bool) -> None:
    from pysandbox.oci.errors import ContainerNotFound
    from pysandbox.runtime.remove import delete

    try:
        delete(call.root, container_id, call.warn, force=force)
    except ContainerNotFound:
        if not force:
            raise


def _all_that_match(call: Call, expression: str) -> int:
    """One that cannot be deleted keeps none of the others: 1 then."""
    import re

    from pysandbox.oci.errors import Error, UsageError
    from pysandbox.runtime.launch_state import open_store

    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"{expression!r} is not a regular expression: {error}") from None
    status = 0
    for container_id in open_store(call.root).ids():
        if pattern.search(container_id):
            try:
                _one(call, container_id, bool(call.values["--force"]))
            except Error as error:
                call.log.write("error", error.message)
                status = 1
    return status
