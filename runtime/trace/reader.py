"""Reading a trace file: bytes that claim to be a trace become events, in order.

The file may be written to by live monitors, come from another machine, or be made up. So it is read, never mapped (a
file that shrinks must not kill the reader), every number in it is checked before it is used, and what is wrong with it is
collected in `problems` while the rest is still shown.

Two passes: the first learns what later records say of earlier calls (results that came after their chunk was left, program
starts), the second yields events. Neither holds more than one chunk of each process in memory.
"""

from __future__ import annotations

import os
import sys
from errno import ENXIO
from struct import Struct

from pysandbox.oci.errors import Error, host_reason, one_line
from pysandbox.runtime import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RT_SIGRETURN, EXECVE, EXECVEAT = 15, 59, 322
MAX_CHUNK = 16 << 20
MAX_PROBLEMS = 1000
_SETTING_UP = 1 << 63
_RECORD = Struct("<IBBBBQQIIII6QqQQ")
_ITEM = Struct("<BBHI")
_CHUNK = Struct("<IIQIIQQQ16s")


class TraceError(Error):
    """The file is no trace, or it cannot be read."""


class Item:
    """A payload item: what an argument pointed to. `arg` is None when it belongs to none; `data` may be cut."""

    __slots__ = ("arg", "data", "full_len", "kind")

    def __init__(self, kind: int, arg: int | None, data: bytes, full_len: int) -> None:
        self.kind, self.arg, self.data, self.full_len = kind, arg, data, full_len


class Event:
    """One record, with what other records say about it. Addresses and arguments are unsigned."""

    __slots__ = (
        "args",
        "comm",
        "done",
        "door",
        "host_pid",
        "items",
        "kind",
        "noreturn",
        "nr",
        "object",
        "pid",
        "ret",
        "rule",
        "seq",
        "site",
        "start_time",
        "tid",
        "time_ns",
        "tsc",
        "tsc_end",
        "verdict",
    )
    kind: int
    seq: int
    tsc: int
    tsc_end: int
    time_ns: int | None  # since the epoch; None: the file's clock is not known
    pid: int
    tid: int
    host_pid: int
    start_time: int
    comm: str
    nr: int
    args: tuple[int, ...]
    items: list[Item]
    ret: int
    done: bool
    noreturn: bool
    verdict: int
    rule: int
    door: int
    site: int
    object: tuple[str, int] | None  # file and offset of `site`

    def item(self, arg: int) -> Item | None:
        for item in self.items:
            if item.arg == arg:
                return item
        return None


class Chunk:
    """A chunk's header, checked."""

    __slots__ = ("comm", "first_seq", "host_pid", "index", "ordinal", "pid", "start_time", "state", "used")

    def __init__(self, index: int, values: tuple[int, ...], comm: bytes) -> None:
        self.index = index
        _magic, self.state, self.ordinal, self.host_pid, self.pid, self.first_seq, self.used, self.start_time = values
        self.comm = text_of(comm.split(b"\0", 1)[0])


