"""User namespaces and id-mapped mounts: beside runc where Debian's knows them, else against what the kernel must show."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_lab
import pytest
import rootless_lab
from rootless_lab import Rootless

TOP = Path(__file__).resolve().parent.parent
Config = dict[str, Any]
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc to compare with: apt-get install runc"),
]
HOST_ROOT = 300000
MAPPING = [{"containerID": 0, "hostID": HOST_ROOT, "size": 65536}]


class Lab:
    """One bundle in a user namespace, for both runtimes."""

    def __init__(self, top: Path, pysandbox: str) -> None:
        self.top = top
        self.pysandbox = pysandbox
        self.name = f"userns-{os.getpid()}-{top.name}"
        top.chmod(0o755)

    def prepare(self, script: str, change: Callable[[Config], object] | None = None) -> Path:
        config = json.loads((TOP / "tests/data/configs/docker-userns-remap-016.json").read_text())
        config["linux"]["uidMappings"] = MAPPING
        config["linux"]["gidMappings"] = MAPPING
        bundle = config_lab.prepare(config, self.top, self.name, ["/bin/sh", "-c", script])
        config = json.loads((bundle / "config.json").read_text())
        config["linux"]["resources"] = {}
        if change:
            change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def run(self, script: str, change: Callable[[Config], object] | None = None, **environment: str) -> config_lab.Seen:
        return config_lab.run(self.pysandbox, self.prepare(script, change), **environment)

    def same_as_runc(self, script: str, change: Callable[[Config], object] | None = None) -> str:
        theirs = config_lab.run("runc", self.prepare(script, change))
        ours = self.run(script, change)
        assert (ours.status, ours.stdout) == (theirs.status, theirs.stdout), f"{ours}\n{theirs}"
        assert ours.stdout, theirs.stderr
        return ours.stdout


@pytest.fixture
def lab(busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Lab]:
    del busybox_rootfs  # config_lab copies it
    # Not pytest's directory, which is closed to all but root: runc's containers could not reach their root there.
    with tempfile.TemporaryDirectory(prefix="userns-") as top:
        yield Lab(Path(top), pysandbox_command[0])


@pytest.fixture
def holder() -> Iterator[int]:
    """A process in a user namespace with MAPPING that owns a network and an ipc namespace; its pid."""
    command = ["unshare", "--user", "--net", "--ipc", "sh", "-c", "echo up; exec sleep 1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{name}").write_text(f"0 {HOST_ROOT} 65536\n")
    inside = ["nsenter", "--user", "--net", "-t", str(process.pid)]
    subprocess.run([*inside, "ip", "link", "add", "d0", "type", "bridge"], check=True)
    yield process.pid
    process.kill()
    process.wait()


def namespace(kind: str, path: str) -> Callable[[Config], object]:
    def change(config: Config) -> None:
        spaces = config["linux"]["namespaces"]
        spaces[:] = [space for space in spaces if space["type"] != kind] + [{"type": kind, "path": path}]

    return change


def test_process_identity(lab: Lab) -> None:
    out = lab.same_as_runc(
        "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; grep -E 'Cap|Groups' /proc/self/status; "
        "touch /tmp/f; ls -ln /tmp/f | cut -c1-30; chown 5:6 /tmp/f && ls -ln /tmp/f | cut -c1-30; chown 70000 /tmp/f",
        lambda c: c["process"]["user"].update(uid=7, gid=8, additionalGids=[9, 10]),
    )
    assert "uid=7" in out


def test_user_that_is_not_mapped(lab: Lab) -> None:
    result = lab.run("true", lambda c: c["process"]["user"].update(uid=70000))
    assert (result.status, result.stderr) == (1, "pysandbox: set user 70000:0: invalid argument\n")


def test_files_of_the_container_are_the_mapped_users(lab: Lab) -> None:
    lab.run("umask 022; echo x > /made; mkdir /d; exit 4")
    made = (lab.top / lab.name / "rootfs/made").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (HOST_ROOT, HOST_ROOT, 0o644)


def test_joined_user_namespace_and_what_it_owns(lab: Lab, holder: int) -> None:
    def change(config: Config) -> None:
        for kind, name in (("network", "net"), ("ipc", "ipc"), ("user", "user")):
            namespace(kind, f"/proc/{holder}/ns/{name}")(config)
        config["linux"].pop("sysctl", None)

    out = lab.same_as_runc("cat /proc/self/uid_map; ls /sys/class/net; ip link set d0 up && echo mine; id", change)
    assert "d0" in out
    assert "mine" in out
    # runc 1.1 demands mappings that it then does not use; the specification does not.
    without = lambda c: (change(c), c["linux"].pop("uidMappings"), c["linux"].pop("gidMappings"))  # noqa: E731
    assert lab.run("cat /proc/self/uid_map", without).stdout.split() == ["0", str(HOST_ROOT), "65536"]


def test_network_namespace_of_the_host_joined_from_a_new_user_namespace(lab: Lab) -> None:
    """As `docker run --network container:X` with userns-remap: joining it needs the caller's rights, not the container's."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link add h0 type bridge; echo; read x"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()

        def change(config: Config) -> None:
            namespace("network", f"/proc/{process.pid}/ns/net")(config)
            config["linux"].pop("sysctl", None)
            # Another user namespace's network: its sysfs cannot be mounted here.
            config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/sys")]

        out = lab.same_as_runc("ip link | grep -o 'h0:'; ip link set h0 up || echo not mine", change)
        process.communicate(b"\n")
    assert out == "h0:\nnot mine\n"


