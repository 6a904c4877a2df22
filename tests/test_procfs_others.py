"""What a process sees of another one of its container in /proc/PID, beside runc; and that the other one notices nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from verb_lab import Config, both, missing

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

COMMON = r"""
import ctypes, os, re, select, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def show(what, f):
    try: result = f()
    except OSError as error: result = "error", error.errno
    print(what, re.sub(r"\[\d+\]", "[N]", str(result)), flush=True)
def child(f):
    "Forked; runs f when told to, having told that it is there."
    here, there = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here[0]); os.close(there[1])
        f(here[1], there[0])
        os._exit(0)
    os.close(here[1]); os.close(there[0])
    os.read(here[0], 1)
    return pid
"""

LOOK = r"""
def other(ready, stay):
    os.close(0); os.open("/dev/null", os.O_RDONLY)
    os.chdir("/usr/share")
    keep = [open("/etc/passwd"), socket.socket(), os.open("/dev/null", os.O_RDWR)]
    keep += [os.pipe(), select.epoll(), socket.socketpair()]
    keep.append(os.open("/dev/shm/gone", os.O_RDWR | os.O_CREAT)); os.unlink("/dev/shm/gone")
    keep.append(os.open("/usr", os.O_PATH)); os.dup2(keep[-1], 200)
    threading.Thread(target=os.read, args=(stay, 1), daemon=True).start()
    signal.signal(signal.SIGSEGV, lambda *_: None)
    os.write(ready, b"x"); os.read(stay, 1)
pid = child(other)
at = f"/proc/{pid}"
for name, same in (("exe", "/proc/self/exe"), ("cwd", "/usr/share"), ("root", "/")):
    show(name, lambda: os.readlink(f"{at}/{name}"))
    show("same", lambda: os.path.samestat(os.stat(f"{at}/{name}"), os.stat(same)))
numbers = sorted(map(int, os.listdir(f"{at}/fd")))
print(numbers)
for k in [*numbers, 99, 700, 1023, 1024, 1025, 1026, 1027, 1064, 1065, 1066, 1067, 5000, 300000]:
    show(f"fd {k}", lambda: os.readlink(f"{at}/fd/{k}"))
    show("stat", lambda: (oct(os.stat(f"{at}/fd/{k}").st_mode), oct(os.lstat(f"{at}/fd/{k}").st_mode)))
    show("info", lambda: [line.split() for line in open(f"{at}/fdinfo/{k}") if line[:3] in ("pos", "fla")])
passwd = [k for k in numbers if os.readlink(f"{at}/fd/{k}") == "/etc/passwd"][0]
show("open", lambda: open(f"{at}/fd/{passwd}").read() == open("/etc/passwd").read())
show("cwd", lambda: os.path.isdir(f"{at}/cwd/doc"))
show("root", lambda: os.listdir(f"{at}/root/usr") == os.listdir("/usr"))
show("task", lambda: (os.readlink(f"{at}/task/{pid}/cwd"), len(os.listdir(f"{at}/task"))))
show("environ", lambda: open(f"{at}/environ").read() == open("/proc/self/environ").read())
show("maps", lambda: sorted({line.split()[5] for line in open(f"{at}/maps") if "/" in line and "python" in line}))
KEYS = ("Thr", "Sig", "Shd", "NoN", "Sec", "Cap")
show("status", lambda: [line.split() for line in open(f"{at}/status") if line[:3] in KEYS and line[:4] != "SigQ"])
show("threads", lambda: open(f"{at}/stat").read().rsplit(")")[1].split()[17])
os.kill(pid, 9); os.waitpid(pid, 0)
for name in ("exe", "cwd", "root", "fd/0", "fd", "environ"):
    show("gone " + name, lambda: os.readlink(f"{at}/{name}"))
"""

RIGHTS = r"""
def other(ready, stay):
    os.write(ready, b"x"); os.read(stay, 1)
def undumpable(ready, stay):
    libc.prctl(4, 0, 0, 0, 0); os.write(ready, b"x"); os.read(stay, 1)
def look(what, pid, numbers=("fd/0",)):
    for name in ("exe", "cwd", "root", *numbers):
        show(f"{what} {name}", lambda: len(os.readlink(f"/proc/{pid}/{name}")) > 0)
    show(f"{what} environ", lambda: len(open(f"/proc/{pid}/environ").read()) > 0)
    show(f"{what} exe stat", lambda: os.stat(f"/proc/{pid}/exe").st_size > 0)
