"""Bundles and the two runtimes for the tests of the verbs: the same calls, as an engine makes them, go to both."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Change = Callable[[Config], object]
Done = subprocess.CompletedProcess[str]
PR_SET_CHILD_SUBREAPER = 36
TIMEOUT = 60.0


class Runtime:
    """One runtime with a state root and a bundle of its own."""

    def __init__(self, name: str, command: list[str], top: Path, rootfs: Path) -> None:
        self.name = name
        self.command = command
        self.bundle = top / f"{name}-bundle"
        self.root = top / f"{name}-root"
        self.log = self.bundle / "log.json"
        self.rootfs = rootfs.resolve()
        self.id = f"verb-{os.getpid()}-{name}"  # in cgroup names: two test runs at a time must not meet
        self.bundle.mkdir()
        self.env = {"PATH": os.environ["PATH"]}

    @property
    def ours(self) -> bool:
        return self.name == "pysandbox"

    def configure(self, args: list[str] | str, change: Change | None = None) -> None:
        """`runc spec` without a terminal, running a shell script or a program in the shared root file system."""
        (self.bundle / "config.json").unlink(missing_ok=True)
        subprocess.run(["runc", "spec", "-b", self.bundle], check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["sh", "-c", args] if isinstance(args, str) else args
        config["root"] = {"path": str(self.rootfs), "readonly": True}
        if change:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def argv(self, *args: str) -> list[str]:
        """As containerd-shim calls."""
        return [*self.command, "--root", str(self.root), "--log", str(self.log), "--log-format", "json", *args]

    def call(self, *args: str, **options: Any) -> Done:
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.env)
        if "stdout" not in options:
            options.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return subprocess.run(self.argv(*args), text=True, check=False, timeout=TIMEOUT, **options)

    def create(self, *options: str, **more: Any) -> int:
        """`create` with the output going to files, as the container keeps it; its exit status."""
        with open(self.bundle / "out", "ab") as out, open(self.bundle / "err", "ab") as err:
            more.setdefault("stdout", out)
            more.setdefault("stderr", err)
            pid_file = str(self.bundle / "init.pid")
            return self.call("create", "--bundle", str(self.bundle), "--pid-file", pid_file, *options, self.id, **more).returncode

    @property
    def out(self) -> str:
        return (self.bundle / "out").read_text()

    @property
    def err(self) -> str:
        return (self.bundle / "err").read_text()

    @property
    def pid(self) -> int:
        return int((self.bundle / "init.pid").read_text())

    def state(self) -> dict[str, Any]:
        done = self.call("state", self.id)
        assert done.returncode == 0, done.stderr
        state: dict[str, Any] = json.loads(done.stdout)
        return state

    def last_error(self) -> str:
        """What an engine shows: the last error of the log."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return str([line["msg"] for line in lines if line["level"] == "error"][-1])

    def clean(self) -> None:
        reap_orphans()  # the init of a pid namespace does not end before they are waited for
        self.call("delete", "--force", self.id)

    def left_over(self) -> list[str]:
        """Names that a deleted container must not leave."""
        names = [name for name in os.listdir(self.root) if not name.startswith("@")] if self.root.exists() else []
        found = [name for name in names if name != "traces"]
        for directory, below, _ in os.walk("/sys/fs/cgroup"):  # other containers' groups may vanish meanwhile
            found += [os.path.join(directory, name) for name in below if name == self.id]
        pending = self.root / "@pending"
        return found + (os.listdir(pending) if pending.exists() else [])


def both(top: Path, rootfs: Path, pysandbox: list[str]) -> list[Runtime]:
    """[pysandbox, runc]."""
    runtimes = [Runtime("pysandbox", pysandbox, top, rootfs), Runtime("runc", ["runc"], top, rootfs)]
    runtimes[0].env["PSB_PLAN_DIR"] = str(top / "plans")
    return runtimes


def missing() -> str:
    """Why these tests cannot run here, or ""."""
    return "" if shutil.which("runc") else "runc is not installed"


def subreaper(on: bool) -> None:
    """What containerd-shim and conmon are: orphans below this process become its children."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@contextmanager
def runtime_pair(top: Path, rootfs: Path, pysandbox: list[str]) -> Iterator[list[Runtime]]:
    """`both`, and this process a subreaper, as an engine's shim is. In the end their containers are removed."""
    subreaper(True)
    runtimes = both(top, rootfs, pysandbox)
    yield runtimes
    for runtime in runtimes:
        runtime.clean()
    subreaper(False)


def reap(pid: int) -> int:
    """Waits for a process that became ours: its exit status, or minus the signal."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    raise AssertionError(f"process {pid} does not end")


def reap_orphans() -> None:
    """As a subreaper must, those that nobody waits for by name."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
