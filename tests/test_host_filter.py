"""The monitor's own seccomp filter: what is in it, and what a monitor that was taken over can still do."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dispatch import GUEST, MONITOR, dispatcher
from support_programs import make_bundle, pysandbox
from support_ptrace import Tracee

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "hack"))
try:
    import gen_host_filter as generator
finally:
    sys.path.pop(0)

HOST_CALLS = 247
"""Host calls that can be reached from a guest. This figure only falls, but for calls that need a capability."""
HOST_CALLS_UNPRIVILEGED = 241
"""The same for a container without CAP_SYS_ADMIN."""
NEW_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x40000000)
NEVER_NEW = (0x80, 0x10000000, 0x20000000)  # time, user, pid

ALLOW, KILL = generator.ALLOW, generator.KILL_PROCESS
ERRNO = generator.ERRNO

SOURCES = generator.Sources(MONITOR)
PROGRAM = generator.program(SOURCES)
CODE = PROGRAM.assemble()
NUMBER = SOURCES.number

NEVER = """
    ptrace process_vm_readv process_vm_writev bpf kexec_load kexec_file_load init_module finit_module
    delete_module perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register keyctl add_key request_key
    open_by_handle_at pidfd_getfd kcmp seccomp execve open creat swapon swapoff reboot acct iopl ioperm modify_ldt
    fsopen fsmount fsconfig move_mount open_tree mount_setattr process_madvise memfd_secret landlock_restrict_self
    fanotify_init quotactl vhangup uselib pkey_mprotect remap_file_pages clone3 fork vfork set_robust_list rseq
    mseal map_shadow_stack move_pages migrate_pages lookup_dcookie
