"""The planner of a detached container: small while it waits, outside of everything, there when needed, gone with the
container.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from verb_lab import Config, Runtime, missing, reap, runtime_pair, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

COUNT = slice(16, 24)  # of struct psb_plan_index


@pytest.fixture
def runtime(tmp_path: Path, busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Runtime]:
    with runtime_pair(tmp_path, busybox_rootfs, pysandbox_command) as (one, _):
        yield one


def planner_of(runtime: Runtime) -> int:
    state = json.loads((runtime.root / runtime.id / "state.json").read_text())
    others = [pid for kind, pid, *_ in state["made"] if kind == "process" and pid != runtime.pid]
    assert len(others) == 1
    return int(others[0])


def gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return "State:\tZ" in status and "Threads:\t1\n" in status  # with others it would still be at its end
    except OSError:
        return True


def test_waits_outside_of_everything(runtime: Runtime) -> None:
    runtime.configure(["sleep", "1000"])
    assert runtime.create() == 0
    pid = planner_of(runtime)
    assert Path(f"/proc/{pid}/comm").read_text() == "psb-planner\n"
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int)]
    assert links[:3] == ["/dev/null"] * 3
    assert [re.sub(r"\d+", "N", link) for link in links[3:]] == ["socket:[N]", "/memfd:psb-plans (deleted)"]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    size = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert size is not None
    assert int(size[1]) < 100
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in status
    assert f"NSsid:\t{pid}\n" in status
    for name in ("SigIgn", "SigBlk"):
        value = re.search(rf"^{name}:\t(\w+)", status, re.M)
        assert value is not None
        assert int(value[1], 16) & ~(3 << 31) == 0, name  # 32 and 33 belong to the C library, which leaves them alone


@pytest.mark.parametrize("started", [False, True])
def test_killed_by_delete(runtime: Runtime, started: bool) -> None:
    runtime.configure(["sleep", "1000"])
    assert runtime.create() == 0
    if started:
        assert runtime.call("start", runtime.id).returncode == 0
    pid = planner_of(runtime)
    os.kill(pid, signal.SIGSTOP)  # so that it cannot go by itself
    assert runtime.call("delete", "--force", runtime.id).returncode == 0
    assert reap(pid) == -signal.SIGKILL


def test_ends_with_the_last_monitor(runtime: Runtime) -> None:
    """Not before: other processes of the container may outlive its first one where the pid namespace is the host's."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "pid"]

    runtime.configure("sleep 1000 & exec sleep 1000", change)
    assert runtime.create() == 0
    assert runtime.call("start", runtime.id).returncode == 0
    pid = planner_of(runtime)
    procs = Path(f"/sys/fs/cgroup/pids/{runtime.id}/cgroup.procs")
    wait_for(lambda: len(procs.read_text().split()) == 2, "both processes")
    other = next(int(p) for p in procs.read_text().split() if int(p) != runtime.pid)
    os.kill(runtime.pid, signal.SIGKILL)
    assert reap(runtime.pid) == -signal.SIGKILL
    assert not gone(pid)
    os.kill(other, signal.SIGKILL)
    assert reap(other) == -signal.SIGKILL
    assert reap(pid) == 0


def test_plans_what_is_mapped_later(runtime: Runtime) -> None:
    """A program that nobody knew: the first time it is served at the raw door, then it is planned."""
    tmpfs = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}

    def change(config: Config) -> None:
        config["mounts"].append(tmpfs)

    wait = "while [ ! -e /tmp/go ]; do sleep 0.05; done"
    new = "/tmp/busybox"  # other content, so that no plan of another copy fits
    runtime.configure(f"cp /bin/busybox {new}; echo x >>{new}; {new} id; {wait}; {new} id; sleep 1000", change)
    assert runtime.create() == 0
    pid = planner_of(runtime)

    def count() -> int:
        with open(f"/proc/{pid}/fd/4", "rb") as index:
            return int.from_bytes(index.read(32)[COUNT], "little")

    before = count()
    assert runtime.call("start", runtime.id).returncode == 0
    wait_for(lambda: count() > before, "a plan")
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert b"python" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]
    assert runtime.call("exec", runtime.id, "touch", "/tmp/go").returncode == 0
    wait_for(lambda: runtime.out.count("uid=0") == 2, "the second time")
    shown = subprocess.run(
        runtime.argv("trace", "show", runtime.id, "--json"), env=runtime.env, capture_output=True, text=True, check=True
    )
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    doors: dict[int, set[str]] = {r["pid"]: set() for r in records if r["kind"] == "exec" and r["decoded"]["path"] == new}
    for pid in doors:
        own = [r for r in records if r["pid"] == pid]
        begin = next(n for n, r in enumerate(own) if r["kind"] == "exec" and r["decoded"]["path"] == new)
        doors[pid] = {r["door"] for r in own[begin:] if r["kind"] == "call"}
    first, second = (doors[process] for process in sorted(doors))
    assert first == {"raw"}
    assert second <= {"jump", "trap"}


