"""Control groups of real containers: the same config.json under runc and pysandbox, and every setting compared."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from cgroup_lab import VERSION_2, all_settings, cgroup2, groups, resources, settings
from pysandbox.oci import cgroups
from verb_lab import Change, Config, Runtime, missing

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
__all__ = ["cgroup2"]

UNIFIED = cgroups.host_layout().unified
MIB = 1 << 20


def disk() -> tuple[int, int]:
    """A block device, for limits by device."""
    for line in Path("/proc/partitions").read_text().splitlines()[2:]:
        major, minor, _, name = line.split()
        if Path(f"/sys/block/{name}").exists():
            return int(major), int(minor)
    pytest.skip("this host has no block device")


def throttle() -> dict[str, Any]:
    major, minor = disk()
    row = {"major": major, "minor": minor}
    return {
        "throttleReadBpsDevice": [{**row, "rate": 10 * MIB}],
        "throttleWriteBpsDevice": [{**row, "rate": 11 * MIB}],
        "throttleReadIOPSDevice": [{**row, "rate": 1000}],
        "throttleWriteIOPSDevice": [{**row, "rate": 1001}],
    }


CASES: list[tuple[str, dict[str, Any]]] = [
    ("nothing", {}),
    ("memory", {"memory": {"limit": 64 * MIB, "reservation": 32 * MIB}}),
    ("memory and swap", {"memory": {"limit": 64 * MIB, "swap": 128 * MIB}}),
    ("memory without swap", {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}),
    ("unlimited memory", {"memory": {"limit": -1}}),
    ("kernel memory", {"memory": {"limit": 64 * MIB, "kernel": 10 * MIB, "kernelTCP": 10 * MIB}}),
    ("swappiness", {"memory": {"swappiness": 33, "disableOOMKiller": True}}),
    ("cpu", {"cpu": {"shares": 512, "quota": 50000, "period": 100000}}),
    ("shares", {"cpu": {"shares": 262144}}),
    ("quota", {"cpu": {"quota": 25000}}),
    ("period", {"cpu": {"period": 50000}}),
    ("no quota", {"cpu": {"quota": -1, "period": 200000}}),
    ("cpuset", {"cpu": {"cpus": "0", "mems": "0"}}),
    ("pids", {"pids": {"limit": 77}}),
    ("no pids limit", {"pids": {"limit": -1}}),
    ("block I/O weight", {"blockIO": {"weight": 321}}),
    ("block I/O limits", {"blockIO": {}}),  # filled in by the test
    ("devices", {"devices": [
        {"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 7, "access": "r"},
    ]}),
    ("all devices", {"devices": [{"allow": True, "access": "rwm"}]}),
    ("all devices but one", {"devices": [
        {"allow": True, "access": "rwm"}, {"allow": False, "type": "b", "major": 8, "minor": 0, "access": "w"},
    ]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "limits"), CASES, ids=[name for name, _ in CASES])
def test_settings_are_runcs(pair: list[Runtime], name: str, limits: dict[str, Any]) -> None:
    """What is limited, what is not, and what is refused with which words."""
    if name == "block I/O limits":
        limits = {"blockIO": throttle()}
    seen: list[Any] = []
    for runtime in pair:
        runtime.configure(["sleep", "1000"], lambda config: config["linux"].update(resources=dict(limits)))
        if runtime.create() == 0:
            seen.append(all_settings(runtime))
            runtime.clean()
        else:
            # runc says first what it was doing; a name made of the id differs.
            seen.append(runtime.last_error().rpartition(": ")[2])
        assert runtime.left_over() == []
    assert seen[0] == seen[1]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hugepageLimits": [{"pageSize": "7PB", "limit": 1}]}, "hugetlb"),
    ({"rdma": {"nosuch0": {"hcaHandles": 3}}}, "rdma"),
    ({"cpu": {"cpus": "4000"}}, "cpuset"),
    ({"memory": {"limit": 100 * MIB, "swap": 10 * MIB}}, ""),
    ({"devices": [{"allow": True, "type": "c", "access": "rwm"}, {"allow": False, "type": "c", "major": 1, "access": "r"}]}, ""),
    ({"devices": [{"allow": True}]}, "access"),
    ({"unified": {"no/such": "1"}}, "unified"),
    ({"unified": {"nosuch.file": "1"}}, "unified"),
]


@pytest.mark.parametrize(("limits", "word"), REFUSED)
def test_what_cannot_be_set_is_refused(pair: list[Runtime], limits: dict[str, Any], word: str) -> None:
    for runtime in pair:
        runtime.configure(["true"], resources(**limits))
        assert runtime.create() != 0, runtime.name
        if runtime.ours:
            assert word in runtime.last_error()
        runtime.clean()
        assert runtime.left_over() == []


def test_network_priorities(pair: list[Runtime]) -> None:
    """Version 1 may lack the controller; version 2 has none, and both runtimes then leave it at that."""
    codes = []
    for runtime in pair:
        runtime.configure(["true"], resources(network={"priorities": [{"name": "nosuch0", "priority": 3}]}))
        codes.append(runtime.create())
        runtime.clean()
        assert runtime.left_over() == []
    assert codes[0] == codes[1] == (0 if UNIFIED else 1)


PATHS = ["/psb-test-{id}/a/{id}", "psb-test-{id}/{id}", "", "/../../{id}", "../../{id}", "/psb test-{id}"]


@pytest.mark.parametrize("path", PATHS)
def test_places_are_runcs(pair: list[Runtime], path: str) -> None:
    """Absolute, relative, absent, and names that would like to be elsewhere. Of groups made on the way nothing stays."""
    seen = []
    for runtime in pair:
        wanted = path.replace("{id}", runtime.id)
        runtime.configure(["sleep", "1000"], lambda config, wanted=wanted: config["linux"].update(cgroupsPath=wanted))  # type: ignore[misc]
        assert runtime.create() == 0, runtime.last_error()
        text = Path(f"/proc/{runtime.pid}/cgroup").read_text()
        seen.append(text.replace(runtime.id, "ID"))
        runtime.clean()
        if runtime.ours:
            assert not [p for p in Path("/sys/fs/cgroup").glob("*/*") if runtime.id in p.name]
        for left in Path("/sys/fs/cgroup").glob(f"*/psb-test-{runtime.id}"):
            for below in [*left.glob("*"), left]:  # runc's
                if below.is_dir():
                    below.rmdir()
    assert seen[0] == seen[1]


def test_the_root_is_nobodys_group(pair: list[Runtime]) -> None:
    runtime = pair[0]
    runtime.configure(["true"], lambda config: config["linux"].update(cgroupsPath="/.."))
    assert runtime.create() != 0
    assert "not a group of the container's own" in runtime.last_error()


def test_a_group_with_processes_is_joined_and_stays(pair: list[Runtime]) -> None:
    """The first container's group is given to the second; the end of the second leaves the first alone."""
    first, second = pair[0], Runtime("second", pair[0].command, pair[0].bundle.parent, pair[0].rootfs)
    for runtime in (first, second):
        change: Change = lambda config: config["linux"].update(cgroupsPath=f"/{first.id}")  # noqa: E731
        runtime.configure(["sleep", "1000"], change)
        assert runtime.create() == 0, runtime.last_error()
    assert groups(first.pid) == groups(second.pid)
    assert "container's cgroup is not empty: 1 process(es) found" in second.log.read_text()
    second.clean()
    assert first.state()["status"] == "created"
    assert str(first.pid) in (next(iter(groups(first.pid).values())) / "cgroup.procs").read_text().split()
    first.clean()
    assert first.left_over() == []


