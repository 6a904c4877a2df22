"""pause and resume, and what other verbs say of a paused container, compared with runc."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cgroup_lab import cgroup2
from pysandbox.oci import cgroups
from verb_lab import Runtime, missing, reap, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
__all__ = ["cgroup2"]
UNIFIED = cgroups.host_layout().unified
COUNTING = "i=0; while :; do i=$((i+1)); echo $i; done"


def started(runtime: Runtime, program: list[str] | str) -> None:
    runtime.configure(program)
    assert runtime.create() == 0, runtime.last_error()
    assert runtime.call("start", runtime.id).returncode == 0, runtime.last_error()


def stands_still(runtime: Runtime) -> bool:
    before = runtime.out
    time.sleep(0.05)
    return runtime.out == before


def check_pause(runtime: Runtime) -> list[object]:
    """A busy program: runs, stands, runs on. What was seen."""
    started(runtime, COUNTING)
    wait_for(lambda: runtime.out, "output")
    seen: list[object] = [runtime.call("resume", runtime.id).returncode]
    assert runtime.last_error() == "container not paused"
    seen.append(runtime.call("pause", runtime.id).returncode)
    seen += [runtime.state()["status"], stands_still(runtime)]
    seen.append(runtime.call("pause", runtime.id).returncode)
    assert runtime.last_error() == "container not running"
    seen.append(runtime.call("delete", runtime.id).returncode)
    assert runtime.last_error().endswith("that is not stopped: paused")
    seen.append(runtime.call("exec", runtime.id, "true").returncode != 0)
    assert "cannot exec in a paused container (use --ignore-paused to override)" in runtime.last_error()
    seen.append(runtime.call("resume", runtime.id).returncode)
    length = len(runtime.out)
    wait_for(lambda: len(runtime.out) > length, "more output")
    seen.append(runtime.state()["status"])
    return seen


def test_pause_and_resume(pair: list[Runtime]) -> None:
    seen = [check_pause(runtime) for runtime in pair]
    assert seen[0] == seen[1]
    assert seen[0][:4] == [1, 0, "paused", True]


def test_pause_and_resume_with_version_2(cgroup2: list[Runtime]) -> None:
    seen = [check_pause(runtime) for runtime in cgroup2]
    assert seen[0] == seen[1]
    assert seen[0][:4] == [1, 0, "paused", True]


def test_kill_and_delete_of_a_paused_container(pair: list[Runtime]) -> None:
    """SIGKILL gets through, other signals wait."""
    seen = []
    for runtime in pair:
        started(runtime, "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
        wait_for(lambda runtime=runtime: runtime.out, "the trap")  # type: ignore[misc]
        assert runtime.call("pause", runtime.id).returncode == 0
        assert runtime.call("kill", runtime.id, "TERM").returncode == 0
        still = runtime.state()["status"], runtime.out
        assert runtime.call("kill", runtime.id, "KILL").returncode == 0
        ended = reap(runtime.pid)
        seen.append((still, ended in (-9, 3), runtime.state()["status"], runtime.call("delete", runtime.id).returncode))
        assert runtime.left_over() == []
    assert seen[0] == seen[1]


def test_delete_force_of_a_paused_container(pair: list[Runtime]) -> None:
    for runtime in pair:
        started(runtime, ["sleep", "1000"])
        assert runtime.call("pause", runtime.id).returncode == 0
        assert runtime.call("delete", "--force", runtime.id).returncode == 0
        assert reap(runtime.pid) == -9
        assert runtime.left_over() == []


def test_delete_of_a_process_frozen_elsewhere(pair: list[Runtime]) -> None:
    """In a group of somebody else, which stays as it is; version 1, where frozen processes do not die."""
    if UNIFIED:
        pytest.skip("a frozen process dies of SIGKILL under cgroup version 2")
    runtime = pair[0]
    started(runtime, ["sleep", "1000"])
    other = Path(f"/sys/fs/cgroup/freezer/{runtime.id}-other")
    other.mkdir()
    try:
        (other / "cgroup.procs").write_text(str(runtime.pid))
        (other / "freezer.state").write_text("FROZEN")
        assert runtime.call("delete", "--force", runtime.id).returncode == 0, runtime.last_error()
        assert (other / "freezer.state").read_text() == "FROZEN\n"
    finally:
        (other / "freezer.state").write_text("THAWED")
        reap(runtime.pid)
        other.rmdir()
    assert runtime.left_over() == []


def test_a_created_container_can_be_paused(pair: list[Runtime]) -> None:
    seen = []
    for runtime in pair:
        runtime.configure(["sleep", "1000"])
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("pause", runtime.id).returncode == 0
        status = runtime.state()["status"]
        assert runtime.call("resume", runtime.id).returncode == 0
        seen.append((status, runtime.state()["status"]))
    assert seen[0] == seen[1] == ("paused", "created")


def test_stopped_and_unknown_containers(pair: list[Runtime]) -> None:
    seen = []
    for runtime in pair:
        started(runtime, ["true"])
        assert reap(runtime.pid) == 0
        seen.append([(runtime.call(verb, runtime.id).returncode, runtime.last_error()) for verb in ("pause", "resume")])
        assert runtime.call("pause", "nosuch").returncode == 1
        assert "does not exist" in runtime.last_error()
    assert seen[0] == seen[1]


def test_a_container_that_forks_all_the_time_can_be_paused(pair: list[Runtime]) -> None:
    """Version 1 leaves a group FREEZING when processes are started while it freezes."""
    runtime = pair[0]
    started(runtime, "while :; do sleep 0 & sleep 0; wait; done")
    for _ in range(5):
        assert runtime.call("pause", runtime.id).returncode == 0, runtime.last_error()
        assert runtime.state()["status"] == "paused"
        assert runtime.call("resume", runtime.id).returncode == 0


def test_an_idle_container_is_not_woken(pair: list[Runtime]) -> None:
    """Neither the monitor nor anything else of ours does anything while the program sleeps."""
    runtime = pair[0]
    started(runtime, ["sleep", "1000"])

    def switches() -> dict[str, list[str]]:
        out = {}
        for task in os.listdir(f"/proc/{runtime.pid}/task"):
            lines = Path(f"/proc/{runtime.pid}/task/{task}/status").read_text().splitlines()
            out[task] = [line for line in lines if "ctxt_switches" in line]
        return out

    def quiet() -> bool:
        before = switches()
        time.sleep(0.3)
        return switches() == before

    wait_for(quiet, "the program to sleep")
    before = switches()
    time.sleep(1.0)
    assert switches() == before