def test_the_callers_own_user_namespace_is_no_namespace(lab: Lab) -> None:
    def change(config: Config) -> None:
        namespace("user", "/proc/self/ns/user")(config)
        for name in ("uidMappings", "gidMappings"):
            config["linux"].pop(name)

    assert "4294967295" in lab.run("cat /proc/self/uid_map", change).stdout


def test_sources_and_root_out_of_the_mapped_roots_reach(lab: Lab) -> None:
    """Nobody but the host's root may enter the directories that hold them: they are opened with the caller's rights."""
    place = lab.top / "closed"
    (place / "inner").mkdir(parents=True)
    (place / "inner/file").write_text("seen\n")
    script = "cat /mnt/file /etc/one; echo x > /mnt/file; grep -c mnt /proc/self/mountinfo"

    def change(config: Config) -> None:
        config["mounts"] += [
            {"destination": "/mnt", "type": "bind", "source": str(place / "inner"), "options": ["rbind", "ro"]},
            {"destination": "/etc/one", "type": "bind", "source": "../closed/inner/file", "options": ["bind"]},
        ]

    bundle = lab.prepare(script, change)
    place.chmod(0o700)
    bundle.chmod(0o700)
    result = config_lab.run(lab.pysandbox, bundle)
    assert result.stdout == "seen\nseen\n1\n", result.stderr
    assert "Read-only file system" in result.stderr


@pytest.mark.parametrize("option", ["rbind", "idmap"])
def test_source_that_shows_earlier_mounts(lab: Lab, option: str) -> None:
    """One below the container's own root: opened when its turn comes, by someone with the caller's rights all the same."""
    place = lab.top / "closed"
    (place / "inner").mkdir(parents=True)
    (place / "inner/file").write_text("seen\n")

    def change(config: Config) -> None:
        root = config["root"]["path"]
        config["mounts"] += [
            {"destination": "/mnt", "type": "bind", "source": str(place), "options": ["bind"]},
            {"destination": "/opt/again", "type": "bind", "source": f"{root}/mnt/inner", "options": ["bind", option]},
            {"destination": "/opt/file", "type": "bind", "source": f"{place}/inner/file", "options": ["bind"]},
        ]

    bundle = lab.prepare("cat /opt/again/file /opt/file; stat -c %u /opt/again", change)
    place.chmod(0o700)
    result = config_lab.run(lab.pysandbox, bundle)
    assert result.stdout == f"seen\nseen\n{0 if option == 'idmap' else 65534}\n", result.stderr


