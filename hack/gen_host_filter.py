"""Writes the monitor's own seccomp filter as a C header: gen_host_filter.py MONITOR_DIRECTORY OUTPUT.

The filter is what invariant 6 asks for: the calls a monitor makes, and nothing else. It is made from the same rows as the
dispatcher: a row that goes straight to the kernel (PASS) is allowed by its number alone, so that the kernel's bitmap of
constant answers serves it without running the filter; `OWN` names what handlers and the monitor itself call. Requests of
ioctl and options of prctl come from the lists of their handlers.

A number that is not listed kills the process. No path through the dispatcher leads to one, so nobody but code that has
taken over a monitor can notice, and it gets no second try. An argument that is not listed kills too where the monitor
never passes it; where the guest's own number goes through to the kernel, the answer is the kernel's without the feature.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

MONITOR = Path(__file__).resolve().parents[1] / "runtime" / "monitor"

# Calls of handlers and of the monitor itself. Rows that are passed on stand in table.h only.
OWN = """
    arch_prctl capget chroot clock_getres clock_gettime clone close dup3 epoll_pwait epoll_pwait2 epoll_wait
    eventfd2 execveat exit exit_group faccessat2 fchmodat fchownat fcntl fstat futex futex_requeue futex_waitv
    getdents getdents64 getpid getpriority getrandom getrusage getsockopt gettid inotify_add_watch ioctl
    ioprio_get ioprio_set linkat madvise
    memfd_create mmap mount mprotect mq_notify mq_open mremap munmap name_to_handle_at newfstatat openat openat2
    pause personality pipe2 poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2
    read readlinkat readv recvfrom recvmsg rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend
    rt_sigtimedwait sched_getaffinity sched_setattr select semctl sendmsg sendto set_tid_address setns setpriority
    setsockopt shmat shmdt
    shmget signalfd4 socket socketpair statx timer_create umount2 unshare utimensat waitid write writev
    restart_syscall
