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
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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
        else:
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


def is_bind(mount: Mount, options: Options) -> bool:
    """A new bind mount, that is: with `remount` it is the flags of an old one that change."""
    return (bool(options.flags & native.MS_BIND) or mount.type == "bind") and not options.flags & native.MS_REMOUNT


def count_binds(spec: Spec) -> int:
    return sum(is_bind(mount, parse_options(mount.options)) for mount in spec.mounts)


def mount_all(
    root: int,
    spec: Spec,
    bundle: str,
    cgroup: Cgroup | None,
    joined: Callable[[], None],
    idmaps: dict[int, int],
    sources: list[int] | None = None,
) -> None:
    """Makes all mounts of config.json in order. `bundle`: what relative bind sources are relative to. `joined` is
    called before a mount that depends on the caller's cgroup: it returns when the caller is in it. `idmaps`: see
    `Namespaces`. `sources`: what `open_source` made for each bind mount, where the caller cannot open them itself.

    Raises `ResourceError` naming the destination.
    """
    opened = iter(sources) if sources is not None else None
    for number, mount in enumerate(spec.mounts):
        options = parse_options(mount.options)
        if mount.type in ("cgroup", "cgroup2"):
            joined()
        try:
            if is_bind(mount, options):
                tree = next(opened) if opened is not None else open_source(mount, options, bundle, idmaps.get(number))
                _bind(root, mount, options, tree)
            else:
                _mount_one(root, mount, options, spec, cgroup)
        except OSError as error:
            source = mount.source or mount.type
            raise from_os_error(f"mount {source!r} at {mount.destination!r}", error) from None


def finish_dev(root: int, spec: Spec) -> None:
    """A mount on /dev or below it that is to be read-only becomes so now: nodes had to be made first."""
    for mount in spec.mounts:
        options = parse_options(mount.options)
        if options.flags & native.MS_RDONLY and _below_dev(mount.destination) and not options.flags & native.MS_BIND:
            fd = rootfs.open_in(root, mount.destination)
            try:
                native.mount_setattr(fd, 0, native.MOUNT_ATTR_RDONLY)
            except OSError as error:
                raise from_os_error(f"make {mount.destination} read-only", error) from None
            finally:
                os.close(fd)


def _below_dev(destination: str) -> bool:
    path = os.path.normpath(destination)
    return path == "/dev" or path.startswith("/dev/")


def _mount_one(root: int, mount: Mount, options: Options, spec: Spec, cgroup: Cgroup | None) -> None:
    if options.flags & native.MS_REMOUNT:
        _remount(root, mount, options)
    elif mount.type in ("proc", "sysfs"):
        _kernel_view(root, mount, options)
    elif mount.type == "tmpfs":
        _tmpfs(root, mount, options)
    elif mount.type in ("cgroup", "cgroup2"):
        _cgroup(root, mount, options, spec, cgroup)
    elif not mount.type:
        raise ConfigError(f"mount at {mount.destination!r} has no type and is not a bind mount", pointer="/mounts")
    else:
        target = rootfs.ensure_dir(root, mount.destination)
        _attach(root, target, mount, options, mount.type, ",".join(options.data))


def _check_target(target: int, mount: Mount) -> None:
    """Nothing may be mounted inside a procfs but the few files known to be harmless."""
    path = os.path.normpath(mount.destination)
    if native.statfs_type(target) == native.PROC_SUPER_MAGIC and path not in _PROC_ALLOWED and path != "/proc":
        raise ResourceError(f"{mount.destination!r} cannot be mounted because it is inside /proc", errno=errno.EPERM)


def _attach(root: int, target: int, mount: Mount, options: Options, fstype: str, data: str) -> int:
    """mount(2) of a new file system on the descriptor. Closes `target`; returns the top of the new mount (O_PATH)."""
    _check_target(target, mount)
    flags = options.flags & ~native.MS_REC
    if _below_dev(mount.destination):
        flags &= ~native.MS_RDONLY  # see finish_dev
    source = mount.source or fstype
    try:
        native.mount(source, rootfs.fd_path(target), fstype, flags, data or None)
    finally:
        os.close(target)
    top = rootfs.open_in(root, mount.destination)
    _attributes(top, options)
    return top


