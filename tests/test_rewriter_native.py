"""Rewritten programs run natively, without KVM: see test_rewriter_native.c."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pysandbox.runtime.rewriter import analyse, build_image

HERE = Path(__file__).resolve().parent
PROGRAM = r"""
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int seen;
static void on(int n) { seen = n; }
int main(int argc, char **argv)
{
	signal(SIGUSR1, on);
	raise(SIGUSR1);
	printf("%d %s signal %d\n", argc, argv[1], seen == SIGUSR1);
	fflush(stdout);
	int p[2], status;
	char text[6] = "";
	if (pipe(p))
		return 1;
	if (!fork())
		return write(p[1], "child", 5) == 5 ? 3 : 4;
	wait(&status);
	printf("%zd %s %d %d\n", read(p[0], text, 5), text, WEXITSTATUS(status), close(99));
	return 7;
}
"""


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "fsgsbase" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the CPU has no FSGSBASE")
    out = tmp_path_factory.mktemp("native") / "native"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-fno-stack-protector", "-mfsgsbase", "-static-pie"]
    source = HERE / "test_rewriter_native.c"
    subprocess.run(["gcc", *flags, f"-I{HERE.parent / 'shim'}", "-o", out, source], check=True)
    return out


class Run:
    def __init__(self, loader: Path, tmp_path: Path, objects: list[str]) -> None:
        self.loader, self.tmp_path, self.counts = loader, tmp_path, tmp_path / "counts"
        lines = []
        for i, name in enumerate(objects):
            image = build_image(analyse(name))
            if image is not None:
                (tmp_path / f"{i}.image").write_bytes(image)
                st = os.stat(name)
                lines.append(f"{st.st_dev} {st.st_ino} {tmp_path / f'{i}.image'}\n")
        (tmp_path / "plans").write_text("".join(lines))

    def __call__(self, program: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs it natively and under the loader; both must answer alike. Returns the rewritten run."""
        native = [program, *argv[1:]]
        plain = subprocess.run(native, capture_output=True, text=True, timeout=60, check=False)
        env = {**os.environ, "COUNTS": str(self.counts)}
        words = [self.loader, self.tmp_path / "plans", program, *argv]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=env, check=False)
        assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout), done.stderr
        return done

    def totals(self) -> tuple[int, int, int]:
        rows = re.findall(r"jump=(\d+) trap=(\d+) raw=(\d+)", self.counts.read_text())
        assert rows
        jump, trap, raw = (max(int(row[i]) for row in rows) for i in range(3))
        return jump, trap, raw


@pytest.mark.parametrize("how", ["gcc -O1 -static-pie", "gcc -O2 -static", "musl-gcc -O1 -static", "gcc -O2"])
def test_small_program(loader: Path, tmp_path: Path, how: str) -> None:
    if shutil.which(how.split()[0]) is None:
        pytest.skip(f"{how.split()[0]} is not installed")
    (tmp_path / "p.c").write_text(PROGRAM)
    program = str(tmp_path / "p")
    subprocess.run([*how.split(), "-o", program, tmp_path / "p.c"], check=True)
    libraries = [] if "static" in how else ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
    run = Run(loader, tmp_path, [program, *libraries])
    done = run(program, program, "word")
    assert done.returncode == 7
    assert "2 word signal 1\n" in done.stdout
    assert "5 child 3 -1\n" in done.stdout
    jump, _, raw = run.totals()
    assert jump > 10
    # musl's signal return keeps its bytes for unwinders: one raw call for the one signal.
    assert raw <= (1 if "musl" in how else 0)


DYNAMIC = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2", "/bin/busybox"]


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        ("/usr/bin/dash", ["sh", "-c", "echo $(ls / | wc -l); for i in 1 2 3; do /bin/true; done; exit $((3*4))"]),
        (
            "/bin/busybox",
            ["busybox", "sh", "-c", "seq 200 | sort -n | tail -1; echo $(echo a b | wc -w) & wait; exit 3"],
        ),
        (
            "/usr/bin/python3",
            [
                "python3",
                "-c",
                "import json,sqlite3; print(sqlite3.connect(':memory:').execute('select 1').fetchone())",
            ],
        ),
        (
            "/usr/bin/python3",
            [
                "python3",
                "-c",
                "import subprocess; print(subprocess.run(['/bin/echo', 'sub'], capture_output=True).stdout)",
            ],
        ),
        ("/usr/bin/perl", ["perl", "-e", "print join(',', map { $_ * 2 } 1..5), `echo shell`"]),
    ],
)
def test_real_program(loader: Path, tmp_path: Path, program: str, argv: list[str]) -> None:
    if not Path(program).exists() or not Path("/bin/busybox").exists():
        pytest.skip(f"{program} or busybox is not installed")
    run = Run(loader, tmp_path, DYNAMIC)
    run(os.path.realpath(program), *argv)
    jump, _, raw = run.totals()
    assert jump > 20
    assert raw == 0  # every call of every process went through a rewritten site
