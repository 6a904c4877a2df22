"""The systemd driver: a container's group is a transient unit, which systemd is asked for over D-Bus.

cgroupsPath is SLICE:PREFIX:NAME and means the scope PREFIX-NAME.scope in SLICE (or the slice NAME, if it ends so).
Limits are set twice, as properties of the unit, so that systemd does not undo them at its next reload, and in the files.
systemd.resource-control(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os

from pysandbox.oci import cgroups_files as files
from pysandbox.oci.cgroups import Cgroup
from pysandbox.oci.cgroups_dbus import Bus, BusError, Variant
from pysandbox.oci.errors import ConfigError, ResourceError, UnsupportedError, from_os_error, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pysandbox.oci.cgroups import Layout
    from pysandbox.oci.cgroups_devices import DeviceRules
    from pysandbox.oci.spec import Resources, Spec

    Properties = list[tuple[str, Variant]]

ANNOTATION = "org.systemd.property."
_SYSTEM_BUS = "/run/dbus/system_bus_socket"
_PRIVATE = "/run/systemd/private"
_BOOTED = "/run/systemd/system"
_DESTINATION = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_INFINITY = (1 << 64) - 1
_UNIT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@")


# --- names and places -------------------------------------------------------------------------------------------------


def plan(spec: Spec, container_id: str, layout: Layout) -> Cgroup:
    """As `cgroups.plan`. `UnsupportedError` where systemd does not run."""
    if not os.path.isdir(_BOOTED) or os.path.islink(_BOOTED):
        raise UnsupportedError("systemd not running on this host, cannot use systemd cgroups manager")
    slice_name, prefix, name = "", "pysandbox", container_id
    wanted = spec.linux.cgroups_path
    if wanted:
        parts = wanted.split(":")
        if len(parts) != 3:
            raise ConfigError(
                f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{wanted}" instead',
                pointer="/linux/cgroupsPath",
            )
        slice_name, prefix, name = parts
    slice_name = slice_name or "system.slice"
    below = expand_slice(slice_name)
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
    if not _UNIT_CHARACTERS.issuperset(unit) or len(unit) > 255 or unit.startswith("."):
        raise ConfigError(f"{unit!r} is not the name of a unit", pointer="/linux/cgroupsPath")
    if name.endswith(".slice"):
        below = os.path.dirname(expand_slice(unit))  # a slice's place is in its name
    paths = {key: os.path.normpath(f"{mount}/{below}/{unit}") for key, mount in layout.mounts.items()}
    if layout.hybrid:
        paths["unified"] = os.path.normpath(f"{layout.hybrid}/{below}/{unit}")
    properties = {key[len(ANNOTATION) :]: text for key, text in spec.annotations.items() if key.startswith(ANNOTATION)}
    for key, text in properties.items():
        annotated(key, text)  # an error now rather than later
    return Cgroup(paths=paths, unit=unit, slice=slice_name, properties=properties, chosen=True, owner=_owner(spec, layout))


def _owner(spec: Spec, layout: Layout) -> int | None:
    """Who may make groups in the container's: its root, where a user namespace makes that somebody else than the host's,
    and it can see nothing but its own groups, and is to write to them (config-linux.md, "Cgroup ownership").
    """
    linux = spec.linux
    user, view = linux.namespace("user"), linux.namespace("cgroup")
    if not layout.unified or user is None or user.path or view is None or view.path:
        return None
    if not any(m.type in ("cgroup", "cgroup2") and "ro" not in m.options for m in spec.mounts):
        return None
    return next((m.host_id for m in linux.uid_mappings if m.container_id == 0 and m.size), None)


def expand_slice(name: str) -> str:
    """Path of a slice: a-b.slice lies in a.slice. "" for the root slice. `ConfigError`."""
    stem = name.removesuffix(".slice")
    if stem == name or not _UNIT_CHARACTERS.issuperset(name):
        raise ConfigError(f"invalid slice name: {name}", pointer="/linux/cgroupsPath")
    if stem == "-":
        return ""
    words = stem.split("-")
    if not all(words):
        raise ConfigError(f"invalid slice name: {name}", pointer="/linux/cgroupsPath")
    return "/".join("-".join(words[: i + 1]) + ".slice" for i in range(len(words)))


# --- talking to systemd -----------------------------------------------------------------------------------------------


def connect() -> Bus:
    """The system bus, or systemd's own socket when there is no bus (yet). `ResourceError`."""
    places = [(_SYSTEM_BUS, False), (_PRIVATE, True)]
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")
    if address.startswith("unix:path="):
        places.insert(0, (address[len("unix:path=") :].split(",")[0].split(";")[0], False))
    reason: OSError | None = None
    for path, direct in places:
        try:
            return Bus(path, direct=direct)
        except OSError as error:
            reason = reason or error
    assert reason is not None
    raise from_os_error(f"connect to systemd at {places[0][0]}", reason)


