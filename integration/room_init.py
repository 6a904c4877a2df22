"""Process 1 of a room (room.py): makes the mounts and the network, says `ready`, then reaps orphans until its input closes.

Runs under the system's Python as the first process of new mount, pid, network, ipc and uts namespaces.
Arguments: scratch directory, then directories whose content the room must not see or change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

ADDRESS = "10.213.7.2"
RECORDS = "/var/lib/pysandbox/install"


def call(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def mounts(scratch: str, hidden: list[str]) -> None:
    call("mount", "--make-rprivate", "/")
    call("mount", "-t", "proc", "proc", "/proc")
    # runc believes in the first place where it sees a hierarchy, whoever mounted it there.
    with open("/proc/self/mounts") as lines:
        words = [line.split(" ") for line in lines]
    for place in reversed([word[1] for word in words if word[2].startswith("cgroup")]):
        if not place.startswith("/sys/fs/cgroup"):
            call("umount", "--lazy", place)
    # /sys shows the network of whoever mounted it; the cgroups below it are the machine's and stay.
    kept = os.path.join(scratch, "cgroup")
    os.mkdir(kept)
    call("mount", "--rbind", "/sys/fs/cgroup", kept)
    # Taken away, not only covered: podman meets covered mounts in the mount table and cannot unmount them.
    call("umount", "--recursive", "--lazy", "/sys")
    call("mount", "-t", "sysfs", "sysfs", "/sys")
    call("mount", "--rbind", kept, "/sys/fs/cgroup")
    call("umount", "-R", kept)
    call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    os.mkdir("/run/lock", 0o1777)
    os.mkdir("/run/room")
    os.mkdir(os.path.join(scratch, "disk"))
    call("mount", "--bind", os.path.join(scratch, "disk"), "/run/room")
    layers = [os.path.join(scratch, name) for name in ("etc", "etc-work")]
    for path in layers:
        os.mkdir(path)
    call("mount", "-t", "overlay", "-o", f"lowerdir=/etc,upperdir={layers[0]},workdir={layers[1]}", "overlay", "/etc")
    for number, path in enumerate(hidden):
        if os.path.isdir(path):
            own = os.path.join(scratch, f"hidden-{number}")
            os.mkdir(own)
            call("mount", "--bind", own, path)
    # Plans are shared with the host; what `pysandbox install` remembers is the room's own.
    os.makedirs(RECORDS, exist_ok=True)
    call("mount", "-t", "tmpfs", "tmpfs", RECORDS)
    call("mount", "--make-rshared", "/")  # as systemd leaves it: engines' shared and slave volumes need it


def network() -> None:
    call("ip", "link", "set", "lo", "up")
    call("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "outside")
    call("ip", "addr", "add", f"{ADDRESS}/24", "dev", "eth0")
    for name in ("eth0", "outside"):
        call("ip", "link", "set", name, "up")
    call("ip", "route", "add", "default", "via", ADDRESS.rpartition(".")[0] + ".1")


def reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main() -> None:
    mounts(sys.argv[1], sys.argv[2:])
    network()
    signal.signal(signal.SIGCHLD, reap)
    reap()
    print("ready", flush=True)
    sys.stdin.read()


main()