""".split()


def run(nr: int, args: tuple[int, ...] = (), arch: int = generator.AUDIT_ARCH_X86_64) -> tuple[int, bool]:
    """(answer of the filter, whether it looked at an argument), as the kernel would run it."""
    words = {0: nr, 4: arch}
    for i, value in enumerate((*args, 0, 0, 0, 0, 0, 0)[:6]):
        words[16 + 8 * i], words[20 + 8 * i] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
    acc = pc = 0
    looked = False
    while True:
        code, jt, jf, k = CODE[pc]
        pc += 1
        if code == generator.LD:
            acc = words[k]
            looked |= k >= 16
        elif code == generator.RET:
            return k, looked
        elif code == generator.JA:
            pc += k
        else:
            yes = {generator.JEQ: acc == k, generator.JGE: acc >= k, generator.JSET: bool(acc & k)}[code]
            pc += jt if yes else jf


def answer(name: str, *args: int) -> int:
    return run(NUMBER[name], args)[0]


# --- the program ---


def test_every_number_has_the_answer_of_the_list() -> None:
    numbers = {NUMBER[name] for name in SOURCES.allowed}
    with_rules = {NUMBER[name] for name in SOURCES.rules}
    for nr in [*range(2048), 0x40000000, 0x40000001, 0x7FFFFFFF, 0xFFFFFFFF]:
        got, looked = run(nr)
        assert looked == (nr in with_rules), nr
        if nr in with_rules:
            continue
        assert got == (ALLOW if nr in numbers else KILL), nr


def test_other_architectures_are_killed() -> None:
    for nr in (0, 1, 11, 20, 39):
        assert run(nr, arch=0x40000003)[0] == KILL  # i386: int 0x80


def test_calls_that_are_passed_on_are_allowed_by_number_alone() -> None:
    """The kernel keeps these in a bitmap and does not run the filter for them."""
    assert len(SOURCES.passed) > 140
    for name in SOURCES.passed - set(SOURCES.rules):
        assert run(NUMBER[name]) == (ALLOW, False), name


def test_dangerous_calls_are_not_in_it() -> None:
    for name in NEVER:
        assert answer(name) == KILL, name


def test_the_number_of_host_calls_only_falls() -> None:
    count = len(SOURCES.allowed)
    assert count <= HOST_CALLS, "a new host call needs a reason; the figure is published in docs/syscalls.md"
    assert count == HOST_CALLS, "it fell: lower HOST_CALLS"
    privileged = {*generator.CAPABLE, "setns"}  # of unshare and clone what makes no namespace is left
    assert count - len(privileged) == HOST_CALLS_UNPRIVILEGED
    assert f"{count} host calls can be reached" in (ROOT / "docs" / "syscalls.md").read_text()


def test_arguments() -> None:
    good_bad: list[tuple[str, tuple[int, ...], int]] = [
        ("clone", (0x10F00,), ALLOW),
        *(("clone", (0x11 | flag,), KILL) for flag in (1 << 28, 1 << 29)),
        ("execveat", (5, 0, 0, 0, 0x1000), ALLOW),
        ("execveat", (5, 0, 0, 0, 0), KILL),
        ("execveat", (5, 0, 0, 0, 0x1100), KILL),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 4), KILL),
        ("mmap", (0, 4096, 7 | 1 << 32), KILL),
        ("mprotect", (0, 4096, 1), ALLOW),
        ("mprotect", (0, 4096, 5), KILL),
        ("shmat", (1, 0, 0o10000), ALLOW),
        ("shmat", (1, 0, 0o110000), KILL),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x40000,), ALLOW),
        ("personality", (0x400000,), KILL),  # READ_IMPLIES_EXEC
        ("arch_prctl", (0x1002,), ALLOW),
        ("arch_prctl", (0x1001,), KILL),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 0), ALLOW),
        ("prctl", (4, 1), KILL),  # dumpable
        *(("prctl", (option,), KILL) for option in (22, 35, 59, 0x53564D41, 0x59616D61)),
        ("ioctl", (3, 0xAE80), ALLOW),
        ("ioctl", (3, 0x5401), ALLOW),
        *(("ioctl", (3, request), KILL) for request in (0x5412, 0x541C, 0xAE81, 0x4020AE76, 0xC0185879, 0x8B01)),
        *(("socket", (family, 1, 0), ALLOW) for family in (1, 2, 10, 16, 17)),
        *(("socket", (family, 1, 0), ERRNO | errno.EAFNOSUPPORT) for family in (0, 15, 29, 38, 40, 44, 0xFFFFFFFF)),
        ("socketpair", (40, 1, 0), ERRNO | errno.EAFNOSUPPORT),
        ("setsockopt", (3, 1, 2), ALLOW),
        ("setsockopt", (3, 6, 64), ALLOW),
        *(("setsockopt", (3, level, 63), ALLOW) for level in (0, 41)),
        *(("setsockopt", (3, level, 80), ALLOW) for level in (0, 41)),
        *(("setsockopt", (3, level, name), KILL) for level in (0, 41) for name in (64, 65, 96, 128, 131, 1152, 2**31)),
        ("setsockopt", (3, 41, 67), ALLOW),  # IPV6_TCLASS
        ("setsockopt", (3, 263, 22), KILL),
        ("setsockopt", (3, 1, 50), KILL),
        ("setsockopt", (3, 1, 52), KILL),
    ]
    for name, args, want in good_bad:
        assert answer(name, *args) == want, (name, args)


def test_requests_are_those_of_the_handlers() -> None:
    assert len(SOURCES.ioctl) > 80
    allowed = {*SOURCES.ioctl, *generator.KVM}
    for request in allowed:
        assert answer("ioctl", 3, request) == ALLOW
        for other in (request ^ 1, request + 1, request | 1 << 16):
            if other not in allowed:
                assert answer("ioctl", 3, other) == KILL


def test_capabilities_stand_at_the_right_instructions() -> None:
    found = {}
    for at, capability in PROGRAM.capable:
        assert CODE[at] == (generator.RET, 0, 0, ALLOW)
        saved, CODE[at] = CODE[at], (generator.RET, 0, 0, ERRNO | errno.EPERM)
        by_argument = {"clone": (0x20011,), "setns": (3, 0x20000), "unshare": (0x20000,)}
        changed = {name for name in SOURCES.number if answer(name, *by_argument.get(name, ())) == ERRNO | errno.EPERM}
        CODE[at] = saved
        (name,) = changed
        found[name] = capability
    assert found == generator.CAPABLE | generator.CAPABLE_BY_ARGUMENT


def test_namespaces() -> None:
    """Those of the monitor's rules, and no descriptor whose kind is not said."""
    for kind in NEW_NAMESPACES:
        assert answer("unshare", kind) == answer("setns", 3, kind) == answer("clone", kind | 17) == ALLOW
    for kind in NEVER_NEW:
        assert answer("unshare", kind) == answer("setns", 3, kind) == KILL
        assert answer("unshare", kind | 0x20000) == answer("setns", 3, kind | 0x20000) == KILL
        assert kind == 0x80 or answer("clone", kind | 17) == answer("clone", kind | 0x20011) == KILL
    assert answer("setns", 3, 0) == KILL
    assert answer("unshare", 0x200) == ALLOW


# --- the list against the monitor ---


