"""Attributes of the container's process (config.md, "Process"), applied by the process itself before its program
starts.
"""

from __future__ import annotations

import errno
import os
import stat

from pysandbox.oci.errors import ConfigError, LaunchError, UnsupportedError, from_os_error
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.spec import Capabilities, Personality, Process, Rlimit, Spec

_NAMES = (  # in the order of their numbers
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = tuple(_NAMES.split(" "))
_CAP_BIT = {f"CAP_{name}": 1 << number for number, name in enumerate(CAPABILITIES)}

# RLIMIT_* by name; numbers of x86-64 (asm-generic/resource.h).
RLIMITS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        [
            "CPU",
            "FSIZE",
            "DATA",
            "STACK",
            "CORE",
            "RSS",
            "NPROC",
            "NOFILE",
            "MEMLOCK",
            "AS",
            "LOCKS",
            "SIGPENDING",
            "MSGQUEUE",
            "NICE",
            "RTPRIO",
            "RTTIME",
        ]
    )
}
_INFINITY = 2**64 - 1
_STACK_MOST = 1 << 40  # bytes; limits.c has the same
_MONITOR_NOFILE_ROOM = 1024  # as in runtime/monitor/monitor.h
_SCHED = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x1,
    "SCHED_FLAG_RECLAIM": 0x2,
    "SCHED_FLAG_DL_OVERRUN": 0x4,
    "SCHED_FLAG_KEEP_POLICY": 0x8,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IOPRIO = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


class CapabilitySets:
    """The five sets as masks, cut to what the caller may give. What is asked for and is not there is no error but a warning
    (config.md, "Linux Process", `capabilities`): `missing` are names the host's bounding set lacks, `unknown` those nobody knows.
    """

    def __init__(self, wanted: Capabilities | None, *, new_user: bool = False) -> None:
        # A new user namespace starts with everything the kernel knows, whatever its maker has.
        bound = _known() if new_user else _own_bounding()
        missing: list[str] = []
        unknown: list[str] = []

        def mask(names: tuple[str, ...]) -> int:
            total = 0
            for name in names:
                bit = _CAP_BIT.get(name)
                if bit is None:
                    if name not in unknown:
                        unknown.append(name)
                elif bound & bit:
                    total |= bit
                elif name not in missing:
                    missing.append(name)
            return total

        self.bounding = mask(wanted.bounding) if wanted else 0
        self.permitted = mask(wanted.permitted) if wanted else 0
        self.effective = (mask(wanted.effective) if wanted else 0) & self.permitted
        self.inheritable = mask(wanted.inheritable) if wanted else 0
        # The kernel raises only what is permitted and inheritable; runc asks for what it can get in the same way.
        self.ambient = (mask(wanted.ambient) if wanted else 0) & self.permitted & self.inheritable
        self.missing = tuple(missing)
        self.unknown = tuple(unknown)

    @property
    def warnings(self) -> list[str]:
        """What to say about it, a line each."""
        lines = [f"capability {name} is not in this host's bounding set and was not given" for name in self.missing]
        if self.unknown:
            lines.append(f"ignoring unknown or unavailable capabilities: [{' '.join(self.unknown)}]")
        return lines


def _known() -> int:
    bound = 0
    for number in range(len(CAPABILITIES)):
        try:
            native.prctl(native.PR_CAPBSET_READ, number)
        except OSError:
            break
        bound |= 1 << number
    return bound


def _own_bounding() -> int:
    """The caller's bounding set, cut to what it holds itself: neither can be given away without being there."""
    bound = 0
    for number in range(len(CAPABILITIES)):
        try:
            if native.prctl(native.PR_CAPBSET_READ, number):
                bound |= 1 << number
        except OSError:
            break  # a kernel older than this capability
    return bound & native.capget()[1]


def drop_bounding(sets: CapabilitySets) -> None:
    """Needs CAP_SETPCAP: before the user changes."""
    bound = _own_bounding()
    for number in range(len(CAPABILITIES)):
        if bound >> number & 1 and not sets.bounding >> number & 1:
            try:
                native.prctl(native.PR_CAPBSET_DROP, number)
            except OSError as error:
                raise from_os_error("drop bounding capabilities", error, LaunchError) from None


