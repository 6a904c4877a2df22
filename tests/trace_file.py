"""Trace files made by hand, byte by byte, for tests of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pysandbox.runtime import abi

TSC0 = 1_000_000
TIME0 = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20Z
KHZ = 2_000_000  # two ticks a nanosecond

ItemSpec = tuple[int, int, bytes, int]  # PSB_ITEM_*, argument, bytes kept, bytes there were


def string(arg: int, text: str | bytes, full_len: int = 0) -> ItemSpec:
    data = text.encode() if isinstance(text, str) else text
    return abi.ITEM_STRING, arg, data, full_len or len(data)


def record(
    seq: int, nr: int = 39, args: Sequence[int] = (), ret: int | None = 0, *, items: Sequence[ItemSpec] = (), **fields: int
) -> bytes:
    """A record, finished unless `ret` is None; a call unless `kind` says otherwise."""
    payload = b""
    for kind, arg, data, full_len in items:
        payload += abi.TraceItem.pack(type=kind, arg=arg, len=len(data), full_len=full_len) + data.ljust(
            -(-len(data) // 8) * 8, b"\0"
        )
    values = {"kind": abi.REC_CALL, "tsc": TSC0 + 2000 * seq, "tid": 1, "flags": 0 if ret is None else abi.REC_DONE} | fields
    values.setdefault("tsc_end", 0 if ret is None else values["tsc"] + 200)
    size = abi.TraceRecord.SIZE + len(payload)
    return abi.TraceRecord.pack(size=size, seq=seq, nr=nr, args=args, ret=ret or 0, **values) + payload


def chunk(ordinal: int, *records: bytes, chunk_size: int = 8192, **fields: int | bytes) -> bytes:
    """A whole chunk of the file; `used` is right unless given."""
    body = b"".join(records)
    values: dict[str, Any] = {
        "magic": abi.CHUNK_MAGIC,
        "state": abi.CHUNK_CLOSED,
        "ordinal": ordinal,
        "host_pid": 1000,
        "pid": 1,
        "used": len(body),
        "start_time": TSC0,
        "comm": b"init",
    } | fields
    return (abi.TraceChunk.pack(**values) + body).ljust(chunk_size, b"\0")


def build(path: Path, *chunks: bytes, chunk_size: int = 8192, **fields: int | bytes) -> str:
    """Writes a trace file with these chunks; the header is right unless told otherwise."""
    values: dict[str, Any] = {
        "magic": abi.TRACE_MAGIC,
        "version": abi.ABI_VERSION,
        "mode": abi.TRACE_RING,
        "chunk_size": chunk_size,
        "nchunks": len(chunks),
        "next_chunk": len(chunks),
        "tsc0": TSC0,
        "realtime0_ns": TIME0,
        "tsc_khz": KHZ,
        "id": b"box",
    } | fields
    header = abi.TraceHeader.pack(**values)
    path.write_bytes(header.ljust(abi.TRACE_HEADER_SIZE, b"\0") + b"".join(chunks))
    return str(path)