def test_missing_source(lab: Lab) -> None:
    mount = {"destination": "/mnt", "type": "bind", "source": "/nope", "options": ["bind"]}
    result = lab.run("true", lambda c: c["mounts"].append(mount))
    assert (result.status, result.stderr) == (
        1, "pysandbox: mount '/nope' at '/mnt': stat /nope: no such file or directory\n",
    )  # fmt: skip
    assert not list(Path("/sys/fs/cgroup").glob(f"*/pysandbox-test/{lab.name}"))


def test_flags_of_the_host_are_locked(lab: Lab, standin: str) -> None:
    """What is read-only for the host stays so for a root of a user namespace, though he may mount there. The program runs
    natively here: the monitor offers no mount(2)."""
    place = lab.top / "locked"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,nosuid,nodev", "tmpfs", place], check=True)
    try:
        bind = {"destination": "/mnt", "type": "bind", "source": str(place), "options": ["bind"]}

        def change(config: Config) -> None:
            config["mounts"].append(bind)
            config["linux"].pop("seccomp")

        script = (
            "mount -t tmpfs t /tmp && echo may mount; mount -o remount,bind,rw /mnt; mount -o remount,bind,ro,suid,dev /mnt;"
            "grep ' /mnt ' /proc/self/mountinfo | cut -d' ' -f6"
        )
        theirs = config_lab.run("runc", lab.prepare(script, change))
        result = lab.run(script, change, PSB_MONITOR=standin)
    finally:
        subprocess.run(["umount", place], check=True)
    assert result.stdout == theirs.stdout == "may mount\nro,nosuid,nodev,relatime\n", (result, theirs)
    assert result.stderr.count("mount: permission denied") == 2


def test_id_mapped_mount(lab: Lab) -> None:
    place = lab.top / "owned"
    (place / "sub").mkdir(parents=True)
    for name, owner in (("a", 0), ("b", 1000), ("c", 5)):
        (place / name).write_text("")
        os.chown(place / name, owner, owner)
    mapping = [{"containerID": 0, "hostID": 2000, "size": 1}, {"containerID": 1000, "hostID": 3000, "size": 1}]

    def change(config: Config) -> None:
        config["mounts"].append({
            "destination": "/mnt", "type": "bind", "source": str(place), "options": ["bind"],
            "uidMappings": mapping, "gidMappings": mapping,
        })  # fmt: skip
        config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "user"]
        del config["linux"]["uidMappings"], config["linux"]["gidMappings"]

    result = lab.run("ls -ln /mnt | sed 1d | tr -s ' ' | cut -d' ' -f3,4,9; touch /mnt/c 2>&1 || echo overflow", change)
    assert result.stdout.splitlines()[:3] == ["2000 2000 a", "3000 3000 b", "65534 65534 c"], result.stderr


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_mount_mapped_as_the_container(lab: Lab, option: str) -> None:
    """Ids of the file system are those of the container: 0 there is 0 here, though 300000 outside. Submounts only with
    `ridmap`."""
    place = lab.top / "owned"
    (place / "sub").mkdir(parents=True)
    (place / "a").write_text("")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place / "sub"], check=True)
    try:
        mount = {"destination": "/mnt", "type": "bind", "source": str(place), "options": ["rbind", option]}
        script = "ls -ldn /mnt/a /mnt/sub | tr -s ' ' | cut -d' ' -f3,9; echo x > /mnt/new; ls -ln /mnt/new | cut -c1-22"
        result = lab.run(script, lambda c: c["mounts"].append(mount))
    finally:
        subprocess.run(["umount", place / "sub"], check=True)
    submount = "0" if option == "ridmap" else "65534"
    assert result.stdout.splitlines()[:2] == ["0 /mnt/a", f"{submount} /mnt/sub"], result.stderr
    assert (place / "new").stat().st_uid == 0


