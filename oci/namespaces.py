"""Namespaces: which are made, which are joined, and when (config-linux.md, "Namespaces").

A pid or time namespace takes effect for *children* of the caller, so the launcher enters those around its fork
(`for_children`), and the container process enters the others itself (`enter`). That way the container's init is a
direct child of the launcher: one fork, no intermediate process, no subreaper needed to learn its exit status.
"""

from __future__ import annotations

import os
import stat

from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import ConfigError, ResourceError, from_os_error
from pysandbox.oci.validate import sysctl_namespace
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.spec import Spec

# Type in config.json -> (flag, name under /proc/PID/ns). The order is that of joining.
KINDS = {
    "user": (native.CLONE_NEWUSER, "user"),
    "ipc": (native.CLONE_NEWIPC, "ipc"),
    "uts": (native.CLONE_NEWUTS, "uts"),
    "network": (native.CLONE_NEWNET, "net"),
    "pid": (native.CLONE_NEWPID, "pid"),
    "mount": (native.CLONE_NEWNS, "mnt"),
    "cgroup": (native.CLONE_NEWCGROUP, "cgroup"),
    "time": (native.CLONE_NEWTIME, "time"),
}
_FOR_CHILDREN = ("pid", "time")
_NS_GET_NSTYPE = 0xB703
_CAP_SYS_ADMIN = 21


class Namespaces(Struct):
    """What to do. `new`: types to make; `join`: type -> descriptor of the namespace to enter. A new user namespace is
    made beforehand, so it is one to join. `idmaps`: index of an id-mapped mount -> user namespace with its mapping.
    `foreign_files`: the caller has rights over the host's files that the container's root has not. An ordinary user has
    none, and cannot enter the container's mount namespace from outside either.
    """

    new: frozenset[str]
    join: dict[str, int]
    idmaps: dict[int, int]
    foreign_files: bool

    def private(self, kind: str) -> bool:
        """True when the container does not live in the launcher's own namespace of this type."""
        return kind in self.new or kind in self.join

    @property
    def user(self) -> bool:
        """True when the container lives in a user namespace of its own."""
        return "user" in self.join


def open_namespaces(spec: Spec) -> Namespaces:
    """Opens and checks the namespaces given by path. Must run before any is entered: paths may be /proc/PID/ns/X."""
    import fcntl

    new: set[str] = set()
    join: dict[str, int] = {}
    for number, ns in enumerate(spec.linux.namespaces):
        if ns.type not in KINDS:
            raise ConfigError(f"unknown namespace type {ns.type!r}", pointer=f"/linux/namespaces/{number}/type")
        if not ns.path:
            if ns.type == "user":
                from pysandbox.oci.userns import new_user_namespace

                join["user"] = new_user_namespace(spec.linux.uid_mappings, spec.linux.gid_mappings)
            else:
                new.add(ns.type)
            continue
        flag = KINDS[ns.type][0]
        try:
            fd = os.open(ns.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise from_os_error(f"open namespace {ns.path}", error) from None
        try:
            found = fcntl.ioctl(fd, _NS_GET_NSTYPE) if stat.S_ISREG(os.fstat(fd).st_mode) else 0
        except OSError:
            found = 0
        if found != flag:
            os.close(fd)
            raise ConfigError(f"{ns.path} is not a namespace of type {ns.type}", pointer=f"/linux/namespaces/{number}/path")
        if os.path.samestat(os.fstat(fd), os.stat(f"/proc/self/ns/{KINDS[ns.type][1]}")):
            os.close(fd)  # the caller's own: nothing is asked for, and setns(2) refuses a user namespace
            continue
        if ns.type == "mount" and _is_of_init(fd):
            os.close(fd)
            raise ConfigError(f"{ns.path} is the host's mount namespace", pointer=f"/linux/namespaces/{number}/path")
        join[ns.type] = fd
    return Namespaces(
        new=frozenset(new),
        join=join,
        idmaps=_idmaps(spec, join.get("user")),
        foreign_files="user" in join and bool(native.capget()[0] >> _CAP_SYS_ADMIN & 1),
    )


def _is_of_init(namespace: int) -> bool:
    """Whether it is the mount namespace of the host's first process, whose root a container's root would replace."""
    try:
        return os.path.samestat(os.fstat(namespace), os.stat("/proc/1/ns/mnt"))
    except OSError:
        return False  # not ours to see, so not ours to enter


def check_mounts(namespaces: Namespaces, spec: Spec) -> None:
    """What a container without a mount namespace of its own cannot have: its mounts would be the host's."""
    if namespaces.private("mount"):
        return
    if spec.linux.masked_paths or spec.linux.readonly_paths:
        raise ConfigError("unable to restrict sys entries without a private MNT namespace", pointer="/linux/namespaces")
    if namespaces.user:
        raise ConfigError("a user namespace needs a mount namespace beside it", pointer="/linux/namespaces")


def check_sysctls(namespaces: Namespaces, spec: Spec) -> None:
    """A namespace given by path may turn out to be the host's: its settings are not the container's to change."""
    for name in spec.linux.sysctl or ():
        kind = sysctl_namespace(name)
        if not namespaces.private(kind):
            raise ConfigError(f"sysctl {name!r} is not allowed in the host's {kind} namespace", pointer="/linux/sysctl")


def _idmaps(spec: Spec, container: int | None) -> dict[int, int]:
    """For each id-mapped mount a user namespace with its mapping: that of the mount, or the container's."""
    found: dict[int, int] = {}
    made: dict[tuple[object, object], int] = {}
    for number, mount in enumerate(spec.mounts):
        if mount.uid_mappings:
            from pysandbox.oci.userns import new_user_namespace

            key = mount.uid_mappings, mount.gid_mappings
            if key not in made:
                made[key] = new_user_namespace(*key)
            found[number] = made[key]
        elif container is not None and ("idmap" in mount.options or "ridmap" in mount.options):
            found[number] = container
    return found


def enter_user(namespaces: Namespaces, spec: Spec) -> None:
    """Enters the user namespace and all others to be joined, and makes the pid and time namespaces for children.

    A namespace to be joined may be the host's, to be joined with the caller's rights, or belong to the user namespace.
    """
    later: list[str] = []
    for kind, fd in _join_order(namespaces):
        if kind in ("user", "mount"):
            continue
        try:
            native.setns(fd, KINDS[kind][0])
        except PermissionError:
            later.append(kind)
        except OSError as error:
            raise from_os_error(f"join {kind} namespace", error) from None
    for kind in ("user", *later):
        try:
            native.setns(namespaces.join[kind], KINDS[kind][0])
        except OSError as error:
            raise from_os_error(f"join {kind} namespace", error) from None
    flags = 0
    for kind in _FOR_CHILDREN:
        if kind in namespaces.new:
            flags |= KINDS[kind][0]
    try:
        if flags:
            native.unshare(flags)
    except OSError as error:
        raise from_os_error("unshare pid and time namespaces", error) from None
    if "time" in namespaces.new:
        _write_time_offsets(spec)


def _join_order(namespaces: Namespaces) -> list[tuple[str, int]]:
    return sorted(namespaces.join.items(), key=lambda item: list(KINDS).index(item[0]))


class for_children:
    """Context: processes forked inside it are born into the container's pid and time namespaces.

    The launcher itself never leaves its own, and its later children (planner, hooks) are born in its own again. That takes
    rights over its own, which root of a user namespace usually lacks: then `can_come_back` is False, and a child has
    to `enter` in the launcher's place.
    """

    def __init__(self, namespaces: Namespaces, spec: Spec) -> None:
        self._plan = namespaces
        self._spec = spec
        self._home: list[tuple[int, int]] = []
        self.can_come_back = True
        for kind in _FOR_CHILDREN:
            if namespaces.private(kind):
                flag, name = KINDS[kind]
                home = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                self._home.append((home, flag))
                self.can_come_back = self.can_come_back and is_open_to_us(home, flag)

    def enter(self) -> None:
        for kind in _FOR_CHILDREN:
            if not self._plan.private(kind):
                continue
            flag = KINDS[kind][0]
            try:
                if kind in self._plan.join:
                    native.setns(self._plan.join[kind], flag)
                else:
                    native.unshare(flag)
            except OSError as error:
                raise from_os_error(f"enter {kind} namespace", error) from None
            if kind == "time" and kind in self._plan.new:
                _write_time_offsets(self._spec)

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_exc: object) -> None:
        for fd, flag in self._home:
            # Entering one's own namespace again only resets what children get.
            native.setns(fd, flag)
            os.close(fd)


