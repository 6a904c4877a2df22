"""Odd corners of system calls: programs that are no files, clone3 with two result words, addresses sanitizers use."""

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
SYS_EXECVEAT, SYS_CLONE3, SYS_OPENAT2 = 322, 435, 437
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_CLEAR_SIGHAND, CLONE_FS = 0x100000, 0x1000, 0x100000000, 0x200


def call(*args):
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def execveat(directory, path, flags=0):
    argv = (ctypes.c_char_p * 2)(b"program", None)
    return call(SYS_EXECVEAT, directory, path.encode(), argv, argv, flags)


os.chdir("/tmp")
os.mkfifo("fifo", 0o755)
listener = socket.socket(socket.AF_UNIX)
listener.bind("socket")
reader, writer = os.pipe()
with open("script", "w", encoding="ascii") as script:
    script.write("#!/bin/cat\nscript's text\n")
os.chmod("script", 0o755)
fd = os.open("script", os.O_RDONLY)
print("fifo", execveat(AT_FDCWD, "fifo"))
print("socket", execveat(AT_FDCWD, "socket"), execveat(listener.fileno(), "", AT_EMPTY_PATH))
print("device", execveat(AT_FDCWD, "/dev/null"))
print("pipe", execveat(reader, "", AT_EMPTY_PATH))
print("directory", execveat(AT_FDCWD, "/tmp"))
print("missing", execveat(AT_FDCWD, "missing"), execveat(AT_FDCWD, "fifo/x"))
print("script that closes", execveat(fd, "", AT_EMPTY_PATH), flush=True)
os.set_inheritable(fd, True)
if not os.fork():
    execveat(fd, "", AT_EMPTY_PATH)
    os._exit(9)
print("script", os.wait()[1], flush=True)

pidfd, parent_tid = ctypes.c_int(-1), ctypes.c_int(-1)
where = [ctypes.addressof(pidfd), 0, ctypes.addressof(parent_tid)]


def clone3(flags, *rest):
    return call(SYS_CLONE3, struct.pack("<11Q", flags, *where, signal.SIGCHLD, 0, 0, 0, *(*rest, 0, 0, 0)[:3]), 88)


child = clone3(CLONE_PIDFD | CLONE_PARENT_SETTID)
if child == 0:
    time.sleep(0.2)
    os._exit(5)
print("clone3", child == parent_tid.value, os.waitid(os.P_PIDFD, pidfd.value, os.WEXITED).si_status)
where[2] = where[0]
print("same place", clone3(CLONE_PIDFD | CLONE_PARENT_SETTID))
print("set_tid", clone3(CLONE_FS, 0, 1), clone3(CLONE_FS, ctypes.addressof(parent_tid), 33), flush=True)

how = struct.pack("<QQQ", os.O_PATH, 0, 0)
print("openat2", [call(SYS_OPENAT2, AT_FDCWD, b"/tmp", how + tail, 24 + len(tail)) for tail in (b"x", b"\0" * 4073)])
print("openat2", isinstance(call(SYS_OPENAT2, AT_FDCWD, b"/tmp", how + bytes(4072), 4096), int))

libc.mmap.restype = ctypes.c_long
libc.mmap.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
PROT_NONE, PROT_WRITE, PRIVATE_FIXED_ANONYMOUS, NORESERVE = 0, 3, 0x32, 0x4000
print("mmap", libc.mmap(0x600000000000, 4 << 40, PROT_NONE, PRIVATE_FIXED_ANONYMOUS | NORESERVE, -1, 0) == 0x600000000000)
print("mmap", libc.mmap(0x602000000000, 65536, PROT_WRITE, PRIVATE_FIXED_ANONYMOUS, -1, 0) == 0x602000000000)
ctypes.memset(0x602000000000, 7, 65536)
print("memory", ctypes.string_at(0x60200000FFF0, 4), flush=True)
print(subprocess.run(["/bin/echo", "end"], capture_output=True, check=True).stdout)


def text(name):
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return file.read().splitlines()


def fields(lines):
    found = {}
    for line in lines:
        if line[0].isupper():
            key, value = line.split(":")
            found[key] = found.get(key, 0) + (int(value.split()[0]) if value.endswith(" kB") else 0)
    return found


smaps, maps, rollup = text("smaps"), text("maps"), fields(text("smaps_rollup"))
heads = [line for line in smaps if not line[0].isupper()]
print("smaps", list(fields(smaps)), {len(line.split(":")[1]) for line in smaps if line.endswith("kB")})
print("as in maps", [line for line in maps if ".so" in line and "r--p" in line and line not in heads])
sizes = sum(int(a, 16) - int(b, 16) for b, a in (line.split()[0].split("-") for line in heads if "vsyscall" not in line))
print("size", fields(smaps)["Size"] == sizes // 1024 + 4 * sum("vsyscall" in line for line in heads))
print("rollup", {"Rss", "Pss", "Private_Dirty", "Swap"} <= set(rollup), 1000 < rollup["Rss"] < 100000)
with open("/proc/self/coredump_filter", "r+", encoding="ascii") as file:
    print("filter", file.read(), file.write("0x33\n"))

stop = threading.Event()
workers = [threading.Thread(target=stop.wait) for _ in range(3)]
for worker in workers:
    worker.start()
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
print("tasks", {int(name) for name in os.listdir("/proc/self/task")} == {w.native_id for w in workers} | {os.getpid()})
print([line for line in text("status") if line.startswith(("Threads", "SigIgn", "SigCgt"))], text("stat")[0].split()[19])
stop.set()
