"""create, start, kill, delete as containerd-shim calls them, each compared with runc in the same test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from verb_lab import Change, Config, Runtime, missing, reap, reap_orphans, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def test_the_whole_way(pair: list[Runtime]) -> None:
    """The calls of `docker run`: create, start, wait for the pid of the pid file, delete, delete --force."""
    seen = []
    for runtime in pair:
        runtime.configure("echo out; echo err >&2; exit 7")
        assert runtime.create() == 0, runtime.last_error()
        assert (runtime.bundle / "init.pid").read_text() == str(runtime.pid)  # digits, no newline
        created = runtime.state()
        assert runtime.out == ""
        assert created["pid"] == runtime.pid
        assert runtime.call("start", runtime.id).returncode == 0
        status = reap(runtime.pid)
        stopped = runtime.state()
        deleted = [runtime.call("delete", runtime.id), runtime.call("delete", "--force", runtime.id)]
        seen.append((created["status"], status, stopped["status"], stopped["pid"], [d.returncode for d in deleted]))
        seen[-1] += (runtime.out, runtime.err, runtime.left_over())
        seen[-1] += (runtime.call("delete", runtime.id).returncode,)
    assert seen[0] == seen[1]
    assert seen[0][:5] == ("created", 7, "stopped", 0, [0, 0])


def test_null_streams_are_the_containers_null_device(pair: list[Runtime]) -> None:
    """The caller's /dev/null, opened for reading only, is replaced by the container's own node."""
    for runtime in pair:
        runtime.configure("ls -l /proc/self/fd/0 | cut -c1-10; readlink /proc/self/fd/0; echo x >&0 && echo written")
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        assert reap(runtime.pid) == 0
        assert runtime.out == "lrwx------\n/dev/null\nwritten\n", runtime.name


def test_state_is_runcs(pair: list[Runtime]) -> None:
    """Fields, their order, and the form of the time; only what names the runtime's own things may differ."""
    texts = []
    for runtime in pair:
        runtime.configure(["sleep", "100"], lambda config: config.update(annotations={"a.b/c": "x y"}))
        assert runtime.create() == 0, runtime.last_error()
        text = runtime.call("state", runtime.id).stdout
        assert json.loads(text)["created"].endswith("Z")
        text = text.replace(runtime.id, "ID").replace(str(runtime.bundle), "BUNDLE").replace(str(runtime.pid), "PID")
        texts.append(re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", "TIME", text))
    assert texts[0] == texts[1]


def test_waiting_process_is_small_and_not_python(pair: list[Runtime]) -> None:
    runtime = pair[0]
    runtime.configure(["sleep", "100"])
    assert runtime.create() == 0, runtime.last_error()
    rollup = Path(f"/proc/{runtime.pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss: +(\d+) kB", rollup, re.M)
    assert match is not None
    assert int(match[1]) < 1024
    assert "pysandbox" in os.readlink(f"/proc/{runtime.pid}/exe")
    parent = re.search(r"^PPid:\t(\d+)", Path(f"/proc/{runtime.pid}/status").read_text(), re.M)
    assert parent is not None
    assert int(parent[1]) == os.getpid()


@pytest.mark.parametrize("state", ["created", "running", "stopped"])
def test_verbs_by_status(pair: list[Runtime], state: str) -> None:
    """Exit status and message of start, kill and delete in every status."""
    seen = []
    for runtime in pair:
        runtime.configure(["sleep", "100"])
        assert runtime.create() == 0, runtime.last_error()
        if state != "created":
            assert runtime.call("start", runtime.id).returncode == 0
        if state == "stopped":
            os.kill(runtime.pid, signal.SIGKILL)
            assert reap(runtime.pid) == -signal.SIGKILL
        results: list[object] = [runtime.state()["status"]]
        verbs = [["kill", runtime.id, "0"]] if state != "stopped" else []
        if state != "created":
            verbs += [["start", runtime.id]]
        if state == "stopped":
            verbs += [["kill", runtime.id, "15"], ["kill", "--all", runtime.id, "9"]]
        verbs += [["delete", runtime.id], ["state", runtime.id]]
        for verb in verbs:
            done = runtime.call(*verb)
            error = runtime.last_error() if done.returncode else ""
            results.append((verb[0], done.returncode, error.replace(runtime.id, "ID").strip()))
        seen.append(results)
    assert [r if isinstance(r, str) else r[:2] for r in seen[0]] == [r if isinstance(r, str) else r[:2] for r in seen[1]]
    for ours, runcs in zip(seen[0], seen[1], strict=True):
        if ours != runcs:
            # Engines look for these words only.
            words = ("container not running", "does not exist", "cannot delete container", "already running", "has stopped")
            assert [w in str(ours) for w in words] == [w in str(runcs) for w in words], (ours, runcs)


@pytest.mark.parametrize("ended", [False, True], ids=["running", "first process gone"])
def test_sigkill_without_a_pid_namespace(pair: list[Runtime], ended: bool) -> None:
    """It ends all processes of the container, not the first one alone; as since runc 1.2."""
    runtime = pair[0]

    def of_the_host(config: Config) -> None:
        config["linux"]["namespaces"] = [space for space in config["linux"]["namespaces"] if space["type"] != "pid"]

    runtime.configure("sleep 1000 & sleep 1000 & echo started; wait", of_the_host)
    assert runtime.create() == 0, runtime.last_error()
    assert runtime.call("start", runtime.id).returncode == 0
    wait_for(lambda: runtime.out, "the start of the program")
    group = Path(f"/sys/fs/cgroup/pids/{runtime.id}")
    if not group.exists():
        group = Path(f"/sys/fs/cgroup/{runtime.id}")
    pids = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    assert len(pids) == 3
    if ended:
        os.kill(runtime.pid, signal.SIGKILL)
        assert reap(runtime.pid) == -signal.SIGKILL
    assert runtime.call("kill", runtime.id, "KILL").returncode == 0, runtime.last_error()
    wait_for(lambda: not (reap_orphans() or (group / "cgroup.procs").read_text()), "the end of all processes")
    assert runtime.call("kill", runtime.id, "KILL").returncode == 1
    assert "container not running" in runtime.last_error()


@pytest.mark.parametrize(
    "name", ["TERM", "INT", "QUIT", "HUP", "USR1", "WINCH", "CHLD", "ALRM", "PIPE", "SIGTERM", "sigterm", "15", "9", "KILL"]
)
def test_signal_before_start(pair: list[Runtime], name: str) -> None:
    """What ends a created container and what does not."""
    seen = []
    for runtime in pair:
        runtime.configure(["sleep", "100"])
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("kill", runtime.id, name).returncode == 0
        ends = name not in ("USR1", "WINCH", "CHLD", "ALRM", "PIPE")
        if ends:
            wait_for(lambda r=runtime: r.state()["status"] == "stopped", "the end of a created container")  # type: ignore[misc]
        seen.append((runtime.state()["status"], runtime.call("start", runtime.id).returncode))
        runtime.clean()
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("args", "change"),
    [
        (["nothing-of-this-name"], None),
        (["/nothing"], None),
        (["/etc"], None),
        (["/etc/passwd"], None),
        (["/etc/passwd/x"], None),
        ([""], None),
        (["true"], lambda config: config["process"].update(cwd="/etc/passwd")),
        (["true"], lambda config: config["process"].update(cwd="relative")),
    ],
)
def test_errors_surface_at_create(pair: list[Runtime], args: list[str], change: Change | None) -> None:
    """With the words from which engines choose their exit status (126, 127)."""
    words = ("executable file not found in $PATH", "no such file or directory", "permission denied")
    seen = []
    for runtime in pair:
        runtime.configure(args, change)
        status = runtime.create()
        message = runtime.last_error() if status else ""
        # Newer runcs say the one, older the other; engines make 126 of both.
        message = message.replace("is a directory", "permission denied")
        seen.append((status, [word for word in words if word in message], len(runtime.left_over()) if status else None))
    assert seen[0] == seen[1]


