"""Descriptors that a caller hands over: socket activation (sd_listen_fds(3)) and --preserve-fds."""

from __future__ import annotations

import os

from pysandbox.oci.errors import LaunchError


def listen_fds() -> int:
    """How many sockets, from descriptor 3 on, are meant for this process by its environment."""
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not count.isdecimal() or pid != str(os.getpid()):
        return 0
    return int(count)


def check_descriptors(count: int) -> None:
    """Descriptors 3 to 3 + count - 1 must be open. `LaunchError`."""
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise LaunchError(f"descriptor {fd}, which is to be passed on, is not open") from None
