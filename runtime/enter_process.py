"""The process that `exec` is to start: process.json, or the container's own process with what the command line says."""

from __future__ import annotations

from pysandbox.oci._struct import Struct
from pysandbox.oci.bundle import load_process, parse_process
from pysandbox.oci.errors import LaunchError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pysandbox.oci.spec import Process


class Wishes(Struct):
    """The command line of `exec`; names as runc's flags. `tty`: None when not said."""

    args: tuple[str, ...] = ()
    process: str = ""
    cwd: str = ""
    env: tuple[str, ...] = ()
    tty: bool = False
    user: str = ""
    additional_gids: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    apparmor: str = ""
    process_label: str = ""
    no_new_privs: bool = False


def wanted_process(wishes: Wishes, own: Mapping[str, Any], warn: Callable[[str], None]) -> Process:
    """`own`: the container's `process` of config.json, as parsed. `UsageError`, `BundleError`, `ConfigError`."""
    if wishes.process:
        process = load_process(wishes.process)
        # process.json is whole but for what is a matter of the container.
        missing: dict[str, Any] = {}
        if process.capabilities is None or not process.rlimits or process.oom_score_adj is None:
            container = parse_process(own, "config.json")
            if process.capabilities is None:
                missing["capabilities"] = container.capabilities
            if not process.rlimits:
                missing["rlimits"] = container.rlimits
            if process.oom_score_adj is None:
                missing["oom_score_adj"] = container.oom_score_adj
        if wishes.tty:
            missing["terminal"] = True
        return process.replace(**missing)
    if not wishes.args:
        raise LaunchError("process args cannot be empty")
    raw = {**own, "args": list(wishes.args), "terminal": wishes.tty}
    raw.pop("consoleSize", None)
    if wishes.cwd:
        raw["cwd"] = wishes.cwd
    if wishes.env:
        raw["env"] = [*own.get("env", ()), *wishes.env]
    if wishes.apparmor:
        raw["apparmorProfile"] = wishes.apparmor
    if wishes.process_label:
        raw["selinuxLabel"] = wishes.process_label
    if wishes.no_new_privs:
        raw["noNewPrivileges"] = True
    if wishes.user or wishes.additional_gids:
        raw["user"] = _user(own.get("user", {}), wishes)
    if wishes.caps:
        raw["capabilities"] = _capabilities(own.get("capabilities", {}), wishes.caps, warn)
    return parse_process(raw)


def _user(own: Mapping[str, Any], wishes: Wishes) -> dict[str, Any]:
    user = dict(own)
    if wishes.user:
        uid, colon, gid = wishes.user.partition(":")
        user["uid"] = _number(uid, "uid")
        if colon:
            user["gid"] = _number(gid, "gid")
    if wishes.additional_gids:
        user["additionalGids"] = [*user.get("additionalGids", ()), *(_number(g, "gid") for g in wishes.additional_gids)]
    return user


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 1 << 32:
        raise UsageError(f"parsing {text} as int for {what} failed: it is not a number")
    return int(text)


def _capabilities(own: Mapping[str, Any], more: tuple[str, ...], warn: Callable[[str], None]) -> dict[str, list[str]]:
    from pysandbox.oci.process import CAPABILITIES

    known = {f"CAP_{name}" for name in CAPABILITIES}
    unknown = [name for name in more if name not in known]
    if unknown:
        warn(f"ignoring unknown or unavailable capabilities: [{' '.join(unknown)}]")
    names = [name for name in more if name in known]
    sets = {kind: list(own.get(kind, ())) for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    for kind in ("bounding", "effective", "permitted"):
        sets[kind] += [name for name in names if name not in sets[kind]]
    # The kernel raises in the ambient set what is inheritable, too.
    sets["ambient"] += [name for name in names if name in sets["inheritable"] and name not in sets["ambient"]]
    return sets
