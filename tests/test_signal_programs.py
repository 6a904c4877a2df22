"""Signals: tests/programs/sig_*.c natively and in the sandbox, and the monitor's signal code by itself.

A program checks itself and prints one fact a line, nothing of which differs from run to run; natively it must end with
"ok", and in the sandbox it must print the same.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
SOURCES = TOP / "tests" / "programs"
MONITOR = TOP / "runtime" / "monitor"
PROGRAMS = [
    "again", "altstack", "cpu", "default", "exec", "fault", "frame", "info", "nest", "restart", "site", "step", "storm",
    "threads", "wait",
]  # fmt: skip
NATIVE_TIMEOUT = 60.0  # seconds; the longest takes three
SANDBOX_TIMEOUT = 300.0  # the emulated machine is some fifty times slower
FLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]


def build(target: Path, *arguments: str | Path) -> Path:
    """Compiles into `target`; the compiler's words are the failure's."""
    done = subprocess.run(["gcc", *FLAGS, "-o", target, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with all programs, compiled."""
    where = tmp_path_factory.mktemp("signals")
    for name in PROGRAMS:
        build(where / f"sig_{name}", "-mavx", SOURCES / f"sig_{name}.c", "-pthread")
    return where


def output_of(command: list[str | Path], timeout: float) -> str:
    """Standard output of a run that must succeed."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_native(programs: Path, name: str) -> None:
    """Under Linux itself the programs hold what they check: they describe the kernel, not our idea of it."""
    lines = output_of([programs / f"sig_{name}"], NATIVE_TIMEOUT).splitlines()
    assert lines[-1] == "ok"
    assert not [line for line in lines if line.startswith("FAIL")]
    assert len(lines) > 5


@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.parametrize("name", PROGRAMS)
def test_sandbox(programs: Path, name: str) -> None:
    """The same words in the sandbox. Both as a child of a shell: pid 1 of a namespace has rules of its own."""
    program = programs / f"sig_{name}"
    shell: list[str | Path] = ["/bin/sh", "-c", f"{program}; exit $?"]
    pysandbox = Path(sys.executable).parent / "pysandbox"
    assert pysandbox.exists(), "build first: make build"
    native = output_of(shell, NATIVE_TIMEOUT)
    assert output_of([pysandbox, "do", "--", *shell], SANDBOX_TIMEOUT) == native


@pytest.mark.root
def test_monitor_code(tmp_path: Path) -> None:
    """signal.c and signal_frame.c on the real host kernel, with registers in an array.

    Delivery, restart at every door, the race between a signal and the start of a sleeping call (3000 times), masks,
    copy faults, hostile frames (20000), deaths, also as pid 1.
    """
    program = build(
        tmp_path / "sig_unit",
        "-ffreestanding", "-fno-stack-protector", "-fno-strict-aliasing", "-nostdlib", "-static",
        SOURCES / "sig_unit.c",
        *(MONITOR / name for name in ("signal.c", "signal_frame.c", "signal_entry.S", "lib.c", "copy.S")),
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, timeout=NATIVE_TIMEOUT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("source", ["signal.c", "signal_frame.c"])
def test_analyzer(tmp_path: Path, source: str) -> None:
    """gcc's static analysis has nothing to say."""
    build(
        tmp_path / "o",
        "-c",
        "-fanalyzer",
        "-ffreestanding",
        "-fPIE",
        "-Wshadow",
        "-Wvla",
        "-Wmissing-prototypes",
        MONITOR / source,
    )
