"""Podman and buildah: a drop-in below containers.conf.d, tables `engine` and `engine.runtimes` (containers.conf(5)).

Without being in `runtime_supports_json` a runtime is not asked for a log that podman can read, and its errors are shown less
well. A list in a drop-in replaces earlier ones, so the list written is the one in effect with one name more.
"""

from __future__ import annotations

from pysandbox.runtime.install import Change, Entry, conflict, drop_in, toml, whole_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.install import Installed, Place, Wanted

NAME = "podman"
PROGRAM = "podman"
SERVICE = "nothing: podman and buildah read it with every command (podman's API service, if it runs: restart it)"
_JSON = ("crun", "runc", "kata", "runsc", "krun")  # the built-in list (containers.conf(5))


def _main(place: Place) -> str:
    return place.at(f"{place.home}/.config/containers/containers.conf" if place.home else "/etc/containers/containers.conf")


def _file(place: Place) -> str:
    return f"{_main(place)}.d/50-pysandbox.conf"


def plan(place: Place, wanted: Wanted) -> Change:
    path = _file(place)
    json_names: list[str] = list(_JSON)
    for file, text in toml.files(_main(place), f"{_main(place)}.d"):
        if file == path:
            continue
        engine = toml.table(toml.parse(text, file), file, "engine")
        named = toml.table(engine, file, "runtimes").get(wanted.name)
        if named is not None and wanted.command not in named:
            raise conflict(file, wanted.name, " ".join(map(str, named)) or "something else")
        listed = engine.get("runtime_supports_json")
        if isinstance(listed, list):
            json_names = [str(name) for name in listed]
    lines = ["[engine]"]
    lines += [f"runtime = {toml.quote(wanted.name)}"] * wanted.default
    if wanted.name not in json_names:
        json_names.append(wanted.name)
    lines += [f"runtime_supports_json = [{', '.join(map(toml.quote, json_names))}]", "", "[engine.runtimes]"]
    lines += [f"{toml.quote(wanted.name)} = [{toml.quote(wanted.command)}]"]
    return drop_in(path, lines, NAME)


def take_back(text: str, installed: Installed) -> str | None:
    return whole_file(text, installed)


def entries(place: Place) -> list[Entry]:
    found: dict[str, str] = {}
    default = ""
    for file, text in toml.files(_main(place), f"{_main(place)}.d"):
        engine = toml.table(toml.parse(text, file), file, "engine")
        default = str(engine.get("runtime", default))
        for name, commands in toml.table(engine, file, "runtimes").items():
            found[name] = str(commands[0]) if isinstance(commands, list) and commands else ""
    return [Entry(name=name, command=command, default=name == default) for name, command in found.items()]
