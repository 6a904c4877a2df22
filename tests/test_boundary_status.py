"""/proc/self/status beside runc: what the monitor needs for itself is not shown as the program's."""

from __future__ import annotations

from pathlib import Path

import pytest
from verb_lab import Config, both, missing

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

PROGRAM = r"""
import signal, threading, time
KEYS = ("Name", "Tgid", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Threads", "SigCgt", "SigIgn", "SigBlk", "ShdPnd")
def show(what):
    text = open("/proc/self/status").read()
    print(what, [line for line in text.splitlines() if line.split(":")[0] in KEYS], text.count("\n"))
show("at first")
for number in (signal.SIGUSR1, signal.SIGSEGV):
    signal.signal(number, lambda *_: None)
show("two handlers")
signal.signal(signal.SIGBUS, lambda *_: None); signal.signal(signal.SIGSEGV, signal.SIG_IGN)
show("another")
release = threading.Event()
threads = [threading.Thread(target=release.wait) for _ in range(11)]
for thread in threads: thread.start()
show("threads")
release.set()
for thread in threads: thread.join()
for _ in range(1000):  # Python's threads are joined a moment before they end
    if "Threads:\t1\n" in open("/proc/self/status").read(): break
    time.sleep(0.01)
show("joined")
"""
PROFILES = {
    "none": None,
    "allows all": {"defaultAction": "SCMP_ACT_ALLOW"},
    "denies": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]},
}


@pytest.mark.parametrize("profile", PROFILES)
def test_status_is_the_programs(tmp_path: Path, debian_rootfs: Path, pysandbox_command: list[str], profile: str) -> None:
    def change(config: Config) -> None:
        if PROFILES[profile] is not None:
            config["linux"]["seccomp"] = PROFILES[profile]

    seen = []
    for runtime in both(tmp_path, debian_rootfs, pysandbox_command):
        runtime.configure(["python3", "-c", PROGRAM], change)
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.splitlines())
    assert seen[0] == seen[1]
    assert "'Threads:\\t12'" in seen[0][3]


SIZES = r"""
import mmap, os, time
KEYS = ("VmPeak", "VmSize", "VmStk", "VmData")
def sizes(pid):
    lines = dict(line.split(":") for line in open(f"/proc/{pid}/status").read().splitlines())
    statm = open(f"/proc/{pid}/statm").read().split()
    return [*(int(lines[key].split()[0]) for key in KEYS), int(statm[0]) * 4, int(statm[5]) * 4,
            int(open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[20]) // 1024]
print(*sizes("self"))
private = mmap.mmap(-1, 50 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 100 << 20)
print(*sizes("self"))
del shared
print(*sizes("self"))
pid = os.fork()
if pid == 0:
    time.sleep(60); os._exit(0)
time.sleep(0.2)
other = sizes(pid)
os.kill(pid, 9)
print(other[1], other[4], other[6])
"""


def test_sizes_are_the_programs(tmp_path: Path, debian_rootfs: Path, pysandbox_command: list[str]) -> None:
    """Of the process itself to the kilobyte; of another one as much as a monitor's threads make a difference."""
    seen = []
    for runtime in both(tmp_path, debian_rootfs, pysandbox_command):
        runtime.configure(["python3", "-c", SIZES])
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        seen.append([[int(word) for word in line.split()] for line in done.stdout.splitlines()])
    for ours, theirs in zip(*seen, strict=True):
        slack = 512 if len(ours) == 3 else 8
        assert all(abs(a - b) <= slack for a, b in zip(ours, theirs, strict=True)), seen
