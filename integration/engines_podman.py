"""podman and buildah in a room, with private storage, configuration and state; images come from the local root file systems."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from room import Done, Room
from terminal import Terminal

IMAGE = "localhost/busybox:1"
PAUSE = "localhost/pause:1"  # of the first container of a pod
DEBIAN = "localhost/debian:1"
ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IDS = 100000  # first of the 65536 subordinate ids that `--userns auto` takes from


# The version 1 hierarchies of this machine, and nothing else. crun refuses hosts with both versions, and takes any other
# directory in /sys/fs/cgroup for a hierarchy.
CGROUPS = """
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
while IFS=: read -r number names path; do
    if [ "$number" != 0 ]; then
        dir=/sys/fs/cgroup/${names#name=}
        case $names in name=*) names=none,$names ;; esac
        mkdir -p "$dir"
        mount -t cgroup -o "$names" cgroup "$dir"
    fi
done </proc/self/cgroup
"""


def prepare(room: Room) -> None:
    """What podman needs of a room beyond what all have."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("these tests look at version 1 cgroups, which this machine does not have")
    room.run("sh", "-ec", CGROUPS)
    room.run("sh", "-c", f"for f in subuid subgid; do echo containers:{IDS}:65536 >>/etc/$f; done")


def configure(top: Path, pysandbox: str, run: str, driver: str = "overlay") -> dict[str, str]:
    """Writes containers.conf and its like to `top`; the environment that names them. `run`: directory for what ends with the
    room."""
    top.mkdir(parents=True, exist_ok=True)
    # podman wants to raise limits of files and processes, which needs CAP_SYS_RESOURCE.
    (top / "containers.conf").write_text(
        "[containers]\n"
        'default_ulimits = ["nofile=1024:1024", "nproc=32768:32768"]\n'
        "[engine]\n"
        'runtime = "runc"\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\n'
        'runtime_supports_json = ["runc", "crun", "pysandbox"]\n'
        f'infra_image = "{PAUSE}"\ntmp_dir = "{run}/libpod"\nvolume_path = "{top}/volumes"\n'
        f'[engine.runtimes]\npysandbox = ["{pysandbox}"]\n'
        f'[network]\nnetwork_config_dir = "{top}/networks"\n'
    )
    (top / "storage.conf").write_text(f'[storage]\ndriver = "{driver}"\ngraphroot = "{top}/storage"\nrunroot = "{run}/storage"\n')
    (top / "registries.conf").write_text("unqualified-search-registries = []\n")
    return {
        "CONTAINERS_CONF": str(top / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(top / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(top / "registries.conf"),
    }


class Podman:
    """podman with one runtime. Several of these may share a store: names of containers begin with the runtime's.

    `user`: words before the command, which make it another user's."""

    def __init__(self, room: Room, env: Mapping[str, str], runtime: str, user: Sequence[str] = ()) -> None:
        self.room = room
        self.env = env
        self.runtime = runtime
        self.user = list(user)

    def argv(self, *args: str) -> list[str]:
        words = [f"{name}={value}" for name, value in self.env.items()]
        return [*self.user, "env", *words, "podman", "--runtime", self.runtime, *args]

    def call(self, *args: str, **options: Any) -> Done:
        """A call that may fail."""
        return self.room.run(*self.argv(*args), check=False, **options)

    def __call__(self, *args: str, **options: Any) -> str:
        """A call that must succeed; its output without the last newline."""
        return self.room.run(*self.argv(*args), **options).stdout.rstrip("\n")

    def terminal(self, *args: str) -> Terminal:
        return Terminal(self.room, *self.argv(*args))

    def name(self, name: str) -> str:
        return f"{self.runtime}-{name}"

    def remove(self, *names: str) -> None:
        self("rm", "--force", "--ignore", "--time", "0", "--volumes", *names)

    def inspect(self, name: str, what: str) -> str:
        """One field, as a Go template names it: State.Status."""
        return self("inspect", "--format", "{{." + what + "}}", name)


def import_image(podman: Podman, archive: Path, name: str, command: str = '["/bin/sh"]') -> None:
    """`command`: in JSON."""
    podman("import", "-q", "-c", f"CMD {command}", "-c", f"ENV {ENVIRONMENT}", str(archive), name)


def remove_parent_groups() -> None:
    """podman's cgroups above containers stay; they go if no other podman of this machine has containers."""
    for path in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        for group in [*path.glob("*"), path]:
            subprocess.run(["rmdir", str(group)], check=False, stderr=subprocess.DEVNULL)


def rootful(room: Room, pysandbox: str, images: Mapping[str, Path]) -> Iterator[dict[str, Podman]]:
    """For a fixture: podman as root with each of the runtimes over one store with `images` (name -> archive). In the end
    nothing of pysandbox may be left."""
    prepare(room)
    env = configure(room.scratch / "conf", pysandbox, "/run/podman-test")
    podmans = {runtime: Podman(room, env, runtime) for runtime in ("runc", "crun", "pysandbox")}
    for name, archive in images.items():
        import_image(podmans["runc"], archive, name)
    import_image(podmans["runc"], images[IMAGE], PAUSE, '["/bin/sleep","1000000"]')
    yield podmans
    names = podmans["runc"]("ps", "--all", "--format", "{{.Names}}").split()
    if names:
        podmans["runc"].remove(*names)
    listing = "ls /run/pysandbox /run/pysandbox/@pending"
    left = room.run("sh", "-c", f"{listing} | grep -vE '^(/run/.*|@pending|traces|)$'", check=False)
    remove_parent_groups()
    assert not names, f"containers were left by tests: {names}"
    assert not left.stdout, f"state was left in /run/pysandbox: {left.stdout}"
    wait_for(lambda: not room.children(), "the end of all processes")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
