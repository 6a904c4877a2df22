"""Shell scripts: the same bytes and status under pysandbox and runc."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import compare, make_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash"])
def test_posix_script(tmp_path: Path, debian_rootfs: Path, shell: str) -> None:
    bundle = make_bundle(tmp_path / Path(shell).name, debian_rootfs, [shell, "/tmp/programs/run_shell.sh", "a b"])
    result = compare(bundle, status=42, stdin=b"from standard input\n")
    assert result.stdout.endswith(b"not found: 127\nthe end\n")


def test_busybox_script(tmp_path: Path, busybox_rootfs: Path) -> None:
    bundle = make_bundle(tmp_path / "busybox", busybox_rootfs, ["/bin/sh", "/tmp/programs/run_shell.sh", "a b"])
    result = compare(bundle, status=42, stdin=b"from standard input\n")
    assert result.stdout.endswith(b"not found: 127\nthe end\n")


def test_bash_script(tmp_path: Path, debian_rootfs: Path) -> None:
    # pid 1 cannot kill itself: hence the outer shell, whose status is its child's.
    script = "/bin/bash /tmp/programs/run_bash.sh; exit $?"
    compare(make_bundle(tmp_path / "bash", debian_rootfs, ["/bin/sh", "-c", script]), status=137)


STATUSES = [("exit 7", 7), ("kill -TERM $$; exit 1", 1), ("sh -c 'kill -SEGV $$'; exit $?", 139)]


@pytest.mark.parametrize(("command", "status"), STATUSES)
def test_status(tmp_path: Path, busybox_rootfs: Path, command: str, status: int) -> None:
    bundle = make_bundle(tmp_path / "status", busybox_rootfs, ["/bin/sh", "-c", f"echo {status}; {command}"])
    compare(bundle, status=status)


def test_script_by_its_first_line(tmp_path: Path, busybox_rootfs: Path) -> None:
    """`#!` with an argument, and a script that is another script's interpreter."""
    command = """
        printf '#!/bin/sh -e\\necho inner "$@"; false; echo unreached\\n' > inner
        printf '#!/tmp/inner  one two \\nthis is not read\\n' > outer
        printf 'echo "no first line: $0"\\n' > plain
        chmod +x inner outer plain
        ./outer three; echo $?
        ./plain; echo $?
        printf '#!/no/such/interpreter\\n' > lost; chmod +x lost; ./lost; echo $?
    """
    compare(make_bundle(tmp_path / "hash-bang", busybox_rootfs, ["/bin/sh", "-c", command]))
