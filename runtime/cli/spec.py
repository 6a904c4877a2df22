"""`pysandbox spec`: write a config.json to start from."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options]",
    flags=(
        Flag("--bundle -b", "DIR", "where to write config.json (default: current directory)"),
        Flag("--rootless", "", "a configuration for a user without privileges"),
    ),
    count=(0, 0),
)


def main(call: Call) -> int:
    import json
    import os

    from pysandbox.oci.defaults import default_spec
    from pysandbox.oci.errors import BundleError, host_reason

    path = os.path.join(call.values["--bundle"] or ".", "config.json")
    text = json.dumps(default_spec(bool(call.values["--rootless"])), indent="\t") + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise BundleError(f"file {path} exists: remove it first") from None
    except OSError as error:
        raise BundleError(f"write {path}: {host_reason(error.errno)}", errno=error.errno) from None
    with open(fd, "w") as out:
        out.write(text)
    return 0
