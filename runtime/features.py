"""What this runtime can do, as the features structure of the runtime specification 1.2 (features.md, features-linux.md).

It says what is implemented, not what this host offers. Everything that can be is taken from the tables that the
implementation itself works with, so that it cannot say more than there is.
"""

from __future__ import annotations

from pysandbox.oci import mounts, process, rootfs, validate
from pysandbox.runtime import SPEC_VERSION, __version__
from pysandbox.runtime.policy import compiler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OLDEST_VERSION = "1.0.0"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""In the order in which they are run."""

# What the compiler takes and the monitor does not do: both answer ENOSYS.
_ACTIONS_WITHOUT_EFFECT = frozenset(("SCMP_ACT_TRACE",))
# Only has a meaning for notifications.
_FLAGS_WITHOUT_EFFECT = frozenset(("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",))
# Options that are no flags: what is done for them is in `mounts.parse_options`.
_OTHER_MOUNT_OPTIONS = ("idmap", "ridmap", "tmpcopyup")


def features() -> dict[str, Any]:
    """JSON."""
    flags = sorted(compiler.FLAGS)
    return {
        "ociVersionMin": OLDEST_VERSION,
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted({*mounts.FLAGS, *mounts.RECURSIVE, *rootfs.PROPAGATION, *_OTHER_MOUNT_OPTIONS}),
        "linux": {
            "namespaces": sorted(validate.NAMESPACES),
            "capabilities": [f"CAP_{name}" for name in process.CAPABILITIES],
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(compiler.ACTIONS.keys() - _ACTIONS_WITHOUT_EFFECT),
                "operators": sorted(compiler.OPERATORS),
                "archs": sorted(compiler.ARCHITECTURES),
                "knownFlags": flags,
                "supportedFlags": [flag for flag in flags if flag not in _FLAGS_WITHOUT_EFFECT],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "dev.pysandbox.version": __version__,
            "dev.pysandbox.checkpoint.enabled": "false",
        },
        # Who may set these can have files written on the host, or units of systemd's changed.
        "potentiallyUnsafeConfigAnnotations": ["dev.pysandbox.", "org.systemd.property."],
    }
