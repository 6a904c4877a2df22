"""Memory calls whose effect a program can only see by what /proc tells, compared with runc."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle


@pytest.mark.kvm
@pytest.mark.root
def test_mlockall(tmp_path: Path, debian_rootfs: Path) -> None:
    """What there is, what is mapped later, a limit, a child; and not a page of the monitor's."""
    built = build_programs(tmp_path / "built", lock_all="lock_all.c")
    compare(make_bundle(tmp_path / "bundle", debian_rootfs, ["/tmp/built/lock_all"], built=built))


@pytest.mark.kvm
@pytest.mark.root
def test_places_of_mappings(tmp_path: Path, debian_rootfs: Path) -> None:
    """What SBCL, GHC and valgrind rely on: hints below 2 GiB, an executable stack, text that is the file's."""
    built = build_programs(tmp_path / "built", map_places="map_places.c")
    args = ["/tmp/built/map_places", "/lib/x86_64-linux-gnu/libc.so.6"]
    assert len(compare(make_bundle(tmp_path / "bundle", debian_rootfs, args, built=built)).stdout.splitlines()) == 9
