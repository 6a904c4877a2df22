"""Runtimes under an ordinary user, beside each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_lab
import pytest

TOP = Path(__file__).resolve().parent.parent
Config = dict[str, Any]


class Rootless:
    """An ordinary user who may use KVM: commands run as him, with a KVM device of his own at /dev/kvm."""

    UID = 54321

    def __init__(self, top: Path) -> None:
        self.top = top
        self.bundle = top / f"rootless-{os.getpid()}"
        shutil.copytree(config_lab.BUSYBOX, self.bundle / "rootfs", symlinks=True)
        (top / "run").mkdir()
        for place, directories, files in os.walk(top):
            for entry in (".", *directories, *files):
                os.chown(Path(place) / entry, self.UID, self.UID, follow_symlinks=False)
        os.mknod(top / "kvm", 0o020666, os.makedev(10, 232))
        (top / "kvm").chmod(0o666)

    def configure(self, script: str, change: Callable[[Config], object] | None = None) -> None:
        subprocess.run(["runc", "spec", "--rootless", "-b", self.top], check=True)
        config = json.loads((self.top / "config.json").read_text())
        (self.top / "config.json").unlink()
        for name in ("uidMappings", "gidMappings"):
            config["linux"][name] = [{"containerID": 0, "hostID": self.UID, "size": 1}]
        config["process"].update(terminal=False, args=["sh", "-c", script])
        if change:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def run(self, runtime: str) -> config_lab.Seen:
        return self.call(runtime, "run", "-b", str(self.bundle), self.bundle.name)

    def call(self, *command: str, out: Path | None = None) -> config_lab.Seen:
        """Any command. `out`: a file that gets all output, for commands that leave processes behind."""
        me = str(self.UID)
        mount = f"mount --bind {self.top}/kvm /dev/kvm || exit 99"
        script = f'{mount}; exec setpriv --reuid {me} --regid {me} --clear-groups --inh-caps=-all "$@"'
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(self.top / "run"), "HOME": str(self.top / "run")}
        argv = ["unshare", "-m", "sh", "-c", script, "sh", *command]
        options: dict[str, Any] = {"env": environment, "stdin": subprocess.DEVNULL, "timeout": 120}
        if out is None:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
            return config_lab.Seen(done.returncode, done.stdout, done.stderr)
        with open(out, "wb") as file:
            status = subprocess.run(argv, stdout=file, stderr=file, check=False, **options).returncode
        return config_lab.Seen(status, out.read_text(), "")


def rootless() -> Iterator[Rootless]:
    """For a fixture."""
    if any(not place.stat().st_mode & 0o001 for place in TOP.parents):
        pytest.skip(f"{TOP} cannot be entered by an ordinary user")
    with tempfile.TemporaryDirectory(prefix="rootless-") as top:
        Path(top).chmod(0o755)
        yield Rootless(Path(top))
