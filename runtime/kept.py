"""What later verbs need of a container's configuration, as it was when the container was made: the bundle may change or
go meanwhile.

    ROOT/ID/kept.json   `Kept`
    ROOT/ID/policy      the compiled policy (struct psb_policy), for `exec`
"""

from __future__ import annotations

import os

from pysandbox.oci import jsontext
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import ConfigError, StateError, host_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.oci.state import Container
    from pysandbox.runtime.launch_plan import Late, LaunchPlan

NAME = "kept.json"
POLICY = "policy"
_MAX = 16 << 20


class Kept(Struct):
    """`process`: of config.json, as parsed. `trace`: file, "" for none. `hooks`: those kinds that run after create, as
    parsed. `personality`: domain, "" for none. `listener`: path and metadata of the agent for SCMP_ACT_NOTIFY, or nothing.
    `root`: directory on the host that is the container's root where its mount namespace is the host's, else "".
    `memory`: limit in bytes when the container was made, 0 for none."""

    process: Mapping[str, Any]
    trace: str
    trace_mode: int
    dispatch: int
    pin: int
    keyring: bool
    personality: str
    hooks: Mapping[str, Any]
    listener: Sequence[str] = ()
    root: str = ""
    memory: int = 0


_LATER_HOOKS = ("startContainer", "poststart", "poststop")


def keep(container: Container, plan: LaunchPlan, late: Late, raw: Mapping[str, Any]) -> None:
    """Writes both files. `raw`: config.json as parsed."""
    personality = plan.spec.linux.personality
    hooks = raw.get("hooks", {})
    seccomp = plan.spec.linux.seccomp
    value = {
        "process": raw["process"],
        "trace": "" if late.trace is None else os.readlink(f"/proc/self/fd/{late.trace}"),
        "trace_mode": plan.trace_mode,
        "dispatch": plan.dispatch,
        "pin": plan.pin,
        "keyring": not plan.options.no_new_keyring,
        "personality": personality.domain if personality else "",
        "listener": [seccomp.listener_path, seccomp.listener_metadata] if plan.agent is not None and seccomp else [],
        "root": plan.shared_root,
        "memory": plan.memory_limit,
        "hooks": {kind: hooks[kind] for kind in _LATER_HOOKS if hooks.get(kind)},
    }
    _write(container.directory, NAME, jsontext.dump(value).encode())
    _write(container.directory, POLICY, os.pread(late.policy, _MAX, 0))


def load(directory: int, container_id: str) -> Kept:
    """`directory`: descriptor of the container's state directory. `StateError` for whatever `keep` would not write."""
    try:
        value = jsontext.parse(_read(directory, NAME, container_id), NAME)
        kept = Kept(**value)
        numbers = (kept.trace_mode, kept.dispatch, kept.pin, kept.memory)
        if not isinstance(kept.process, dict) or not isinstance(kept.hooks, dict) or not all(type(n) is int for n in numbers):
            raise TypeError("value of the wrong type")
        if not isinstance(kept.trace, str) or not isinstance(kept.personality, str) or not isinstance(kept.root, str):
            raise TypeError("value of the wrong type")
        if len(kept.listener) not in (0, 2) or not all(type(text) is str for text in kept.listener):
            raise TypeError("value of the wrong type")
        return kept
    except (TypeError, ConfigError) as error:
        raise StateError(f"state of container {container_id} is damaged: {NAME}: {error}") from None


def load_policy(directory: int, container_id: str) -> bytes:
    """The compiled policy."""
    return _read(directory, POLICY, container_id)


def _write(directory: int, name: str, data: bytes) -> None:
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        try:
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
    except OSError as error:
        raise StateError(f"write {name} to the state directory: {host_reason(error.errno)}", errno=error.errno) from None


def _read(directory: int, name: str, container_id: str) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(name, flags, dir_fd=directory)
        try:
            # Whoever can write it decides what runs with which rights.
            info = os.fstat(fd)
            if info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022 or info.st_size > _MAX:
                raise StateError(f"state of container {container_id} is not trusted: others may write to it")
            return jsontext.read_fd(fd, name, info.st_size)
        finally:
            os.close(fd)
    except OSError as error:
        raise StateError(f"read {name} of container {container_id}: {host_reason(error.errno)}", errno=error.errno) from None
