"""A room: namespaces of their own in which an engine runs, so that suites neither see each other nor change the host.

A room has its own mounts, processes, network (`lo`, and `eth0` with ADDRESS), host name and IPC. Private are /run, /etc (a
writable layer over the host's), /proc, /sys, the records of `pysandbox install` and the directories engines keep things in; other
files are the host's, the same paths mean the same files. /run/room is on disk, empty at first, and its parents are open to every
user. When the room closes, or the test run dies, everything in it is gone; only cgroups would stay, so the engine's groups are
below `cgroup`, which is removed.
Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import pytest

TOP = Path(__file__).resolve().parent.parent
Done = subprocess.CompletedProcess[str]
ADDRESS = "10.213.7.2"  # of the room's eth0, as in room_init.py
TIMEOUT = 120.0  # seconds for one command
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HIDDEN = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/cni", "/opt/containerd")


class Room:
    """`scratch`: an empty directory for the room's files, on a real file system. `name`: unique on the machine."""

    def __init__(self, scratch: Path, name: str) -> None:
        self.scratch = scratch
        self.cgroup = f"/psb-{name}-{os.getpid()}"
        forget_the_dead()
        (scratch / "room").mkdir()
        (scratch / "home").mkdir()
        init = Path(__file__).with_name("room_init.py")
        unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
        command = [*unshare, "--propagation", "private", "/usr/bin/python3", "-IS", str(init), str(scratch / "room"), *HIDDEN]
        self.log = scratch / "room.log"
        with open(self.log, "w") as log:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=self.env())
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            self.process.kill()
            raise RuntimeError(f"no room: {self.log.read_text()}")
        self.pid = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def env(self) -> dict[str, str]:
        """A small environment: what a service manager gives."""
        return {"PATH": SYSTEM_PATH, "HOME": str(self.scratch / "home"), "LANG": "C.UTF-8", "TERM": "xterm"}

    def argv(self, *command: str | Path) -> list[str]:
        """The command line, for this side, of a command in the room."""
        enter = str(Path(__file__).with_name("room_enter.py"))
        return ["/usr/bin/python3", "-IS", enter, str(self.pid), str(self.scratch), *map(str, command)]

    def run(self, *command: str | Path, check: bool = True, env: Mapping[str, str] | None = None, **options: Any) -> Done:
        """Runs a command to its end, output captured; with `check` a status other than 0 fails the test with the output."""
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("timeout", TIMEOUT)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        done = subprocess.run(self.argv(*command), check=False, text=True, env={**self.env(), **(env or {})}, **options)
        words = " ".join(map(str, command))
        assert not check or done.returncode == 0, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str | Path, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a command that goes on, a daemon; its output is appended to `log`."""
        with open(log, "ab") as out:
            return subprocess.Popen(
                self.argv(*command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**self.env(), **(env or {})}
            )

    def children(self) -> list[int]:
        """The pids, as the host numbers them, of all processes in the room but the first."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and int(entry) != self.pid and os.readlink(f"/proc/{entry}/ns/pid") == own:
                    found.append(int(entry))
            except OSError:
                continue  # ended meanwhile
        return found

    def close(self) -> None:
        """Ends every process of the room and removes its cgroups."""
        pipe: IO[str] | None = self.process.stdin
        if pipe is not None:
            pipe.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(timeout=30)
        for group in Path("/sys/fs/cgroup").glob(f"*{self.cgroup}"):
            remove_groups(group)
        remove_groups(Path("/sys/fs/cgroup" + self.cgroup))


MakeRoom = Callable[[str], Room]


def need_programs(*names: str) -> None:
    """Skips when one is missing: `make integration` installs them where the machine can."""
    missing = [name for name in names if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (hack/system-packages engines)")


def forget_the_dead() -> None:
    """Removes groups of rooms whose test run was killed: their processes are gone, and nobody else would."""
    for group in (*Path("/sys/fs/cgroup").glob("psb-*-*"), *Path("/sys/fs/cgroup").glob("*/psb-*-*")):
        pid = group.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove_groups(group, attempts=1)


def remove_groups(top: Path, attempts: int = 200) -> None:
    """Removes a cgroup and those below; a group whose processes are about to be reaped is tried again."""
    if not top.is_dir():
        return
    for path, _, _ in os.walk(top, topdown=False):
        for _ in range(attempts):
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)
