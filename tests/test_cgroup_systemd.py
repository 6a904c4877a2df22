"""The systemd driver: names and places, properties, and the conversation, with a small bus and a systemd of our own.

What a D-Bus message must look like is taken from the specification (marshalling by hand) and, where it is installed, from
another implementation.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pysandbox.oci import cgroups, cgroups_dbus, cgroups_systemd
from pysandbox.oci.cgroups import Cgroup, Layout
from pysandbox.oci.cgroups_dbus import Variant
from pysandbox.oci.cgroups_devices import DeviceRules
from pysandbox.oci.errors import ConfigError, Error, UnsupportedError
from pysandbox.oci.spec import (
    CPU,
    BlockIO,
    DeviceRule,
    IDMapping,
    Linux,
    Memory,
    Mount,
    Namespace,
    Process,
    Resources,
    Root,
    Spec,
)

MANAGER = "org.freedesktop.systemd1.Manager"
INFINITY = (1 << 64) - 1


# --- marshalling ------------------------------------------------------------------------------------------------------


def test_values_are_aligned_as_the_specification_says() -> None:
    assert cgroups_dbus.marshal("yu", (1, 2)) == b"\1\0\0\0\2\0\0\0"
    assert cgroups_dbus.marshal("s", ("foo",)) == b"\3\0\0\0foo\0"
    assert cgroups_dbus.marshal("g", ("ai",)) == b"\2ai\0"
    assert cgroups_dbus.marshal("b", (True,)) == b"\1\0\0\0"
    # The length of an array does not count the padding before its first element.
    assert cgroups_dbus.marshal("at", ([5],)) == b"\x08\0\0\0" + bytes(4) + b"\5" + bytes(7)
    assert cgroups_dbus.marshal("at", ([],)) == bytes(8)
    assert cgroups_dbus.marshal("v", (Variant(signature="u", value=7),)) == b"\1u\0\0\7\0\0\0"
    assert cgroups_dbus.marshal("a(ss)", ([("a", "b")],)) == struct.pack("<I4xI2sxxI2s", 14, 1, b"a", 1, b"b")[:22]


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("ybnqiuxtd", (1, True, -2, 3, -4, 5, -6, 1 << 63, 1.5)),
        ("ssoga(sv)", ("", "ä", "/a/b", "a(sv)", [("A", Variant(signature="as", value=["x", "y"]))])),
        ("a(sa(sv))aayv", ([("u", [])], [[1, 2], []], Variant(signature="v", value=Variant(signature="b", value=False)))),
        ("a{sv}", ([("k", Variant(signature="x", value=-1))],)),
    ],
)
def test_what_is_written_can_be_read(signature: str, values: tuple[Any, ...]) -> None:
    assert cgroups_dbus.unmarshal(signature, cgroups_dbus.marshal(signature, values)) == values


def test_a_whole_message() -> None:
    data = cgroups_dbus.message(cgroups_dbus.CALL, 9, {1: "/p", 3: "M"}, "s", ("x",))

    order, kind, flags, version, length, serial = struct.unpack_from("<BBBBII", data)
    assert (order, kind, flags, version, length, serial) == (ord("l"), 1, 0, 1, 6, 9)
    assert data.endswith(b"\1\0\0\0x\0")
    assert (len(data) - length) % 8 == 0


@pytest.mark.parametrize("signature", ["(", "a", "(s", "z", "{sv", "a" * 40 + "s", "()s)"])
def test_signatures_that_are_none(signature: str) -> None:
    with pytest.raises(ValueError, match="signature"):
        cgroups_dbus.split(signature)


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff\xff", b"\5\0\0\0ab"])
def test_messages_that_end_early(data: bytes) -> None:
    for signature in ("s", "as", "a(sv)"):
        with pytest.raises((ValueError, struct.error)):
            cgroups_dbus.unmarshal(signature, data)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice", "system.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
        ("machine-x.slice", "machine.slice/machine-x.slice"),
    ],
)
def test_slices_lie_in_slices(name: str, path: str) -> None:
    assert cgroups_systemd.expand_slice(name) == path


@pytest.mark.parametrize(
    "name", ["", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "../x.slice", "system", "a\n.slice"]
)
def test_names_that_are_no_slices(name: str) -> None:
    with pytest.raises(ConfigError, match="invalid slice name"):
        cgroups_systemd.expand_slice(name)


def spec(path: str, resources: Resources | None = None, **annotations: str) -> Spec:
    return Spec(
        oci_version="1.2.0",
        process=Process(args=("true",), cwd="/"),
        root=Root(path="rootfs"),
        annotations={key.replace("__", "."): value for key, value in annotations.items()},
        linux=Linux(cgroups_path=path, resources=resources),
    )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that systemd has booted, with version 2 at tmp_path/cgroup."""
    (tmp_path / "booted").mkdir()
    group = tmp_path / "cgroup"
    group.mkdir()
    for name, text in {"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "", "cgroup.procs": ""}.items():
        (group / name).write_text(text)
    monkeypatch.setattr(cgroups_systemd, "_BOOTED", str(tmp_path / "booted"))
    monkeypatch.setattr(cgroups, "_layout", Layout(unified=True, mounts={"": str(group)}, own={"": "."}))
    return group


@pytest.mark.parametrize(
    ("path", "unit", "slice_name", "below"),
    [
        ("", "pysandbox-box.scope", "system.slice", "system.slice/pysandbox-box.scope"),
        ("machine.slice:libpod:abc", "libpod-abc.scope", "machine.slice", "machine.slice/libpod-abc.scope"),
        (":docker:abc", "docker-abc.scope", "system.slice", "system.slice/docker-abc.scope"),
        ("kubepods-pod1.slice:cri-containerd:c", "cri-containerd-c.scope", "kubepods-pod1.slice",
         "kubepods.slice/kubepods-pod1.slice/cri-containerd-c.scope"),
        ("-.slice:p:n", "p-n.scope", "-.slice", "p-n.scope"),
        ("a.slice:p:a-b.slice", "a-b.slice", "a.slice", "a.slice/a-b.slice"),
    ],
)  # fmt: skip
def test_places(host: Path, path: str, unit: str, slice_name: str, below: str) -> None:
    group = cgroups.plan(spec(path), "box", "systemd")
    assert (group.unit, group.slice, group.paths) == (unit, slice_name, {"": f"{host}/{below}"})


@pytest.mark.parametrize(
    "path", ["/absolute/path", "a:b", "a.slice:b:c:d", "a.slice:b:../../c", "a.slice:x/y:c", "x:b:c", "a.slice:b:c\n"]
)
def test_places_that_are_refused(host: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="cgroupsPath"):
        cgroups.plan(spec(path), "box", "systemd")


def test_without_systemd(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_systemd, "_BOOTED", str(host / "not-there"))
    with pytest.raises(UnsupportedError, match="systemd not running on this host, cannot use systemd cgroups manager"):
        cgroups.plan(spec(""), "box", "systemd")


# --- properties -------------------------------------------------------------------------------------------------------


def plain(properties: list[tuple[str, Variant]]) -> dict[str, Any]:
    return {name: variant.value for name, variant in properties}


LIMITS = Resources(
    memory=Memory(limit=1000, swap=1500, reservation=500),
    cpu=CPU(shares=1024, quota=12345, period=100000, cpus="0-1,9", mems="0"),
    pids_limit=10,
    block_io=BlockIO(weight=300),
)


def test_limits_of_version_2() -> None:
    assert plain(cgroups_systemd.limit_properties(LIMITS, 252, unified=True)) == {
        "MemoryMax": 1000, "MemoryLow": 500, "MemorySwapMax": 500, "CPUWeight": 39, "CPUQuotaPeriodUSec": 100000,
        "CPUQuotaPerSecUSec": 130000, "AllowedCPUs": [3, 2], "AllowedMemoryNodes": [1], "TasksMax": 10,
    }  # fmt: skip


def test_limits_of_version_1() -> None:
    assert plain(cgroups_systemd.limit_properties(LIMITS, 241, unified=False)) == {
        "MemoryLimit": 1000, "CPUShares": 1024, "CPUQuotaPerSecUSec": 130000, "BlockIOWeight": 300, "TasksMax": 10,
    }  # fmt: skip


def test_no_limits_are_infinity() -> None:
    limits = Resources(memory=Memory(limit=-1), cpu=CPU(quota=-1), pids_limit=-1)
    assert plain(cgroups_systemd.limit_properties(limits, 252, unified=True)) == {
        "MemoryMax": INFINITY, "MemorySwapMax": INFINITY, "CPUQuotaPerSecUSec": INFINITY, "TasksMax": INFINITY,
    }  # fmt: skip


def test_unified_becomes_properties() -> None:
    unified = {
        "memory.max": "max", "memory.high": "1000", "pids.max": "5", "cpu.weight": "77", "cpu.max": "50000 100000",
        "cpuset.cpus": "2-3", "memory.oom.group": "1",
    }  # fmt: skip
    assert plain(cgroups_systemd.limit_properties(Resources(unified=unified), 252, unified=True)) == {
        "MemoryMax": INFINITY, "MemoryHigh": 1000, "TasksMax": 5, "CPUWeight": 77, "CPUQuotaPeriodUSec": 100000,
        "CPUQuotaPerSecUSec": 500000, "AllowedCPUs": [12],
    }  # fmt: skip


def test_devices() -> None:
    rules = DeviceRules()
    for kind, major, minor in (("c", 1, 3), ("c", 136, None), ("b", None, None), ("c", None, 5)):
        rules.add(DeviceRule(allow=True, type=kind, major=major, minor=minor, access="rw"))
    properties = cgroups_systemd.device_properties(rules, 252)
    assert [name for name, _ in properties] == ["DevicePolicy", "DeviceAllow", "DeviceAllow"]
    assert properties[0][1].value == "strict"
    assert properties[1][1].value == []
    assert properties[2][1].value == [("block-*", "rw"), ("/dev/char/1:3", "rw"), ("char-136", "rw")]
    everything = DeviceRules(allow=True)
    assert plain(cgroups_systemd.device_properties(everything, 252)) == {"DevicePolicy": "auto", "DeviceAllow": []}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("TimeoutStopUSec", "uint64 123456789", ("TimeoutStopUSec", "t", 123456789)),
        ("TimeoutStopSec", "uint32 2", ("TimeoutStopUSec", "t", 2000000)),
        ("TimeoutStopSec", "1.5", ("TimeoutStopUSec", "t", 1500000)),
        ("CollectMode", "'inactive-or-failed'", ("CollectMode", "s", "inactive-or-failed")),
        ("After", "['a.service', 'b.service']", ("After", "as", ["a.service", "b.service"])),
        ("SendSIGHUP", "true", ("SendSIGHUP", "b", True)),
        ("Nice", "-5", ("Nice", "i", -5)),
    ],
)
def test_annotations(name: str, text: str, expected: tuple[str, str, object]) -> None:
    key, variant = cgroups_systemd.annotated(name, text)
    assert (key, variant.signature, variant.value) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X", ""), ("X", "'unfinished"), ("X", "uint64"), ("X", "uint32 -1"), ("X", "uint32 99999999999"), ("X", "[1, 2]"),
        ("X", "__import__('os')"), ("X", "[__import__('os')]"), ("ExecStart=", "true"), ("x", "true"), ("", "true"),
        ("XSec", "'a'"),
        ("X", "nan'"), ("X", "string 5"),
    ],
)  # fmt: skip
def test_annotations_that_are_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"org\.systemd\.property"):
        cgroups_systemd.annotated(name, text)


