"""containerd with its client ctr in a room: a daemon with private directories, an image of the local root file system."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from room import Done, Room
from terminal import Terminal

IMAGE = "localhost/busybox:1"
PAUSE = "localhost/pause:1"  # of the first container of a pod
ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_image(layer: Path, target: Path, name: str, command: Sequence[str] = ("/bin/sh",)) -> None:
    """An archive as `docker save` makes them, with one layer: the tar file `layer`."""
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": [ENVIRONMENT], "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    text = json.dumps(config).encode()
    config_name = hashlib.sha256(text).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]).encode()
    with tarfile.open(target, "w") as archive:
        for member, data in ((config_name, text), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        archive.add(layer, f"{digest}/layer.tar")


class Containerd:
    """The daemon. `runtimes`: name -> program; they are CRI's runtime handlers of the same names, too."""

    def __init__(self, room: Room, runtimes: dict[str, str]) -> None:
        self.room = room
        self.runtimes = runtimes
        self.socket = "/run/containerd-test/containerd.sock"
        self.log = room.scratch / "containerd.log"
        self.config = room.scratch / "containerd.toml"
        self.config.write_text(self._configuration())
        self.begin()

    def begin(self) -> None:
        """Starts the daemon."""
        self.daemon = self.room.start("containerd", "--config", self.config, log=self.log)
        deadline = time.monotonic() + 60
        while self.room.run("test", "-S", self.socket, check=False).returncode:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.daemon.poll() is None, self.log.read_text()
            time.sleep(0.1)
        self.room.run(*self.argv("version"))

    def _configuration(self) -> str:
        handlers = "".join(
            f'[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]\n  runtime_type = "io.containerd.runc.v2"\n'
            f'  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]\n    BinaryName = "{path}"\n'
            for name, path in self.runtimes.items()
        )
        return (
            f'version = 2\nroot = "{self.room.scratch}/containerd"\nstate = "/run/containerd-test/state"\n'
            f'[grpc]\n  address = "{self.socket}"\n'
            f'[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "{PAUSE}"\n  restrict_oom_score_adj = true\n'
            f'  [plugins."io.containerd.grpc.v1.cri".cni]\n    bin_dir = "/usr/lib/cni"\n'
            f'    conf_dir = "{self.room.scratch}/cni"\n'
            f"{handlers}"
        )

    def argv(self, *args: str) -> list[str]:
        return ["ctr", "--address", self.socket, *args]

    def import_image(self, layer: Path, name: str = IMAGE, namespace: str = "default", command: str = "/bin/sh") -> None:
        archive = self.room.scratch / "image.tar"
        write_image(layer, archive, name, command.split())
        self.room.run(*self.argv("--namespace", namespace, "images", "import", str(archive)))

    def stop(self) -> None:
        """Ends the daemon; its containers go on."""
        self.room.run("pkill", "-TERM", "-x", "containerd")
        self.daemon.wait(timeout=60)


class Ctr:
    """ctr with one runtime; ids begin with the runtime's name."""

    def __init__(self, containerd: Containerd, runtime: str) -> None:
        self.containerd = containerd
        self.room = containerd.room
        self.runtime = runtime

    def call(self, *args: str, **options: Any) -> Done:
        return self.room.run(*self.containerd.argv(*args), check=False, **options)

    def __call__(self, *args: str, **options: Any) -> str:
        """A call that must succeed; its output without the last newline."""
        return self.room.run(*self.containerd.argv(*args), **options).stdout.rstrip("\n")

    def name(self, name: str) -> str:
        return f"{self.runtime}-{name}"

    def run_words(self, name: str, *options: str) -> list[str]:
        """`ctr run`, up to the image."""
        group = f"{self.room.cgroup}/{self.name(name)}"
        path = self.containerd.runtimes[self.runtime]
        return ["run", "--runc-binary", path, "--cgroup", group, *options, IMAGE, self.name(name)]

    def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> Done:
        """A container in the foreground, removed afterwards."""
        return self.call(*self.run_words(name, "--rm", *options), *command)

    def start(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """A container in the background; its id."""
        log = self._log(name)
        log.write_text("")
        words = self.run_words(name, "--detach", "--log-uri", f"file://{log}", *options)
        self.room.run(*self.containerd.argv(*words), *command)
        return self.name(name)

    def _log(self, name: str) -> Path:
        return self.room.scratch / f"{self.name(name)}.log"

    def output(self, name: str) -> str:
        return self._log(name).read_text()

    def terminal(self, *args: str) -> Terminal:
        return Terminal(self.room, *self.containerd.argv(*args))

    def status(self, name: str) -> str:
        """Of a task: RUNNING, PAUSED, STOPPED, or "" when there is none."""
        for line in self("tasks", "ls").splitlines():
            words = line.split()
            if words[0] == self.name(name):
                return words[2]
        return ""

    def remove(self, name: str) -> None:
        self.call("tasks", "delete", "--force", self.name(name))
        self.call("containers", "delete", self.name(name))
