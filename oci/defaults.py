"""The config.json that `pysandbox spec` writes: what `runc spec` writes, under this program's name."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_VERSION = "1.2.1"
"""Version of the runtime specification that is implemented and declared."""

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_CAPABILITY_SETS = ("bounding", "effective", "permitted", "ambient")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def default_spec(rootless: bool = False) -> dict[str, Any]:
    """A fresh config.json as a dict, ready for `json.dumps`.

    `rootless`: for users without privileges: a user namespace that maps root to the caller, the host's network,
    /sys bound from the host since a network namespace of somebody else's forbids mounting it, no cgroup limits.
    """
    linux: dict[str, Any] = {}
    namespaces = ["pid", "network", "ipc", "uts", "mount"]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        # Only in cgroup v2 does the namespace hide something.
        namespaces.append("cgroup")
    if rootless:
        namespaces.remove("network")
        namespaces.append("user")
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    linux["namespaces"] = [{"type": kind} for kind in namespaces]
    linux["maskedPaths"] = list(_MASKED)
    linux["readonlyPaths"] = list(_READONLY)
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(_CAPABILITIES) for name in _CAPABILITY_SETS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pysandbox",
        "mounts": _mounts(rootless),
        "linux": linux,
    }


def _mounts(rootless: bool) -> list[dict[str, Any]]:
    hard = ["nosuid", "noexec", "nodev"]

    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        out: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
        if options:
            out["options"] = list(options)
        return out

    # Group 5 (tty) has no mapping in a rootless user namespace.
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *([] if rootless else ["gid=5"])]
    sys = (
        mount("/sys", "none", "/sys", "rbind", *hard, "ro")
        if rootless
        else mount("/sys", "sysfs", "sysfs", *hard, "ro")
    )
    return [
        mount("/proc", "proc", "proc"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", *pts),
        mount("/dev/shm", "tmpfs", "shm", *hard, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *hard),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *hard, "relatime", "ro"),
    ]
