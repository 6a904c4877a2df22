"""A dockerd of the suite's own, in a room, with two runtimes: every command goes to runc and to pysandbox, and is compared."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from room import SYSTEM_PATH, Done, Room

RUNTIMES = ("runc", "pysandbox")
IMAGE = "local/busybox:1"
DOCKER = "/usr/bin/docker"  # Debian's, which is as old as its daemon; another one may come first in PATH
TIMEOUT = 60.0
# What runc puts before every reason, and a line that the client writes or not, as a race in it ends.
NOISE = re.compile(r"runc create failed: unable to start container process: |exec failed: unable to start container process: |"
                   r"exec failed: (?=exec: )|time=\"[^\n]*error waiting for container: context canceled\"\n")  # fmt: skip


class Docker:
    """`options`: of dockerd; `path`: directories where it looks for programs first; then those of $PSB_DOCKER, which may have
    another version's dockerd and containerd. Its images are in the room; its socket is where the client expects it.
    """

    def __init__(self, room: Room, pysandbox: str, *options: str | Path, register: bool = True, path: str = "") -> None:
        self.room = room
        self.log = room.scratch / "dockerd.log"
        words = ["--data-root", "/run/room/docker", "--cgroup-parent", room.cgroup]
        words += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
        if register:
            words += ["--add-runtime", f"pysandbox={pysandbox}"]
        self.env = {"PATH": ":".join(filter(None, (path, os.environ.get("PSB_DOCKER"), SYSTEM_PATH)))}
        # By way of env(1), which looks the program up in this PATH.
        self.command = ["env", "dockerd", *words, *map(str, options)]

    def start(self) -> None:
        self.process = self.room.start(*self.command, log=self.log, env=self.env)
        self.wait(lambda: self("version", check=False).returncode == 0, "dockerd")

    def pid(self) -> int:
        """Of dockerd, in the room's numbers."""
        return int(self.room.run("cat", "/run/docker.pid").stdout)

    def stop(self, signal: str = "TERM") -> None:
        self.room.run("kill", f"-{signal}", str(self.pid()))
        self.process.wait(timeout=TIMEOUT)

    def wait(self, condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            dead = self.process.poll()
            assert dead is None, f"dockerd ended with {dead}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.1)

    def __call__(self, *words: str | Path, check: bool = True, **options: Any) -> Done:
        """The docker client's command line without its name."""
        return self.room.run(DOCKER, *words, check=check, **options)

    def load(self, archive: Path, image: str = IMAGE) -> None:
        self("import", "-c", 'CMD ["/bin/sh"]', "-c", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", archive, image)

    def run(self, runtime: str, *words: str | Path, **options: Any) -> Done:
        """`docker run --rm` with a fixed host name, without failing; noise that says nothing is taken out of stderr."""
        options.setdefault("timeout", TIMEOUT)
        done = self("run", "--rm", "--runtime", runtime, *words, check=False, **options)
        done.stderr = NOISE.sub("", done.stderr)
        return done

    def same(self, *words: str | Path, **options: Any) -> Done:
        """`docker run --rm` under both runtimes: status, output and messages must be the same. Pysandbox' result."""
        theirs, ours = (self.run(runtime, "--hostname", "box", *words, **options) for runtime in RUNTIMES)
        where = " ".join(map(str, words))
        assert ours.returncode == theirs.returncode, f"{where}\nrunc: {theirs.stderr}\npysandbox: {ours.stderr}"
        assert ours.stdout == theirs.stdout, f"{where}: {ours.stderr}"
        assert ours.stderr == theirs.stderr, where
        return ours

    def sh(self, script: str, *options: str | Path) -> str:
        """The output of a shell script in the image, the same under both runtimes, which must end with status 0."""
        done = self.same(*options, IMAGE, "sh", "-c", script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def inspect(self, name: str, template: str = "{{json .}}") -> Any:
        text = self("inspect", "--format", template, name).stdout.strip()
        return json.loads(text) if template.startswith("{{json") else text

    def status(self, name: str) -> str:
        return str(self.inspect(name, "{{.State.Status}}"))

    def container(self, runtime: str, *words: str | Path) -> Container:
        return Container(self, runtime, *words)


class Container:
    """A detached container, removed at the end of the `with` block."""

    def __init__(self, docker: Docker, runtime: str, *words: str | Path) -> None:
        self.docker = docker
        self.name = f"box-{runtime}-{os.urandom(3).hex()}"
        self.runtime = runtime
        docker("run", "--detach", "--name", self.name, "--hostname", "box", "--runtime", runtime, *words)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.docker("rm", "--force", "--volumes", self.name, check=False)

    @property
    def status(self) -> str:
        return self.docker.status(self.name)

    @property
    def logs(self) -> str:
        done = self.docker("logs", self.name)
        return done.stdout + done.stderr

    def exec(self, *words: str, **options: Any) -> Done:
        """`docker exec` of the command `words`, or of what stands behind "--", with the options before it."""
        split = words.index("--") if "--" in words else -1
        done = self.docker("exec", *words[: max(split, 0)], self.name, *words[split + 1 :], check=False, **options)
        done.stderr = NOISE.sub("", done.stderr)
        done.stdout = NOISE.sub("", done.stdout)  # a failed exec's message comes there
        return done

    def wait_for_log(self, text: str) -> None:
        self.docker.wait(lambda: text in self.logs, f"{text!r} in the log of {self.name}")

    def wait_for_status(self, status: str) -> None:
        self.docker.wait(lambda: self.status == status, f"{self.name} to be {status}")
