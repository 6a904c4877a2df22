"""The trace file as Python makes and reads it: order, results that come late, clocks, and files that lie."""

from __future__ import annotations

import os
import random
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pysandbox.oci.errors import Error
from pysandbox.runtime import abi
from pysandbox.runtime.native import rdtsc
from pysandbox.runtime.trace import create_trace_file
from pysandbox.runtime.trace.decode import as_json, as_text
from pysandbox.runtime.trace.reader import Chunk, Event, Trace, TraceError
from pysandbox.runtime.trace.stats import collect, render
from trace_file import KHZ, TIME0, TSC0, build, chunk, record, string

TOP = Path(__file__).resolve().parent.parent


def read(path: str) -> tuple[list[Event], list[str]]:
    with Trace(path) as trace:
        return list(trace.events()), trace.problems


# --- making ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ring", "full"])
def test_a_new_file_has_its_room_and_no_events(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "trace.psb"
    fd = create_trace_file(str(path), "box", mode)
    try:
        assert not os.get_inheritable(fd)
        info = os.fstat(fd)
        assert stat.S_IMODE(info.st_mode) == 0o600
        assert info.st_blocks * 512 >= info.st_size > 4 << 20
        os.pwrite(fd, os.pread(fd, 1, 0), 0)  # for reading and writing
    finally:
        os.close(fd)
    with Trace(str(path)) as trace:
        assert trace.container_id == "box"
        assert trace.header.mode == {"ring": abi.TRACE_RING, "full": abi.TRACE_FULL}[mode]
        assert trace.header.nchunks * trace.header.chunk_size + abi.TRACE_HEADER_SIZE == info.st_size
        assert list(trace.events()) == []
        assert trace.problems == []


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "trace.psb"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        create_trace_file(str(path), "box", "ring")
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("mode", "size"), [("off", 4 << 20), ("", 4 << 20), ("ring", 0), ("ring", -1)])
def test_what_cannot_be_a_trace_is_not_made(tmp_path: Path, mode: str, size: int) -> None:
    with pytest.raises(ValueError):
        create_trace_file(str(tmp_path / "trace.psb"), "box", mode, size)
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_allocated_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: both fail in the allocation."""
    code = "import os, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "from pysandbox.runtime.trace import create_trace_file\n"
    code += "try: create_trace_file(sys.argv[1], 'box', 'ring')\nexcept OSError as error: print(error.errno)"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = [sys.executable, "-c", code, str(tmp_path / "trace.psb")]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27"  # EFBIG
    assert os.listdir(tmp_path) == []


def test_making_a_file_imports_little() -> None:
    code = "import sys; import pysandbox.runtime.trace.create; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    modules = set(loaded.stdout.split())
    assert "pysandbox.runtime.abi" in modules
    assert modules.isdisjoint(["typing", "re", "enum", "argparse", "json", "pysandbox.runtime.trace.reader"])


# --- order and what belongs together --------------------------------------------------------------------------------------


def test_events_of_processes_are_merged_by_time(tmp_path: Path) -> None:
    one = chunk(1, record(0, tsc=TSC0 + 10), record(1, tsc=TSC0 + 30), pid=1)
    two = chunk(2, record(0, tsc=TSC0 + 20), record(1, tsc=TSC0 + 50), pid=2, start_time=TSC0 + 15, host_pid=7)
    more = chunk(3, record(2, tsc=TSC0 + 40), pid=1)
    events, problems = read(build(tmp_path / "t", more, two, one))
    assert [(event.pid, event.seq) for event in events] == [(1, 0), (2, 0), (1, 1), (1, 2), (2, 1)]
    assert [event.host_pid for event in events] == [1000, 7, 1000, 1000, 7]
    assert problems == []


def test_a_pid_used_twice_is_two_processes(tmp_path: Path) -> None:
    first = chunk(1, record(0), record(1), pid=5)
    second = chunk(2, record(0, tsc=TSC0 + 9000), pid=5, start_time=TSC0 + 8000)
    events, problems = read(build(tmp_path / "t", first, second))
    assert [event.seq for event in events] == [0, 1, 0]
    assert problems == []


def test_gaps_are_said(tmp_path: Path) -> None:
    events, problems = read(build(tmp_path / "t", chunk(1, record(4), record(7)), chunk(2, record(6, tsc=TSC0 + 20000))))
    assert [event.seq for event in events] == [4, 7, 6]
    assert problems == ["process 1: records 5 to 6 are missing", "process 1: record 6 follows record 7"]


def test_a_late_result_completes_its_call(tmp_path: Path) -> None:
    call = chunk(1, record(0, 0, [3], None), record(1))
    late = chunk(2, record(2), record(0, 0, (), 11, kind=abi.REC_RET, tsc=TSC0 + 9000, tsc_end=TSC0 + 9000))
    events, problems = read(build(tmp_path / "t", call, late))
    assert [(event.seq, event.kind, event.done, event.ret) for event in events] == [
        (0, 1, True, 11),
        (1, 1, True, 0),
        (2, 1, True, 0),
    ]
    assert events[0].tsc_end == TSC0 + 9000
    assert problems == []


def test_a_late_result_is_not_another_process_s(tmp_path: Path) -> None:
    call = chunk(1, record(0, 0, [3], None), pid=1)
    late = chunk(2, record(0), record(0, 0, (), 11, kind=abi.REC_RET), pid=2)
    events, _ = read(build(tmp_path / "t", call, late))
    assert {(event.pid, event.done) for event in events} == {(1, False), (2, True)}


def test_a_result_whose_call_is_gone_is_shown_as_such(tmp_path: Path) -> None:
    events, problems = read(
        build(tmp_path / "t", chunk(9, record(70), record(12, 0, (), -4, kind=abi.REC_RET, tsc=TSC0 + 150000)))
    )
    assert [(event.kind, event.seq) for event in events] == [(abi.REC_CALL, 70), (abi.REC_RET, 12)]
    assert as_text(events[1]) == "[pid 1] <... read resumed>) = -1 EINTR (Interrupted system call)"
    assert problems == []


def test_an_unfinished_call_has_no_result(tmp_path: Path) -> None:
    (event,), _ = read(build(tmp_path / "t", chunk(1, record(0, 0, [3, 0x1000, 8], None), state=abi.CHUNK_ACTIVE)))
    assert as_json(event)["ret"] is None
    assert as_json(event)["errno"] is None
    assert as_text(event) == "[pid 1] read(3, 0x1000, 8) = ? (unfinished)"


def test_execve_succeeded_when_a_program_follows(tmp_path: Path) -> None:
    good = [
        record(0, 59, [1, 2, 3], None, flags=abi.REC_NORETURN),
        record(1, kind=abi.REC_EXEC, args=[0x401000], items=[string(255, "/bin/a-rather-long-name")]),
    ]
    failed = record(2, 59, [1, 2, 3], -2)
    events, _ = read(build(tmp_path / "t", chunk(1, *good, failed)))
    assert [(event.done, event.ret) for event in events] == [(True, 0), (True, 0), (True, -2)]
    assert [event.comm for event in events] == ["init", "a-rather-long-n", "a-rather-long-n"]


def test_comm_is_that_of_the_newest_chunk(tmp_path: Path) -> None:
    path = build(tmp_path / "t", chunk(1, record(0)), chunk(2, record(1), comm=b"worker"), chunk(3, record(2), comm=b""))
    assert [event.comm for event in read(path)[0]] == ["init", "worker", "worker"]


def test_a_site_is_found_in_its_file(tmp_path: Path) -> None:
    library = record(0, kind=abi.REC_MAP, args=[0x7000_0000, 0x2000, 0x5000, 1, 2], items=[string(255, "/lib/libc.so.6")])
    calls = [record(1, site=0x7000_0123), record(2, site=0x7000_2000), record(3)]
    child = chunk(
        2,
        record(0, kind=abi.REC_FORK, args=[1, 17], tsc=TSC0 + 7000),
        record(1, site=0x7000_0010, tsc=TSC0 + 7100),
        record(2, 59, (), None, tsc=TSC0 + 7200, site=0x7000_0020),
        record(3, kind=abi.REC_MAP, args=[0x6000_0000, 0x1000, 0, 1, 3], items=[string(255, "/bin/x")], tsc=TSC0 + 7300),
        record(4, kind=abi.REC_EXEC, items=[string(255, "/bin/x")], tsc=TSC0 + 7400),
        record(5, site=0x7000_0010, tsc=TSC0 + 7500),
        record(6, site=0x6000_0008, tsc=TSC0 + 7600),
        pid=2,
        start_time=TSC0 + 6900,
    )
    events, _ = read(build(tmp_path / "t", chunk(1, library, *calls), child))
    of = {(event.pid, event.seq): event.object for event in events}
    assert of[1, 1] == ("/lib/libc.so.6", 0x5123)
    assert of[1, 2] is of[1, 3] is None
    assert of[2, 1] == ("/lib/libc.so.6", 0x5010), "a child has its parent's mappings"
    assert of[2, 2] == ("/lib/libc.so.6", 0x5020)
    assert of[2, 5] is None, "they are gone behind execve"
    assert of[2, 6] == ("/bin/x", 8), "but not those of the new program"


# --- clock ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clock",
    [{"tsc_khz": KHZ}, {"tsc_khz": 0, "tsc1": TSC0 + 4_000_000_000, "realtime1_ns": TIME0 + 2_000_000_000}],
    ids=["frequency", "two pairs"],
)
def test_time(tmp_path: Path, clock: dict[str, int]) -> None:
    events, _ = read(build(tmp_path / "t", chunk(1, record(0, tsc=TSC0 + 246), record(1, tsc=TSC0 - 2)), **clock))
    assert [event.time_ns for event in events] == [TIME0 + 123, TIME0 - 1]
    assert as_json(events[0])["time"] == "2023-11-14T22:13:20.000000123Z"


@pytest.mark.parametrize("clock", [{"tsc0": 0}, {"realtime1_ns": TIME0 + 1}, {"tsc1": TSC0 + 1}, {}], ids=str)
def test_a_time_that_is_not_known_is_null(tmp_path: Path, clock: dict[str, int]) -> None:
    """Half a pair is none, and the time before this boot cannot be measured with this boot's counter."""
    (event,), _ = read(build(tmp_path / "t", chunk(1, record(0)), **({"tsc_khz": 0} | clock)))
    assert event.time_ns is None
    assert as_json(event)["time"] is None


