"""Bad bundles, bad programs, a full disk, a runtime killed at any moment: one clear line, exit status 1, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_lab
import pytest

Config = dict[str, Any]
pytestmark = [pytest.mark.kvm, pytest.mark.root]


class Lab:
    """One bundle, one state root, one id."""

    def __init__(self, top: Path, command: list[str]) -> None:
        self.top = top
        self.command = command
        self.bundle = top / "bundle"
        self.rootfs = self.bundle / "rootfs"
        self.state = top / "state"
        self.id = f"bad-{os.getpid()}-{top.name}"
        self.bundle.mkdir()
        shutil.copytree(config_lab.BUSYBOX, self.rootfs, symlinks=True)
        self.config: Config = {}
        self.configure()

    def configure(self, change: Callable[[Config], object] | None = None) -> None:
        path = self.bundle / "config.json"
        path.unlink(missing_ok=True)
        subprocess.run([*self.command, "spec", "-b", self.bundle], check=True)
        config = json.loads(path.read_text())
        config["process"].update(terminal=False, args=["/bin/true"])
        config["root"]["readonly"] = False
        if change:
            change(config)
        path.write_text(json.dumps(config))

    def run(self, *arguments: str, name: str = "", **environment: str) -> config_lab.Seen:
        argv = [*self.command, "--root", str(self.state), "run", *(arguments or ("-b", str(self.bundle))), name or self.id]
        done = subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **environment}, check=False
        )
        return config_lab.Seen(done.returncode, done.stdout, done.stderr)

    def left(self) -> list[str]:
        """State, traces of this run, cgroups, mounts that are still there."""
        names = os.listdir(self.state) if self.state.exists() else []
        left = [name for name in names if name not in ("traces", "@foreground", "@pending")]
        left += [f"{kind}/{name}" for kind in ("@foreground", "@pending") for name in self._list(kind)]
        left += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{self.id}")]
        left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.bundle) in line]
        return left

    def _list(self, kind: str) -> list[str]:
        try:
            return os.listdir(self.state / kind)
        except FileNotFoundError:
            return []

    def refused(self, message: str, *arguments: str, name: str = "") -> None:
        seen = self.run(*arguments, name=name)
        assert (seen.status, seen.stdout) == (1, ""), seen
        assert seen.stderr.endswith("\n")
        assert seen.stderr.count("\n") == 1, seen.stderr
        assert re.fullmatch(f"pysandbox: .*{message}.*\n", seen.stderr), seen.stderr
        assert self.left() == []
        assert self._list("traces") == []


@pytest.fixture
def lab(busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Lab]:
    del busybox_rootfs  # config_lab copies it
    with tempfile.TemporaryDirectory(prefix="bad-", ignore_cleanup_errors=True) as top:
        yield Lab(Path(top), pysandbox_command)


# --- the bundle -------------------------------------------------------------------------------------------------------


def test_no_bundle(lab: Lab) -> None:
    lab.refused("chdir /nope: no such file or directory", "-b", "/nope")
    lab.refused("chdir /etc/hostname: not a directory", "-b", "/etc/hostname")
    lab.refused("config.json not found: open .*: no such file or directory", "-b", str(lab.top))


CONTENTS: list[tuple[str, bytes | str, str]] = [
    ("nothing", b"", "config.json: not JSON: Expecting value at line 1 column 1"),
    ("half", b'{"ociVersion": "1.0.2",', "not JSON: .* at line 1 column 24"),
    ("array", b"[]", "expected an object, found an array"),
    ("latin", b'{"ociVersion": "\xe9"}', "invalid UTF-8 in line 1"),
    ("deep", b'{"a":' * 100000, "nested too deeply"),
    ("twice", b"{} {}", "not JSON: Extra data"),
    ("zeroes", "/dev/zero", "not a regular file"),
    ("directory", "/etc", "is a directory"),
    ("loop", "config.json", "too many levels of symbolic links"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in CONTENTS], ids=[case[0] for case in CONTENTS])
def test_config_that_cannot_be_read(lab: Lab, content: bytes | str, message: str) -> None:
    path = lab.bundle / "config.json"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.symlink_to(content)
    lab.refused(message)


CONFIGS: list[tuple[str, Callable[[Config], object], str]] = [
    ("version", lambda c: c.update(ociVersion="2.0.0"), "/ociVersion: version 2.0.0 is not supported, only 1.x is"),
    ("no args", lambda c: c["process"].update(args=[]), r"/process/args: \[\] should be non-empty"),
    ("no process", lambda c: c.pop("process"), "'process' is missing"),
    ("type", lambda c: c["process"].update(terminal="no"), "/process/terminal: expected a boolean, found a string 'no'"),
    ("range", lambda c: c["process"]["user"].update(uid=-1), "/process/user/uid: expected at least 0, found -1"),
    ("root", lambda c: c["root"].update(path="nowhere"), "invalid rootfs: stat .*/nowhere: no such file or directory"),
    ("root file", lambda c: c["root"].update(path="config.json"), "invalid rootfs: stat .*/config.json: not a directory"),
    ("cwd", lambda c: c["process"].update(cwd="tmp"), "/process/cwd: Cwd must be an absolute path"),
    ("cwd file", lambda c: c["process"].update(cwd="/etc/passwd"), "mkdir /etc/passwd: not a directory"),
    ("variable", lambda c: c["process"].update(env=["A"]), "/process/env/0: invalid environment variable: missing '='"),
    ("rlimit", lambda c: c["process"]["rlimits"][0].update(type="RLIMIT_X"), "/rlimits/0/type: unknown rlimit 'RLIMIT_X'"),
    ("namespace", lambda c: c["linux"]["namespaces"].append({"type": "x"}), "/type: unknown namespace 'x'"),
    ("option", lambda c: c["mounts"][1]["options"].append("x"), "mount 'tmpfs' at '/dev': invalid argument"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS])
def test_config_that_cannot_be_run(lab: Lab, change: Callable[[Config], object], message: str) -> None:
    lab.configure(change)
    lab.refused(message)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a b", "a\nb", "é", "a" * 2000, "@pending"])
def test_ids(lab: Lab, name: str) -> None:
    lab.refused("invalid id format: ", "-b", str(lab.bundle), name=name)


# --- the program ------------------------------------------------------------------------------------------------------


def patched(lab: Lab, name: str, *bytes_at: tuple[int, int], size: int | None = None) -> str:
    """busybox with some bytes of its ELF header changed, or cut off."""
    data = bytearray((lab.rootfs / "bin/busybox").read_bytes()[:size])
    for place, value in bytes_at:
        data[place] = value
    (lab.rootfs / name).write_bytes(data)
    (lab.rootfs / name).chmod(0o755)
    return f"/{name}"


def script(lab: Lab, name: str, line: str) -> str:
    (lab.rootfs / name).write_text(line)
    (lab.rootfs / name).chmod(0o755)
    return f"/{name}"


PROGRAMS: list[tuple[str, Callable[[Lab], str], str]] = [
    ("missing", lambda lab: "/nope", 'exec: "/nope": stat /nope: no such file or directory'),
    ("not in path", lambda lab: "nope", r'exec: "nope": executable file not found in \$PATH'),
    ("directory", lambda lab: "/etc", 'exec: "/etc": is a directory: permission denied'),
    ("text", lambda lab: "/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ("below a file", lambda lab: "/etc/passwd/x", 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory'),
    ("executable text", lambda lab: script(lab, "t", "hello\n"), "exec /t: exec format error"),
    ("empty", lambda lab: script(lab, "t", ""), "exec /t: exec format error"),
    ("truncated", lambda lab: patched(lab, "t", size=3000), "exec /t: exec format error"),
    ("truncated header", lambda lab: patched(lab, "t", size=30), "exec /t: exec format error"),
    ("32 bit", lambda lab: patched(lab, "t", (4, 1)), "exec /t: exec format error"),
    ("big endian", lambda lab: patched(lab, "t", (5, 2)), "exec /t: exec format error"),
    ("arm", lambda lab: patched(lab, "t", (18, 183)), "exec /t: exec format error"),
    ("object file", lambda lab: patched(lab, "t", (16, 1)), "exec /t: exec format error"),
    ("no interpreter", lambda lab: script(lab, "t", "#!/nope\n"), "exec /t: no such file or directory"),
    ("empty interpreter", lambda lab: script(lab, "t", "#!\n"), "exec /t: exec format error"),
    ("interpreter loop", lambda lab: script(lab, "t", "#!/t\n"), "exec /t: too many levels of symbolic links"),
    ("device", lambda lab: "/dev/null", 'exec: "/dev/null": permission denied'),
]


@pytest.mark.parametrize(("program", "message"), [case[1:] for case in PROGRAMS], ids=[case[0] for case in PROGRAMS])
def test_programs(lab: Lab, program: Callable[[Lab], str], message: str) -> None:
    path = program(lab)
    lab.configure(lambda config: config["process"].update(args=[path]))
    lab.refused(message)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [f"size={size}" for size in ("4k", "64k", "4m")] + [f"size=64m,nr_inodes={number}" for number in range(2, 24, 2)]
)
def test_full_disk(lab: Lab, options: str) -> None:
    """The state root, temporary files and the plan store on a file system without room, or without room for one more file."""
    lab.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "full", lab.state], check=True)
    try:
        state = lab.state / "state"
        environment = {"TMPDIR": str(lab.state), "PSB_PLAN_DIR": str(lab.state / "plans")}
        lab.state, outer = state, lab.state
        seen = lab.run(**environment)
        assert seen.stdout == ""
        assert seen.status in (0, 1)
        lines = [line for line in seen.stderr.splitlines() if ": warning: " not in line]
        assert len(lines) == seen.status, seen.stderr
        assert not lines or lines[0].endswith("no space left on device"), seen.stderr
        assert lab.left() == []
        listed = subprocess.run([*lab.command, "--root", str(state), "list", "-q"], capture_output=True, check=False)
        assert listed.stdout == b""
    finally:
        unmount(outer)


def fill(path: Path) -> None:
    """Writes until there is no room."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while os.write(fd, bytes(4096)):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)


