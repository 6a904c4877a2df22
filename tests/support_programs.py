"""Runs one bundle under pysandbox and under runc and compares. For test_programs_*.py and test_boundary_*.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parent.parent
PROGRAMS = TOP / "tests" / "programs"
TIMEOUT = 60.0  # seconds for one run; the emulated machine gets more
SLOWNESS = 20.0 if os.environ.get("PSB_SVM") else 1.0
CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
]


@dataclass(frozen=True)
class Result:
    """What a run left: exit status as the caller's shell sees it, and the bytes of both outputs."""

    status: int
    stdout: bytes
    stderr: bytes

    def __str__(self) -> str:
        parts = [f"status {self.status}"]
        for name, data in (("stdout", self.stdout), ("stderr", self.stderr)):
            parts.append(f"--- {name}, {len(data)} bytes\n{data[-3000:].decode(errors='replace')}")
        return "\n".join(parts)


def pysandbox() -> str:
    """The pysandbox under test: the one installed beside this interpreter."""
    command = Path(sys.executable).parent / "pysandbox"
    if not command.exists():
        pytest.fail(f"{command} is missing: run the tests with `make test`")
    return str(command)


def runc() -> str:
    """The reference."""
    command = shutil.which("runc")
    if command is None:
        pytest.skip("no runc to compare with: apt-get install runc")
    return command


def make_bundle(
    where: Path, rootfs: Path, args: Sequence[str | Path], *,
    built: Path | None = None, seccomp: dict[str, Any] | None = None, annotations: dict[str, str] | None = None,
) -> Path:
    """Writes a bundle: read-only root, tmpfs on /tmp, in it tests/programs and `built` (compiled programs).

    The root file system is the shared one and a mount point it lacks would be made in it: hence both below /tmp.
    """
    quiet = ["nosuid", "nodev"]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "newinstance"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*quiet, "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": [*quiet, "noexec"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*quiet, "noexec", "ro"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": [*quiet, "mode=1777", "size=256m"]},
        {"destination": "/tmp/programs", "type": "bind", "source": str(PROGRAMS), "options": ["bind", "ro"]},
    ]
    if built is not None:
        mounts.append({"destination": "/tmp/built", "type": "bind", "source": str(built), "options": ["bind", "ro"]})
    environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LC_ALL=C.UTF-8", "TZ=UTC"]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": ["/proc/kcore", "/proc/keys"],
        "readonlyPaths": ["/proc/sys"],
    }
    if seccomp is not None:
        linux["seccomp"] = seccomp
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [str(argument) for argument in args],
            "env": environment,
            "cwd": "/tmp",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs.resolve()), "readonly": True},
        "hostname": "programs",
        "mounts": mounts,
        "annotations": annotations or {},
        "linux": linux,
    }
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json.dumps(config, indent=1))
    return where


def container_id(bundle: Path) -> str:
    """A name no other test, and no other run of this one, uses at the same time."""
    return f"test-{os.getpid()}-{bundle.name}"


def run_bundle(runtime: str, bundle: Path, *, stdin: bytes = b"", timeout: float = TIMEOUT) -> Result:
    """Runs the bundle to its end. State is kept below the bundle's directory."""
    state = bundle / f"state-{Path(runtime).name}"
    name = container_id(bundle)
    command = [runtime, "--root", str(state), "run", "-b", str(bundle), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout * SLOWNESS)
        except subprocess.TimeoutExpired:
            subprocess.run([runtime, "--root", state, "kill", name, "KILL"], capture_output=True, check=False)
            try:
                stdout, stderr = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate()
            subprocess.run([runtime, "--root", state, "delete", "-f", name], capture_output=True, check=False)
            partial = Result(process.returncode, stdout, stderr)
            pytest.fail(f"{Path(runtime).name}: no end after {timeout * SLOWNESS:.0f} s\n{partial}")
    return Result(process.returncode, stdout, stderr)


def compare(bundle: Path, *, status: int = 0, stdin: bytes = b"", timeout: float = TIMEOUT) -> Result:
    """Both runs; pysandbox's must be runc's, byte for byte.

    `status` is what the program is meant to end with: one that cannot even start must not pass by failing twice in the
    same way.
    """
    expected = run_bundle(runc(), bundle, stdin=stdin, timeout=timeout)
    assert expected.status == status, f"under runc already: {expected}"
    assert expected.stdout, f"no output under runc: {expected}"
    actual = run_bundle(pysandbox(), bundle, stdin=stdin, timeout=timeout)
    assert actual.status == expected.status, f"pysandbox: {actual}\n=== runc: {expected}"
    assert actual.stdout == expected.stdout, f"pysandbox: {actual}\n=== runc: {expected}"
    assert actual.stderr == expected.stderr, f"pysandbox: {actual}\n=== runc: {expected}"
    return actual


def show_trace(bundle: Path) -> list[dict[str, Any]]:
    """`trace show --json` of the container that run_bundle(pysandbox) ran: one object a line."""
    command = [pysandbox(), "--root", str(bundle / "state-pysandbox"), "trace", "show", container_id(bundle), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT * SLOWNESS, check=False)
    assert done.returncode == 0, f"trace show: status {done.returncode}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def build_programs(where: Path, **sources: str) -> Path:
    """`where`, made for `make_bundle(built=...)`, with a static program for each name: of this file in tests/programs."""
    where.mkdir()
    for name, source in sources.items():
        compile_program(where / name, source)
    return where


def compile_program(target: Path, source: str, *flags: str) -> Path:
    """A static program from tests/programs, for any root file system."""
    options = ["-std=gnu11", "-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", *flags]
    command: list[str | Path] = ["gcc", *options, "-o", target, PROGRAMS / source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target
