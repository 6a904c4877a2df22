"""Device rules as a BPF program, for cgroup version 2, which has no device controller of its own.

The program's type is BPF_PROG_TYPE_CGROUP_DEVICE: it is run for every open and mknod of a device node, and 1 allows. Its
context is struct bpf_cgroup_dev_ctx: {u32 access << 16 | type, u32 major, u32 minor} (linux/bpf.h).
"""

from __future__ import annotations

import os

from pysandbox.oci.cgroups_devices import DeviceRules
from pysandbox.oci.errors import from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pysandbox.oci.spec import DeviceRule

# Codes of instructions: class | source | operation (Documentation/bpf/standardization/instruction-set.rst).
_LDX_W, _AND32, _RSH32, _MOV32 = 0x61, 0x54, 0x74, 0xB4
_JA, _JNE32, _JSET32, _EXIT = 0x05, 0x56, 0x46, 0x95
_RESULT, _CONTEXT, _TYPE, _ACCESS, _MAJOR, _MINOR = range(6)  # registers
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_BITS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_ALL = 7


def device_program(rules: Iterable[DeviceRule]) -> bytes:
    """The program for these rules and the defaults behind them; instructions of 8 bytes.

    A request for several accesses at once is allowed by an exception that grants all of them, and denied by one that
    denies any.
    """
    from struct import pack

    def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
        # Device numbers are unsigned, the field is signed: same bits.
        return pack("<BBhI", code, src << 4 | dst, off, imm & 0xFFFFFFFF)

    def answer(allow: bool) -> list[bytes]:
        return [insn(_MOV32, _RESULT, imm=int(allow)), insn(_EXIT)]

    wanted = DeviceRules.of(rules)
    program = [
        insn(_LDX_W, _TYPE, _CONTEXT, 0), insn(_AND32, _TYPE, imm=0xFFFF),
        insn(_LDX_W, _ACCESS, _CONTEXT, 0), insn(_RSH32, _ACCESS, imm=16),
        insn(_LDX_W, _MAJOR, _CONTEXT, 4), insn(_LDX_W, _MINOR, _CONTEXT, 8),
    ]  # fmt: skip
    for (kind, major, minor), letters in sorted(wanted.exceptions.items()):
        access = sum(_BITS[c] for c in letters)
        # Each test is (code, register, value): a jump to the next exception, unless the condition fails.
        tests = [(_JNE32, _TYPE, _TYPES[kind])]
        if major >= 0:
            tests.append((_JNE32, _MAJOR, major))
        if minor >= 0:
            tests.append((_JNE32, _MINOR, minor))
        if access != _ALL and not wanted.allow:
            tests.append((_JSET32, _ACCESS, _ALL & ~access))
        length = len(tests) + 2
        if access != _ALL and wanted.allow:
            length += 2
        for code, register, value in tests:
            length -= 1
            program.append(insn(code, register, off=length, imm=value))
        if access != _ALL and wanted.allow:
            # "None of these bits" has no jump of its own: jump over the jump away.
            program += [insn(_JSET32, _ACCESS, off=1, imm=access), insn(_JA, off=2)]
        program += answer(not wanted.allow)
    return b"".join(program + answer(wanted.allow))


def attach(directory: str, rules: tuple[DeviceRule, ...]) -> None:
    """Makes the program that of a version 2 group, in the place of those attached to it before. `ResourceError`."""
    from pysandbox.runtime import native

    program = device_program(rules)
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"open {directory}", error) from None
    try:
        try:
            native.attach_device_filter(fd, program)
        except PermissionError:
            _unlimit_locked_memory()
            native.attach_device_filter(fd, program)
    except OSError as error:
        raise from_os_error(f"attach device filter to {directory}", error) from None
    finally:
        os.close(fd)


def _unlimit_locked_memory() -> None:
    """Before Linux 5.11 programs count as locked memory of the user's, and the limit is low."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass  # then the next attempt fails as this one, and says so
