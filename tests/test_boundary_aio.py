"""Native AIO beside runc: results, every error, pointers that are not the program's."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle, pysandbox, run_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return build_programs(tmp_path / "built", aio="bnd_aio.c")


def test_results_and_errors(tmp_path: Path, debian_rootfs: Path, built: Path) -> None:
    result = compare(make_bundle(tmp_path / "aio", debian_rootfs, ["/tmp/built/aio"], built=built))
    assert result.stdout.decode().splitlines()[-1] == "end"


def test_without_ring_server(tmp_path: Path, debian_rootfs: Path, built: Path) -> None:
    annotations = {"dev.pysandbox.dispatch": "exit"}
    bundle = make_bundle(tmp_path / "exit", debian_rootfs, ["/tmp/built/aio"], built=built, annotations=annotations)
    result = run_bundle(pysandbox(), bundle)
    assert (result.status, result.stdout.decode().splitlines()[-1], result.stderr) == (0, "end", b""), result
