"""Descriptor and file size limits too small for the monitor's own descriptors and files."""

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading

NOFILE, FSIZE = resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE


def attempt(what, function, *args):
    try:
        print(what, function(*args), flush=True)
    except (OSError, ValueError) as error:
        print(what, error, flush=True)


def child(what, function):
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(SystemExit):
            function()
        os._exit(0)
    print(what, "->", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def descriptors():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    one, other = socket.socketpair()
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    socket.send_fds(one, [b"x"], [held[0], held[1]])  # before the limit: it also counts descriptors in flight
    hard = resource.getrlimit(NOFILE)[1]
    resource.setrlimit(NOFILE, (held[-1] + 1, hard))
    print(resource.getrlimit(NOFILE)[0] - held[-1])
    attempt("create", os.open, "/tmp/not-made", os.O_CREAT | os.O_RDWR)
    print(os.path.exists("/tmp/not-made"), flush=True)
    attempt("dup", os.dup, 0)
    attempt("dup2", os.dup2, 0, held[-1] + 1)
    attempt("dupfd", fcntl.fcntl, 0, fcntl.F_DUPFD, held[-1] + 1)
    attempt("pipe", os.pipe)
    attempt("accept", listener.accept)
    attempt("pidfd", os.pidfd_open, os.getpid())
    attempt("received", lambda: socket.recv_fds(other, 1, 4)[1:3])
    poll = select.poll()
    for fd in range(held[-1] + 2):
        poll.register(fd, 0)
    attempt("poll", poll.poll, 0)
    os.close(held[3])
    attempt("create", os.open, "/tmp/made", os.O_CREAT | os.O_RDWR)
    os.close(held[4])
    accepted = listener.accept()[0]
    client.send(b"still there")
    print(accepted.recv(100), accepted.fileno() == held[4], flush=True)
    os.close(held[5])
    os.close(held[6])
    os.close(held[7])
    for fd in held[8:]:
        os.set_inheritable(fd, True)
    script = "import os, resource; print(resource.getrlimit(7)[0], len(os.listdir('/proc/self/fd')), *LIMITS, flush=True)"
    script = script.replace("LIMITS", "list(open('/proc/self/limits'))[:8]")
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 2 << 20))
    resource.setrlimit(NOFILE, (12, hard))
    subprocess.run([sys.executable, "-c", script], close_fds=False, check=False)
    resource.setrlimit(NOFILE, (0, 5))
    attempt("raise", resource.setrlimit, NOFILE, (6, 6))
    attempt("open", os.open, "/dev/null", os.O_RDONLY)
    os.execv("/bin/echo", ["echo", "no library can be opened"])


def used_up():
    """No number is left: the monitor still has some for a child and a thread."""
    fds = []
    with contextlib.suppress(OSError):
        while True:
            fds.append(os.dup(0))
    attempt("create", os.open, "/tmp/never", os.O_CREAT | os.O_WRONLY)
    print(os.path.exists("/tmp/never"), flush=True)
    child("forked", lambda: attempt("dup", os.dup, 0))
    thread = threading.Thread(target=print, args=("thread",))
    thread.start()
    thread.join()
    os.close(fds[-1])
    print(os.dup(0) == fds[-1], flush=True)


def others():
    """Of another process: what its program set, by prlimit and in procfs."""
    pid = os.fork()
    if not pid:
        resource.setrlimit(NOFILE, (33, 44))
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 2 << 20))
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    print(resource.prlimit(pid, NOFILE), resource.prlimit(pid, resource.RLIMIT_STACK))
    with open(f"/proc/{pid}/limits", encoding="utf-8") as limits:
        print(limits.read())
    os.kill(pid, signal.SIGCONT)
    print(os.waitpid(pid, 0)[1], flush=True)


def stacks():
    """A program begins, however much room its stack may have: set by itself or by another process."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    for limit in ((8 << 20, 1 << 45), (1 << 45, 1 << 45)):
        pid = os.fork()
        if not pid:
            resource.setrlimit(resource.RLIMIT_STACK, limit)
            os.execv("/bin/echo", ["echo", "own limit"])
        print(os.waitpid(pid, 0)[1], flush=True)
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execv("/bin/echo", ["echo", "limit of others"])
    os.waitpid(pid, os.WUNTRACED)
    resource.prlimit(pid, resource.RLIMIT_STACK, (hard, hard))
    os.kill(pid, signal.SIGCONT)
    print(os.waitpid(pid, 0)[1], flush=True)


def sizes():
    for limit in (0, 1024, 4096):
        resource.setrlimit(FSIZE, (limit, resource.RLIM_INFINITY))
        subprocess.run(["/bin/echo", "run", str(limit)], check=True)
        with open("/proc/self/maps", encoding="utf-8") as maps, open("/proc/self/stat", encoding="utf-8") as stat:
            print("libc" in maps.read(), "python3" in stat.read(), flush=True)
    resource.setrlimit(FSIZE, (3, 3))
    attempt("write", os.write, os.open("/tmp/file", os.O_CREAT | os.O_WRONLY), b"12345")
    attempt("write", os.write, os.open("/tmp/file", os.O_APPEND | os.O_WRONLY), b"12345")
    os.execv("/bin/echo", ["echo", "exec"])


child("descriptors", descriptors)
child("used up", used_up)
child("others", others)
child("stacks", stacks)
child("sizes", sizes)