def test_a_frozen_group_is_refused(pair: list[Runtime]) -> None:
    top = Path("/sys/fs/cgroup" if UNIFIED else "/sys/fs/cgroup/freezer")
    name, word = ("cgroup.freeze", "1") if UNIFIED else ("freezer.state", "FROZEN")
    for runtime in pair:
        group = top / f"psb-frozen-{runtime.id}"
        group.mkdir()
        try:
            (group / name).write_text(word)
            runtime.configure(["true"], lambda config, place=group.name: config["linux"].update(cgroupsPath=f"/{place}"))  # type: ignore[misc]
            assert runtime.create() != 0
            assert "container's cgroup unexpectedly frozen" in runtime.last_error()
            assert (group / name).exists()  # not ours to remove
            assert runtime.create() != 0
            runtime.clean()
        finally:
            if group.exists():
                group.rmdir()


def test_without_groups(pair: list[Runtime]) -> None:
    """crun's --cgroup-manager=disabled."""
    runtime = pair[0]
    runtime.command = [*runtime.command, "--cgroup-manager", "disabled"]
    runtime.configure(["sleep", "1000"])
    assert runtime.create() == 0, runtime.last_error()
    assert groups(runtime.pid) == groups(os.getpid())
    done = runtime.call("pause", runtime.id)
    assert done.returncode == 1
    assert "cgroups not configured for container" in done.stderr


