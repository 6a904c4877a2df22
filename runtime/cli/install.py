"""`pysandbox install ENGINE`: see `pysandbox.runtime.install`."""

from __future__ import annotations

import os
import sys

from pysandbox.oci.errors import UsageError
from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call
    from pysandbox.runtime.install import Change, Engine, Place, Wanted

ARGUMENTS = Arguments(
    usage="docker|podman|containerd|crio [options]",
    flags=(
        Flag("--default", "", "make it the runtime of containers that ask for none"),
        Flag("--dry-run", "", "show what would be written, write nothing"),
        Flag("--undo --uninstall", "", "take back what was installed"),
        Flag("--name", "NAME", "the runtime's name in the engine", default="pysandbox"),
        Flag("--command", "FILE", "the pysandbox command to be started (default: this one)"),
        Flag("--prefix", "DIR", "work on the configuration below DIR instead of /"),
    ),
    count=(1, None),
)
_USE = {
    "docker": "docker run --runtime={} IMAGE",
    "podman": "podman --runtime={} run IMAGE",
    "containerd": "a RuntimeClass with handler: {}",
    "crio": "a RuntimeClass with handler: {}",
}


def main(call: Call) -> int:
    from pysandbox.runtime import install
    from pysandbox.runtime.install import work

    _take_options(call)
    engine = install.engine(call.arguments[0])
    place = _place(call, engine)
    dry_run = bool(call.values["--dry-run"])
    if call.values["--undo"]:
        if call.values["--default"]:
            raise UsageError("--default and --undo do not go together")
        change = work.undo(engine, place, dry_run=dry_run)
        done = "removed" if change.before is not None and not change.after else "restored"
        lines = [f"{change.path}: {done}"]
    else:
        wanted = _wanted(call)
        change = work.install(engine, place, wanted, dry_run=dry_run)
        lines = [_done(change, wanted), *(f"note: {note}" for note in (*change.notes, *_trust(wanted.command)))]
    if dry_run:
        sys.stdout.write(_difference(change))
        lines = ["nothing was written (--dry-run)", *lines[1:]]
    if change.after != (change.before or ""):
        lines.append(f"to take effect: {engine.SERVICE}")
        if not call.values["--undo"]:
            lines.append(f"to use: {_USE[engine.NAME].format(call.values['--name'])}")
            lines.append(f"to undo: {_undo(call)}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _take_options(call: Call) -> None:
    """Options may stand before and behind the engine's name."""
    values, rest = ARGUMENTS.parse(call.arguments[1:])
    if rest:
        raise UsageError(f"one engine at a time: {' '.join(call.arguments)}")
    for key, value in values.items():
        if value and value != next((flag.default for flag in ARGUMENTS.flags if flag.key == key), ""):
            call.values[key] = value


def _place(call: Call, engine: Engine) -> Place:
    from pysandbox.runtime.install import Place

    prefix = call.values["--prefix"]
    if prefix and not os.path.isdir(prefix):
        raise UsageError(f"--prefix: {prefix} is not a directory")
    if prefix or os.geteuid() == 0:
        return Place(prefix)
    if engine.NAME != "podman":
        raise UsageError(f"the configuration of {engine.NAME} is root's: run this as root")
    return Place(home=os.path.expanduser("~"))


def _wanted(call: Call) -> Wanted:
    from pysandbox.runtime.install import Wanted

    name = call.values["--name"]
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"--name: {name!r}: letters, digits, '.', '-' and '_' only")
    command = os.path.abspath(call.values["--command"] or sys.argv[0])
    if not command.isprintable():
        raise UsageError(f"--command: {command!r} cannot be written into a configuration")
    if not os.path.isfile(command) or not os.access(command, os.X_OK):
        raise UsageError(f"--command: {command} is not a program")
    return Wanted(name=name, command=command, default=bool(call.values["--default"]))


def _done(change: Change, wanted: Wanted) -> str:
    if change.after == change.before:
        return f"{change.path}: runtime {wanted.name!r} is there already; nothing to change"
    return f"{change.path}: runtime {wanted.name!r} is {wanted.command}{', the default' if wanted.default else ''}"


def _trust(command: str) -> list[str]:
    """Engines start the command as root: others must not be able to exchange it."""
    path = os.path.realpath(command)
    while True:
        found = os.stat(path)
        sticky = found.st_mode & 0o1000 and os.path.isdir(path)
        if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not sticky):
            return [f"{path} can be changed by others than root, who then decide what engines run"]
        if path == "/":
            return []
        path = os.path.dirname(path)


def _difference(change: Change) -> str:
    from difflib import unified_diff

    before, after = (text.splitlines(keepends=True) for text in (change.before or "", change.after))
    lines = unified_diff(before, after, change.path if change.before is not None else os.devnull, change.path)
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _undo(call: Call) -> str:
    prefix = call.values["--prefix"]
    return f"pysandbox install {call.arguments[0]}{f' --prefix {prefix}' if prefix else ''} --undo"
