"""Control groups: the container's own, its limits, and its removal (config-linux.md, "Control groups").

Version 1 hierarchies are used where the host has any with controllers ("hybrid" hosts included), version 2 otherwise.
"""

from __future__ import annotations

import errno
import os

from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import ConfigError, ResourceError, UnsupportedError, from_os_error
from pysandbox.oci.spec import DeviceRule
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.spec import Resources, Spec

_V1 = frozenset(
    [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "net_cls",
        "net_prio",
        "perf_event",
        "hugetlb",
        "rdma",
        "misc",
        "name=systemd",
    ]
)
# Nodes every container may use, whatever its rules say; runc has the same list.
DEFAULT_RULES = tuple(
    DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)
    for kind, major, minor, access in (
        ("c", None, None, "m"), ("b", None, None, "m"), ("c", 1, 3, "rwm"), ("c", 1, 8, "rwm"), ("c", 1, 7, "rwm"),
        ("c", 5, 0, "rwm"), ("c", 1, 5, "rwm"), ("c", 1, 9, "rwm"), ("c", 136, None, "rwm"), ("c", 5, 2, "rwm"),
        ("c", 10, 200, "rwm"),
    )
)  # fmt: skip


class Layout(Struct):
    """The host's hierarchies. `mounts`: controller -> mount point ("" for version 2); `own`: controller -> the caller's
    group below that mount point. `hybrid`: mount point of a version 2 hierarchy beside version 1 ones, else ""."""

    unified: bool
    mounts: dict[str, str]
    own: dict[str, str]
    hybrid: str = ""


class Cgroup(Struct):
    """A container's groups: controller -> absolute directory ("" for version 2, "unified" for the version 2 part of a
    hybrid host, which only tracks processes). Several may share one directory."""

    paths: dict[str, str]


_layout: Layout | None = None


def host_layout() -> Layout:
    """Read once per process: a mount made later is the container's."""
    global _layout
    if _layout is None:
        _layout = _read_layout()
    return _layout


def _read_layout() -> Layout:
    groups: dict[str, str] = {}
    with open("/proc/self/cgroup") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    mounts: dict[str, str] = {}
    roots: dict[str, str] = {}
    unified_mount = ""
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            if " - cgroup" not in line:
                continue
            left, _, right = line.rstrip("\n").partition(" - ")
            fields = left.split(" ")
            kind, _, options = right.split(" ", 2)
            place = _unescape(fields[4])
            if kind == "cgroup2":
                unified_mount = unified_mount or place
                roots.setdefault("", _unescape(fields[3]))
                continue
            for option in options.split(","):
                if option in groups and option in _V1 and option not in mounts:
                    mounts[option] = place
                    roots[option] = _unescape(fields[3])
    if not mounts and unified_mount:
        mounts = {"": unified_mount}
    own = {}
    for controller in (*mounts, ""):
        path, root = groups.get(controller, "/"), roots.get(controller, "/")
        own[controller] = os.path.relpath(path, root) if path.startswith(root) else "."
    unified = "" in mounts
    return Layout(unified=unified, mounts=mounts, own=own, hybrid="" if unified else unified_mount)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text


def plan(spec: Spec, container_id: str) -> Cgroup:
    """Where the container's groups will be. An absolute cgroupsPath starts at the hierarchy's root, anything else at
    the caller's own group. Nothing is made yet, so that the state can record it first."""
    layout = host_layout()
    wanted = spec.linux.cgroups_path
    path = os.path.normpath("/" + (wanted or container_id)).lstrip("/")
    if not path:
        raise ConfigError(f"{wanted!r} is not a group of the container's own", pointer="/linux/cgroupsPath")
    paths = {}
    for controller, mount in layout.mounts.items():
        base = mount if wanted.startswith("/") else os.path.normpath(os.path.join(mount, layout.own[controller]))
        paths[controller] = os.path.join(base, path)
    if layout.hybrid:
        base = layout.hybrid if wanted.startswith("/") else os.path.normpath(os.path.join(layout.hybrid, layout.own[""]))
        paths["unified"] = os.path.join(base, path)
    return Cgroup(paths=paths)


def directories(cgroup: Cgroup) -> list[str]:
    return list(dict.fromkeys(cgroup.paths.values()))


