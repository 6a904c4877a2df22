"""Between check and use: threads that change guest memory, or descriptors, under a call in flight."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import compare, compile_program, make_bundle, pysandbox, run_bundle, show_trace

pytestmark = [pytest.mark.kvm, pytest.mark.root]


def prepare(where: Path, rootfs: Path, source: str, *args: str, trace: str = "ring") -> Path:
    built = where / "built"
    built.mkdir()
    compile_program(built / "program", source)
    annotations = {"dev.pysandbox.trace": trace}
    return make_bundle(where / "bundle", rootfs, ["/tmp/built/program", *args], built=built, annotations=annotations)


def test_a_forged_pidfd_publishes_nothing(tmp_path: Path, busybox_rootfs: Path) -> None:
    """The monitor opens its trace and its copies of other files for moments; a number says nothing about a right."""
    result = compare(prepare(tmp_path, busybox_rootfs, "bnd_forge.c", "pidfd"))
    assert result.stdout == b"stolen 0\n"


def test_descriptors_up_to_the_limit(tmp_path: Path, busybox_rootfs: Path) -> None:
    result = compare(prepare(tmp_path, busybox_rootfs, "bnd_forge.c", "files"))
    assert result.stdout == b"files 0\n"


def test_the_program_recorded_is_the_program_executed(tmp_path: Path, busybox_rootfs: Path) -> None:
    bundle = prepare(tmp_path, busybox_rootfs, "bnd_forge.c", "path", trace="full")
    result = run_bundle(pysandbox(), bundle)
    assert (result.status, result.stdout) == (0, b"failed 0\n"), result
    asked: dict[int, str] = {}
    seen = []
    for record in show_trace(bundle):
        if record["name"] == "execve":
            asked[record["pid"]] = record["decoded"]["path"]
        elif record["kind"] == "exec" and record["pid"] in asked:
            assert record["decoded"]["path"] == asked[record["pid"]]
            seen.append(record["decoded"]["path"])
    assert len(seen) == 60
    assert set(seen) <= {"/tmp/program-a", "/tmp/program-b"}


def test_shared_memory_covers_what_was_asked_for(tmp_path: Path, busybox_rootfs: Path) -> None:
    compare(prepare(tmp_path, busybox_rootfs, "bnd_shm.c"))
