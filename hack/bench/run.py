"""Benchmarks side by side with the other runtimes on this machine: `make bench`, or run.py --help.

The same bundles (Debian root file system, an allow-list seccomp profile, private namespaces) run alternately under
pysandbox, with its default trace, and under runc, crun and runsc as far as they are installed and work here. Every figure is the
median over the rounds. Writes build/bench/latest.json (a list of rows, see `Row`) and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

TOP = Path(__file__).resolve().parent.parent.parent
HERE = TOP / "hack" / "bench"
WORK = TOP / "build" / "bench"
ROOTFS = (TOP / "build" / "rootfs" / "debian").resolve()  # runc takes no link
HYBRID_CGROUP = "/sys/fs/cgroup/unified"
TIMEOUT = 300  # seconds for one container
HELD = 4  # processes whose memory is looked at

CAPABILITIES = """
    CAP_AUDIT_WRITE CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD CAP_NET_BIND_SERVICE CAP_NET_RAW
    CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_CHROOT
""".split()


class Row(TypedDict):
    """One line of latest.json: what pysandbox and one peer needed for a case, and pysandbox / peer."""

    case: str
    metric: str
    unit: str
    pysandbox: float
    peer: float
    peer_name: str
    ratio: float
    runs: int


class Failure(Exception):
    """A container that did not do what it was told; the message is for the user."""


# --- Runtimes and bundles --------------------------------------------------------------------------------------------


class Runtime:
    """A command that takes `run --bundle DIR ID`, as runc does."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.command = command
        self.count = 0

    def arguments(self, bundle: Path, *options: str) -> list[str]:
        self.count += 1
        identifier = f"bench-{self.name}-{os.getpid()}-{self.count}"
        return [*self.command, "run", *options, "--bundle", str(bundle), identifier]

    def run(self, bundle: Path) -> tuple[float, str]:
        """Seconds from start to exit, and what the container wrote."""
        command = self.arguments(bundle)
        started = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise Failure(f"{self.name}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
        return seconds, done.stdout


def peers(probe: Path) -> Iterator[Runtime]:
    """The other runtimes that are installed and can run the probe; says on standard error why one is left out."""
    gvisor = ["--network=none", "--ignore-cgroups"]
    # In order of preference, under one name: gVisor's fast platform is missing in old versions.
    ways = [("runc", []), ("crun", []), ("runsc", [*gvisor, "--platform=systrap"]), ("runsc", [*gvisor, "--platform=ptrace"])]
    found: set[str] = set()
    for name, options in ways:
        path = shutil.which(name)
        if path is None or name in found:
            continue
        root = WORK / "state" / name
        root.mkdir(parents=True, exist_ok=True)
        peer = Runtime(name, [path, "--root", str(root), *options])
        try:
            peer.run(probe)
        except Failure as error:
            print(f"bench: not measured: {' '.join([name, *options])}: {error}", file=sys.stderr)
            continue
        found.add(name)
        yield peer


def config(arguments: list[str]) -> dict[str, Any]:
    """A config.json as engines write it for a plain container."""
    capabilities = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    plain = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"],
            "cwd": "/",
            "capabilities": capabilities,
            "noNewPrivileges": True,
        },
        "root": {"path": str(ROOTFS), "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*plain, "mode=1777"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/opt", "type": "bind", "source": str(WORK / "bin"), "options": ["rbind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "seccomp": json.loads((HERE / "seccomp.json").read_text()),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def bundle(name: str, arguments: list[str]) -> Path:
    directory = WORK / "bundles" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(arguments)))
    return directory


# --- Cases: each yields (case, metric, unit, value) for one run under one runtime ------------------------------------

Sample = tuple[str, str, str, float]


def small_operations(runtime: Runtime) -> Iterator[Sample]:
    _, output = runtime.run(bundle("micro", ["/opt/micro"]))
    for line in output.splitlines():
        case, value = line.split()
        if case == "cpu-loop":
            yield case, "time", "s", float(value) / 1e9
        else:
            yield case, "time", "ns", float(value)


def program_start(case: str, arguments: list[str]) -> Callable[[Runtime], Iterator[Sample]]:
    """A program started from inside a container that is up already."""

    def measure(runtime: Runtime) -> Iterator[Sample]:
        _, output = runtime.run(bundle(case, ["/opt/micro", "spawn", "3", *arguments]))
        yield case, "fork to exit", "ms", float(output.split()[1]) / 1e6

    return measure


