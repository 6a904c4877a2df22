"""The container's mounts (config.md, "Mounts"): options, and every type with its peculiarities.

A destination is resolved inside the root to a descriptor and mounted on through it; see `rootfs`. File system
specific options go to the kernel as they are, as with mount(8) and runc.
"""

from __future__ import annotations

import errno
import os
import stat

from pysandbox.oci import rootfs
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import ConfigError, ResourceError, UnsupportedError, from_os_error, host_reason
from pysandbox.oci.places import Places
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox.oci.cgroups import Cgroup
    from pysandbox.oci.spec import Mount, Spec

# Option -> (flags it sets, flags it clears), mount(8)'s names.
FLAGS: dict[str, tuple[int, int]] = {
    "acl": (native.MS_POSIXACL, 0),
    "async": (0, native.MS_SYNCHRONOUS),
    "atime": (0, native.MS_NOATIME),
    "bind": (native.MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, native.MS_NODEV),
    "diratime": (0, native.MS_NODIRATIME),
    "dirsync": (native.MS_DIRSYNC, 0),
    "exec": (0, native.MS_NOEXEC),
    "iversion": (native.MS_I_VERSION, 0),
    "lazytime": (native.MS_LAZYTIME, 0),
    "loud": (0, native.MS_SILENT),
    "mand": (native.MS_MANDLOCK, 0),
    "noatime": (native.MS_NOATIME, 0),
    "nodev": (native.MS_NODEV, 0),
    "nodiratime": (native.MS_NODIRATIME, 0),
    "noexec": (native.MS_NOEXEC, 0),
    "noiversion": (0, native.MS_I_VERSION),
    "nolazytime": (0, native.MS_LAZYTIME),
    "noacl": (0, native.MS_POSIXACL),
    "nomand": (0, native.MS_MANDLOCK),
    "norelatime": (0, native.MS_RELATIME),
    "nostrictatime": (0, native.MS_STRICTATIME),
    "nosuid": (native.MS_NOSUID, 0),
    "nosymfollow": (native.MS_NOSYMFOLLOW, 0),
    "rbind": (native.MS_BIND | native.MS_REC, 0),
    "relatime": (native.MS_RELATIME, 0),
    "remount": (native.MS_REMOUNT, 0),
    "ro": (native.MS_RDONLY, 0),
    "rw": (0, native.MS_RDONLY),
    "silent": (native.MS_SILENT, 0),
    "strictatime": (native.MS_STRICTATIME, 0),
    "suid": (0, native.MS_NOSUID),
    "symfollow": (0, native.MS_NOSYMFOLLOW),
    "sync": (native.MS_SYNCHRONOUS, 0),
}