class Trace:
    """An open trace file. Iterate `events()`; afterwards `problems` says what was wrong with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[str] = []
        self._noted: set[str] = set()
        self._rate: tuple[int, int] | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise TraceError(f"open {path}: {host_reason(error.errno)}", errno=error.errno) from None
        try:
            self.header = self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pread(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise TraceError(f"read {self.path}: {host_reason(error.errno)}", errno=error.errno) from None

    def _read_header(self) -> abi.TraceHeader:
        raw = self._pread(abi.TraceHeader.SIZE, 0)
        if len(raw) < abi.TraceHeader.SIZE:
            raise TraceError(f"{self.path}: too short for a trace")
        header = abi.TraceHeader.unpack(raw)
        if header.magic != abi.TRACE_MAGIC:
            raise TraceError(f"{self.path}: not a trace")
        if header.version != abi.ABI_VERSION:
            raise TraceError(f"{self.path}: trace version {header.version}, this program reads {abi.ABI_VERSION}")
        if header.chunk_size % 4096 or not 4096 <= header.chunk_size <= MAX_CHUNK:
            raise TraceError(f"{self.path}: damaged header: chunk size {header.chunk_size}")
        return header

    def problem(self, text: str) -> None:
        """Each is noted once, though a damaged place is passed twice."""
        if len(self.problems) < MAX_PROBLEMS and text not in self._noted:
            self._noted.add(text)
            self.problems.append(text)

    @property
    def container_id(self) -> str:
        return text_of(self.header.id.split(b"\0", 1)[0])

    @property
    def lost(self) -> int:
        """Records that a full ring could not take."""
        return self.header.lost

    def refresh(self) -> None:
        """Look at the header again: the clock, `lost` and the number of chunks of a live trace move on."""
        self.header = self._read_header()
        self._rate = None

    # --- clock

    def time_ns(self, tsc: int) -> int | None:
        """Nanoseconds since the epoch of a TSC value."""
        if self._rate is None:
            self._rate = self._clock_rate()
        ns, ticks = self._rate
        return self.header.realtime0_ns + (tsc - self.header.tsc0) * ns // ticks if ticks else None

    def _clock_rate(self) -> tuple[int, int]:
        """(nanoseconds, TSC ticks) that went by together; (0, 0): not known."""
        h = self.header
        if not h.tsc0:
            return 0, 0
        if h.tsc_khz:
            return 1000000, h.tsc_khz
        if h.realtime1_ns > h.realtime0_ns and h.tsc1 > h.tsc0:
            return h.realtime1_ns - h.realtime0_ns, h.tsc1 - h.tsc0
        return _rate_since(h.tsc0, h.realtime0_ns)

    # --- chunks

    def chunks(self) -> list[Chunk]:
        """Headers of all chunks with records, in the order of allocation."""
        size = self.header.chunk_size
        try:
            length = os.fstat(self._fd).st_size
        except OSError as error:
            raise TraceError(f"stat {self.path}: {host_reason(error.errno)}", errno=error.errno) from None
        found = []
        # What the header says counts only as far as the file reaches.
        count = min(self.header.nchunks, max(0, length - abi.TRACE_HEADER_SIZE) // size)
        index = 0
        while index < count:
            chunk = self._chunk(index)
            if chunk is not None:
                found.append(chunk)
            index = self._after(index) if chunk is None else index + 1
        found.sort(key=lambda chunk: chunk.ordinal)
        return found

    def _after(self, index: int) -> int:
        """The next chunk to look at behind an unused one. Holes are left out, or a file that claims to be of terabytes
        would keep the reader busy for hours."""
        size = self.header.chunk_size
        try:
            data = os.lseek(self._fd, abi.TRACE_HEADER_SIZE + (index + 1) * size, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # nothing but a hole follows
                return sys.maxsize
            return index + 1  # the file system cannot tell
        return max(index + 1, (data - abi.TRACE_HEADER_SIZE) // size)

    def _chunk(self, index: int) -> Chunk | None:
        size = self.header.chunk_size
        raw = self._pread(_CHUNK.size, abi.TRACE_HEADER_SIZE + index * size)
        if len(raw) < _CHUNK.size:
            return None
        *values, comm = _CHUNK.unpack(raw)
        magic, state, ordinal, _host, _pid, _first, used, _start = values
        if not ordinal or ordinal & _SETTING_UP or state == abi.CHUNK_FREE:
            return None  # never used, or being set up
        if magic != abi.CHUNK_MAGIC or state > abi.CHUNK_CLOSED or used > size - _CHUNK.size or used % 8:
            self.problem(f"chunk {index}: damaged header")
            return None
        return Chunk(index, tuple(values), comm)

    def content(self, chunk: Chunk) -> bytes | None:
        """The chunk's records; None when it was recycled meanwhile."""
        at = abi.TRACE_HEADER_SIZE + chunk.index * self.header.chunk_size
        raw = self._pread(chunk.used, at + _CHUNK.size)
        again = self._pread(_CHUNK.size, at)
        if len(raw) < chunk.used or len(again) < _CHUNK.size:
            self.problem(f"chunk {chunk.index}: the file ends in it")
            return None
        if _CHUNK.unpack(again)[2] != chunk.ordinal:
            return None
        return raw

    def records(self, chunk: Chunk) -> Iterator[tuple[int, tuple[int, ...], bytes]]:
        """(offset, fields, chunk bytes) of each record, up to the first damaged one."""
        raw = self.content(chunk)
        return iter(()) if raw is None else self._records(chunk, raw)

    def _records(self, chunk: Chunk, raw: bytes) -> Iterator[tuple[int, tuple[int, ...], bytes]]:
        at = 0
        while at < len(raw):
            if len(raw) - at < _RECORD.size:
                self.problem(f"chunk {chunk.index}: damaged record at {at}")
                return
            fields = _RECORD.unpack_from(raw, at)
            size = fields[0]
            if size < _RECORD.size or size % 8 or size > len(raw) - at:
                self.problem(f"chunk {chunk.index}: damaged record at {at}")
                return
            yield at, fields, raw
            at += size

    # --- events

    def events(self) -> Iterator[Event]:
        """All events of all processes by time; those of one process in the order of `seq`."""
        processes: dict[tuple[int, int], list[Chunk]] = {}
        for chunk in self.chunks():
            processes.setdefault((chunk.pid, chunk.start_time), []).append(chunk)
        later = _Later()
        for key, chunks in processes.items():
            for chunk in chunks:
                for _at, fields, _raw in self.records(chunk):
                    later.learn(key, fields)
        objects = _Objects()
        try:
            for event in _by_time([(chunks[0].start_time, self._process(chunks, later)) for chunks in processes.values()]):
                event.object = objects.follow(event)
                yield event
        finally:
            objects.close()

    def _process(self, chunks: list[Chunk], later: _Later) -> Iterator[Event]:
        comm = ""
        expected = -1
        key = (chunks[0].pid, chunks[0].start_time)
        for chunk in chunks:
            comm = chunk.comm or comm
            content = self.content(chunk)
            if content is None:
                expected = -1  # recycled while we read: what is missing now is no gap of the trace
                continue
            for at, fields, raw in self._records(chunk, content):
                kind, seq = fields[1], fields[5]
                if kind == abi.REC_RET:
                    if (key, seq) in later.orphans:  # its call was recycled: the result is all there is
                        later.orphans.discard((key, seq))
                        yield self._event(chunk, fields, raw, at, comm)
                    continue
                if seq > expected >= 0:
                    self.problem(f"process {chunk.pid}: records {expected} to {seq - 1} are missing")
                elif seq < expected:
                    self.problem(f"process {chunk.pid}: record {seq} follows record {expected - 1}")
                expected = seq + 1
                event = self._event(chunk, fields, raw, at, comm)
                if not event.done:
                    result = later.results.get((key, seq))
                    if result is not None:
                        event.ret, event.tsc_end, verdict = result
                        event.verdict = verdict or event.verdict
                        event.done = True
                if kind == abi.REC_EXEC and event.items:
                    comm = text_of(event.items[0].data.rsplit(b"/", 1)[-1][:15])
                    event.comm = comm
                yield event

    def _event(self, chunk: Chunk, fields: tuple[int, ...], raw: bytes, at: int, comm: str) -> Event:
        e = Event()
        size, e.kind, e.verdict, e.door, flags, e.seq, e.tsc, e.tid, e.nr, e.rule = fields[:10]
        e.args = fields[11:17]
        e.ret, e.site, e.tsc_end = fields[17:20]
        e.done, e.noreturn = bool(flags & abi.REC_DONE), bool(flags & abi.REC_NORETURN)
        if e.kind == abi.REC_CALL and e.nr == RT_SIGRETURN:
            # What it leaves in the result register belongs to the code that the signal interrupted.
            e.done, e.noreturn = False, True
        e.pid, e.host_pid, e.start_time, e.comm = chunk.pid, chunk.host_pid, chunk.start_time, comm
        e.time_ns = self.time_ns(e.tsc)
        e.object = None
        e.items = []
        place, end = at + _RECORD.size, at + size
        while end - place >= _ITEM.size:
            kind, arg, length, full_len = _ITEM.unpack_from(raw, place)
            place += _ITEM.size
            if length > end - place:
                self.problem(f"chunk {chunk.index}: damaged payload at {at}")
                break
            e.items.append(Item(kind, arg if arg < 6 else None, raw[place : place + length], full_len))
            place += (length + 7) & ~7
        return e


