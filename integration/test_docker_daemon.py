"""What concerns the daemon: live-restore, userns-remap, a configuration written by `pysandbox install`, a daemon that dies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_lab import IMAGE, RUNTIMES, Docker
from room import MakeRoom, need_programs

MakeDocker = Callable[..., Docker]


@pytest.fixture
def make_docker(make_room: MakeRoom, pysandbox: str, runc: str, busybox_tar: Path) -> Iterator[MakeDocker]:
    """A daemon of its own with options."""
    need_programs("dockerd", "containerd", "iptables")
    daemons: list[Docker] = []

    def make(name: str, *options: str, load: bool = True, register: bool = True) -> Docker:
        daemons.append(Docker(make_room(name), pysandbox, *options, register=register))
        if load:
            daemons[-1].start()
            daemons[-1].load(busybox_tar)
        return daemons[-1]

    yield make
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.stop()


def test_live_restore(make_docker: MakeDocker) -> None:
    """Containers go on while the daemon is away, and are under its control again afterwards; so after it was killed."""
    docker = make_docker("live", "--live-restore")
    script = "trap 'exit 5' TERM; while :; do echo x; sleep 0.2; done"
    boxes = [docker.container(name, IMAGE, "sh", "-c", script) for name in RUNTIMES]
    for signal in ("TERM", "KILL"):
        pids = [docker.inspect(box.name, "{{.State.Pid}}") for box in boxes]
        docker.stop(signal)
        assert all(docker.room.run("test", "-d", f"/proc/{pid}").returncode == 0 for pid in pids)
        docker.room.run("rm", "-f", "/run/docker.pid")
        docker.start()
        assert [docker.inspect(box.name, "{{.State.Pid}}") for box in boxes] == pids
        assert [box.status for box in boxes] == ["running", "running"]
        for box in boxes:
            assert box.exec("sh", "-c", "exit 6").returncode == 6
            before = box.logs.count("x")
            docker.wait(lambda box=box, before=before: box.logs.count("x") > before, "more output")
    for box in boxes:
        docker("stop", "--time", "5", box.name)
        assert docker.inspect(box.name, "{{.State.ExitCode}}") == "5"
        docker("rm", box.name)


def test_userns_remap(make_docker: MakeDocker, busybox_tar: Path) -> None:
    docker = make_docker("userns", load=False)
    docker.room.run("sh", "-c", "echo remap:x:12000:12000::/:/bin/false >>/etc/passwd; echo remap:x:12000: >>/etc/group")
    docker.room.run("sh", "-c", "echo remap:300000:65536 | tee /etc/subuid >/etc/subgid")
    docker.command.append("--userns-remap=remap")
    docker.start()
    docker.load(busybox_tar)
    script = """cat /proc/self/uid_map /proc/self/gid_map; id; ls -ldn / /etc/passwd /proc/1; touch /mine; stat -c '%u %g' /mine
        chown 7:8 /mine && stat -c '%u %g' /mine; mknod /n c 1 3; mount -t tmpfs x /mnt; grep Cap /proc/self/status
        echo x >/dev/null; ls -ln /dev | cut -c1-46,59-; hostname; ip -o -4 addr | wc -l; cat /etc/hosts | wc -l"""
    out = docker.sh(script)
    assert out.split()[:3] == ["0", "300000", "65536"]
    docker.sh("id; cat /proc/self/uid_map; ls -ldn /etc; touch /etc/x; echo $?; test -w /tmp", "--user", "1000:1000")
    docker.sh("cat /proc/self/uid_map; grep Cap /proc/self/status", "--userns", "host")
    docker.sh("df /s | tail -1; cat /sys/fs/cgroup/memory/memory.limit_in_bytes", "--tmpfs", "/s", "--memory", "50m")
    results = []
    for runtime in RUNTIMES:
        with docker.container(runtime, "-v", f"vol-{runtime}:/vol", IMAGE, "sh", "-c", "touch /vol/x; exec sleep 1000") as box:
            pid = docker.inspect(box.name, "{{.State.Pid}}")
            owner = docker.room.run("stat", "-c", "%u", f"/proc/{pid}").stdout
            done = box.exec("sh", "-c", "id; cat /proc/self/uid_map; stat -c %u /vol/x; kill -0 1; echo $?; touch /from-exec")
            second = box.exec("--user", "5:6", "--", "id")
            results.append((owner, done.returncode, done.stdout, done.stderr, second.stdout))
            docker("cp", f"{box.name}:/from-exec", docker.room.scratch / f"copied-{runtime}")
    assert results[1] == results[0]
    assert results[1][0] == "300000\n"


def test_a_configuration_written_by_install(make_docker: MakeDocker, pysandbox: str, busybox_tar: Path) -> None:
    docker = make_docker("install", load=False, register=False)
    docker.room.run("sh", "-c", "mkdir -p /etc/docker; echo '{\"log-opts\": {\"max-size\": \"1m\"}}' >/etc/docker/daemon.json")
    before = docker.room.run("cat", "/etc/docker/daemon.json").stdout
    docker.start()
    docker.load(busybox_tar)
    assert docker("run", "--rm", "--runtime", "pysandbox", IMAGE, "true", check=False).returncode == 125
    docker.room.run(pysandbox, "install", "docker", "--default")
    docker.room.run("kill", "-HUP", str(docker.pid()))  # what `systemctl reload docker` does
    docker.wait(lambda: docker("info", "--format", "{{.DefaultRuntime}}").stdout == "pysandbox\n", "the new default")
    assert docker("run", "--rm", IMAGE, "echo", "reloaded").stdout == "reloaded\n"
    findings = json.loads(docker.room.run(pysandbox, "doctor", "--json").stdout)["findings"]
    assert [item["status"] for item in findings if item["name"] == "engine:docker"] == ["ok"]
    docker.stop()
    docker.start()
    assert docker("run", "--rm", IMAGE, "echo", "restarted").stdout == "restarted\n"
    docker.room.run(pysandbox, "install", "docker", "--undo")
    assert docker.room.run("cat", "/etc/docker/daemon.json").stdout == before
    docker.stop()
    docker.start()
    assert docker("info", "--format", "{{.DefaultRuntime}}").stdout == "runc\n"


def test_a_killed_daemon_without_live_restore(make_docker: MakeDocker) -> None:
    """The next daemon ends what is left, and containers start again."""
    docker = make_docker("crash")
    for runtime in RUNTIMES:
        with docker.container(runtime, "--restart", "always", IMAGE, "sh", "-c", "echo up; exec sleep 1000") as box:
            pid = docker.inspect(box.name, "{{.State.Pid}}")
            docker.stop("KILL")
            docker.room.run("rm", "-f", "/run/docker.pid")
            docker.start()
            docker.wait(lambda box=box: box.logs.count("up") == 2, "the second start")
            box.wait_for_status("running")
            assert docker.inspect(box.name, "{{.State.Pid}}") != pid
            gone = ("test", "!", "-d", f"/proc/{pid}")
            docker.wait(lambda gone=gone: docker.room.run(*gone, check=False).returncode == 0, "the old process' end")