""".split()  # the last: how the kernel itself continues a call with a timeout after SIGSTOP

KILL_PROCESS, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
EPERM, EINVAL, EAFNOSUPPORT = 1, 22, 97
AUDIT_ARCH_X86_64 = 0xC000003E
DATA_NR, DATA_ARCH, DATA_ARGS = 0, 4, 16
DIE_PROCESS = 1023
"""A number no kernel has, and not listed: how a monitor ends its process by SIGSYS."""

# KVM's requests on /dev/kvm, VM and vCPU.
KVM_RUN = 0xAE80
KVM = {
    KVM_RUN: "KVM_RUN", 0xAE01: "KVM_CREATE_VM", 0xAE04: "KVM_GET_VCPU_MMAP_SIZE", 0xC008AE05: "KVM_GET_SUPPORTED_CPUID",
    0x4020AE46: "KVM_SET_USER_MEMORY_REGION", 0xAE41: "KVM_CREATE_VCPU", 0x4008AE90: "KVM_SET_CPUID2",
    0x4188AEA7: "KVM_SET_XCRS", 0x4018AEE1: "KVM_SET_DEVICE_ATTR", 0x8138AE83: "KVM_GET_SREGS",
    0x4138AE84: "KVM_SET_SREGS", 0x4008AE89: "KVM_SET_MSRS", 0x9000AEA4: "KVM_GET_XSAVE", 0x5000AEA5: "KVM_SET_XSAVE",
    0x8040AE9F: "KVM_GET_VCPU_EVENTS", 0x4040AEA0: "KVM_SET_VCPU_EVENTS",
}  # fmt: skip

# Calls that a kernel refuses first of all for want of a capability: without it they are not reachable at all.
CAP_SYS_ADMIN = 21
CAPABLE = dict.fromkeys(("mount", "umount2", "pivot_root", "sethostname", "setdomainname"), CAP_SYS_ADMIN)
CAPABLE_BY_ARGUMENT = dict.fromkeys(("clone", "setns", "unshare"), CAP_SYS_ADMIN)
"""The same for some of their flags."""

UNSHARED = 0x40600
"""CLONE_FS, CLONE_FILES, CLONE_SYSVSEM."""
NEW_NAMESPACES = 0x7E020080
"""All kinds; by clone(2)'s flags, where the last is part of the signal's number."""
ALLOWED_NAMESPACES = 0x4E020000
"""Mount, cgroup, uts, ipc, net: `CLONE_NEW_ALLOWED` of linux_abi.h."""
PROT_EXEC = 4
SHM_EXEC = 0o100000
AT_EMPTY_PATH = 0x1000
ARCH_SET_FS = 0x1002
ADDR_NO_RANDOMIZE = 0x40000
PR_SET_DUMPABLE = 4
PRCTL = [PR_SET_DUMPABLE, 8, 24, 28, 38, 40, 47]
"""Besides the rows of ident.c: KEEPCAPS, CAPBSET_DROP, SECUREBITS, NO_NEW_PRIVS, GET_TID_ADDRESS, CAP_AMBIENT, by handlers of
their own."""
SOL_SOCKET, SOL_PACKET = 1, 263

Insn = tuple[int, int, int, int]
LD, AND, RET, JA, JEQ, JGE, JSET = 0x20, 0x54, 0x06, 0x05, 0x15, 0x35, 0x45


class Program:
    """Instructions with labels; jumps lead forward only, as the kernel demands."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int | str, int | str, int | str]] = []
        self.place: dict[str, int] = {}
        self.capable: list[tuple[int, int]] = []
        self._names = 0

    def label(self) -> str:
        self._names += 1
        return f"L{self._names}"

    def mark(self, label: str) -> None:
        self.place[label] = len(self.code)

    def emit(self, code: int, k: int | str = 0, jt: int | str = 0, jf: int | str = 0) -> None:
        self.code.append((code, jt, jf, k))

    def argument(self, i: int) -> None:
        """The low word of an argument: those looked at are ints, or have no meaning above."""
        self.emit(LD, DATA_ARGS + 8 * i)

    def assemble(self) -> list[Insn]:
        out: list[Insn] = []
        for at, (code, jt, jf, k) in enumerate(self.code):
            jump = [x if isinstance(x, int) else self.place[x] - at - 1 for x in (jt, jf, k)]
            if not (0 <= jump[0] < 256 and 0 <= jump[1] < 256 and jump[2] >= 0):
                raise ValueError(f"instruction {at}: a jump too far")
            out.append((code, jump[0], jump[1], jump[2]))
        if len(out) > 4096:
            raise ValueError("more instructions than a filter may have")
        return out


Rule = Callable[[Program], None]


def number_tree(p: Program, values: list[int], found: int, otherwise: int) -> None:
    """The accumulator against a list, by halves."""
    if len(values) <= 3:
        for value in values:
            p.emit(JEQ, value, 0, 1)
            p.emit(RET, found)
        p.emit(RET, otherwise)
        return
    half = len(values) // 2
    upper = p.label()
    p.emit(JGE, values[half], 0, 1)
    p.emit(JA, upper)
    number_tree(p, values[:half], found, otherwise)
    p.mark(upper)
    number_tree(p, values[half:], found, otherwise)


def one_of(arg: int, values: list[int], otherwise: int = KILL_PROCESS) -> Rule:
    def rule(p: Program) -> None:
        p.argument(arg)
        number_tree(p, sorted(values), ALLOW, otherwise)

    return rule


def without(arg: int, bits: int, otherwise: int = KILL_PROCESS) -> Rule:
    def rule(p: Program) -> None:
        p.argument(arg)
        p.emit(JSET, bits, 0, 1)
        p.emit(RET, otherwise)
        p.emit(RET, ALLOW)

    return rule


def namespaces_rule(arg: int, refused: int, *, needed: bool = False) -> Rule:
    """Flags in `refused` kill, the allowed kinds of namespaces need the capability. `needed`: so does everything else."""

    def rule(p: Program) -> None:
        p.argument(arg)
        p.emit(JSET, refused, 0, 1)
        p.emit(RET, KILL_PROCESS)
        p.emit(JSET, ALLOWED_NAMESPACES, 0, 1)
        p.capable.append((len(p.code), CAP_SYS_ADMIN))
        p.emit(RET, ALLOW)
        p.emit(RET, KILL_PROCESS if needed else ALLOW)

    return rule


