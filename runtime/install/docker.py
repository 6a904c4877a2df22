"""Docker: /etc/docker/daemon.json, member `runtimes` (and `default-runtime`); dockerd(8), "Daemon configuration file"."""

from __future__ import annotations

import json

from pysandbox.oci import jsontext
from pysandbox.oci.errors import ConfigError
from pysandbox.runtime.install import Change, Entry, InstallError, conflict, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.runtime.install import Installed, Place, Wanted

NAME = "docker"
PROGRAM = "dockerd"
SERVICE = "systemctl reload docker (or SIGHUP to dockerd)"
FILE = "/etc/docker/daemon.json"
_RESERVED = ("runc", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux")


def plan(place: Place, wanted: Wanted) -> Change:
    if wanted.name in _RESERVED:
        raise InstallError(f"{wanted.name!r} is a name that dockerd keeps for itself")
    path = place.at(FILE)
    before = read(path)
    config = _parse(before, path)
    runtimes = config.setdefault("runtimes", {})
    present = runtimes.get(wanted.name)
    if present is None or (wanted.ours and present == {"path": wanted.ours}):
        runtimes[wanted.name] = {"path": wanted.command}
    elif _command(present) != wanted.command:
        raise conflict(path, wanted.name, _command(present) or "something else")
    if wanted.default:
        config["default-runtime"] = wanted.name
    if before is not None and config == _parse(before, path):
        return Change(path=path, before=before, after=before, edits=())
    after = json.dumps(config, indent=_indent(before), ensure_ascii=False) + "\n"
    return Change(path=path, before=before, after=after, edits=())


def entries(place: Place) -> list[Entry]:
    config = _parse(read(place.at(FILE)), place.at(FILE))
    default = config.get("default-runtime")
    return [
        Entry(name=name, command=_command(value), default=name == default)
        for name, value in config.get("runtimes", {}).items()
    ]


def take_back(text: str, installed: Installed) -> str | None:
    """Members that still are as they were installed become what they were before."""
    now, old, new = (_parse(source, installed.path) for source in (text, installed.before, installed.after))
    _restore(now.get("runtimes", {}), old.get("runtimes", {}), new.get("runtimes", {}))
    if now.get("runtimes") == {} and "runtimes" not in old:
        del now["runtimes"]
    default = "default-runtime"
    _restore(now, {default: old[default]} if default in old else {}, {default: new[default]} if default in new else {})
    if not now and installed.before is None:
        return None
    return json.dumps(now, indent=_indent(text), ensure_ascii=False) + "\n"


def _restore(now: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if now.get(key) == value and old.get(key) != value:
            if key in old:
                now[key] = old[key]
            else:
                del now[key]


def _parse(text: str | None, path: str) -> dict[str, Any]:
    """The configuration; that of a file that is not there, or empty, is empty. `InstallError` with line and column."""
    if text is None or not text.strip():
        return {}
    try:
        jsontext.parse(text.encode(), path)
    except ConfigError as error:
        raise InstallError(f"{error.message}; nothing was changed") from None
    config: dict[str, Any] = json.loads(text)
    runtimes = config.get("runtimes")
    if runtimes is None:
        config.pop("runtimes", None)
    elif not isinstance(runtimes, dict):
        raise InstallError(f"{path}: /runtimes: expected an object, found {jsontext.kind_of(runtimes)}; nothing was changed")
    return config


def _command(value: object) -> str:
    """The program of an entry of `runtimes`: `path`, or BinaryName of a containerd runtime."""
    if not isinstance(value, dict):
        return ""
    options = value.get("options")
    named = options.get("BinaryName") if isinstance(options, dict) else None
    return str(value.get("path") or named or "")


def _indent(text: str | None) -> int | str:
    """As the file has it: the white space before its first member."""
    for line in (text or "").splitlines()[1:]:
        if line.strip():
            space = line[: len(line) - len(line.lstrip())]
            return space or 4
    return 4
