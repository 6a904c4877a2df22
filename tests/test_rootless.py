"""Containers of ordinary users over their whole life: of a user, and of root in a user namespace of a user's engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rootless_lab
from rootless_lab import Rootless

Config = dict[str, Any]
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc to compare with: apt-get install runc"),
]
EXEC = "id -u; cat /proc/self/uid_map; cat /proc/self/cgroup | wc -l; hostname; ls /; echo $A; exit 7"


@pytest.fixture
def rootless(busybox_rootfs: Path) -> Iterator[Rootless]:
    del busybox_rootfs  # config_lab copies it
    yield from rootless_lab.rootless()


def engine(config: Config) -> None:
    """As podman without root: it has a user namespace already, in which it calls the runtime."""
    config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "user"]
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]


def life(rootless: Rootless, runtime: str, before: tuple[str, ...]) -> list[str]:
    """What the verbs of one container answer, called one after the other by a shell. `before`: words in front of that."""
    name = rootless.bundle.name
    script = f"""
        run() {{ "$@" >{rootless.top}/out 2>&1 </dev/null; echo "status $?"; }}
        run {runtime} create -b {rootless.bundle} --pid-file {rootless.top}/pid {name}; cat {rootless.top}/out
        run {runtime} start {name}; cat {rootless.top}/out
        {runtime} exec -e A=b {name} sh -c '{EXEC}'; echo "status $?"
        {runtime} exec {name} nosuch >/dev/null 2>&1; echo "status $?"
        run {runtime} exec -d {name} sh -c 'echo x >/detached'; cat {rootless.top}/out
        {runtime} exec {name} sh -c 'while [ ! -s /detached ]; do sleep 0.1; done; cat /detached'; echo "status $?"
        {runtime} state {name} | grep status
        {runtime} kill {name} KILL; echo "status $?"
        for i in $(seq 100); do {runtime} state {name} | grep -q stopped && break; sleep 0.2; done
        {runtime} delete {name}; echo "status $?"
        {runtime} state {name} 2>/dev/null; echo "status $?"
    """
    seen = rootless.call(*before, "sh", "-c", script, out=rootless.top / "seen")
    return seen.stdout.splitlines()


@pytest.mark.parametrize(("before", "change"), [((), None), (("unshare", "-U", "-r", "-m"), engine)], ids=["user", "engine"])
def test_life(rootless: Rootless, pysandbox_command: list[str], before: tuple[str, ...], change: Any) -> None:
    def writable(config: Config) -> None:
        config["root"]["readonly"] = False
        if change:
            change(config)

    os.chown(rootless.top, Rootless.UID, Rootless.UID)
    rootless.configure("exec sleep 1000", writable)
    theirs = life(rootless, "runc", before)
    (rootless.bundle / "rootfs/detached").unlink()
    ours = life(rootless, pysandbox_command[0], before)
    assert ours == theirs
    assert ours.count("status 0") == 6, ours
    assert "status 7" in ours
    left = [name for name in os.listdir(rootless.top / "run/pysandbox") if name not in ("traces", "@pending")]
    assert not left
    assert os.path.isdir(rootless.top / "run/.cache/pysandbox/plans")


def test_the_hosts_processes(rootless: Rootless, pysandbox_command: list[str]) -> None:
    """No procfs of the host's pid namespace can be mounted by root of a user namespace: the monitor gets a copy of the mount."""

    def host(config: Config) -> None:
        engine(config)
        config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "pid"]
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/proc"]
        config["mounts"].append({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]})
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []

    rootless.configure("readlink /proc/self/ns/pid; test -d /proc/$$/fd && ls /proc/self/fd | wc -l; ls -d /proc/1", host)
    command = ("run", "-b", str(rootless.bundle), rootless.bundle.name)
    theirs, ours = (rootless.call("unshare", "-U", "-r", "-m", name, *command) for name in ("runc", pysandbox_command[0]))
    assert (ours.status, ours.stdout) == (theirs.status, theirs.stdout), ours.stderr
    assert ours.stdout.startswith(os.readlink("/proc/self/ns/pid"))
    assert ours.status == 0
