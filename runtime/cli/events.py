"""`pysandbox events`: what a container uses, now and then, and when memory ran out. One JSON object a line."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.cgroups import Cgroup
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID",
    flags=(
        Flag("--interval", "DURATION", "time between two reports, as 500ms, 5s or 1m30s", default="5s"),
        Flag("--stats", "", "one report, then exit"),
    ),
    count=(1, 1),
)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds in a duration as Go writes it: numbers with units, as "1h30m" or "1.5s". `UsageError`."""
    from pysandbox.oci.errors import UsageError

    seconds, rest = 0.0, text.removeprefix("-").removeprefix("+")
    while rest and rest != "0":
        count = next((i for i, c in enumerate(rest) if not (c.isdecimal() and c.isascii()) and c != "."), len(rest))
        number, rest = rest[:count], rest[count:]
        unit = next((unit for unit in ("ns", "us", "µs", "μs", "ms", "s", "m", "h") if rest.startswith(unit)), "")
        if not unit or not number.replace(".", "", 1).isdecimal():
            raise UsageError(f"--interval: {text!r} is not a duration")
        seconds += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    if not text or text in ("+", "-"):
        raise UsageError(f"--interval: {text!r} is not a duration")
    return -seconds if text.startswith("-") else seconds


def main(call: Call) -> int:
    from pysandbox.oci import cgroups
    from pysandbox.oci.errors import StatusError, UsageError
    from pysandbox.runtime.launch_state import open_store

    container_id = call.arguments[0]
    interval = duration(call.values["--interval"])
    state = open_store(call.root).load(container_id)
    if interval <= 0:
        raise UsageError("duration interval must be greater than 0")
    if state.status == "stopped":
        raise StatusError(f"container with id {container_id} is not running")
    cgroup = cgroups.of_state(state)
    if call.values["--stats"]:
        _report(container_id, cgroup)
        return 0
    _watch(container_id, cgroup, interval, call)
    return 0


def _print(kind: str, container_id: str, data: object = None) -> None:
    import os

    from pysandbox.oci import jsontext

    event: dict[str, object] = {"type": kind, "id": container_id}
    if data is not None:
        event["data"] = data
    line = (jsontext.dump(event) + "\n").encode()
    while line:
        line = line[os.write(1, line) :]


def _report(container_id: str, cgroup: Cgroup) -> None:
    from pysandbox.oci.cgroups_stats import stats

    _print("stats", container_id, stats(cgroup.paths))


def _watch(container_id: str, cgroup: Cgroup, interval: float, call: Call) -> None:
    """Until the container's groups are gone. Nothing is written to the container, and nothing wakes it."""
    import select
    import time

    from pysandbox.oci.cgroups_stats import OutOfMemory
    from pysandbox.oci.errors import Error

    memory = OutOfMemory(cgroup.paths)
    poll = select.poll()
    for fd in memory.fds:
        poll.register(fd, memory.mask)
    due = time.monotonic() + interval
    try:
        while True:
            ready = poll.poll(max(0.0, due - time.monotonic()) * 1000)
            if ready:
                times, there = memory.changed()
                for _ in range(times):
                    _print("oom", container_id)
                if not there:
                    return
            if time.monotonic() >= due:
                due = max(due + interval, time.monotonic())
                try:
                    _report(container_id, cgroup)
                except Error as error:
                    call.log.write("error", error.message)
    finally:
        memory.close()
