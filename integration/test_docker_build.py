"""`docker build` with RUN steps by pysandbox, and compose: what a project does with both runtimes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_lab import DOCKER, IMAGE, Docker
from room import MakeRoom, need_programs

DOCKERFILE = f"""\
FROM {IMAGE} AS first
ARG WHO=world
ENV GREETING="good day"
WORKDIR /app
COPY file /app/file
ADD archive.tar /unpacked/
RUN echo "$GREETING $WHO" >/app/out && cat /app/file >>/app/out && id >>/app/out
RUN ["sh", "-c", "echo exec form >>/app/out"]
RUN for i in 1 2 3 4 5 6 7 8; do echo $i | sha256sum & done; wait; mkdir -p deep/er && ln -s ../file deep/link && mkfifo deep/fifo
RUN chown -R 1000:1000 /app && chmod 4755 /app/file
USER 1000
RUN id >/app/user; touch /app/mine; touch /not-mine 2>/dev/null || echo refused >>/app/user
FROM {IMAGE}
COPY --from=first /app /copy
RUN ls -lR /copy | sed 's/ [A-Z][a-z][a-z] .*[0-9] / /' >/listing; hostname | wc -l
HEALTHCHECK --interval=1s CMD test -e /listing
CMD ["cat", "/copy/out", "/copy/user", "/listing"]
"""
COMPOSE = """\
version: "2.4"
services:
  web:
    image: {image}
    runtime: {runtime}
    command: sh -c 'mkdir -p /www; echo a page >/www/index.html; exec httpd -f -p 80 -h /www'
    healthcheck: {{test: ["CMD-SHELL", "netstat -tln | grep -q :80"], interval: 0.5s, retries: 20}}
    networks: [front]
    tmpfs: [/www]
    mem_limit: 64m
    cap_drop: [NET_RAW]
  client:
    build: {{context: ., dockerfile: Dockerfile.client}}
    runtime: {runtime}
    command: [sh, -c, 'printf "GET / HTTP/1.0\\r\\n\\r\\n" | nc web 80 | tail -1; cat /baked;
      echo stored >/data/x; cat /data/x; echo $$WORD; exit 3']
    depends_on: {{web: {{condition: service_healthy}}}}
    environment: {{WORD: "from compose"}}
    networks: [front]
    volumes: ["data:/data"]
volumes: {{data: {{}}}}
networks: {{front: {{}}}}
"""


@pytest.fixture(scope="module")
def builders(make_room: MakeRoom, pysandbox: str, runc: str, busybox_tar: Path) -> Iterator[list[Docker]]:
    """Two daemons, whose default runtimes are runc and pysandbox: a build asks for none."""
    need_programs("dockerd", "containerd", "iptables")
    daemons = []
    for runtime in ("runc", "pysandbox"):
        daemon = Docker(make_room(f"build-{runtime}"), pysandbox, "--default-runtime", runtime)
        daemon.start()
        daemon.load(busybox_tar)
        daemons.append(daemon)
    yield daemons
    for daemon in daemons:
        daemon.stop()


def context(docker: Docker, dockerfile: str) -> Path:
    path = docker.room.scratch / f"context-{os.urandom(3).hex()}"
    path.mkdir()
    (path / "file").write_text("content\n")
    docker.room.run("tar", "-C", path, "-cf", path / "archive.tar", "file")
    (path / "Dockerfile").write_text(dockerfile)
    return path


def build(docker: Docker, dockerfile: str, *options: str) -> tuple[int, str]:
    """A classic build: BuildKit does not use the daemon's runtimes. (Status, output.)"""
    words = ["build", "--no-cache", "--tag", "built", *options, context(docker, dockerfile)]
    done = docker(*words, check=False, env={"DOCKER_BUILDKIT": "0"})
    return done.returncode, done.stdout + done.stderr


def test_build(builders: list[Docker]) -> None:
    results = []
    for docker in builders:
        status, text = build(docker, DOCKERFILE, "--build-arg", "WHO=everybody")
        assert status == 0, text
        results.append(docker("run", "--rm", "built").stdout)
    assert results[1] == results[0]
    assert "good day everybody\ncontent\nuid=0(root)" in results[1]
    assert "uid=1000 gid=0(root)" in results[1]
    assert "refused" in results[1]


BUILDKIT = f"""\
FROM {IMAGE} AS first
WORKDIR /app
RUN --mount=type=cache,target=/cache echo cached >/cache/x; mount | grep -o ' /cache type [a-z0-9]*' >/app/out
RUN --mount=type=tmpfs,target=/t touch /t/x && ls /t >>/app/out
RUN --mount=type=bind,source=file,target=/bound cat /bound >>/app/out; id >>/app/out; hostname >>/app/out
RUN ip -o addr | wc -l >>/app/out; cat /etc/hosts >>/app/out; grep Cap /proc/self/status >>/app/out
RUN ls -l /dev | cut -c1-46 >>/app/out
USER 7
RUN id >/tmp/user; touch /not-mine 2>/dev/null || echo refused >>/tmp/user
FROM {IMAGE}
COPY --from=first /app /tmp /
CMD ["cat", "/out", "/user"]
"""


def test_buildkit_takes_the_runc_of_its_path(
    make_room: MakeRoom, pysandbox: str, runc: str, busybox_tar: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/runc").symlink_to(pysandbox)
    results = []
    for name, path in (("runc", ""), ("pysandbox", str(tmp_path / "bin"))):
        docker = Docker(make_room(f"buildkit-{name}"), pysandbox, path=path)
        docker.start()
        docker.load(busybox_tar)
        words = ["build", "--no-cache", "--tag", "built", context(docker, BUILDKIT)]
        done = docker(*words, check=False, env={"DOCKER_BUILDKIT": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(docker("run", "--rm", "built").stdout)
        failing = docker("build", context(docker, f"FROM {IMAGE}\nRUN exit 7\n"), check=False, env={"DOCKER_BUILDKIT": "1"})
        assert "exit code: 7" in failing.stderr
        traced = docker.room.run("ls", "/run/pysandbox/traces", check=False).stdout.split()
        assert bool(traced) == (name == "pysandbox")
        docker.stop()
    assert results[1] == results[0]
    assert "refused" in results[1]


def test_a_step_that_fails(builders: list[Docker]) -> None:
    steps = {"echo before && exit 9": "code: 9", "no-such-program": "not found", '["/no/such"]': "no such file or directory"}
    for step, words in steps.items():
        for docker in builders:
            status, text = build(docker, f"FROM {IMAGE}\nRUN {step}\n")
            assert status != 0
            assert words in text
    for docker in builders:  # nothing of failed steps keeps running
        assert docker("ps", "--quiet").stdout == ""


def test_the_default_runtime_is_told(builders: list[Docker]) -> None:
    for docker, runtime in zip(builders, ("runc", "pysandbox"), strict=True):
        assert docker("info", "--format", "{{.DefaultRuntime}}").stdout == f"{runtime}\n"
        assert f"\n {runtime}:\n  Version: " in docker("version").stdout
        name = docker("run", "--detach", IMAGE, "sleep", "1000").stdout.strip()
        assert docker.inspect(name, "{{.HostConfig.Runtime}}") == runtime
        docker("rm", "--force", name)


def test_compose(docker: Docker) -> None:
    need_programs("docker-compose")
    results = []
    for runtime in ("runc", "pysandbox"):
        path = docker.room.scratch / f"compose-{runtime}"
        path.mkdir()
        (path / "docker-compose.yml").write_text(COMPOSE.format(image=IMAGE, runtime=runtime))
        (path / "Dockerfile.client").write_text(f"FROM {IMAGE}\nRUN echo baked >/baked\n")
        compose = ["docker-compose", "--project-directory", path, "-f", path / "docker-compose.yml", "-p", f"test{runtime}"]
        env = {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        done = docker.room.run(*compose, "up", "--no-color", "--build", "--exit-code-from", "client", check=False, env=env)
        lines = sorted(line.split("|", 1)[1] for line in done.stdout.splitlines() if line.startswith("client_1 "))
        results.append((done.returncode, lines))
        docker.room.run(*compose, "up", "--detach", "--no-build", "web", env=env)
        done = docker.room.run(*compose, "exec", "-T", "web", "sh", "-c", "hostname | wc -c; mount | grep -c /www", env=env)
        assert done.stdout == "13\n1\n"
        docker.room.run(*compose, "restart", "--timeout", "1", "web", env=env)
        assert "Up" in docker.room.run(*compose, "ps", env=env).stdout
        docker.room.run(*compose, "down", "--volumes", "--timeout", "1", env=env)
    assert results[1] == results[0]
    assert results[1] == (3, sorted([" a page", " baked", " stored", " from compose"]))


def test_the_client_outside_and_inside(docker: Docker) -> None:
    """`docker run` by a shell in the room, as a user would: pipes between two of them."""
    for runtime in ("runc", "pysandbox"):
        run = f"{DOCKER} run --rm -i --runtime {runtime} {IMAGE}"
        done = docker.room.run("sh", "-c", f"{run} seq 1 20000 | {run} sort -n -r | {run} head -1")
        assert done.stdout == "20000\n"
