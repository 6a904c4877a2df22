"""Descriptor numbers: what was checked is what is used, whatever other threads do with the number meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import compare, compile_program, make_bundle, pysandbox, run_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


def prepare(where: Path, rootfs: Path, *args: str, dispatch: str = "auto") -> Path:
    built = where / "built"
    built.mkdir()
    compile_program(built / "program", "bnd_numbers.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    return make_bundle(where / "bundle", rootfs, ["/tmp/built/program", *args], built=built, annotations=annotations)


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_select_while_the_table_grows(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """How many numbers are looked at is decided once: the copies of the sets are as long as that."""
    result = compare(prepare(tmp_path, busybox_rootfs, "select", dispatch=dispatch))
    assert result.stdout == b"select 0\n"


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_one_table_for_all_threads_of_a_process(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """A process that parts from another one's descriptors takes its ring server along."""
    result = compare(prepare(tmp_path, busybox_rootfs, "part", dispatch=dispatch))
    assert result.stdout == b"part 0 0\n"


def test_more_uses_than_a_counter_holds(tmp_path: Path, busybox_rootfs: Path) -> None:
    """A number that calls use is not given away. (Under the kernel it may be: there a call has the file, not the number.)"""
    result = run_bundle(pysandbox(), prepare(tmp_path, busybox_rootfs, "holds"))
    lines = ["one more than a message takes: 1", "given to another file: 0", "free again: 1"]
    assert (result.status, result.stdout.decode().splitlines()) == (0, lines), result