def become_user(process: Process, *, keep_groups: bool = False) -> None:
    """Groups, gid, uid; capabilities are kept for `set_capabilities` to reduce. `keep_groups`: those of the caller stay, and
    additional ones come to them."""
    user = process.user
    try:
        native.prctl(native.PR_SET_KEEPCAPS, 1)
        try:
            os.setgroups([*os.getgroups(), *user.additional_gids] if keep_groups else user.additional_gids)
        except PermissionError:
            if user.additional_gids:
                raise
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        native.prctl(native.PR_SET_KEEPCAPS, 0)
    except OSError as error:
        raise from_os_error(f"set user {user.uid}:{user.gid}", error, LaunchError) from None


def set_capabilities(sets: CapabilitySets) -> None:
    try:
        native.capset(sets.effective, sets.permitted, sets.inheritable)
        native.prctl(native.PR_CAP_AMBIENT, native.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(len(CAPABILITIES)):
            if sets.ambient >> number & 1:
                native.prctl(native.PR_CAP_AMBIENT, native.PR_CAP_AMBIENT_RAISE, number)
    except OSError as error:
        raise from_os_error("apply capabilities", error, LaunchError) from None


def raise_hard_limits(rlimits: tuple[Rlimit, ...]) -> None:
    """Hard limits above the present ones, for a process that will lose the right to raise them; soft ones stay."""
    import resource

    for limit in rlimits:
        number = RLIMITS[limit.type]
        soft, hard = resource.getrlimit(number)
        wanted = resource.RLIM_INFINITY if limit.hard == _INFINITY else limit.hard
        if number == resource.RLIMIT_NOFILE and wanted != resource.RLIM_INFINITY:
            wanted = _with_room(wanted)
        if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
            try:
                resource.setrlimit(number, (soft, wanted))
            except (OSError, ValueError):
                continue  # `set_rlimits` says what was refused


def set_rlimits(rlimits: tuple[Rlimit, ...]) -> None:
    import resource

    for limit in rlimits:
        number = RLIMITS.get(limit.type)
        if number is None:
            raise ConfigError(f"unknown rlimit type {limit.type!r}", pointer="/process/rlimits")
        values = tuple(resource.RLIM_INFINITY if v == _INFINITY else v for v in (limit.soft, limit.hard))
        try:
            if number == resource.RLIMIT_NOFILE:
                _limit_descriptors(values[0], values[1])
            else:
                resource.setrlimit(number, (values[0], values[1]))
        except ValueError as error:
            # The module's words for EPERM ("not allowed to raise maximum limit") and EINVAL.
            reason = "operation not permitted" if "raise" in str(error) else "invalid argument"
            raise LaunchError(f"error setting rlimit {limit.type}: {reason}", errno=errno.EPERM) from None
        except OSError as error:
            raise from_os_error(f"error setting rlimit {limit.type}", error, LaunchError) from None
    if all(limit.type != "RLIMIT_NOFILE" for limit in rlimits):
        _limit_descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE))
    _limit_stack(*resource.getrlimit(resource.RLIMIT_STACK))


def _limit_stack(soft: int, hard: int) -> None:
    """The program's limit is the monitor's affair. The monitor itself the kernel would map among the program's own memory, to
    leave as much room above it as the process' limit says."""
    import resource

    if soft == resource.RLIM_INFINITY or soft > _STACK_MOST:
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_MOST, hard))


def stack_limit(rlimits: tuple[Rlimit, ...]) -> int:
    """The soft RLIMIT_STACK the program gets, in bytes, 2**64-1 for none; the process' own before `set_rlimits` if none is
    asked for."""
    for limit in rlimits:
        if limit.type == "RLIMIT_STACK":
            return limit.soft
    import resource

    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _INFINITY if soft == resource.RLIM_INFINITY else soft


