"""Calls that another thread of the monitor makes for the program, and what must stay the calling thread's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle, pysandbox, run_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return build_programs(tmp_path / "built", ring_own="ring_own.c")


@pytest.mark.parametrize("dispatch", ["auto", "ring", "exit"])
def test_the_callers_own(tmp_path: Path, busybox_rootfs: Path, built: Path, dispatch: str) -> None:
    annotations = {"dev.pysandbox.dispatch": dispatch}
    compare(make_bundle(tmp_path / dispatch, busybox_rootfs, ["/tmp/built/ring_own"], built=built, annotations=annotations))


def test_no_thread_has_descriptors_of_its_own(tmp_path: Path, busybox_rootfs: Path, built: Path) -> None:
    """Another table of the kernel's: numbers that are published there would be the monitor's in the first one."""
    bundle = make_bundle(tmp_path / "files", busybox_rootfs, ["/tmp/built/ring_own", "files"], built=built)
    result = run_bundle(pysandbox(), bundle)
    assert (result.status, result.stdout) == (0, b"clone: Invalid argument\nran: 0\n"), result


@pytest.mark.parametrize("dispatch", ["auto", "ring", "exit"])
def test_long_reads_are_whole(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """The thread that interrupts whoever takes too long with its call must not cut them short."""
    built = build_programs(tmp_path / "built", long_reads="long_reads.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    compare(make_bundle(tmp_path / dispatch, busybox_rootfs, ["/tmp/built/long_reads"], built=built, annotations=annotations))
