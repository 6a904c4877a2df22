"""Device nodes and links in /dev (config-linux.md, "Devices" and "Default devices"; runtime-linux.md, "Dev symbolic
links").
"""

from __future__ import annotations

import errno
import os
import stat

from pysandbox.oci import rootfs
from pysandbox.oci.errors import ConfigError, ResourceError, from_os_error
from pysandbox.oci.spec import Device
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.places import Places
    from pysandbox.oci.spec import Spec

DEFAULT_DEVICES = (
    Device(path="/dev/null", type="c", major=1, minor=3),
    Device(path="/dev/random", type="c", major=1, minor=8),
    Device(path="/dev/full", type="c", major=1, minor=7),
    Device(path="/dev/tty", type="c", major=5, minor=0),
    Device(path="/dev/zero", type="c", major=1, minor=5),
    Device(path="/dev/urandom", type="c", major=1, minor=9),
)
_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def needs_dev(spec: Spec) -> bool:
    """False when the bundle binds a whole /dev of its own: its content is its owner's business."""
    for mount in spec.mounts:
        bound = mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options
        if bound and os.path.normpath(mount.destination) == "/dev":
            return False
    return True


def device_list(spec: Spec) -> list[Device]:
    """The default devices and those of config.json, which win where both name a path."""
    devices = {device.path: device for device in DEFAULT_DEVICES}
    for number, device in enumerate(spec.linux.devices):
        if device.type not in _KINDS:
            raise ConfigError(f"unknown device type {device.type!r}", pointer=f"/linux/devices/{number}/type")
        devices[os.path.normpath(device.path)] = device
    return list(devices.values())


def make_devices(places: Places, spec: Spec) -> None:
    """Nodes, then links; call with all mounts in place. Leaves an existing node alone."""
    saved = os.umask(0)
    try:
        parents: dict[str, int] = {}
        for device in device_list(spec):
            _make_node(places, device, parents)
        for path, target in _LINKS:
            _make_link(places, path, target, parents)
        if os.path.exists("/proc/kcore"):
            _make_link(places, "/dev/core", "/proc/kcore", parents)
        _make_link(places, "/dev/ptmx", "pts/ptmx", parents, replace=True)
        for fd in parents.values():
            os.close(fd)
    finally:
        os.umask(saved)


def own_null(places: Places) -> None:
    """Standard streams on the host's /dev/null become the container's node, for reading and writing, as runc does: a
    descriptor shows its file system, and a program may reopen it for what the caller did not open it for. One that cannot
    be opened is left alone.
    """
    null = os.makedev(1, 3)
    streams = [fd for fd in (0, 1, 2) if _device(fd) == null]
    if not streams:
        return
    try:
        node = rootfs.open_null(places)
        try:
            opened = os.open(rootfs.fd_path(node), os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(node)
    except (OSError, ResourceError):
        return
    for fd in streams:
        os.dup2(opened, fd, inheritable=True)
    os.close(opened)


def _device(fd: int) -> int:
    """The device number that a descriptor is, 0 for other files and closed ones."""
    try:
        return os.fstat(fd).st_rdev
    except OSError:
        return 0


def _parent(places: Places, path: str, parents: dict[str, int]) -> tuple[int, str]:
    directory, name = os.path.split(os.path.normpath(path))
    if directory not in parents:
        parents[directory] = rootfs.ensure_dir(*places.find(directory))
    return parents[directory], name


def _make_node(places: Places, device: Device, parents: dict[str, int]) -> None:
    try:
        parent, name = _parent(places, device.path, parents)
        mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
        try:
            os.mknod(name, _KINDS[device.type] | mode, os.makedev(device.major, device.minor), dir_fd=parent)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            _bind_node(parent, name, device)  # no CAP_MKNOD here: the host's node serves
            return
        if device.uid or device.gid:
            os.chown(name, device.uid or 0, device.gid or 0, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise from_os_error(f"create device {device.path}", error) from None


def _bind_node(parent: int, name: str, device: Device) -> None:
    target = rootfs.ensure_file(parent, name)
    try:
        native.mount(device.path, rootfs.fd_path(target), "bind", native.MS_BIND)
    finally:
        os.close(target)


def _make_link(places: Places, path: str, target: str, parents: dict[str, int], *, replace: bool = False) -> None:
    try:
        parent, name = _parent(places, path, parents)
        if replace:
            try:
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass
        try:
            os.symlink(target, name, dir_fd=parent)
        except FileExistsError:
            pass  # the image has its own idea; as long as the name exists the specification is met
    except OSError as error:
        raise from_os_error(f"create link {path}", error) from None