def user(ready, stay):
    os.setgid(1000); os.setuid(1000)
    print("dumpable", libc.prctl(3, 0, 0, 0, 0))
    look("of root", ours)
    same = child(other)
    look("not dumpable", same)
    program = subprocess.Popen(["sleep", "100"])
    while open(f"/proc/{program.pid}/comm").read() != "sleep\n": time.sleep(0.01)
    look("of the same user", program.pid, ())
    program.kill(); os.kill(same, 9)
    os.write(ready, b"x")
ours = child(other)
look("own", ours)
hidden = child(undumpable)
look("undumpable", hidden)
ended = os.fork()
if ended == 0: os._exit(0)
while open(f"/proc/{ended}/stat").read().rsplit(")")[1].split()[0] != "Z": time.sleep(0.01)
look("zombie", ended)
show("zombie fd", lambda: os.listdir(f"/proc/{ended}/fd"))
child(user)
for pid in (ours, hidden): os.kill(pid, 9)
"""

# Every way of waiting, with the time it takes; and what is not to be cut short.
WAITS = r"""
class Time(ctypes.Structure): _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]
def raw(number, *args):
    result = libc.syscall(number, *args)
    if result < 0: raise OSError(ctypes.get_errno(), "")
    return result
def timed(what, f):
    start = time.monotonic()
    show(what, f)
    took = time.monotonic() - start
    print("  in time" if 0.24 < took < 1.5 else f"  took {took}", flush=True)
def other(ready, stay):
    ref, none = ctypes.byref, ctypes.c_long(0)
    span = lambda: ref(Time(0, 250_000_000))
    empty, full = os.pipe()
    poll = (ctypes.c_int * 2)(empty, 1)
    os.write(ready, b"x")
    timed("poll", lambda: raw(7, poll, 1, 250))
    timed("ppoll", lambda: raw(271, poll, 1, span(), None, none))
    mask = ctypes.c_ulong(0)
    timed("ppoll, mask", lambda: raw(271, poll, 1, span(), ref(mask), ctypes.c_long(8)))
    timed("select", lambda: raw(23, 0, None, None, None, ref(Time(0, 250_000))))
    timed("pselect6", lambda: raw(270, 0, None, None, None, span(), None))
    epoll = select.epoll(); epoll.register(empty, 1); events = ctypes.create_string_buffer(120)
    timed("epoll_wait", lambda: raw(232, epoll.fileno(), events, 5, 250))
    timed("epoll_pwait", lambda: raw(281, epoll.fileno(), events, 5, 250, ref(mask), ctypes.c_long(8)))
    timed("epoll_pwait2", lambda: raw(441, epoll.fileno(), events, 5, span(), None, none))
    timed("nanosleep", lambda: raw(35, span(), None))
    timed("clock_nanosleep", lambda: raw(230, 1, 0, span(), None))
    timed("futex", lambda: raw(202, ref(ctypes.c_int(5)), 128, 5, span(), None, 0))
    timed("sigtimedwait", lambda: raw(128, ref(ctypes.c_ulong(1 << 9 | 1 << 6)), None, span(), ctypes.c_long(8)))
    semaphore = raw(64, 0, 1, 0o1600)
    timed("semtimedop", lambda: raw(220, semaphore, (ctypes.c_short * 3)(0, -1, 0), ctypes.c_long(1), span()))
    raw(66, semaphore, 0, 0)
    lock = threading.Lock(); lock.acquire()
    timed("lock", lambda: lock.acquire(timeout=0.25))
    signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.25)
    timed("pause", signal.pause)
    signal.signal(signal.SIGBUS, lambda *_: print("SIGBUS", flush=True)); os.kill(os.getpid(), signal.SIGBUS)
    near, far = socket.socketpair()
    ends = (near.send, far.recv, near.close)
    for write, read, end in (ends, (lambda b: os.write(full, b), lambda n: os.read(empty, n), lambda: os.close(full))):
        got = []
        def drain():
            while data := read(5000):
                got.append(len(data)); time.sleep(0.001)
        thread = threading.Thread(target=drain); thread.start()
        print("wrote", write(bytes(500_000)), flush=True)
        end(); thread.join(); print("read", sum(got), flush=True)
    for _ in range(5): print("program", subprocess.call(["true"]), os.system("exit 3"), flush=True)
    loop = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); (exit 1); /bin/true; done; exec sh -c 'echo last; exit 7'"
    os.execvp("sh", ["sh", "-c", loop])