def test_disk_that_fills_up_while_the_container_runs(lab: Lab) -> None:
    lab.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "full", lab.state], check=True)
    try:
        lab.configure(lambda config: config["process"].update(args=["/bin/sleep", "1000"]))
        command = [*lab.command, "--root", str(lab.state)]
        null = subprocess.DEVNULL
        subprocess.run([*command, "run", "-d", "-b", lab.bundle, lab.id], stdin=null, stdout=null, check=True)
        fill(lab.state / "fill")
        for verb in (["state", lab.id], ["exec", lab.id, "true"], ["kill", lab.id, "KILL"], ["delete", "--force", lab.id]):
            done = subprocess.run([*command, *verb], stdin=null, stdout=null, stderr=subprocess.PIPE, check=False)
            assert (done.returncode, done.stderr) == (0, b""), verb
        (lab.state / "fill").unlink()
        assert lab.left() == []
    finally:
        unmount(lab.state)


def unmount(place: Path) -> None:
    """Detached at once: a planner may still be at work for the next container, with its store below."""
    subprocess.run(["umount", "--lazy", place], check=True)


# --- killed at any moment ---------------------------------------------------------------------------------------------


def test_runtime_killed_at_any_moment(lab: Lab) -> None:
    """Whatever moment it is, the next command finds what was begun and takes it back."""
    program = f"sleep {100000 + os.getpid()}"
    lab.configure(lambda config: config["process"].update(args=["/bin/sh", "-c", f"{program} & {program}"]))
    moments = random.Random(6)
    for number in range(24):
        verb = ["run", "-d"] if number % 3 == 0 else ["run"]
        argv = [*lab.command, "--root", str(lab.state), *verb, "-b", str(lab.bundle), lab.id]
        null = subprocess.DEVNULL
        runtime = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null)
        time.sleep(moments.random() * 0.15)
        runtime.kill()
        runtime.wait()
        settled = False
        for _ in range(200):
            subprocess.run([*lab.command, "--root", str(lab.state), "list", "-q"], stdout=null, check=True)
            if verb[-1] == "-d":  # it may have been ready before it was killed: then it is a container like any other
                subprocess.run([*lab.command, "--root", str(lab.state), "delete", "--force", lab.id], stderr=null, check=False)
            table = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
            if lab.left() == [] and program not in table:
                settled = True
                break
        assert settled, (number, lab.left())