# --- the conversation -------------------------------------------------------------------------------------------------


class FakeSystemd:
    """A bus with one service. It notes the calls, makes the group of a unit, and answers as it is told to."""

    def __init__(self, path: Path, top: Path) -> None:
        self.top = top
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.errors: dict[str, list[str]] = {}
        self.result = "done"
        self.early_signal = False
        self.greeting = b""
        self.unit_place = ""
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.close()

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def arguments(self, name: str) -> tuple[Any, ...]:
        return next(values for called, values in self.calls if called == name)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                try:
                    self._talk(connection)
                except (EOFError, OSError):
                    continue

    def _talk(self, connection: socket.socket) -> None:
        data = connection.makefile("rb")
        assert data.readline() == b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n"
        connection.sendall(self.greeting or b"OK 1234deadbeef\r\n")
        if data.readline() != b"BEGIN\r\n":
            return
        serial = 0
        while True:
            head = data.read(16)
            if len(head) < 16:
                return
            _, kind, _, version, body, number, fields_length = struct.unpack("<BBBBIII", head)
            assert (kind, version) == (1, 1)
            rest = data.read(fields_length + -fields_length % 8 + body)
            reader = cgroups_dbus._Reader(head + rest, "<")
            reader.at = 12
            fields = {key: variant.value for key, variant in reader.take("a(yv)")}
            signature = fields.get(8, "")
            values = cgroups_dbus.unmarshal(signature, rest[len(rest) - body :])
            self.calls.append((fields[3], values))
            for answer in self._answers(fields, values, number):
                serial += 1
                connection.sendall(cgroups_dbus.message(answer[0], serial, *answer[1:]))

    def _answers(self, fields: dict[int, Any], values: tuple[Any, ...], number: int) -> Iterator[tuple[Any, ...]]:
        reply = {5: number}
        member = fields[3]
        if self.errors.get(member):
            yield cgroups_dbus.ERROR, {4: self.errors[member].pop(0), **reply}, "s", ("because",)
        elif member in ("StartTransientUnit", "StopUnit"):
            if member == "StartTransientUnit" and self.unit_place:
                place = self.top / self.unit_place
                place.mkdir(parents=True, exist_ok=True)
                names = ("cgroup.procs", "memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cgroup.subtree_control")
                for name in names:
                    (place / name).touch()
            job = "/org/freedesktop/systemd1/job/7"
            signal = (cgroups_dbus.SIGNAL, {1: "/p", 2: MANAGER, 3: "JobRemoved"}, "uoss", (7, job, values[0], self.result))
            other = (cgroups_dbus.SIGNAL, {1: "/p", 2: MANAGER, 3: "JobRemoved"}, "uoss", (6, job[:-1] + "6", "x", "failed"))
            yield other
            if self.early_signal:
                yield signal
            yield cgroups_dbus.RETURN, reply, "o", (job,)
            if not self.early_signal:
                yield signal
        elif member == "Get":
            yield cgroups_dbus.RETURN, reply, "v", (Variant(signature="s", value="252.39-1~deb12u1"),)
        elif member == "Hello":
            yield cgroups_dbus.RETURN, reply, "s", (":1.5",)
        else:
            yield cgroups_dbus.RETURN, reply