def test_only_one_start(pair: list[Runtime]) -> None:
    """Many at the same moment: one releases the container, and its program runs once."""
    for runtime in pair[:1]:
        runtime.configure("echo once; sleep 100")
        assert runtime.create() == 0, runtime.last_error()
        null = subprocess.DEVNULL
        many = [subprocess.Popen(runtime.argv("start", runtime.id), env=runtime.env, stderr=null) for _ in range(5)]
        assert sorted(process.wait() for process in many) == [0, 1, 1, 1, 1]
        wait_for(lambda r=runtime: r.out, "output")  # type: ignore[misc]
        assert runtime.out == "once\n"


def test_killed_start_is_settled_by_the_next_command(pair: list[Runtime]) -> None:
    """SIGKILL of `start` before and after the release: the state tells the truth afterwards."""
    runtime = pair[0]
    runtime.configure(["sleep", "100"])
    assert runtime.create() == 0, runtime.last_error()
    statuses = set()
    for delay in (0.0, 0.004, 0.008, 0.012, 0.016, 0.02, 0.03):
        process = subprocess.Popen(runtime.argv("start", runtime.id), env=runtime.env, stderr=subprocess.DEVNULL)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        status = runtime.state()["status"]
        statuses.add(status)
        if status == "created":
            continue
        wait_for(lambda: b"sleep" in Path(f"/proc/{runtime.pid}/comm").read_bytes(), "the program")
        break
    if runtime.state()["status"] == "created":
        assert runtime.call("start", runtime.id).returncode == 0
    assert runtime.state()["status"] == "running"
    assert statuses <= {"created", "running"}
    assert runtime.call("delete", "--force", runtime.id).returncode == 0
    assert runtime.left_over() == []


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.03, 0.04, 0.05, 0.07])
def test_killed_create_leaves_nothing(pair: list[Runtime], delay: float) -> None:
    runtime = pair[0]
    runtime.configure(["sleep", "100"])
    argv = runtime.argv("create", "--bundle", str(runtime.bundle), "--pid-file", str(runtime.bundle / "init.pid"), runtime.id)
    null = subprocess.DEVNULL
    process = subprocess.Popen(argv, env=runtime.env, stdin=null, stdout=null, stderr=null)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    listed = runtime.call("list", "-q").stdout.split()
    if runtime.id in listed:  # it was faster: then it is whole
        assert runtime.state()["status"] == "created"
        assert runtime.call("delete", runtime.id).returncode == 0
    assert runtime.left_over() == []


