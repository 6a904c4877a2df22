"""`pysandbox install` for engines that then really run: nothing but what it wrote tells them of pysandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cri import RUNNING, Container, Cri, Failure, Pod
from engines_containerd import IMAGE, write_image
from engines_podman import ENVIRONMENT, prepare, remove_parent_groups
from room import MakeRoom, Room, need_programs

PODMAN = ["podman", "--root", "/run/root", "--runroot", "/run/runroot", "--cgroup-manager=cgroupfs", "--events-backend=file"]
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]  # podman's own need CAP_SYS_RESOURCE
SANDBOX = "registry.k8s.io/pause:3.6"  # containerd's default


@pytest.fixture
def room(make_room: MakeRoom, request: pytest.FixtureRequest) -> Iterator[Room]:
    need_programs("podman", "containerd", "ctr", "iptables")
    yield make_room(f"installed-{request.node.name.removeprefix('test_')}")
    remove_parent_groups()


def test_podman(room: Room, pysandbox: str, busybox_tar: Path) -> None:
    prepare(room)
    room.run(*PODMAN, "import", "-q", "-c", f"ENV {ENVIRONMENT}", busybox_tar, IMAGE)
    run = ["run", "--rm", "--sig-proxy=false", "--network", "none", *LIMITS, IMAGE]

    def ran() -> int:
        """How many containers were ours: each has left a trace."""
        return len(room.run("sh", "-c", "ls /run/pysandbox/traces 2>/dev/null || true").stdout.split())

    assert room.run(*PODMAN, "--runtime", "pysandbox", *run, "true", check=False).returncode != 0
    room.run(pysandbox, "install", "podman")
    assert room.run(*PODMAN, "--runtime", "pysandbox", *run, "echo", "hi").stdout == "hi\n"
    assert ran() == 1
    assert room.run(*PODMAN, "--runtime", "runc", *run, "echo", "hi").stdout == "hi\n"
    assert ran() == 1
    room.run(pysandbox, "install", "podman", "--default")
    assert room.run(*PODMAN, *run, "echo", "hi").stdout == "hi\n"
    assert ran() == 2
    assert "pysandbox: exec: " in room.run(*PODMAN, *run, "nosuch", check=False).stderr
    room.run(pysandbox, "install", "podman", "--undo")
    assert room.run(*PODMAN, "--runtime", "pysandbox", *run, "true", check=False).returncode != 0


def test_containerd(room: Room, pysandbox: str, busybox_tar: Path) -> None:
    if not Path("/usr/lib/python3/dist-packages/grpc").exists():
        pytest.skip("not installed: python3-grpcio (hack/system-packages engines)")
    room.run(pysandbox, "install", "containerd")
    daemon = room.start("containerd", log=room.scratch / "containerd.log")
    socket = "/run/containerd/containerd.sock"
    try:
        deadline = time.monotonic() + 60
        while room.run("test", "-S", socket, check=False).returncode:
            assert time.monotonic() < deadline, (room.scratch / "containerd.log").read_text()
            time.sleep(0.1)
        for name, command in ((IMAGE, "/bin/sh"), (SANDBOX, "/bin/sleep 1000000")):
            write_image(busybox_tar, room.scratch / "image.tar", name, command.split())
            room.run("ctr", "--namespace", "k8s.io", "images", "import", room.scratch / "image.tar")
        host = {1: 2, 2: 1}  # the host's network: there is no CNI configuration
        cri = Cri(room, socket)
        pod = Pod(cri, "pysandbox", "installed", host)
        container = Container(pod, "main", ["sleep", "1000"])
        container.start()
        assert container.status()[0] == RUNNING
        assert container.exec("echo", "hi") == (0, "hi\n", "")
        room.run("test", "-d", f"/run/containerd/runc/k8s.io/traces/{container.id}")
        pod.remove()
        refused = ""
        try:
            Pod(cri, "runc", "runc", host).remove()
        except Failure as failure:
            refused = str(failure)
        # It is known; without CAP_SYS_RESOURCE it cannot give a pod the OOM score that is asked for.
        assert not refused or "runc create failed" in refused
    finally:
        room.run("pkill", "-TERM", "-x", "containerd", check=False)
        daemon.wait(timeout=60)