def test_time_of_a_container_that_just_began(tmp_path: Path) -> None:
    tsc, now = rdtsc(), time.time_ns()
    time.sleep(0.05)
    later, then = rdtsc(), time.time_ns()
    path = build(tmp_path / "t", chunk(1, record(0, tsc=later)), tsc0=tsc, realtime0_ns=now, tsc_khz=0)
    (event,), _ = read(path)
    assert event.time_ns is not None
    assert abs(event.time_ns - then) < 10_000_000


# --- files that lie ----------------------------------------------------------------------------------------------------------


def sample(path: Path) -> str:
    return build(
        path,
        chunk(
            1,
            record(0, kind=abi.REC_EXEC, args=[0x1000], items=[string(255, "/bin/sh")]),
            record(1, 257, [0xFFFFFF9C, 0x2000, 0x80000, 0], 3, items=[string(1, "/etc/passwd")], site=0x1010),
            record(2, 42, [3, 0x3000, 16], -111, items=[(abi.ITEM_SOCKADDR, 1, bytes([2, 0, 0, 80, 127, 0, 0, 1]), 8)]),
            record(3, 59, [1, 2, 3], None, items=[string(0, "/bin/ls"), (abi.ITEM_STRV, 1, b"ls\0-l\0", 6)]),
        ),
        chunk(2, record(0, kind=abi.REC_FORK, args=[1, 17]), record(1, 0, [0], None), pid=2, start_time=TSC0 + 1),
        chunk(3, record(2), record(1, 0, (), 4, kind=abi.REC_RET), pid=2, start_time=TSC0 + 1),
        chunk(4, record(4, kind=abi.REC_EXIT, args=[256]), record(5, kind=abi.REC_SIGNAL, args=[17, 1, 2, 0])),
    )


