"""events: statistics in runc's form, at intervals, and news of memory running out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cgroup_lab import cgroup2, resources
from pysandbox.oci import cgroups_stats
from pysandbox.oci.errors import Error
from pysandbox.runtime.cli.events import duration
from verb_lab import TIMEOUT, Runtime, missing, reap, wait_for

live = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
__all__ = ["cgroup2"]
MIB = 1 << 20


def shape(value: Any) -> Any:
    """Properties in their order, and types; numbers that may be 0 are left out by both."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    return type(value).__name__


WHAT_MAY_BE_ABSENT = {"usage", "user", "kernel", "cache", "max", "blkio", "throttling", "percpu_user", "percpu_kernel", "total"}


def properties(value: Any, at: str = "") -> Iterator[str]:
    """Paths of all properties, without those that come and go with what the program did."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{at}/{key}"
            if key != "blkio":
                yield from properties(item, f"{at}/{key}")


def stats_of(runtime: Runtime) -> dict[str, Any]:
    done = runtime.call("events", "--stats", runtime.id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("}\n")
    assert done.stdout.count("\n") == 1
    event: dict[str, Any] = json.loads(done.stdout)
    return event


def compare_stats(pair: list[Runtime]) -> dict[str, Any]:
    events = []
    for runtime in pair:
        runtime.configure("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; cat /bin/busybox >/dev/null; echo; exec sleep 1000",
                          resources(memory={"limit": 64 * MIB, "swap": 128 * MIB}, pids={"limit": 64}))  # fmt: skip
        if runtime.command[0] == "unshare":  # a made-up host, which has no such limits
            runtime.configure("echo; exec sleep 1000", lambda config: config["linux"].update(resources={}))
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        wait_for(lambda runtime=runtime: runtime.out, "the program")  # type: ignore[misc]
        events.append(stats_of(runtime))
    for event, runtime in zip(events, pair, strict=True):
        assert list(event) == ["type", "id", "data"]
        assert (event["type"], event["id"]) == ("stats", runtime.id)
    coming_and_going = {f"/{key}" for key in WHAT_MAY_BE_ABSENT}
    lists = [[p for p in properties(e["data"]) if not any(p.endswith(k) for k in coming_and_going)] for e in events]
    assert lists[0] == lists[1]
    data: dict[str, Any] = events[0]["data"]
    return data


class TestLive:
    pytestmark = live

    def test_stats_are_runcs(self, pair: list[Runtime]) -> None:
        data = compare_stats(pair)
        assert data["memory"]["usage"]["limit"] == 64 * MIB
        assert data["memory"]["swap"]["limit"] == 128 * MIB
        assert data["pids"]["limit"] == 64
        assert data["pids"]["current"] >= 1
        assert data["cpu"]["usage"]["total"] > 1000000

    def test_stats_with_version_2(self, cgroup2: list[Runtime]) -> None:
        assert compare_stats(cgroup2)["cpu"]["usage"]["total"] > 0

    def test_reports_until_the_container_is_deleted(self, pair: list[Runtime]) -> None:
        runtime = pair[0]
        runtime.configure(["sleep", "1000"])
        assert runtime.create() == 0
        argv = runtime.argv("events", "--interval", "20ms", runtime.id)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=runtime.env) as watcher:
            assert watcher.stdout is not None
            for _ in range(3):
                assert json.loads(watcher.stdout.readline())["type"] == "stats"
            assert runtime.call("delete", "--force", runtime.id).returncode == 0
            watcher.stdout.read()
            assert watcher.wait(TIMEOUT) == 0

    def test_news_of_memory_running_out(self, pair: list[Runtime]) -> None:
        """The container's own limit is reached; both runtimes say so."""
        for runtime in pair:
            runtime.configure(
                "read go; dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived",
                resources(memory={"limit": 32 * MIB, "swap": 32 * MIB}),
            )
            fifo = runtime.bundle / "go"
            subprocess.run(["mkfifo", fifo], check=True)
            with open(fifo, "r+b", buffering=0) as go:
                assert runtime.create(stdin=go) == 0, runtime.last_error()
                argv = runtime.argv("events", "--interval", "1h", runtime.id)
                with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=runtime.env) as watcher:
                    assert watcher.stdout is not None
                    wait_for(lambda watcher=watcher: watching(watcher.pid), "the watcher")  # type: ignore[misc]
                    assert runtime.call("start", runtime.id).returncode == 0
                    go.write(b"\n")
                    assert json.loads(watcher.stdout.readline()) == {"type": "oom", "id": runtime.id}
                    reap(runtime.pid)
                    assert runtime.call("delete", runtime.id).returncode == 0
                    assert watcher.wait(TIMEOUT) == 0

    def test_bad_input(self, pair: list[Runtime]) -> None:
        seen = []
        for runtime in pair:
            runtime.configure(["true"])
            assert runtime.create() == 0
            assert runtime.call("start", runtime.id).returncode == 0
            assert reap(runtime.pid) == 0
            lines = [["--stats"], ["--interval", "0s"], ["--interval", "x"]]
            lines = [[runtime.id], *([*words, runtime.id] for words in lines), ["nosuch"], []]
            done = [runtime.call("events", *words).returncode for words in lines]
            seen.append(done)
            runtime.call("events", "--stats", runtime.id)
            assert runtime.last_error() == f"container with id {runtime.id} is not running"
        assert seen[0] == [1, 1, 1, 1, 1, 1]
        assert [code != 0 for code in seen[1]] == [True] * 6


