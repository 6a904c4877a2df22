"""Analysis of hostile files in processes that can only compute.

lief and capstone are large parsers written in C++ and C, and the files come from containers. So a fresh interpreter
(the *workshop*) loads them once, gives up what it can, and forks one worker a file: a worker that a file takes over can
lie about that file and no other. A worker runs with no descriptors but the file and its answer pipe, as nobody where
the runtime is root, without capabilities, in namespaces of its own, within resource limits, and behind a seccomp filter
that allows memory management, reading and writing; anything else kills it. The answer is JSON and believed by nobody
(image.py).
"""

from __future__ import annotations

import os
import sys
from typing import Any, TypedDict

MAX_FILE = 256 << 20  # bytes; larger files are served by the raw door
MAX_ANSWER = 32 << 20
CPU_SECONDS = 30
WALL_SECONDS = 60
MEMORY = 4 << 30  # address space: file, its copies, and what lief makes of it
NOBODY = 65534


class Answer(TypedDict, total=False):
    """What a worker says about a file. Untrusted."""

    error: str
    kind: str
    sites: list[list[Any]]
    skipped: list[list[Any]]
    seconds: float


class Workshop:
    """Runs workers; a context manager. Nothing is started before the first file."""

    def __init__(self) -> None:
        self._process: Any = None
        self._socket: Any = None

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workshop and with it every worker."""
        if self._process is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            self._process = self._socket = None

    def analyse(self, fds: list[int]) -> list[Answer]:
        """Answers for files (sealed memfds or files nobody writes), in order; as many at once as there are CPUs."""
        import select
        from time import monotonic

        answers: list[Answer] = [Answer(error="not analysed") for _ in fds]
        waiting = list(enumerate(fds))
        running: dict[int, tuple[int, bytearray, float]] = {}
        poll = select.poll()
        limit = max(1, len(os.sched_getaffinity(0)))
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    i, fd = waiting.pop(0)
                    pipe = self._send(fd)
                    running[pipe] = (i, bytearray(), monotonic() + WALL_SECONDS)
                    poll.register(pipe, select.POLLIN)
                for pipe, _ in poll.poll(1000):
                    i, data, _ = running[pipe]
                    piece = os.read(pipe, 1 << 16)
                    data += piece
                    if not piece or len(data) > MAX_ANSWER:
                        answers[i] = _parse(data)
                        poll.unregister(pipe)
                        os.close(pipe)
                        del running[pipe]
                if any(monotonic() > deadline for _, _, deadline in running.values()):
                    # Whoever overstays takes the others under way along; their files stay unplanned this time.
                    self.close()
        finally:
            for pipe in running:
                os.close(pipe)
        return answers

    def _send(self, fd: int) -> int:
        import socket

        if self._process is not None and self._process.poll() is not None:
            self.close()  # it died (out of memory?): the next file gets a new one
        if self._process is None:
            self._start()
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._socket, [b"f"], [fd, theirs])
        except OSError:
            pass  # the workshop died: the pipe ends at once, which is an answer
        finally:
            os.close(theirs)
        return ours

    def _start(self) -> None:
        import socket
        import subprocess

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        self._process = subprocess.Popen(
            [sys.executable, "-sP", "-m", "pysandbox.runtime.rewriter.confine"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        theirs.close()


def _parse(data: bytearray) -> Answer:
    import json

    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return Answer(error="analysis ended without an answer")
    if not isinstance(answer, dict):
        return Answer(error="analysis gave a malformed answer")
    if "error" not in answer and not isinstance(answer.get("sites"), list):
        return Answer(error="analysis gave a malformed answer")
    return answer  # type: ignore[return-value]  # every user checks the fields it uses


# --- inside the workshop -------------------------------------------------------------------------


def workshop_main() -> None:
    """Serves descriptor 0: each message brings a file and a pipe for the answer."""
    # Everything a worker uses is loaded here, before anything hostile is near: workers cannot open files.
    import json  # noqa: F401
    import signal
    import socket

    import capstone  # noqa: F401
    import lief  # noqa: F401

    from . import analysis  # noqa: F401

    control = socket.socket(fileno=0)
    _leave_the_host()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are not waited for
    me = os.getpid()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if len(fds) == 2 and os.fork() == 0:
            _worker(me, fds[0], fds[1])
        for fd in fds:
            os.close(fd)


def _leave_the_host() -> None:
    """Namespaces and ids. The seccomp filter of the workers is the wall; this is what stands behind it."""
    import ctypes
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    clone_ns, clone_uts, clone_ipc, clone_user, clone_net = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
    flags = clone_ns | clone_uts | clone_ipc | clone_net
    root = os.geteuid() == 0
    # Where unprivileged user namespaces are forbidden there is nothing to leave with: the filter is enough.
    libc.unshare(flags if root else flags | clone_user)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if root:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)  # clears every capability
        except OSError:
            # Root of a user namespace that has no nobody: a further one has no rights over what this one has.
            libc.unshare(clone_user)
    pr_set_dumpable, pr_set_no_new_privs = 4, 38
    if libc.prctl(pr_set_no_new_privs, 1, 0, 0, 0) or libc.prctl(pr_set_dumpable, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _worker(parent: int, source: int, answer: int) -> None:
    """Analyses one file, answers, and never returns."""
    status = 1
    try:
        size = os.fstat(source).st_size
        os.dup2(source, 0)
        os.dup2(answer, 1)
        os.closerange(2, 65536)
        _lock_up(parent)
        data = _read_all(0, size)
        _write_all(1, _answer(data))
        status = 0
    finally:
        os._exit(status)


def _answer(data: bytes) -> bytes:
    import json
    from time import perf_counter

    from pysandbox.oci.errors import Error

    from .analysis import analyse

    begin = perf_counter()
    try:
        report = analyse(data)
    except Error as e:
        return json.dumps({"error": e.message}).encode()
    out = {
        "kind": report.kind,
        "sites": [list(s) for s in report.sites],
        "skipped": [list(s) for s in report.skipped],
        "seconds": perf_counter() - begin,
    }
    return json.dumps(out).encode()


def _read_all(fd: int, size: int) -> bytes:
    out = bytearray()
    while len(out) < size and (piece := os.pread(fd, min(size - len(out), 1 << 24), len(out))):
        out += piece
    return bytes(out)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


# What a computing interpreter needs (asm/unistd_64.h): read write close fstat munmap brk rt_sigaction rt_sigprocmask
# rt_sigreturn pread64 sched_yield mremap madvise exit futex clock_gettime exit_group newfstatat getrandom
_ALLOWED = (0, 1, 3, 5, 11, 12, 13, 14, 15, 17, 24, 25, 28, 60, 202, 228, 231, 262, 318)
_MMAP, _MPROTECT = 9, 10  # allowed without PROT_EXEC


def _lock_up(parent: int) -> None:
    import ctypes
    import resource
    import signal
    from struct import pack

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    load, jeq, jset, ret = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
    kill, allow = 0x80000000, 0x7FFF0000
    n = len(_ALLOWED)
    program = [
        (load, 0, 0, 4),  # arch
        (jeq, 1, 0, 0xC000003E),
        (ret, 0, 0, kill),
        (load, 0, 0, 0),  # number
        (jeq, 1, 0, _MMAP),
        (jeq, 0, 3, _MPROTECT),
        (load, 0, 0, 32),  # third argument, low half: no new executable memory
        (jset, n + 1, 0, 4),  # PROT_EXEC: to kill
        (jeq, n + 1, n + 1, 0),  # else to allow
        *[(jeq, n - i, 0, nr) for i, nr in enumerate(_ALLOWED)],
        (ret, 0, 0, kill),
        (ret, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(pack("<HBBI", *row) for row in program))
    fprog = ctypes.create_string_buffer(pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
    if libc.prctl(22, 2, fprog, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        os._exit(1)


if __name__ == "__main__":
    workshop_main()
