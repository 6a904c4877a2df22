"""Paths through procfs to what is the monitor's: every call of the table that takes a path, by every spelling."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dispatch import MONITOR
from support_programs import build_programs, compare, make_bundle, pysandbox, run_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return build_programs(tmp_path / "built", magic="bnd_magic.c")


def test_monitor_descriptors_are_not_there(tmp_path: Path, busybox_rootfs: Path, built: Path) -> None:
    """The answers are those of a kernel where nobody has these numbers open."""
    bundle = make_bundle(tmp_path / "magic", busybox_rootfs, ["/tmp/built/magic"], built=built)
    result = compare(bundle)
    lines = result.stdout.decode().splitlines()
    table = (MONITOR / "syscalls" / "table.h").read_text()
    rows = re.findall(r"^ROW\(\d+, (\w+), [^\n]*\bPATHN?\b", table, re.MULTILINE)
    assert len(rows) > 50
    assert set(rows) - {line.split(",")[0].split()[0] for line in lines} == {"llistxattr"}  # as lgetxattr
    # Calls on the program's own link itself reach that one, under any kernel.
    assert [line for line in lines if "REACHED" in line and ", link" not in line] == []


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_a_link_that_changes(tmp_path: Path, busybox_rootfs: Path, built: Path, dispatch: str) -> None:
    """Another thread swaps a good and a forbidden target: what is seen is the good one or nothing."""
    annotations = {"dev.pysandbox.dispatch": dispatch}
    command = ["/tmp/built/magic", "race"]
    bundle = make_bundle(tmp_path / "race", busybox_rootfs, command, built=built, annotations=annotations)
    result = run_bundle(pysandbox(), bundle)
    assert (result.status, result.stdout, result.stderr) == (0, b"wrong 0\n", b""), result
