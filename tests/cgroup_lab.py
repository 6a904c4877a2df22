"""What the tests of control groups share: where a process' groups are, what is set in them, and a version 2 host made of
any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pysandbox.oci import cgroups
from verb_lab import Change, Config, Runtime

# Files that count or list what happens; everything else in a group is a setting.
COUNTERS = re.compile(
    r"usage|stat|\.procs$|tasks$|threads$|current|peak|failcnt|pressure|slabinfo|\.io_|events|event_control|force_empty"
    r"|reset|reclaim|kill$|self_freezing|parent_freezing|cgroup\.stat|irq|misc\.|sectors|time_recursive|io_merged|io_queued"
)
VERSION_2 = 'umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'


def groups(pid: int) -> dict[str, Path]:
    """Controller -> directory of a process, for the hierarchies this host mounts."""
    layout = cgroups.host_layout()
    out = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            mount = layout.mounts.get(controller) or (layout.hybrid if controller == "" else "")
            if mount:
                out[controller or "unified"] = Path(mount + path)
    return out


def settings(directory: Path, *names: str) -> dict[str, str]:
    """File -> content (sorted lines), for all files that are settings; `names` replaces what is the container's."""
    out = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and not COUNTERS.search(path.name):
            try:
                text = path.read_text()
            except OSError:  # write-only, or not for this group
                continue
            for name in names:
                text = text.replace(name, "ID")
            out[path.name] = "\n".join(sorted(text.splitlines()))
    return out


def all_settings(runtime: Runtime) -> dict[str, dict[str, str]]:
    return {key: settings(path, runtime.id) for key, path in groups(runtime.pid).items()}


def resources(**values: object) -> Change:
    def change(config: Config) -> None:
        config["linux"]["resources"].update(values)

    return change


@pytest.fixture
def cgroup2(pair: list[Runtime]) -> Iterator[list[Runtime]]:
    """The two runtimes on a host that has version 2 alone, whatever this one has. Controllers that are in use by
    version 1 are not there."""
    for runtime in pair:
        runtime.command = ["unshare", "-m", "sh", "-c", VERSION_2, "sh", *runtime.command]
    yield pair
    for runtime in pair:
        runtime.clean()
        runtime.command = runtime.command[6:]