def _remount(root: int, mount: Mount, options: Options) -> None:
    """New flags (and data) for what an earlier entry mounted."""
    target = rootfs.open_in(root, mount.destination)
    try:
        flags = options.flags & ~native.MS_REC
        native.mount(mount.source or None, rootfs.fd_path(target), mount.type or None, flags, ",".join(options.data) or None)
        _attributes(target, options)
    finally:
        os.close(target)


def _attributes(top: int, options: Options) -> None:
    for propagation in options.propagation:
        native.mount(None, rootfs.fd_path(top), None, propagation)
    if options.set_attr or options.clear_attr:
        native.mount_setattr(top, native.AT_RECURSIVE, options.set_attr, options.clear_attr)


def _kernel_view(root: int, mount: Mount, options: Options) -> None:
    """proc and sysfs. The destination must be an ordinary directory: a link there would let the image choose where
    these appear, and what later code finds under /proc."""
    path = os.path.normpath(mount.destination)
    try:
        found = native.openat2(root, path.lstrip("/") or ".", os.O_PATH | os.O_NOFOLLOW, 0, native.RESOLVE_IN_ROOT)
        is_directory = stat.S_ISDIR(os.fstat(found).st_mode)
        os.close(found)
    except FileNotFoundError:
        is_directory = True
    if not is_directory:
        raise ResourceError(f"filesystem {mount.type!r} must be mounted on ordinary directory", errno=errno.ENOTDIR)
    target = rootfs.ensure_dir(root, path)
    try:
        os.close(_attach(root, os.dup(target), mount, options, mount.type, ",".join(options.data)))
    except PermissionError:
        # sysfs shows a network namespace: the kernel lets only its owner mount one. What the launcher sees is right
        # then.
        if mount.type != "sysfs":
            raise
        tree = native.open_tree(_AT_FDCWD, "/sys", native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
        if options.flags & native.MS_RDONLY:
            native.mount_setattr(tree, native.AT_RECURSIVE, native.MOUNT_ATTR_RDONLY)
        native.move_mount(tree, target)
        os.close(tree)
    finally:
        os.close(target)


def _tmpfs(root: int, mount: Mount, options: Options) -> None:
    data = list(options.data)
    kept_mode = -1  # as runc: a directory that exists keeps its permissions, unless config.json says otherwise
    try:
        target = native.openat2(root, mount.destination.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, 0, native.RESOLVE_IN_ROOT)
        if not any(option.startswith("mode=") for option in data):
            kept_mode = stat.S_IMODE(os.fstat(target).st_mode)
    except FileNotFoundError:
        target = rootfs.ensure_dir(root, mount.destination)
    lower = rootfs.open_in(root, mount.destination) if options.copy_up else -1
    writable = options.replace(flags=options.flags & ~native.MS_RDONLY)
    top = _attach(root, target, mount, writable, "tmpfs", ",".join(data))
    if kept_mode >= 0:
        os.chmod(rootfs.fd_path(top), kept_mode)
    if lower >= 0:
        from pysandbox.oci.copytree import copy_tree

        copy_tree(lower, top)
        os.close(lower)
    if options.flags & native.MS_RDONLY and not _below_dev(mount.destination):
        native.mount_setattr(top, 0, native.MOUNT_ATTR_RDONLY)
    os.close(top)


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


def _bind(root: int, mount: Mount, options: Options, tree: int) -> None:
    """Attaches the detached mount and applies the options to it. Closes `tree`."""
    try:
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
        # The descriptor now names the attached mount.
        plain = options.flags & ~(native.MS_BIND | native.MS_REC | native.MS_REMOUNT)
        if plain:
            _remount_bind(tree, plain)
        _attributes(tree, options)
    finally:
        os.close(tree)


def _remount_bind(tree: int, flags: int) -> None:
    path = rootfs.fd_path(tree)
    try:
        native.mount(None, path, None, native.MS_BIND | native.MS_REMOUNT | flags)
    except PermissionError:
        # In a user namespace inherited flags are locked: they must be given again.
        kept = os.fstatvfs(tree).f_flag & (native.MS_RDONLY | native.MS_NOSUID | native.MS_NODEV | native.MS_NOEXEC)
        native.mount(None, path, None, native.MS_BIND | native.MS_REMOUNT | flags | kept)


def _cgroup(root: int, mount: Mount, options: Options, spec: Spec, cgroup: Cgroup | None) -> None:
    """The container's own part of the cgroup file system, laid out as the host's is."""
    from pysandbox.oci import cgroups

    layout = cgroups.host_layout()
    private = spec.linux.namespace("cgroup") is not None
    if layout.unified:
        target = rootfs.ensure_dir(root, mount.destination)
        if private:
            os.close(_attach(root, target, mount.replace(source="cgroup"), options, "cgroup2", ",".join(options.data)))
            return
        source = (cgroup and cgroup.paths.get("")) or layout.own_group("")
        _bind_onto(root, target, source, mount.destination, options)
        return
    if mount.type == "cgroup2":
        _cgroup2_beside_1(root, mount, options, private, cgroup)
        return
    target = rootfs.ensure_dir(root, mount.destination)
    flags = _PLAIN | (options.flags & ~native.MS_RDONLY)
    _check_target(target, mount)
    native.mount("tmpfs", rootfs.fd_path(target), "tmpfs", _PLAIN, "mode=755")
    os.close(target)
    made: set[str] = set()
    for controller, place in layout.mounts.items():
        name = os.path.basename(place)
        if name not in made:
            made.add(name)
            inside = os.path.join(mount.destination, name)
            target = rootfs.ensure_dir(root, inside)
            if private:
                data = f"none,{controller}" if controller.startswith("name=") else name
                readonly = options.flags & native.MS_RDONLY
                # The source is only a name in mount tables; this is what runc writes there.
                source = "systemd" if name == "systemd" else "cgroup"
                native.mount(source, rootfs.fd_path(target), "cgroup", flags | readonly, data)
                os.close(target)
            else:
                source = (cgroup and cgroup.paths.get(controller)) or layout.own_group(controller)
                _bind_onto(root, target, source, inside, options)
        if controller != name and not controller.startswith("name="):
            parent = rootfs.open_in(root, mount.destination)
            os.symlink(name, controller, dir_fd=parent)
            os.close(parent)
    top = rootfs.open_in(root, mount.destination)
    for propagation in options.propagation:
        native.mount(None, rootfs.fd_path(top), None, propagation)
    # Not read-only even if asked: what holds only mount points stays writable under runc, too.
    os.close(top)


def _cgroup2_beside_1(root: int, mount: Mount, options: Options, private: bool, cgroup: Cgroup | None) -> None:
    """On a hybrid host. Mounted outside of a cgroup namespace it would show the whole host."""
    if not private and (cgroup is None or "unified" not in cgroup.paths):
        raise UnsupportedError(f"mount at {mount.destination!r}: the host has no cgroup version 2 hierarchy to show a part of")
    target = rootfs.ensure_dir(root, mount.destination)
    if private or cgroup is None:
        os.close(_attach(root, target, mount, options, "cgroup2", ",".join(options.data)))
    else:
        _bind_onto(root, target, cgroup.paths["unified"], mount.destination, options)


def _bind_onto(root: int, target: int, source: str, destination: str, options: Options) -> None:
    tree = native.open_tree(_AT_FDCWD, source, native.OPEN_TREE_CLONE | native.AT_RECURSIVE)
    native.move_mount(tree, target)
    os.close(target)
    flags = options.flags & ~native.MS_REC
    if flags:
        _remount_bind(tree, flags)
    for propagation in options.propagation:
        native.mount(None, rootfs.fd_path(tree), None, propagation)
    os.close(tree)