@pytest.fixture
def systemd(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    monkeypatch.setattr(cgroups_systemd, "_SYSTEM_BUS", str(tmp_path / "bus"))
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(cgroups, "_filter_devices", lambda path, rules: None)  # a kernel's group is needed for that
    fake = FakeSystemd(tmp_path / "bus", host)
    yield fake
    fake.close()


def planned(resources: Resources | None = None, **annotations: str) -> Cgroup:
    return cgroups.plan(spec("machine.slice:test:box", resources, **annotations), "box", "systemd")


@pytest.mark.parametrize("early", [False, True])
def test_start(systemd: FakeSystemd, early: bool) -> None:
    """The unit, the process in it, the limits; the job's end may be reported before the answer to the call."""
    systemd.early_signal = early
    systemd.unit_place = "machine.slice/test-box.scope"
    limits = Resources(memory=Memory(limit=1 << 20, swap=1 << 21), pids_limit=5)
    group = planned(limits, **{"org.systemd.property.CollectMode": "'inactive'"})
    assert cgroups.footprint(group) == [("unit", "/test-box.scope"), ("cgroup", group.paths[""])]
    cgroups.create(group, limits)
    cgroups.apply(group, limits)
    assert systemd.calls == []
    cgroups.join(group, 4711, limits)
    assert systemd.names() == ["Hello", "AddMatch", "Subscribe", "StartTransientUnit", "Get", "SetUnitProperties"]
    unit, mode, properties, more = systemd.arguments("StartTransientUnit")
    assert (unit, mode, more) == ("test-box.scope", "replace", [])
    expected = {
        "Description": "pysandbox container test-box.scope", "Slice": "machine.slice", "PIDs": [4711], "Delegate": True,
        "MemoryAccounting": True, "CPUAccounting": True, "IOAccounting": True, "TasksAccounting": True,
        "DefaultDependencies": False, "CollectMode": "inactive",
    }  # fmt: skip
    assert plain(properties) == expected
    unit, runtime_only, properties = systemd.arguments("SetUnitProperties")
    assert (unit, runtime_only) == ("test-box.scope", True)
    assert plain(properties)["MemoryMax"] == 1 << 20
    assert plain(properties)["DevicePolicy"] == "strict"
    place = systemd.top / systemd.unit_place
    assert (place / "cgroup.procs").read_text() == "4711"
    assert (place / "memory.max").read_text() == str(1 << 20)
    assert (place / "memory.swap.max").read_text() == str(1 << 20)
    assert (place / "pids.max").read_text() == "5"


def test_a_left_over_unit_is_reset(systemd: FakeSystemd) -> None:
    systemd.unit_place = "machine.slice/test-box.scope"
    systemd.errors["StartTransientUnit"] = ["org.freedesktop.systemd1.UnitExists"]
    cgroups.join(planned(), 4711)
    assert systemd.names().count("StartTransientUnit") == 2
    assert systemd.arguments("ResetFailedUnit") == ("test-box.scope",)


def test_a_unit_in_use_is_an_error(systemd: FakeSystemd) -> None:
    systemd.errors["StartTransientUnit"] = ["org.freedesktop.systemd1.UnitExists"] * 2
    with pytest.raises(Error, match=r'unable to start unit "test-box\.scope": because'):
        cgroups.join(planned(), 4711)


def test_a_job_that_fails(systemd: FakeSystemd) -> None:
    systemd.result = "failed"
    with pytest.raises(Error, match=r"error creating systemd unit `test-box\.scope`: got `failed`"):
        cgroups.join(planned(), 4711)


def test_a_limit_that_fails_takes_the_unit_back(systemd: FakeSystemd) -> None:
    systemd.unit_place = "machine.slice/test-box.scope"
    with pytest.raises(Error, match=r"cpu\.max"):
        cgroups.join(planned(), 4711, Resources(cpu=CPU(quota=5000)))
    assert systemd.arguments("StopUnit") == ("test-box.scope", "replace")


def test_the_root_of_a_user_namespace_is_given_its_group(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when it sees nothing else, and may write."""
    systemd.unit_place = "machine.slice/test-box.scope"
    given: dict[str, int] = {}
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, **more: given.update({os.path.basename(path): uid}))
    plain_spec = spec("machine.slice:test:box")
    mapped = plain_spec.linux.replace(
        namespaces=(Namespace(type="user"), Namespace(type="cgroup")),
        uid_mappings=(IDMapping(container_id=0, host_id=7000, size=10),),
    )
    mount = Mount(destination="/sys/fs/cgroup", type="cgroup")
    for linux, mounts, owner in (
        (mapped, (mount,), 7000),
        (mapped, (mount.replace(options=("ro",)),), None),
        (mapped.replace(namespaces=(Namespace(type="user"),)), (mount,), None),
        (plain_spec.linux, (mount,), None),
    ):
        group = cgroups.plan(plain_spec.replace(linux=linux, mounts=mounts), "box", "systemd")
        assert group.owner == owner
        given.clear()
        cgroups.join(group, 4711)
        wanted = {"test-box.scope", "cgroup.procs", "cgroup.subtree_control"} if owner else set()
        assert wanted <= given.keys()
        assert set(given.values()) <= {owner}


def test_update(systemd: FakeSystemd) -> None:
    systemd.unit_place = "machine.slice/test-box.scope"
    group = planned()
    cgroups.join(group, 4711)
    systemd.calls.clear()
    from pysandbox.oci import cgroups_update

    cgroups_update.update(Cgroup(paths=group.paths, unit=group.unit), Resources(pids_limit=9))
    assert systemd.names() == ["Hello", "Get", "SetUnitProperties"]
    assert plain(systemd.arguments("SetUnitProperties")[2]) == {"TasksMax": 9}
    assert (Path(group.paths[""]) / "pids.max").read_text() == "9"


def test_stop(systemd: FakeSystemd) -> None:
    cgroups_systemd.stop("test-box.scope")
    assert systemd.names() == ["Hello", "AddMatch", "Subscribe", "StopUnit", "ResetFailedUnit"]
    systemd.errors["StopUnit"] = ["org.freedesktop.systemd1.NoSuchUnit"]
    cgroups_systemd.stop("test-box.scope")
    systemd.errors["StopUnit"] = ["org.freedesktop.DBus.Error.AccessDenied"]
    with pytest.raises(Error, match="unable to stop unit"):
        cgroups_systemd.stop("test-box.scope")


def test_a_further_process_needs_no_systemd(systemd: FakeSystemd) -> None:
    systemd.unit_place = "machine.slice/test-box.scope"
    group = planned()
    cgroups.join(group, 4711)
    systemd.calls.clear()
    cgroups.enter(Cgroup(paths=group.paths, unit=group.unit), 4712)
    assert systemd.calls == []
    assert (Path(group.paths[""]) / "cgroup.procs").read_text() == "4712"


def test_no_bus_at_all(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    for name in ("_SYSTEM_BUS", "_PRIVATE"):
        monkeypatch.setattr(cgroups_systemd, name, str(tmp_path / "nobody"))
    with pytest.raises(Error, match=r"connect to systemd at .*: no such file or directory"):
        cgroups.join(planned(), 4711)


def test_systemds_own_socket_when_there_is_no_bus(systemd: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_systemd, "_PRIVATE", str(tmp_path / "bus"))
    monkeypatch.setattr(cgroups_systemd, "_SYSTEM_BUS", str(tmp_path / "nobody"))
    cgroups_systemd.stop("a.scope")
    assert systemd.names() == ["StopUnit", "ResetFailedUnit"]


def test_the_address_in_the_environment(systemd: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_systemd, "_SYSTEM_BUS", str(tmp_path / "nobody"))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus,guid=1234")
    cgroups_systemd.stop("a.scope")
    assert "StopUnit" in systemd.names()


def test_a_bus_that_refuses(systemd: FakeSystemd) -> None:
    systemd.greeting = b"REJECTED EXTERNAL\r\n"
    with pytest.raises(Error, match="refused the authentication"):
        cgroups_systemd.stop("a.scope")


# --- another implementation -------------------------------------------------------------------------------------------

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow own="*"/><allow eavesdrop="true"/></policy></busconfig>
"""


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed")
def test_a_real_bus_understands_us(tmp_path: Path) -> None:
    """dbus-daemon checks every byte of a message and hangs up on a wrong one; two of us talk through it."""
    path = tmp_path / "real"
    (tmp_path / "bus.conf").write_text(BUS_CONFIG.format(path=path))
    daemon = subprocess.Popen(["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--nopidfile"])
    try:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, "no bus"
            time.sleep(0.01)
        bus = cgroups_dbus.Bus(str(path))
        dbus = "org.freedesktop.DBus"
        (names,) = bus.call(dbus, "/org/freedesktop/DBus", dbus, "ListNames")
        assert dbus in names
        bus.call(dbus, "/org/freedesktop/DBus", dbus, "AddMatch", "s", f"type='signal',sender='{dbus}'")
        assert bus.call(dbus, "/org/freedesktop/DBus", dbus, "RequestName", "su", "dev.test.Name", 0) == (1,)
        assert "NameAcquired" in (bus.next_signal().member, bus.next_signal().member, bus.next_signal().member)
        ((_, pid), *_) = bus.call(dbus, "/org/freedesktop/DBus", dbus, "GetConnectionCredentials", "s", "dev.test.Name")[0]
        assert pid.value == os.getpid()
        # The call that matters, with everything a unit can have: nobody is there to take it, but it is a message.
        group = Cgroup(paths={}, unit="a-b.scope", slice="c.slice")
        properties = cgroups_systemd.unit_properties(group, 4711, unified=True)
        properties += cgroups_systemd.limit_properties(LIMITS, 252, unified=True)
        rules = DeviceRules()
        rules.add(DeviceRule(allow=True, type="c", major=1, minor=3, access="rw"))
        properties += cgroups_systemd.device_properties(rules, 252)
        with pytest.raises(cgroups_dbus.BusError) as caught:
            bus.call("no.such.Service", "/", MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", "u", "m", properties, [])
        assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"
        bus.close()
    finally:
        daemon.terminate()
        daemon.wait(30)
