"""Calls that begin to wait although a moment ago they would not have: signals reach the thread, whoever makes its call."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
@pytest.mark.parametrize("mode", ["accept", "read", "open", "fifo"])
def test_signals_interrupt(tmp_path: Path, busybox_rootfs: Path, mode: str, dispatch: str) -> None:
    built = build_programs(tmp_path / "built", program="bnd_stuck.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    args = ["/tmp/built/program", mode]
    result = compare(make_bundle(tmp_path / "bundle", busybox_rootfs, args, built=built, annotations=annotations))
    assert result.stdout.endswith(b"good 1\n")
