"""What a container uses, in the form of `runc events --stats` (the `data` of an event), which go-runc reads.

Times in nanoseconds, sizes in bytes. A property that is left out there when it is 0 or empty is left out here.
"""

from __future__ import annotations

import os

from pysandbox.oci import cgroups_files as files
from pysandbox.oci.errors import ResourceError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Data = dict[str, Any]

_TICK = 1000000000 // os.sysconf("SC_CLK_TCK")
_NO_LIMIT = (1 << 64) - 1


def stats(paths: dict[str, str]) -> Data:
    """Of the groups `paths` (controller -> directory). `ResourceError` if they are gone."""
    try:
        return _unified(paths[""]) if "" in paths else _v1(paths)
    except OSError as error:
        raise from_os_error(f"read statistics: open {error.filename}", error) from None
    except ValueError:
        raise ResourceError("read statistics: a file of the cgroup is not what was expected") from None


def _without_zeros(pairs: Data) -> Data:
    return {key: value for key, value in pairs.items() if value}


# --- version 1 --------------------------------------------------------------------------------------------------------


def _v1(paths: dict[str, str]) -> Data:
    return {
        "cpu": _v1_cpu(paths.get("cpuacct"), paths.get("cpu")),
        "cpuset": _v1_cpuset(paths.get("cpuset")),
        "memory": _v1_memory(paths.get("memory")),
        "pids": _pids(paths.get("pids")),
        "blkio": _v1_block_io(paths.get("blkio")),
        "hugetlb": _hugetlb(paths.get("hugetlb"), "usage_in_bytes"),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _v1_cpu(account: str | None, cpu: str | None) -> Data:
    usage: Data = {}
    kernel = user = 0
    if account:
        usage["total"] = files.read_number(account, "cpuacct.usage")
        usage["percpu"] = [int(word) for word in files.read(account, "cpuacct.usage_percpu").split()]
        if files.exists(account, "cpuacct.usage_all"):
            # "cpu user system", then a line for each CPU
            rows = [line.split() for line in files.read(account, "cpuacct.usage_all").splitlines()[1:]]
            usage["percpu_kernel"] = [int(row[2]) for row in rows]
            usage["percpu_user"] = [int(row[1]) for row in rows]
        times = files.read_pairs(account, "cpuacct.stat")
        kernel, user = times.get("system", 0) * _TICK, times.get("user", 0) * _TICK
    throttling: Data = {}
    if cpu and files.exists(cpu, "cpu.stat"):
        counts = files.read_pairs(cpu, "cpu.stat")
        throttling = _throttling(counts, counts.get("throttled_time", 0))
    return {"usage": {**_without_zeros(usage), "kernel": kernel, "user": user}, "throttling": throttling}


def _throttling(counts: dict[str, int], time: int) -> Data:
    return _without_zeros(
        {"periods": counts.get("nr_periods"), "throttledPeriods": counts.get("nr_throttled"), "throttledTime": time}
    )


_CPUSET = (
    "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab", "memory_pressure",
    "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def _v1_cpuset(directory: str | None) -> Data:
    def number(name: str) -> int:
        if directory is None:
            return 0
        try:
            return int(files.read(directory, f"cpuset.{name}"))
        except FileNotFoundError:
            return 0

    def numbers(name: str) -> list[int]:
        return _expand(files.read(directory, f"cpuset.{name}")) if directory else []

    out = _without_zeros({"cpus": numbers("cpus")})
    out["cpu_exclusive"] = number("cpu_exclusive")
    out.update(_without_zeros({"mems": numbers("mems")}))
    out.update({name: number(name) for name in _CPUSET})
    return out


def _expand(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]."""
    out: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            out += range(int(first), int(last or first) + 1)
    return out


def _v1_memory(directory: str | None) -> Data:
    if directory is None:
        raw: dict[str, int] = {}
        entries = {name: _entry(0, 0, 0, 0) for name in ("usage", "swap", "kernel", "kernelTCP")}
        return {**entries, **_without_zeros({"raw": raw})}
    raw = files.read_pairs(directory, "memory.stat")
    out = _without_zeros({"cache": raw.get("cache")})
    for name, prefix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        out[name] = _v1_memory_entry(directory, f"memory.{prefix}")
    out["raw"] = dict(sorted(raw.items()))
    return out


def _v1_memory_entry(directory: str, prefix: str) -> Data:
    try:
        usage = files.read_number(directory, f"{prefix}usage_in_bytes")
    except FileNotFoundError:  # built without
        return _entry(0, 0, 0, 0)
    limit, peak, failures = (
        files.read_number(directory, prefix + name) for name in ("limit_in_bytes", "max_usage_in_bytes", "failcnt")
    )
    return _entry(limit, usage, peak, failures)


def _entry(limit: int, usage: int, peak: int, failures: int) -> Data:
    return {"limit": limit, **_without_zeros({"usage": usage, "max": peak}), "failcnt": failures}


def _pids(directory: str | None) -> Data:
    if directory is None or not files.exists(directory, "pids.current"):
        return {}
    limit = files.read(directory, "pids.max").strip()
    return _without_zeros(
        {"current": files.read_number(directory, "pids.current"), "limit": 0 if limit == "max" else int(limit)}
    )


# What a scheduler counts, best first; each file becomes a property.
_SCHEDULER = ("sectors", "io_service_time", "io_wait_time", "io_merged", "io_queued", "time", "io_serviced", "io_service_bytes")
_BLOCK_TABLES = (
    ("blkio.bfq.", _SCHEDULER),
    ("blkio.bfq.", _SCHEDULER[-2:]),
    ("blkio.", _SCHEDULER),
    ("blkio.throttle.", _SCHEDULER[-2:]),
)
_BLOCK_NAMES = {
    "io_service_bytes": "ioServiceBytesRecursive",
    "io_serviced": "ioServicedRecursive",
    "io_queued": "ioQueueRecursive",
    "io_service_time": "ioServiceTimeRecursive",
    "io_wait_time": "ioWaitTimeRecursive",
    "io_merged": "ioMergedRecursive",
    "time": "ioTimeRecursive",
    "sectors": "sectorsRecursive",
}


def _v1_block_io(directory: str | None) -> Data:
    if directory is None:
        return {}
    for prefix, names in _BLOCK_TABLES:
        # The first file tells whether the scheduler counts at all.
        if not _block_rows(directory, f"{prefix}{names[0]}_recursive"):
            continue
        tables = {_BLOCK_NAMES[name]: _block_rows(directory, f"{prefix}{name}_recursive") for name in names}
        return _without_zeros({name: tables.get(name) for name in _BLOCK_NAMES.values()})
    return {}


def _block_rows(directory: str, name: str) -> list[Data]:
    """Lines are "MAJOR:MINOR [OPERATION] VALUE", and a total."""
    try:
        lines = files.read(directory, name).splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        words = line.replace(":", " ").split()
        if len(words) not in (3, 4):
            continue
        operation = words[2] if len(words) == 4 else ""
        rows.append(_block_row(int(words[0]), int(words[1]), operation, int(words[-1])))
    return rows


def _block_row(major: int, minor: int, operation: str, value: int) -> Data:
    return _without_zeros({"major": major, "minor": minor, "op": operation, "value": value})


def _hugetlb(directory: str | None, usage: str) -> Data:
    """Version 1 and 2: page size -> use."""
    if directory is None:
        return {}
    out = {}
    suffix = f".{usage}"
    for name in sorted(os.listdir(directory)):
        if not name.startswith("hugetlb.") or not name.endswith(suffix) or ".rsvd" in name:
            continue
        size = name[len("hugetlb.") : -len(suffix)]
        if usage == "current":
            peak, failures = 0, files.read_pairs(directory, f"hugetlb.{size}.events").get("max", 0)
        else:
            peak = files.read_number(directory, f"hugetlb.{size}.max_usage_in_bytes")
            failures = files.read_number(directory, f"hugetlb.{size}.failcnt")
        used = files.read_number(directory, name)
        out[size] = {**_without_zeros({"usage": used, "max": peak}), "failcnt": failures}
    return out


# --- version 2 --------------------------------------------------------------------------------------------------------


def _unified(directory: str) -> Data:
    counts = files.read_pairs(directory, "cpu.stat") if files.exists(directory, "cpu.stat") else {}
    usage = {
        **_without_zeros({"total": counts.get("usage_usec", 0) * 1000}),
        "kernel": counts.get("system_usec", 0) * 1000,
        "user": counts.get("user_usec", 0) * 1000,
    }
    cpuset: Data = {"cpu_exclusive": 0, **dict.fromkeys(_CPUSET, 0)}
    return {
        "cpu": {"usage": usage, "throttling": _throttling(counts, counts.get("throttled_usec", 0) * 1000)},
        "cpuset": cpuset,
        "memory": _unified_memory(directory),
        "pids": _unified_pids(directory),
        "blkio": _unified_block_io(directory),
        "hugetlb": _hugetlb(directory, "current"),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _unified_pids(directory: str) -> Data:
    """Without the controller the processes are counted, as runc does."""
    if files.exists(directory, "pids.current"):
        return _pids(directory)
    return _without_zeros({"current": len(files.read(directory, "cgroup.procs").split())})


def _unified_memory(directory: str) -> Data:
    nothing = _entry(0, 0, 0, 0)
    if not files.exists(directory, "memory.stat"):
        return {"usage": nothing, "swap": nothing, "kernel": nothing, "kernelTCP": nothing}
    raw = files.read_pairs(directory, "memory.stat")
    used, limit = (files.read_number(directory, f"memory.{name}") for name in ("current", "max"))
    swap = nothing
    if files.exists(directory, "memory.swap.current"):
        swap_used, swap_limit = (files.read_number(directory, f"memory.swap.{name}") for name in ("current", "max"))
        # Memory and swap together, as version 1 counts.
        swap = _entry(min(swap_limit + limit, _NO_LIMIT), swap_used + used, 0, 0)
    return {
        **_without_zeros({"cache": raw.get("file")}),
        "usage": _entry(limit, used, 0, 0),
        "swap": swap,
        "kernel": nothing,
        "kernelTCP": nothing,
        "raw": dict(sorted(raw.items())),
    }


def _unified_block_io(directory: str) -> Data:
    """io.stat: "MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ..."."""
    columns = {
        "rbytes": ("ioServiceBytesRecursive", "Read"),
        "wbytes": ("ioServiceBytesRecursive", "Write"),
        "rios": ("ioServicedRecursive", "Read"),
        "wios": ("ioServicedRecursive", "Write"),
    }
    out: dict[str, list[Data]] = {}
    if not files.exists(directory, "io.stat"):
        return out
    for line in files.read(directory, "io.stat").splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        for word in words:
            key, _, value = word.partition("=")
            if key in columns:
                table, operation = columns[key]
                out.setdefault(table, []).append(_block_row(int(major), int(minor), operation, int(value)))
    return {name: out[name] for name in ("ioServiceBytesRecursive", "ioServicedRecursive") if name in out}


# --- out of memory ----------------------------------------------------------------------------------------------------


class OutOfMemory:
    """Notices that the kernel killed for want of memory. `fd` is ready (for the events `mask`) when `changed` has
    something to say, and when the group has gone."""

    def __init__(self, paths: dict[str, str]) -> None:
        """`ResourceError` without the memory controller."""
        import select

        self._unified = "" in paths
        directory = paths[""] if self._unified else paths.get("memory")
        if not directory:
            raise files.missing("memory")
        self._directory = directory
        try:
            if self._unified:
                # Polling a file of this file system reports changes.
                self._count = self._kills()
                self.fd = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._group = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                os.read(self.fd, 4096)
                os.read(self._group, 4096)
                self.fds = [self.fd, self._group]
                self.mask = select.POLLPRI
            else:
                control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                files.write(directory, "cgroup.event_control", f"{self.fd} {control}")
                self._group = control
                self.fds = [self.fd]
                self.mask = select.POLLIN
        except OSError as error:
            raise from_os_error(f"watch {directory} for lack of memory", error) from None

    def _kills(self) -> int:
        return files.read_pairs(self._directory, "memory.events").get("oom_kill", 0)

    def changed(self) -> tuple[int, bool]:
        """(how many times since the last call, whether the group is still there and has processes)."""
        if not self._unified:
            try:
                times = int.from_bytes(os.read(self.fd, 8), "little")
            except BlockingIOError:
                times = 0
            # The removal of the group counts as one.
            there = files.exists(self._directory, "cgroup.event_control")
            return (times if there else 0), there
        try:
            for fd in self.fds:
                os.pread(fd, 4096, 0)  # what is read is not reported again
            before, self._count = self._count, self._kills()
            populated = "populated 1" in files.read(self._directory, "cgroup.events")
        except OSError:
            return 0, False
        return self._count - before, populated

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._group)
