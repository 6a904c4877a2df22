"""Version 2: the way down to a group, and limits in it (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os

from pysandbox.oci import cgroups_files as files
from pysandbox.oci import cgroups_v1
from pysandbox.oci.errors import ConfigError, ResourceError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.cgroups_files import Setter
    from pysandbox.oci.spec import CPU, BlockIO, Memory, Resources

DEFAULT_PERIOD = 100000
"""cpu.max, microseconds."""

_MAX = cgroups_v1.UNSET


# --- the group --------------------------------------------------------------------------------------------------------


def create(path: str, mount: str, resources: Resources | None) -> None:
    """Makes the group and those above it, with every controller passed down. `ResourceError`, and then those made are
    gone again."""
    names = [name for name in os.path.relpath(path, mount).split("/") if name != "."]
    try:
        controllers = files.read(mount, "cgroup.controllers").split()
    except OSError as error:
        raise from_os_error(f"open {mount}/cgroup.controllers", error) from None
    made: list[str] = []
    try:
        current = mount
        for name in names:
            _delegate(current, controllers)
            current = f"{current}/{name}"
            try:
                os.mkdir(current, 0o755)
                made.append(current)
            except FileExistsError:
                pass
            except OSError as error:
                raise from_os_error(f"mkdir {current}", error) from None
            _check_type(current, resources)
    except BaseException:
        for directory in reversed(made):
            try:
                os.rmdir(directory)
            except OSError:
                break  # somebody else makes use of it
        raise


def _delegate(directory: str, controllers: list[str]) -> None:
    """A controller reaches a group only when its parent passes it on. What cannot be passed on (the group has
    processes of its own, or does not have it itself) is missed later, by the limit that needs it.
    """
    if not controllers:
        return
    try:
        enabled = files.read(directory, "cgroup.subtree_control").split()
    except OSError:
        enabled = []
    wanted = [f"+{name}" for name in controllers if name not in enabled]
    if not wanted:
        return
    try:
        files.write(directory, "cgroup.subtree_control", " ".join(wanted))
    except OSError:
        for word in wanted:
            try:
                files.write(directory, "cgroup.subtree_control", word)
            except OSError:
                continue


def _check_type(directory: str, resources: Resources | None) -> None:
    """Memory, I/O and the like work on whole processes; a group where threads are spread out cannot have them."""
    try:
        kind = files.read(directory, "cgroup.type").strip()
    except OSError:
        return  # before Linux 4.14
    if kind == "domain":
        return
    if _needs_domain(resources):
        state = "an invalid state" if kind == "domain invalid" else f"{kind} mode"
        raise ResourceError(
            f'cannot enter cgroupv2 "{directory}" with domain controllers -- it is in {state}', errno=errno.EOPNOTSUPP
        )
    if kind == "domain invalid":
        try:
            files.write(directory, "cgroup.type", "threaded")
        except OSError:
            return  # joining it will say why not


def _needs_domain(resources: Resources | None) -> bool:
    if resources is None:
        return False
    memory, cpu, block = resources.memory, resources.cpu, resources.block_io
    return bool(
        (memory is not None and (memory.limit or memory.reservation or memory.swap))
        or (cpu is not None and (cpu.shares or cpu.quota or cpu.period))
        or (block is not None and any(value for _, value in block))
        or resources.hugepage_limits
    )


# --- limits -----------------------------------------------------------------------------------------------------------


def apply(path: str, resources: Resources, setter: Setter) -> None:
    """Everything but devices. `ResourceError` for what the host refuses or lacks."""
    if resources.pids_limit:
        setter.set(path, "pids.max", resources.pids_limit if resources.pids_limit > 0 else "max")
    if resources.memory is not None:
        _memory(path, resources.memory, setter)
    if resources.block_io is not None:
        _block_io(path, resources.block_io, setter)
    cpu = resources.cpu
    if cpu is not None:
        _cpu(path, cpu, setter)
        if cpu.cpus:
            setter.set(path, "cpuset.cpus", cpu.cpus)
        if cpu.mems:
            setter.set(path, "cpuset.mems", cpu.mems)
    for page in resources.hugepage_limits:
        setter.set(path, f"hugetlb.{page.page_size}.max", page.limit)
    if resources.rdma:
        cgroups_v1.rdma(path, resources.rdma, setter)
    for name, value in (resources.unified or {}).items():
        _unified(path, name, value, setter)


def swap_only(swap: int, memory: int) -> int:
    """config.json counts memory and swap together (-1 unlimited, 0 absent), version 2 swap alone. `ResourceError`."""
    if memory == -1 and swap == 0:
        return -1  # unlimited memory means unlimited memory and swap
    if swap in (-1, 0):
        return swap
    if memory in (-1, 0):
        raise ResourceError("unable to set swap limit without memory limit", errno=errno.EINVAL)
    if memory < 0:
        raise ResourceError(f"invalid memory value: {memory}", errno=errno.EINVAL)
    if swap < memory:
        raise ResourceError("memory+swap limit should be >= memory limit", errno=errno.EINVAL)
    return swap - memory


def _memory(path: str, memory: Memory, setter: Setter) -> None:
    limit, swap = memory.limit or 0, memory.swap or 0
    if memory.check_before_update and limit > 0:
        # A limit below what is in use does not fail here: the kernel would kill to reach it.
        usage = files.read_number(path, "memory.current")
        if usage > limit:
            raise ResourceError(f"rejecting memory limit {limit} as it's lower than current usage {usage}", errno=errno.EBUSY)
    alone = swap_only(swap, limit)
    if alone or swap > 0:
        setter.set(path, "memory.swap.max", _amount(alone))
    if limit:
        setter.set(path, "memory.max", _amount(limit))
    # `kernel` and `kernelTCP` do not exist; the OOM killer cannot be switched off; swappiness is not per group.
    if memory.reservation:
        setter.set(path, "memory.low", _amount(memory.reservation))


def _amount(value: int) -> str:
    return "max" if value == -1 else str(value)


def weight_of(shares: int) -> int:
    """cpu.shares 2..262144 onto cpu.weight 1..10000, linearly, as all runtimes do; 0 for 0."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142 if shares else 0


