"""`ps`: which processes a container has, and the host's ps(1) about them."""

from __future__ import annotations

import os

from pysandbox.oci import cgroups
from pysandbox.oci.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.oci.state import State


def of_container(state: State) -> list[int]:
    """Host pids, in order: the members of its groups, or, where it has none, of its pid namespace."""
    groups = [path for path in cgroups.directories(cgroups.of_state(state)) if os.path.isdir(path)]
    if groups:
        return [pid for pid in cgroups.processes(groups) if not _is_kernels(pid)]
    init = state.pid
    if not init:
        return []
    space = _pid_space(init)
    if space == _pid_space(os.getpid()):
        return [init]
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal() and _pid_space(int(name)) == space)


_PF_KTHREAD = 0x200000  # include/linux/sched.h


def _is_kernels(pid: int) -> bool:
    """Whether it is a thread of the kernel's: before Linux 6.16 KVM puts one for each virtual machine into the maker's groups."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & _PF_KTHREAD)
    except OSError:
        return False  # ended meanwhile, or not to be seen from here


def _pid_space(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def table(pids: Sequence[int], options: Sequence[str]) -> str:
    """The heading of ps(1) and the lines whose PID is one of these. `Error` when ps fails or shows no PID."""
    import subprocess

    # An engine may call with no PATH at all.
    env = {**os.environ, "PATH": os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, errors="replace", env=env, check=False)
    except OSError:
        raise Error("ps: executable file not found in $PATH") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise Error(f"ps {' '.join(options)}: {said}")
    heading = lines[0].split()
    if "PID" not in heading:
        raise Error("couldn't find PID field in ps output")
    column = heading.index("PID")
    wanted = {str(pid) for pid in pids}
    shown = [line for line in lines[1:] if len(fields := line.split()) > column and fields[column] in wanted]
    return "".join(f"{line}\n" for line in [lines[0], *shown])
