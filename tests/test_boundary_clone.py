"""Children that share memory, descriptors, handlers or directories with their parent, beside runc."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle, pysandbox, run_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return build_programs(tmp_path / "built", clone="bnd_clone.c")


def test_children_share_what_they_shall(tmp_path: Path, debian_rootfs: Path, built: Path) -> None:
    result = compare(make_bundle(tmp_path / "clone", debian_rootfs, ["/tmp/built/clone"], built=built))
    lines = result.stdout.decode().splitlines()
    assert lines[-1] == "end"
    assert not [line for line in lines if line.startswith(("  read", "main", "thread:"))]


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_by_every_door(tmp_path: Path, debian_rootfs: Path, built: Path, dispatch: str) -> None:
    annotations = {"dev.pysandbox.dispatch": dispatch}
    bundle = make_bundle(tmp_path / dispatch, debian_rootfs, ["/tmp/built/clone"], built=built, annotations=annotations)
    result = run_bundle(pysandbox(), bundle)
    assert (result.status, result.stdout.decode().splitlines()[-1], result.stderr) == (0, "end", b""), result


@pytest.mark.parametrize("dispatch", ["auto", "exit"])
def test_children_made_while_files_are_opened(tmp_path: Path, debian_rootfs: Path, dispatch: str) -> None:
    """What another thread's call has open for a moment is no child's: neither in its way nor under a number that it may use."""
    where = build_programs(tmp_path / "built", strays="fd_strays.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    args = ["/tmp/built/strays"]
    compare(make_bundle(tmp_path / dispatch, debian_rootfs, args, built=where, annotations=annotations))