def _by_time(streams: list[tuple[int, Iterator[Event]]]) -> Iterator[Event]:
    """Merges streams of events by TSC. Each comes with a time that none of its events precedes and is not begun before
    that: the thousands of processes of a long trace are not all in memory at once."""
    from heapq import heapify, heappop, heapreplace

    # The number keeps ties in order and the comparison from reaching what cannot be compared.
    heap: list[tuple[int, int, Iterator[Event], Event | None]] = [
        (start, number, stream, None) for number, (start, stream) in enumerate(streams)
    ]
    heapify(heap)
    while heap:
        _tsc, number, stream, event = heap[0]
        if event is not None:
            yield event
        following = next(stream, None)
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (following.tsc, number, stream, following))


def _rate_since(tsc0: int, realtime0_ns: int) -> tuple[int, int]:
    """A container whose first process still fills its first chunk has left one pair of clock readings; this moment is the
    second one, if the trace began on this machine and since it started. What cannot be is (0, 0)."""
    from time import clock_gettime_ns, time_ns

    from pysandbox.runtime.native import rdtsc

    tsc, now = rdtsc(), time_ns()
    boot = now - clock_gettime_ns(7)  # CLOCK_BOOTTIME
    ns, ticks = now - realtime0_ns, tsc - tsc0
    if realtime0_ns < boot or ns <= 0 or not ns // 4 <= ticks <= ns * 8:  # 250 MHz to 8 GHz
        return 0, 0
    return ns, ticks