def watching(pid: int) -> bool:
    """Whether the process has registered for news: an eventfd (version 1) or a file of events (version 2) is open."""
    names = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(str(fd.readlink()))
        except OSError:
            continue
    return any("oom_control" in name or "memory.events" in name or "inotify" in name for name in names)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5.0), ("100ms", 0.1), ("1m30s", 90.0), ("1.5h", 5400.0), ("2us", 2e-6), ("0", 0.0), ("-1s", -1.0), ("10µs", 1e-5)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "1.2.3s", "5s5", "five", "-"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Error, match="is not a duration"):
        duration(text)


def test_version_2_counts_become_version_1s(tmp_path: Path) -> None:
    """Times to nanoseconds, swap to the sum with memory, io.stat to tables."""
    for name, text in {
        "cpu.stat": "usage_usec 1000\nuser_usec 600\nsystem_usec 400\nnr_periods 5\nnr_throttled 2\nthrottled_usec 70\n",
        "memory.stat": "anon 4096\nfile 8192\n",
        "memory.current": "20000\n",
        "memory.max": "max\n",
        "memory.swap.current": "300\n",
        "memory.swap.max": "max\n",
        "pids.current": "3\n",
        "pids.max": "max\n",
        "cgroup.procs": "1\n2\n3\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16\n",
        "hugetlb.2MB.current": "2097152\n",
        "hugetlb.2MB.events": "max 4\n",
        "hugetlb.2MB.rsvd.current": "0\n",
    }.items():
        (tmp_path / name).write_text(text)
    data = cgroups_stats.stats({"": str(tmp_path)})
    no_limit = (1 << 64) - 1
    assert data["cpu"] == {
        "usage": {"total": 1000000, "kernel": 400000, "user": 600000},
        "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 70000},
    }
    assert data["memory"]["cache"] == 8192
    assert data["memory"]["usage"] == {"limit": no_limit, "usage": 20000, "failcnt": 0}
    assert data["memory"]["swap"] == {"limit": no_limit, "usage": 20300, "failcnt": 0}
    assert data["pids"] == {"current": 3}
    assert data["hugetlb"] == {"2MB": {"usage": 2097152, "failcnt": 4}}
    assert data["blkio"]["ioServicedRecursive"] == [
        {"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2},
    ]  # fmt: skip


def test_version_1_block_io_tables(tmp_path: Path) -> None:
    (tmp_path / "blkio.throttle.io_serviced_recursive").write_text("8:0 Read 5\n8:0 Write 0\n8:0 Total 5\nTotal 5\n")
    (tmp_path / "blkio.throttle.io_service_bytes_recursive").write_text("8:0 Read 4096\nTotal 4096\n")
    assert cgroups_stats.stats({"blkio": str(tmp_path)})["blkio"] == {
        "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096}],
        "ioServicedRecursive": [
            {"major": 8, "op": "Read", "value": 5}, {"major": 8, "op": "Write"}, {"major": 8, "op": "Total", "value": 5},
        ],
    }  # fmt: skip


def test_a_group_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no such file or directory"):
        cgroups_stats.stats({"": str(tmp_path / "gone")})
    with pytest.raises(Error, match="cannot set memory limit"):
        cgroups_stats.OutOfMemory({"pids": str(tmp_path)})