def create(cgroup: Cgroup) -> None:
    """Makes the groups; one that exists and is empty is taken over, one with processes is refused."""
    layout = host_layout()
    for controller, path in cgroup.paths.items():
        try:
            _create(path, layout.mounts.get(controller) or layout.hybrid, controller)
            if _read(path, "cgroup.procs").strip():
                raise ResourceError(f"cgroup {path} already has processes in it", errno=errno.EBUSY)
        except OSError as error:
            raise from_os_error(f"create cgroup {path}", error) from None


def _create(path: str, mount: str, controller: str) -> None:
    missing = []
    while path != mount and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        parent = os.path.dirname(directory)
        if controller == "":
            _delegate(parent)
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            pass
        if controller == "cpuset":
            # Version 1: a new group may use no CPU and no memory node until told otherwise, and takes no process.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not _read(directory, name).strip():
                    _write(directory, name, _read(parent, name).strip())


def _delegate(parent: str) -> None:
    """Version 2: controllers reach a child only when its parent passes them on."""
    for name in _read(parent, "cgroup.controllers").split():
        try:
            _write(parent, "cgroup.subtree_control", f"+{name}")
        except OSError:
            continue  # a group with processes of its own cannot; a limit that needs it fails later, by name


def join(cgroup: Cgroup, pid: int) -> None:
    """Moves a process. The first write waits for other processors (a grace period, some 10 ms), without using any."""
    for path in directories(cgroup):
        try:
            _write(path, "cgroup.procs", str(pid))
        except OSError as error:
            raise from_os_error(f"join cgroup {path}", error) from None


def remove(paths: list[str]) -> list[str]:
    """Removes groups with everything below them; returns those that remain (a process is in them)."""
    left = []
    for path in paths:
        for _ in range(5):
            try:
                _remove_tree(path)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    left.append(path)
                    break
                # A zombie counts until it is reaped, and the kernel takes a moment after that.
                import time

                time.sleep(0.01)
        else:
            left.append(path)
    return left


def _remove_tree(path: str) -> None:
    try:
        os.rmdir(path)
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    with os.scandir(path) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for directory in below:
        _remove_tree(directory)
    os.rmdir(path)


def processes(cgroup_paths: list[str]) -> list[int]:
    """Host pids in the groups, those below included."""
    found: set[int] = set()
    for path in cgroup_paths:
        for directory, _, _ in os.walk(path):
            try:
                found.update(int(pid) for pid in _read(directory, "cgroup.procs").split())
            except OSError:
                continue  # removed meanwhile
    return sorted(found)


def _read(directory: str, name: str) -> str:
    fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while chunk := os.read(fd, 65536):
            text += chunk
        return text.decode()
    finally:
        os.close(fd)


def _write(directory: str, name: str, value: str) -> None:
    fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


# --- limits -----------------------------------------------------------------------------------------------------------


def apply(cgroup: Cgroup, resources: Resources | None) -> None:
    """Writes the limits of linux.resources. Raises `ResourceError` naming the file that refused."""
    if resources is None:
        return
    if "" in cgroup.paths:
        _apply_unified(cgroup.paths[""], resources)
    else:
        _apply_v1(cgroup.paths, resources)


def _set(directory: str | None, name: str, value: object) -> None:
    if directory is None:
        raise ResourceError(f"cannot set {name}: its cgroup controller is not available", errno=errno.ENOENT)
    try:
        _write(directory, name, str(value))
    except OSError as error:
        raise from_os_error(f"write {value!s} to {directory}/{name}", error) from None


