"""update: all its options and forms, compared with runc by what is set afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cgroup_lab import all_settings, resources
from pysandbox.oci import cgroups, cgroups_update
from pysandbox.oci.cgroups import Cgroup
from pysandbox.oci.errors import Error
from pysandbox.oci.spec import CPU, Memory, Resources
from verb_lab import Change, Runtime, missing, reap

MIB = 1 << 20
UNIFIED = cgroups.host_layout().unified
live = [
    pytest.mark.kvm,
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]
START: Change = resources(
    memory={"limit": 128 * MIB, "swap": 256 * MIB}, cpu={"shares": 100, "quota": 30000, "period": 100000}, pids={"limit": 99}
)


@pytest.fixture
def pair(pair: list[Runtime]) -> list[Runtime]:
    """With a running container of known limits each."""
    for runtime in pair:
        runtime.configure(["sleep", "1000"], START)
        assert runtime.create() == 0, runtime.last_error()
    return pair


FLAGS: list[list[str]] = [
    ["--memory", "64M"],
    ["--memory", "200M", "--memory-swap", "300MiB"],
    ["--memory", "32m", "--memory-swap", "48mb", "--memory-reservation", "16777216"],
    ["--memory", "-1"],
    ["--memory-swap", "-1"],
    ["--memory", "0.1g"],
    ["--cpu-quota", "25000"],
    ["--cpu-period", "50000"],
    ["--cpu-quota", "-1"],
    ["--cpu-quota=40000", "--cpu-period=80000", "--cpu-share=2000"],
    ["--cpuset-cpus", "0", "--cpuset-mems", "0"],
    ["--pids-limit", "12"],
    ["--pids-limit", "-1"],
    ["--pids-limit", "0"],
    ["--blkio-weight", "345"],
    ["--kernel-memory", "10M"],
    [],
]


class TestLive:
    pytestmark = live

    def test_flags(self, pair: list[Runtime]) -> None:
        """One after the other, on the same containers: each is compared with what was there before, too."""
        for flags in FLAGS:
            codes = [runtime.call("update", *flags, runtime.id).returncode for runtime in pair]
            assert codes[0] == codes[1], (flags, pair[0].last_error() if codes[0] else "")
            assert all_settings(pair[0]) == all_settings(pair[1]), flags
        assert codes == [0, 0]

    def test_flags_behind_the_id(self, pair: list[Runtime]) -> None:
        for runtime in pair:
            done = runtime.call("update", runtime.id, "--pids-limit", "17", "--cpu-quota", "-1")
            assert done.returncode == 0, done.stderr
        assert all_settings(pair[0]) == all_settings(pair[1])

    @pytest.mark.parametrize("spelling", [["--resources", "-"], ["--resources=-"], ["-r", "-"], ["--resources", "FILE"]])
    def test_json(self, pair: list[Runtime], spelling: list[str], tmp_path: Path) -> None:
        limits = {
            "memory": {"limit": 50 * MIB, "reservation": 40 * MIB, "swap": 70 * MIB},
            "cpu": {"shares": 1000, "quota": 11000, "period": 22000, "cpus": "0"},
            "pids": {"limit": 321},
            "blockIO": {"weight": 222},
        }
        file = tmp_path / "limits.json"
        file.write_text(json.dumps(limits))
        words = [str(file) if word == "FILE" else word for word in spelling]
        for runtime in pair:
            with open(file) as stdin:
                done = runtime.call("update", *words, "--pids-limit", "5", runtime.id, stdin=stdin)
            assert done.returncode == 0, done.stderr
        assert all_settings(pair[0]) == all_settings(pair[1])

    def test_a_paused_container(self, pair: list[Runtime]) -> None:
        for runtime in pair:
            assert runtime.call("pause", runtime.id).returncode == 0
            assert runtime.call("update", "--memory", "60M", runtime.id).returncode == 0
            assert runtime.state()["status"] == "paused"
            assert runtime.call("resume", runtime.id).returncode == 0
        assert all_settings(pair[0]) == all_settings(pair[1])

    @pytest.mark.parametrize(
        "words",
        [
            ["--memory", "10X"], ["--memory", "-5"], ["--memory", "."], ["--cpu-share", "many"], ["--cpu-share", "-1"],
            ["--pids-limit", "x"], ["--cpuset-cpus", "900"], ["--cpuset-cpus", "x"], ["--resources", "/nonexistent"],
            ["--resources", "/dev/null"], ["--resources", "/"], ["--no-such-flag"], ["--l3-cache-schema", "L3:0=f"],
            ["--blkio-weight", "5000"], ["--pids-limit"],
        ],
    )  # fmt: skip
    def test_bad_input_changes_nothing(self, pair: list[Runtime], words: list[str]) -> None:
        before = all_settings(pair[0])
        codes = [runtime.call("update", *words, runtime.id).returncode for runtime in pair]
        assert codes == [1, 1]
        assert all_settings(pair[0]) == before

    def test_what_fails_half_way_is_taken_back(self, pair: list[Runtime]) -> None:
        """Memory is set before the CPUs would be wrong, or after; either way the old limits hold."""
        runtime = pair[0]
        before = all_settings(runtime)
        limits = {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "pids": {"limit": 7}, "cpu": {"shares": 500, "mems": "900"}}
        for extra in ({}, {"blockIO": {"weight": 60000}}):
            file = runtime.bundle / "limits.json"
            file.write_text(json.dumps({**limits, **extra}))
            assert runtime.call("update", "--resources", str(file), runtime.id).returncode == 1
            assert all_settings(runtime) == before

    def test_what_newer_runtimes_add(self, pair: list[Runtime]) -> None:
        """Burst and idle: runc 1.1 does not know them."""
        runtime = pair[0]
        assert runtime.call("update", "--cpu-burst", "5000", runtime.id).returncode == 0, runtime.last_error()
        assert runtime.call("update", "--cpu-idle", "1", runtime.id).returncode == 0, runtime.last_error()
        cpu = all_settings(runtime)["unified" if UNIFIED else "cpu"]
        assert cpu["cpu.max.burst" if UNIFIED else "cpu.cfs_burst_us"] == "5000"
        assert cpu["cpu.idle"] == "1"

    def test_stopped_and_unknown_containers(self, pair: list[Runtime]) -> None:
        seen = []
        for runtime in pair:
            assert runtime.call("kill", runtime.id, "KILL").returncode == 0
            reap(runtime.pid)
            seen.append((runtime.call("update", "--memory", "64M", runtime.id).returncode, runtime.last_error()))
            assert runtime.call("update", "--memory", "64M", "nosuch").returncode == 1
            assert "does not exist" in runtime.last_error()
        assert seen[0] == seen[1] == (1, "container not running")


# --- version 2, in a made-up group ------------------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of a group, and a host that has only version 2."""
    monkeypatch.setattr(cgroups, "_layout", cgroups.Layout(unified=True, mounts={"": str(tmp_path)}, own={"": "."}))
    files = {
        "cpu.max": "30000 100000", "memory.max": "134217728", "memory.swap.max": "134217728", "memory.current": "50000000",
        "memory.low": "0", "cpu.weight": "100", "pids.max": "max", "cpuset.cpus": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (CPU(quota=40000), "40000 100000"),
        (CPU(period=50000), "30000 50000"),
        (CPU(quota=-1), "max 100000"),
        (CPU(quota=1000, period=2000), "1000 2000"),
    ],
)
def test_quota_and_period_keep_each_other(group: Path, limits: CPU, expected: str) -> None:
    cgroups_update.update(Cgroup(paths={"": str(group)}), Resources(cpu=limits))
    assert written(group, "cpu.max", expected)


