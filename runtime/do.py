"""`pysandbox do`: a program of this host in a sandbox, without a bundle.

The program sees the host's files as they are and may change them: the changes go to a private layer that ends with
it. Its processes, mounts, IPC, network and, on a terminal, the terminal are its own; working directory, environment and
otherwise the standard streams are the caller's.
"""

from __future__ import annotations

import os

from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import LaunchError, UnsupportedError, UsageError, host_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CAPABILITIES = [
    f"CAP_{name}"
    for name in ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE"]
]


class Request(Struct):
    """What to run and how. `net`: "none" (loopback only) or "host". `env`: NAME=VALUE additions. `writable`: host
    directories whose changes are real. `policy`: a file with a `linux.seccomp` object, or a config.json."""

    args: tuple[str, ...]
    net: str = "none"
    writable: tuple[str, ...] = ()
    workdir: str = ""
    env: tuple[str, ...] = ()
    trace: str = "ring"
    policy: str = ""
    id: str = ""


def run(request: Request, root: str, warn: Callable[[str], None]) -> int:
    """The program's exit status, 128+signal when killed."""
    from pysandbox.oci.bundle import Bundle, parse_config
    from pysandbox.runtime import launch
    from pysandbox.runtime.launch_plan import Options, Overlay

    if os.geteuid() != 0:
        raise UnsupportedError("`do` needs root")
    writable = tuple(_directory(path) for path in request.writable)
    scratch = os.path.join(root, "@do")
    try:
        os.makedirs(scratch, 0o700, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"make {scratch}: {host_reason(error.errno)}", errno=error.errno) from None
    overlay = Overlay(lower="/", scratch=scratch, writable=writable)
    raw = config(request)
    spec = parse_config(raw)
    # The root exists in the container's mount namespace only; here its place is checked.
    bundle = Bundle(dir="/", spec=spec.replace(root=spec.root.replace(path=scratch)), raw=raw)
    options = Options(id=request.id or new_id(), root=root, overlay=overlay)
    return launch.run(bundle, options, warn)


def new_id() -> str:
    return f"do-{os.getpid()}-{os.urandom(4).hex()}"


def _directory(path: str) -> str:
    full = os.path.realpath(path)
    if not os.path.isdir(full):
        raise UsageError(f"--rw: {path} is not a directory")
    return full


def config(request: Request) -> dict[str, Any]:
    """The config.json of the request."""
    from pysandbox.oci.defaults import default_spec

    raw = default_spec()
    raw.pop("hostname")
    if request.net not in ("none", "host"):
        raise UsageError(f"--net: {request.net!r} is not none or host")
    env = dict(os.environ)
    for entry in request.env:
        name, sep, value = entry.partition("=")
        if not sep or not name:
            raise UsageError(f"--env: {entry!r} is not NAME=VALUE")
        env[name] = value
    workdir = request.workdir or os.getcwd()
    if not os.path.isabs(workdir):
        raise UsageError(f"--workdir: {workdir} is not an absolute path")
    if not os.path.isdir(workdir):
        raise UsageError(f"--workdir: {workdir} is not a directory")
    umask = os.umask(0)
    os.umask(umask)
    raw["process"] = {
        "terminal": on_terminal(),
        "user": {"uid": os.getuid(), "gid": os.getgid(), "additionalGids": os.getgroups(), "umask": umask},
        "args": list(request.args),
        "env": [f"{name}={value}" for name, value in env.items() if name],
        "cwd": workdir,
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "noNewPrivileges": True,
    }
    raw["root"] = {"path": "rootfs", "readonly": False}
    kinds = ["pid", "ipc", "uts", "mount", "cgroup"] + (["network"] if request.net == "none" else [])
    raw["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
    raw["linux"]["resources"] = {}
    raw["linux"]["cgroupsPath"] = ""
    raw["mounts"] = [mount for mount in raw["mounts"] if mount["type"] != "cgroup"]
    raw["annotations"] = {"dev.pysandbox.trace": request.trace}
    if request.policy:
        raw["linux"]["seccomp"] = load_policy(request.policy)
    return raw


def on_terminal() -> bool:
    """Whether the caller sits at a terminal with all three standard streams, in its foreground: the program gets one of its own
    then, by which keys such as Ctrl-C reach its whole session. A job in the background would be stopped for touching it."""
    try:
        return all(os.isatty(fd) for fd in (0, 1, 2)) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # a terminal, but not the one that controls this process
        return False


def load_policy(path: str) -> Any:
    """The seccomp object in a file: bare, or inside a whole config.json."""
    from pysandbox.oci import jsontext

    document = jsontext.parse(jsontext.read(path, os.path.basename(path)), os.path.basename(path))
    if "defaultAction" in document:
        return document
    linux = document.get("linux")
    found = linux.get("seccomp") if isinstance(linux, dict) else None
    if found is None:
        raise UsageError(f"--policy: {path} holds no seccomp profile (defaultAction, or linux.seccomp)")
    return found