class _Later:
    """What is known of calls from records behind them: (process, seq) -> (result, tsc, verdict or 0)."""

    def __init__(self) -> None:
        self.results: dict[tuple[tuple[int, int], int], tuple[int, int, int]] = {}
        self.orphans: set[tuple[tuple[int, int], int]] = set()
        self._first: dict[tuple[int, int], int] = {}
        self._exec: dict[tuple[int, int], int] = {}

    def learn(self, process: tuple[int, int], fields: tuple[int, ...]) -> None:
        kind, flags, seq, nr = fields[1], fields[4], fields[5], fields[8]
        if kind == abi.REC_RET:
            self.results[process, seq] = fields[17], fields[19], fields[2]
            if seq < self._first.get(process, seq + 1):
                self.orphans.add((process, seq))
            return
        self._first.setdefault(process, seq)
        if kind == abi.REC_CALL and nr in (EXECVE, EXECVEAT) and not flags & abi.REC_DONE:
            self._exec[process] = seq
        elif kind == abi.REC_EXEC and process in self._exec:
            # The call itself cannot say that it succeeded: its program is gone.
            self.results[process, self._exec.pop(process)] = 0, fields[6], 0


class _Trampolines:
    """Return addresses in trampolines of rewritten text, and the call sites they stand for, from the plan store."""

    def __init__(self) -> None:
        self._store: int | None = None  # descriptor; -1: there is no store
        self._images: dict[int, tuple[abi.PlanImage, list[tuple[int, int]]] | None] = {}
        self._tables: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}

    def table(self, place: int, start: int, offset: int) -> dict[int, tuple[int, int]]:
        """For the image at `place` whose file offset `offset` is mapped at `start`: where a trampoline returns to ->
        (address of the call, its file offset). Empty when the store does not have it any more."""
        known = self._tables.get((place, start - offset))
        if known is None:
            known = self._tables[place, start - offset] = self._made(place, start, offset)
        return known

    def _made(self, place: int, start: int, offset: int) -> dict[int, tuple[int, int]]:
        if place not in self._images:
            self._images[place] = self._read(place)
        image = self._images[place]
        if image is None:
            return {}
        head, sites = image
        for mapped in head.seg[: head.nsegs]:
            if mapped.file_off <= offset < mapped.file_off + mapped.len:
                base = start - (offset - mapped.file_off) - mapped.vaddr
                break
        else:
            return {}
        out = {}
        for back, vaddr in sites:
            for segment in head.seg[: head.nsegs]:
                if segment.vaddr <= vaddr < segment.vaddr + segment.len:
                    file_offset = vaddr - segment.vaddr + segment.file_off
                    out[base + head.tramp_vaddr + back] = base + vaddr, file_offset
        return out

    def _read(self, place: int) -> tuple[abi.PlanImage, list[tuple[int, int]]] | None:
        """Header, and (offset in the trampolines, address of the call) of each jump site."""
        from ..rewriter.image import check_header
        from ..rewriter.store import Store

        if self._store is None:
            try:
                self._store = os.open(os.path.join(Store().path, "store"), os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._store = -1
        if self._store < 0:
            return None
        raw = os.pread(self._store, abi.PlanImage.SIZE, place)
        total = abi.PlanImage.unpack(raw).total_len if len(raw) == abi.PlanImage.SIZE else 0
        head = check_header(raw, total)
        if head is None or place + total > os.fstat(self._store).st_size:
            return None
        table = os.pread(self._store, head.nsites * abi.PlanSite.SIZE, place + head.sites_off)
        sites = [abi.PlanSite.unpack(table[at : at + abi.PlanSite.SIZE]) for at in range(0, len(table), abi.PlanSite.SIZE)]
        return head, [(site.tramp + site.tramp_back, site.vaddr) for site in sites if site.door == abi.DOOR_JUMP]

    def close(self) -> None:
        if self._store is not None and self._store >= 0:
            os.close(self._store)


class _Objects:
    """Executable mappings of each process, to tell the file that a call came from. A call through a trampoline gets the
    address of its own instruction as `site`."""

    def __init__(self) -> None:
        # pid -> [seq, start, end, file offset, path, place of the image in the plan store], newest last
        self._maps: dict[int, list[tuple[int, int, int, int, str, int]]] = {}
        self._exec: dict[int, int] = {}
        self._trampolines = _Trampolines()

    def close(self) -> None:
        self._trampolines.close()

    def _where(self, event: Event) -> tuple[str, int] | None:
        maps = self._maps.get(event.pid, ())
        for _seq, start, end, offset, path, _place in reversed(maps):
            if start <= event.site < end:
                return path, event.site - start + offset
        if event.door == abi.DOOR_JUMP:
            for _seq, start, _end, offset, path, place in reversed(maps):
                found = self._trampolines.table(place, start, offset).get(event.site) if place else None
                if found is not None:
                    event.site = found[0]
                    return path, found[1]
        return None

    def follow(self, event: Event) -> tuple[str, int] | None:
        pid = event.pid
        if event.kind == abi.REC_MAP and event.items:
            start, length, offset, _dev, _ino, place = event.args
            maps = self._maps.setdefault(pid, [])
            if len(maps) >= 4096:
                del maps[:2048]
            maps.append((event.seq, start, start + length, offset, text_of(event.items[0].data), place))
        elif event.kind == abi.REC_FORK:
            # As seen from the child: seq -1, so that its own execve forgets them.
            self._maps[pid] = [(-1, *entry[1:]) for entry in self._maps.get(event.args[0], [])]
            self._exec.pop(pid, None)
        elif event.kind == abi.REC_EXEC:
            began = self._exec.pop(pid, -1)
            self._maps[pid] = [entry for entry in self._maps.get(pid, []) if entry[0] > began]
        elif event.kind == abi.REC_CALL:
            if event.nr in (EXECVE, EXECVEAT):
                self._exec[pid] = event.seq
            if event.site:
                return self._where(event)
        return None


def text_of(raw: bytes) -> str:
    """Bytes of a program's choosing, as text that does not break a line: no control characters, UTF-8 kept."""
    return one_line(raw.decode("utf-8", "backslashreplace"))
