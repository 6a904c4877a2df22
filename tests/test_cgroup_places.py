"""Which groups a container gets on which host: /proc files as they are on hosts of all kinds, and version 2 groups made
in a directory that plays the hierarchy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pysandbox.oci import cgroups, cgroups_v2, undo
from pysandbox.oci import cgroups_files as files
from pysandbox.oci.cgroups import Cgroup, Layout
from pysandbox.oci.errors import ConfigError, Error, ResourceError, UnsupportedError
from pysandbox.oci.spec import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    Linux,
    Memory,
    Process,
    Resources,
    Root,
    Spec,
    ThrottleDevice,
    WeightDevice,
)
from pysandbox.oci.state import Made, State

TMPFS = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
V1 = (
    TMPFS
    + "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    + "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    + "34 31 0:31 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices\n"
    + "35 31 0:32 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
)
GROUPS = "5:name=systemd:/user.slice\n4:memory:/user.slice/s\n3:cpu,cpuacct:/\n2:devices:/user.slice\n"


def layout(groups: str, mounts: str) -> Layout:
    return cgroups.read_layout(groups.splitlines(keepends=True), mounts.splitlines(keepends=True))


def test_version_1() -> None:
    host = layout(GROUPS, V1)
    assert not host.unified
    assert host.hybrid == ""
    top = "/sys/fs/cgroup"
    assert host.mounts == {
        "cpu": f"{top}/cpu,cpuacct", "cpuacct": f"{top}/cpu,cpuacct", "memory": f"{top}/memory", "devices": f"{top}/devices",
        "name=systemd": f"{top}/systemd",
    }  # fmt: skip
    assert host.own["memory"] == "user.slice/s"
    assert host.own["cpu"] == "."


def test_hybrid() -> None:
    host = layout(GROUPS + "0::/x\n", V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    assert not host.unified
    assert host.hybrid == "/sys/fs/cgroup/unified"
    assert host.own[""] == "x"


def test_version_2() -> None:
    host = layout("0::/user.slice/session-1.scope\n", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
    assert host.unified
    assert host.mounts == {"": "/sys/fs/cgroup"}
    assert host.own[""] == "user.slice/session-1.scope"


def test_version_2_with_a_version_1_hierarchy_elsewhere() -> None:
    mounts = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n50 31 0:40 / /mnt/net rw - cgroup cgroup rw,net_cls\n"
    assert layout("3:net_cls:/\n0::/\n", mounts).unified


def test_the_usual_place_is_preferred() -> None:
    """A container's own mounts may be seen from the host, and come first."""
    other = V1.replace("/sys/fs/cgroup", "/var/lib/box/rootfs/sys/fs/cgroup")
    assert layout(GROUPS, other + V1).mounts == layout(GROUPS, V1).mounts
    assert layout(GROUPS, V1 + other).mounts == layout(GROUPS, V1).mounts
    assert layout(GROUPS, other).mounts["memory"].startswith("/var/lib/box")


