"""sqlite3, ssl, signal, mmap, socketpair and what lies near them: one line for each fact."""

import array
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import pty
import resource
import select
import signal
import socket
import sqlite3
import ssl
import struct
import tempfile
import time
import zlib

# sqlite: locks, journal in both modes, more than the cache
for mode in ("delete", "wal"):
    path = f"/tmp/{mode}.db"
    with sqlite3.connect(path) as base:
        print(base.execute(f"pragma journal_mode={mode}").fetchone())
        base.execute("create table t (a integer primary key, b text)")
        base.executemany("insert into t values (?, ?)", ((n, f"row {n}" * 5) for n in range(20_000)))
    other = sqlite3.connect(path)
    print(other.execute("select count(*), sum(a), max(b) from t").fetchone())
    base.execute("begin exclusive")
    other.execute("pragma busy_timeout=20")
    try:
        other.execute("begin immediate")
    except sqlite3.OperationalError as error:
        print(error)
    base.rollback()
    base.close()
    other.close()

# ssl without a network: two ends in memory get as far as a refused handshake
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
print(ssl.OPENSSL_VERSION, len(context.get_ciphers()), len(ssl.RAND_bytes(16)))
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
try:
    client.do_handshake()
except ssl.SSLWantReadError:
    print("hello sent", outgoing.pending > 100)
print(hashlib.sha256(b"z" * 1_000_000).hexdigest(), zlib.crc32(b"z" * 1_000_000))

# signals: handler, timers, masks, waiting, interruption
seen = []
signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
end = time.monotonic() + 0.3
while time.monotonic() < end:
    sum(range(100))
time.sleep(0.1)
signal.setitimer(signal.ITIMER_REAL, 0)
print("ticks", len(seen) >= 5, set(seen))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
print(signal.sigpending(), signal.sigwait([signal.SIGUSR1]), signal.sigtimedwait([signal.SIGUSR1], 0.02))


def fail(number: int, frame: object) -> None:
    raise InterruptedError("by the handler")


signal.signal(signal.SIGALRM, fail)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    time.sleep(20)
except InterruptedError as error:
    print(error)

# mmap: anonymous, shared with a child, of a file, beyond its end
area = mmap.mmap(-1, 8192)
if (pid := os.fork()) == 0:
    area[4096:4101] = b"child"
    os._exit(0)
os.waitpid(pid, 0)
print(area[4096:4101])
with tempfile.TemporaryFile() as file:
    file.truncate(10_000)
    with mmap.mmap(file.fileno(), 0) as view:
        view[9_990:] = b"0123456789"
        view.flush()
        file.seek(9_985)
        print(file.read(), view.find(b"5678"), len(view))
        file.write(b"grown" * 2000)
        file.flush()
        view.resize(15_000)
        print(view[10_000:10_010])
if (pid := os.fork()) == 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

# sockets: pairs, descriptors passed, datagrams, loopback, options
left, right = socket.socketpair()
read_end, write_end = os.pipe()
socket.send_fds(left, [b"take"], [write_end])
data, descriptors, _, _ = socket.recv_fds(right, 100, 4)
os.write(descriptors[0], b"through the passed descriptor")
print(data, os.read(read_end, 100))
print(struct.unpack("3i", left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)) == (os.getpid(), 0, 0))
left.settimeout(0.05)
try:
    left.recv(1)
except TimeoutError as error:
    print(error)
receiver, sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
sender.sendto(b"datagram", receiver.getsockname())
print(receiver.recv(100))
try:
    socket.create_connection(("127.0.0.1", 1), 1)
except OSError as error:
    print(error)
poll = select.epoll()
poll.register(right, select.EPOLLIN)
print(poll.poll(0.01))
left.send(b"x")
print([mask for _, mask in poll.poll(5)])

# terminals, locks, attributes, time
master, slave = pty.openpty()
os.write(slave, b"line\n")
print(os.read(master, 100), os.isatty(slave), os.ttyname(slave))
window = array.array("H", [25, 80, 0, 0])
fcntl.ioctl(slave, 0x5414, window)
print(os.get_terminal_size(master))
with open("/tmp/lock", "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    if (pid := os.fork()) == 0:
        try:
            with open("/tmp/lock", "w") as again:
                fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os._exit(8)
        os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.mkdir("/tmp/many")
for number in range(500):
    os.symlink(f"target {number}", f"/tmp/many/{number}")
print(len(os.listdir("/tmp/many")), os.readlink("/tmp/many/77"), len(list(os.scandir("/tmp/many"))))
print(os.uname().nodename, os.getcwd(), os.getresuid(), os.getgroups(), os.umask(0o22), os.getpgrp() > 0)
print(time.clock_gettime(time.CLOCK_MONOTONIC) <= time.monotonic(), abs(time.time() - time.clock_gettime(0)) < 1)
print(json.dumps({"affinity": len(os.sched_getaffinity(0)), "cores": os.cpu_count()}), len(os.getrandom(32)))
memory = os.memfd_create("name")
os.write(memory, b"in memory")
print(os.pread(memory, 6, 3), os.sendfile(master, memory, 0, 2), os.fstat(memory).st_size)
print(os.readlink("/proc/self/exe"), open("/proc/self/cmdline").read().split("\0")[1], open("/proc/self/comm").read())
