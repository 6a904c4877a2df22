"""containerd through its client ctr, with `--runc-binary`: the same happens under runc and pysandbox."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines_containerd import Containerd, Ctr
from room import MakeRoom, need_programs


@pytest.fixture(scope="module")
def containerd(make_room: MakeRoom, pysandbox: str, runc: str, busybox_tar: Path) -> Iterator[Containerd]:
    need_programs("containerd", "ctr")
    daemon = Containerd(make_room("containerd"), {"runc": runc, "pysandbox": pysandbox})
    daemon.import_image(busybox_tar)
    yield daemon
    tasks = daemon.room.run(*daemon.argv("tasks", "ls", "-q")).stdout.split()
    left = daemon.room.run("ls", "/run/containerd/runc/default", check=False).stdout.split()
    daemon.stop()
    assert not tasks
    assert not [name for name in left if name not in ("traces", "@pending")]
    deadline = time.monotonic() + 20
    while daemon.room.children():
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.1)


@pytest.fixture(params=["runc", "pysandbox"])
def ctr(containerd: Containerd, request: pytest.FixtureRequest) -> Ctr:
    return Ctr(containerd, request.param)


@pytest.fixture
def box(ctr: Ctr) -> Iterator[str]:
    yield "box"
    ctr.remove("box")


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


CGROUPS = "--mount type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"
RUNS: list[tuple[str, str, int]] = [
    ("", "echo out; echo err >&2; exit 3", 3),
    ("", "id; pwd; env | sort; hostname; ip -o link | cut -d' ' -f2; umask", 0),
    ("", "mount | sed 's/lowerdir=.*//' | sort; ls -l /dev | cut -c1-10,58-", 0),
    ("", "grep -E 'Cap|NoNew' /proc/self/status; cat /proc/self/uid_map; ulimit -a | sort", 0),
    ("--net-host", "ip -o link | cut -d' ' -f2", 0),
    (f"{CGROUPS} --memory-limit 67108864", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes", 0),
    (f"{CGROUPS} --cpus 0.5", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us", 0),
    (f"{CGROUPS} --cpu-shares 99", "cat /sys/fs/cgroup/cpu/cpu.shares", 0),
    ("--read-only --cwd /tmp --env A=B", "pwd; echo $A; touch /tmp/x", 1),
    ("--mount type=bind,src=VOLUME,dst=/v,options=rbind:ro", "cat /v/file; touch /v/x", 1),
    ("--mount type=tmpfs,src=tmpfs,dst=/t,options=size=64k", "mount | grep ' /t '", 0),
    ("--seccomp", "mount -t tmpfs x /tmp; grep -c . /proc/self/status >/dev/null && echo ok", 0),
    ("--privileged", "ls /dev | grep -cE '^(kvm|fuse|null)$'; mount | grep -c 'ro,'; grep -c Cap /proc/self/status", 0),
    ("--cap-add CAP_NET_ADMIN --cap-drop CAP_CHOWN", "grep Cap /proc/self/status; chown 1 /etc/group", 1),
    ("--device /dev/fuse", "ls -l /dev/fuse | cut -c1-10", 0),
    ("--no-pivot", "ls /", 0),
    ("--uidmap 0:100000:2000 --gidmap 0:100000:2000", "id; cat /proc/self/uid_map", 0),
    ("--allow-new-privs", "true", 0),
    ("--annotation a=b --label c=d --pid-file SCRATCH/pid", "true", 0),
    ("--rootfs-propagation slave", "true", 0),
]


@pytest.mark.parametrize(("options", "script", "status"), RUNS, ids=[f"{row[0]} {row[1][:30]}".strip() for row in RUNS])
def test_run(containerd: Containerd, options: str, script: str, status: int) -> None:
    volume = containerd.room.scratch / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "file").write_text("content\n")
    words = options.replace("VOLUME", str(volume)).replace("SCRATCH", str(volume.parent)).split()
    seen = []
    for runtime in ("runc", "pysandbox"):
        done = Ctr(containerd, runtime).run("r", "sh", "-c", script, options=tuple(words))
        err = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("ctr: "))
        seen.append((done.returncode, done.stdout.replace(runtime, "RUNTIME"), err))
    assert seen[1] == seen[0]
    assert seen[0][0] == status, seen[0]


def test_errors(ctr: Ctr) -> None:
    for command, words in (("nosuch", "executable file not found in $PATH"), ("/nonexistent", "no such file or directory")):
        done = ctr.run("e", command)
        assert done.returncode == 1
        assert f'exec: "{command}": ' in done.stderr
        assert words in done.stderr
        ctr.remove("e")


def test_terminal(ctr: Ctr) -> None:
    terminal = ctr.terminal(*ctr.run_words("t", "--rm", "--tty"), "sh")
    terminal.expect("# ")
    terminal.send("tty; stty size\n")
    terminal.expect("/dev/pts/0")
    terminal.expect("24 80")
    terminal.resize(31, 71)
    time.sleep(0.5)
    terminal.send("stty size; exit 6\n")
    terminal.expect("31 71")
    assert terminal.finish() == 6


def test_life(ctr: Ctr, box: str) -> None:
    script = "trap 'echo USR1' USR1; trap 'echo TERM; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    ident = ctr.start(box, "sh", "-c", script)
    wait_for(lambda: "ready" in ctr.output(box), "the container")
    assert ctr.status(box) == "RUNNING"
    ctr("tasks", "kill", "--signal", "SIGUSR1", ident)
    wait_for(lambda: "USR1" in ctr.output(box), "the signal")
    ctr("tasks", "pause", ident)
    assert ctr.status(box) == "PAUSED"
    assert ctr.call("tasks", "exec", "--exec-id", "p", ident, "true").returncode == 1
    ctr("tasks", "resume", ident)
    assert ctr.status(box) == "RUNNING"
    assert ctr.call("tasks", "delete", ident).returncode == 1
    ctr("tasks", "kill", ident)
    wait_for(lambda: ctr.status(box) == "STOPPED", "the end")
    assert ctr.output(box).split() == ["ready", "USR1", "TERM"]
    assert ctr.call("tasks", "kill", ident).returncode == 1
    assert "exit code 3" in ctr.call("tasks", "delete", ident).stderr


def test_exec(ctr: Ctr, box: str) -> None:
    ident = ctr.start(box, "sleep", "100", options=("--env", "FROM=run"))
    exec_words = ["tasks", "exec", "--exec-id"]
    assert ctr(*exec_words, "e1", ident, "sh", "-c", "echo hi $FROM; id -u; cat /proc/1/comm") == "hi run\n0\nsleep"
    assert ctr.call(*exec_words, "e2", ident, "sh", "-c", "exit 42").returncode == 42
    assert ctr(*exec_words, "e3", "--cwd", "/tmp", "--user", "1000", ident, "sh", "-c", "pwd; id -u") == "/tmp\n1000"
    done = ctr.call(*exec_words, "e4", ident, "nosuch")
    assert done.returncode == 1
    assert "executable file not found in $PATH" in done.stderr
    assert ctr(*exec_words, "e5", ident, "cat", input="through\nthe pipe\n") == "through\nthe pipe"
    terminal = ctr.terminal(*exec_words, "e6", "--tty", ident, "sh", "-c", "sleep 0.5; tty; stty size; exit 9")
    terminal.expect("/dev/pts/")
    terminal.expect("24 80")
    assert terminal.finish() == 9
    ctr(*exec_words, "e7", "--detach", ident, "sh", "-c", "echo x >/detached")
    look = ["cat", "/detached"]
    wait_for(lambda: ctr.call(*exec_words, f"w{time.monotonic_ns()}", ident, *look).stdout == "x\n", "what it writes")
    ctr("tasks", "kill", "--signal", "KILL", ident)


def test_kill_all_and_one(ctr: Ctr, box: str) -> None:
    ident = ctr.start(box, "sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000; true")
    ctr("tasks", "exec", "--detach", "--exec-id", "k", ident, "sleep", "2000")
    wait_for(lambda: len(ctr("tasks", "ps", ident).splitlines()) == 5, "four processes")
    ctr("tasks", "kill", "--exec-id", "k", "--signal", "KILL", ident)
    wait_for(lambda: len(ctr("tasks", "ps", ident).splitlines()) == 4, "three processes")
    ctr("tasks", "kill", "--all", "--signal", "KILL", ident)
    wait_for(lambda: ctr.status(box) == "STOPPED", "the end")
    assert "exit code 137" in ctr.call("tasks", "delete", ident).stderr


def test_ps_and_metrics(ctr: Ctr, box: str) -> None:
    ident = ctr.start(box, "sh", "-c", "sleep 100 & sleep 100; true", options=("--memory-limit", str(64 << 20)))
    wait_for(lambda: len(ctr("tasks", "ps", ident).splitlines()) == 4, "three processes")
    pids = [line.split()[0] for line in ctr("tasks", "ps", ident).splitlines()[1:]]
    # As the room numbers them: ctr shows what the runtime says.
    names = [ctr.room.run("cat", f"/proc/{pid}/comm").stdout.strip() for pid in pids]
    assert sorted(names) == ["sh", "sleep", "sleep"]
    metrics = dict(line.split() for line in ctr("tasks", "metrics", ident).splitlines() if len(line.split()) == 2)
    assert int(metrics["memory.usage_in_bytes"]) > 0
    assert metrics["memory.limit_in_bytes"] == str(64 << 20)
    assert int(metrics["cpuacct.usage"]) > 0
    assert 3 <= int(metrics["pids.current"]) <= 9
    ctr("tasks", "kill", "--signal", "KILL", ident)


def test_namespaces_are_shared(ctr: Ctr, box: str) -> None:
    """As in a pod: the second container joins those of the first."""
    ident = ctr.start(box, "sleep", "100")
    pid = next(line.split()[1] for line in ctr("tasks", "ls").splitlines() if line.startswith(ident))
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    joined = [word for kind, name in kinds.items() for word in ("--with-ns", f"{kind}:/proc/{pid}/ns/{name}")]
    script = "ps -o args; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"
    done = ctr.run("joins", "sh", "-c", script, options=tuple(joined))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "sleep 100" in lines
    assert lines[-4:] == [ctr.room.run("readlink", f"/proc/{pid}/ns/{n}").stdout.strip() for n in kinds.values()]
    ctr("tasks", "kill", "--signal", "KILL", ident)


def test_daemon_restart(containerd: Containerd, ctr: Ctr, box: str) -> None:
    """Containers belong to their shims: they outlive the daemon."""
    ident = ctr.start(box, "sleep", "1000")
    containerd.stop()
    containerd.begin()
    assert ctr.status(box) == "RUNNING"
    assert ctr("tasks", "exec", "--exec-id", "after", ident, "echo", "hi") == "hi"
    ctr("tasks", "kill", "--signal", "KILL", ident)


def test_many_at_once(ctr: Ctr) -> None:
    words = []
    for number in range(8):
        command = [*ctr.containerd.argv(*ctr.run_words(f"m{number}", "--rm")), "echo", f"number-{number}"]
        words.append(" ".join(command) + " & ")
    done = ctr.room.run("sh", "-c", "".join(words) + "wait")
    assert sorted(done.stdout.split()) == [f"number-{i}" for i in range(8)], done.stderr


def test_nothing_is_left(containerd: Containerd) -> None:
    ctr = Ctr(containerd, "pysandbox")
    ctr.run("last", "true")
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*{containerd.room.cgroup}/*/")]
    assert not groups
    mounts = re.findall(r"\S*io\.containerd\.runtime\S*", Path(f"/proc/{containerd.room.pid}/mounts").read_text())
    assert not mounts
    assert not os.path.exists("/run/containerd-test")
