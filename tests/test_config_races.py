"""The image's owner is at work in it while containers start: names change between two looks, links lead out of the root, files
pretend to be devices. Nothing of the host is touched and nothing of the container's confinement is lost; a start may fail.

The attacks are those of CVE-2019-16884, CVE-2021-30465, CVE-2024-21626, CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_lab
import pytest

TOP = Path(__file__).resolve().parent.parent
Config = dict[str, Any]
pytestmark = [pytest.mark.kvm, pytest.mark.root]
ROUNDS = 12
RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Swapper:
    """Exchanges two names again and again, in a thread."""

    def __init__(self, one: Path, other: Path) -> None:
        self._names = os.fsencode(one), os.fsencode(other)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def _run(self) -> None:
        one, other = self._names
        while not self._stop.is_set():
            if _libc.renameat2(-100, one, -100, other, RENAME_EXCHANGE) == 0:
                self.count += 1

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()


class Lab:
    """A bundle with a root file system to tamper with, and a directory outside that must stay as it is."""

    def __init__(self, top: Path, pysandbox: str) -> None:
        self.top = top
        self.name = f"races-{os.getpid()}-{top.name}"
        self.outside = top / "outside"
        self._pysandbox = pysandbox
        self.bundle = top / self.name
        self.rootfs = self.bundle / "rootfs"

    def prepare(self, script: str, change: Callable[[Config], object], args: list[str] | None = None) -> None:
        config = json.loads((TOP / "tests/data/configs/docker-run.json").read_text())
        config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev", "/dev/pts", "/sys")]
        config_lab.prepare(config, self.top, self.name, args or ["/bin/sh", "-c", script])
        config = json.loads((self.bundle / "config.json").read_text())
        config["linux"]["resources"] = {}
        config["linux"].pop("seccomp")
        config["linux"].pop("sysctl")
        change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))
        self.outside.mkdir()
        (self.outside / "file").write_text("untouched")

    def run(self) -> config_lab.Seen:
        seen = config_lab.run(self._pysandbox, self.bundle)
        assert seen.status in (0, 1)
        if seen.status:
            assert len(seen.stderr.splitlines()) == 1, seen
        return seen

    def check_outside(self) -> None:
        assert sorted(os.listdir(self.outside)) == ["file"]
        assert (self.outside / "file").read_text() == "untouched"
        assert str(self.outside) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def lab(busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Lab]:
    del busybox_rootfs  # config_lab copies it
    with tempfile.TemporaryDirectory(prefix="races-") as top:
        yield Lab(Path(top), pysandbox_command[0])


def out_link(lab: Lab, at: Path) -> None:
    """A link that leads to `outside` whether it is followed as seen from the container or from the host."""
    at.symlink_to("/.." * 12 + str(lab.outside))


def test_mount_targets(lab: Lab) -> None:
    """Below a directory that becomes a link out of the root, and back: new file systems, bind mounts, what is copied up."""

    def change(config: Config) -> None:
        config["mounts"] += [
            {"destination": "/swap/tmpfs", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "mode=777"]},
            {"destination": "/swap/bind", "type": "bind", "source": "/etc", "options": ["bind", "ro"]},
            {"destination": "/swap/deep/er/file", "type": "bind", "source": "/etc/hostname", "options": ["bind"]},
            {"destination": "/swap/shm", "type": "tmpfs", "source": "t", "options": ["ro", "nosuid"]},
        ]

    lab.prepare("echo started; for d in /swap/tmpfs /swap/shm; do echo x > $d/new; done 2>/dev/null; exit 0", change)
    (lab.rootfs / "swap").mkdir()
    out_link(lab, lab.rootfs / "link")
    started = 0
    with Swapper(lab.rootfs / "swap", lab.rootfs / "link") as swapper:
        for _ in range(ROUNDS):
            started += "started" in lab.run().stdout
            lab.check_outside()
    assert swapper.count > ROUNDS


def test_device_nodes_and_links(lab: Lab) -> None:
    """A root without a mount on /dev: nodes are made in the image, and never elsewhere."""
    lab.prepare("exit 0", lambda c: c.update(mounts=[m for m in c["mounts"] if not m["destination"].startswith("/dev")]))
    out_link(lab, lab.rootfs / "link")
    (lab.rootfs / "dev").mkdir(exist_ok=True)
    with Swapper(lab.rootfs / "dev", lab.rootfs / "link") as swapper:
        for _ in range(ROUNDS):
            lab.run()
            lab.check_outside()
    assert swapper.count > ROUNDS


def unmasked(table: str) -> list[str]:
    """Mounts of a procfs in a container's mount table that lack a mask or a read-only path. Who lies on whom is told by the
    numbers: names are those of the moment at which each line was read."""
    whole: dict[str, str] = {}
    covers: dict[str, set[str]] = {}
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        number, parent, _, root, point, flags = left.split(" ")[:6]
        if right.startswith("proc ") and root == "/":
            whole[number] = point
        covers.setdefault(parent, set()).add(f"{point.rpartition('/')[2]} {flags.partition(',')[0]}")
    return [point for number, point in whole.items() if not {"keys rw", "sys ro"} <= covers.get(number, set())]


def test_masks_lie_on_the_procfs_that_was_mounted(lab: Lab) -> None:
    """/proc and a directory full of decoys change places while masks are laid. The mount moves with its directory."""
    lab.prepare("cat /proc/self/mountinfo 2>/dev/null || cat /decoy/self/mountinfo; exit 0", lambda c: c)
    for place in ("keys", "kcore", "timer_list"):
        (lab.rootfs / "decoy").mkdir(exist_ok=True)
        (lab.rootfs / "decoy" / place).write_text("")
    for place in ("sys", "bus", "fs", "irq"):
        (lab.rootfs / "decoy" / place).mkdir()
    seen = 0
    with Swapper(lab.rootfs / "proc", lab.rootfs / "decoy"):
        for _ in range(ROUNDS):
            table = lab.run().stdout
            assert unmasked(table) == [], table
            seen += " proc " in table
    assert seen > 0
    assert unmasked("1 2 0:3 / /proc rw - proc proc rw\n") == ["/proc"]


def test_procfs_behind_a_link(lab: Lab) -> None:
    lab.prepare("cat /proc/self/mountinfo /elsewhere/self/mountinfo 2>/dev/null; exit 0", lambda c: c)
    (lab.rootfs / "elsewhere").mkdir()
    (lab.rootfs / "link").symlink_to("/elsewhere")
    with Swapper(lab.rootfs / "proc", lab.rootfs / "link"):
        for _ in range(ROUNDS):
            table = lab.run().stdout
            assert unmasked(table) == [], table


@pytest.mark.parametrize("fake", ["link", "file", "other device"])
def test_null_device_that_is_none(lab: Lab, fake: str) -> None:
    """What covers a masked path, and stands for a null stream of the caller's, must be the null device: a link in its place would
    have its target shown, writable."""
    lab.prepare("exit 0", lambda c: c.update(mounts=[m for m in c["mounts"] if not m["destination"].startswith("/dev")]))
    (lab.rootfs / "dev").mkdir(exist_ok=True)
    null = lab.rootfs / "dev/null"
    null.unlink(missing_ok=True)
    if fake == "link":
        null.symlink_to("/proc/sys/kernel/core_pattern")
    elif fake == "file":
        null.write_text("")
    else:
        os.mknod(null, 0o020666, os.makedev(1, 5))
    seen = lab.run()
    assert seen.status == 1
    assert seen.stderr == "pysandbox: /dev/null in the container is not the null device\n"


def test_null_device_that_changes(lab: Lab) -> None:
    lab.prepare(
        "ls -l /proc/keys /proc/timer_list | tr -s ' '; exit 0",
        lambda c: c.update(mounts=[m for m in c["mounts"] if not m["destination"].startswith("/dev")]),
    )
    (lab.rootfs / "dev").mkdir(exist_ok=True)
    (lab.rootfs / "dev/null").unlink(missing_ok=True)
    os.mknod(lab.rootfs / "dev/null", 0o020666, os.makedev(1, 3))
    (lab.rootfs / "dev/link").symlink_to("/proc/sys/kernel/core_pattern")
    with Swapper(lab.rootfs / "dev/null", lab.rootfs / "dev/link"):
        for _ in range(ROUNDS):
            for line in lab.run().stdout.splitlines():
                assert line.startswith("crw"), line
                assert line.split(" ")[4:6] == ["1,", "3"], line


def test_sysctl_is_not_written_through_the_image(lab: Lab) -> None:
    """The image's /proc is its own business; sysctls are set in the real one."""

    def change(config: Config) -> None:
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/proc"]
        config["linux"].update(sysctl={"net.ipv4.ip_default_ttl": "77"}, maskedPaths=[], readonlyPaths=[])

    lab.prepare("ping -c 1 127.0.0.1", change)
    place = lab.rootfs / "proc/sys/net/ipv4"
    place.mkdir(parents=True)
    out_link(lab, place / "ip_default_ttl")
    seen = lab.run()
    assert "ttl=77" in seen.stdout, seen.stderr
    lab.check_outside()