def descriptor_limits(rlimits: tuple[Rlimit, ...]) -> tuple[int, int]:
    """RLIMIT_NOFILE the program gets, soft and hard; the process' own before `set_rlimits` if none is asked for."""
    for limit in rlimits:
        if limit.type == "RLIMIT_NOFILE":
            return limit.soft, limit.hard
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def own_descriptor_limit() -> int:
    """The process' soft RLIMIT_NOFILE."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _with_room(limit: int) -> int:
    """As with_room() in runtime/monitor/limits.c."""
    return max(limit, _MONITOR_NOFILE_ROOM) + _MONITOR_NOFILE_ROOM


def _limit_descriptors(soft: int, hard: int) -> None:
    """The monitor keeps the program's RLIMIT_NOFILE; the kernel's leaves it room above that, where the present hard limit, or
    the right to raise it, allows."""
    import resource

    number = resource.RLIMIT_NOFILE
    if resource.RLIM_INFINITY not in (soft, hard):
        present = resource.getrlimit(number)[1]
        for ceiling in (_with_room(hard), max(hard, min(_with_room(hard), present))):
            try:
                resource.setrlimit(number, (min(_with_room(soft), ceiling), ceiling))
            except (OSError, ValueError):
                continue  # no right, or above what the kernel takes: what was asked for is tried below
            return
    resource.setrlimit(number, (soft, hard))


def set_oom_score(score: int | None) -> str | None:
    """While the host's procfs is at /proc. Returns a warning when the score may not be lowered."""
    if score is None:
        return None
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % score)
        finally:
            os.close(fd)
    except PermissionError:
        # Lowering needs CAP_SYS_RESOURCE; inside a container that lacks it, running is better than not.
        return f"oomScoreAdj {score} needs CAP_SYS_RESOURCE and was not applied"
    except OSError as error:
        raise from_os_error("write oom_score_adj", error, LaunchError) from None
    return None


def set_affinity(cpus: str) -> None:
    """execCPUAffinity: a list such as `0-3,7`; nothing for ""."""
    wanted: set[int] = set()
    for part in cpus.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            if not first.isdecimal() or (last and not last.isdecimal()) or int(last or first) >= 1 << 16:
                raise ConfigError(f"{cpus!r} is not a list of CPUs", pointer="/process/execCPUAffinity")
            wanted.update(range(int(first), int(last or first) + 1))
    if wanted:
        try:
            os.sched_setaffinity(0, wanted)
        except OSError as error:
            raise from_os_error(f"set CPU affinity {cpus}", error, LaunchError) from None


def _bound() -> bool:
    """Some CPUs are not this process': the kernel has no deadlines then (sched_setattr(2), EPERM)."""
    return len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)


def set_scheduling(process: Process) -> None:
    """process.scheduler and process.ioPriority."""
    if process.scheduler is not None:
        wanted = process.scheduler
        if wanted.policy not in _SCHED:
            raise ConfigError(f"unknown policy {wanted.policy!r}", pointer="/process/scheduler/policy")
        flags = 0
        for name in wanted.flags:
            if name not in _SCHED_FLAGS:
                raise ConfigError(f"unknown flag {name!r}", pointer="/process/scheduler/flags")
            flags |= _SCHED_FLAGS[name]
        try:
            native.sched_setattr(
                _SCHED[wanted.policy],
                flags,
                wanted.nice,
                wanted.priority,
                wanted.runtime,
                wanted.deadline,
                wanted.period,
            )
        except OSError as error:
            if isinstance(error, PermissionError) and wanted.policy == "SCHED_DEADLINE" and _bound():
                raise LaunchError("process scheduler can't be used together with AllowedCPUs", errno=error.errno) from None
            raise from_os_error("set scheduler", error, LaunchError) from None
    if process.io_priority is not None:
        kind = _IOPRIO.get(process.io_priority.cls)
        if kind is None:
            raise ConfigError(f"unknown class {process.io_priority.cls!r}", pointer="/process/ioPriority/class")
        try:
            native.ioprio_set(kind, process.io_priority.priority)
        except OSError as error:
            raise from_os_error("set I/O priority", error, LaunchError) from None


def check_supported(spec: Spec) -> None:
    """What cannot be honoured is refused before anything is made."""
    process = spec.process
    if process.apparmor_profile not in ("", "unconfined") and not os.path.isdir("/sys/kernel/security/apparmor"):
        raise UnsupportedError("process.apparmorProfile is set, but AppArmor is not enabled on this host")
    for label, name in ((process.selinux_label, "process.selinuxLabel"), (spec.linux.mount_label, "linux.mountLabel")):
        if label and not os.path.isdir("/sys/fs/selinux"):
            raise UnsupportedError(f"{name} is set, but SELinux is not enabled on this host")
    if spec.linux.intel_rdt is not None and not os.path.isdir("/sys/fs/resctrl"):
        raise UnsupportedError("linux.intelRdt is set, but resctrl is not mounted on this host")


