"""Files of procfs that are kept open and read again tell what is true then."""

import mmap
import os
import signal
import subprocess
import time


def again(fd):
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 1 << 16).decode()


def line(text, key):
    return next(part for part in text.split("\n") if part.startswith(key)).split()[1]


pid = os.fork()
if not pid:
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(1)
os.waitpid(pid, os.WUNTRACED)
status = os.open(f"/proc/{pid}/status", os.O_RDONLY)
stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
print(line(again(status), "State:"), again(stat).split()[2])
os.kill(pid, signal.SIGCONT)
for _ in range(200):
    if line(again(status), "State:") == "S":
        break
    time.sleep(0.05)
print(line(again(status), "State:"), os.pread(stat, 4096, 0).split()[2].decode())
os.kill(pid, signal.SIGKILL)
while line(again(status), "State:") != "Z":
    time.sleep(0.05)
print(again(stat).split()[2], bytearray(os.preadv(stat, [bytearray(100)], 0))[:0])
os.waitpid(pid, 0)
for fd in (status, stat):
    try:
        print(again(fd))
    except OSError as error:
        print(error)

maps = os.open("/proc/self/maps", os.O_RDONLY)
before = again(maps)
with open("/tmp/mapped", "w+b") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
    print("/tmp/mapped" in before, "/tmp/mapped" in again(maps))
    held.close()
print("/tmp/mapped" in again(maps))
own = os.open("/proc/self/status", os.O_RDONLY)
copy = os.dup(own)
print(line(again(own), "Name:"), line(again(copy), "Name:"))
with open("/proc/self/comm", "w", encoding="ascii") as comm:
    comm.write("renamed")
print(line(again(own), "Name:"), line(again(copy), "Name:"), os.fstat(own).st_nlink >= 0)
first = os.read(own, 10)
os.lseek(own, 0, os.SEEK_SET)
parts = b"".join(iter(lambda: os.read(own, 7), b""))
print(parts.startswith(b"Name:\trenamed"), line(parts.decode(), "Name:"))
os.lseek(own, 0, os.SEEK_SET)
print(subprocess.run(["/usr/bin/head", "-c", "5"], stdin=own, capture_output=True, check=True).stdout)