def test_every_host_call_in_the_source_is_listed() -> None:
    text = "".join(f.read_text() for f in [*MONITOR.glob("*.[chS]"), *(MONITOR / "syscalls").glob("*.[ch]")])
    used = {name.removesuffix("_k") for name in re.findall(r"__NR_(\w+)", text)}
    # seccomp: installs the filter. The others are only compared with.
    assert used - SOURCES.allowed == {"seccomp", "io_pgetevents"}
    through_row = {"clock_getres", "futex_requeue", "getdents64", "preadv", "pwrite64", "pwritev", "readv"}
    through_row |= {"rt_sigreturn", "restart_syscall"}
    assert set(generator.OWN) - used <= through_row


def test_what_the_dispatcher_calls_passes() -> None:
    """All handlers, with arguments that are good and host answers of several kinds."""
    d = dispatcher()
    seen = set()
    for fd_class in range(1, 11):
        d.lib.fake_publish(5, fd_class)
        for row in d.rows():
            values = {"A_FD": 5, "A_ATFD": 5, "A_FDOPT": 5, "A_MAPFD": 5, "A_INT": 1, "A_UINT": 1, "A_LONG": 16}
            args = [values.get(a.kind, GUEST + 0x1000 * (i + 1)) for i, a in enumerate(row.args)]
            choices = {"ioctl": SOURCES.ioctl, "prctl": SOURCES.prctl, "fcntl": [*range(20), 36, 37, 38, *range(1024, 1040)]}
            for choice in choices.get(row.name, [None]):
                for result in (0, 7, -errno.EAGAIN, -errno.ENOENT):
                    for may_block in (True, False):
                        d.poke(GUEST, b"/x\0" + bytes(0x10000))
                        if choice is not None:
                            args[0 if row.name == "prctl" else 1] = choice
                        if row.name == "personality":
                            args[0] = 0
                        d.lib.fake_publish(5, fd_class)
                        d.lib.fake_answer(result)
                        d.call(row.nr, *args, may_block=may_block)
                        for nr, host_args in d.host_calls():
                            seen.add(nr)
                            got = run(nr, tuple(host_args))[0]
                            assert got in (ALLOW, ERRNO | errno.EAFNOSUPPORT), (row.name, nr, host_args)
    d.lib.fake_answer(0)
    assert len(seen) > 200


def test_socket_options_are_those_of_the_monitor() -> None:
    """Exactly what the monitor lets through passes the filter."""
    d = dispatcher()
    setsockopt, getsockopt = NUMBER["setsockopt"], NUMBER["getsockopt"]
    d.lib.fake_publish(5, 5)
    d.lib.fake_answer(0)
    d.poke(GUEST, b"\x10" + bytes(0x1000))
    for level in (0, 1, 6, 17, 41, 132, 255, 263, 2**32 - 1):
        for name in [*range(300), 1000, 1152, 1153, 2000, 2**31, 2**32 - 1]:
            if level == 1 and name in (26, 51):  # classic filters are copied
                continue
            result = d.call(setsockopt, 5, level, name, GUEST, 16)
            made = d.host_calls() != []
            assert result == (0 if made else -errno.ENOPROTOOPT)
            passes = answer("setsockopt", 5, level, name, GUEST, 16) == ALLOW
            # options that are only dangerous to get are left to the monitor
            assert passes if made else not passes or level in (6, 132), (level, name)
            if not made:
                assert d.call(getsockopt, 5, level, name, GUEST + 256, GUEST) == -errno.ENOPROTOOPT
                assert d.host_calls() == []


# --- in a container ---

SLEEPERS = 24


@pytest.fixture(scope="module")
def sleepers(tmp_path_factory: pytest.TempPathFactory, busybox_rootfs: Path) -> Iterator[list[int]]:
    """Host pids of processes that sleep in one container, and at the end those of its shells."""
    where = tmp_path_factory.mktemp("filter")
    script = f"for i in $(seq {SLEEPERS}); do sleep 10000 & done; sh -c 'sleep 10001; true' & wait"
    bundle = make_bundle(where / "bundle", busybox_rootfs, ["/bin/sh", "-c", script])
    name = f"filter-{where.name}"
    command = [pysandbox(), "--root", str(where / "state")]
    pid_file = where / "pid"
    with subprocess.Popen([*command, "run", "--bundle", str(bundle), "--pid-file", str(pid_file), name]) as process:
        try:
            yield wait_for_tree(pid_file)
        finally:
            subprocess.run([*command, "delete", "-f", name], check=False, capture_output=True)
            process.wait()


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_tree(pid_file: Path) -> list[int]:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        time.sleep(0.05)
        if not pid_file.exists() or not pid_file.read_text().strip():
            continue
        first = int(pid_file.read_text())
        below = children(first)
        if len(below) == SLEEPERS + 1 and (deep := children(below[-1])):
            sleeping = [p for p in [*below[:-1], *deep] if Path(f"/proc/{p}/wchan").read_text() == "hrtimer_nanosleep"]
            if len(sleeping) == SLEEPERS + 1:
                return [*below[:-1], first, *deep]
    raise AssertionError("the container did not come up")


