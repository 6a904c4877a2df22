"""What users do with running containers of podman as root: each test says what happens, and happens under runc and pysandbox."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines_podman import IMAGE, Podman, rootful, wait_for
from room import MakeRoom, need_programs

COUNTER = "i=0; while sleep 0.05; do i=$((i+1)); echo $i >/count; done"


@pytest.fixture(scope="module")
def podmans(make_room: MakeRoom, pysandbox: str, busybox_tar: Path) -> Iterator[dict[str, Podman]]:
    need_programs("podman", "runc", "iptables")
    yield from rootful(make_room("podman-life"), pysandbox, {IMAGE: busybox_tar})


@pytest.fixture(scope="module", params=["runc", "pysandbox"])
def sleeper(podmans: dict[str, Podman], request: pytest.FixtureRequest) -> Iterator[tuple[Podman, str]]:
    """A running container that tests share."""
    podman = podmans[request.param]
    name = podman.name("sleeper")
    podman("run", "-d", "--name", name, "--network", "none", "-e", "FROM=run", IMAGE, "sleep", "600")
    yield podman, name
    podman.remove(name)


# --- exec ------------------------------------------------------------------------------------------------------------


def test_exec(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    assert podman("exec", name, "echo", "hi") == "hi"
    assert podman("exec", name, "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 600 "
    assert podman("exec", name, "sh", "-c", "echo $FROM $HOSTNAME; hostname").split()[0] == "run"
    assert podman.call("exec", name, "sh", "-c", "exit 42").returncode == 42
    assert podman.call("exec", name, "sh", "-c", "kill -9 $$").returncode == 137
    assert podman("exec", "-i", name, "cat", input="through\nthe pipe\n") == "through\nthe pipe"


def test_exec_options(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    script = "id; pwd; echo $FOO; umask"
    lines = podman("exec", "-e", "FOO=bar", "-w", "/tmp", "-u", "1000:1000", name, "sh", "-c", script).splitlines()
    assert lines[0].startswith("uid=1000 gid=1000")
    assert lines[1:] == ["/tmp", "bar", "0022"]
    capabilities = podman("exec", "--privileged", name, "grep", "CapEff", "/proc/self/status")
    assert int(capabilities.split()[1], 16) & 1 << 21  # SYS_ADMIN
    capabilities = podman("exec", "-u", "1000", name, "grep", "CapEff", "/proc/self/status")
    assert int(capabilities.split()[1], 16) == 0


def test_exec_errors(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    for command, status, words in (
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/nonexistent", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
    ):
        done = podman.call("exec", name, command)
        assert (done.returncode, done.stdout) == (status, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    done = podman.call("exec", "-w", "/nodir", name, "true")
    assert done.returncode in (126, 127)
    assert podman("exec", name, "echo", "still") == "still"


def test_exec_detached(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    podman("exec", "-d", name, "sh", "-c", "sleep 0.2; echo done >/detached")
    wait_for(lambda: podman.call("exec", name, "cat", "/detached").stdout == "done\n", "what the detached program writes")


def test_exec_with_a_terminal(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    terminal = podman.terminal("exec", "-it", name, "sh")
    terminal.expect("# ")
    terminal.send("tty; stty size\n")
    terminal.expect("/dev/pts/")
    terminal.expect("24 80")
    terminal.resize(33, 77)
    terminal.expect("# ")
    time.sleep(0.5)  # podman passes the new size on when it gets to it
    terminal.send("stty size\n")
    terminal.expect("33 77")
    terminal.send("sleep 100\n")
    time.sleep(0.5)
    terminal.send("\x03")
    terminal.send("exit 7\n")
    assert terminal.finish() == 7


def test_many_execs_at_once(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    command = " ".join(podman.argv("exec", name, "sh", "-c")) + " 'echo $0 $((6 * $0))' "
    done = podman.room.run("sh", "-c", f"for i in 1 2 3 4 5 6 7 8; do {command} $i & done; wait")
    assert sorted(done.stdout.splitlines()) == sorted(f"{i} {6 * i}" for i in range(1, 9))


# --- attached: streams and terminals -----------------------------------------------------------------------------------


def test_streams(podman: Podman) -> None:
    done = podman.call("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    big = "line of input\n" * 20000
    assert podman("run", "--rm", "-i", "--network", "none", IMAGE, "sh", "-c", "cat", input=big) == big.rstrip("\n")
    assert podman("run", "--rm", "-i", "--network", "none", IMAGE, "wc", "-c", input=big) == str(len(big))


def test_run_with_a_terminal(podman: Podman) -> None:
    terminal = podman.terminal("run", "--rm", "-it", "--network", "none", IMAGE, "sh")
    terminal.expect("# ")
    terminal.send("test -t 0 && test -t 2 && tty\n")
    assert "/dev/" in terminal.expect("\r\n/ # ")
    terminal.send("stty size; ls -l /dev/console | cut -c1-10\n")
    terminal.expect("24 80")
    terminal.expect("crw")
    terminal.send("trap 'echo got INT' INT; sleep 100\n")
    time.sleep(0.5)
    terminal.send("\x03")
    terminal.expect("got INT")
    terminal.send("exit 9\n")
    assert terminal.finish() == 9


def test_signals_reach_an_attached_container(podman: Podman, box: str) -> None:
    script = "trap 'echo got TERM; exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    log = podman.room.scratch / f"{box}.log"
    attached = podman.room.start(*podman.argv("run", "--name", box, "--network", "none", IMAGE, "sh", "-c", script), log=log)
    wait_for(lambda: "ready" in log.read_text(), "the container")
    podman.room.run("pkill", "-TERM", "-f", f"podman --runtime {podman.runtime} run --name {box}")
    assert attached.wait(30) == 4
    assert "got TERM" in log.read_text()


# --- life --------------------------------------------------------------------------------------------------------------


def test_create_init_start_stop(podman: Podman, box: str) -> None:
    podman("create", "--name", box, IMAGE, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
    podman("init", box)
    assert podman.inspect(box, "State.Status") in ("initialized", "created")
    podman("start", box)
    assert podman.inspect(box, "State.Status") == "running"
    time.sleep(0.5)  # for the trap
    before = time.monotonic()
    podman("stop", "--time", "30", box)
    assert time.monotonic() - before < 20
    assert podman.inspect(box, "State.Status") == "exited"
    assert podman.inspect(box, "State.ExitCode") == "3"
    podman("start", box)
    podman("stop", "--time", "0", box)
    assert podman.inspect(box, "State.ExitCode") in ("3", "137")


def test_stop_of_what_ignores_it(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", "trap '' TERM; sleep 100")
    podman("stop", "--time", "1", box)
    assert podman.inspect(box, "State.ExitCode") == "137"


def test_kill(podman: Podman, box: str) -> None:
    script = "trap 'echo USR1' USR1; trap 'echo HUP; exit 6' HUP; echo ready; while :; do sleep 0.1; done"
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", script)
    wait_for(lambda: "ready" in podman("logs", box), "the container")
    podman("kill", "-s", "USR1", box)
    wait_for(lambda: "USR1" in podman("logs", box), "the signal")
    podman("kill", "-s", "HUP", box)
    assert podman("wait", box) == "6"
    assert podman("logs", box).split() == ["ready", "USR1", "HUP"]
    done = podman.call("kill", box)
    assert done.returncode == 125
    podman("start", box)
    podman("kill", box)
    assert podman("wait", box) == "137"


def test_kill_of_all_processes(podman: Podman, box: str) -> None:
    """Without a pid namespace podman asks for all of them."""
    podman("run", "-d", "--name", box, "--pid", "host", IMAGE, "sh", "-c", "sleep 1234567 & sleep 1234567")
    count = ["sh", "-c", "pgrep -fx 'sleep 1234567' | wc -l"]
    wait_for(lambda: podman.room.run(*count).stdout == "2\n", "both processes")
    podman("stop", "--time", "1", box)
    assert podman.room.run(*count).stdout == "0\n"


def test_restart(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", "echo start >>/starts; sleep 100")
    first = podman.inspect(box, "State.Pid")
    podman("restart", "--time", "0", box)
    assert podman.inspect(box, "State.Pid") != first
    wait_for(lambda: podman("exec", box, "cat", "/starts") == "start\nstart", "the second start")


def test_restart_policy(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo run; exit 9")
    wait_for(lambda: podman("logs", box).split() == ["run"] * 3, "three runs")
    wait_for(lambda: podman.inspect(box, "State.Status") == "exited", "the end")
    assert podman.inspect(box, "State.ExitCode") == "9"


def test_pause(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", COUNTER)
    wait_for(lambda: podman.call("exec", box, "cat", "/count").returncode == 0, "the first count")
    podman("pause", box)
    assert podman.inspect(box, "State.Status") == "paused"
    counts = [podman("cp", f"{box}:/count", "-").split("\0")[-1] for _ in range(2)]
    assert counts[0] == counts[1]
    assert podman.call("exec", box, "true").returncode == 255
    podman("unpause", box)
    before = int(podman("exec", box, "cat", "/count"))
    wait_for(lambda: int(podman("exec", box, "cat", "/count") or 0) > before, "the next count")
    podman("pause", box)
    podman("rm", "--force", "--time", "0", box)


def test_remove_of_a_running_container(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, IMAGE, "sleep", "100")
    assert podman.call("rm", box).returncode != 0
    podman("rm", "--force", "--time", "0", box)
    assert podman.call("inspect", box).returncode == 125


# --- looking at it -------------------------------------------------------------------------------------------------------


def test_logs(podman: Podman, box: str) -> None:
    podman("run", "--name", box, IMAGE, "sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    done = podman.call("logs", box)
    assert done.stdout.split() == "out 1 out 2 out 3".split()
    assert done.stderr.split() == "err 1 err 2 err 3".split()
    assert podman("logs", "--tail", "1", box) in ("out 3", "")
    assert re.match(r"\d{4}-\d\d-\d\dT", podman("logs", "--timestamps", box))


def test_top(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    lines = [line.split() for line in podman("top", name, "pid", "ppid", "user", "args").splitlines()]
    assert lines[0] == ["PID", "PPID", "USER", "COMMAND"]
    assert lines[1][:3] == ["1", "0", "root"]
    assert " ".join(lines[1][3:]) == "sleep 600"
    assert len(lines) == 2
    assert "sleep 600" in podman("top", name, "-eo", "pid,args")


def test_stats(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", name))[0]
    assert stats["name"] == name
    assert re.match(r"[\d.]+[kM]B / [\d.]+[GTM]B", stats["mem_usage"])
    assert 1 <= int(stats["pids"]) <= 3  # pysandbox needs tasks of its own


def test_inspect(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    assert podman.inspect(name, "OCIRuntime") == podman.runtime
    pid = podman.inspect(name, "State.Pid")
    assert podman.room.run("readlink", f"/proc/{pid}/ns/net").stdout != podman.room.run("readlink", "/proc/self/ns/net").stdout
    assert name in podman("ps", "--format", "{{.Names}} {{.Status}}")
    assert podman.runtime in podman("info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Version}}")


def test_update(sleeper: tuple[Podman, str]) -> None:
    podman, name = sleeper
    podman("update", "--memory", "100m", "--cpus", "0.7", name)
    script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us"
    assert podman("exec", name, "sh", "-c", script).split() == [str(100 << 20), "70000"]


def test_out_of_memory(podman: Podman, box: str) -> None:
    done = podman.call("run", "--name", box, "--memory", "20m", IMAGE, "sh", "-c", "tail /dev/zero; echo $?; exit 1")
    assert podman.inspect(box, "State.OOMKilled") in ("true", "false")  # that of the first process only, with version 1
    assert (done.returncode, done.stdout) == (1, "137\n")


# --- files and images ----------------------------------------------------------------------------------------------------


def test_copy(podman: Podman, box: str, tmp_path: Path) -> None:
    podman("run", "-d", "--name", box, "--tmpfs", "/tmpfs", IMAGE, "sleep", "100")
    (tmp_path / "there").write_text("content\n")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "x").write_text("x\n")
    podman("cp", f"{tmp_path}/there", f"{box}:/there")
    podman("cp", f"{tmp_path}/dir", f"{box}:/")
    podman("cp", f"{tmp_path}/there", f"{box}:/tmpfs/there")
    assert podman("exec", box, "cat", "/there", "/dir/x", "/tmpfs/there") == "content\nx\ncontent"
    podman("exec", box, "sh", "-c", "echo inside >/back; ln -s /etc/passwd /link")
    podman("cp", f"{box}:/back", f"{tmp_path}/back")
    assert (tmp_path / "back").read_text() == "inside\n"
    podman("cp", f"{box}:/tmpfs/there", f"{tmp_path}/from-tmpfs")
    assert (tmp_path / "from-tmpfs").read_text() == "content\n"


def test_commit_diff_export(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", "echo new >/new; rm /etc/group; sleep 100")
    wait_for(lambda: "/new" in podman("diff", box), "the new file")
    diff = podman("diff", box).splitlines()
    assert "A /new" in diff
    assert "D /etc/group" in diff
    image = f"localhost/commit-{podman.runtime}"
    podman("commit", "-q", "--change", 'CMD ["cat","/new"]', box, image)
    assert podman("run", "--rm", image) == "new"
    assert podman.call("run", "--rm", image, "ls", "/etc/group").returncode == 1
    listing = podman.room.run("sh", "-c", " ".join(podman.argv("export", box)) + " | tar t")
    assert "new" in listing.stdout.split()
    podman("rmi", image)


def test_health_check(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "--health-cmd", "cat /healthy", "--health-interval", "disable", IMAGE, "sleep", "100")
    assert podman.call("healthcheck", "run", box).returncode == 1
    podman("exec", box, "touch", "/healthy")
    podman("healthcheck", "run", box)
    log = json.loads(podman("inspect", "--format", "{{json .State.Health}}", box))
    assert log["Status"] == "healthy"
    assert [entry["ExitCode"] for entry in log["Log"]] == [1, 0]


def test_many_at_once(podman: Podman) -> None:
    command = " ".join(podman.argv("run", "--rm", "--sig-proxy=false", "--network", "none", IMAGE))
    done = podman.room.run("sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 10; do {command} echo number $i & done; wait")
    assert sorted(done.stdout.splitlines()) == sorted(f"number {i}" for i in range(1, 11)), done.stderr