pid = child(other)
count, wrong = 0, set()
while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
    for name in ("fd/1", "cwd", "exe", "task/%d/root" % pid):
        try: os.readlink(f"/proc/{pid}/{name}")
        except OSError as error: wrong.add(error.errno)
        count += 1
print("status", done[1], "often", count > 200, wrong - {2, 3})
"""

TOOLS = r"""
program = subprocess.Popen(["sleep", "100"], cwd="/usr", stdin=open("/etc/passwd"))
while open(f"/proc/{program.pid}/comm").read() != "sleep\n": time.sleep(0.01)
for command in (
    "pidof sleep", "pidof /usr/bin/sleep", "pgrep -f '^sleep 100'", "pgrep -x sleep", "ps -o pid,exe,nlwp,args -p PID",
    "start-stop-daemon --status --exec /usr/bin/sleep", "start-stop-daemon --status --exec /usr/bin/tail", "pwdx PID",
    "ls -l /proc/PID/fd", "readlink /proc/1/exe /proc/PID/cwd /proc/PID/root", "tr '\\0' '\\n' </proc/PID/environ",
    "pmap PID | tail -n +2 | awk '{print $3,$4}' | sort -u",
):
    done = subprocess.run(["sh", "-c", command.replace("PID", str(program.pid))], capture_output=True, text=True)
    text = re.sub(r"(?<![\w.])%d\b" % program.pid, "PID", done.stdout + done.stderr)
    print(command, done.returncode, re.sub(r"\[\d+\]|\d\d:\d\d", "N", text), flush=True)
program.kill()
"""


def programs() -> dict[str, str]:
    return {"look": LOOK, "rights": RIGHTS, "waits": WAITS, "tools": TOOLS}


@pytest.mark.parametrize("name", ["look", "rights", "waits", "tools", "look ptrace", "rights ptrace"])
def test_as_under_runc(tmp_path: Path, debian_rootfs: Path, pysandbox_command: list[str], name: str) -> None:
    name, _, more = name.partition(" ")

    def change(config: Config) -> None:
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind] += ["CAP_SETUID", "CAP_SETGID", *(["CAP_SYS_PTRACE"] if more else [])]

    seen = []
    for runtime in both(tmp_path, debian_rootfs, pysandbox_command):
        runtime.configure(["python3", "-c", COMMON + programs()[name]], change)
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.splitlines())
    assert seen[0] == seen[1]
    assert len(seen[0]) > 10


def test_of_a_process_that_exec_started(tmp_path: Path, debian_rootfs: Path, pysandbox_command: list[str]) -> None:
    """Both ways: the container's first program and one that came later know each other."""
    runtime = both(tmp_path, debian_rootfs, pysandbox_command)[0]
    runtime.configure(["sleep", "100"])
    try:
        assert runtime.create() == 0
        assert runtime.call("start", runtime.id).returncode == 0
        looks = 'readlink /proc/1/exe /proc/1/cwd /proc/1/fd/1; ls /proc/1/fd | wc -l; sh -c "readlink /proc/$$/exe"'
        done = runtime.call("exec", runtime.id, "sh", "-c", looks)
        assert re.sub(r"/.*/out", "OUT", done.stdout).split() == ["/usr/bin/sleep", "/", "OUT", "3", "/usr/bin/dash"], done
    finally:
        runtime.clean()


def test_descriptors_of_others_do_not_pile_up(tmp_path: Path, debian_rootfs: Path, pysandbox_command: list[str]) -> None:
    """Many processes one after the other, more than there are records, killed or not: the last one is still known."""
    program = r"""
for i in range(1200):
    pid = os.fork()
    if pid == 0:
        if i % 2: os.kill(os.getpid(), 9)
        os._exit(0)
    os.waitpid(pid, 0)
pid = child(lambda ready, stay: (os.write(ready, b"x"), os.read(stay, 1)))
show("fd", lambda: sorted(map(int, os.listdir(f"/proc/{pid}/fd"))))
show("own", lambda: len(os.listdir("/proc/self/fd")))
os.kill(pid, 9)
"""
    seen = []
    for runtime in both(tmp_path, debian_rootfs, pysandbox_command):
        runtime.configure(["python3", "-c", COMMON + program])
        done: subprocess.CompletedProcess[str] = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.splitlines())
    assert seen[0] == seen[1]
