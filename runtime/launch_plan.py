"""What the launcher prepares: before it forks the host's side of a container, checked and open; and what the process needs
only at its end, made while it builds its root (`Late`).

Nothing here leaves a trace on the host but the trace file; descriptors close by themselves when the launcher ends.
"""

from __future__ import annotations

import os

from pysandbox.oci import cgroups, devices, mounts, namespaces, process
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import BundleError, ConfigError, LaunchError, host_reason
from pysandbox.runtime import abi, activation, launch_vault, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pysandbox.oci.bundle import Bundle
    from pysandbox.oci.spec import Spec
    from pysandbox.runtime.launch_notify import Agent

_DISPATCH = {"auto": abi.DISPATCH_AUTO, "ring": abi.DISPATCH_RING, "exit": abi.DISPATCH_EXIT}
_PIN = {"off": abi.PIN_OFF, "log": abi.PIN_LOG, "enforce": abi.PIN_ENFORCE}
_TRACE = {"ring": abi.TRACE_RING, "full": abi.TRACE_FULL, "off": abi.TRACE_OFF}
_CAP_SYS_ADMIN = 21
_KVM_API_VERSION = 12
_NO_GROUP = 65534  # what an id without a mapping is shown as
_KVM_GET_API_VERSION = 0xAE00


class Overlay(Struct):
    """A root made for this container alone: `lower` seen read-only below a writable layer in a private tmpfs.
    `writable`: host directories that show through for writing; `scratch`: the directory to mount on."""

    lower: str
    scratch: str
    writable: tuple[str, ...] = ()


class Options(Struct):
    """How `run` or `create` is asked to start a container, apart from config.json; names as runc's flags. `wait`: the
    program runs when `start` says so; `debug`: where steps are told."""

    id: str
    root: str
    detach: bool = False
    wait: bool = False
    pid_file: str = ""
    console_socket: str = ""
    pidfd_socket: str = ""
    preserve_fds: int = 0
    listen_fds: int = 0
    no_pivot: bool = False
    no_new_keyring: bool = False
    no_subreaper: bool = False
    keep: bool = False
    cgroup_manager: str = "cgroupfs"
    overlay: Overlay | None = None
    foreground_tty: bool = True
    debug: Callable[[str], None] | None = None


class LaunchPlan(Struct):
    """All that the container process needs, inherited across the fork. Integers are descriptors of the launcher.
    `late_sources`: numbers of the bind mounts whose source shows earlier mounts, where someone else opens sources."""

    options: Options
    spec: Spec
    bundle: str
    rootfs: str
    namespaces: namespaces.Namespaces
    cgroup: cgroups.Cgroup
    capabilities: process.CapabilitySets
    dispatch: int
    trace_mode: int
    pin: int
    kvm: int
    host_self: int
    late_sources: tuple[int, ...] = ()
    agent: Agent | None = None

    @property
    def shared_root(self) -> str:
        """Where the root of a container without a mount namespace is mounted on the host; "" for any other."""
        if self.namespaces.private("mount"):
            return ""
        return os.path.join(os.path.abspath(self.options.root), self.options.id, "rootfs")

    @property
    def memory_limit(self) -> int:
        """Bytes; 0: none."""
        resources = self.spec.linux.resources
        return max(resources.memory.limit or 0, 0) if resources and resources.memory else 0

    @property
    def roles(self) -> dict[int, int]:
        """What goes into the vault besides `Late`: PSB_FD_* -> descriptor."""
        roles = {abi.FD_KVM: self.kvm, abi.FD_HOST_SELF: self.host_self}
        if self.agent is not None:
            roles[abi.FD_NOTIFY] = self.agent.asking
        return roles


class Late(Struct):
    """Descriptors that are sent to the container process."""

    monitor: int
    control: int
    pool: int
    policy: int
    trace: int | None

    @property
    def fds(self) -> tuple[int, ...]:
        """In the order of `LATE_ROLES`."""
        fds = (self.monitor, self.control, self.pool, self.policy)
        return fds if self.trace is None else (*fds, self.trace)


LATE_ROLES = (abi.FD_MONITOR, abi.FD_CTL, abi.FD_POOL, abi.FD_POLICY, abi.FD_TRACE)


def make_plan(bundle: Bundle, options: Options, warn: Mapping[str, object] | None = None) -> LaunchPlan:
    """Raises the error of whatever is missing or not supported."""
    rootfs = bundle.rootfs
    spec = mounts.within(bundle.spec, rootfs)
    check(spec, options)
    try:
        fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(fd)
    except OSError as error:
        raise BundleError(f"invalid rootfs: stat {rootfs}: {host_reason(error.errno)}", errno=error.errno) from None
    spaces = namespaces.open_namespaces(spec)
    namespaces.check_sysctls(spaces, spec)
    namespaces.check_mounts(spaces, spec)
    annotations = spec.annotations
    rootfs = os.path.realpath(rootfs)
    trace_mode = _choice(annotations, "dev.pysandbox.trace", _TRACE, "ring")
    return LaunchPlan(
        options=options,
        spec=spec,
        bundle=bundle.dir,
        rootfs=rootfs,
        dispatch=_choice(annotations, "dev.pysandbox.dispatch", _DISPATCH, "auto"),
        pin=_choice(annotations, "dev.pysandbox.pin", _PIN, "log"),
        trace_mode=trace_mode,
        capabilities=process.CapabilitySets(spec.process.capabilities, new_user=spaces.user),
        namespaces=spaces,
        cgroup=cgroups.plan(spec, options.id, options.cgroup_manager),
        kvm=open_kvm(),
        host_self=os.open("/proc/thread-self", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC),
        late_sources=tuple(mounts.from_inside(spec, bundle.dir, rootfs)) if spaces.foreign_files else (),
        agent=_agent(spec),
    )