def status(pid: int, field: str) -> str:
    return re.findall(rf"^{field}:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0]


@pytest.mark.kvm
@pytest.mark.root
def test_one_filter_however_deep(sleepers: list[int]) -> None:
    """Inherited by fork and execve, never stacked."""
    for pid in sleepers:
        assert status(pid, "Seccomp") == "2"
        assert status(pid, "Seccomp_filters") == "1"
        assert status(pid, "NoNewPrivs") == "1"


@pytest.mark.kvm
@pytest.mark.root
def test_where_the_monitors_descriptors_are(sleepers: list[int]) -> None:
    """bnd_magic.c tries these numbers, so they have to be there; the program has 0, 1 and 2."""
    text = (ROOT / "tests" / "programs" / "bnd_magic.c").read_text()
    tried = {int(n) for n in re.findall(r"\d+", re.findall(r"numbers\[\] = \{(.*)\}", text)[0])}
    for pid in sleepers:
        numbers = {int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir()} - {0, 1, 2}
        assert len(numbers) >= 4
        assert numbers <= tried


ATTACKS: list[tuple[str, tuple[int, ...]]] = [
    ("ptrace", (0, 0, 0, 0)),
    ("process_vm_writev", (1, 0, 0, 0, 0, 0)),
    ("bpf", (0, 0, 0)),
    ("setns", (3, 0)),
    # namespaces: time, user, pid
    *[("unshare", (1 << bit,)) for bit in (7, 28, 29)],
    ("unshare", (0x10000400,)),
    ("unshare", (0x10000,)),
    ("init_module", (0, 0, 0)),
    ("kexec_load", (0, 0, 0, 0)),
    ("io_uring_setup", (8, 0)),
    ("open_by_handle_at", (3, 0, 0)),
    ("seccomp", (1, 0, 0)),
    ("execve", (0, 0, 0)),
    ("execveat", (3, 0, 0, 0, 0)),
    ("clone", (0x10000011, 0, 0, 0, 0)),  # a user namespace
    ("clone3", (0, 88)),
    ("mmap", (0, 4096, 7, 0x22, -1, 0)),
    ("mprotect", (0, 4096, 5)),
    ("personality", (0x400000,)),
    ("prctl", (4, 1, 0, 0, 0)),
    ("prctl", (35, 1, 0, 0, 0)),
    ("ioctl", (0, 0x5412, 0)),  # TIOCSTI
    ("setsockopt", (0, 0, 64, 0, 0)),
    ("userfaultfd", (0,)),
]


@pytest.mark.kvm
@pytest.mark.root
def test_a_monitor_that_was_taken_over(sleepers: list[int]) -> None:
    """Calls put into a monitor with ptrace, from outside: the filter ends the process."""
    victims = sleepers[:SLEEPERS]
    for name, args in [("getppid", ()), ("mmap", (0, 4096, 3, 0x22, -1, 0))]:
        with Tracee(victims[0]) as tracee:
            assert tracee.call(NUMBER[name], *args) > 0
    with Tracee(victims[0]) as tracee:
        assert tracee.call(NUMBER["mount"], 0, 0, 0, 0, 0) == -errno.EPERM
        assert tracee.call(NUMBER["sethostname"], 0, 0) == -errno.EPERM
        assert tracee.call(NUMBER["unshare"], 0x20000) == -errno.EPERM
        assert tracee.call(NUMBER["setns"], 0, 0x20000) == -errno.EPERM
        assert tracee.call(NUMBER["clone"], 0x20011, 0, 0, 0, 0) == -errno.EPERM
        assert tracee.call(NUMBER["socket"], 38, 5, 0) == -errno.EAFNOSUPPORT
    for victim, (name, args) in zip(victims[1:], ATTACKS, strict=False):
        with Tracee(victim) as tracee:
            result = tracee.call(NUMBER[name], *args)
            assert result is None, f"{name} answered {result}"
            assert tracee.ended_by == 31, name  # SIGSYS