def written(group: Path, name: str, value: str) -> bool:
    """A file here is not truncated by a write, as one of the kernel's is not: the value is what it begins with."""
    return (group / name).read_text().startswith(value)


def test_swap_is_the_rest_of_the_sum(group: Path) -> None:
    """128 MiB and 128 MiB of swap; the sum stays when memory changes, memory stays when the sum does."""
    cgroups_update.update(Cgroup(paths={"": str(group)}), Resources(memory=Memory(limit=200 * MIB)))
    assert written(group, "memory.max", str(200 * MIB))
    assert written(group, "memory.swap.max", str(56 * MIB))


def test_a_new_sum_keeps_memory(group: Path) -> None:
    cgroups_update.update(Cgroup(paths={"": str(group)}), Resources(memory=Memory(swap=300 * MIB)))
    assert written(group, "memory.max", str(128 * MIB))
    assert written(group, "memory.swap.max", str(172 * MIB))


def test_memory_above_the_sum_is_refused(group: Path) -> None:
    with pytest.raises(Error, match="memory\\+swap limit should be >= memory limit"):
        cgroups_update.update(Cgroup(paths={"": str(group)}), Resources(memory=Memory(limit=300 * MIB)))
    assert written(group, "memory.max", str(128 * MIB))


def test_a_limit_below_the_usage_is_refused_when_asked(group: Path) -> None:
    limits = Memory(limit=40000000, check_before_update=True)
    with pytest.raises(Error, match="rejecting memory limit 40000000 as it's lower than current usage 50000000"):
        cgroups_update.update(Cgroup(paths={"": str(group)}), Resources(memory=limits))
    assert written(group, "memory.max", str(128 * MIB))


REAL_TIME = Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")


@pytest.mark.root
@pytest.mark.skipif(not REAL_TIME.exists(), reason="no real-time time of version 1 groups")
def test_a_period_below_the_old_real_time(request: pytest.FixtureRequest) -> None:
    """What the kernel refuses before the new time is there, it takes after it."""
    group = REAL_TIME.with_name(f"update-{os.getpid()}")
    group.mkdir()
    request.addfinalizer(group.rmdir)
    for period, time in ((900000, 600000), (10000, 3000), (100000, 20000)):
        limits = Resources(cpu=CPU(realtime_period=period, realtime_runtime=time))
        cgroups_update.update(Cgroup(paths={"cpu": str(group)}), limits)
        assert [int((group / f"cpu.rt_{name}_us").read_text()) for name in ("period", "runtime")] == [period, time]
