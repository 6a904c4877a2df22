"""What the suites of the engines share: the command under test, root file systems, images, rooms. `make integration` runs them.

A suite that cannot run says why: pytest shows the reasons of skips. The engines themselves are in modules named *_lab.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from docker_lab import Docker
from engines_podman import Podman
from room import TOP, MakeRoom, Room, need_programs


def _tests_conftest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tests_conftest", TOP / "tests/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_tests = _tests_conftest()
pysandbox_command = _tests.pysandbox_command
busybox_rootfs = _tests.busybox_rootfs
debian_rootfs = _tests.debian_rootfs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    problem = "needs root" if os.geteuid() != 0 else None
    kvm = _tests.kvm_problem()
    problem = problem or (f"needs KVM ({kvm})" if kvm else None)
    here = [item for item in items if item.path.is_relative_to(TOP / "integration")]
    for item in here if problem else ():
        item.add_marker(pytest.mark.skip(reason=problem or ""))


@pytest.fixture(scope="session")
def pysandbox(pysandbox_command: list[str]) -> str:
    """The absolute path of the command under test, as it is written into engines' configurations."""
    (path,) = pysandbox_command
    return path


@pytest.fixture(scope="session")
def runc() -> str:
    need_programs("runc")
    return shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin") or ""


@pytest.fixture(scope="session")
def make_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRoom]:
    """Makes rooms by name; all are closed at the end of the run."""
    need_programs("unshare", "ip", "mount")
    rooms: list[Room] = []

    def make(name: str) -> Room:
        rooms.append(Room(tmp_path_factory.mktemp(name), name))
        return rooms[-1]

    yield make
    for room in reversed(rooms):
        room.close()


def _archive(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / f"{rootfs.name}.tar"
    subprocess.run(["tar", "-C", rootfs, "--numeric-owner", "-cf", path, "."], check=True)
    return path


@pytest.fixture(scope="session")
def busybox_tar(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the small root file system, for `docker import` and its kind (2 MB)."""
    return _archive(busybox_rootfs, tmp_path_factory)


@pytest.fixture(scope="session")
def debian_tar(debian_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the Debian root file system with python3, gcc and more (500 MB)."""
    return _archive(debian_rootfs, tmp_path_factory)


# --- Docker ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker(make_room: MakeRoom, pysandbox: str, runc: str, busybox_tar: Path) -> Docker:
    """A running dockerd with the small image; runtimes `runc` and `pysandbox`."""
    need_programs("dockerd", "containerd", "iptables")
    daemon = Docker(make_room("docker"), pysandbox)
    daemon.start()
    daemon.load(busybox_tar)
    return daemon


# --- podman ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["runc", "pysandbox"])
def podman(podmans: dict[str, Podman], request: pytest.FixtureRequest) -> Podman:
    """podman with each of the runtimes, of those that the suite's own fixture `podmans` makes."""
    return podmans[request.param]


@pytest.fixture
def box(podman: Podman) -> Iterator[str]:
    """A name that the test may use; the container of this name is removed in the end."""
    name = podman.name("box")
    yield name
    podman.remove(name)
