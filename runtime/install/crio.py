"""CRI-O: a drop-in below /etc/crio/crio.conf.d, table `crio.runtime.runtimes` (crio.conf(5))."""

from __future__ import annotations

from pysandbox.runtime.install import Change, Entry, conflict, drop_in, toml, whole_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.install import Installed, Place, Wanted

NAME = "crio"
PROGRAM = "crio"
SERVICE = "systemctl restart crio"
MAIN = "/etc/crio/crio.conf"
DIRECTORY = "/etc/crio/crio.conf.d"
FILE = f"{DIRECTORY}/50-pysandbox.conf"


def plan(place: Place, wanted: Wanted) -> Change:
    path = place.at(FILE)
    for file, text in toml.files(place.at(MAIN), place.at(DIRECTORY)):
        runtimes = toml.table(toml.parse(text, file), file, "crio", "runtime", "runtimes")
        if file != path and wanted.name in runtimes and _command(runtimes[wanted.name]) != wanted.command:
            raise conflict(file, wanted.name, _command(runtimes[wanted.name]) or "something else")
    lines: list[str] = []
    if wanted.default:
        lines += ["[crio.runtime]", f"default_runtime = {toml.quote(wanted.name)}", ""]
    lines += [f"[crio.runtime.runtimes.{toml.quote(wanted.name)}]", f"runtime_path = {toml.quote(wanted.command)}"]
    lines += ['runtime_type = "oci"', 'runtime_root = "/run/pysandbox"']
    return drop_in(path, lines, NAME)


def take_back(text: str, installed: Installed) -> str | None:
    return whole_file(text, installed)


def entries(place: Place) -> list[Entry]:
    found: dict[str, str] = {}
    default = ""
    for file, text in toml.files(place.at(MAIN), place.at(DIRECTORY)):
        runtime = toml.table(toml.parse(text, file), file, "crio", "runtime")
        default = str(runtime.get("default_runtime", default))
        found.update((name, _command(value)) for name, value in toml.table(runtime, file, "runtimes").items())
    return [Entry(name=name, command=command, default=name == default) for name, command in found.items()]


def _command(value: object) -> str:
    return str(value.get("runtime_path", "")) if isinstance(value, dict) else ""