@pytest.mark.parametrize(
    ("path", "root", "own"),
    [
        ("/docker/abc/x", "/docker/abc", "x"),  # the runtime in a container, with a part of the hierarchy
        ("/docker/abc", "/docker/abc", "."),
        ("/docker/abcdef", "/docker/abc", "."),
        ("/../../other", "/", "."),  # outside of the cgroup namespace
        ("/", "/", "."),
    ],
)
def test_the_callers_own_group(path: str, root: str, own: str) -> None:
    host = layout(f"3:memory:{path}\n2:devices:/\n", f"33 31 0:30 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    assert host.own["memory"] == own
    assert host.own_group("memory") == os.path.normpath(f"/sys/fs/cgroup/memory/{own}")


@pytest.mark.root
def test_what_is_mounted_over_does_not_count() -> None:
    """mountinfo lists it all the same."""
    show = f"{sys.executable} -c 'from pysandbox.oci import cgroups; x = cgroups.host_layout(); print(x.mounts, x.hybrid)'"
    script = f"mount -t tmpfs none /sys && mkdir -p /sys/fs/cgroup/memory && grep -c ' - cgroup' /proc/self/mountinfo; {show}"
    done = subprocess.run(["unshare", "-m", "sh", "-ec", script], check=True, capture_output=True, text=True)
    count, found = done.stdout.splitlines()
    assert int(count) > 0
    assert found.strip() == "{}"


def test_names_with_spaces() -> None:
    host = layout("3:memory:/a b\n", "33 31 0:30 / /mnt/c\\040g\\134x rw - cgroup cgroup rw,memory\n")
    assert host.mounts == {"memory": "/mnt/c g\\x"}
    assert host.own["memory"] == "a b"


# --- plan -------------------------------------------------------------------------------------------------------------


def spec(path: str, resources: Resources | None = None) -> Spec:
    return Spec(
        oci_version="1.2.0", process=Process(args=("true",), cwd="/"), root=Root(path="r"), annotations={},
        linux=Linux(cgroups_path=path, resources=resources),
    )  # fmt: skip


HYBRID = Layout(
    unified=False, mounts={"memory": "/c/memory", "devices": "/c/devices"}, own={"memory": "a/b", "devices": ".", "": "u"},
    hybrid="/c/unified",
)  # fmt: skip
UNIFIED = Layout(unified=True, mounts={"": "/c"}, own={"": "user.slice/session.scope"})


@pytest.mark.parametrize(
    ("path", "memory", "devices", "unified"),
    [
        ("", "/c/memory/a/b/box", "/c/devices/box", "/c/user.slice/box"),
        ("x/y", "/c/memory/a/b/x/y", "/c/devices/x/y", "/c/user.slice/x/y"),
        ("/x/y", "/c/memory/x/y", "/c/devices/x/y", "/c/x/y"),
        ("../../../x", "/c/memory/a/b/x", "/c/devices/x", "/c/user.slice/x"),
        ("/../../x", "/c/memory/x", "/c/devices/x", "/c/x"),
        ("/x/../../etc/", "/c/memory/etc", "/c/devices/etc", "/c/etc"),
        ("//x", "/c/memory/x", "/c/devices/x", "/c/x"),
    ],
)
def test_paths_stay_in_the_hierarchy(monkeypatch: pytest.MonkeyPatch, path: str, memory: str, devices: str, unified: str) -> None:
    monkeypatch.setattr(cgroups, "_layout", HYBRID)
    group = cgroups.plan(spec(path), "box")
    assert (group.paths["memory"], group.paths["devices"]) == (memory, devices)
    assert group.paths["unified"].startswith("/c/unified/")
    monkeypatch.setattr(cgroups, "_layout", UNIFIED)
    assert cgroups.plan(spec(path), "box").paths == {"": unified}


@pytest.mark.parametrize("path", ["/", "/..", ".", "a/..", "//"])
def test_the_root_is_refused(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(cgroups, "_layout", HYBRID)
    with pytest.raises(ConfigError, match="cgroupsPath"):
        cgroups.plan(spec(path), "box")


def test_what_cannot_be_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_rootless", lambda: False)
    monkeypatch.setattr(cgroups, "_layout", HYBRID)
    with pytest.raises(UnsupportedError, match="cannot use unified on cgroup v1"):
        cgroups.plan(spec("", Resources(unified={})), "box")
    with pytest.raises(ConfigError, match="device access at 0 field cannot be empty"):
        cgroups.plan(spec("", Resources(devices=(DeviceRule(allow=True),))), "box")
    with pytest.raises(ConfigError, match="is not a page size"):
        cgroups.plan(spec("", Resources(hugepage_limits=(HugepageLimit(page_size="../x", limit=1),))), "box")
    monkeypatch.setattr(cgroups, "_layout", Layout(unified=False, mounts={"memory": "/c/memory"}, own={"memory": ".", "": "."}))
    with pytest.raises(ResourceError, match="mountpoint for devices not found"):
        cgroups.plan(spec(""), "box")


def test_the_groups_of_a_state() -> None:
    fields = {
        "id": "x",
        "phase": "started",
        "oci_version": "1.2.0",
        "bundle": "/",
        "rootfs": "/",
        "created": "",
        "annotations": {},
    }
    group = Cgroup(paths={"memory": "/c/memory/x"}, unit="u.scope", slice="s.slice")
    again = cgroups.of_state(State(**fields, data={"cgroup": group.record()}))  # type: ignore[arg-type]
    assert (again.paths, again.unit, again.slice) == (group.paths, "u.scope", "")
    host = cgroups.host_layout()
    controller, mount = next(iter(host.mounts.items()))
    state = State(**fields, data={}, made=(Made(kind="cgroup", path=f"{mount}/x"),))  # type: ignore[arg-type]
    assert cgroups.of_state(state).paths[controller] == f"{mount}/x"


# --- a directory as hierarchy -----------------------------------------------------------------------------------------


def group(path: Path, **contents: str) -> Path:
    path.mkdir(exist_ok=True)
    defaults = {
        "cgroup.controllers": "cpu memory pids",
        "cgroup.subtree_control": "",
        "cgroup.procs": "",
        "cgroup.type": "domain",
    }
    for name, text in {**defaults, **{key.replace("__", "."): value for key, value in contents.items()}}.items():
        (path / name).write_text(text + "\n" if text else "")
    return path


def test_controllers_are_passed_down_the_path(tmp_path: Path) -> None:
    top = group(tmp_path / "top", cgroup__subtree_control="cpu")
    middle = group(top / "a", cgroup__subtree_control="cpu memory pids")
    cgroups_v2.create(str(middle / "b" / "c"), str(top), None)
    # A file here is not truncated by a write, as one of the kernel's is not.
    assert (top / "cgroup.subtree_control").read_text().startswith("+memory +pids")
    assert (middle / "cgroup.subtree_control").read_text() == "cpu memory pids\n"  # nothing to do
    assert (middle / "b" / "c").is_dir()


LIMITED = Resources(memory=Memory(limit=1 << 20))
THREADED_OK = Resources(pids_limit=5)


@pytest.mark.parametrize(("kind", "words"), [("threaded", "threaded mode"), ("domain threaded", "domain threaded mode"),
                                             ("domain invalid", "an invalid state")])  # fmt: skip
def test_threaded_groups(tmp_path: Path, kind: str, words: str) -> None:
    top = group(tmp_path / "top")
    inner = group(top / "a", cgroup__type=kind)
    with pytest.raises(ResourceError, match=f"with domain controllers -- it is in {words}"):
        cgroups_v2.create(str(inner / "b"), str(top), LIMITED)
    assert not (inner / "b").exists()
    cgroups_v2.create(str(inner / "b"), str(top), THREADED_OK)
    assert (inner / "b").is_dir()
    assert ((inner / "cgroup.type").read_text().startswith("threaded")) == (kind in ("threaded", "domain invalid"))


def test_what_was_made_before_an_error_is_gone(tmp_path: Path) -> None:
    top = group(tmp_path / "top")
    long = "x" * 300  # longer than a name can be
    with pytest.raises(ResourceError, match="file name too long"):
        cgroups_v2.create(str(top / "a" / "b" / long), str(top), None)
    assert [path.name for path in top.iterdir() if path.is_dir()] == []


def test_footprint(tmp_path: Path) -> None:
    """What is not there is made, and recorded from the outside in; a group that is empty becomes one's own; one with
    processes stays what it is."""
    top = group(tmp_path / "top")
    used, free = group(top / "used", cgroup__procs="1"), group(top / "free")
    paths = {"a": f"{top}/x/y/z", "b": f"{top}/x/y/z", "c": f"{top}/x/w", "d": str(used), "e": str(free)}
    assert cgroups.footprint(Cgroup(paths=paths)) == [
        ("cgroup-above", f"{top}/x"), ("cgroup-above", f"{top}/x/y"), ("cgroup", f"{top}/x/y/z"), ("cgroup", f"{top}/x/w"),
        ("cgroup", str(free)),
    ]  # fmt: skip


def test_groups_below_are_visited_first(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "link").symlink_to("/")
    seen = [os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path) for fd in files.each_group(str(tmp_path))]
    assert sorted(seen) == [".", "a", "a/b", "a/b/c", "a/d", "e"]
    assert seen[-1] == "."
    assert seen.index("a/b/c") < seen.index("a/b") < seen.index("a")
    before = len(os.listdir("/proc/self/fd"))
    for _ in files.each_group(str(tmp_path)):
        break  # given up half-way, nothing stays open
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(files.each_group(str(tmp_path / "gone"))) == []


def nest(top: str, levels: int) -> None:
    """Deeper than a path can be long."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("x" * 10, dir_fd=fd)
        below = os.open("x" * 10, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_groups_deeper_than_a_path_can_say(tmp_path: Path) -> None:
    nest(str(tmp_path), 1500)
    assert sum(1 for _ in files.each_group(str(tmp_path))) == 1501
    assert sum(1 for _ in files.each_group(str(tmp_path), remove=True)) == 1501
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_real_groups_that_deep_are_removed() -> None:
    """With a process at the bottom, which is killed."""
    host = cgroups.host_layout()
    top = host.mounts.get("pids") or host.mounts.get("") or next(iter(host.mounts.values()))
    place = f"{top}/psb-deep-{os.getpid()}"
    os.mkdir(place)
    nest(place, 450)
    sleeper = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reaper = threading.Thread(target=sleeper.wait)
    try:
        visit = files.each_group(place)
        fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=next(visit))
        os.write(fd, str(sleeper.pid).encode())
        os.close(fd)
        visit.close()
        assert cgroups.processes([place]) == [sleeper.pid]
        reaper.start()
        undo.undo(Made(kind="cgroup", path=place))
        reaper.join(60)
        assert sleeper.returncode == -9
        assert not os.path.exists(place)
    finally:
        sleeper.kill()
        undo.undo(Made(kind="cgroup", path=place))


# --- limits of version 2 ----------------------------------------------------------------------------------------------


class Notes(files.Setter):
    """Notes what would be written. `absent`: names that the group does not have; `refused`: name -> errno, once."""

    def __init__(self, **refused: int) -> None:
        super().__init__()
        self.written: list[tuple[str, str]] = []
        self.refused = {key.replace("__", "."): value for key, value in refused.items()}

    def set(self, directory: str | None, name: str, value: object) -> None:
        if code := self.refused.pop(name, 0):
            raise ResourceError("refused", errno=code)
        self.written.append((name, str(value)))


def settings_for(resources: Resources, directory: Path, notes: Notes | None = None) -> list[tuple[str, str]]:
    notes = notes or Notes()
    cgroups_v2.apply(str(directory), resources, notes)
    return notes.written


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (Memory(limit=1000), [("memory.max", "1000")]),
        (Memory(limit=1000, swap=1500), [("memory.swap.max", "500"), ("memory.max", "1000")]),
        (Memory(limit=1000, swap=1000), [("memory.swap.max", "0"), ("memory.max", "1000")]),
        (Memory(limit=1000, swap=-1), [("memory.swap.max", "max"), ("memory.max", "1000")]),
        (Memory(limit=-1), [("memory.swap.max", "max"), ("memory.max", "max")]),
        (Memory(swap=-1), [("memory.swap.max", "max")]),
        (Memory(reservation=5), [("memory.low", "5")]),
        (Memory(limit=0, swap=0, kernel=5, kernel_tcp=5, swappiness=5, disable_oom_killer=True), []),
    ],
)
def test_memory(tmp_path: Path, memory: Memory, expected: list[tuple[str, str]]) -> None:
    assert settings_for(Resources(memory=memory), tmp_path) == expected


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (Memory(swap=1000), "unable to set swap limit without memory limit"),
        (Memory(limit=-1, swap=1000), "unable to set swap limit without memory limit"),
        (Memory(limit=1000, swap=900), r"memory\+swap limit should be >= memory limit"),
        (Memory(limit=-5, swap=900), "invalid memory value: -5"),
    ],
)
def test_memory_that_makes_no_sense(tmp_path: Path, memory: Memory, words: str) -> None:
    with pytest.raises(ResourceError, match=words):
        settings_for(Resources(memory=memory), tmp_path)


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 0), (1, 1), (2, 1), (100, 4), (1024, 39), (2048, 79), (262144, 10000), (1 << 40, 10000)]
)
def test_shares_become_weights(shares: int, weight: int) -> None:
    assert cgroups_v2.weight_of(shares) == weight


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (CPU(shares=1024), [("cpu.weight", "39")]),
        (CPU(quota=5000), [("cpu.max", "5000 100000")]),
        (CPU(period=5000), [("cpu.max", "max 5000")]),
        (CPU(quota=-1, period=7000), [("cpu.max", "max 7000")]),
        (CPU(idle=1, shares=5), [("cpu.idle", "1")]),
        (CPU(burst=10, quota=20, period=30), [("cpu.max.burst", "10"), ("cpu.max", "20 30")]),
        (CPU(cpus="0-1", mems="0"), [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        (CPU(realtime_period=5, realtime_runtime=5), []),
    ],
)
def test_cpu(tmp_path: Path, cpu: CPU, expected: list[tuple[str, str]]) -> None:
    assert settings_for(Resources(cpu=cpu), tmp_path) == expected


def test_a_burst_above_the_old_quota(tmp_path: Path) -> None:
    """Refused before the new quota is there, it is set after it."""
    written = settings_for(Resources(cpu=CPU(burst=10, quota=20)), tmp_path, Notes(cpu__max__burst=22))
    assert written == [("cpu.max", "20 100000"), ("cpu.max.burst", "10")]


def test_block_io(tmp_path: Path) -> None:
    throttle = (ThrottleDevice(major=8, minor=0, rate=1000),)
    block = BlockIO(
        weight=500, weight_device=(WeightDevice(major=8, minor=16, weight=10),), throttle_read_bps_device=throttle,
        throttle_write_iops_device=(ThrottleDevice(major=8, minor=0, rate=0),),
    )  # fmt: skip
    limits = [("io.max", "8:0 rbps=1000"), ("io.max", "8:0 wiops=max")]
    assert settings_for(Resources(block_io=block), tmp_path) == [("io.weight", "4950"), ("io.weight", "8:16 1"), *limits]
    (tmp_path / "io.bfq.weight").touch()
    assert settings_for(Resources(block_io=block), tmp_path) == [("io.bfq.weight", "500"), ("io.bfq.weight", "8:16 10"), *limits]


def test_unified(tmp_path: Path) -> None:
    unified = {"io.max": "8:0 rbps=1\n8:16 rbps=2\n", "memory.high": "5"}
    assert settings_for(Resources(unified=unified), tmp_path) == [
        ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2"), ("memory.high", "5"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a/b", "must be a file name"), ("../cgroup.procs", "must be a file name"), ("nodot", "in the form CONTROLLER.PARAMETER"),
        ("..", "in the form CONTROLLER.PARAMETER"), (".x", "in the form CONTROLLER.PARAMETER"),
        ("nosuch.max", 'controller "nosuch" not available'), ("cpu.nosuch", 'unable to set unified resource "cpu.nosuch"'),
    ],
)  # fmt: skip
def test_unified_that_is_refused(tmp_path: Path, name: str, words: str) -> None:
    group(tmp_path / "g")
    with pytest.raises(Error, match=words.replace(".", r"\.")):
        cgroups_v2.apply(str(tmp_path / "g"), Resources(unified={name: "1"}), files.Setter())
    assert not (tmp_path / "cgroup.procs").exists()


def test_a_name_is_never_followed(tmp_path: Path) -> None:
    """Cgroup file systems have no symbolic links; a directory that plays one may."""
    target = tmp_path / "target"
    target.write_text("keep")
    (tmp_path / "pids.max").symlink_to(target)
    with pytest.raises(ResourceError, match=r"open .*/pids\.max"):
        cgroups_v2.apply(str(tmp_path), Resources(pids_limit=5), files.Setter())
    assert target.read_text() == "keep"
