"""Which error a call gives when several could be given, and other small print of the kernel, beside runc."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.mark.parametrize("dispatch", ["auto", "exit"])
def test_errors(tmp_path: Path, debian_rootfs: Path, dispatch: str) -> None:
    built = build_programs(tmp_path / "built", errors="bnd_errors.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    bundle = make_bundle(tmp_path / "errors", debian_rootfs, ["/tmp/built/errors"], built=built, annotations=annotations)
    assert compare(bundle).stdout.decode().splitlines()[-1] == "end"