# Option -> (attributes set, attributes cleared) in the whole tree, by mount_setattr(2).
RECURSIVE: dict[str, tuple[int, int]] = {
    "rro": (native.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, native.MOUNT_ATTR_RDONLY),
    "rnosuid": (native.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, native.MOUNT_ATTR_NOSUID),
    "rnodev": (native.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, native.MOUNT_ATTR_NODEV),
    "rnoexec": (native.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, native.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (native.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, native.MOUNT_ATTR_NODIRATIME),
    "rrelatime": (native.MOUNT_ATTR_RELATIME, native.MOUNT_ATTR_ATIME),
    "rnorelatime": (0, 0),  # runc clears a bit that the kernel does not have
    "rnoatime": (native.MOUNT_ATTR_NOATIME, native.MOUNT_ATTR_ATIME),
    "ratime": (native.MOUNT_ATTR_RELATIME, native.MOUNT_ATTR_ATIME),
    "rstrictatime": (native.MOUNT_ATTR_STRICTATIME, native.MOUNT_ATTR_ATIME),
    "rnostrictatime": (native.MOUNT_ATTR_RELATIME, native.MOUNT_ATTR_ATIME),
    "rnosymfollow": (native.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, native.MOUNT_ATTR_NOSYMFOLLOW),
}

# What may be mounted over in /proc: files that LXCFS and its like provide per container. Anything else there could
# fool programs that trust procfs, the runtime's own checks among them.
_PROC_ALLOWED = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip
_AT_FDCWD = -100
_UNLABELLED = ("proc", "sysfs", "mqueue", "cgroup", "cgroup2")  # SELinux labels what is in these by rules of its own
_MAX_VALUE = 255  # fsconfig(2)
# mount(2)'s flags that belong to the file system, by fsconfig(2)'s names, and those that belong to the mount.
_SUPERBLOCK = (
    (native.MS_RDONLY, "ro"),
    (native.MS_SYNCHRONOUS, "sync"),
    (native.MS_DIRSYNC, "dirsync"),
    (native.MS_MANDLOCK, "mand"),
    (native.MS_LAZYTIME, "lazytime"),
)
_MOUNT_ATTRIBUTES = (
    (native.MS_RDONLY, native.MOUNT_ATTR_RDONLY),
    (native.MS_NOSUID, native.MOUNT_ATTR_NOSUID),
    (native.MS_NODEV, native.MOUNT_ATTR_NODEV),
    (native.MS_NOEXEC, native.MOUNT_ATTR_NOEXEC),
    (native.MS_NOATIME, native.MOUNT_ATTR_NOATIME),
    (native.MS_STRICTATIME, native.MOUNT_ATTR_STRICTATIME),
    (native.MS_NODIRATIME, native.MOUNT_ATTR_NODIRATIME),
    (native.MS_NOSYMFOLLOW, native.MOUNT_ATTR_NOSYMFOLLOW),
)
_PLAIN = native.MS_NOSUID | native.MS_NOEXEC | native.MS_NODEV


class Options(Struct):
    """A mount's options, sorted out. `data`: for the file system; `set_attr`/`clear_attr`: recursive attributes."""

    flags: int
    propagation: tuple[int, ...]
    data: tuple[str, ...]
    set_attr: int
    clear_attr: int
    copy_up: bool
    recursive_idmap: bool


def parse_options(options: tuple[str, ...]) -> Options:
    """Later options win over earlier ones."""
    flags = set_attr = clear_attr = 0
    propagation: list[int] = []
    data: list[str] = []
    copy_up = recursive_idmap = False
    for option in options:
        if option in FLAGS:
            on, off = FLAGS[option]
            flags = (flags & ~off) | on
        elif option in rootfs.PROPAGATION:
            propagation.append(rootfs.PROPAGATION[option])
        elif option in RECURSIVE:
            on, off = RECURSIVE[option]
            set_attr = (set_attr & ~off) | on
            clear_attr = (clear_attr & ~on) | off
        elif option == "tmpcopyup":
            copy_up = True
        elif option in ("idmap", "ridmap"):
            recursive_idmap = option == "ridmap"  # which mapping, `Namespaces.idmaps` says
        elif "," in option and "context=" not in option:
            data += _split(option)
        elif option:  # an engine writes empty ones
            data.append(option)
    return Options(
        flags=flags,
        propagation=tuple(propagation),
        data=tuple(data),
        set_attr=set_attr,
        clear_attr=clear_attr,
        copy_up=copy_up,
        recursive_idmap=recursive_idmap,
    )


def _split(option: str) -> list[str]:
    """Several options in one string, as mount(2) takes them. overlay escapes commas of names, and undoes that itself."""
    parts = [""]
    for part in option.split(","):
        if parts[-1].endswith("\\"):
            parts[-1] += "," + part
        else:
            parts.append(part)
    return [part for part in parts if part]


def is_bind(mount: Mount, options: Options) -> bool:
    """A new bind mount, that is: with `remount` it is the flags of an old one that change."""
    return (bool(options.flags & native.MS_BIND) or mount.type == "bind") and not options.flags & native.MS_REMOUNT


def binds(spec: Spec) -> list[int]:
    """The numbers of those that are new bind mounts."""
    return [number for number, mount in enumerate(spec.mounts) if is_bind(mount, parse_options(mount.options))]


def within(spec: Spec, top: str) -> Spec:
    """`spec` with destinations inside the root. Like runc's: one that begins with the root's path on the host, `top`, means the
    place that it names there."""
    prefix = top + "/"
    if not any(mount.destination.startswith(prefix) for mount in spec.mounts):
        return spec
    found = [m.replace(destination=m.destination[len(top) :]) if m.destination.startswith(prefix) else m for m in spec.mounts]
    return spec.replace(mounts=tuple(found))


def from_inside(spec: Spec, bundle: str, top: str) -> list[int]:
    """The bind mounts whose source is in the root itself, at the real path `top`: what an earlier entry mounted is seen there."""
    found = []
    for number in binds(spec):
        source = os.path.realpath(os.path.join(bundle, spec.mounts[number].source))
        if source == top or source.startswith(top + "/"):
            found.append(number)
    return found


def mount_all(
    root: int,
    spec: Spec,
    bundle: str,
    cgroup: Cgroup | None,
    joined: Callable[[], None],
    idmaps: dict[int, int],
    sources: Callable[[int], int] | None = None,
    *,
    host: bool = False,
) -> Places:
    """Makes all mounts of config.json in order. `bundle`: what relative bind sources are relative to. `joined` is
    called before a mount that depends on the caller's cgroup: it returns when the caller is in it. `idmaps`: see
    `Namespaces`. `sources`: gives what `open_source` makes for the bind mount of this number, where the caller cannot do it
    itself. `host`: in the host's mount namespace, whose mounts are not slaves of anything: copies of them must become so here.

    Raises `ResourceError` naming the destination.
    """
    places = Places(root)
    label = spec.linux.mount_label
    for number, mount in enumerate(spec.mounts):
        options = parse_options(mount.options)
        if mount.type in ("cgroup", "cgroup2"):
            joined()
        elif label and mount.type not in _UNLABELLED and not is_bind(mount, options):
            options = options.replace(data=(*options.data, f"context={label}"))
        try:
            if is_bind(mount, options):
                tree = sources(number) if sources else open_source(mount, options, bundle, idmaps.get(number))
                if host:
                    native.mount_setattr(tree, native.AT_RECURSIVE, propagation=native.MS_SLAVE)
                top = _bind(root, mount, options, tree)
            else:
                top = _mount_one(root, mount, options, spec, cgroup)
            places.add(mount.destination, top, readonly=_late_readonly(mount, options))
        except OSError as error:
            source = mount.source or mount.type
            raise from_os_error(f"mount {source!r} at {mount.destination!r}", error) from None
    return places


def finish_dev(places: Places) -> None:
    """A mount on /dev or below it that is to be read-only becomes so now: nodes had to be made first."""
    for destination, fd in places.late:
        try:
            native.mount_setattr(fd, 0, native.MOUNT_ATTR_RDONLY)
        except OSError as error:
            raise from_os_error(f"make {destination} read-only", error) from None


def _late_readonly(mount: Mount, options: Options) -> bool:
    return bool(options.flags & native.MS_RDONLY) and _below_dev(mount.destination) and not options.flags & native.MS_BIND


def _below_dev(destination: str) -> bool:
    path = os.path.normpath(destination)
    return path == "/dev" or path.startswith("/dev/")


def _mount_one(root: int, mount: Mount, options: Options, spec: Spec, cgroup: Cgroup | None) -> int:
    """All but new bind mounts. The top of what was mounted, as all functions below that mount something."""
    if options.flags & native.MS_REMOUNT:
        return _remount(root, mount, options)
    if mount.type in ("proc", "sysfs"):
        return _kernel_view(root, mount, options)
    if mount.type == "tmpfs":
        return _tmpfs(root, mount, options)
    if mount.type in ("cgroup", "cgroup2"):
        return _cgroup(root, mount, options, spec, cgroup)
    if not mount.type:
        raise ConfigError(f"mount at {mount.destination!r} has no type and is not a bind mount", pointer="/mounts")
    return _attach(rootfs.ensure_dir(root, mount.destination), mount, options, mount.type, options.data)


def _check_target(target: int, mount: Mount) -> None:
    """Nothing may be mounted inside a procfs but the few files known to be harmless."""
    path = os.path.normpath(mount.destination)
    if native.statfs_type(target) == native.PROC_SUPER_MAGIC and path not in _PROC_ALLOWED and path != "/proc":
        raise ResourceError(f"{mount.destination!r} cannot be mounted because it is inside /proc", errno=errno.EPERM)


def _attach(target: int, mount: Mount, options: Options, fstype: str, data: tuple[str, ...]) -> int:
    """A new file system on the descriptor. Closes `target`; returns the top of the new mount (O_PATH).

    It is made detached and then moved there: a name is not looked up again, so no link can come between.
    """
    _check_target(target, mount)
    flags = options.flags & ~native.MS_REC
    if _late_readonly(mount, options):
        flags &= ~native.MS_RDONLY
    source = mount.source or fstype
    try:
        if any(len(os.fsencode(option)) > _MAX_VALUE for option in data):
            top = _attach_by_string(target, source, fstype, flags, ",".join(data))
        else:
            top = native.detached_mount(fstype, _pairs(source, flags, data), _attributes_of(flags))
            native.move_mount(top, target)
    finally:
        os.close(target)
    _attributes(top, options)
    return top


def _pairs(source: str, flags: int, data: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """What mount(2) has as source, flags of the file system and data, as fsconfig(2) has them."""
    yield "source", source
    for flag, name in _SUPERBLOCK:
        if flags & flag:
            yield name, None
    for option in data:
        key, equals, value = option.partition("=")
        yield key, value if equals else None


def _attributes_of(flags: int) -> int:
    attributes = 0
    for flag, attribute in _MOUNT_ATTRIBUTES:
        if flags & flag:
            attributes |= attribute
    return attributes


def _attach_by_string(target: int, source: str, fstype: str, flags: int, data: str) -> int:
    """For options longer than fsconfig(2) takes (lower directories of an overlay). The only way to the top of a mount made so
    is the name of the place below it: what is found there is checked to be what was mounted."""
    native.mount(source, rootfs.fd_path(target), fstype, flags, data)
    parent = native.openat2(target, "..", os.O_PATH | os.O_DIRECTORY)
    name = os.path.basename(os.readlink(rootfs.fd_path(target)))
    top = native.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, 0, native.RESOLVE_BENEATH)
    os.close(parent)
    if os.fstat(top).st_dev == os.fstat(target).st_dev:
        os.close(top)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    return top


def _remount(root: int, mount: Mount, options: Options) -> int:
    """New flags (and data) for what an earlier entry mounted."""
    target = rootfs.open_in(root, mount.destination)
    flags = options.flags & ~native.MS_REC
    native.mount(mount.source or None, rootfs.fd_path(target), mount.type or None, flags, ",".join(options.data) or None)
    _attributes(target, options)
    return target


def _attributes(top: int, options: Options) -> None:
    for propagation in options.propagation:
        native.mount(None, rootfs.fd_path(top), None, propagation)
    if options.set_attr or options.clear_attr:
        native.mount_setattr(top, native.AT_RECURSIVE, options.set_attr, options.clear_attr)


def _kernel_view(root: int, mount: Mount, options: Options) -> int:
    """proc and sysfs. The destination must be an ordinary directory: a link there would let the image choose where
    these appear, and what later code finds under /proc."""
    try:
        target = rootfs.ensure_dir(root, mount.destination, links=False)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise ResourceError(f"filesystem {mount.type!r} must be mounted on ordinary directory", errno=errno.ENOTDIR) from None
    try:
        return _attach(os.dup(target), mount, options, mount.type, options.data)
    except PermissionError:
        # sysfs shows a network namespace: the kernel lets only its owner mount one. What the launcher sees is right
        # then.
        if mount.type != "sysfs":
            raise
        tree = native.open_tree(_AT_FDCWD, "/sys", native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
        if options.flags & native.MS_RDONLY:
            native.mount_setattr(tree, native.AT_RECURSIVE, native.MOUNT_ATTR_RDONLY)
        native.move_mount(tree, target)
        return tree
    finally:
        os.close(target)


def _tmpfs(root: int, mount: Mount, options: Options) -> int:
    # As runc: a directory that exists keeps its permissions, unless config.json says otherwise; one made for the mount
    # says nothing, and there is nothing to copy from it.
    kept_mode = lower = -1
    try:
        target = rootfs.open_in(root, mount.destination, os.O_PATH | os.O_DIRECTORY)
        lower = os.dup(target) if options.copy_up else -1
        if not any(option.startswith("mode=") for option in options.data):
            kept_mode = stat.S_IMODE(os.fstat(target).st_mode)
    except FileNotFoundError:
        target = rootfs.ensure_dir(root, mount.destination)
    top = _attach(target, mount, options.replace(flags=options.flags & ~native.MS_RDONLY), "tmpfs", options.data)
    if kept_mode >= 0:
        os.chmod(rootfs.fd_path(top), kept_mode)
    if lower >= 0:
        from pysandbox.oci.copytree import copy_tree

        copy_tree(lower, top)
        os.close(lower)
    if options.flags & native.MS_RDONLY and not _late_readonly(mount, options):
        native.mount_setattr(top, 0, native.MOUNT_ATTR_RDONLY)
    return top


def open_source(mount: Mount, options: Options, bundle: str, idmap: int | None) -> int:
    """A detached copy of what is to be bound, id-mapped by the user namespace `idmap` if that is asked for."""
    if not mount.source:
        raise ConfigError(f"bind mount at {mount.destination!r} has no source", pointer="/mounts")
    source = os.path.join(bundle, mount.source)
    try:
        recursive = native.AT_RECURSIVE if options.flags & native.MS_REC else 0
        tree = native.open_tree(_AT_FDCWD, source, native.OPEN_TREE_CLONE | recursive)
    except OSError as error:
        reason = host_reason(error.errno)
        raise ResourceError(
            f"mount {mount.source!r} at {mount.destination!r}: stat {source}: {reason}", errno=error.errno
        ) from None
    if idmap is not None:
        try:
            recursive = native.AT_RECURSIVE if options.recursive_idmap else 0
            native.mount_setattr(tree, recursive, native.MOUNT_ATTR_IDMAP, userns_fd=idmap)
        except OSError as error:
            reason = host_reason(error.errno)
            if error.errno == errno.EINVAL:
                reason += " (does its file system support id-mapped mounts?)"
            raise ResourceError(f"id-map {mount.source!r} for {mount.destination!r}: {reason}", errno=error.errno) from None
    return tree


def _bind(root: int, mount: Mount, options: Options, tree: int) -> int:
    """Attaches the detached mount and applies the options to it; the same descriptor names it then."""
    found = os.fstat(tree)
    if stat.S_ISDIR(found.st_mode):
        target = rootfs.ensure_dir(root, mount.destination)
    else:
        target = rootfs.ensure_file(root, mount.destination)
    try:
        if os.path.normpath(mount.destination) != "/proc":
            _check_target(target, mount)
        elif native.statfs_type(tree) != native.PROC_SUPER_MAGIC:
            raise ResourceError("'/proc' cannot be mounted because it is not of type proc", errno=errno.EPERM)
        if stat.S_ISDIR(os.fstat(target).st_mode) != stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # the kernel's EINVAL says less
        native.move_mount(tree, target)
    finally:
        os.close(target)
    plain = options.flags & ~(native.MS_BIND | native.MS_REC | native.MS_REMOUNT)
    if plain:
        _remount_bind(tree, plain)
    _attributes(tree, options)
    return tree


def _remount_bind(tree: int, flags: int) -> None:
    path = rootfs.fd_path(tree)
    try:
        native.mount(None, path, None, native.MS_BIND | native.MS_REMOUNT | flags)
    except PermissionError:
        # In a user namespace inherited flags are locked: they must be given again.
        kept = os.fstatvfs(tree).f_flag & (native.MS_RDONLY | native.MS_NOSUID | native.MS_NODEV | native.MS_NOEXEC)
        native.mount(None, path, None, native.MS_BIND | native.MS_REMOUNT | flags | kept)


def _cgroup(root: int, mount: Mount, options: Options, spec: Spec, cgroup: Cgroup | None) -> int:
    """The container's own part of the cgroup file system, laid out as the host's is."""
    from pysandbox.oci import cgroups

    layout = cgroups.host_layout()
    private = spec.linux.namespace("cgroup") is not None
    if layout.unified:
        target = rootfs.ensure_dir(root, mount.destination)
        if private:
            return _attach(target, mount.replace(source="cgroup"), options, "cgroup2", options.data)
        return _bind_onto(target, (cgroup and cgroup.paths.get("")) or layout.own_group(""), options)
    if mount.type == "cgroup2":
        return _cgroup2_beside_1(root, mount, options, private, cgroup)
    target = rootfs.ensure_dir(root, mount.destination)
    _check_target(target, mount)
    try:
        top = native.detached_mount("tmpfs", (("source", "tmpfs"), ("mode", "755")), _attributes_of(_PLAIN))
        native.move_mount(top, target)
    finally:
        os.close(target)
    made: set[str] = set()
    for controller, place in layout.mounts.items():
        name = os.path.basename(place)
        if name not in made:
            made.add(name)
            os.mkdir(name, 0o755, dir_fd=top)
            target = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            if private:
                os.close(_cgroup_view(target, controller, name, options))
            else:
                source = (cgroup and cgroup.paths.get(controller)) or layout.own_group(controller)
                os.close(_bind_onto(target, source, options))
        if controller != name and not controller.startswith("name="):
            os.symlink(name, controller, dir_fd=top)
    for propagation in options.propagation:
        native.mount(None, rootfs.fd_path(top), None, propagation)
    # Not read-only even if asked: what holds only mount points stays writable under runc, too.
    return top


def _cgroup_view(target: int, controller: str, name: str, options: Options) -> int:
    """One version 1 hierarchy as the cgroup namespace shows it. Closes `target`."""
    # The source is only a name in mount tables; these are what runc writes there.
    source = "systemd" if name == "systemd" else "cgroup"
    data = ("none", controller) if controller.startswith("name=") else tuple(name.split(","))
    flags = _PLAIN | options.flags
    try:
        # The flags of the file system are those of the hierarchy's first mount, the host's.
        top = native.detached_mount("cgroup", _pairs(source, 0, data), _attributes_of(flags))
        native.move_mount(top, target)
    finally:
        os.close(target)
    return top


def _cgroup2_beside_1(root: int, mount: Mount, options: Options, private: bool, cgroup: Cgroup | None) -> int:
    """On a hybrid host. Mounted outside of a cgroup namespace it would show the whole host."""
    if not private and (cgroup is None or "unified" not in cgroup.paths):
        raise UnsupportedError(f"mount at {mount.destination!r}: the host has no cgroup version 2 hierarchy to show a part of")
    target = rootfs.ensure_dir(root, mount.destination)
    if private or cgroup is None:
        return _attach(target, mount, options, "cgroup2", options.data)
    return _bind_onto(target, cgroup.paths["unified"], options)


def _bind_onto(target: int, source: str, options: Options) -> int:
    """Closes `target`."""
    try:
        tree = native.open_tree(_AT_FDCWD, source, native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
        native.mount_setattr(tree, native.AT_RECURSIVE, propagation=native.MS_SLAVE)
        native.move_mount(tree, target)
    finally:
        os.close(target)
    flags = options.flags & ~native.MS_REC
    if flags:
        _remount_bind(tree, flags)
    for propagation in options.propagation:
        native.mount(None, rootfs.fd_path(tree), None, propagation)
    return tree