@pytest.mark.parametrize("link", ["", "/trap"])
def test_working_directory_in_a_leaked_descriptor(lab: Lab, link: str) -> None:
    """No /proc/self/fd/N is a way out, by itself or behind a link of the image."""
    lab.prepare("", lambda c: c, ["/bin/pwd"])
    config = json.loads((lab.bundle / "config.json").read_text())
    for number in range(3, 20):
        target = f"/proc/self/fd/{number}"
        if link:
            (lab.rootfs / "trap").unlink(missing_ok=True)
            (lab.rootfs / "trap").symlink_to(target)
        config["process"]["cwd"] = link or target
        (lab.bundle / "config.json").write_text(json.dumps(config))
        seen = lab.run()
        assert seen.status == 1, seen
        assert seen.stdout == ""


def test_console(lab: Lab) -> None:
    """The terminal is mounted on /dev/console itself, not on what a link there names."""

    def change(config: Config) -> None:
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/dev"]
        config["process"]["terminal"] = True

    lab.prepare("exit 0", change)
    (lab.rootfs / "dev").mkdir(exist_ok=True)
    (lab.rootfs / "dev/console").symlink_to("/proc/sys/kernel/core_pattern")
    path = lab.bundle / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = ["run", "-d", "--console-socket", str(path)]
        seen = config_lab.run(lab._pysandbox, lab.bundle, command=command)
    assert seen.status == 1
    assert seen.stderr == "pysandbox: allocate terminal: /dev/console in the container is a symbolic link\n"


def test_terminal_multiplexer_that_is_none(lab: Lab) -> None:
    def change(config: Config) -> None:
        config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/dev")]
        config["process"]["terminal"] = True

    lab.prepare("exit 0", change)
    (lab.rootfs / "dev/pts").mkdir(parents=True, exist_ok=True)
    os.mkfifo(lab.rootfs / "dev/pts/ptmx")
    seen = config_lab.run(lab._pysandbox, lab.bundle)
    assert seen.status == 1
    assert re.search("allocate terminal: open /dev/pts/ptmx: ", seen.stderr)
