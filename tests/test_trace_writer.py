"""The monitor's trace writer, without KVM: order, results, recycling, growth, processes and threads."""

from __future__ import annotations

import ctypes
import errno
import mmap
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from pysandbox.runtime import abi
from pysandbox.runtime.trace.reader import Event, Trace
from trace_lab import Tracer, library, new_file

CHUNK = 32 << 10
PER_CHUNK = (CHUNK - abi.TraceChunk.SIZE) // abi.TraceRecord.SIZE
DEAD = 5_000_000  # above the largest pid_max there is: no such process


def events(path: str, *, problems: bool = False) -> list[Event]:
    with Trace(path) as trace:
        out = list(trace.events())
        if not problems:
            assert trace.problems == []
        return out


def test_a_record_is_there_before_its_call_is_done(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    tracer = Tracer(path, DEAD, comm="prog")
    ref = tracer.write(257, (-100, 0x1234, 0x80000), verdict=6, door=2, rule=5, site=0x401000, tid=9)
    (event,) = events(path)
    assert (event.nr, event.args, event.done) == (257, ((1 << 64) - 100, 0x1234, 0x80000, 0, 0, 0), False)
    assert (event.verdict, event.door, event.rule, event.site, event.tid) == (6, 2, 5, 0x401000, 9)
    assert (event.pid, event.host_pid, event.comm, event.seq) == (DEAD, DEAD + 1000, "prog", 0)
    tracer.end(ref, -2)
    (event,) = events(path)
    assert (event.done, event.ret) == (True, -2)
    assert event.tsc_end >= event.tsc > 0
    tracer.end(ref, 7)  # once is enough
    assert events(path)[0].ret == -2


def test_attaching_while_others_make_the_file_longer(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", size=4 * CHUNK)
    library()  # takes a while
    grower = os.fork()
    if grower == 0:
        try:
            fd = os.open(path, os.O_RDWR)
            header = mmap.mmap(fd, abi.TRACE_HEADER_SIZE)
            at = abi.TraceHeader.OFFSET["nchunks"]
            for count in range(5, 60_000):
                os.ftruncate(fd, abi.TRACE_HEADER_SIZE + count * CHUNK)
                header[at : at + 4] = count.to_bytes(4, "little")
        finally:
            os._exit(0)
    try:
        attached = 0
        while attached < 3000 and os.waitpid(grower, os.WNOHANG) == (0, 0):  # what they map stays
            tracer = Tracer(path, DEAD)
            assert tracer.error == 0
            tracer.close()
            attached += 1
        grower = grower if attached == 3000 else 0
    finally:
        if grower:
            os.kill(grower, signal.SIGKILL)
            os.waitpid(grower, 0)


def test_payload_is_kept_and_cut(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    tracer = Tracer(path, DEAD)
    for length in (0, 1, 7, 8, 9, 255, 4000, 5000):
        tracer.call(2, item=(abi.ITEM_STRING, 0, b"x" * length))
    found = [event.items[0] for event in events(path)]
    assert [len(item.data) for item in found[:-1]] == [0, 1, 7, 8, 9, 255, 4000]
    assert len(found[-1].data) < found[-1].full_len == 5000
    assert all(set(item.data) <= {ord("x")} for item in found)


def test_the_ring_keeps_the_newest(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", size=4 * CHUNK)
    tracer = Tracer(path, DEAD)
    total = PER_CHUNK * 11 + 5
    for i in range(total):
        tracer.call(39, ret=i)
    found = events(path)
    assert [event.seq for event in found] == list(range(total - len(found), total))
    assert PER_CHUNK * 3 < len(found) <= PER_CHUNK * 4
    assert all(event.ret == event.seq for event in found)
    assert os.stat(path).st_size == abi.TRACE_HEADER_SIZE + 4 * CHUNK


def test_a_result_after_the_chunk_was_left(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    tracer = Tracer(path, DEAD)
    slow = tracer.write(0, (3,), tid=77)
    for _ in range(PER_CHUNK):
        tracer.call()
    assert not events(path)[0].done
    tracer.end(slow, 42)
    found = events(path)
    assert (found[0].done, found[0].ret, found[0].tid) == (True, 42, 77)
    assert [event.seq for event in found] == list(range(PER_CHUNK + 1))


def test_a_result_whose_call_was_recycled(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", size=2 * CHUNK)
    tracer = Tracer(path, DEAD)
    slow = tracer.write(0, (3,), tid=77)
    for _ in range(PER_CHUNK * 5):
        tracer.call()
    tracer.end(slow, 42)
    returns = [event for event in events(path) if event.kind == abi.REC_RET]
    assert [(event.seq, event.nr, event.ret, event.tid) for event in returns] == [(0, 0, 42, 77)]


def test_full_mode_grows_and_loses_nothing(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", "full", size=2 * CHUNK)
    tracer = Tracer(path, DEAD, mode=abi.TRACE_FULL)
    total = PER_CHUNK * 9 + 1
    for i in range(total):
        tracer.call(39, ret=i)
    found = events(path)
    assert [(event.seq, event.ret) for event in found] == [(i, i) for i in range(total)]
    assert os.stat(path).st_size > abi.TRACE_HEADER_SIZE + 9 * CHUNK


def test_full_mode_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", "full", size=2 * CHUNK)
    tracer = Tracer(path, DEAD, mode=abi.TRACE_FULL, may_grow=False)
    for _ in range(2 * PER_CHUNK):
        tracer.call()
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            tracer.write()
        assert caught.value.errno == errno.ENOSPC
    assert [event.seq for event in events(path)] == list(range(2 * PER_CHUNK))


def test_idle_live_processes_make_the_ring_grow(tmp_path: Path) -> None:
    """More live processes than chunks: each keeps its own, and the busy one is still recorded."""
    path = new_file(tmp_path / "t", size=4 * CHUNK)
    sleepers = []
    try:
        for _ in range(10):
            pid = os.fork()
            if not pid:
                signal.pause()
                os._exit(0)
            sleepers.append(pid)
        idle = [Tracer(path, pid) for pid in sleepers]
        for tracer in idle:
            tracer.call(1)
        busy = Tracer(path, DEAD)
        for _ in range(PER_CHUNK * 8):
            busy.call(2)
        found = events(path)
        assert {event.pid for event in found} == {*sleepers, DEAD}
        assert sum(event.pid == DEAD for event in found) >= PER_CHUNK
        with Trace(path) as trace:
            assert trace.header.nchunks > 4
            assert trace.lost == 0
    finally:
        for pid in sleepers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_ring_that_cannot_grow_counts_what_it_loses(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", size=2 * CHUNK)
    me, parent = Tracer(path, os.getpid(), may_grow=False), Tracer(path, os.getppid(), may_grow=False)
    me.call()
    parent.call()
    third = Tracer(path, DEAD, may_grow=False)
    for _ in range(100):
        third.call()
    assert {event.pid for event in events(path)} == {os.getpid(), os.getppid()}
    with Trace(path) as trace:
        assert trace.lost == 100
    me.close()  # and when room comes back, the numbers show what is missing
    for _ in range(100):
        third.call()
    with Trace(path) as trace:
        seqs = [event.seq for event in trace.events() if event.pid == DEAD]
    assert seqs
    assert seqs == list(range(seqs[0], 200))
    assert seqs[0] >= 100


def test_a_call_may_turn_out_to_be_refused(tmp_path: Path) -> None:
    """In place, and when the chunk was left meanwhile; by then the record says otherwise."""
    path = new_file(tmp_path / "t", mode="full")
    tracer = Tracer(path, DEAD)
    late, late_good = tracer.write(1), tracer.write(2)
    for _ in range(2 * CHUNK // 128):
        tracer.call()
    late.refused = True
    tracer.end(late, -13)
    tracer.end(late_good, 5)
    now = tracer.write(3)
    now.refused = True
    tracer.end(now, -25)
    tracer.call(4, verdict=abi.VERDICT_LOG)
    found = {e.nr: (e.verdict, e.ret) for e in events(path)}
    assert found[1] == (abi.VERDICT_REFUSED, -13)
    assert found[2] == (abi.VERDICT_ALLOW, 5)
    assert found[3] == (abi.VERDICT_REFUSED, -25)
    assert found[4] == (abi.VERDICT_LOG, 0)


def test_chunks_of_the_dead_are_taken(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t", size=2 * CHUNK)
    for pid in (DEAD, DEAD + 1, DEAD + 2):
        Tracer(path, pid, may_grow=False).call()  # dies without a word
    with Trace(path) as trace:
        assert {event.pid for event in trace.events()} == {DEAD + 1, DEAD + 2}
        assert trace.lost == 0


def test_fork_and_exec(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    parent = Tracer(path, DEAD)
    parent.call(1)
    fork = parent.write(57)
    chunk_before = parent.exec_save()[1]
    parent.become_child(DEAD + 1)
    parent.end(fork, 0)  # the copy of the parent's call: not the child's to complete
    parent.event(abi.REC_FORK, (DEAD, 17))
    parent.call(2)
    found = events(path)
    assert [(e.pid, e.seq, e.kind) for e in found if e.pid == DEAD + 1] == [
        (DEAD + 1, 0, abi.REC_FORK),
        (DEAD + 1, 1, abi.REC_CALL),
    ]
    assert not next(e for e in found if e.nr == 57).done
    seq, chunk = parent.exec_save()
    assert (seq, chunk != chunk_before) == (2, True)


def test_exec_continues_the_chunk(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    me = os.getpid()
    before = Tracer(path, me, comm="sh")
    before.call(1)
    ref = before.write(59, item=(abi.ITEM_STRING, 0, b"/bin/ls"))
    before.noreturn(ref)
    after = Tracer(path, comm="ls", resume=before.exec_save())
    after.event(abi.REC_EXEC, (0x401000,), b"/bin/ls")
    after.call(2)
    found = events(path)
    assert [(e.seq, e.comm, e.start_time) for e in found] == [
        (0, "sh", found[0].start_time),
        (1, "sh", found[0].start_time),
        (2, "ls", found[0].start_time),
        (3, "ls", found[0].start_time),
    ]
    assert (found[1].noreturn, found[1].done, found[1].ret) == (True, True, 0)
    with Trace(path) as trace:
        assert len(trace.chunks()) == 1


def test_exec_with_a_made_up_chunk_starts_a_new_one(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    Tracer(path, DEAD).call()
    for chunk in (0, 1, 127, 128, 0xFFFFFFFE):
        tracer = Tracer(path, resume=(5, chunk))
        tracer.call()
        tracer.close()
    assert [e.seq for e in events(path) if e.pid == os.getpid()] == [5] * 5


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    good = Path(new_file(tmp_path / "t", size=2 * CHUNK)).read_bytes()
    for name, data in {
        "empty": b"",
        "short": good[:100],
        "magic": b"x" + good[1:],
        "version": good[:8] + b"\x09" + good[9:],
        "chunk": good[:16] + b"\x01" + good[17:],
        "nchunks": good[:20] + b"\xff\xff" + good[22:],
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert Tracer(str(path)).error == -errno.EINVAL, name


def test_off_is_silent(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    tracer = Tracer(path, DEAD, mode=abi.TRACE_OFF)
    tracer.call()
    tracer.close()
    assert events(path) == []


def test_closing_leaves_the_records(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    tracer = Tracer(path, DEAD)
    ref = tracer.write()
    tracer.close()
    tracer.end(ref, 1)
    tracer.call()
    assert [event.done for event in events(path)] == [False]
    with Trace(path) as trace:
        assert [chunk.state for chunk in trace.chunks()] == [abi.CHUNK_CLOSED]


def test_clock(tmp_path: Path) -> None:
    path = new_file(tmp_path / "t")
    before = time.time_ns()
    tracer = Tracer(path, DEAD)
    time.sleep(0.05)
    tracer.call()
    now = time.time_ns()
    tracer.close()  # refreshes the second pair, from which the frequency follows
    (event,) = events(path)
    assert event.time_ns is not None
    assert before + 40_000_000 < event.time_ns < now + 20_000_000


def check_worker_event(event: Event, per_thread: dict[int, int]) -> None:
    """The event is what trace_lab.c's work() wrote, and the next of its thread."""
    tid, i = event.args[0] >> 32, event.args[0] & 0xFFFFFFFF
    assert event.args == tuple(event.args[0] + k for k in range(6))
    assert tid == event.tid
    assert per_thread.get(tid, i - 1) == i - 1
    per_thread[tid] = i
    if event.done:
        assert event.ret == event.args[0] * 2
    assert len(event.items) == i & 1
    if event.items:
        assert event.items[0].data == bytes([ord("a") + event.args[0] % 26]) * (3 + i % 70)


@pytest.mark.parametrize("mode", ["ring", "full"])
def test_threads(tmp_path: Path, mode: str) -> None:
    path = new_file(tmp_path / "t", mode, size=64 * CHUNK)
    tracer = Tracer(path, DEAD, mode=abi.TRACE_RING if mode == "ring" else abi.TRACE_FULL)
    assert tracer.threads(4, 20000) == 0
    found = [event for event in events(path) if event.kind == abi.REC_CALL]
    assert [e.seq for e in found] == list(range(found[0].seq, found[0].seq + len(found)))
    per_thread: dict[int, int] = {}
    for event in found:
        check_worker_event(event, per_thread)
    assert set(per_thread.values()) == {19999}  # the ring may have forgotten threads that were done early
    assert all(event.done for event in found)
    if mode == "full":
        assert len(found) == 80000
        assert len(per_thread) == 4


def _writer(path: str) -> None:
    tracer = Tracer(path, os.getpid())  # a real one, or the others would take its chunks
    tracer.threads(2, 400_000)
    tracer.close()


def test_a_live_reader_never_sees_a_torn_record(tmp_path: Path) -> None:
    """Three processes with two threads each write round and round a small ring while it is read."""
    path = new_file(tmp_path / "t", size=16 * CHUNK)
    library()  # compiled once, before the fork
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_writer, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    reads = seen = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        with Trace(path) as trace:
            per_thread: dict[tuple[int, int], dict[int, int]] = {}
            for event in trace.events():
                seen += 1
                if event.kind != abi.REC_CALL:
                    continue
                known = per_thread.setdefault((event.pid, event.start_time), {})
                tid, i = event.args[0] >> 32, event.args[0] & 0xFFFFFFFF
                known[tid] = i - 1  # chunks may be recycled between two reads: order is checked elsewhere
                check_worker_event(event, known)
            # A chunk that is recycled while the trace is read leaves a gap; anything else would be damage.
            assert all("missing" in problem for problem in trace.problems), trace.problems
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert reads > 2
    assert seen > 1000
    assert {event.pid for event in events(path, problems=True)} <= {writer.pid for writer in writers}


def test_cost_of_a_record(tmp_path: Path) -> None:
    """Order of magnitude only: the machine is shared. Half of it is the time-stamp counter."""
    shm = Path("/dev/shm") / f"trace-cost-{os.getpid()}"
    try:
        tracer = Tracer(new_file(shm if shm.parent.is_dir() else tmp_path / "t"), DEAD)
        begin, end = ctypes.c_double(), ctypes.c_double()
        best = []
        for _ in range(5):
            library().lab_bench(tracer.handle, 100_000, ctypes.byref(begin), ctypes.byref(end))
            best.append((begin.value, end.value))
        assert min(b for b, _ in best) < 400
        assert min(e for _, e in best) < 300
    finally:
        shm.unlink(missing_ok=True)