@pytest.mark.parametrize("detached", [False, True])
def test_short_containers_are_planned_for_the_next(runtime: Runtime, tmp_path: Path, detached: bool) -> None:
    """What a container asked for is finished when it has long ended, by a process that leaves then."""
    tmpfs = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
    new = f"/tmp/busybox; echo {'x' * (1 + detached)} >>/tmp/busybox; /tmp/busybox"  # other content than any other copy
    runtime.configure(f"cp /bin/busybox {new} id", lambda config: config["mounts"].append(tmpfs))
    store = tmp_path / "plans"
    before = planned(store)
    null = subprocess.DEVNULL
    if detached:
        assert runtime.create() == 0
        planner = planner_of(runtime)
        assert runtime.call("start", runtime.id).returncode == 0
        wait_for(lambda: gone(runtime.pid), "the container's end")
        deleted = runtime.call("delete", runtime.id)
        assert deleted.returncode == 0, deleted.stderr
        assert gone(planner)
    else:
        assert runtime.call("run", "-b", str(runtime.bundle), runtime.id, stdout=null, stderr=null).returncode == 0
    wait_for(lambda: planned(store) > before + 1, "plans of the image's busybox and of its copy")
    wait_for(lambda: not using(store), "the end of the planner")


def planned(store: Path) -> int:
    """Contents in a plan store."""
    found = list(store.glob("v*/hashes"))
    return found[0].stat().st_size // 48 if found else 0


def using(store: Path) -> list[str]:
    """Processes that were told of this plan store, but for ours."""
    wanted = f"PSB_PLAN_DIR={store}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def _no_more_memory(launcher: int, _group: Path) -> None:
    resource.prlimit(launcher, resource.RLIMIT_AS, (1 << 20, 1 << 20))


def _no_more_processes(launcher: int, group: Path) -> None:
    (group / "cgroup.procs").write_text(str(launcher))
    (group / "pids.max").write_text("1")


def _no_program(launcher: int, _group: Path) -> None:
    waiter = Path(sys.executable).parent.parent / "lib"
    (program,) = waiter.glob("python*/site-packages/pysandbox/runtime/psb-waiter")
    subprocess.run(["nsenter", f"--mount=/proc/{launcher}/ns/mnt", "mount", "--bind", "/dev/null", program], check=True)


@pytest.fixture
def pids_group() -> Iterator[Path]:
    group = Path(f"/sys/fs/cgroup/pids/verb-planner-{os.getpid()}")
    group.mkdir()
    yield group
    group.rmdir()


@pytest.mark.parametrize("verb", ["run", "exec"])
@pytest.mark.parametrize(
    ("refuse", "reason"),
    [
        (_no_more_memory, "Cannot allocate memory"),
        (_no_more_processes, "Resource temporarily unavailable"),
        (_no_program, "Permission denied"),
    ],
)
def test_foreground_runs_on_without(
    runtime: Runtime, pids_group: Path, verb: str, refuse: Callable[[int, Path], None], reason: str
) -> None:
    """The host refuses what the planner takes: one warning, and the program has its input, output and status."""
    tmpfs = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
    script = "cp /bin/busybox /tmp/busybox; echo x >>/tmp/busybox; echo ready; read line; /tmp/busybox echo $line; exit 7"

    def change(config: Config) -> None:
        config["mounts"].append(tmpfs)

    runtime.configure(script if verb == "run" else ["sleep", "1000"], change)
    argv = ["run", "-b", str(runtime.bundle), runtime.id]
    if verb == "exec":
        assert runtime.create() == 0
        assert runtime.call("start", runtime.id).returncode == 0
        argv = ["exec", runtime.id, "sh", "-c", script]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = ["unshare", "--mount", *runtime.argv(*argv)]
    with subprocess.Popen(command, text=True, env=runtime.env, **pipes) as launcher:  # type: ignore[call-overload]
        assert launcher.stdout.readline() == "ready\n"
        refuse(launcher.pid, pids_group)
        out, err = launcher.communicate("again\n", timeout=60)
    assert (out, launcher.returncode) == ("again\n", 7)
    assert err == ""
    warnings = [line for line in map(json.loads, runtime.log.read_text().splitlines()) if line["level"] == "warning"]
    assert [line["msg"].rpartition("psb-waiter: ")[2] for line in warnings] == [
        f"{reason}: programs are not planned from here on"
    ]
    runtime.clean()
    assert runtime.left_over() == []


def test_exec_has_its_own(runtime: Runtime) -> None:
    """`exec --detach` leaves one for its processes, which ends with them."""
    runtime.configure(["sleep", "1000"])
    assert runtime.create() == 0
    assert runtime.call("start", runtime.id).returncode == 0
    before = planners()
    null = subprocess.DEVNULL
    pid_file = runtime.bundle / "exec.pid"
    done = runtime.call("exec", "--detach", "--pid-file", str(pid_file), runtime.id, "sleep", "1000", stdout=null, stderr=null)
    assert done.returncode == 0
    (added,) = planners() - before
    process = int(pid_file.read_text())
    os.kill(process, signal.SIGKILL)
    assert reap(process) == -signal.SIGKILL
    assert reap(added) == 0
    assert not gone(planner_of(runtime))


def planners() -> set[int]:
    """Children of ours that wait for something to plan."""
    found = set()
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text() == "psb-planner\n":
            found.add(int(pid))
    return found
