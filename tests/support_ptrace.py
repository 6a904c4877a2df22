"""System calls put into a stopped process from outside (x86-64): what code of the attacker's in a monitor could do."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Self

PTRACE_PEEKTEXT, PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH = 1, 9, 12, 13, 17
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
PTRACE_O_EXITKILL = 0x100000
NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
SYSCALL = 0x050F

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in NAMES.split()]


class Tracee:
    """A process sleeping in a system call, stopped; its registers are put back at the end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended_by: int | None = None
        """Signal that ended it."""
        self._saved = Registers()

    def _ptrace(self, request: int, address: object = None, data: object = None) -> int:
        ctypes.set_errno(0)
        result = int(_libc.ptrace(request, self.pid, address, data))
        if result == -1 and ctypes.get_errno():
            raise OSError(ctypes.get_errno(), f"ptrace {request:#x}: {os.strerror(ctypes.get_errno())}")
        return result

    def _wait(self) -> None:
        _, status = os.waitpid(self.pid, 0x40000000)  # __WALL
        if os.WIFSIGNALED(status):
            self.ended_by = os.WTERMSIG(status)

    def __enter__(self) -> Self:
        self._ptrace(PTRACE_SEIZE)
        self._ptrace(PTRACE_INTERRUPT)
        self._wait()
        self._ptrace(PTRACE_GETREGS, None, ctypes.byref(self._saved))
        return self

    def call(self, nr: int, *args: int) -> int | None:
        """The result, or None when the process ended of it."""
        regs = Registers.from_buffer_copy(self._saved)
        site = regs.rip - 2
        word = self._ptrace(PTRACE_PEEKTEXT, site) & 0xFFFF
        assert word == SYSCALL, "not stopped in a system call"
        regs.rip = site
        regs.rax, regs.orig_rax = nr, 2**64 - 1  # no restart of the interrupted call
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), (*args, 0, 0, 0, 0, 0, 0), strict=False):
            setattr(regs, name, value & (2**64 - 1))
        self._ptrace(PTRACE_SETREGS, None, ctypes.byref(regs))
        self._ptrace(PTRACE_SINGLESTEP)
        self._wait()
        if self.ended_by is not None:
            return None
        self._ptrace(PTRACE_GETREGS, None, ctypes.byref(regs))
        assert regs.rip == self._saved.rip
        return ctypes.c_int64(regs.rax).value

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.ended_by is None:
            self._ptrace(PTRACE_SETREGS, None, ctypes.byref(self._saved))
            self._ptrace(PTRACE_DETACH)