def _agent(spec: Spec) -> Agent | None:
    seccomp = spec.linux.seccomp
    if seccomp is None or not seccomp.listener_path:
        return None
    from pysandbox.runtime import launch_notify

    if not launch_notify.wanted(seccomp):
        return None
    return launch_notify.Agent(seccomp.listener_path, seccomp.listener_metadata)


def open_late(plan: LaunchPlan, directory: int) -> Late:
    """Raises the error of a policy that does not compile, or of a trace that cannot be made. The trace comes last: an error
    leaves none. `directory`: the container's state directory."""
    return Late(
        monitor=launch_vault.monitor_memfd(),
        control=launch_vault.control_file(directory),
        pool=launch_vault.pool_memfd(plan.memory_limit),
        policy=_policy(plan.spec),
        trace=_trace(plan.options, plan.spec.annotations, plan.trace_mode),
    )


def check(spec: Spec, options: Options) -> None:
    """Contradictions and unsupported wishes, before anything is made."""
    if spec.process.terminal and options.detach and not options.console_socket:
        raise LaunchError("cannot allocate tty if pysandbox will detach without setting console socket")
    if options.console_socket and not (spec.process.terminal and options.detach):
        raise LaunchError("cannot use console socket if pysandbox will not detach or allocate tty")
    if spec.linux.namespace("user") is None and not native.capget()[0] >> _CAP_SYS_ADMIN & 1:
        raise LaunchError(
            "without root a container needs a user namespace (config.json: /linux/namespaces): see `pysandbox spec --rootless`"
        )
    process.check_supported(spec)
    for mount in spec.mounts:
        mounts.parse_options(mount.options)
    devices.device_list(spec)
    activation.check_descriptors(options.listen_fds + options.preserve_fds)


def _choice(annotations: Mapping[str, str], key: str, values: dict[str, int], default: str) -> int:
    value = annotations.get(key, default)
    if value not in values:
        # JSON pointer: "/" in a key is written "~1"; these keys have none.
        raise ConfigError(f"{value!r} is not one of {', '.join(values)}", pointer=f"/annotations/{key}")
    return values[value]


def open_kvm() -> int:
    """/dev/kvm, usable. `LaunchError` says what to do when it is not."""
    import fcntl

    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LaunchError(
            "/dev/kvm does not exist: load the kvm-intel or kvm-amd module, or enable (nested) virtualization for this host"
        ) from None
    except PermissionError:
        raise LaunchError(f"/dev/kvm is refused (permission denied): {_kvm_mend()}") from None
    except OSError as error:
        raise LaunchError(
            f"/dev/kvm cannot be opened ({host_reason(error.errno)}): "
            "is virtualization enabled on this host? try `pysandbox doctor`",
            errno=error.errno,
        ) from None
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION, 0)
    except OSError:
        version = -1
    if version != _KVM_API_VERSION:
        os.close(fd)
        raise LaunchError(f"/dev/kvm is not a KVM device with API version {_KVM_API_VERSION}: try `pysandbox doctor`")
    return fd


def _kvm_mend() -> str:
    """What lets an ordinary user open /dev/kvm, which Debian's udev gives to the group kvm."""
    import grp

    found = os.stat("/dev/kvm")
    if not found.st_gid or found.st_mode & 0o060 != 0o060:
        return "run as root, or let a group use it (chgrp kvm /dev/kvm; chmod 660 /dev/kvm) and join that group"
    if found.st_gid == _NO_GROUP:  # in a user namespace, in which engines without root live
        return "run as root or join the group that owns it (`ls -l /dev/kvm`; usermod -aG GROUP USER, then log in again)"
    try:
        name = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        name = str(found.st_gid)
    return f"run as root or join the {name} group (usermod -aG {name} USER, then log in again)"


def _policy(spec: Spec) -> int:
    from pysandbox.runtime.policy import compile_policy

    return launch_vault.sealed_memfd("pysandbox-policy", compile_policy(spec.linux.seccomp))


def _trace(options: Options, annotations: Mapping[str, str], mode: int) -> int | None:
    if mode == abi.TRACE_OFF:
        return None
    from pysandbox.runtime import launch_traces

    return launch_traces.new_trace(
        options.root,
        options.id,
        "full" if mode == abi.TRACE_FULL else "ring",
        annotations.get("dev.pysandbox.trace.dir", ""),
    )