def is_open_to_us(namespace: int, flag: int) -> bool:
    """Whether the caller may enter the pid or time namespace in which it is already: then nothing changes by trying."""
    try:
        native.setns(namespace, flag)
    except PermissionError:
        return False
    return True


def _write_time_offsets(spec: Spec) -> None:
    for clock, offset in (spec.linux.time_offsets or {}).items():
        try:
            with open("/proc/self/timens_offsets", "w") as out:
                out.write(f"{clock} {offset.secs} {offset.nanosecs}\n")
        except OSError as error:
            raise from_os_error(f"set time offset of {clock}", error) from None


def enter(namespaces: Namespaces) -> None:
    """Joins and makes all but the pid, time and new cgroup namespaces, in the calling process. Where there is a user
    namespace, the process comes from `enter_user` and becomes its root here.
    """
    if namespaces.user:
        from pysandbox.oci.userns import become_root, become_root_group

        become_root()
    for kind, fd in _join_order(namespaces):
        if kind in _FOR_CHILDREN or (namespaces.user and kind != "mount"):
            continue
        try:
            native.setns(fd, KINDS[kind][0])
        except OSError as error:
            raise from_os_error(f"join {kind} namespace", error) from None
    flags = 0
    for kind in namespaces.new:
        if kind not in _FOR_CHILDREN and kind != "cgroup":
            flags |= KINDS[kind][0]
    if flags:
        try:
            native.unshare(flags)
        except OSError as error:
            raise from_os_error(f"unshare namespaces ({', '.join(sorted(namespaces.new))})", error) from None
    if namespaces.user:
        become_root_group()
    if "network" in namespaces.new:
        raise_loopback()


def enter_cgroup(namespaces: Namespaces) -> None:
    """Makes the cgroup namespace, if one is to be made. It is rooted where the caller is: in its groups by now."""
    if "cgroup" in namespaces.new:
        try:
            native.unshare(native.CLONE_NEWCGROUP)
        except OSError as error:
            raise from_os_error("unshare cgroup namespace", error) from None


def raise_loopback() -> None:
    """Brings `lo` up in the network namespace just made.

    By ioctl: importing pyroute2 costs more time than the rest of a container start together, for this one flag.
    """
    import fcntl
    from _socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket
    from _struct import pack

    siocsifflags, iff_up_running = 0x8914, 0x41
    sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        fcntl.ioctl(sock.fileno(), siocsifflags, pack("16sH22x", b"lo", iff_up_running))
    except OSError as error:
        raise from_os_error("bring loopback up", error, ResourceError) from None
    finally:
        sock.close()
