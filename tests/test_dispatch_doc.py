"""docs/syscalls.md follows the table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_page_is_current() -> None:
    command = [sys.executable, ROOT / "hack" / "gen_syscalls_doc.py", "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run hack/gen_syscalls_doc.py"