def test_time_namespace_inside(lab: Lab) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 5}, "monotonic": {"secs": 7}}

    result = lab.run("cat /proc/self/timens_offsets; [ $(cut -d. -f1 /proc/uptime) -gt 1000000 ] && echo later", change)
    assert result.stdout.split() == ["monotonic", "7", "0", "boottime", "1000000", "5", "later"], result.stderr


@pytest.fixture
def rootless(busybox_rootfs: Path) -> Iterator[Rootless]:
    del busybox_rootfs  # config_lab copies it
    yield from rootless_lab.rootless()


def test_rootless(rootless: Rootless, lab: Lab) -> None:
    script = (
        "id -u; cat /proc/self/uid_map /proc/self/setgroups /proc/self/cgroup; grep Cap /proc/self/status; hostname;"
        "cut -d' ' -f4- /proc/self/mountinfo; ls -l /dev | cut -c1-35; echo x > /dev/null && echo written; touch /made || exit 5"
    )
    rootless.configure(script, lambda c: c["root"].update(readonly=False))
    theirs, ours = rootless.run("runc"), rootless.run(lab.pysandbox)
    assert ours.stdout == theirs.stdout, ours.stderr
    assert ours.stdout.startswith(f"0\n         0      {Rootless.UID}          1\ndeny\n")
    assert (ours.status, ours.stderr) == (0, "")
    assert (rootless.bundle / "rootfs/made").stat().st_uid == Rootless.UID


def test_rootless_errors(rootless: Rootless, lab: Lab) -> None:
    def no_user(config: Config) -> None:
        config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "user"]
        del config["linux"]["uidMappings"], config["linux"]["gidMappings"]

    rootless.configure("true", no_user)
    seen = rootless.run(lab.pysandbox)
    assert seen.stderr.startswith("pysandbox: without root a container needs a user namespace")
    rootless.configure("true", lambda c: c["linux"]["uidMappings"].append({"containerID": 1, "hostID": 0, "size": 1}))
    refused = rootless.run(lab.pysandbox)
    assert refused.stderr.startswith("pysandbox: user namespace: ")
    rootless.configure("true")
    for mode, group, mend in (
        (0o600, 0, "run as root, or let a group use it (chgrp kvm /dev/kvm; chmod 660 /dev/kvm) and join that group"),
        (0o660, 54399, "run as root or join the 54399 group (usermod -aG 54399 USER, then log in again)"),
    ):
        os.chown(rootless.top / "kvm", 0, group)
        (rootless.top / "kvm").chmod(mode)
        without = rootless.run(lab.pysandbox)
        assert without.stderr == f"pysandbox: /dev/kvm is refused (permission denied): {mend}\n"
        assert "/dev/kvm is refused (permission denied)" in rootless.call(lab.pysandbox, "doctor").stdout
    for result in (seen, refused, without):
        assert (result.status, len(result.stderr.splitlines())) == (1, 1), result


def test_killed_at_any_moment(lab: Lab) -> None:
    """The processes that make the namespace and open the sources end with the launcher."""
    program = f"sleep {100000 + os.getpid()}"
    bundle = lab.prepare(f"exec {program}")
    state = bundle / "state"
    for number in range(8):
        launcher = subprocess.Popen([lab.pysandbox, "--root", state, "run", "-b", bundle, lab.name])
        with pytest.raises(subprocess.TimeoutExpired):
            launcher.wait(0.008 + number * 0.01)
        launcher.kill()
        launcher.wait()
        left = [""]
        for _ in range(200):
            out = subprocess.run([lab.pysandbox, "--root", state, "list", "-q"], capture_output=True, text=True, check=True)
            table = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
            left = [line for line in table.splitlines() if line == program or lab.name in line]
            if not out.stdout and not left:
                break
        assert not left
        assert not list(Path("/sys/fs/cgroup").glob(f"*/pysandbox-test/{lab.name}"))
