"""How calls are printed follows from the monitor's table of system calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pysandbox.runtime.syscall_names import number_of
from pysandbox.runtime.trace import flags
from pysandbox.runtime.trace.decode import signature
from pysandbox.runtime.trace.signatures import TABLE

ROOT = Path(__file__).resolve().parent.parent


def test_generated_file_is_current() -> None:
    subprocess.run([sys.executable, ROOT / "hack" / "gen_trace_signatures.py", "--check"], check=True)


def test_every_line_is_a_call() -> None:
    lines = TABLE.split("\n")[:-1]
    assert len(lines) > 250
    for line in lines:
        name, *kinds = line.split()
        assert number_of(name) is not None, name
        assert len(kinds) <= 6, name


def test_flag_tables_belong_to_arguments_that_exist() -> None:
    for name, tables in flags.BY_CALL.items():
        kinds = signature(name)
        assert number_of(name) is not None, name
        if kinds is not None:  # calls that are not offered have no signature
            assert max(tables) < len(kinds), name


def test_every_flag_table_can_be_read() -> None:
    tables = [value for value in vars(flags).values() if isinstance(value, flags.Enum | flags.Bits)]
    assert len(tables) > 40
    for table in tables:
        for value in (0, 1, 2, 0xFFFFFFFF, 1 << 63):
            assert table.name(value)
    assert flags.OPEN.name(0o2000101) == "O_WRONLY|O_CREAT|O_CLOEXEC"
    assert flags.MAP.name(0x22) == "MAP_PRIVATE|MAP_ANONYMOUS"
    assert flags.CLONE_WITH_SIGNAL.name(0x4111) == "SIGCHLD|CLONE_VM|CLONE_VFORK"
    assert flags.PROT.name(0) == "PROT_NONE"
    assert flags.WAIT.name(0) == "0"