def ioctl_rule(requests: list[int]) -> Rule:
    def rule(p: Program) -> None:
        p.argument(1)
        p.emit(JEQ, KVM_RUN, 0, 1)  # the request that counts in time
        p.emit(RET, ALLOW)
        number_tree(p, sorted({*requests, *KVM} - {KVM_RUN}), ALLOW, KILL_PROCESS)

    return rule


def prctl_rule(options: list[int]) -> Rule:
    def rule(p: Program) -> None:
        p.argument(0)
        p.emit(JEQ, PR_SET_DUMPABLE, 0, 4)
        p.argument(1)  # never dumpable again
        p.emit(JEQ, 0, 0, 1)
        p.emit(RET, ALLOW)
        p.emit(RET, KILL_PROCESS)
        number_tree(p, sorted(set(options) - {PR_SET_DUMPABLE}), ALLOW, KILL_PROCESS)

    return rule


def setsockopt_rule(p: Program) -> None:
    """Not netfilter's own calls among the options of IP and IPv6, not programs by pointer or descriptor: the monitor
    refuses these (net.c, option_refused)."""
    ip, ip6, sock, packet = (p.label() for _ in range(4))
    p.argument(1)
    p.emit(JEQ, 0, ip)
    p.emit(JEQ, 41, ip6)
    p.emit(JEQ, SOL_SOCKET, sock)
    p.emit(JEQ, SOL_PACKET, packet)
    p.emit(RET, ALLOW)
    p.mark(ip)
    p.argument(2)
    ranges(p, [(0, 63), (80, 80), (200, 212)])
    p.mark(ip6)
    p.argument(2)
    ranges(p, [(0, 63), (66, 67), (70, 95), (200, 212)])
    p.mark(sock)
    p.argument(2)
    number_tree(p, [50, 52], KILL_PROCESS, ALLOW)
    p.mark(packet)
    p.argument(2)
    number_tree(p, [22], KILL_PROCESS, ALLOW)


def ranges(p: Program, allowed: list[tuple[int, int]]) -> None:
    """The accumulator in one of these ranges, which are in order."""
    for low, high in allowed:
        p.emit(JGE, low, 1, 0)
        p.emit(RET, KILL_PROCESS)
        p.emit(JGE, high + 1, 1, 0)
        p.emit(RET, ALLOW)
    p.emit(RET, KILL_PROCESS)


