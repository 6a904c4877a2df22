"""Language runtimes and tools of the Debian root file system: the same bytes and status under pysandbox and runc."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_programs import compare, make_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]

PYTHON = "/usr/bin/python3"
GCC = "cp /tmp/programs/hello.c . && gcc -O1 -Wall -o a.out hello.c -lm && ./a.out sandbox"
GCC_STEPS = "gcc -S -o h.s /tmp/programs/hello.c && as -o h.o h.s && gcc -static h.o -lm && ./a.out; exit $?"

# name: arguments, exit status
PROGRAMS: dict[str, tuple[list[str], int]] = {
    "threading": ([PYTHON, "/tmp/programs/run_threading.py"], 0),
    "subprocess": ([PYTHON, "/tmp/programs/run_subprocess.py"], 0),
    "multiprocessing-fork": ([PYTHON, "/tmp/programs/run_multiprocessing.py", "fork"], 0),
    "multiprocessing-spawn": ([PYTHON, "/tmp/programs/run_multiprocessing.py", "spawn"], 0),
    "asyncio": ([PYTHON, "/tmp/programs/run_asyncio.py"], 0),
    "metadata": ([PYTHON, "/tmp/programs/run_metadata.py"], 0),
    "calls": ([PYTHON, "/tmp/programs/run_calls.py"], 0),
    "limits": ([PYTHON, "/tmp/programs/run_limits.py"], 0),
    "openat2": ([PYTHON, "/tmp/programs/run_openat2.py"], 0),
    "procfs-again": ([PYTHON, "/tmp/programs/run_renew.py"], 0),
    "modules": ([PYTHON, "/tmp/programs/run_modules.py"], 0),
    "traceback": ([PYTHON, "-c", "print('before', flush=True); 1 / 0"], 1),
    "node": (["/usr/bin/node", "/tmp/programs/run_node.js"], 0),
    "perl": (["/usr/bin/perl", "/tmp/programs/run_perl.pl"], 12),
    "go": (["/opt/hello-go", "argument", "second"], 0),
    "musl": (["/opt/hello-musl", "argument"], 0),
    "gcc": (["/bin/sh", "-c", GCC], 23),
    "gcc-steps": (["/bin/sh", "-c", GCC_STEPS], 23),
    "git": (["/bin/sh", "/tmp/programs/run_git.sh"], 0),
    "files": (["/bin/sh", "/tmp/programs/run_files.sh"], 0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(tmp_path: Path, debian_rootfs: Path, name: str) -> None:
    args, status = PROGRAMS[name]
    compare(make_bundle(tmp_path / name, debian_rootfs, args), status=status)