def _apply_v1(paths: dict[str, str], resources: Resources) -> None:
    if resources.unified:
        raise UnsupportedError("linux.resources.unified needs cgroup version 2")
    _devices_v1(paths, resources.devices)
    memory = resources.memory
    if memory is not None:
        directory = paths.get("memory")
        pairs = [("memory.limit_in_bytes", memory.limit), ("memory.memsw.limit_in_bytes", memory.swap)]
        if directory is not None and memory.limit is not None and memory.swap is not None:
            # Memory must not exceed memory+swap at any moment: the order depends on which way they go.
            current = int(_read(directory, "memory.memsw.limit_in_bytes"))
            if memory.swap == -1 or memory.swap > current:
                pairs.reverse()
        for name, value in pairs:
            if value:
                _set(directory, name, value)
        for name, value in (
            ("memory.soft_limit_in_bytes", memory.reservation),
            ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp),
        ):
            if value:
                _set(directory, name, value)
        if memory.disable_oom_killer:
            _set(directory, "memory.oom_control", 1)
        if memory.swappiness is not None:
            _set(directory, "memory.swappiness", memory.swappiness)
    cpu = resources.cpu
    if cpu is not None:
        if cpu.shares:
            _set(paths.get("cpu"), "cpu.shares", cpu.shares)
        if cpu.period:
            _set(paths.get("cpu"), "cpu.cfs_period_us", cpu.period)
        if cpu.quota:
            _set(paths.get("cpu"), "cpu.cfs_quota_us", cpu.quota)
        if cpu.burst is not None:
            _set(paths.get("cpu"), "cpu.cfs_burst_us", cpu.burst)
        if cpu.realtime_period:
            _set(paths.get("cpu"), "cpu.rt_period_us", cpu.realtime_period)
        if cpu.realtime_runtime:
            _set(paths.get("cpu"), "cpu.rt_runtime_us", cpu.realtime_runtime)
        if cpu.idle is not None:
            _set(paths.get("cpu"), "cpu.idle", cpu.idle)
        if cpu.cpus:
            _set(paths.get("cpuset"), "cpuset.cpus", cpu.cpus)
        if cpu.mems:
            _set(paths.get("cpuset"), "cpuset.mems", cpu.mems)
    if resources.pids_limit is not None:
        _set(paths.get("pids"), "pids.max", resources.pids_limit if resources.pids_limit > 0 else "max")
    block = resources.block_io
    if block is not None:
        if block.weight:
            _set(paths.get("blkio"), "blkio.weight", block.weight)
        for name, devices in (
            ("read_bps", block.throttle_read_bps_device),
            ("write_bps", block.throttle_write_bps_device),
            ("read_iops", block.throttle_read_iops_device),
            ("write_iops", block.throttle_write_iops_device),
        ):
            for device in devices:
                _set(paths.get("blkio"), f"blkio.throttle.{name}_device", f"{device.major}:{device.minor} {device.rate}")
    for page in resources.hugepage_limits:
        _set(paths.get("hugetlb"), f"hugetlb.{page.page_size}.limit_in_bytes", page.limit)
    if resources.network is not None:
        if resources.network.class_id:
            _set(paths.get("net_cls"), "net_cls.classid", resources.network.class_id)
        for entry in resources.network.priorities:
            _set(paths.get("net_prio"), "net_prio.ifpriomap", f"{entry.name} {entry.priority}")


def _devices_v1(paths: dict[str, str], rules: tuple[DeviceRule, ...]) -> None:
    if not rules:
        return
    if "devices" not in paths:
        raise ResourceError("cannot restrict devices: the devices controller is not available", errno=errno.ENOENT)
    for rule in (*rules, *DEFAULT_RULES):
        if rule.type == "a" or not rule.type:
            text = "a"
        else:
            text = f"{rule.type} {_number(rule.major)}:{_number(rule.minor)} {rule.access or 'rwm'}"
        _set(paths["devices"], "devices.allow" if rule.allow else "devices.deny", text)


def _number(value: int | None) -> str:
    return "*" if value is None or value < 0 else str(value)