def _cpu(path: str, cpu: CPU, setter: Setter) -> None:
    if cpu.idle is not None:
        setter.set(path, "cpu.idle", cpu.idle)
    if cpu.shares and not cpu.idle:
        setter.set(path, "cpu.weight", weight_of(cpu.shares))
    # A burst above the new quota, or a quota below the old burst, is refused: whichever way they go, one order works.
    burst_last = False
    if cpu.burst is not None:
        try:
            setter.set(path, "cpu.max.burst", cpu.burst)
        except ResourceError as error:
            if error.errno != errno.EINVAL or not (cpu.quota or cpu.period):
                raise
            burst_last = True
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        setter.set(path, "cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD}")
        if burst_last:
            setter.set(path, "cpu.max.burst", cpu.burst)
    # Real-time limits do not exist.


def _block_io(path: str, block: BlockIO, setter: Setter) -> None:
    if block.weight or block.weight_device:
        bfq = files.exists(path, "io.bfq.weight")
        name = "io.bfq.weight" if bfq else "io.weight"
        # 10..1000 is also BFQ's range; the other controller has 1..10000.
        if block.weight:
            setter.set(path, name, block.weight if bfq else _io_weight(block.weight))
        for device in block.weight_device:
            if device.weight:
                weight = device.weight if bfq else _io_weight(device.weight)
                setter.set(path, name, f"{device.major}:{device.minor} {weight}")
    for key, devices in (
        ("rbps", block.throttle_read_bps_device),
        ("wbps", block.throttle_write_bps_device),
        ("riops", block.throttle_read_iops_device),
        ("wiops", block.throttle_write_iops_device),
    ):
        for throttle in devices:
            setter.set(path, "io.max", f"{throttle.major}:{throttle.minor} {key}={throttle.rate or 'max'}")


def _io_weight(weight: int) -> int:
    return 1 + (weight - 10) * 9999 // 990


def _unified(path: str, name: str, value: str, setter: Setter) -> None:
    controller, dot, _ = name.partition(".")
    pointer = "/linux/resources/unified"
    if "/" in name:
        raise ConfigError(f'unified resource "{name}" must be a file name (no slashes)', pointer=pointer)
    if not dot or not controller:
        raise ConfigError(f'unified resource "{name}" must be in the form CONTROLLER.PARAMETER', pointer=pointer)
    try:
        # Tables (io.max and the like) are set line by line.
        for line in value.strip().split("\n"):
            setter.set(path, name, line)
    except ResourceError as error:
        if error.errno in (errno.ENOENT, errno.EPERM, errno.EACCES) and controller != "cgroup":
            try:
                available = files.read(path, "cgroup.controllers").split()
            except OSError:
                available = []
            if controller not in available:
                raise ResourceError(
                    f'unified resource "{name}" can\'t be set: controller "{controller}" not available',
                    errno=error.errno,
                ) from None
        raise ResourceError(f'unable to set unified resource "{name}": {error.message}', errno=error.errno) from None
