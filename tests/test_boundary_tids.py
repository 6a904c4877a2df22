"""Thread numbers: programs meet their own threads and those of other programs, never a monitor's."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
@pytest.mark.parametrize("whose", ["own", "other"])
def test_no_way_to_a_thread_of_the_monitor(tmp_path: Path, busybox_rootfs: Path, whose: str, dispatch: str) -> None:
    built = build_programs(tmp_path / "built", program="bnd_tids.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    args = ["/tmp/built/program", whose]
    compare(make_bundle(tmp_path / "bundle", busybox_rootfs, args, built=built, annotations=annotations))
