"""A container's life under dockerd beside runc: stop, kill, pause, top, stats, logs, cp, commit, update, health, restarts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from docker_lab import IMAGE, RUNTIMES, Docker

TRAP = "trap 'echo got term; exit 7' TERM; trap 'echo got usr1' USR1; echo started; while :; do sleep 0.1; done"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_stop_start_kill_restart(docker: Docker, runtime: str) -> None:
    with docker.container(runtime, IMAGE, "sh", "-c", TRAP) as box:
        box.wait_for_log("started")
        docker("kill", "--signal", "USR1", box.name)
        box.wait_for_log("got usr1")
        docker("stop", box.name)
        assert docker.inspect(box.name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 7"
        assert box.logs == "started\ngot usr1\ngot term\n"
        docker("start", box.name)
        docker.wait(lambda: box.logs.count("started") == 2, "the second start")
        docker("restart", "--time", "5", box.name)
        docker.wait(lambda: box.logs.count("started") == 3, "the third start")
        docker("kill", box.name)
        assert docker("wait", box.name).stdout == "137\n"
        assert docker("kill", box.name, check=False).returncode == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_stop_kills_what_does_not_listen(docker: Docker, runtime: str) -> None:
    with docker.container(runtime, IMAGE, "sh", "-c", "trap : TERM; echo started; while :; do sleep 0.1; done") as box:
        box.wait_for_log("started")
        docker("stop", "--time", "1", box.name)
        assert docker.inspect(box.name, "{{.State.ExitCode}}") == "137"


def test_pause_top_stats(docker: Docker) -> None:
    tables = []
    for runtime in RUNTIMES:
        with docker.container(runtime, IMAGE, "sh", "-c", "sleep 1000 & exec sleep 2000") as box:
            docker("pause", box.name)
            assert box.status == "paused"
            assert "is paused" in box.exec("true").stderr
            docker("unpause", box.name)
            assert box.exec("true").returncode == 0
            lines = docker("top", box.name, "-o", "pid,user,args").stdout.splitlines()
            tables.append(sorted(line.split(None, 1)[1] for line in lines))
            usage = docker("stats", "--no-stream", "--format", "{{.PIDs}} {{.MemPerc}}", box.name).stdout.split()
            assert int(usage[0]) >= 2
            assert float(usage[1].rstrip("%")) < 5
    assert tables[1] == tables[0]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_cp_diff_commit_export(docker: Docker, runtime: str) -> None:
    source = docker.room.scratch / f"file-{runtime}"
    source.write_text("carried in\n")
    with docker.container(runtime, IMAGE, "sh", "-c", "echo inside >/inside; exec sleep 1000") as box:
        docker.wait(lambda: box.exec("test", "-e", "/inside").returncode == 0, "the file")
        docker("cp", source, f"{box.name}:/tmp/carried")
        assert box.exec("cat", "/tmp/carried").stdout == "carried in\n"
        docker("cp", f"{box.name}:/inside", docker.room.scratch / f"out-{runtime}")
        assert (docker.room.scratch / f"out-{runtime}").read_text() == "inside\n"
        assert set(docker("diff", box.name).stdout.splitlines()) == {"C /tmp", "A /tmp/carried", "A /inside"}
        docker("commit", "--change", "ENV NEW=1", box.name, f"committed:{runtime}")
        assert box.status == "running"
        done = docker.run(runtime, f"committed:{runtime}", "sh", "-c", "cat /inside /tmp/carried; echo $NEW")
        assert done.stdout == "inside\ncarried in\n1\n"
        exported = docker("export", box.name, "--output", docker.room.scratch / "export.tar")
        assert exported.returncode == 0


def test_update(docker: Docker) -> None:
    files = "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares pids/pids.max"
    read = "cd /sys/fs/cgroup && cat " + files + " cpuset/cpuset.cpus; nproc"
    limits = ["--memory", "100m", "--memory-swap", "200m", "--cpus", "0.7", "--cpu-shares", "300", "--pids-limit", "60"]
    seen = []
    for runtime in RUNTIMES:
        with docker.container(runtime, "--memory", "50m", IMAGE, "sleep", "1000") as box:
            docker("update", *limits, "--cpuset-cpus", "0", box.name)
            seen.append(box.exec("sh", "-c", read).stdout)
    assert seen[1] == seen[0]
    assert seen[1].split() == ["104857600", "209715200", "70000", "300", "60", "0", "1"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_health_checks_enter_the_container(docker: Docker, runtime: str) -> None:
    check = ["--health-cmd", "test -e /healthy && hostname", "--health-interval", "0.2s", "--health-retries", "2"]
    with docker.container(runtime, *check, IMAGE, "sleep", "1000") as box:
        docker.wait(lambda: docker.inspect(box.name, "{{.State.Health.Status}}") == "unhealthy", "unhealthy")
        box.exec("touch", "/healthy")
        docker.wait(lambda: docker.inspect(box.name, "{{.State.Health.Status}}") == "healthy", "healthy")
        last = docker.inspect(box.name, "{{json .State.Health}}")["Log"][-1]
        assert (last["ExitCode"], last["Output"]) == (0, "box\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_restart_policies(docker: Docker, runtime: str) -> None:
    with docker.container(runtime, "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo run; exit 3") as box:
        docker.wait(lambda: docker.inspect(box.name, "{{.RestartCount}} {{.State.Status}}") == "2 exited", "two restarts")
        assert box.logs == "run\nrun\nrun\n"
        assert docker.inspect(box.name, "{{.State.ExitCode}}") == "3"
    with docker.container(runtime, "--restart", "always", IMAGE, "sh", "-c", "echo run; sleep 0.5") as box:
        docker.wait(lambda: box.logs.count("run") >= 2, "a restart")
        docker("stop", "--time", "1", box.name)
        count = box.logs.count("run")
        time.sleep(1)
        assert box.logs.count("run") == count
    with docker.container(runtime, "--restart", "unless-stopped", IMAGE, "sh", "-c", "echo run; exec sleep 1000") as box:
        pid = docker.inspect(box.name, "{{.State.Pid}}")
        docker.room.run("kill", "-9", pid)
        docker.wait(lambda: box.logs.count("run") == 2 and box.status == "running", "a restart after a kill from outside")
        assert docker.inspect(box.name, "{{.State.Pid}}") != pid


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_out_of_memory_is_reported(docker: Docker, runtime: str) -> None:
    with docker.container(runtime, "--memory", "32m", IMAGE, "sh", "-c", "tail /dev/zero; sleep 0.3") as box:
        docker("wait", box.name)
        assert docker.inspect(box.name, "{{.State.OOMKilled}} {{.State.ExitCode}}") == "true 0"
    with docker.container(runtime, "--memory", "32m", IMAGE, "tail", "/dev/zero") as box:
        docker("wait", box.name)
        assert docker.inspect(box.name, "{{.State.OOMKilled}} {{.State.ExitCode}}") == "true 137"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_left_behind(docker: Docker, runtime: str) -> None:
    with docker.container(runtime, IMAGE, "sh", "-c", "sleep 1000 & sleep 1000") as box:
        identity = docker.inspect(box.name, "{{.Id}}")
        box.exec("--detach", "--", "sleep", "1000")
    script = f"find /sys/fs/cgroup /run -name '{identity}*' -not -path '*/traces/*'; grep -c {identity} /proc/self/mountinfo"
    assert docker.room.run("sh", "-c", script, check=False).stdout == "0\n"
    assert "sleep" not in docker.room.run("ps", "-e", "-o", "comm").stdout


def test_many_at_a_time(docker: Docker) -> None:
    for runtime in RUNTIMES:
        script = f"for i in $(seq 24); do docker run --rm --runtime {runtime} {IMAGE} sh -c 'sleep 0.2; echo '$i & done; wait"
        done = docker.room.run("sh", "-c", script)
        assert sorted(done.stdout.split(), key=int) == [str(number) for number in range(1, 25)], done.stderr


KILLER = """
while test -e {flag}; do
    ps -e -o pid,args | awk '/pysandbox.*(create|start|delete) / && !/awk/ {{ print $1 }}' | shuf -n 1 | xargs -r kill -9
    sleep 0.0$((RANDOM % 9))
