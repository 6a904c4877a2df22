"""Limits of linux.resources in version 1 hierarchies (Documentation/admin-guide/cgroup-v1).

The order is runc's, so that of several wrong limits the same one is reported. 0 means "leave alone" where runc reads it so.
"""

from __future__ import annotations

import errno

from pysandbox.oci import cgroups_files as files
from pysandbox.oci.errors import ResourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.oci.cgroups_files import Setter
    from pysandbox.oci.spec import CPU, BlockIO, Memory, Network, Rdma, Resources

Paths = dict[str, str]
"""Controller -> directory."""

UNSET = (1 << 64) - 1
"""-1 of a property that is unsigned in the specification."""


def apply(paths: Paths, resources: Resources, setter: Setter) -> None:
    """Everything but devices. `ResourceError` for what the host refuses or lacks."""
    cpu = resources.cpu
    if cpu is not None:
        if cpu.cpus:
            setter.set(paths.get("cpuset"), "cpuset.cpus", cpu.cpus)
        if cpu.mems:
            setter.set(paths.get("cpuset"), "cpuset.mems", cpu.mems)
    if resources.memory is not None:
        _memory(paths.get("memory"), resources.memory, setter)
    if cpu is not None:
        _cpu(paths.get("cpu"), cpu, setter)
    if resources.pids_limit:
        setter.set(paths.get("pids"), "pids.max", resources.pids_limit if resources.pids_limit > 0 else "max")
    if resources.block_io is not None:
        _block_io(paths.get("blkio"), resources.block_io, setter)
    for page in resources.hugepage_limits:
        setter.set(paths.get("hugetlb"), f"hugetlb.{page.page_size}.limit_in_bytes", page.limit)
    if resources.network is not None:
        _network(paths, resources.network, setter)
    if resources.rdma:
        rdma(paths.get("rdma"), resources.rdma, setter)


def _memory(directory: str | None, memory: Memory, setter: Setter) -> None:
    limit, swap = memory.limit or 0, memory.swap or 0
    if limit == -1 and not swap and directory is not None and files.exists(directory, "memory.memsw.limit_in_bytes"):
        swap = -1  # unlimited memory means unlimited memory and swap
    steps = [(limit, _memory_limit), (swap, _swap_limit)]
    if limit and swap and directory is not None:
        # Memory must not exceed memory and swap together at any moment: the order depends on which way they go.
        current = files.read_number(directory, "memory.limit_in_bytes")
        if swap == -1 or current < swap:
            steps.reverse()
    for value, step in steps:
        if value:
            step(directory, value, setter)
    # `kernel` and `kernelTCP` are obsolete: kernels ignore or refuse them, runc ignores them.
    if memory.reservation:
        setter.set(directory, "memory.soft_limit_in_bytes", memory.reservation)
    if memory.disable_oom_killer:
        setter.set(directory, "memory.oom_control", 1)
    if memory.swappiness is not None and memory.swappiness not in (UNSET, -1):
        if memory.swappiness > 100:
            raise ResourceError(
                f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)", errno=errno.EINVAL
            )
        setter.set(directory, "memory.swappiness", memory.swappiness)


def _memory_limit(directory: str | None, value: int, setter: Setter) -> None:
    try:
        setter.set(directory, "memory.limit_in_bytes", value)
    except ResourceError as error:
        if error.errno != errno.EBUSY or directory is None:
            raise
        usage = files.read_number(directory, "memory.usage_in_bytes")
        peak = files.read_number(directory, "memory.max_usage_in_bytes")
        raise ResourceError(
            f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})", errno=errno.EBUSY
        ) from None


def _swap_limit(directory: str | None, value: int, setter: Setter) -> None:
    setter.set(directory, "memory.memsw.limit_in_bytes", value)


def _cpu(directory: str | None, cpu: CPU, setter: Setter) -> None:
    _share(directory, ("cpu.rt_period_us", cpu.realtime_period), ("cpu.rt_runtime_us", cpu.realtime_runtime), setter)
    if cpu.shares:
        setter.set(directory, "cpu.shares", cpu.shares)
        if directory is not None and not 2 <= cpu.shares <= 262144:
            # The kernel takes any number and keeps the nearest one it can use.
            kept = files.read_number(directory, "cpu.shares")
            if kept != cpu.shares:
                word = "maximum" if cpu.shares > kept else "minimum"
                raise ResourceError(f"the {word} allowed cpu-shares is {kept}", errno=errno.EINVAL)
    _share(directory, ("cpu.cfs_period_us", cpu.period), ("cpu.cfs_quota_us", cpu.quota), setter)
    if cpu.burst is not None:
        setter.set(directory, "cpu.cfs_burst_us", cpu.burst)
    if cpu.idle is not None:
        setter.set(directory, "cpu.idle", cpu.idle)


def _share(directory: str | None, period: tuple[str, int | None], time: tuple[str, int | None], setter: Setter) -> None:
    """Time in each period, (file, value) both. Against the old time the new period may exceed what the parent or it itself
    allows: again when the time is new, too."""
    late = False
    if period[1]:
        try:
            setter.set(directory, *period)
        except ResourceError as error:
            if error.errno != errno.EINVAL or not time[1]:
                raise
            late = True
    if time[1]:
        setter.set(directory, *time)
        if late:
            setter.set(directory, *period)


def _block_io(directory: str | None, block: BlockIO, setter: Setter) -> None:
    # With the CFQ scheduler, which newer kernels do not have, the names lack "bfq".
    prefix = "blkio" if directory is not None and files.exists(directory, "blkio.weight") else "blkio.bfq"
    if block.weight:
        setter.set(directory, f"{prefix}.weight", block.weight)
    if block.leaf_weight:
        setter.set(directory, "blkio.leaf_weight", block.leaf_weight)
    for device in block.weight_device:
        if device.weight:
            setter.set(directory, f"{prefix}.weight_device", f"{device.major}:{device.minor} {device.weight}")
        if device.leaf_weight:
            setter.set(directory, "blkio.leaf_weight_device", f"{device.major}:{device.minor} {device.leaf_weight}")
    for name, devices in (
        ("read_bps", block.throttle_read_bps_device),
        ("write_bps", block.throttle_write_bps_device),
        ("read_iops", block.throttle_read_iops_device),
        ("write_iops", block.throttle_write_iops_device),
    ):
        for throttle in devices:
            text = f"{throttle.major}:{throttle.minor} {throttle.rate}"
            setter.set(directory, f"blkio.throttle.{name}_device", text)


def _network(paths: Paths, network: Network, setter: Setter) -> None:
    if network.class_id:
        setter.set(paths.get("net_cls"), "net_cls.classid", network.class_id)
    for entry in network.priorities:
        setter.set(paths.get("net_prio"), "net_prio.ifpriomap", f"{entry.name} {entry.priority}")


def rdma(directory: str | None, limits: Mapping[str, Rdma], setter: Setter) -> None:
    """The same file in both versions."""
    for device, limit in limits.items():
        words = [device]
        if limit.hca_handles is not None:
            words.append(f"hca_handle={limit.hca_handles}")
        if limit.hca_objects is not None:
            words.append(f"hca_object={limit.hca_objects}")
        setter.set(directory, "rdma.max", " ".join(words))
