"""`docker run` and `docker exec` beside runc: programs, statuses, messages, streams, terminals."""

from __future__ import annotations

import pytest
from docker_lab import DOCKER, IMAGE, RUNTIMES, Docker
from terminal import Terminal

# name -> (options and command, status)
STATUSES = {
    "success": ([IMAGE, "true"], 0),
    "failure": ([IMAGE, "false"], 1),
    "a status of its own": ([IMAGE, "sh", "-c", "exit 42"], 42),
    "not in PATH": ([IMAGE, "no-such-program"], 127),
    "no such path": ([IMAGE, "/no/such"], 127),
    "not executable": ([IMAGE, "/etc/hostname"], 126),
    "empty PATH": (["--env", "PATH=/nowhere", IMAGE, "env"], 127),
    "a new working directory": (["--workdir", "/made/by/runtime", IMAGE, "pwd"], 0),
    "a bad working directory": (["--workdir", "/etc/hostname", IMAGE, "pwd"], 125),
}


@pytest.mark.parametrize("name", STATUSES)
def test_statuses_and_messages(docker: Docker, name: str) -> None:
    words, status = STATUSES[name]
    done = docker.same(*words)
    assert done.returncode == status, done.stderr


def test_a_directory_is_no_program(docker: Docker) -> None:
    theirs, ours = (docker.run(runtime, IMAGE, "/etc") for runtime in RUNTIMES)
    assert (theirs.returncode, ours.returncode) == (126, 126)
    assert 'exec: "/etc": is a directory: permission denied' in ours.stderr


def test_programs_that_cannot_be_loaded_fail_before_the_container_is_there(docker: Docker) -> None:
    """runc finds out in the container: its words are the same, in the container's log, with status 1."""
    for text, reason in (("#!/no/interpreter\n", "no such file or directory"), ("just text\n", "exec format error")):
        path = docker.room.scratch / "program"
        path.write_text(text)
        path.chmod(0o755)
        theirs, ours = (docker.run(runtime, "--volume", f"{path}:/program", IMAGE, "/program") for runtime in RUNTIMES)
        assert theirs.stderr == f"exec /program: {reason}\n"
        assert f"exec /program: {reason}" in ours.stderr
        assert ours.returncode in (125, 127)


def test_streams_are_the_clients(docker: Docker) -> None:
    done = docker.same("--interactive", IMAGE, "sh", "-c", "cat; echo to stderr >&2", input="from the client\n" * 3000)
    assert done.stdout == "from the client\n" * 3000
    assert done.stderr == "to stderr\n"


def test_null_input_is_the_containers_null(docker: Docker) -> None:
    assert docker.sh("ls -l /proc/self/fd/0 | cut -c1-10; readlink /proc/self/fd/0; echo x >&0") == "lrwx------\n/dev/null\n"


def test_environment_user_and_directory(docker: Docker) -> None:
    options = ["--env", "A=with space", "--env", "EMPTY=", "--user", "12:34", "--group-add", "55", "--workdir", "/tmp"]
    out = docker.sh('env | sort; id; pwd; echo "$A"; touch mine; stat -c "%u %g" mine', *options)
    assert "A=with space\n" in out
    assert "uid=12 gid=34 groups=34,55" in out
    assert out.endswith("/tmp\nwith space\n12 34\n")
    assert "uid=0(root)" in docker.sh("id", "--user", "root")


def test_terminal(docker: Docker) -> None:
    for runtime in RUNTIMES:
        terminal = Terminal(docker.room, DOCKER, "run", "--rm", "-it", "--runtime", runtime, IMAGE, size=(33, 101))
        terminal.expect("# ")
        terminal.send("tty; stty size; test -t 0 && test -t 2 && echo a''ll\n")
        assert "/dev/pts/0" in terminal.expect("33 101")
        terminal.expect("all\r\n")
        terminal.send("sh -c 'echo wai''ting; sleep 100'\n")
        terminal.expect("waiting")  # the shell edits lines no more: the terminal makes a signal of Ctrl-C
        terminal.send("\x03")
        terminal.expect("^C")
        terminal.expect("# ")
        terminal.resize(44, 55)
        terminal.send("while test \"$(stty size)\" != '44 55'; do sleep 0.1; done; echo new si''ze; exit 9\n")
        terminal.expect("new size")
        assert terminal.finish() == 9


def test_exec_with_a_terminal(docker: Docker) -> None:
    for runtime in RUNTIMES:
        with docker.container(runtime, IMAGE, "sleep", "1000") as box:
            terminal = Terminal(docker.room, DOCKER, "exec", "-it", box.name, "sh")
            terminal.expect("# ")
            terminal.send("tty; echo $((40 + 2)); exit 4\n")
            assert "/dev/pts/" in terminal.expect("42")
            assert terminal.finish() == 4


def test_detaching_and_attaching(docker: Docker) -> None:
    for runtime in RUNTIMES:
        with docker.container(runtime, "-it", IMAGE) as box:
            for number in range(2):
                terminal = Terminal(docker.room, DOCKER, "attach", box.name)
                terminal.send(f"echo round $((1{number} + 1))\n")
                terminal.expect(f"round 1{number + 1}")
                terminal.send("\x10\x11")  # Ctrl-P Ctrl-Q
                terminal.expect("read escape sequence")
                terminal.finish()
                assert box.status == "running"


def test_exec(docker: Docker) -> None:
    """An exec is in the container's namespaces, with its files, network and processes, and under its limits."""
    found = []
    for runtime in RUNTIMES:
        with docker.container(runtime, "--memory", "64m", IMAGE, "sh", "-c", "echo made >/made; exec sleep 1000") as box:
            docker.wait(lambda box=box: box.exec("test", "-e", "/made").returncode == 0, "the file")
            done = [
                box.exec("sh", "-c", "cat /made; id; hostname; exit 5"),
                box.exec("--user", "5:6", "--workdir", "/tmp", "--env", "X=y", "--", "sh", "-c", "id; pwd; echo $X"),
                box.exec("--interactive", "--", "cat", input="typed\n"),
                box.exec("no-such-program"),
                box.exec("/no/such"),
                box.exec("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; grep -c : /proc/self/cgroup"),
                box.exec("sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; ls -d /sys/class/net/eth0; grep Cap /proc/self/status"),
                box.exec("sh", "-c", "kill -9 $$"),
                box.exec("--privileged", "--user", "5", "--", "true"),
            ]
            box.exec("--detach", "--", "sh", "-c", "sleep 0.2; touch /detached")
            docker.wait(lambda box=box: box.exec("test", "-e", "/detached").returncode == 0, "the detached exec")
        found.append([(one.returncode, one.stdout, one.stderr) for one in done[:-1]])
    assert found[1] == found[0]
    assert found[1][0] == (5, "made\nuid=0(root) gid=0(root) groups=0(root)\nbox\n", "")
    assert [status for status, _, _ in found[1]] == [5, 0, 0, 126, 126, 0, 0, 137]


def test_many_execs_at_a_time(docker: Docker) -> None:
    for runtime in RUNTIMES:
        with docker.container(runtime, IMAGE, "sleep", "1000") as box:
            script = f"for i in 1 2 3 4 5 6; do {DOCKER} exec {box.name} sh -c 'sleep 0.3; exit '$i & done; wait"
            script += f"; for i in 1 2 3; do {DOCKER} exec {box.name} echo $i; done"
            assert docker.room.run("sh", "-c", script).stdout == "1\n2\n3\n"
            assert len(docker("top", box.name).stdout.splitlines()) == 2
