"""linux.netDevices: interfaces of the host that move into the container's network namespace (config-linux.md, "Network
devices").

A child does it with the launcher's credentials, first here and then in the container's namespace: pyroute2 takes a third
of a second to import, and the launcher needs it for nothing else.
"""

from __future__ import annotations

import errno
import os

from pysandbox.oci.errors import Error, LaunchError, ResourceError, from_os_error, host_reason
from pysandbox.runtime import launch_channel, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.oci.spec import NetDevice
    from pysandbox.runtime.launch_channel import Channel

_SIGKILL = 9
_SCOPE_GLOBAL = 0  # rt_scope_t RT_SCOPE_UNIVERSE
_PERMANENT = 0x80  # IFA_F_PERMANENT


def serve(devices: Mapping[str, NetDevice], pid: int, channel: Channel) -> None:
    """Moves the devices for the container process `pid` and tells it; it fails by an error met here."""
    helper = os.fork()
    if helper:
        os.waitpid(helper, 0)
        return
    try:
        native.prctl(native.PR_SET_PDEATHSIG, _SIGKILL)
        try:
            move(devices, f"/proc/{pid}/ns/net")
        except Error as error:
            channel.send_error(error)
        except OSError as error:
            channel.send_error(from_os_error("enter the container's network namespace", error, LaunchError))
        except Exception as error:  # noqa: BLE001 -- a fork must tell what happened to it, not trace back
            channel.send_error(LaunchError(f"netDevices: {type(error).__name__}: {error}"))
        else:
            channel.send(launch_channel.NETWORK)
    finally:
        os._exit(0)


def move(devices: Mapping[str, NetDevice], namespace: str) -> None:
    """Moves each device to `namespace` (a path), under its new name, with its MTU, hardware address and permanent global
    addresses, and brings it up there. `ResourceError` names the device, and then all are where they were.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    _refuse_taken_names(devices, home, target)
    moved: list[tuple[str, str, list[Any]]] = []
    current = ""
    try:
        with IPRoute() as host:
            for name, device in devices.items():
                current = name
                index = _index(host, name)
                addresses = [a for a in host.get_addr(index=index) if _kept(a)]
                host.link("set", index=index, state="down")
                host.link("set", index=index, net_ns_fd=target, ifname=device.name or name)
                moved.append((name, device.name or name, addresses))
        native.setns(target, native.CLONE_NEWNET)
        with IPRoute() as inside:
            for name, new_name, addresses in moved:
                current = name
                index = _index(inside, new_name)
                for address in addresses:
                    text = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
                    inside.addr("add", index=index, address=text, prefixlen=address["prefixlen"], family=address["family"])
                inside.link("set", index=index, state="up")
    except (NetlinkError, ResourceError) as error:
        native.setns(target, native.CLONE_NEWNET)
        with IPRoute() as inside:
            for name, new_name, _ in moved:
                inside.link("set", index=_index(inside, new_name), net_ns_fd=home, ifname=name)
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(
            f"move network device {current!r} into the container: {host_reason(error.code)}", errno=error.code
        ) from None
    finally:
        os.close(target)
        os.close(home)


def _refuse_taken_names(devices: Mapping[str, NetDevice], home: int, target: int) -> None:
    """The kernel finds out only when the device has moved."""
    from _socket import if_nameindex

    native.setns(target, native.CLONE_NEWNET)
    taken = {name for _, name in if_nameindex()}
    native.setns(home, native.CLONE_NEWNET)
    for name, device in devices.items():
        if (device.name or name) in taken:
            raise ResourceError(
                f"move network device {name!r} into the container: a device of this name exists there", errno=errno.EEXIST
            )


def _index(route: Any, name: str) -> int:
    indexes = route.link_lookup(ifname=name)
    if not indexes:
        raise ResourceError(f"network device {name!r} does not exist", errno=errno.ENODEV)
    return int(indexes[0])


def _kept(address: Any) -> bool:
    flags = address.get_attr("IFA_FLAGS") or address["flags"]
    return bool(address["scope"] == _SCOPE_GLOBAL and flags & _PERMANENT)
