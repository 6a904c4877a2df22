"""Making a trace file. On the path of every container start: nothing is imported that can be left out."""

from __future__ import annotations

import os
import time

from pysandbox.runtime import abi

CHUNK_SIZE = 32 << 10
RING_SIZE = 4 << 20
MODES = {"ring": abi.TRACE_RING, "full": abi.TRACE_FULL}


def create_trace_file(
    path: str, container_id: str, mode: str = "ring", size: int = RING_SIZE, *, dir_fd: int | None = None
) -> int:
    """A new trace file at `path` (relative to `dir_fd`); its descriptor, for reading and writing, close-on-exec.

    `mode` is `ring` (the last `size` bytes of records are kept) or `full` (it grows; `size` is where it starts). The
    room is allocated now, so that a full disk is an `OSError` here and not a fault in a monitor that writes into a
    hole; then, as for any other failure, the file is gone again. An existing file is never touched
    (`FileExistsError`).
    """
    nchunks = size // CHUNK_SIZE
    if mode not in MODES or not 2 <= nchunks <= 1 << 20:
        raise ValueError(f"trace mode {mode!r}, size {size}")
    name = container_id.encode()
    header = abi.TraceHeader.pack(
        magic=abi.TRACE_MAGIC,
        version=abi.ABI_VERSION,
        mode=MODES[mode],
        chunk_size=CHUNK_SIZE,
        nchunks=nchunks,
        realtime0_ns=time.time_ns(),  # with tsc0 = 0: the first monitor writes the pair
        id=name[:255],
    )
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    try:
        os.posix_fallocate(fd, 0, abi.TRACE_HEADER_SIZE + nchunks * CHUNK_SIZE)
        os.pwrite(fd, header, 0)
    except BaseException:
        os.close(fd)
        os.unlink(path, dir_fd=dir_fd)
        raise
    return fd
