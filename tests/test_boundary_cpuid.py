"""`cpuid` from the shim's table: the same as the instruction, whatever interrupts it. The program is tests/programs/cpuid.c."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support_programs import compare, compile_program, make_bundle, pysandbox

LEAVES = 22 * 6


@pytest.mark.kvm
@pytest.mark.root
def test_cpuid_is_the_same(tmp_path: Path, busybox_rootfs: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    program = compile_program(built / "cpuid", "cpuid.c")
    report = subprocess.run([pysandbox(), "rewrite", "--json", program], capture_output=True, text=True, check=True)
    assert json.loads(report.stdout)["counts"]["cpuid"] >= 5  # the program's own among them: what is compared is the table
    bundle = make_bundle(tmp_path / "bundle", busybox_rootfs, ["/tmp/built/cpuid"], built=built)
    lines = compare(bundle).stdout.decode().splitlines()
    assert lines == [
        f"{LEAVES} compared, 0 differ",
        "interrupted: 0 differ, 0 signals outside the program's text",
    ]