def test_the_systemd_manager_needs_systemd(pair: list[Runtime]) -> None:
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd runs here")
    for runtime in pair:
        runtime.command = [*runtime.command, "--systemd-cgroup"]
        runtime.configure(["true"])
        assert runtime.create() == 1
        assert "systemd not running on this host, cannot use systemd cgroups manager" in runtime.last_error()


def test_an_unknown_manager(pair: list[Runtime]) -> None:
    done = pair[0].call("--cgroup-manager", "nosuch", "list")
    assert done.returncode == 1
    assert "unknown cgroup manager specified nosuch" in done.stderr


def test_the_program_sees_its_limits(pair: list[Runtime]) -> None:
    """sched_getaffinity, and the files of its own group."""
    seen = []
    for runtime in pair:
        script = "grep Cpus_allowed_list /proc/self/status; nproc; cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        script += " /sys/fs/cgroup/memory.max 2>/dev/null; ls /sys/fs/cgroup"
        runtime.configure(script, resources(cpu={"cpus": "0"}, memory={"limit": 96 * MIB}))
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        seen.append(done.stdout)
    assert seen[0] == seen[1]
    assert "Cpus_allowed_list:\t0\n1\n" in seen[0]
    if not UNIFIED:
        assert str(96 * MIB) in seen[0]


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_at_the_limit_of_tasks_nothing_hangs(pair: list[Runtime], limit: int) -> None:
    """KVM's own threads count. What cannot go on says so and ends."""
    runtime = pair[0]
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo >/dev/null; done; /bin/busybox true; /bin/busybox true; echo end"
    runtime.configure(script, resources(pids={"limit": limit}))
    done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
    words = ("end\n", "can't fork", "the pids limit is reached")
    assert any(word in done.stdout + done.stderr for word in words), done
    assert runtime.left_over() == []


def test_an_idle_process_has_one_task_more(pair: list[Runtime]) -> None:
    """Its own and KVM's. The server of its calls has ended."""
    runtime = pair[0]
    runtime.configure("i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo >/dev/null; done; exec sleep 1000", {})
    assert runtime.create() == 0
    try:
        assert runtime.call("start", runtime.id).returncode == 0
        end = time.monotonic() + 10
        tasks: list[str] = []
        while len(tasks) != 2 and time.monotonic() < end:
            time.sleep(0.2)
            tasks = os.listdir(f"/proc/{runtime.pid}/task")
        assert len(tasks) == 2
    finally:
        runtime.call("delete", "-f", runtime.id)


def test_a_process_that_waited_for_a_task_keeps_its_registers(pair: list[Runtime]) -> None:
    """KVM refuses a VM's first runs while the group is full; the one that succeeds must begin where the program is."""
    runtime = pair[0]
    runtime.configure("i=0; while [ $i -lt 8 ]; do i=$((i+1)); ls / | wc -l; done", resources(pids={"limit": 6}))
    done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
    assert "Segmentation" not in done.stderr
    assert done.returncode in (0, 2), done  # 2: the shell could not fork


# --- version 2 --------------------------------------------------------------------------------------------------------


def mknod(config: Config) -> None:
    for kind in ("bounding", "permitted", "effective"):
        config["process"]["capabilities"][kind].append("CAP_MKNOD")
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["rw"]})


DEVICES = """
cd /tmp
mknod full c 1 7; mknod kmsg c 1 11; mknod loop b 7 0; mknod net c 10 200
for f in full kmsg loop net; do dd if=$f of=/dev/null bs=1 count=1 2>&1 | grep -o 'not permitted' || echo $f: ok; done
"""