def set_security_labels(process: Process, proc: int) -> None:
    """AppArmor profile and SELinux label for the coming exec; `proc`: directory of a procfs."""
    profile = process.apparmor_profile
    if profile and (profile != "unconfined" or os.access("thread-self/attr/apparmor", os.F_OK, dir_fd=proc)):
        try:
            _write_attribute(proc, "apparmor/exec", f"exec {profile}")
        except FileNotFoundError:
            _label(proc, f"exec {profile}", profile)  # Linux before 5.8: one set of files for whatever module there is
        except OSError as error:
            raise from_os_error(f"apply AppArmor profile {profile!r}", error, LaunchError) from None
    if process.selinux_label:
        _label(proc, process.selinux_label, process.selinux_label)


def _label(proc: int, value: str, name: str) -> None:
    try:
        _write_attribute(proc, "exec", value)
    except OSError as error:
        raise from_os_error(f"apply security label {name!r}", error, LaunchError) from None


def _write_attribute(proc: int, name: str, value: str) -> None:
    fd = os.open(f"thread-self/attr/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def set_personality(wanted: Personality | None) -> None:
    """linux.personality."""
    if wanted is None:
        return
    if wanted.domain not in ("LINUX", "LINUX32"):
        raise ConfigError(f"unknown domain {wanted.domain!r}", pointer="/linux/personality/domain")
    if wanted.flags:
        raise UnsupportedError("linux.personality.flags are not supported")
    native.personality(0x0008 if wanted.domain == "LINUX32" else 0)


def set_sysctls(spec: Spec, proc: int) -> None:
    """`proc`: a procfs (O_PATH). Which namespace a value belongs to is decided by who writes: the caller is inside."""
    for key, value in (spec.linux.sysctl or {}).items():
        # As sysctl(8): dots separate; a slash in the key stands for a dot in a name.
        path = key.translate({ord("."): "/", ord("/"): "."}) if "." in key.split("/", 1)[0] else key
        try:
            fd = native.openat2(proc, f"sys/{path}", os.O_WRONLY, 0, native.RESOLVE_BENEATH | native.RESOLVE_NO_SYMLINKS)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise from_os_error(f"set sysctl {key}={value}", error, LaunchError) from None


def own_stdio(uid: int) -> None:
    """The program may reopen its standard streams (/dev/stdout): pipes and terminals on them become its user's."""
    null = os.makedev(1, 3)
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_uid != uid and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == null):
                os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF, errno.EACCES):
                raise from_os_error("change owner of standard streams", error, LaunchError) from None


def environment(process: Process) -> dict[str, str]:
    """process.env as a mapping, with HOME from the container's /etc/passwd where it is not given. After the pivot."""
    env: dict[str, str] = {}
    for entry in process.env:
        name, sep, value = entry.partition("=")
        if not sep or not name:
            raise ConfigError(f"invalid environment variable: {entry!r}", pointer="/process/env")
        env[name] = value
    if not env.get("HOME"):
        env["HOME"] = home_of(process.user.uid)
    return env


def home_of(uid: int) -> str:
    """Home directory by the container's own /etc/passwd; "/" when it has none for this user."""
    try:
        # The image may have anything of this name: opening a FIFO must not make us wait.
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 1 << 20) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
    except OSError:
        return "/"  # no such file in many images
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 7 and fields[2] == b"%d" % uid:
            return os.fsdecode(fields[5]) or "/"
    return "/"


def change_directory(process: Process) -> None:
    """cwd must be a directory inside the container's root that the process's user may enter."""
    try:
        os.chdir(process.cwd)
        inside = os.getcwd().startswith("/")
    except OSError as error:
        raise from_os_error(f"chdir to cwd ({process.cwd!r}) set in config.json failed", error, LaunchError) from None
    if not inside:
        # A link into a leaked descriptor's directory: getcwd then starts with "(unreachable)".
        raise LaunchError(f"cwd {process.cwd!r} is outside of the container's root")