class Sources:
    """What the monitor's sources say."""

    def __init__(self, monitor: Path) -> None:
        self.table = (monitor / "syscalls" / "table.h").read_text()
        self.number: dict[str, int] = {}
        self.passed: set[str] = set()
        for kind, nr, name, rest in re.findall(r"^(ROW|NO)\((\d+), (\w+), ([^\n]*)", self.table, re.MULTILINE):
            self.number[name] = int(nr)
            if kind == "ROW" and rest.split(", ")[1] == "PASS":
                self.passed.add(name)
        ioctl = (monitor / "syscalls" / "ioctl.c").read_text()
        self.ioctl = [int(r, 0) for r in re.findall(r"^\t\{(0x[0-9a-f]+|\d+), I_", ioctl, re.MULTILINE)]
        ident = (monitor / "syscalls" / "ident.c").read_text()
        rows = re.findall(r"^\t\{(\d+), PR_", ident, re.MULTILINE)
        self.prctl = [*map(int, rows), *PRCTL]
        families = re.search(r"^#define SOCKET_FAMILIES \(([^)]*)\)", (monitor / "linux_abi.h").read_text(), re.MULTILINE)
        if not (self.ioctl and rows and families):
            raise ValueError("the handlers' lists were not found")
        self.families = [int(n) for n in re.findall(r"1u << (\d+)", families[1])]
        unknown = {*OWN, *CAPABLE, *CAPABLE_BY_ARGUMENT} - set(self.number)
        twice = set(OWN) & self.passed
        if unknown or twice:
            raise ValueError(f"names without a row: {sorted(unknown)}; passed on anyhow: {sorted(twice)}")

    @functools.cached_property
    def allowed(self) -> set[str]:
        """Names of the host calls that can be reached from a monitor."""
        return self.passed | set(OWN)

    @functools.cached_property
    def rules(self) -> dict[str, Rule]:
        """Calls whose arguments are looked at."""
        return {
            "arch_prctl": one_of(0, [ARCH_SET_FS]),
            "clone": namespaces_rule(0, NEW_NAMESPACES & ~ALLOWED_NAMESPACES & ~0xFF),
            "execveat": one_of(4, [AT_EMPTY_PATH]),
            "ioctl": ioctl_rule(self.ioctl),
            "mmap": without(2, PROT_EXEC),
            "mprotect": without(2, PROT_EXEC),
            "personality": one_of(0, [0, ADDR_NO_RANDOMIZE, 0xFFFFFFFF]),
            "prctl": prctl_rule(self.prctl),
            "setns": namespaces_rule(1, ~ALLOWED_NAMESPACES & 0xFFFFFFFF, needed=True),
            "setsockopt": setsockopt_rule,
            "shmat": without(2, SHM_EXEC),
            "socket": one_of(0, self.families, ERRNO | EAFNOSUPPORT),
            "socketpair": one_of(0, self.families, ERRNO | EAFNOSUPPORT),
            "unshare": namespaces_rule(0, ~(ALLOWED_NAMESPACES | UNSHARED) & 0xFFFFFFFF),
        }


def leaves(s: Sources) -> list[tuple[int, str]]:
    """(first number, what): ranges of one answer each. What: "allow", "kill" or the call's own name."""
    what = {s.number[n]: n if n in s.rules or n in CAPABLE else "allow" for n in s.allowed}
    out = [(0, what.get(0, "kill"))]
    for nr in range(1, max(what) + 2):
        answer = what.get(nr, "kill")
        if answer != out[-1][1]:
            out.append((nr, answer))
    return out


def program(s: Sources) -> Program:
    p = Program()
    p.emit(LD, DATA_ARCH)
    p.emit(JEQ, AUDIT_ARCH_X86_64, 1, 0)
    p.emit(RET, KILL_PROCESS)
    p.emit(LD, DATA_NR)
    block = {name: p.label() for name in s.rules}
    p.emit(JEQ, s.number["ioctl"], 0, 1)
    p.emit(JA, block["ioctl"])

    def tree(part: list[tuple[int, str]]) -> None:
        if len(part) > 1:
            half = len(part) // 2
            upper = p.label()
            p.emit(JGE, part[half][0], 0, 1)
            p.emit(JA, upper)
            tree(part[:half])
            p.mark(upper)
            tree(part[half:])
            return
        what = part[0][1]
        if what in block:
            p.emit(JA, block[what])
        else:
            if what in CAPABLE:
                p.capable.append((len(p.code), CAPABLE[what]))
            p.emit(RET, KILL_PROCESS if what == "kill" else ALLOW)

    tree(leaves(s))
    for name, rule in s.rules.items():
        p.mark(block[name])
        rule(p)
    return p


def header(s: Sources) -> str:
    p = program(s)
    lines = [
        "/* Generated by hack/gen_host_filter.py. */",
        "#pragma once",
        f"#define HOST_DIE_PROCESS {DIE_PROCESS}",
        f"#define HOST_FILTER_EPERM 0x{ERRNO | EPERM:x}u",
        "static const struct filter_insn host_filter[] = {",
        *(f"\t{{0x{code:02x}, {jt}, {jf}, 0x{k:x}u}}," for code, jt, jf, k in p.assemble()),
        "};",
        "static const struct filter_capable host_filter_capable[] = {",
        *(f"\t{{{at}, {capability}}}," for at, capability in p.capable),
        "};",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    monitor, output = argv
    Path(output).write_text(header(Sources(Path(monitor))), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
