"""The typed form of config.json: OCI runtime specification 1.2, the Linux part, as frozen records.

Names are those of the specification in snake case. Where the specification says a property may be left out,
the field is None, or an empty tuple for lists, "" for strings that mean nothing when empty. A property that
is absent and one that is null are the same thing, as they are to Go's decoder, which every engine's peer uses.

Units: memory in bytes, CPU periods and quotas in microseconds, scheduler runtime/deadline/period in
nanoseconds, time offsets in seconds and nanoseconds, hook timeouts in seconds. Ids are numeric.

`decode` builds these from validated JSON; nothing here checks values.
"""

from __future__ import annotations

from pysandbox.oci._struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


# --- process (config.md, "Process") -------------------------------------------------------------------------


class ConsoleSize(Struct):
    """Size of the terminal in characters."""

    height: int
    width: int


class User(Struct):
    """Who the process is, in the container's user namespace. `umask` None: inherited."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(Struct):
    """Names as `CAP_CHOWN`, in the order of config.json, duplicates removed."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Struct):
    """`type` as `RLIMIT_NOFILE`; 2**64-1 is RLIM_INFINITY."""

    type: str
    soft: int
    hard: int


class Scheduler(Struct):
    """sched_setattr(2): `policy` as `SCHED_OTHER`, `flags` as `SCHED_FLAG_RESET_ON_FORK`."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(Struct):
    """ioprio_set(2): `cls` is the property `class`, `IOPRIO_CLASS_RT`, `_BE` or `_IDLE`."""

    cls: str
    priority: int = 0


class CPUAffinity(Struct):
    """For exec: cpu lists such as `0-3,7`, before and after the move into the container's cgroup."""

    initial: str = ""
    final: str = ""


class Process(Struct):
    """The container's process, and what `exec --process` reads.

    `capabilities` None: the property is absent, the process gets none.
    """

    args: tuple[str, ...]
    cwd: str
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    selinux_label: str = ""
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CPUAffinity | None = None


# --- root, mounts, hooks ------------------------------------------------------------------------------------


class Root(Struct):
    """`path` as written: absolute, or relative to the bundle (`Bundle.rootfs` resolves it)."""

    path: str
    readonly: bool = False


class IDMapping(Struct):
    """One line of uid_map or gid_map."""

    container_id: int
    host_id: int
    size: int


class Mount(Struct):
    """`source` and `type` are "" when absent. A relative bind source is relative to the bundle."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(Struct):
    """`args[0]` is the name the program sees; `env` None: absent, the caller's; `timeout` in seconds, None for none."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] | None = None
    timeout: int | None = None


class Hooks(Struct):
    """The six kinds, in the order in which they run."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


# --- linux.resources (config-linux.md, "Control groups") ----------------------------------------------------


class DeviceRule(Struct):
    """One rule of the device controller. `type` `a`, `b` or `c`; None for major or minor means all."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(Struct):
    """Bytes; -1 is unlimited; None leaves the limit alone."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(Struct):
    """Times in microseconds; `cpus` and `mems` are lists as in `0-3,7`, "" for absent."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class WeightDevice(Struct):
    """Block I/O weight for one device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Struct):
    """Bytes or operations a second for one device."""

    major: int
    minor: int
    rate: int


class BlockIO(Struct):
    """Weights 10 to 1000."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(Struct):
    """`page_size` as `2MB`; `limit` in bytes."""

    page_size: str
    limit: int


class InterfacePriority(Struct):
    """net_prio of one interface."""

    name: str
    priority: int


class Network(Struct):
    """net_cls and net_prio."""

    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(Struct):
    """Limits for one RDMA device."""

    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Struct):
    """`pids_limit` is `pids.limit`: None absent, -1 (and 0, as runc has it) unlimited. `unified` is cgroup v2 only."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids_limit: int | None = None
    block_io: BlockIO | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network | None = None
    rdma: Mapping[str, Rdma] | None = None
    unified: Mapping[str, str] | None = None


# --- linux --------------------------------------------------------------------------------------------------


class Namespace(Struct):
    """`type` is one of pid, network, mount, ipc, uts, user, cgroup, time; `path` "" makes a new one."""

    type: str
    path: str = ""


class Device(Struct):
    """A node to make in the container. `type` `b`, `c`, `u` or `p`; `major`/`minor` 0 for `p`.

    `file_mode` may carry file type bits; None means 0666. `uid`, `gid` None mean 0.
    """

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class SeccompArg(Struct):
    """Condition on argument `index` (0 to 5). `op` as `SCMP_CMP_EQ`; for MASKED_EQ `value` is the mask."""

    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(Struct):
    """One element of `linux.seccomp.syscalls`; the conditions are joined by AND."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(Struct):
    """`linux.seccomp`; actions as `SCMP_ACT_ERRNO`, architectures as `SCMP_ARCH_X86_64`."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


class IntelRdt(Struct):
    """resctrl group, cache and bandwidth schemata."""

    clos_id: str = ""
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_cmt: bool = False
    enable_mbm: bool = False
    enable_monitoring: bool = False


class Personality(Struct):
    """personality(2): `domain` `LINUX` or `LINUX32`."""

    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(Struct):
    """Offset of one clock of a new time namespace."""

    secs: int = 0
    nanosecs: int = 0


class NetDevice(Struct):
    """A host interface to move into the container; `name` "" keeps its name."""

    name: str = ""


class Linux(Struct):
    """The `linux` object; all empty when config.json has none.

    `masked_paths` and `readonly_paths` are absolute paths in the container. `rootfs_propagation` "" is
    the runtime's choice. `time_offsets` by clock (`monotonic`, `boottime`), `net_devices` by host name.
    """

    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    sysctl: Mapping[str, str] | None = None
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: Mapping[str, NetDevice] | None = None
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    time_offsets: Mapping[str, TimeOffset] | None = None

    def namespace(self, kind: str) -> Namespace | None:
        """The namespace of this type, None when the container shares the runtime's."""
        for ns in self.namespaces:
            if ns.type == kind:
                return ns
        return None


class Spec(Struct):
    """A whole config.json. `annotations` is empty when absent."""

    oci_version: str
    process: Process
    root: Root
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    annotations: Mapping[str, str]
    linux: Linux = Linux()