def _apply_unified(path: str, resources: Resources) -> None:
    memory = resources.memory
    if memory is not None:
        if memory.limit:
            _set(path, "memory.max", _limit(memory.limit))
        if memory.swap:
            # config.json counts memory and swap together, version 2 swap alone.
            swap = memory.swap if memory.swap < 0 else memory.swap - (memory.limit or 0)
            _set(path, "memory.swap.max", _limit(swap))
        if memory.reservation:
            _set(path, "memory.low", _limit(memory.reservation))
    cpu = resources.cpu
    if cpu is not None:
        if cpu.shares:
            # 2..262144 shares onto weights 1..10000, the conversion all runtimes use.
            _set(path, "cpu.weight", 1 + (cpu.shares - 2) * 9999 // 262142)
        if cpu.quota or cpu.period:
            quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
            _set(path, "cpu.max", f"{quota} {cpu.period or 100000}")
        if cpu.burst is not None:
            _set(path, "cpu.max.burst", cpu.burst)
        if cpu.idle is not None:
            _set(path, "cpu.idle", cpu.idle)
        if cpu.cpus:
            _set(path, "cpuset.cpus", cpu.cpus)
        if cpu.mems:
            _set(path, "cpuset.mems", cpu.mems)
    if resources.pids_limit is not None:
        _set(path, "pids.max", resources.pids_limit if resources.pids_limit > 0 else "max")
    block = resources.block_io
    if block is not None:
        if block.weight:
            _set(path, "io.bfq.weight", block.weight)
        for key, devices in (
            ("rbps", block.throttle_read_bps_device),
            ("wbps", block.throttle_write_bps_device),
            ("riops", block.throttle_read_iops_device),
            ("wiops", block.throttle_write_iops_device),
        ):
            for device in devices:
                _set(path, "io.max", f"{device.major}:{device.minor} {key}={device.rate}")
    for page in resources.hugepage_limits:
        _set(path, f"hugetlb.{page.page_size}.max", page.limit)
    for name, value in (resources.unified or {}).items():
        if "/" in name or name in (".", ".."):
            raise ConfigError(f"{name!r} is not a cgroup file", pointer="/linux/resources/unified")
        for line in value.split("\n"):
            _set(path, name, line)
    if resources.devices:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            native.attach_device_filter(fd, device_program((*resources.devices, *DEFAULT_RULES)))
        except OSError as error:
            raise from_os_error("attach device filter", error) from None
        finally:
            os.close(fd)


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def device_program(rules: tuple[DeviceRule, ...]) -> bytes:
    """BPF for BPF_PROG_TYPE_CGROUP_DEVICE. The context is {u32 access << 16 | type, u32 major, u32 minor}; the last
    rule that matches decides, as with version 1; no match: allowed, as a fresh group is.

    A request for several accesses at once is allowed only by a rule that grants all of them.
    """
    from struct import pack

    def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
        return pack("<BBhi", code, src << 4 | dst, off, imm)

    program = [
        insn(0x61, 2, 1, 0), insn(0x54, 2, imm=0xFFFF),  # w2 = type
        insn(0x61, 3, 1, 0), insn(0x74, 3, imm=16),      # w3 = access
        insn(0x61, 4, 1, 4), insn(0x61, 5, 1, 8),        # w4 = major, w5 = minor
    ]  # fmt: skip
    bits = {"m": 1, "r": 2, "w": 4}
    decided = False
    for rule in reversed(rules):
        tests: list[tuple[int, int, int]] = []  # (BPF_JMP32 code, register, immediate): jump to the next rule
        if rule.type in ("b", "c"):
            tests.append((0x56, 2, 1 if rule.type == "b" else 2))
            if rule.major is not None and rule.major >= 0:
                tests.append((0x56, 4, rule.major))
            if rule.minor is not None and rule.minor >= 0:
                tests.append((0x56, 5, rule.minor))
        access = sum(bits[c] for c in set(rule.access or "rwm") if c in bits) if rule.type in ("b", "c") else 7
        if access != 7:
            # allow: nothing outside the rule's accesses; deny: anything inside them.
            tests.append((0x46, 3, 7 & ~access) if rule.allow else (-0x46, 3, access))
        body = [insn(0xB4, 0, imm=int(rule.allow)), insn(0x95)]
        out: list[bytes] = []
        remaining = sum(2 if code < 0 else 1 for code, _, _ in tests) + len(body)
        for code, register, value in tests:
            if code < 0:
                # "if none of these bits": BPF has only "if any", so jump over the jump away.
                out.append(insn(0x46, register, off=1, imm=value))
                out.append(insn(0x05, off=remaining - 2))
                remaining -= 2
            else:
                out.append(insn(code, register, off=remaining - 1, imm=value))
                remaining -= 1
        program += out + body
        if not tests:
            decided = True
            break
    if not decided:
        program += [insn(0xB4, 0, imm=1), insn(0x95)]
    return b"".join(program)