@pytest.mark.parametrize("rules", [
    [{"allow": False, "access": "rwm"}],
    [],
    [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
    [{"allow": True, "access": "rwm"}, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rwm"}],
])  # fmt: skip
def test_version_2_filters_devices(cgroup2: list[Runtime], rules: list[dict[str, Any]]) -> None:
    seen = []
    for runtime in cgroup2:
        runtime.configure(DEVICES, lambda config: (mknod(config), config["linux"].update(resources={"devices": rules})))
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        seen.append((done.stdout, done.stderr))
        assert runtime.left_over() == []
    assert seen[0] == seen[1]
    if not rules or not rules[0]["allow"]:
        assert "not permitted" in seen[0][0]


def version_2_settings(runtime: Runtime) -> tuple[str, dict[str, str]]:
    """Place and settings of the group, read where version 2 is mounted."""
    import json
    import subprocess
    import sys

    place = Path(f"/proc/{runtime.pid}/cgroup").read_text().split("0::")[1].strip()
    code = "import sys, json; sys.path[0:0] = [sys.argv[1]]\nfrom cgroup_lab import *\n"
    code += "print(json.dumps(settings(Path('/sys/fs/cgroup' + sys.argv[2]), sys.argv[3])))"
    here = str(Path(__file__).parent)
    command = ["unshare", "-m", "sh", "-c", VERSION_2, "sh", sys.executable, "-c", code, here, place, runtime.id]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return place.replace(runtime.id, "ID"), json.loads(out)


@pytest.mark.parametrize("path", ["", "/psb-v2-{id}/{id}", "rel-{id}"])
def test_version_2_groups(cgroup2: list[Runtime], path: str) -> None:
    """The controllers this host can spare for version 2 reach the group, as with runc; nothing stays."""
    seen = []
    for runtime in cgroup2:
        wanted = path.replace("{id}", runtime.id)
        change: Change = lambda config, wanted=wanted: config["linux"].update(cgroupsPath=wanted)  # type: ignore[misc]  # noqa: E731
        runtime.configure(["sleep", "1000"], change)
        assert runtime.create() == 0, runtime.last_error()
        seen.append(version_2_settings(runtime))
        runtime.clean()
        assert runtime.left_over() == []
    for left in Path(cgroups.host_layout().hybrid or "/sys/fs/cgroup").glob("psb-v2-*"):
        assert pair_id(left, cgroup2) != "pysandbox"
        left.rmdir()  # runc's
    assert seen[0] == seen[1]


def pair_id(path: Path, runtimes: list[Runtime]) -> str:
    return next((runtime.name for runtime in runtimes if runtime.id in path.name), "")


def test_version_2_without_the_controller(cgroup2: list[Runtime]) -> None:
    for runtime in cgroup2:
        runtime.configure(["true"], lambda config: config["linux"].update(resources={"unified": {"nosuch.max": "5"}}))
        assert runtime.create() != 0
        assert 'unified resource "nosuch.max" can\'t be set: controller "nosuch" not available' in runtime.last_error()
        runtime.clean()
        assert runtime.left_over() == []


def test_version_2_threaded_groups_are_refused(cgroup2: list[Runtime]) -> None:
    """Below a threaded group there is no memory limit to be had."""
    limits = {"memory": {"limit": 64 * MIB}}
    top = Path(cgroups.host_layout().hybrid or "/sys/fs/cgroup") / f"psb-threaded-{os.getpid()}"
    top.mkdir()
    try:
        (top / "t").mkdir()
        (top / "t" / "cgroup.type").write_text("threaded")
        for runtime in cgroup2:
            place = f"/{top.name}/t/{runtime.id}"
            change: Change = lambda config, place=place: config["linux"].update(cgroupsPath=place, resources=limits)  # type: ignore[misc]  # noqa: E731
            runtime.configure(["true"], change)
            assert runtime.create() != 0
            assert "with domain controllers -- it is in" in runtime.last_error()
            runtime.clean()
        assert sorted(p.name for p in (top / "t").iterdir() if p.is_dir()) == []
    finally:
        (top / "t").rmdir()
        top.rmdir()


def test_settings_helper_reads_something() -> None:
    """A comparison of nothing with nothing would pass."""
    for path in groups(os.getpid()).values():
        assert settings(path) or path.parent == Path("/sys/fs/cgroup")