def container_start(runtime: Runtime) -> Iterator[Sample]:
    seconds, _ = runtime.run(bundle("true", ["/bin/true"]))
    yield "run-true", "start to exit", "ms", seconds * 1e3


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def wait_for_pid(path: Path) -> int:
    """The process a runtime wrote into its pid file; the container may be ready before the file is."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.01)
    raise Failure("the runtime wrote no pid file")


def proportional_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise Failure(f"process {pid} shows no Pss")


def memory(runtime: Runtime) -> Iterator[Sample]:
    """Proportional set size of processes that wait; gVisor's processes are not host processes, so not for runsc."""
    if runtime.name == "runsc":
        return
    pid_file = WORK / "pid"
    pid_file.unlink(missing_ok=True)
    command = runtime.arguments(bundle("hold", ["/opt/micro", "hold", str(HELD)]), "--pid-file", str(pid_file))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise Failure(f"{runtime.name}: the waiting container did not come up")
            held = children_of(wait_for_pid(pid_file))
            if len(held) != HELD:
                raise Failure(f"{runtime.name}: {len(held)} waiting processes instead of {HELD}")
            yield "memory", "PSS of a small process", "MiB", statistics.mean(proportional_kib(pid) for pid in held) / 1024
        finally:
            process.stdin.close()
            process.wait(TIMEOUT)


CASES: list[tuple[Callable[[Runtime], Iterator[Sample]], int]] = [  # and how many runs a round
    (small_operations, 1),
    (program_start("python-start", ["/usr/bin/python3", "-c", "import json, asyncio"]), 1),
    (program_start("node-start", ["/usr/bin/node", "-e", "0"]), 1),
    (container_start, 3),
    (memory, 1),
]


# --- Measuring -------------------------------------------------------------------------------------------------------

Key = tuple[str, str, str]


def measure(runtimes: list[Runtime], rounds: int) -> dict[str, dict[Key, list[float]]]:
    """All samples, by runtime name and case; runtimes alternate within each round."""
    samples: dict[str, dict[Key, list[float]]] = {runtime.name: {} for runtime in runtimes}
    for number in range(rounds):
        for case, repeat in CASES:
            for _ in range(repeat):
                for runtime in runtimes:
                    for *key, value in case(runtime):
                        samples[runtime.name].setdefault((key[0], key[1], key[2]), []).append(value)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return samples


def rows(subject: str, samples: dict[str, dict[Key, list[float]]]) -> list[Row]:
    result: list[Row] = []
    for key, ours in samples[subject].items():
        for name, by_case in samples.items():
            if name != subject and key in by_case:
                mine, theirs = statistics.median(ours), statistics.median(by_case[key])
                result.append(
                    Row(
                        case=key[0],
                        metric=key[1],
                        unit=key[2],
                        pysandbox=round(mine, 3),
                        peer=round(theirs, 3),
                        peer_name=name,
                        ratio=round(mine / theirs, 3),
                        runs=len(ours),
                    )
                )
    return result


def table(measured: list[Row]) -> str:
    """One line a case: pysandbox, then each peer with the ratio pysandbox/peer."""
    names = list(dict.fromkeys(row["peer_name"] for row in measured))
    lines = [f"{'case':24}{'unit':>5}{'pysandbox':>13}" + "".join(f"{name:>13}{'ratio':>8}" for name in names)]
    for case in dict.fromkeys(row["case"] for row in measured):
        mine = {row["peer_name"]: row for row in measured if row["case"] == case}
        first = next(iter(mine.values()))
        line = f"{case:24}{first['unit']:>5}{first['pysandbox']:>13.2f}"
        for name in names:
            line += f"{mine[name]['peer']:>13.2f}{mine[name]['ratio']:>8.2f}" if name in mine else f"{'-':>13}{'':>8}"
        lines.append(line)
    return "\n".join(lines)


def prepare() -> None:
    if not ROOTFS.is_dir():
        raise Failure(f"{ROOTFS} is missing: make rootfs")
    (WORK / "bin").mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", WORK / "bin/micro", HERE / "micro.c"], check=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hack/bench/run.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--subject", default=str(TOP / ".venv/bin/pysandbox"), metavar="COMMAND", help="what to measure instead")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench: needs root", file=sys.stderr)
        return 1
    # crun refuses machines with both cgroup versions. The second one goes, for all runtimes alike and in a private
    # mount namespace.
    if os.path.ismount(HYBRID_CGROUP) and os.environ.get("PSB_BENCH_PRIVATE") != "1":
        os.environ["PSB_BENCH_PRIVATE"] = "1"
        inner = [sys.executable, __file__, *argv]
        script = f'umount {HYBRID_CGROUP} && exec "$@"'
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *inner])
    try:
        prepare()
        subject = Runtime("pysandbox", options.subject.split())
        probe = bundle("true", ["/bin/true"])
        subject.run(probe)
        runtimes = [subject, *peers(probe)]
        measured = rows(subject.name, measure(runtimes, 1 if options.quick else options.rounds))
    except (Failure, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    (WORK / "latest.json").write_text(json.dumps(measured, indent=1) + "\n")
    text = table(measured)
    (WORK / "latest.txt").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
