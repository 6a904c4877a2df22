"""Runs a command in a room (room.py): room_enter.py PID-OF-ITS-INIT DIRECTORY COMMAND...; its status is the command's.

nsenter(1) stops itself when its command is stopped, and whoever stops and continues all processes at once leaves it stopped; this
waits for the end only. The command is killed when this process is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

NAMESPACES = ("ipc", "uts", "net", "pid", "mnt")
PR_SET_PDEATHSIG = 1


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptors = [os.open(f"/proc/{sys.argv[1]}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES]
    for name, fd in zip(NAMESPACES, descriptors, strict=True):
        if libc.setns(fd, 0):
            sys.exit(f"setns {name}: {os.strerror(ctypes.get_errno())}")
    os.chdir(sys.argv[2])
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(sys.argv[3], sys.argv[3:])
        except OSError as error:
            os.write(2, f"{sys.argv[3]}: {error.strerror}\n".encode())
            os._exit(127)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


main()