done 2>/dev/null
"""


def test_a_runtime_that_is_killed_leaves_nothing(docker: Docker) -> None:
    """SIGKILL for whatever pysandbox is doing, at any moment of many containers; dockerd cleans up, and goes on."""
    flag = docker.room.scratch / "killing"
    flag.touch()
    killer = docker.room.start("bash", "-c", KILLER.format(flag=flag), log=docker.room.scratch / "killer.log")
    script = f"for i in $(seq 16); do timeout 60 docker run --rm --runtime pysandbox {IMAGE} true & sleep 0.1; done; wait"
    docker.room.run("bash", "-c", script, check=False)
    flag.unlink()
    killer.wait(timeout=30)
    docker.room.run("bash", "-c", "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")
    assert docker.run("pysandbox", IMAGE, "echo", "fine").stdout == "fine\n"
    left = """cd /run/docker/runtime-runc/moby; ls | grep -v -e ^@ -e traces; ls @pending; grep merged /proc/self/mountinfo
        ps -e -o args | grep -e [p]sb-waiter -e '^[t]rue'"""
    docker.wait(lambda: not docker.room.run("sh", "-c", left, check=False).stdout, "everything to be gone")
    groups = [path for path in Path("/sys/fs/cgroup").glob(f"*{docker.room.cgroup}/*") if path.is_dir()]
    assert groups == []
