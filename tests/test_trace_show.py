"""`trace show` and `trace stats`: what a call looks like in words and as JSON, and which calls are chosen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pysandbox.oci.errors import Error, UsageError
from pysandbox.oci.state import Store
from pysandbox.runtime import abi
from pysandbox.runtime.syscall_names import all_names, number_of
from pysandbox.runtime.trace import cli
from pysandbox.runtime.trace.decode import as_json, as_text
from pysandbox.runtime.trace.reader import Event, Trace
from trace_file import TSC0, ItemSpec, build, chunk, record, string

FIELDS = "seq kind tsc time pid tid host_pid comm nr name args decoded ret errno verdict rule door site object".split()
AT_FDCWD = 0xFFFFFF9C


def event_of(tmp_path: Path, raw: bytes) -> Event:
    with Trace(build(tmp_path / "t", chunk(1, raw))) as trace:
        (event,) = trace.events()
        assert trace.problems == []
    return event


def number(name: str) -> int:
    nr = number_of(name)
    assert nr is not None
    return nr


def sockaddr(raw: bytes, arg: int = 1) -> ItemSpec:
    return abi.ITEM_SOCKADDR, arg, raw, len(raw)


IPV6 = b"\x0a\0\x01\xbb" + bytes(4) + bytes(15) + b"\x01" + bytes(4)

# name, arguments, result, payload, the line
LINES: list[tuple[str, Sequence[int], int | None, list[ItemSpec], str]] = [
    (
        "openat",
        [AT_FDCWD, 0x10, 0x80000, 0],
        3,
        [string(1, "/etc/passwd")],
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3',
    ),
    (
        "openat",
        [5, 0x10, 0x241, 0o644],
        -13,
        [string(1, "x")],
        'openat(5, "x", O_WRONLY|O_CREAT|O_TRUNC, 0644) = -1 EACCES (Permission denied)',
    ),
    ("openat", [5, 0x10, 0x410002, 0o600], 4, [string(1, ".")], 'openat(5, ".", O_RDWR|O_TMPFILE, 0600) = 4'),
    ("open", [0x10, 0x12000000, 0], -14, [], "open(0x10, O_RDONLY|0x12000000) = -1 EFAULT (Bad address)"),
    ("read", [3, 0x7000, 4096], 0, [], "read(3, 0x7000, 4096) = 0"),
    (
        "mmap",
        [0, 8192, 3, 0x22, 0xFFFFFFFFFFFFFFFF, 0],
        0x7F0000001000,
        [],
        "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000001000",
    ),
    (
        "mmap",
        [0x1000, 4096, 0, 0x12, 3, 0x5000],
        -12,
        [],
        "mmap(0x1000, 4096, PROT_NONE, MAP_PRIVATE|MAP_FIXED, 3, 20480) = -1 ENOMEM (Cannot allocate memory)",
    ),
    ("lseek", [3, 2**64 - 60, 2], 54, [], "lseek(3, -60, SEEK_END) = 54"),
    ("brk", [0], 0x55550000, [], "brk(NULL) = 0x55550000"),
    (
        "clone",
        [0x1200011, 0, 0, 0x77, 0],
        7,
        [],
        "clone(SIGCHLD|CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID, NULL, NULL, 0x77, NULL) = 7",
    ),
    ("socket", [2, 0x80001, 6], 3, [], "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_TCP) = 3"),
    (
        "connect",
        [3, 0x10, 16],
        -111,
        [sockaddr(bytes([2, 0, 0x1F, 0x90, 127, 0, 0, 1]))],
        "connect(3, {family=AF_INET, port=8080, address=127.0.0.1}, 16) = -1 ECONNREFUSED (Connection refused)",
    ),
    ("bind", [3, 0x10, 28], 0, [sockaddr(IPV6)], "bind(3, {family=AF_INET6, port=443, address=::1}, 28) = 0"),
    (
        "connect",
        [3, 0x10, 7],
        -2,
        [sockaddr(b"\x01\0/x\0")],
        "connect(3, {family=AF_UNIX, path=/x}, 7) = -1 ENOENT (No such file or directory)",
    ),
    (
        "connect",
        [3, 0x10, 5],
        -2,
        [sockaddr(b"\x01\0\0bus")],
        "connect(3, {family=AF_UNIX, path=@bus}, 5) = -1 ENOENT (No such file or directory)",
    ),
    (
        "connect",
        [3, 0x10, 3],
        -22,
        [sockaddr(b"\x02\0\x01")],
        "connect(3, {family=AF_INET, raw=01}, 3) = -1 EINVAL (Invalid argument)",
    ),
    ("kill", [0xFFFFFFFF, 15], 0, [], "kill(-1, SIGTERM) = 0"),
    ("ioctl", [0, 0x5413, 0x99], -25, [], "ioctl(0, TIOCGWINSZ, 0x99) = -1 ENOTTY (Inappropriate ioctl for device)"),
    ("ioctl", [0, 0xABCD1234, 0], -25, [], "ioctl(0, 0xabcd1234, 0) = -1 ENOTTY (Inappropriate ioctl for device)"),
    ("fcntl", [3, 1030, 10], 10, [], "fcntl(3, F_DUPFD_CLOEXEC, 0xa) = 10"),
    ("pipe2", [0x10, 0x80800], 0, [], "pipe2(0x10, O_NONBLOCK|O_CLOEXEC) = 0"),
    ("access", [0x10, 0], 0, [string(0, "/")], 'access("/", F_OK) = 0'),
    (
        "futex",
        [0x10, 128, 2, 0, 0, 0],
        -11,
        [],
        "futex(0x10, FUTEX_WAIT|FUTEX_PRIVATE_FLAG, 0x2, 0, 0, 0) = -1 EAGAIN (Resource temporarily unavailable)",
    ),
    (
        "execve",
        [1, 2, 3],
        None,
        [string(0, "/bin/ls"), (abi.ITEM_STRV, 1, b"ls\0-l\0", 6)],
        'execve("/bin/ls", ["ls", "-l"], 0x3) = ? (unfinished)',
    ),
    ("open", [1, 0, 0], 3, [string(0, "a" * 8, 4000)], 'open("aaaaaaaa"..., O_RDONLY) = 3'),
    ("getppid", [99, 98, 97], 0, [], "getppid() = 0"),
    ("rt_sigreturn", [], -1001, [], "rt_sigreturn() = ?"),
    ("clone", [0, 0, 0, 0, 0], 7, [], "clone(0, NULL, NULL, NULL, NULL) = 7"),
    ("nanosleep", [1, 0], -516, [], "nanosleep(0x1, NULL) = ? ERESTART_RESTARTBLOCK (to be restarted)"),
]


@pytest.mark.parametrize(("name", "args", "ret", "items", "line"), LINES, ids=[f"{n}-{row[0]}" for n, row in enumerate(LINES)])
def test_a_call_in_words(
    tmp_path: Path, name: str, args: Sequence[int], ret: int | None, items: list[ItemSpec], line: str
) -> None:
    assert as_text(event_of(tmp_path, record(0, number(name), args, ret, items=items, tid=3))) == f"[pid 3] {line}"


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"verdict": abi.VERDICT_ERRNO, "rule": 2}, " <errno by rule 2>"),
        ({"verdict": abi.VERDICT_ERRNO}, " <errno>"),
        ({"verdict": abi.VERDICT_REFUSED, "door": abi.DOOR_RAW}, " <refused, raw>"),
        ({"verdict": 200, "door": 200}, " <unknown-200>"),
        ({"door": abi.DOOR_RAW}, " <raw>"),
        ({"door": abi.DOOR_TRAP}, ""),
    ],
)
def test_what_is_not_usual_is_noted(tmp_path: Path, fields: dict[str, int], note: str) -> None:
    event = event_of(tmp_path, record(0, 83, [1, 0o755], -1, items=[string(0, "/x")], **fields))
    assert as_text(event) == f'[pid 1] mkdir("/x", 0755) = -1 EPERM (Operation not permitted){note}'


def test_calls_without_a_name(tmp_path: Path) -> None:
    assert (
        as_text(event_of(tmp_path, record(0, 9999, [1, 0, 0x20], -38)))
        == "[pid 1] syscall_0x270f(0x1, 0, 0x20) = -1 ENOSYS (Function not implemented)"
    )


def test_every_call_has_words_for_extreme_arguments(tmp_path: Path) -> None:
    records = [
        record(seq, nr, [value] * 6, -1)
        for seq, (nr, value) in enumerate((nr, value) for nr in all_names().values() for value in (0, 1, 2**31, 2**64 - 1))
    ]
    path = build(tmp_path / "t", chunk(1, *records, chunk_size=1 << 20), chunk_size=1 << 20)
    with Trace(path) as trace:
        for event in trace.events():
            line = as_text(event)
            assert line.endswith(("= -1 EPERM (Operation not permitted)", "rt_sigreturn() = ?")), line
            json.dumps(as_json(event))
        assert trace.problems == []


OTHERS = [
    (record(0, kind=abi.REC_SIGNAL, args=[11, 1, 0x1234, 0x4000]), "--- SIGSEGV {si_code=1, si_addr=0x1234} ---"),
    (record(0, kind=abi.REC_SIGNAL, args=[15, 0, 42, 0]), "--- SIGTERM {si_code=0, si_pid=42} ---"),
    (record(0, kind=abi.REC_SIGNAL, args=[11, 2**64 - 6, 42, 0]), "--- SIGSEGV {si_code=-6, si_pid=42} ---"),
    (record(0, kind=abi.REC_EXIT, args=[0x0300]), "+++ exited with 3 +++"),
    (record(0, kind=abi.REC_EXIT, args=[9]), "+++ killed by SIGKILL +++"),
    (record(0, kind=abi.REC_EXEC, args=[0x1000], items=[string(255, "/bin/sh")]), "+++ program /bin/sh +++"),
    (record(0, kind=abi.REC_FORK, args=[7, 17]), "+++ forked by 7 (SIGCHLD) +++"),
    (record(0, kind=abi.REC_FORK, args=[7, 0x100]), "+++ forked by 7 (CLONE_VM) +++"),
    (record(0, kind=99), "+++ record of kind 99 +++"),
]


@pytest.mark.parametrize(("raw", "line"), OTHERS)
def test_events_that_are_no_calls(tmp_path: Path, raw: bytes, line: str) -> None:
    event = event_of(tmp_path, raw)
    assert as_text(event) == f"[pid 1] {line}"
    data = as_json(event)
    assert list(data) == FIELDS
    assert (data["nr"], data["name"], data["verdict"], data["door"]) == (None, None, None, None)


def test_a_name_cannot_forge_a_line(tmp_path: Path) -> None:
    name = b'a"\n[pid 9] exit(0)\x1b[2J\\\xff\xc3\xa9\xe2\x80\xa8'
    event = event_of(tmp_path, record(0, 2, [1, 0], 3, items=[string(0, name)]))
    assert as_text(event) == '[pid 1] open("a\\"\\n[pid 9] exit(0)\\x1b[2J\\\\\\xffé\\u2028", O_RDONLY) = 3'


def test_json_of_a_call(tmp_path: Path) -> None:
    mapping = record(0, kind=abi.REC_MAP, args=[0x400000, 0x1000, 0x2000, 5, 6], items=[string(255, "/bin/cat")])
    call = record(
        1,
        257,
        [AT_FDCWD, 0x10, 0x80000, 0, 2**64 - 1, 0],
        -2,
        items=[string(1, "/none")],
        tid=4,
        verdict=abi.VERDICT_ERRNO,
        rule=3,
        door=abi.DOOR_TRAP,
        site=0x400010,
    )
    with Trace(build(tmp_path / "t", chunk(1, mapping, call, pid=3, comm=b"cat"))) as trace:
        _, event = trace.events()
    assert as_json(event) == {
        "seq": 1,
        "kind": "call",
        "tsc": TSC0 + 2000,
        "time": "2023-11-14T22:13:20.000001000Z",
        "pid": 3,
        "tid": 4,
        "host_pid": 1000,
        "comm": "cat",
        "nr": 257,
        "name": "openat",
        "args": [AT_FDCWD, 16, 0x80000, 0, 2**64 - 1, 0],
        "decoded": {"arg0": "AT_FDCWD", "path": "/none", "flags": "O_RDONLY|O_CLOEXEC"},
        "ret": -2,
        "errno": "ENOENT",
        "verdict": "errno",
        "rule": 3,
        "door": "trap",
        "site": "0x400010",
        "object": {"file": "/bin/cat", "offset": 0x2010},
    }


# --- the verb ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """pid 1 opens and forks, pid 2 is denied a mkdir and lacks a call."""
    one = chunk(
        1,
        record(0, kind=abi.REC_MAP, args=[0x1000, 0x1000], items=[string(255, "/bin/sh")]),
        record(1, 2, [1, 0, 0], 3, items=[string(0, "/a")]),
        record(2, 57, (), 2),
    )
    two = chunk(
        2,
        record(0, 83, [1, 0o755], -1, items=[string(0, "/b")], verdict=abi.VERDICT_ERRNO, rule=1, tsc=TSC0 + 8000, tid=2),
        record(1, 334, (), -38, verdict=abi.VERDICT_UNSUPPORTED, tsc=TSC0 + 8100, tid=2),
        record(2, 39, (), 2, verdict=abi.VERDICT_LOG, tsc=TSC0 + 8200, tid=2),
        pid=2,
        start_time=TSC0 + 7000,
    )
    place = tmp_path / "root" / "traces" / "box"
    place.mkdir(parents=True)
    return build(place / "trace.psb", one, two)


def run(capsys: pytest.CaptureFixture[str], root: Path, *argv: str) -> tuple[list[str], str]:
    assert cli.main(list(argv), str(root)) == 0
    out, err = capsys.readouterr()
    return out.splitlines(), err


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ([], ["open", "fork", "mkdir", "rseq", "getpid"]),
        (["--pid", "2"], ["mkdir", "rseq", "getpid"]),
        (["--pid=1,2", "--syscall", "getpid,open"], ["open", "getpid"]),
        (["--denied"], ["mkdir"]),
        (["--denied", "--syscall=rseq,mkdir", "--pid=2"], ["mkdir"]),
        (["--pid=77"], []),
    ],
    ids=str,
)
def test_filters(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path, options: list[str], calls: list[str]) -> None:
    lines, err = run(capsys, tmp_path / "root", "show", "box", "--json", *options)
    shown = [json.loads(line) for line in lines]
    assert [call["name"] for call in shown if call["kind"] == "call"] == calls
    assert err == ""
    text, _ = run(capsys, tmp_path / "root", "show", "box", *options)
    assert len(text) == len(lines)


def test_a_target_is_an_id_a_directory_or_a_file(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    of_id, _ = run(capsys, root, "show", "box")
    assert len(of_id) == 6
    assert run(capsys, root, "show", os.path.dirname(trace))[0] == of_id
    assert run(capsys, tmp_path, "show", trace)[0] == of_id


def test_a_container_that_writes_its_trace_elsewhere(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    os.rename(os.path.dirname(trace), place)
    (tmp_path / "root").chmod(0o700)
    annotations = {"dev.pysandbox.trace.dir": str(place)}
    store = Store(str(tmp_path / "root"))
    with store.create("box", bundle=str(tmp_path), rootfs=str(tmp_path), oci_version="1.2.0", annotations=annotations):
        lines, _ = run(capsys, tmp_path / "root", "show", "box")
        assert len(lines) == 6


def test_errors_are_one_line(trace: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("not me")
    cases: list[tuple[list[str], str]] = [
        (["show", "gone"], "no trace of container 'gone': it never ran with a trace, or the trace was let go"),
        (["show", "../gone"], "trace ../gone: no such file or directory"),
        (["show", str(other)], f"{other}: too short for a trace"),
        (["show", str(tmp_path)], f"open {tmp_path}/trace.psb: no such file or directory"),
        (["show", "a\nb/c"], "trace a\\nb/c: no such file or directory"),
    ]
    for argv, message in cases:
        with pytest.raises(Error) as caught:
            cli.main(argv, str(tmp_path / "root"))
        assert (caught.value.message, caught.value.status) == (message, 1)


@pytest.mark.parametrize(
    "argv",
    [
        ["show"],
        ["show", "a", "b"],
        ["dance", "box"],
        ["show", "box", "--pid"],
        ["show", "box", "--pid", "x"],
        ["show", "box", "--syscall", "nocall"],
        ["show", "box", "--loud"],
        ["show", "box", "--json=1"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines(trace: str, tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(UsageError):
        cli.main(argv, str(tmp_path / "root"))


def test_what_is_wrong_with_a_file_goes_to_standard_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = build(tmp_path / "t", chunk(1, record(0), b"\0" * 120), lost=5)
    lines, err = run(capsys, tmp_path, "show", path, "--json")
    assert len(lines) == 1
    assert "chunk 0: damaged record at 112" in err
    assert "5 records" in err


def test_stats(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path) -> None:
    out, _ = run(capsys, tmp_path / "root", "stats", "box", "--json")
    data: dict[str, Any] = json.loads("\n".join(out))
    assert {key: data[key] for key in ("id", "mode", "records", "lost", "processes")} == {
        "id": "box",
        "mode": "ring",
        "records": 6,
        "lost": 0,
        "processes": 2,
    }
    assert data["verdicts"] == {"allow": 2, "errno": 1, "unsupported": 1, "log": 1}
    assert data["calls"]["mkdir"] == {"count": 1, "errors": 1, "mean_ns": 100}
    text, _ = run(capsys, tmp_path / "root", "stats", "box")
    assert text[1].startswith("6 records of 2 processes")


def command(root: Path, *argv: str) -> list[str]:
    code = "import sys; from pysandbox.runtime.trace import cli; sys.exit(cli.main(sys.argv[2:], sys.argv[1]))"
    return [sys.executable, "-c", code, str(root), *argv]


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    path = build(tmp_path / "t", chunk(1, *(record(n) for n in range(5000)), chunk_size=1 << 20), chunk_size=1 << 20)
    with subprocess.Popen(command(tmp_path, "show", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"[pid 1] getpid() = 0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_terminal_without_the_letters(tmp_path: Path) -> None:
    path = build(tmp_path / "t", chunk(1, record(0, 80, [1], 0, items=[string(0, "/é")])))
    for options, line in (([], '[pid 1] chdir("/\\xe9") = 0'), (["--json"], '"path":"/\\u00e9"')):
        done = subprocess.run(
            command(tmp_path, "show", path, *options),
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert line in done.stdout
        if options:
            assert json.loads(done.stdout)["decoded"]["path"] == "/é"
