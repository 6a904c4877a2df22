"""exec: enters the container whole, compared with runc."""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from verb_lab import Change, Runtime, missing, reap, runtime_pair, subreaper, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


@pytest.fixture
def pair(pair: list[Runtime]) -> list[Runtime]:
    """pysandbox and runc, each with a running container that sleeps."""
    for runtime in pair:
        runtime.configure(["sleep", "1000"])
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
    return pair


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, busybox_rootfs: Path, pysandbox_command: list[str]
) -> Iterator[list[Runtime]]:
    """The same, for tests that leave the container as it is."""
    with runtime_pair(tmp_path_factory.mktemp("shared"), busybox_rootfs, pysandbox_command) as runtimes:
        for runtime in runtimes:
            runtime.id += "-shared"
            runtime.configure(["sleep", "1000"])
            assert runtime.create() == 0, runtime.last_error()
            assert runtime.call("start", runtime.id).returncode == 0
        yield runtimes
        subreaper(True)


@pytest.fixture
def together(shared: list[Runtime]) -> Iterator[list[Runtime]]:
    subreaper(True)
    yield shared
    subreaper(False)


def outcome(runtime: Runtime, *args: str, **options: Any) -> tuple[int, str]:
    done = runtime.call("exec", *args, **options)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ("ID", "sh", "-c", "echo $0 $#; id; pwd; hostname; umask; exit 3"),
        ("-e", "A=1", "-e", "A=2", "-e", "B=x y", "ID", "env"),
        ("--cwd", "/usr", "ID", "pwd"),
        ("--user", "1000", "ID", "id"),
        ("--user", "1000:1001", "-g", "5", "-g", "7", "ID", "id"),
        ("--user", "1000:1001", "--cwd", "/", "ID", "sh", "-c", "echo $HOME; grep -E 'Cap|NoNewPrivs' /proc/self/status"),
        ("--cap", "CAP_NET_RAW", "ID", "grep", "Cap", "/proc/self/status"),
        ("--no-new-privs", "ID", "grep", "NoNewPrivs", "/proc/self/status"),
        ("ID", "sh", "-c", "kill -9 $$"),
        ("ID", "sh", "-c", "kill -TERM $$"),
        ("ID", "sh", "-c", "ulimit -n; ulimit -s; ulimit -c"),
        ("ID", "cat", "/proc/self/oom_score_adj"),
        ("ID", "sh", "-c", "cat /proc/self/cgroup | sed 's/verb-[^ ]*/ID/'"),
        ("ID", "sh", "-c", "mount | sed 's/verb-[^ ]*/ID/' | grep -v ^/ | sort"),
        ("ID", "sh", "-c", "cat /proc/1/comm; kill -0 1 && echo sees init"),
        ("ID", "grep", "-E", "SigBlk|SigIgn", "/proc/self/status"),
    ],
    ids=lambda args: " ".join(args)[:40],
)
def test_what_the_program_sees(together: list[Runtime], args: tuple[str, ...]) -> None:
    seen = [outcome(runtime, *(runtime.id if arg == "ID" else arg for arg in args)) for runtime in together]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ID", "nothing-of-this-name"), "executable file not found in $PATH"),
        (("ID", "/nothing"), "no such file or directory"),
        (("ID", "/etc/passwd"), "permission denied"),
        (("--cwd", "/nothing", "ID", "true"), "no such file or directory"),
        (("--cwd", "/etc/passwd", "ID", "true"), "not a directory"),
        (("ID",), "process args cannot be empty"),
        (("nobody", "true"), "does not exist"),
        (("--tty", "--detach", "ID", "true"), "cannot allocate tty if"),
        (("--console-socket", "/nothing", "ID", "true"), "cannot use console socket if"),
        (("--user", "root", "ID", "true"), "parsing root as int for uid failed"),
        (("--cgroup", "nothing", "ID", "true"), "nothing/cgroup.procs: no such file or directory"),
        (("--cgroup", "nothing", "ID", "true"), "adding pid "),
        (("--cgroup", "..", "ID", "true"), ".. is not a sub cgroup path"),
        (("--cgroup", "pids:x/../../y", "ID", "true"), "is not a sub cgroup path"),
        (("--pid-file", "/nothing/x", "ID", "true"), "no such file or directory"),
        (("--process", "/nothing", "ID"), "no such file or directory"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_errors(together: list[Runtime], args: tuple[str, ...], words: str) -> None:
    """Status 255, so that it is not taken for the program's own; the words engines look for."""
    for runtime in together:
        done = runtime.call("exec", *(runtime.id if arg == "ID" else arg for arg in args))
        assert done.returncode == 255, runtime.name
        assert words in runtime.last_error(), runtime.name
        assert runtime.last_error().startswith("exec failed: ")
    # Nothing stays behind in the container.
    for runtime in together:
        assert outcome(runtime, runtime.id, "sh", "-c", "ls -d /proc/[0-9]*/exe | wc -l")[1] != ""
        assert len(groups_of(runtime)) == 1


def test_more_capabilities(pair: list[Runtime]) -> None:
    """--cap: also in the ambient set where the container's are inheritable."""
    seen = []
    for runtime in pair:
        runtime.clean()
        few = ["CAP_CHOWN", "CAP_KILL"]
        sets = {"bounding": [*few, "CAP_FOWNER"], "permitted": few, "effective": few}
        change: Change = lambda config, sets=sets: config["process"].update(  # type: ignore[misc]  # noqa: E731
            capabilities={**sets, "inheritable": ["CAP_CHOWN", "CAP_FOWNER"], "ambient": ["CAP_CHOWN", "CAP_KILL"]}
        )
        runtime.configure(["sleep", "1000"], change)
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        for more in ((), ("--cap", "CAP_FOWNER"), ("--cap", "CAP_NET_RAW")):
            seen.append(outcome(runtime, *more, runtime.id, "grep", "Cap", "/proc/self/status"))
    assert seen[:3] == seen[3:]


def test_process_from_a_pipe(together: list[Runtime]) -> None:
    """`--process <(...)`: a writer that takes its time is waited for."""
    document = json.dumps({"args": ["echo", "from a pipe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]})
    for runtime in together:
        reader, writer = os.pipe()
        with subprocess.Popen(["sh", "-c", 'sleep 0.3; echo "$0"', document], stdout=writer):
            os.close(writer)
            done = runtime.call("exec", "--process", f"/proc/self/fd/{reader}", runtime.id, pass_fds=(reader,))
            os.close(reader)
        assert (done.returncode, done.stdout) == (0, "from a pipe\n"), (runtime.name, runtime.last_error())


@pytest.mark.parametrize("style", ["text", "json"])
def test_debug_log(together: list[Runtime], style: str) -> None:
    """`--debug` tells of the steps in the log, or on standard error; runc's words for those that runc has, too."""
    steps = ("nsexec container setup", "child process in init()", "setns_init: about to exec")
    for runtime in together:
        log = runtime.bundle / f"debug.{style}"
        head = [*runtime.command, "--root", str(runtime.root), "--debug", "--log-format", style]
        tail = ["exec", runtime.id, "echo", "hi"]
        to_file = subprocess.run([*head, "--log", log, *tail], env=runtime.env, capture_output=True, text=True, check=True)
        assert (to_file.stdout, to_file.stderr) == ("hi\n", "")
        to_stderr = subprocess.run([*head, *tail], env=runtime.env, capture_output=True, text=True, check=True)
        assert to_stderr.stdout == "hi\n"
        for text in (log.read_text(), to_stderr.stderr):
            for step in steps:
                line = next(line for line in text.splitlines() if step in line)
                assert json.loads(line)["level"] == "debug" if style == "json" else " level=debug msg=" in line
        quiet = subprocess.run([*head[:-3], *tail], env=runtime.env, capture_output=True, text=True, check=True)
        assert quiet.stderr == ""


def groups_of(runtime: Runtime) -> list[int]:
    """Host pids in the container's cgroup."""
    return [int(pid) for pid in Path(f"/sys/fs/cgroup/pids/{runtime.id}/cgroup.procs").read_text().split()]


def process_json(**changes: Any) -> dict[str, Any]:
    return {"user": {"uid": 0, "gid": 0}, "args": ["true"], "env": ["PATH=/bin:/usr/bin"], "cwd": "/", **changes}


def detached(runtime: Runtime, process: dict[str, Any], *options: str, **more: Any) -> int:
    """As containerd-shim: `exec --process F --detach --pid-file P ID`; the host pid, a child of ours by then."""
    path = runtime.bundle / "process.json"
    path.write_text(json.dumps(process))
    pid_file = runtime.bundle / "exec.pid"
    with open(runtime.bundle / "exec-out", "wb") as out:
        done = runtime.call(
            "exec",
            "--process",
            str(path),
            "--detach",
            "--pid-file",
            str(pid_file),
            *options,
            runtime.id,
            stdout=out,
            stderr=out,
            **more,
        )
    assert done.returncode == 0, runtime.last_error()
    return int(pid_file.read_text())


def test_detached_as_the_shim_calls_it(together: list[Runtime]) -> None:
    """The pid is the subreaper's child and ends with the program's status; the container goes on."""
    seen = []
    for runtime in together:
        pid = detached(runtime, process_json(args=["sh", "-c", "echo $X; exit 9"], env=["PATH=/bin", "X=y"]))
        status = reap(pid)
        seen.append((status, (runtime.bundle / "exec-out").read_text(), runtime.state()["status"]))
    assert seen[0] == seen[1] == (9, "y\n", "running")


def test_process_json_fields(together: list[Runtime]) -> None:
    """What it says holds, what it leaves out is the container's."""
    process = process_json(
        args=["sh", "-c", "id; umask; ulimit -n; grep Cap /proc/self/status; pwd; cat /proc/self/oom_score_adj"],
        user={"uid": 12, "gid": 34, "additionalGids": [56], "umask": 0o27},
        cwd="/tmp",
        rlimits=[{"type": "RLIMIT_NOFILE", "hard": 200, "soft": 100}],
        capabilities={kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")},
    )
    seen = []
    for runtime in together:
        path = runtime.bundle / "process.json"
        path.write_text(json.dumps(process))
        seen.append(outcome(runtime, "--process", str(path), runtime.id))
    ours, runcs = seen
    assert ours[0] == runcs[0] == 0
    assert "\n0027\n100\n" in ours[1]
    # runc 1.1 leaves umask of process.json out; its Go may raise the soft limit to the hard one, if it is fast enough.
    assert ours[1].replace("0027", "0022") == runcs[1].replace("\n200\n", "\n100\n")


def test_exec_in_a_created_container(pair: list[Runtime]) -> None:
    for runtime in pair:
        runtime.clean()
        runtime.configure(["sleep", "1000"])
        assert runtime.create() == 0
    assert outcome(pair[0], pair[0].id, "echo", "hi") == outcome(pair[1], pair[1].id, "echo", "hi") == (0, "hi\n")
    assert [runtime.state()["status"] for runtime in pair] == ["created", "created"]


def test_stopped_container(pair: list[Runtime]) -> None:
    for runtime in pair:
        os.kill(runtime.pid, signal.SIGKILL)
        reap(runtime.pid)
        assert runtime.call("exec", runtime.id, "true").returncode == 255
        assert "cannot exec in a stopped container" in runtime.last_error()


def test_namespaces_are_the_containers(together: list[Runtime]) -> None:
    """Seen from the host: all of them, and the root directory."""
    runtime = together[0]
    pid = detached(runtime, process_json(args=["sleep", "100"]))
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{runtime.pid}/ns/{kind}"), kind
    assert os.path.samefile(f"/proc/{pid}/root", f"/proc/{runtime.pid}/root")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{runtime.pid}/cgroup").read_text()
    assert set(groups_of(runtime)) == {runtime.pid, pid}
    os.kill(pid, signal.SIGKILL)
    reap(pid)


def test_one_trace_a_container(together: list[Runtime]) -> None:
    runtime = together[0]
    assert outcome(runtime, runtime.id, "cat", "/etc/hostname")[0] in (0, 1)
    shown = subprocess.run(runtime.argv("trace", "show", runtime.id), env=runtime.env, capture_output=True, text=True, check=True)
    assert "/etc/hostname" in shown.stdout
    assert "sleep" in shown.stdout


def test_policy_is_the_containers(pair: list[Runtime]) -> None:
    """Of the time it was made, whatever has become of the bundle."""
    for runtime in pair:
        runtime.clean()
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        runtime.configure(["sleep", "1000"], lambda config, p=profile: config["linux"].update(seccomp=p))  # type: ignore[misc]
        assert runtime.create() == 0
        assert runtime.call("start", runtime.id).returncode == 0
        assert "not supported" in runtime.call("exec", runtime.id, "mkdir", "/tmp/x").stderr
    (pair[0].bundle / "config.json").unlink()
    assert "not supported" in pair[0].call("exec", pair[0].id, "mkdir", "/tmp/x").stderr


def test_nothing_of_the_host_leaks(together: list[Runtime], tmp_path: Path) -> None:
    """Descriptors that an engine leaves open do not reach the program; --preserve-fds passes those asked for."""
    leaked = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(4)]
    null = os.open("/dev/null", os.O_RDONLY)
    first = 3
    try:
        for runtime in together:
            script = "for n in 3 4 5 6 7 8 9 10 11 12; do [ -e /proc/self/fd/$n ] && echo $n $(readlink /proc/self/fd/$n); done"
            fds = tuple(leaked)
            listed = outcome(runtime, runtime.id, "sh", "-c", script, pass_fds=fds)[1]
            assert str(tmp_path) not in listed
            os.dup2(null, first, inheritable=True) if first not in leaked else None
        # The directory of CVE-2024-21626: a working directory behind a descriptor of the host.
        for number in range(3, 12):
            for runtime in together[:1]:
                done = runtime.call("exec", "--cwd", f"/proc/self/fd/{number}", runtime.id, "pwd", pass_fds=tuple(leaked))
                assert done.returncode == 255, (number, done.stdout)
    finally:
        for fd in (*leaked, null):
            os.close(fd)


def test_preserved_descriptors(together: list[Runtime], tmp_path: Path) -> None:
    (tmp_path / "three").write_text("third")
    seen = []
    for runtime in together:
        argv = runtime.argv("exec", "--preserve-fds", "1", runtime.id, "sh", "-c", "cat <&3; [ -e /proc/self/fd/4 ] || echo none")
        script = 'exec 3<"$1"; shift; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", str(tmp_path / "three"), *argv],
            env=runtime.env,
            capture_output=True,
            text=True,
            check=False,
        )
        seen.append((done.returncode, done.stdout))
        assert runtime.call("exec", "--preserve-fds", "40", runtime.id, "true").returncode == 255
    assert seen[0] == seen[1]


def receive_terminal(listener: socket.socket) -> int:
    listener.settimeout(30)
    connection, _ = listener.accept()
    _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_LEN(4))
    connection.close()
    return int(array.array("i", ancillary[0][2])[0])


def read_all(master: int) -> bytes:
    text = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            return text
        if not piece:
            return text
        text += piece


def test_terminal_by_console_socket(together: list[Runtime]) -> None:
    seen = []
    for runtime in together:
        path = str(runtime.bundle / "c.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            process = process_json(
                args=["sh", "-c", "tty; stty size; read x; echo got $x"], terminal=True, consoleSize={"height": 11, "width": 22}
            )
            pid = detached(runtime, process, "--console-socket", path)
            master = receive_terminal(listener)
        start = b""
        while b"11 22" not in start:
            start += os.read(master, 4096)
        os.write(master, b"word\n")
        text = (start + read_all(master)).decode().replace("\r\n", "\n")
        seen.append((reap(pid), re.sub(r"/dev/pts/\d+", "PTS", text)))
        os.close(master)
    assert seen[0] == seen[1]
    assert "11 22" in seen[0][1]
    assert "got word" in seen[0][1]


@pytest.mark.parametrize("verb", ["exec", "create"])
def test_pidfd_socket(pair: list[Runtime], verb: str) -> None:
    """As runc 1.2 has it: who listens can signal the process, whatever becomes of its number."""
    runtime = pair[0]
    path = str(runtime.bundle / "pidfd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        if verb == "exec":
            pid = detached(runtime, process_json(args=["sleep", "1000"]), "--pidfd-socket", path)
        else:
            runtime.clean()
            assert runtime.create("--pidfd-socket", path) == 0, runtime.last_error()
            pid = runtime.pid
        connection, _ = listener.accept()
        with connection:
            text, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
    signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
    os.close(descriptors[0])
    assert (text, reap(pid)) == (b"pidfd", -signal.SIGKILL)
    os.unlink(path)
    runtime.clean()
    assert runtime.create("--pidfd-socket", path) == 1
    assert f"send pidfd to {path}: no such file or directory" in runtime.last_error()
    assert runtime.left_over() == []


def test_terminal_in_the_foreground(together: list[Runtime]) -> None:
    """`exec -t` from a terminal: size, input, end; the terminal is as it was afterwards."""
    seen = []
    for runtime in together:
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, array.array("H", [33, 44, 0, 0]))
        before = termios.tcgetattr(slave)
        # runc sets the size when the process runs already.
        script = "until [ \"$(stty size)\" = '33 44' ]; do sleep 0.05; done; stty size; read x; echo got $x; exit 5"
        argv = runtime.argv("exec", "-t", runtime.id, "sh", "-c", script)
        child = subprocess.Popen(argv, env=runtime.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        text = b""
        while b"33 44" not in text:
            text += os.read(master, 4096)
        os.write(master, b"word\n")
        while b"got word" not in text:
            text += os.read(master, 4096)
        seen.append(child.wait(60))
        assert termios.tcgetattr(slave) == before
        os.close(slave)
        os.close(master)
    assert seen == [5, 5]


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_passed_on(together: list[Runtime], signo: int) -> None:
    seen = []
    for runtime in together:
        number = int(signo)
        script = f"trap 'echo caught; exit 4' {number}; echo ready; while :; do sleep 0.1; done"
        argv = runtime.argv("exec", runtime.id, "sh", "-c", script)
        child = subprocess.Popen(argv, env=runtime.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signo)
        seen.append((child.stdout.read(), child.wait(60)))
    assert seen[0] == seen[1] == ("caught\n", 4)


def test_input_is_the_callers(together: list[Runtime]) -> None:
    seen = []
    for runtime in together:
        done = subprocess.run(
            runtime.argv("exec", runtime.id, "cat"),
            env=runtime.env,
            input="a\nb\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        seen.append((done.returncode, done.stdout))
    assert seen[0] == seen[1] == (0, "a\nb\n")


def test_end_of_the_container_ends_exec(pair: list[Runtime]) -> None:
    seen = []
    for runtime in pair:
        child = subprocess.Popen(runtime.argv("exec", runtime.id, "sleep", "1000"), env=runtime.env, stdin=subprocess.DEVNULL)
        wait_for(lambda r=runtime: len(groups_of(r)) > 1, "the process of exec")  # type: ignore[misc]
        time.sleep(0.1)
        os.kill(runtime.pid, signal.SIGKILL)
        seen.append(child.wait(60))
        reap(runtime.pid)
    assert seen[0] == seen[1] == 137


def test_killed_exec_leaves_nothing(pair: list[Runtime]) -> None:
    """SIGKILL of `exec` at any moment: its process goes, the container stays."""
    runtime = pair[0]
    for delay in (0.005, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06):
        child = subprocess.Popen(runtime.argv("exec", runtime.id, "sleep", "1000"), env=runtime.env, stdin=subprocess.DEVNULL)
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        wait_for(lambda: groups_of(runtime) == [runtime.pid], "the end of the process")
    assert runtime.state()["status"] == "running"
    assert outcome(runtime, runtime.id, "echo", "hi") == (0, "hi\n")


def test_many_at_once(together: list[Runtime]) -> None:
    runtime = together[0]
    many = [
        subprocess.Popen(
            runtime.argv("exec", runtime.id, "sh", "-c", f"echo {n}; exit {n}"),
            env=runtime.env,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for n in range(8)
    ]
    assert [(child.communicate()[0], child.returncode) for child in many] == [(f"{n}\n", n) for n in range(8)]


def test_below_the_containers_cgroup(pair: list[Runtime]) -> None:
    """--cgroup, for one controller and for all."""
    seen = []
    for runtime in pair:
        for hierarchy in Path("/sys/fs/cgroup").glob(f"*/**/{runtime.id}"):
            (hierarchy / "below").mkdir()
        one = outcome(runtime, "--cgroup", "pids:below", runtime.id, "cat", "/proc/self/cgroup")
        whole = outcome(runtime, "--cgroup", "below", runtime.id, "cat", "/proc/self/cgroup")
        seen.append((one[0], whole[0], one[1].replace(runtime.id, "ID")))
        unknown = runtime.call("exec", "--cgroup", "nothing:below", runtime.id, "true")
        assert unknown.returncode == 255
        top = outcome(runtime, "--cgroup", "/", runtime.id, "cat", "/proc/self/cgroup")
        assert top == outcome(runtime, runtime.id, "cat", "/proc/self/cgroup")
        assert "unknown controller nothing" in runtime.last_error()
    assert seen[0] == seen[1]


def test_user_namespace(pair: list[Runtime]) -> None:
    """The process is the namespace's root, or whom it was told to be, and the host's user behind that."""
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    def mapped(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"].update(uidMappings=mapping, gidMappings=mapping)

    seen = []
    for runtime in pair:
        runtime.clean()
        runtime.configure(["sleep", "1000"], mapped)
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        script = "id; cat /proc/self/uid_map; grep Cap /proc/self/status; stat -c %u /proc/self"
        seen.append([outcome(runtime, *user, runtime.id, "sh", "-c", script) for user in ((), ("-u", "5:6"))])
        pid = detached(runtime, process_json(args=["sleep", "100"], user={"uid": 7, "gid": 8}))
        assert os.stat(f"/proc/{pid}").st_uid in (100007, 0)
        uid = re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
        assert uid is not None
        assert uid[1] == "100007"
        os.kill(pid, signal.SIGKILL)
        reap(pid)
    assert seen[0] == seen[1]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two CPUs")
def test_cpus_are_those_of_the_cgroup(pair: list[Runtime]) -> None:
    """Not those that the runtime is bound to, as runc 1.3 has it; `execCPUAffinity` says otherwise."""
    runtime, allowed = pair[0], sorted(os.sched_getaffinity(0))

    def cpus(*args: str) -> list[int]:
        argv = ["taskset", "-c", str(allowed[0]), *runtime.argv(*args)]
        done = subprocess.run(argv, env=runtime.env, capture_output=True, text=True, check=True)
        mask = re.findall(r"Cpus_allowed:\s+(\S+)", done.stdout)[0].replace(",", "")
        return [cpu for cpu in range(8192) if int(mask, 16) >> cpu & 1]

    def of_exec(**process: Any) -> list[int]:
        path = runtime.bundle / "process.json"
        path.write_text(json.dumps(process_json(args=["cat", "/proc/self/status"], **process)))
        return cpus("exec", "--process", str(path), runtime.id)

    one = str(allowed[1])
    assert set(of_exec()) >= set(allowed)
    assert of_exec(execCPUAffinity={"initial": one}) == of_exec(execCPUAffinity={"final": one}) == [allowed[1]]
    runtime.clean()
    runtime.configure(["cat", "/proc/self/status"])
    assert set(cpus("run", "--bundle", str(runtime.bundle), runtime.id)) >= set(allowed)
