"""Memory calls whose effect a program can only see by what /proc tells, compared with runc."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import compare, compile_program, make_bundle


@pytest.mark.kvm
@pytest.mark.root
def test_mlockall(tmp_path: Path, debian_rootfs: Path) -> None:
    """What there is, what is mapped later, a limit, a child; and not a page of the monitor's."""
    built = tmp_path / "built"
    built.mkdir()
    compile_program(built / "lock_all", "lock_all.c")
    compare(make_bundle(tmp_path / "bundle", debian_rootfs, ["/tmp/built/lock_all"], built=built))
