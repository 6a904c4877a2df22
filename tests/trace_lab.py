"""The monitor's trace writer (runtime/monitor/trace.c) in the test process, with a Python face."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

from pysandbox.runtime import abi
from pysandbox.runtime.trace import create_trace_file

ROOT = Path(__file__).resolve().parent.parent
NO_CHUNK = 0xFFFFFFFF


class Ref(ctypes.Structure):
    """struct trace_ref."""

    _fields_ = [
        ("ordinal", ctypes.c_uint64),
        ("seq", ctypes.c_uint64),
        ("offset", ctypes.c_uint32),
        ("nr", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("refused", ctypes.c_bool),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    monitor = ROOT / "runtime" / "monitor"
    sources = [ROOT / "tests" / "trace_lab.c", monitor / "trace.c", monitor / "lib.c", monitor / "copy.S"]
    flags = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-fPIC", "-shared", "-pthread"]
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "trace.so"
        subprocess.run(["gcc", *flags, "-o", out, *sources], check=True)
        lib = ctypes.CDLL(str(out))
    u32, u64, ptr = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    lib.lab_new.restype = ptr
    lib.lab_new.argtypes = [ctypes.c_char_p, u32, u32, u64, u32, ctypes.c_int, ctypes.POINTER(ctypes.c_long)]
    lib.lab_identify.argtypes = [ptr, u32, u32, ctypes.c_char_p]
    lib.lab_write.restype = ctypes.c_long
    lib.lab_write.argtypes = [
        *[ptr, u32, u32, u32, u32, u32, u32, u32, u64],
        *[ctypes.POINTER(u64 * 6), u32, u32, ctypes.c_char_p, u32, ctypes.POINTER(Ref)],
    ]
    lib.lab_end.argtypes = [ptr, ctypes.POINTER(Ref), ctypes.c_int64]
    lib.lab_noreturn.argtypes = [ptr, ctypes.POINTER(Ref)]
    lib.lab_child.argtypes = [ptr]
    lib.lab_exec_save.restype = u32
    lib.lab_exec_save.argtypes = [ptr, ctypes.POINTER(u64)]
    lib.lab_close.argtypes = [ptr]
    lib.lab_khz.argtypes = [ptr, u32]
    lib.lab_threads.argtypes = [ptr, u32, u32]
    lib.lab_bench.argtypes = [ptr, u32, ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_double)]
    return lib


def new_file(path: Path, mode: str = "ring", size: int = 4 << 20) -> str:
    """A fresh trace file; its path."""
    os.close(create_trace_file(str(path), "lab", mode, size))
    return str(path)


class Tracer:
    """A guest process as the trace sees it. Its pid is made up: dead for the writer unless it is a real one."""

    def __init__(
        self,
        path: str,
        pid: int = 0,
        *,
        comm: str = "lab",
        mode: int = abi.TRACE_RING,
        resume: tuple[int, int] | None = None,
        may_grow: bool = True,
    ) -> None:
        error = ctypes.c_long()
        seq, chunk = resume or (0, NO_CHUNK)
        self.handle = library().lab_new(
            path.encode(), mode, resume is not None, seq, chunk, may_grow, ctypes.byref(error)
        )
        self.error = error.value
        self.identify(pid, comm)

    def identify(self, pid: int, comm: str = "lab") -> None:
        library().lab_identify(self.handle, pid, pid + 1000 if pid else 0, comm.encode())

    def write(
        self,
        nr: int = 39,
        args: tuple[int, ...] = (),
        *,
        kind: int = abi.REC_CALL,
        tid: int = 1,
        flags: int = 0,
        verdict: int = 0,
        door: int = 0,
        rule: int = 0,
        site: int = 0,
        item: tuple[int, int, bytes] | None = None,
    ) -> Ref:
        """Writes a record; `item` is (type, argument, bytes). `OSError` when it is refused."""
        ref = Ref()
        six = (ctypes.c_uint64 * 6)(*[arg & (1 << 64) - 1 for arg in args])
        type_, arg, data = item if item is not None else (0, 0, None)
        r = library().lab_write(
            *[self.handle, kind, nr, tid, flags, verdict, door, rule, site],
            *[ctypes.byref(six), type_, arg, data, len(data or b""), ctypes.byref(ref)],
        )
        if r:
            raise OSError(-r, os.strerror(-r))
        return ref

    def end(self, ref: Ref, ret: int = 0) -> None:
        library().lab_end(self.handle, ctypes.byref(ref), ret)

    def noreturn(self, ref: Ref) -> None:
        library().lab_noreturn(self.handle, ctypes.byref(ref))

    def call(self, nr: int = 39, args: tuple[int, ...] = (), ret: int = 0, **more: object) -> None:
        self.end(self.write(nr, args, **more), ret)  # type: ignore[arg-type]

    def event(self, kind: int, args: tuple[int, ...] = (), path: bytes | None = None, **more: object) -> None:
        item = None if path is None else (abi.ITEM_STRING, 255, path)
        self.write(0, args, kind=kind, flags=abi.REC_DONE, item=item, **more)  # type: ignore[arg-type]

    def become_child(self, pid: int) -> None:
        library().lab_child(self.handle)
        self.identify(pid)

    def exec_save(self) -> tuple[int, int]:
        seq = ctypes.c_uint64()
        chunk = library().lab_exec_save(self.handle, ctypes.byref(seq))
        return seq.value, chunk

    def close(self) -> None:
        library().lab_close(self.handle)

    def threads(self, count: int, calls: int) -> int:
        return int(library().lab_threads(self.handle, count, calls))

    def set_khz(self, khz: int) -> None:
        library().lab_khz(self.handle, khz)
