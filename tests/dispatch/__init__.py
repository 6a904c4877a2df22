"""The monitor's dispatcher as a shared library for unit tests: no KVM, host calls recorded instead of made."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MONITOR = ROOT / "runtime" / "monitor"
LIMIT = 0x700000000000
GUEST = 0x100000000000  # far from the heap of whatever Python runs the tests
"""Guest memory of the fake: 1 MiB, readable and writable, zero."""
TO_TRAP = -1000
NO_RETURN = -1001


@dataclass(frozen=True)
class Arg:
    """Type of one argument: `kind` is a name of enum arg_kind, `link` and `size` as in struct arg."""

    kind: str
    link: int
    size: int


@dataclass(frozen=True)
class Row:
    nr: int
    name: str
    door: str
    refuse: int
    args: tuple[Arg, ...]


def _enum(name: str) -> list[str]:
    """Enumerators of an enum of row.h, in order."""
    text = (MONITOR / "syscalls" / "row.h").read_text()
    body = text.split(f"enum {name} {{", 1)[1].split("};", 1)[0]
    out = []
    for line in body.splitlines():
        word = line.split("/*")[0].strip().rstrip(",").split("=")[0].strip()
        if word:
            out.append(word)
    return out


class Dispatcher:
    """One loaded copy of the library. State (descriptors, policy) is shared by all instances of a process."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library))
        self.lib.fake_call.restype = ctypes.c_long
        self.lib.fake_called.restype = ctypes.c_long
        self.lib.fake_close.restype = ctypes.c_long
        self.lib.fake_answer.argtypes = [ctypes.c_long]
        assert self.lib.fake_start() == 0

    def call(self, nr: int, *args: int, may_block: bool = True) -> int:
        """Dispatches one call; missing arguments are 0."""
        raw = (ctypes.c_uint64 * 6)(*args)
        return int(self.lib.fake_call(nr, raw, int(may_block)))

    def host_calls(self) -> list[tuple[int, list[int]]]:
        """(number, arguments) of the host calls the last call() led to."""
        out = []
        for i in range(self.lib.fake_calls()):
            raw = (ctypes.c_uint64 * 6)()
            out.append((int(self.lib.fake_called(i, raw)), list(raw)))
        return out

    def rows(self) -> list[Row]:
        kinds, doors = _enum("arg_kind"), ["", *_enum("call_door")]
        out = []
        for nr in range(1024):
            name = ctypes.create_string_buffer(64)
            raw = (ctypes.c_uint32 * 22)()
            if not self.lib.fake_row(nr, name, raw):
                continue
            args = tuple(Arg(kinds[raw[4 + 3 * i]], raw[5 + 3 * i], raw[6 + 3 * i]) for i in range(raw[1]))
            out.append(Row(nr, name.value.decode(), doors[raw[0]], raw[2], args))
        return out

    def poke(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def peek(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)


def build(directory: Path) -> Path:
    """Compiles the dispatcher, its handlers and the fake into a shared library."""
    out = directory / "libdispatch.so"
    here = Path(__file__).parent
    names = "dispatch fd limits policy seccomp procfs procfs_made procfs_name procfs_peer procfs_size"
    tested = [MONITOR / f"{name}.c" for name in names.split()] + sorted((MONITOR / "syscalls").glob("*.c"))
    flags = "-std=gnu11 -O1 -g -fPIC -shared -Wall -Wextra -Werror -fno-strict-aliasing -fno-builtin"
    sources = [str(here / "fake.c"), *map(str, tested)]
    command = ["gcc", *flags.split(), "-include", str(here / "record.h"), "-o", str(out), *sources]
    subprocess.run(command, check=True)
    return out


@functools.cache
def dispatcher() -> Dispatcher:
    """The one of this process: its guest memory stands at a fixed address."""
    with tempfile.TemporaryDirectory() as directory:
        return Dispatcher(build(Path(directory)))
