"""buildah with runc and pysandbox: images built and containers run by the runtime that BUILDAH_RUNTIME or --runtime names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines_podman import IMAGE, Podman, rootful
from room import Done, MakeRoom, need_programs

CONTAINERFILE = f"""
FROM {IMAGE} AS first
ARG VERSION=1
ENV A=b
RUN id && echo "built $A $VERSION" >/built && ls /proc/self/fd
RUN ["sh", "-c", "cat /built; mkdir -p /w; echo $A"]
WORKDIR /w
COPY file /w/file
RUN --mount=type=tmpfs,dst=/scratch touch /scratch/x && ls /scratch /w && mount | grep scratch
RUN --mount=type=bind,src=.,dst=/context cat /context/file
RUN --mount=type=cache,dst=/cache echo cached >/cache/x
USER 1000:1000
RUN id; touch /nope || true
RUN grep -E '^(Cap|NoNew)' /proc/self/status; mount | grep -c ' /proc'; umask
FROM {IMAGE}
COPY --from=first /built /built
RUN cat /built && ip -o link | cut -d' ' -f2 | cut -d@ -f1
RUN sh -c 'sleep 1000 & echo left one behind'
CMD ["cat", "/built"]
"""


class Buildah:
    def __init__(self, podman: Podman, runtime: str) -> None:
        self.podman = podman
        self.room = podman.room
        self.runtime = runtime
        self.context = self.room.scratch / "context"

    def call(self, *args: str, **options: Any) -> Done:
        words = [f"{name}={value}" for name, value in self.podman.env.items()]
        return self.room.run("env", *words, f"BUILDAH_RUNTIME={self.runtime}", "buildah", *args, check=False, **options)

    def __call__(self, *args: str, **options: Any) -> str:
        done = self.call(*args, **options)
        assert done.returncode == 0, f"buildah {args}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def build(self, text: str, *options: str) -> Done:
        (self.context / "Containerfile").write_text(text)
        name = ("-f", str(self.context / "Containerfile"), str(self.context))
        return self.call("bud", "--isolation", "oci", "--no-cache", *options, *name)

    def run(self, container: str, *command: str, options: tuple[str, ...] = (), **more: Any) -> Done:
        return self.call("run", "--isolation", "oci", *options, container, "--", *command, **more)


@pytest.fixture(scope="module")
def podmans(make_room: MakeRoom, pysandbox: str, busybox_tar: Path) -> Iterator[dict[str, Podman]]:
    need_programs("podman", "buildah", "runc", "iptables")
    room = make_room("buildah")
    (room.scratch / "context").mkdir()
    (room.scratch / "context/file").write_text("content\n")
    yield from rootful(room, pysandbox, {IMAGE: busybox_tar})


@pytest.fixture(scope="module")
def both(podmans: dict[str, Podman], runc: str, pysandbox: str) -> tuple[Buildah, Buildah]:
    return Buildah(podmans["runc"], runc), Buildah(podmans["pysandbox"], pysandbox)


@pytest.fixture(params=["runc", "pysandbox"])
def buildah(both: tuple[Buildah, Buildah], request: pytest.FixtureRequest) -> Buildah:
    return both[request.param == "pysandbox"]


def comparable(text: str) -> list[str]:
    """What steps print, without ids, digests and the runtime's name."""
    text = re.sub(r"sha256:[0-9a-f]{64}|\b[0-9a-f]{64}\b|\b[0-9a-f]{11,12}\b", "ID", text)
    return [line for line in text.splitlines() if not line.startswith(("Copying", "Writing", "Storing", "Getting"))]


def test_build(both: tuple[Buildah, Buildah]) -> None:
    seen = []
    for number, buildah in enumerate(both):
        done = buildah.build(CONTAINERFILE, "--iidfile", str(buildah.context / "iid"), "--build-arg", "VERSION=7")
        assert done.returncode == 0, done.stderr
        seen.append(comparable(done.stdout))
        image = (buildah.context / "iid").read_text()
        podman = buildah.podman
        assert podman("run", "--rm", "--sig-proxy=false", "--network", "none", image) == "built b 7", number
    sleeping = both[0].room.run("sh", "-c", "pgrep -fx 'sleep 1000' || true").stdout
    assert not sleeping, "a process outlived its step"
    capabilities = [[line for line in lines if not line.startswith("NoNewPrivs")] for lines in seen]
    assert capabilities[1] == capabilities[0]
    assert "built b 7" in seen[0]


def test_podman_build(podmans: dict[str, Podman], both: tuple[Buildah, Buildah]) -> None:
    context = both[0].context
    (context / "Containerfile").write_text(f"FROM {IMAGE}\nRUN echo $((6 * 7)) >/answer\nCMD [\"cat\", \"/answer\"]\n")
    for runtime in ("runc", "pysandbox"):
        podman = podmans[runtime]
        image = podman("build", "-q", "--no-cache", str(context))
        assert podman("run", "--rm", "--sig-proxy=false", "--network", "none", image) == "42"


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ("RUN exit 3", 3, "exit status 3"),
        ("RUN kill -KILL $$; true", 0, ""),
        ('RUN ["nosuch"]', 1, "executable file not found in $PATH"),
        ("USER nobody\nRUN touch /etc/x", 1, "exit status 1"),
    ],
)
def test_steps(both: tuple[Buildah, Buildah], step: str, status: int, words: str) -> None:
    seen = []
    for buildah in both:
        done = buildah.build(f"FROM {IMAGE}\n{step}\n")
        assert words in done.stderr
        seen.append(done.returncode)
    assert seen == [status, status]


def test_run_and_commit(buildah: Buildah) -> None:
    container = buildah("from", IMAGE)
    try:
        assert buildah.run(container, "sh", "-c", "id -u; echo x >/made").stdout == "0\n"
        assert buildah.run(container, "sh", "-c", "exit 5").returncode == 5
        assert buildah.run(container, "cat", input="through the pipe\n").stdout == "through the pipe\n"
        text = f"--user 1000 --cap-drop CAP_CHOWN --network none --hostname hh -v {buildah.context}:/v:ro"
        script = "id -u; cat /v/file; touch /v/x; hostname; ip -o link | cut -d' ' -f2; grep CapBnd /proc/self/status"
        lines = buildah.run(container, "sh", "-c", script, options=tuple(text.split())).stdout.splitlines()
        assert lines[:4] == ["1000", "content", "hh", "lo:"]
        assert not int(lines[4].split()[1], 16) & 1
        done = buildah.run(container, "nosuch")
        assert done.returncode == 1
        assert "executable file not found in $PATH" in done.stderr
        image = f"localhost/committed-{Path(buildah.runtime).name}"
        buildah("config", "--cmd", "cat /made", container)
        buildah("commit", "-q", container, image)
        assert buildah.podman("run", "--rm", "--sig-proxy=false", "--network", "none", image) == "x"
        assert json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]["config"]["Cmd"] == ["cat", "/made"]
    finally:
        buildah("rm", container)


def test_terminal(buildah: Buildah) -> None:
    from terminal import Terminal

    container = buildah("from", IMAGE)
    words = [f"{name}={value}" for name, value in buildah.podman.env.items()]
    command = ["buildah", "run", "--runtime", buildah.runtime]
    try:
        terminal = Terminal(buildah.room, "env", *words, *command, "--isolation", "oci", "--tty", container, "--", "sh")
        terminal.expect("# ")
        terminal.send("tty; exit 4\n")
        terminal.expect("/dev/")
        assert terminal.finish() == 4
    finally:
        buildah("rm", container)
