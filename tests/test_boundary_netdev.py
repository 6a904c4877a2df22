"""ioctl of network devices, routes and ethtool beside runc: structures that hold pointers, also such that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from verb_lab import Config, both, missing

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

PROGRAM = r"""
import ctypes, errno, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
BAD = (0, 8, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, 2**64 - 8)

def call(request, argument):
    ctypes.set_errno(0)
    r = libc.ioctl(sock.fileno(), ctypes.c_ulong(request), ctypes.c_void_p(argument) if isinstance(argument, int) else argument)
    return r if r >= 0 else errno.errorcode[ctypes.get_errno()]

def ifreq(name, rest=b""):
    return ctypes.create_string_buffer(name.ljust(16, b"\0") + rest, 40)

def show(what, *values):
    print(what, *values)

# flags, MTU, queue length, map, ARP
show("up", call(0x8914, ifreq(b"lo", struct.pack("h", 0x49))))
show("mtu", call(0x8922, ifreq(b"lo", struct.pack("i", 1400))))
b = ifreq(b"lo"); show("mtu is", call(0x8921, b), struct.unpack_from("i", b, 16)[0])
show("queue", call(0x8943, ifreq(b"lo", struct.pack("i", 77))))
show("map", call(0x8970, ifreq(b"lo")))
show("arp", call(0x8954, ctypes.create_string_buffer(68)), call(0x8955, ctypes.create_string_buffer(68)))
show("nothing", call(0x8922, ifreq(b"nodev", struct.pack("i", 1400))), [call(0x8922, bad) for bad in BAD])

# routes: struct rtentry names the device by pointer
def rtentry(device):
    net = struct.pack("=HH4s8x", 2, 0, socket.inet_aton("9.9.9.0"))
    mask = struct.pack("=HH4s8x", 2, 0, socket.inet_aton("255.255.255.0"))
    return ctypes.create_string_buffer(struct.pack("8x16s16x16sHhi8x8xh6xQQQH6x", net, mask, 1, 0, 0, 0, device, 0, 0, 0), 120)
name = ctypes.create_string_buffer(b"lo")
show("add", call(0x890b, rtentry(ctypes.addressof(name))), open("/proc/net/route").read().count("\n"))
show("again", call(0x890b, rtentry(ctypes.addressof(name))))
show("no device", call(0x890b, rtentry(ctypes.addressof(ctypes.create_string_buffer(b"none")))))
show("bad", [call(0x890b, rtentry(bad)) for bad in BAD[1:]], [call(0x890b, bad) for bad in BAD])
show("delete", call(0x890c, rtentry(ctypes.addressof(name))), call(0x890c, rtentry(0)))

# ethtool: struct ifreq points to the command
def ethtool(data, size, name=b"lo"):
    buffer = ctypes.create_string_buffer(data, size)
    r = call(0x8946, ifreq(name, struct.pack("Q", ctypes.addressof(buffer))))
    return r, buffer.raw
values = [(command, 8) for command in (7, 0xa, 0x14, 0x18, 0x1e, 0x23, 0x25, 0x2b)]
for command, size in ((1, 44), (3, 196), (0xe, 92), (0x10, 36), (0x3c, 36), *values):
    r, out = ethtool(struct.pack("I", command), size)
    show("ethtool", hex(command), r, out.hex() if command != 3 else out[4:12])
for words in (0, 1, 5, 127, 128, 255):
    r, out = ethtool(struct.pack("I11xB", 0x4c, words), 48 + 12 * 127)
    show("settings", words, r if words < 128 else type(r).__name__)
show("no device", ethtool(struct.pack("I", 0xa), 8, b"none")[0])
show("bad", [call(0x8946, bad) for bad in BAD], [call(0x8946, ifreq(b"lo", struct.pack("Q", bad))) for bad in BAD])
"""


def rights(config: Config) -> None:
    for kind in ("bounding", "permitted", "effective"):
        config["process"]["capabilities"][kind].append("CAP_NET_ADMIN")


@pytest.mark.parametrize("admin", [True, False])
def test_same_as_under_runc(tmp_path: Path, debian_rootfs: Path, pysandbox_command: list[str], admin: bool) -> None:
    seen = []
    for runtime in both(tmp_path, debian_rootfs, pysandbox_command):
        runtime.configure(["python3", "-c", PROGRAM], rights if admin else None)
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.splitlines())
    assert seen[0] == seen[1]
    assert f"mtu {0 if admin else 'EPERM'}" in seen[0]
