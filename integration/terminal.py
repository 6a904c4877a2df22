"""A command of a room with a pseudoterminal, for what users do interactively: type, wait for text, read the exit status."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time

from room import Room

TIMEOUT = 60.0


class Terminal:
    """Runs a command in `room` with a new terminal as its standard streams and its controlling terminal."""

    def __init__(self, room: Room, *command: str, size: tuple[int, int] = (24, 80)) -> None:
        """`size`: rows, columns."""
        self.master, slave = os.openpty()
        self.resize(*size)
        argv = room.argv("setsid", "--ctty", "--wait", *command)
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=room.env())
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def _read(self, deadline: float, waited: str) -> bool:
        """Takes what there is; False at the end of the output."""
        left = deadline - time.monotonic()
        assert left > 0, f"waited in vain for {waited}; the terminal showed {self.seen!r}"
        if not select.select([self.master], [], [], left)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the last one closed the other side
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text: str) -> str:
        """Waits until `text` was shown; gives what was shown before it, and takes both away."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.seen:
            assert self._read(deadline, repr(text)), f"ended before {text!r}; the terminal showed {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def finish(self) -> int:
        """Waits for the end of the command: its exit status. What was shown since is in `seen`."""
        deadline = time.monotonic() + TIMEOUT
        while self._read(deadline, "the end"):
            pass
        status = self.process.wait(timeout=TIMEOUT)
        os.close(self.master)
        return status
