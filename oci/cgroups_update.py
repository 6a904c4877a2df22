"""Changing the limits of a container that runs.

Only what is named changes. Where two limits depend on each other and one is named (quota and period, memory and swap of
version 2), the other one's present value is taken from the kernel. Device rules cannot be changed.
"""

from __future__ import annotations

from pysandbox.oci import cgroups
from pysandbox.oci import cgroups_files as files
from pysandbox.oci.errors import ResourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.cgroups import Cgroup
    from pysandbox.oci.spec import CPU, Memory, Resources


def update(cgroup: Cgroup, resources: Resources) -> None:
    """`ResourceError`, and then nothing has changed."""
    if not cgroup.paths:
        raise files.missing("cgroup")
    cgroups.check(resources.replace(devices=()), cgroups.host_layout())
    if "" in cgroup.paths:
        resources = _complete(cgroup.paths[""], resources)
    setter = files.Setter(undo=True)
    try:
        if cgroup.unit:
            from pysandbox.oci import cgroups_systemd

            cgroups_systemd.update(cgroup, resources, setter)
        else:
            cgroups.set_limits(cgroup, resources, setter, devices=False)
    except BaseException:
        setter.roll_back()
        raise


def _complete(path: str, resources: Resources) -> Resources:
    cpu, memory = resources.cpu, resources.memory
    return resources.replace(
        cpu=_complete_cpu(path, cpu) if cpu is not None else None,
        memory=_complete_memory(path, memory) if memory is not None else None,
    )


def _complete_cpu(path: str, cpu: CPU) -> CPU:
    """cpu.max holds quota and period, and is written as a whole."""
    if bool(cpu.quota) == bool(cpu.period):
        return cpu
    try:
        quota, period = files.read(path, "cpu.max").split()
    except (OSError, ValueError):
        return cpu  # writing it will say what is wrong
    if not cpu.quota:
        return cpu.replace(quota=-1 if quota == "max" else int(quota))
    return cpu.replace(period=int(period))


def _complete_memory(path: str, memory: Memory) -> Memory:
    """config.json's swap is a sum with memory: a new limit for one part leaves the sum, a new sum the other part."""
    if bool(memory.limit) == bool(memory.swap) or memory.limit == -1:
        return memory
    try:
        limit, swap = (files.read(path, name).strip() for name in ("memory.max", "memory.swap.max"))
    except OSError:
        return memory
    if not memory.limit:
        return memory if limit == "max" or memory.swap == -1 else memory.replace(limit=int(limit))
    if limit == "max" or swap == "max":
        return memory
    total = int(limit) + int(swap)
    assert memory.limit is not None
    if total < memory.limit:
        raise ResourceError("memory+swap limit should be >= memory limit", errno=22)
    return memory.replace(swap=total)
