"""The system-call table: every row's arguments are checked before anything reaches the host."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from dispatch import GUEST, LIMIT, MONITOR, NO_RETURN, TO_TRAP, Arg, Dispatcher, Row, dispatcher

POINTERS = {
    *("A_RANGE", "A_PATH", "A_PATHN", "A_STR", "A_STRN", "A_PTR", "A_BUF", "A_ARR", "A_BITS", "A_PAGEVEC", "A_IOV"),
    *("A_SADDR", "A_NEST", "A_STRV"),
}
FD = 5
NOTIFY = 7  # PSB_VERDICT_NOTIFY
FORBIDDEN = [LIMIT, LIMIT + 8, LIMIT + 0x1000, 0x7FFFFFFFF000, 0xFFFF800000000000, 2**64 - 1]


@pytest.fixture(scope="session")
def d() -> Dispatcher:
    return dispatcher()


@pytest.fixture(autouse=True)
def _fresh(d: Dispatcher) -> None:
    d.lib.fake_answer(0)
    d.lib.fake_publish(FD, 1)
    d.lib.fake_publish(0, 1)
    d.lib.fake_policy(511, 0, 0)
    d.poke(GUEST, bytes(0x10000))


def number(d: Dispatcher, name: str) -> int:
    return next(r.nr for r in d.rows() if r.name == name)


def plausible(row: Row) -> list[int]:
    """Arguments that pass every check."""
    out: list[int] = []
    for arg in row.args:
        if arg.kind in POINTERS:
            out.append(GUEST + 0x1000 * (len(out) + 1))
        elif arg.kind in ("A_FD", "A_ATFD", "A_FDOPT", "A_MAPFD"):
            out.append(FD)
        else:
            out.append(16)
    return out + [0] * (6 - len(out))


def pointer_arguments(d: Dispatcher) -> list[tuple[Row, int, Arg]]:
    return [(r, i, a) for r in d.rows() if not r.refuse for i, a in enumerate(r.args) if a.kind in POINTERS]


def test_every_pointer_into_the_monitor_is_efault(d: Dispatcher) -> None:
    checked = 0
    for row, i, _ in pointer_arguments(d):
        for bad in FORBIDDEN:
            args = plausible(row)
            args[i] = bad
            ret = d.call(row.nr, *args)
            assert ret == -errno.EFAULT, f"{row.name} argument {i} = {bad:#x}: {ret}"
            assert d.host_calls() == [], f"{row.name} argument {i} = {bad:#x}"
            checked += 1
    assert checked > 1000


def test_every_object_reaching_into_the_monitor_is_efault(d: Dispatcher) -> None:
    """The pointer itself is good, the end of what it points to is not."""
    checked = 0
    for row, i, arg in pointer_arguments(d):
        if arg.kind in ("A_PTR", "A_NEST", "A_STRV"):
            size = arg.size
        elif arg.kind in ("A_BUF", "A_ARR", "A_IOV"):
            size = 16 * max(arg.size, 1) if arg.kind != "A_BUF" else 16 + arg.size
        else:
            continue
        if size < 2:
            continue
        args = plausible(row)
        args[i] = LIMIT - size + 1
        assert d.call(row.nr, *args) == -errno.EFAULT, f"{row.name} argument {i}"
        assert d.host_calls() == [], row.name
        checked += 1
    assert checked > 150


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, LIMIT + 1, 2**64 - GUEST])
def test_lengths_do_not_wrap(d: Dispatcher, length: int) -> None:
    for row, i, arg in pointer_arguments(d):
        if arg.kind not in ("A_BUF", "A_ARR") or row.args[arg.link].kind != "A_LONG":
            continue
        args = plausible(row)
        args[arg.link] = length
        # of a message the kernel first says that it cannot be so long
        wanted = errno.EINVAL if row.name in ("msgsnd", "msgrcv") else errno.EFAULT
        assert d.call(row.nr, *args) == -wanted, f"{row.name} argument {i} with {length:#x} bytes"
        assert d.host_calls() == []
        assert d.host_calls() == [], row.name


def test_long_transfers_are_cut_to_what_was_checked(d: Dispatcher) -> None:
    d.lib.fake_publish(FD, 2)
    assert d.call(number(d, "read"), FD, GUEST, 2**40) == 0
    assert d.host_calls() == [(0, [FD, GUEST, 0x7FFFF000, 0, 0, 0])]


def test_unpublished_descriptors_do_not_reach_the_host(d: Dispatcher) -> None:
    seen = 0
    for row in d.rows():
        if row.refuse or row.name in ("mmap",):
            continue
        for i, arg in enumerate(row.args):
            if arg.kind != "A_FD":
                continue
            for fd in (6, 1001, 1005, 2**31 - 1, 0xFFFFFFFF, 2**32 + 6):
                args = plausible(row)
                args[i] = fd
                if row.args[0].kind == "A_PATH":
                    continue
                assert d.call(row.nr, *args) == -errno.EBADF, f"{row.name} argument {i} = {fd}"
                assert d.host_calls() == [], row.name
                seen += 1
    assert seen > 300


def test_only_the_low_half_of_a_descriptor_counts(d: Dispatcher) -> None:
    d.lib.fake_publish(FD, 2)
    assert d.call(number(d, "lseek"), 2**32 + FD, 0, 0) == 0
    assert d.host_calls()[0][1][0] == FD


def test_directory_descriptors_that_are_not_published_become_minus_one(d: Dispatcher) -> None:
    d.poke(GUEST, b"/abs\0")
    assert d.call(number(d, "mkdirat"), 1005, GUEST, 0o777) == 0
    assert d.host_calls()[0][1][0] == 2**64 - 1


def test_a_thread_of_the_monitor_is_not_there(d: Dispatcher) -> None:
    hidden = 13
    checked = 0
    for row in d.rows():
        for i, arg in enumerate(row.args):
            if row.refuse or arg.kind not in ("A_PID", "A_CLOCK"):
                continue
            args = plausible(row)
            args[i] = hidden if arg.kind == "A_PID" else ~hidden << 3
            for may_block in (True, False):
                result = d.call(row.nr, *args, may_block=may_block)
                assert result in (TO_TRAP, -errno.ESRCH if arg.kind == "A_PID" else -errno.EINVAL), row.name
                assert not d.host_calls(), row.name
            checked += 1
    assert checked >= 30


def test_unknown_numbers(d: Dispatcher) -> None:
    known = {r.nr for r in d.rows()}
    for nr in [*range(337, 424), 471, 500, 4096, 0x40000000, 0x40000001, 0xFFFFFFFF]:
        assert nr not in known
        assert d.call(nr, *([GUEST] * 6)) == -errno.ENOSYS
        assert d.host_calls() == []
        assert d.lib.fake_records(2) == 8  # recorded, as unsupported


def test_refused_calls_are_recorded_and_not_made(d: Dispatcher) -> None:
    refused = [r for r in d.rows() if r.refuse]
    assert {
        "ptrace",
        "io_uring_setup",
        "bpf",
        "userfaultfd",
        "pidfd_getfd",
        "open_by_handle_at",
    } <= {r.name for r in refused}
    for row in refused:
        assert d.call(row.nr, *([GUEST] * 6)) == -row.refuse, row.name
        assert d.host_calls() == []
        assert d.lib.fake_records(0) == d.lib.fake_records(1) == 1
        assert d.lib.fake_records(2) == (8 if row.refuse == errno.ENOSYS else 9)


def test_numbers_are_the_kernels(d: Dispatcher) -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    native = {int(n): name for name, n in re.findall(r"__NR_(\w+) (\d+)", header.read_text())}
    ours = {r.nr: r.name for r in d.rows()}
    assert {nr: name for nr, name in ours.items() if nr in native} == native


def test_agents_decide(d: Dispatcher) -> None:
    """On the thread; what an agent lets pass is made with the copied arguments, what is refused stays refused."""
    nr, refused = number(d, "mkdir"), number(d, "ptrace")
    d.poke(GUEST, b"/x\0")
    for call, result, go_on, expected, made in (
        (nr, -errno.ENOMEDIUM, 0, -errno.ENOMEDIUM, 0), (nr, 7, 0, 7, 0), (nr, 0, 1, 0, 1),
        (refused, 0, 1, -errno.EPERM, 0), (refused, 5, 0, 5, 0), (400, 0, 1, -errno.ENOSYS, 0),
    ):  # fmt: skip
        d.lib.fake_policy(call, NOTIFY, 0)
        d.lib.fake_agent(result, go_on)
        assert d.call(call, GUEST, 0, may_block=False) == TO_TRAP
        d.lib.fake_answer(0)
        assert d.call(call, GUEST, 0) == expected
        assert len(d.host_calls()) == made
        assert all(arguments[0] != GUEST for _, arguments in d.host_calls())


def test_policy_is_decided_before_the_call(d: Dispatcher) -> None:
    nr = number(d, "mkdir")
    d.poke(GUEST, b"/x\0")
    d.lib.fake_policy(nr, 1, 42)
    assert d.call(nr, GUEST, 0) == -42
    assert d.host_calls() == []
    d.lib.fake_policy(nr, 4, 7)  # TRAP: a signal, so never on the ring
    assert d.call(nr, GUEST, 0, may_block=False) == TO_TRAP
    assert d.lib.fake_records(0) == 0
    assert d.call(nr, GUEST, 0) == NO_RETURN
    assert d.host_calls() == []


def test_calls_of_the_thread_leave_the_ring_untouched(d: Dispatcher) -> None:
    rows = [r for r in d.rows() if r.door == "DOOR_TRAP"]
    assert len(rows) > 80
    for row in rows:
        assert d.call(row.nr, *plausible(row), may_block=False) == TO_TRAP, row.name
        assert d.host_calls() == []
        assert d.lib.fake_records(0) == 0


@pytest.mark.parametrize("op", [0, 6, 7, 8, 9, 11, 13, 128, 137, 265])
def test_futexes_that_wait_or_own_are_the_threads(d: Dispatcher, op: int) -> None:
    nr = number(d, "futex")
    assert d.call(nr, GUEST, op, 0, 0, GUEST, 0, may_block=False) == TO_TRAP
    assert d.host_calls() == []
    assert d.call(nr, GUEST, op, 0, 0, GUEST, 0) == 0
    assert [n for n, _ in d.host_calls()] == [nr]


@pytest.mark.parametrize("timeout", [-1, 1])
def test_nothing_ready_goes_to_the_thread(d: Dispatcher, timeout: int) -> None:
    """And what the guest passed is as it was: the retry sees the same sets."""
    d.poke(GUEST, struct.pack("<ihh", FD, 1, 7) + struct.pack("<QQ", 1, 0))
    before = d.peek(GUEST, 64)
    poll, epoll, select = (number(d, n) for n in ("poll", "epoll_wait", "select"))
    assert d.call(poll, GUEST, 1, timeout % 2**64, may_block=False) == TO_TRAP
    assert d.host_calls()[-1] == (7, [*d.host_calls()[-1][1][:2], 0, 0, 0, 0])
    assert d.call(epoll, FD, GUEST + 512, 1, timeout % 2**64, may_block=False) == TO_TRAP
    d.poke(GUEST + 256, struct.pack("<Q", 1 << FD))
    assert d.call(select, FD + 1, GUEST + 256, 0, 0, GUEST + 8, may_block=False) == TO_TRAP
    assert d.peek(GUEST, 64) == before
    assert d.peek(GUEST + 256, 8) == struct.pack("<Q", 1 << FD)


@pytest.mark.parametrize("kind", [4, 5, 7])  # pipe, socket, eventfd
def test_reads_that_would_wait_go_to_the_thread(d: Dispatcher, kind: int) -> None:
    d.lib.fake_publish(FD, kind)
    d.lib.fake_answer(-errno.EAGAIN)
    assert d.call(number(d, "read"), FD, GUEST, 8, may_block=False) == TO_TRAP
    assert [n for n, _ in d.host_calls()] == [327, 72]  # preadv2 with RWF_NOWAIT, then F_GETFL
    d.lib.fake_answer(-errno.EPIPE)  # SIGPIPE is for the thread
    assert d.call(number(d, "write"), FD, GUEST, 8, may_block=False) == TO_TRAP
    assert d.call(number(d, "write"), FD, GUEST, 5000, may_block=False) == TO_TRAP
    assert d.host_calls() == []  # could be cut short


# --- pointers inside structures ---


@pytest.mark.parametrize("name", ["readv", "writev", "preadv", "pwritev", "preadv2", "pwritev2", "vmsplice"])
@pytest.mark.parametrize("bad", FORBIDDEN[:4])
def test_iovec_elements(d: Dispatcher, name: str, bad: int) -> None:
    d.lib.fake_publish(FD, 2)
    d.poke(GUEST, struct.pack("<4Q", GUEST, 8, bad, 8))
    assert d.call(number(d, name), FD, GUEST, 2) == -errno.EFAULT
    assert d.host_calls() == []
    d.poke(GUEST, struct.pack("<4Q", GUEST, 8, LIMIT - 4, 8))
    assert d.call(number(d, name), FD, GUEST, 2) == -errno.EFAULT
    assert d.host_calls() == []


def test_the_host_gets_a_copy_of_the_iovec(d: Dispatcher) -> None:
    d.lib.fake_publish(FD, 2)
    d.poke(GUEST, struct.pack("<2Q", GUEST + 64, 8))
    d.call(number(d, "readv"), FD, GUEST, 1)
    [(_, args)] = d.host_calls()
    assert args[1] != GUEST
    assert d.call(number(d, "readv"), FD, GUEST, 1025) == -errno.EINVAL


def message(name: int = 0, iov: int = GUEST + 256, count: int = 1, control: int = 0, controllen: int = 0) -> bytes:
    return struct.pack("<QIIQQQQII", name, 16 if name else 0, 0, iov, count, control, controllen, 0, 0)


@pytest.mark.parametrize("call", ["sendmsg", "recvmsg", "sendmmsg", "recvmmsg"])
@pytest.mark.parametrize("field", ["name", "iov", "control", "base"])
@pytest.mark.parametrize("bad", FORBIDDEN[:4])
def test_message_headers(d: Dispatcher, call: str, field: str, bad: int) -> None:
    d.lib.fake_publish(FD, 5)  # a socket
    d.poke(GUEST + 256, struct.pack("<2Q", GUEST + 512, 8))
    fields: dict[str, dict[str, int]] = {
        "name": {"name": bad},
        "iov": {"iov": bad},
        "control": {"control": bad, "controllen": 32},
        "base": {},
    }
    if field == "base":
        d.poke(GUEST + 256, struct.pack("<2Q", bad, 8))
    d.poke(GUEST, message(**fields[field]))
    args = (FD, GUEST, 1, 0) if "mm" in call else (FD, GUEST, 0)
    assert d.call(number(d, call), *args) == -errno.EFAULT
    assert d.host_calls() == []


def test_only_published_descriptors_are_sent(d: Dispatcher) -> None:
    d.lib.fake_publish(FD, 5)  # a socket
    d.poke(GUEST + 256, struct.pack("<2Q", GUEST + 512, 8))
    d.poke(GUEST + 768, struct.pack("<QiiII", 24, 1, 1, FD, 1005))
    d.poke(GUEST, message(control=GUEST + 768, controllen=24))
    assert d.call(number(d, "sendmsg"), FD, GUEST, 0) == -errno.EBADF
    assert d.host_calls() == []


@pytest.mark.parametrize("bad", FORBIDDEN[:4])
def test_other_nested_pointers(d: Dispatcher, bad: int) -> None:
    d.poke(GUEST, struct.pack("<QQII", 0, bad, 2, 0))
    assert d.call(number(d, "futex_waitv"), GUEST, 1, 0, 0, 0) == -errno.EFAULT
    d.poke(GUEST, struct.pack("<QQII", 0, GUEST, 2, 0) + struct.pack("<QQII", 0, bad, 2, 0))
    assert d.call(number(d, "futex_requeue"), GUEST, 0, 1, 1) == -errno.EFAULT
    d.poke(GUEST, struct.pack("<QQ", bad, 8))
    assert d.call(number(d, "pselect6"), 0, 0, 0, 0, 0, GUEST) == -errno.EFAULT
    d.poke(GUEST, struct.pack("<HHHHQ", 1, 0, 0, 0, bad))
    assert d.call(number(d, "setsockopt"), FD, 1, 26, GUEST, 16) == -errno.EFAULT
    d.poke(GUEST, struct.pack("<Qii", bad, FD, 2) + bytes(48))
    assert d.call(number(d, "mq_notify"), FD, GUEST) == -errno.EFAULT
    d.poke(GUEST, struct.pack("<iiQ", 40, 0, bad))
    assert d.call(number(d, "ioctl"), FD, 0x8912, GUEST) == -errno.EFAULT
    assert d.host_calls() == []


@pytest.mark.parametrize("bad", FORBIDDEN[:4])
def test_pointers_that_depend_on_the_operation(d: Dispatcher, bad: int) -> None:
    def efault(name: str, *args: int) -> None:
        assert d.call(number(d, name), *args) == -errno.EFAULT, (name, args)
        assert d.host_calls() == [], (name, args)

    for op in (3, 4, 5, 12):  # second futex word
        efault("futex", GUEST, op, 1, 1, bad, 0)
    for op in (0, 6, 9, 11, 13):  # timeout
        efault("futex", GUEST, op, 1, bad, GUEST, 0)
    for op in (5, 6, 7, 15, 16, 17, 36, 37, 38, 1035, 1036, 1037, 1038):
        efault("fcntl", FD, op, bad)
    for op in (2, 15, 16, 25, 37, 40):
        efault("prctl", op, bad, 0, 0, 0)
    for op in (1, 2, 3, 13, 17, 18, 19, 20):
        efault("semctl", 1, 0, op, bad)
    source = (MONITOR / "syscalls" / "ioctl.c").read_text()
    requests = [
        int(r, 16) if r.startswith("0x") else int(r)
        for r in re.findall(r"\{(0x[0-9a-f]+|\d+), I_(?:PTR|IFCONF|RANGE|FIEMAP)", source)
    ]
    assert len(requests) > 60
    for request in requests:
        efault("ioctl", FD, request, bad)


def test_unknown_operations_are_refused(d: Dispatcher) -> None:
    assert d.call(number(d, "ioctl"), FD, 0xAE01, 0) == -errno.ENOTTY  # KVM_CREATE_VM
    assert d.call(number(d, "ioctl"), FD, 0xAE80, 0) == -errno.ENOTTY  # KVM_RUN
    assert d.call(number(d, "prctl"), 35, 1, GUEST) == -errno.EINVAL  # PR_SET_MM
    assert d.call(number(d, "prctl"), 22, 2, GUEST) == -errno.EINVAL  # PR_SET_SECCOMP
    assert d.call(number(d, "fcntl"), FD, 9999, 0) == -errno.EINVAL
    assert d.host_calls() == []


# --- descriptors ---


def test_close_of_a_held_number_leaves_a_placeholder(d: Dispatcher) -> None:
    """Otherwise the number could name a file that is still being examined when the holder's call is made."""
    d.lib.fake_publish(40, 2)
    assert d.lib.fake_hold(40) == 1
    d.lib.fake_answer(60)
    assert d.lib.fake_close(40) == 0
    assert [nr for nr, _ in d.host_calls()] == [257, 292, 3]  # openat "/", dup3 onto it, close the first
    assert d.host_calls()[1][1][:2] == [60, 40]
    assert not d.lib.fake_published(40)
    assert d.lib.fake_hold(40) == 0
    d.lib.fake_drop(40)
    assert [(nr, a[0]) for nr, a in d.host_calls()] == [(3, 40)]


def test_close_of_an_unheld_number_is_one_call(d: Dispatcher) -> None:
    d.lib.fake_publish(41, 2)
    assert d.call(number(d, "close"), 41) == 0
    assert [(nr, a[0]) for nr, a in d.host_calls()] == [(3, 41)]
    assert d.call(number(d, "close"), 41) == -errno.EBADF
    assert d.host_calls() == []


@pytest.mark.parametrize("fd", [1000, 1001, 1002])
def test_monitor_numbers_cannot_be_replaced_or_closed(d: Dispatcher, fd: int) -> None:
    assert d.call(number(d, "dup2"), FD, fd) == -errno.EBADF
    assert d.call(number(d, "dup3"), FD, fd, 0) == -errno.EBADF
    assert d.call(number(d, "close"), fd) == -errno.EBADF
    assert d.call(number(d, "close_range"), 900, 2000, 0) == 0
    assert d.host_calls() == []