def test_two_deletes(pair: list[Runtime]) -> None:
    """At the same moment: the one that comes late finds nothing, and nothing is left."""
    runtime = pair[0]
    runtime.configure(["sleep", "100"])
    assert runtime.create() == 0, runtime.last_error()
    argv = runtime.argv("delete", "--force", runtime.id)
    many = [subprocess.Popen(argv, env=runtime.env, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.wait() for process in many] == [0, 0, 0, 0], [process.communicate()[1] for process in many]
    assert runtime.left_over() == []


def test_delete_by_regular_expression(pair: list[Runtime], request: pytest.FixtureRequest) -> None:
    """As crun: all whose ids match, and a failure of one is no reason to keep another."""
    runtime = pair[0]
    runtime.configure(["sleep", "1000"])
    own, pids = runtime.id, []
    request.addfinalizer(lambda: runtime.call("delete", "--force", "--regex", own))
    for name in ("a1", "a2", "b1"):
        runtime.id = f"{own}-{name}"
        assert runtime.create() == 0, runtime.last_error()
        pids.append(runtime.pid)
    assert runtime.call("start", f"{own}-a1").returncode == 0
    assert runtime.call("delete", "--regex", "a[0-9]$").returncode == 1
    assert "is not stopped: running" in runtime.last_error()
    assert sorted(runtime.call("list", "-q").stdout.split()) == [f"{own}-a1", f"{own}-b1"]
    assert runtime.call("delete", "--regex", "[").returncode == 1
    assert "'[' is not a regular expression" in runtime.last_error()
    assert runtime.call("delete", "-f", "--regex", "nothing|b1").returncode == 0
    assert runtime.call("delete", "--force", "--regex", own).returncode == 0
    assert runtime.call("list", "-q").stdout == ""
    assert [reap(pid) for pid in pids] == [-9, -9, -9]


def test_unknown_container(pair: list[Runtime]) -> None:
    for verb in (["state"], ["start"], ["kill"], ["delete"], ["delete", "--force"]):
        seen = []
        for runtime in pair:
            done = runtime.call(*verb, "nobody")
            seen.append((done.returncode, "does not exist" in done.stderr))
        assert seen[0] == seen[1], verb


def test_reused_pid_is_not_the_container(pair: list[Runtime]) -> None:
    """A state file whose first process is another process of the same number by now."""
    runtime = pair[0]
    runtime.configure(["true"])
    assert runtime.create() == 0, runtime.last_error()
    assert runtime.call("start", runtime.id).returncode == 0
    reap(runtime.pid)
    path = runtime.root / runtime.id / "state.json"
    state: Config = json.loads(path.read_text())
    victim = subprocess.Popen(["sleep", "100"])
    try:
        state["init"] = [victim.pid, state["init"][1]]
        state["made"] = [
            [kind, victim.pid, *rest] if kind == "process" else [kind, *rest]
            for kind, *rest in ([m[0], *m[2:]] if m[0] == "process" else m for m in state["made"])
        ]
        path.write_text(json.dumps(state))
        assert runtime.state()["status"] == "stopped"
        assert "container not running" in runtime.call("kill", runtime.id, "9").stderr
        assert runtime.call("delete", "--force", runtime.id).returncode == 0
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]", "\0" * 100, '{"version": 1, "id": "other"}'])
def test_damaged_state(pair: list[Runtime], text: str) -> None:
    """One line and status 1 from every verb; the other containers are served."""
    runtime = pair[0]
    runtime.configure(["sleep", "100"])
    assert runtime.create() == 0, runtime.last_error()
    path = runtime.root / runtime.id / "state.json"
    whole = path.read_bytes()
    path.write_text(text)
    for verb in (["state"], ["start"], ["kill"], ["delete"]):
        done = runtime.call(*verb, runtime.id)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "damaged" in done.stderr
    assert runtime.call("list").returncode == 0
    path.write_bytes(whole)
    assert runtime.call("delete", runtime.id).returncode == 0