def _call(bus: Bus, member: str, signature: str = "", *values: Any) -> tuple[Any, ...]:
    return bus.call(_DESTINATION, _PATH, _MANAGER, member, signature, *values)


def _job(bus: Bus, unit: str, member: str, signature: str, *values: Any) -> str:
    """Has systemd do something to a unit and waits for its end: `done`, `failed`, `timeout` and so on. `BusError`."""
    if not bus.direct:
        rule = f"type='signal',sender='{_DESTINATION}',path='{_PATH}',interface='{_MANAGER}',member='JobRemoved'"
        bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule)
        _call(bus, "Subscribe")
    (job,) = _call(bus, member, signature, *values)
    while True:
        signal = bus.next_signal()
        # JobRemoved(u id, o job, s unit, s result)
        if signal.member == "JobRemoved" and len(signal.body) == 4 and signal.body[1] == job:
            return str(signal.body[3])


def _version(bus: Bus) -> int:
    """systemd's; 0 if it does not say."""
    try:
        (value,) = bus.call(_DESTINATION, _PATH, "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER, "Version")
    except BusError:
        return 0
    digits = str(value.value if isinstance(value, Variant) else value).lstrip("v")
    count = next((i for i, c in enumerate(digits) if not c.isdigit()), len(digits))
    return int(digits[:count] or 0)


def start(cgroup: Cgroup, pid: int, resources: Resources | None) -> None:
    """Starts the unit with this process in it, then sets the limits. `ResourceError`; the unit is then gone again."""
    bus = connect()
    try:
        _start_unit(bus, cgroup, pid)
        try:
            _join_rest(cgroup, pid, resources)
            _set(bus, cgroup, resources, files.Setter(), devices=True)
            if cgroup.owner is not None:
                _give(cgroup.paths[""], cgroup.owner)
        except BaseException:
            _stop(bus, cgroup.unit)
            raise
    except BusError as error:
        raise ResourceError(f'unable to start unit "{cgroup.unit}": {error.message}') from None
    finally:
        bus.close()


def _start_unit(bus: Bus, cgroup: Cgroup, pid: int) -> None:
    is_slice = cgroup.unit.endswith(".slice")
    properties = unit_properties(cgroup, pid, unified="" in cgroup.paths)
    for attempt in (1, 2):
        try:
            result = _job(bus, cgroup.unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", cgroup.unit, "replace", properties, [])
        except BusError as error:
            # A failed unit of this name may be left over from a container long gone.
            if not error.name.endswith(".UnitExists") or attempt == 2 or is_slice:
                raise
            _reset_failed(bus, cgroup.unit)
            continue
        if result != "done":
            _reset_failed(bus, cgroup.unit)
            raise ResourceError(f"error creating systemd unit `{cgroup.unit}`: got `{one_line(result)}`")
        return


def unit_properties(cgroup: Cgroup, pid: int, *, unified: bool) -> Properties:
    """Of a new unit: its place, its process, and that everything is counted from the beginning."""
    yes = Variant(signature="b", value=True)
    properties: Properties = [
        ("Description", Variant(signature="s", value=f"pysandbox container {cgroup.unit}")),
    ]
    if cgroup.unit.endswith(".slice"):
        properties.append(("Wants", Variant(signature="as", value=[cgroup.slice])))
    else:
        properties.append(("Slice", Variant(signature="s", value=cgroup.slice)))
        properties.append(("PIDs", Variant(signature="au", value=[pid])))
        properties.append(("Delegate", yes))
    properties += [
        ("MemoryAccounting", yes), ("CPUAccounting", yes),
        ("IOAccounting" if unified else "BlockIOAccounting", yes), ("TasksAccounting", yes),
        ("DefaultDependencies", Variant(signature="b", value=False)),
    ]  # fmt: skip
    return properties + [annotated(name, text) for name, text in (cgroup.properties or {}).items()]


def _join_rest(cgroup: Cgroup, pid: int, resources: Resources | None) -> None:
    """Version 1: systemd uses some hierarchies only, the others are ours to make. Version 2: what systemd did not need
    itself is passed down."""
    from pysandbox.oci import cgroups

    plain = Cgroup(paths={key: path for key, path in cgroup.paths.items() if key not in ("name=systemd", "unified")})
    cgroups.create(plain, resources)
    cgroups.join(plain, pid)


def _give(path: str, uid: int) -> None:
    """The directory and the files that the kernel says are safe to give away (cgroup-v2.rst, "Delegation")."""
    try:
        with open("/sys/kernel/cgroup/delegate") as names:
            delegated = names.read().split()
    except OSError:
        delegated = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
    try:
        os.chown(path, uid, -1, follow_symlinks=False)
        for name in delegated:
            if "/" not in name and files.exists(path, name):
                os.chown(f"{path}/{name}", uid, -1, follow_symlinks=False)
    except OSError as error:
        raise from_os_error(f"chown {path}", error) from None


def update(cgroup: Cgroup, resources: Resources, setter: files.Setter) -> None:
    """New limits for a unit that runs; device rules stay. `ResourceError`."""
    bus = connect()
    try:
        _set(bus, cgroup, resources, setter, devices=False)
    finally:
        bus.close()


def _set(bus: Bus, cgroup: Cgroup, resources: Resources | None, setter: files.Setter, *, devices: bool) -> None:
    from pysandbox.oci import cgroups

    version = _version(bus)
    properties: Properties = []
    if devices:
        from pysandbox.oci.cgroups_devices import DeviceRules

        properties += device_properties(DeviceRules.of(resources.devices if resources else ()), version)
    if resources is not None:
        properties += limit_properties(resources, version, unified="" in cgroup.paths)
    if properties:
        try:
            _call(bus, "SetUnitProperties", "sba(sv)", cgroup.unit, True, properties)
        except BusError as error:
            raise ResourceError(f"unable to set unit properties: {error.message}") from None
    cgroups.set_limits(cgroup.replace(unit="", slice=""), resources, setter, devices=devices)


def stop(unit: str) -> None:
    """Has systemd stop and forget a unit; one that is not there, and a host without systemd, are fine. `ResourceError`."""
    if not os.path.isdir(_BOOTED):
        return
    bus = connect()
    try:
        _stop(bus, unit)
    finally:
        bus.close()


def _stop(bus: Bus, unit: str) -> None:
    try:
        _job(bus, unit, "StopUnit", "ss", unit, "replace")
    except BusError as error:
        if not error.name.endswith((".NoSuchUnit", ".UnitNotLoaded")):
            raise ResourceError(f'unable to stop unit "{unit}": {error.message}') from None
    _reset_failed(bus, unit)


def _reset_failed(bus: Bus, unit: str) -> None:
    try:
        _call(bus, "ResetFailedUnit", "s", unit)
    except BusError:
        pass  # it was not in that state


# --- limits as properties ---------------------------------------------------------------------------------------------


def _number(value: int) -> Variant:
    """-1 is infinity."""
    return Variant(signature="t", value=value & _INFINITY)


def limit_properties(resources: Resources, version: int, *, unified: bool) -> Properties:
    """linux.resources as far as systemd has words for it; the rest is set in the files only."""
    from pysandbox.oci.cgroups_v2 import swap_only, weight_of

    out: Properties = []
    memory, cpu, block = resources.memory, resources.cpu, resources.block_io
    if memory is not None:
        if memory.limit:
            out.append(("MemoryMax" if unified else "MemoryLimit", _number(memory.limit)))
        if unified:
            if memory.reservation:
                out.append(("MemoryLow", _number(memory.reservation)))
            swap = swap_only(memory.swap or 0, memory.limit or 0)
            if swap or (memory.swap or 0) > 0:
                out.append(("MemorySwapMax", _number(swap)))
    if cpu is not None:
        if cpu.idle and unified and version >= 252:
            out.append(("CPUWeight", _number(0)))
        elif cpu.shares:
            out.append(("CPUWeight", _number(weight_of(cpu.shares))) if unified else ("CPUShares", _number(cpu.shares)))
        out += _quota(cpu.quota or 0, cpu.period or 0, version)
        if version >= 244:
            out += [
                (name, Variant(signature="ay", value=list(_bits(text))))
                for name, text in (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems))
                if text
            ]
    if block is not None and block.weight and not unified:
        out.append(("BlockIOWeight", _number(block.weight)))
    if resources.pids_limit:
        out.append(("TasksMax", _number(max(resources.pids_limit, -1))))
    for name, value in (resources.unified or {}).items():
        out += _unified(name, value.strip(), version)
    return out


def _quota(quota: int, period: int, version: int) -> Properties:
    """systemd keeps whole percents of a CPU: rounded up, so that the files can have the exact number."""
    out: Properties = []
    if period and version >= 242:
        out.append(("CPUQuotaPeriodUSec", _number(period)))
    if quota or period:
        each = -1
        if quota > 0:
            each = -(-(quota * 1000000 // (period or 100000)) // 10000) * 10000
        out.append(("CPUQuotaPerSecUSec", _number(each)))
    return out


def _bits(text: str) -> bytes:
    """A list as in "0-3,7" as a mask, lowest first. `ConfigError`."""
    mask = 0
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise ConfigError(f"{text!r} is not a list of numbers", pointer="/linux/resources/cpu")
        low, high = int(first), int(last or first)
        if high < low or high > 65535:
            raise ConfigError(f"{text!r} is not a list of numbers", pointer="/linux/resources/cpu")
        mask |= (1 << (high + 1)) - (1 << low)
    return mask.to_bytes(max(1, -(-mask.bit_length() // 8)), "little")


_UNIFIED: dict[str, str] = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def _unified(name: str, value: str, version: int) -> Properties:
    def number(text: str) -> int:
        if text == "max":
            return -1
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(f'unified resource "{name}" value invalid: "{text}"', pointer="/linux/resources/unified")
        return int(text)

    if name in _UNIFIED:
        return [(_UNIFIED[name], _number(number(value)))]
    if name == "cpu.max":
        words = value.split()
        if not 1 <= len(words) <= 2:
            raise ConfigError(f'unified resource "{name}" value invalid: "{value}"', pointer="/linux/resources/unified")
        return _quota(max(0, number(words[0])), number(words[1]) if len(words) == 2 else 100000, version)
    if name in ("cpuset.cpus", "cpuset.mems") and version >= 244 and value:
        kind = "AllowedCPUs" if name == "cpuset.cpus" else "AllowedMemoryNodes"
        return [(kind, Variant(signature="ay", value=list(_bits(value))))]
    return []


def device_properties(rules: DeviceRules, version: int) -> Properties:
    """systemd's own filter, which only knows lists of what is allowed. What it cannot say is left to ours, which is set
    afterwards; a default of allow with exceptions is deny-all until then."""
    everything = rules.allow and not rules.exceptions
    out: Properties = [
        ("DevicePolicy", Variant(signature="s", value="auto" if everything else "strict")),
        ("DeviceAllow", Variant(signature="a(ss)", value=[])),  # empties the list before it is filled
    ]
    if rules.allow:
        return out
    allowed = []
    for (kind, major, minor), access in sorted(rules.exceptions.items()):
        word = "block" if kind == "b" else "char"
        if major < 0:
            if minor < 0:
                allowed.append((f"{word}-*", access))
        elif minor < 0:
            if version >= 240:
                allowed.append((f"{word}-{major}", access))
        elif version >= 240 or os.path.exists(f"/dev/{word}/{major}:{minor}"):
            # Older ones look the node up instead of reading the numbers.
            allowed.append((f"/dev/{word}/{major}:{minor}", access))
    return [*out, ("DeviceAllow", Variant(signature="a(ss)", value=allowed))]


# --- annotations ------------------------------------------------------------------------------------------------------

_WORDS: dict[str, Callable[[str], Any]] = {
    "byte": int, "int16": int, "uint16": int, "int32": int, "uint32": int, "int64": int, "uint64": int, "double": float,
    "string": str, "objectpath": str, "signature": str, "boolean": str,
}  # fmt: skip
_CODES = dict(zip(_WORDS, "ynqiuxtdsogb", strict=True))


def annotated(name: str, text: str) -> tuple[str, Variant]:
    """A property as an annotation gives it, in the text format of GVariant: `true`, `'text'`, `uint64 5`, `['a','b']`.
    A name that ends in Sec is in seconds, as in unit files, and becomes one in microseconds. `ConfigError`.
    """
    pointer = f"/annotations/{ANNOTATION}{name}"
    if not name.isascii() or not name.isalnum() or not name[0].isupper():
        raise ConfigError(f"{name!r} is not the name of a property", pointer=pointer)
    try:
        value = _variant(text.strip())
        if name.endswith("Sec") and not name.endswith("USec"):
            seconds = value.value
            if value.signature not in "nqiuxtd" or seconds < 0:
                raise ValueError("a time must be a number of seconds")
            return name.removesuffix("Sec") + "USec", Variant(signature="t", value=int(seconds * 1000000))
    except (ValueError, SyntaxError):
        raise ConfigError(f"{text!r} is not a value for a property", pointer=pointer) from None
    return name, value


def _variant(text: str) -> Variant:
    if text in ("true", "false"):
        return Variant(signature="b", value=text == "true")
    if text[:1] == "[" and text[-1:] == "]":
        from ast import literal_eval

        items = literal_eval(text)
        if not all(isinstance(item, str) for item in items):
            raise ValueError("only lists of texts are supported")
        return Variant(signature="as", value=items)
    if text[:1] in "'\"" and text:
        from ast import literal_eval

        value = literal_eval(text)
        if not isinstance(value, str):
            raise ValueError("not a text")
        return Variant(signature="s", value=value)
    word, _, rest = text.partition(" ")
    if word in _WORDS and rest:
        inner = _variant(rest.strip())
        if word == "boolean" or isinstance(inner.value, str) != (_WORDS[word] is str):
            raise ValueError("type and value do not fit")
        value = _WORDS[word](inner.value)
        from struct import error, pack

        try:
            if _CODES[word] not in "sog":
                pack("<" + {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}[_CODES[word]], value)
        except error:
            raise ValueError("number out of range") from None
        return Variant(signature=_CODES[word], value=value)
    if text.lstrip("-").isdigit() and text.isascii():
        return Variant(signature="i", value=int(text))
    return Variant(signature="d", value=float(text))
