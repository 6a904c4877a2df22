"""What the policy tests share: the monitor's evaluator, the real libseccomp, an interpreter for its filters."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pysandbox.runtime import abi
from pysandbox.runtime.policy import compiler

ROOT = Path(__file__).resolve().parent.parent
U64 = (1 << 64) - 1
AUDIT_ARCH_X86_64 = 0xC000003E

CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fPIC"]


class Result(ctypes.Structure):
    _fields_ = [("verdict", ctypes.c_uint32), ("data", ctypes.c_uint32), ("rule", ctypes.c_uint32)]


@functools.cache
def evaluator() -> ctypes.CDLL:
    """runtime/monitor/policy.c, as it is in the monitor."""
    with tempfile.TemporaryDirectory() as place:
        library = Path(place) / "policy.so"
        subprocess.run(
            ["gcc", *CFLAGS, "-shared", "-o", library, ROOT / "runtime" / "monitor" / "policy.c"], check=True
        )
        lib = ctypes.CDLL(str(library))
    lib.policy_check.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.policy_check.restype = ctypes.c_int
    lib.policy_decide.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint64 * 6)]
    lib.policy_decide.restype = Result
    return lib


class Blob:
    """A policy blob in memory, as a monitor has it."""

    def __init__(self, blob: bytes) -> None:
        self.size = len(blob)
        self.words = (ctypes.c_uint64 * ((len(blob) + 7) // 8))()
        ctypes.memmove(self.words, blob, len(blob))

    def check(self) -> bool:
        return bool(evaluator().policy_check(self.words, self.size) == 0)

    def decide(self, number: int, args: tuple[int, ...] = ()) -> tuple[int, int, int]:
        six = (ctypes.c_uint64 * 6)(*args)
        r = evaluator().policy_decide(self.words, number, ctypes.byref(six))
        return r.verdict, r.data, r.rule


# --- libseccomp --------------------------------------------------------------------------------------

_ACTION = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
}


class ArgCmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Refused(Exception):
    """libseccomp did not take a rule."""


@functools.cache
def libseccomp() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        return None
    lib = ctypes.CDLL(name)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_release.argtypes = [ctypes.c_void_p]
    lib.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(ArgCmp),
    ]
    lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    return lib


def action_of(name: str, errno_ret: int | None) -> int:
    value = _ACTION[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= 1 if errno_ret is None else errno_ret & 0xFFFF
    return value


def reference_filter(profile: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """The cBPF program that libseccomp makes of a profile when it is fed as runc feeds it, or `Refused`."""
    lib = libseccomp()
    assert lib is not None
    default = action_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
    ctx = lib.seccomp_init(default)
    try:
        for rule in profile["syscalls"]:
            action = action_of(rule["action"], rule.get("errnoRet"))
            if action == default:
                continue
            args = [
                ArgCmp(a["index"], compiler.OPERATORS[a["op"]], a["value"], a.get("valueTwo", 0))
                for a in rule.get("args", [])
            ]
            groups = [[arg] for arg in args] if len({a.arg for a in args}) < len(args) else [args]
            for name in rule["names"]:
                number = lib.seccomp_syscall_resolve_name(name.encode())
                for group in groups:
                    array = (ArgCmp * len(group))(*group)
                    r = lib.seccomp_rule_add_array(ctx, action, number, len(group), array)
                    if r:
                        raise Refused(os.strerror(-r))
        fd = os.memfd_create("bpf")
        try:
            assert lib.seccomp_export_bpf(ctx, fd) == 0
            code = os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)
    finally:
        lib.seccomp_release(ctx)
    return list(struct.iter_unpack("<HBBI", code))


def run_filter(program: list[tuple[int, int, int, int]], number: int, args: tuple[int, ...]) -> int:
    """The filter's verdict on a call; the part of classic BPF that seccomp filters use."""
    data = struct.pack("<IIQ6Q", number, AUDIT_ARCH_X86_64, 0, *args)
    acc = pc = 0
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        if code == 0x20:  # ld [k]
            acc = int.from_bytes(data[k : k + 4], "little")
        elif code == 0x54:  # and #k
            acc &= k
        elif code == 0x06:  # ret #k
            return k
        elif code == 0x05:  # ja
            pc += k
        elif code == 0x15:
            pc += jt if acc == k else jf
        elif code == 0x25:
            pc += jt if acc > k else jf
        elif code == 0x35:
            pc += jt if acc >= k else jf
        else:
            raise AssertionError(f"instruction {code:#x} is not known")


_VERDICT = {
    abi.VERDICT_ALLOW: 0x7FFF0000,
    abi.VERDICT_ERRNO: 0x00050000,
    abi.VERDICT_KILL_THREAD: 0,
    abi.VERDICT_KILL_PROCESS: 0x80000000,
    abi.VERDICT_TRAP: 0x00030000,
    abi.VERDICT_TRACE: 0x7FF00000,
    abi.VERDICT_LOG: 0x7FFC0000,
}


def as_kernel(verdict: int, data: int) -> int:
    """Our verdict as a filter's return value."""
    return _VERDICT[verdict] | data