def everything(path: str) -> int:
    """All that can be said about a file; the number of events."""
    with Trace(path) as trace:
        events = list(trace.events())
        for event in events:
            line = as_text(event)
            assert line.isprintable(), line
            as_json(event)
        render(collect(trace))
    return len(events)


def test_the_sample_is_sound(tmp_path: Path) -> None:
    path = sample(tmp_path / "t")
    assert everything(path) == 9
    assert read(path)[1] == []


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    whole = Path(sample(tmp_path / "t")).read_bytes()
    path = tmp_path / "cut"
    refused = 0
    for length in [*range(0, 400, 13), *range(4000, len(whole), 211)]:
        path.write_bytes(whole[:length])
        try:
            assert everything(str(path)) <= 9
        except TraceError:
            refused += 1
            assert length < abi.TraceHeader.SIZE
    assert refused


def test_bytes_changed_anywhere(tmp_path: Path) -> None:
    """Whatever the file says, the answer is events or a `TraceError`, never another exception."""
    whole = Path(sample(tmp_path / "t")).read_bytes()
    # Places that mean something: the header and what is used of each chunk.
    places = [*range(96)]
    for index in range(4):
        start = abi.TRACE_HEADER_SIZE + index * 8192
        places += range(start, start + 700)
    chance = random.Random(20)
    path = tmp_path / "changed"
    shown = 0
    for _ in range(600):
        raw = bytearray(whole)
        for place in chance.sample(places, chance.choice([1, 2, 8, 40])):
            raw[place] = chance.choice([0, 1, 7, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        path.write_bytes(raw)
        try:
            shown += everything(str(path)) > 0
        except TraceError:
            pass
    assert shown > 100, "most of the changes leave something to show"


@pytest.mark.parametrize(
    "size", [0, 8, abi.TraceRecord.SIZE + 1, 0xFFFFFFF8], ids=["nothing", "less than a record", "odd", "beyond the chunk"]
)
def test_damaged_records_end_their_chunk_only(tmp_path: Path, size: int) -> None:
    damaged = size.to_bytes(4, "little") + record(1)[4:]
    path = build(tmp_path / "t", chunk(1, record(0), damaged, record(2)), chunk(2, record(0, tsc=TSC0 + 9), pid=2))
    events, problems = read(path)
    assert [(event.pid, event.seq) for event in events] == [(1, 0), (2, 0)]
    assert problems == [f"chunk 0: damaged record at {abi.TraceRecord.SIZE}"]


def test_damaged_payload_loses_the_payload_only(tmp_path: Path) -> None:
    good = bytearray(record(0, 2, [1], items=[string(0, "/etc/passwd")]))
    good[abi.TraceRecord.SIZE + abi.TraceItem.OFFSET["len"]] = 200
    events, problems = read(build(tmp_path / "t", chunk(1, bytes(good), record(1))))
    assert [event.items for event in events] == [[], []]
    assert problems == ["chunk 0: damaged payload at 0"]


def test_chunks_that_do_not_count(tmp_path: Path) -> None:
    path = build(
        tmp_path / "t",
        chunk(0, record(0)),  # never used
        chunk(1 << 63 | 2, record(0)),  # being set up
        chunk(3, record(0), state=abi.CHUNK_FREE),
        chunk(4, record(0), magic=1),
        chunk(5, record(0), used=8192),
        chunk(6, record(0), used=1 << 63),
        chunk(7, record(0), used=109),
        chunk(8, record(0), state=9),
    )
    events, problems = read(path)
    assert events == []
    assert problems == [f"chunk {index}: damaged header" for index in (3, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"magic": 1}, "not a trace"),
        ({"version": 99}, "trace version 99, this program reads 1"),
        ({"chunk_size": 0}, "damaged header: chunk size 0"),
        ({"chunk_size": 4097}, "damaged header: chunk size 4097"),
        ({"chunk_size": 1 << 31}, "damaged header: chunk size 2147483648"),
    ],
)
def test_headers_that_are_none(tmp_path: Path, header: dict[str, int], message: str) -> None:
    path = build(tmp_path / "t", chunk(1, record(0)), **header)
    with pytest.raises(TraceError) as caught:
        Trace(path)
    assert caught.value.message == f"{path}: {message}"


