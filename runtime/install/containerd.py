"""containerd's CRI plugin: a runtime handler in /etc/containerd/config.toml (containerd-config.toml(5); containerd, "CRI Plugin
Config Guide"). Its shim for runc starts another program, named `BinaryName`. `ctr --runc-binary` needs no configuration.
"""

from __future__ import annotations

import copy

from pysandbox.runtime.install import Change, Entry, InstallError, conflict, read, toml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.runtime.install import Installed, Place, Wanted

NAME = "containerd"
PROGRAM = "containerd"
SERVICE = "systemctl restart containerd"
FILE = "/etc/containerd/config.toml"
SHIM = "io.containerd.runc.v2"
# Version of the file -> where the plugin's table is.
PLUGINS = {1: ("plugins", "cri"), 2: ("plugins", "io.containerd.grpc.v1.cri"), 3: ("plugins", "io.containerd.cri.v1.runtime")}


def plan(place: Place, wanted: Wanted) -> Change:
    path = place.at(FILE)
    before = read(path)
    # Version 2 is read by every containerd since 1.3.
    text = before if before is not None and before.strip() else "version = 2\n"
    config = toml.parse(text, path)
    keys = _plugin(config, path)
    runtimes = toml.table(config, path, *keys, "containerd", "runtimes")
    notes = ("the CRI plugin is switched off in this file (disabled_plugins)",) if _disabled(config, keys) else ()
    edits: list[tuple[str, str]] = []
    intended = copy.deepcopy(config)
    if wanted.name in runtimes:
        found = _command(runtimes[wanted.name])
        if found == wanted.ours != wanted.command:
            raise InstallError(f"{path}: a runtime {wanted.name!r} was installed for {found}: undo that first")
        if found != wanted.command:
            raise conflict(path, wanted.name, found or "something else")
    else:
        systemd = toml.table(config, path, *keys, "containerd", "runtimes", "runc", "options").get("SystemdCgroup")
        # Without any in the file there is a built-in runc; the first that is written takes its place, and the plugin does not
        # start without the default one.
        block = ("" if runtimes else _runc_block(keys)) + _block(keys, wanted, systemd=systemd is True)
        text, *edit = toml.append(text, block)
        edits.append((edit[0], edit[1]))
        _merge(intended, toml.parse(block, path))
    if wanted.default and toml.table(config, path, *keys, "containerd").get("default_runtime_name") != wanted.name:
        text, *edit = toml.set_key(text, _header(*keys, "containerd"), "default_runtime_name", toml.quote(wanted.name))
        edits.append((edit[0], edit[1]))
        _merge(intended, _nest((*keys, "containerd", "default_runtime_name"), wanted.name))
    toml.check(text, intended, path, _by_hand(keys, wanted))
    return Change(path=path, before=before, after=text if edits else before or "", edits=tuple(edits), notes=notes)


def take_back(text: str, installed: Installed) -> str | None:
    """The edits reversed. `InstallError` if one of them is not found as it was made."""
    for new, old in reversed(installed.edits):
        if text.count(new) != 1:
            line = new.strip().splitlines()[0]
            raise InstallError(f"{installed.path}: what was installed was changed since; remove by hand: {line}")
        text = text.replace(new, old)
    toml.parse(text, installed.path)
    return text


def entries(place: Place) -> list[Entry]:
    path = place.at(FILE)
    config = toml.parse(read(path), path)
    keys = _plugin(config, path)
    default = toml.table(config, path, *keys, "containerd").get("default_runtime_name")
    runtimes = toml.table(config, path, *keys, "containerd", "runtimes")
    return [Entry(name=name, command=_command(value), default=name == default) for name, value in runtimes.items()]


def _plugin(config: dict[str, Any], path: str) -> tuple[str, str]:
    version = config.get("version", 1)
    if not isinstance(version, int) or version not in PLUGINS:
        raise InstallError(f"{path}: version {version!r} is not known (1, 2 or 3); nothing was changed")
    return PLUGINS[version]


def _disabled(config: dict[str, Any], keys: tuple[str, str]) -> bool:
    disabled = config.get("disabled_plugins")
    return isinstance(disabled, list) and any(name in disabled for name in ("cri", *keys[1:]))


def _block(keys: tuple[str, str], wanted: Wanted, *, systemd: bool) -> str:
    """The handler's tables. `systemd`: as runc's handler in the same file, for both have the kubelet's cgroup driver."""
    name = (*keys, "containerd", "runtimes", wanted.name)
    lines = [_header(*name), f"runtime_type = {toml.quote(SHIM)}", "", _header(*name, "options")]
    lines += [f"BinaryName = {toml.quote(wanted.command)}"] + ["SystemdCgroup = true"] * systemd
    return "\n".join(lines) + "\n"


def _runc_block(keys: tuple[str, str]) -> str:
    return f"{_header(*keys, 'containerd', 'runtimes', 'runc')}\nruntime_type = {toml.quote(SHIM)}\n\n"


def _by_hand(keys: tuple[str, str], wanted: Wanted) -> str:
    return f"{_header(*keys, 'containerd', 'runtimes', wanted.name, 'options')} BinaryName = {toml.quote(wanted.command)}"


def _header(*keys: str) -> str:
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    return "[" + ".".join(key if key and all(c in plain for c in key) else toml.quote(key) for key in keys) + "]"


def _command(value: object) -> str:
    options = value.get("options") if isinstance(value, dict) else None
    return str(options.get("BinaryName", "")) if isinstance(options, dict) else ""


def _nest(keys: tuple[str, ...], value: object) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nest(keys[1:], value)}


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
