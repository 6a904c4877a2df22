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