def test_a_file_of_sixteen_terabytes_of_nothing(tmp_path: Path, time_factor: float) -> None:
    path = Path(build(tmp_path / "t", chunk(1, record(0), chunk_size=4096), chunk_size=4096, nchunks=0xFFFFFFFF))
    try:
        os.truncate(path, 8 << 40)
    except OSError:
        os.truncate(path, 1 << 40)
    begin = time.monotonic()
    events, _ = read(str(path))
    assert len(events) == 1
    assert time.monotonic() - begin < 5 * time_factor


def test_things_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (str(fifo), "/dev/zero", "/dev/null", str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(Error) as caught:
            everything(path)
        assert path in caught.value.message


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path = build(tmp_path / "t", chunk(1, record(0)), magic=0)
    for _ in range(3):
        with pytest.raises(TraceError):
            Trace(path)
    read(sample(tmp_path / "u"))
    assert os.listdir("/proc/self/fd") == before


# --- while it is written ---------------------------------------------------------------------------------------------------


def test_a_chunk_recycled_under_the_reader_is_no_gap(tmp_path: Path) -> None:
    """Its first pass sees all, then the ring takes the middle chunk."""
    path = build(tmp_path / "t", chunk(1, record(0)), chunk(2, record(1)), chunk(3, record(2)))

    class Overtaken(Trace):
        def _process(self, chunks: list[Chunk], later: object) -> Iterator[Event]:
            with open(path, "r+b") as file:
                file.seek(abi.TRACE_HEADER_SIZE + 8192)
                file.write(chunk(9, record(0), pid=4))
            return super()._process(chunks, later)  # type: ignore[arg-type]

    with Overtaken(path) as trace:
        assert [event.seq for event in trace.events()] == [0, 2]
        assert trace.problems == []


def test_refresh_sees_what_was_added(tmp_path: Path) -> None:
    path = build(tmp_path / "t", chunk(1, record(0)), lost=0)
    with Trace(path) as trace:
        assert len(list(trace.events())) == 1
        build(tmp_path / "t", chunk(1, record(0), record(1)), chunk(2, record(2)), lost=4)
        trace.refresh()
        assert len(list(trace.events())) == 3
        assert trace.lost == 4


def test_a_thousand_processes_are_not_begun_at_once(tmp_path: Path) -> None:
    chunks = [
        chunk(n + 1, record(0, tsc=TSC0 + 100 * n), pid=n + 1, start_time=TSC0 + 100 * n - 1, chunk_size=4096)
        for n in range(1000)
    ]
    path = build(tmp_path / "t", *chunks, chunk_size=4096)
    begun = 0

    class Counted(Trace):
        def _process(self, chunks: list[Chunk], later: object) -> Iterator[Event]:
            nonlocal begun
            begin = True
            for event in super()._process(chunks, later):  # type: ignore[arg-type]
                begun += begin
                begin = False
                yield event

    with Counted(path) as trace:
        for number, event in enumerate(trace.events()):
            assert event.pid == number + 1
            assert begun <= number + 2


# --- generated ----------------------------------------------------------------------------------------------------------------


def test_signatures_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(TOP / "hack/gen_trace_signatures.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
