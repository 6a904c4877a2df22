"""Is this config.json one that can be run, and if not, which place of it is wrong and why.

Two steps. Shape: the compiled validator says yes or no; after a no, jsonschema finds the place and this module
the words. Meaning: what needs more than one property (limits in order, a hostname and its namespace) or a
list of names, on the typed spec. Mount options are read where mounts are made.
"""

from __future__ import annotations

from pysandbox.oci import _config_validator as compiled
from pysandbox.oci.errors import ConfigError
from pysandbox.oci.jsontext import escape, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pysandbox.oci.spec import Hooks, IDMapping, Linux, Mount, NetDevice, Process, Spec

_RLIMIT_NAMES = "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK"
_IPC_NAMES = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"

RLIMITS = frozenset(["RLIMIT_" + name for name in _RLIMIT_NAMES.split()])
"""getrlimit(2)."""

NAMESPACES = frozenset(("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"))
"""config-linux.md, "Namespaces"."""

_IFNAMSIZ = 16
_NO_ID = 2**32 - 1

_IPC_SYSCTLS = frozenset(["kernel." + name for name in _IPC_NAMES.split()])


# --- shape --------------------------------------------------------------------------------------------------


def config(raw: Mapping[str, Any]) -> None:
    """`ConfigError` if this is not the shape of a config.json."""
    _shape(raw, compiled.config, None, "config.json")


def process(raw: Mapping[str, Any], document: str = "process.json") -> None:
    """`ConfigError` if this is not the shape of a `process` object."""
    _shape(raw, compiled.process, "Process", document)


def resources(raw: Mapping[str, Any], document: str = "resources") -> None:
    """`ConfigError` if this is not the shape of a `linux.resources` object."""
    _shape(raw, compiled.resources, "Resources", document)


def _shape(raw: Mapping[str, Any], accepts: Any, definition: str | None, document: str) -> None:
    try:
        accepts(raw)
    except compiled.Rejected:
        raise explain(raw, definition, document) from None


def schema(definition: str | None = None) -> dict[str, Any]:
    """The JSON schema of config.json, or of one of its definitions."""
    import json
    from pathlib import Path

    whole: dict[str, Any] = json.loads(Path(__file__).with_name("schema").joinpath("config.schema.json").read_text())
    if definition is None:
        return whole
    return {"$ref": f"#/definitions/{definition}", "definitions": whole["definitions"]}


def explain(raw: Mapping[str, Any], definition: str | None, document: str) -> ConfigError:
    """What is most wrong with a document that the compiled validator refused."""
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft7Validator(schema(definition)).iter_errors(raw))
    if error is None:
        # The two validators are tested to agree; if they do not, the fast one is the one that is obeyed.
        return ConfigError("does not match the schema", document=document)
    pointer = "".join("/" + escape(str(token)) for token in error.absolute_path)
    return ConfigError(_words(error), pointer=pointer, document=document)


def _words(error: Any) -> str:
    """One line for a jsonschema error: what was found and what was expected."""
    found, keyword, wanted = error.instance, error.validator, error.validator_value
    if keyword == "required":
        missing = next((name for name in wanted if name not in found), "?")
        return f"{missing!r} is missing"
    if keyword == "type":
        article = "an" if wanted[0] in "aeiou" else "a"
        return f"expected {article} {wanted}, found {kind_of(found)}{_value(found)}"
    if keyword == "enum":
        names = ", ".join(repr(v) for v in wanted if v)
        return f"expected one of {names}; found{_value(found) or ' ' + kind_of(found)}"
    if keyword in ("minItems", "minLength"):
        return f"{'[]' if keyword == 'minItems' else 'the string'} should be non-empty"
    if keyword in ("minimum", "maximum"):
        bound = "at least" if keyword == "minimum" else "at most"
        return f"expected {bound} {wanted}, found{_value(found)}"
    return str(error.message)


def _value(found: object) -> str:
    if isinstance(found, bool):
        return f" {found!s}".lower()
    if isinstance(found, str | int | float):
        text = repr(found)
        return " " + (text if len(text) <= 80 else text[:76] + "...")
    return ""


# --- meaning ------------------------------------------------------------------------------------------------


def meaning(spec: Spec) -> None:
    """`ConfigError` for a spec that is well formed and still cannot be right."""
    _version(spec.oci_version)
    process_meaning(spec.process, "config.json", "/process")
    _hooks(spec.hooks)
    _namespaces(spec)
    _mappings(spec.linux)
    _mounts(spec.mounts)
    _linux(spec.linux)
    if spec.linux.sysctl:
        _sysctl(spec.linux.sysctl, spec.linux)
    if spec.linux.net_devices:
        _net_devices(spec.linux.net_devices)


def process_meaning(process: Process, document: str = "process.json", at: str = "") -> None:
    """The same for a process alone; `at` is the pointer to it within the document."""

    def bad(pointer: str, message: str) -> ConfigError:
        return ConfigError(message, pointer=at + pointer, document=document)

    if process.cwd[0] != "/":
        raise bad("/cwd", f"Cwd must be an absolute path, found {process.cwd!r}")
    if not process.args[0]:
        # exec(3) of "" is ENOENT; said in the words in which engines look for it.
        raise bad("/args/0", 'exec: "": executable file not found in $PATH')
    for i, entry in enumerate(process.env):
        name, equals, _ = entry.partition("=")
        if not equals:
            raise bad(f"/env/{i}", "invalid environment variable: missing '='")
        if not name:
            raise bad(f"/env/{i}", "invalid environment variable: name cannot be empty")
    for number, name in ((process.user.uid, "uid"), (process.user.gid, "gid")):
        if number == _NO_ID:
            raise bad(f"/user/{name}", f"{number} is not an id: it means none to the kernel")
    seen: set[str] = set()
    for i, limit in enumerate(process.rlimits):
        if limit.type not in RLIMITS:
            raise bad(f"/rlimits/{i}/type", f"unknown rlimit {limit.type!r}")
        if limit.type in seen:
            raise bad(f"/rlimits/{i}/type", f"duplicate rlimit {limit.type}")
        if limit.soft > limit.hard:
            raise bad(f"/rlimits/{i}/soft", f"{limit.type}: soft limit {limit.soft} is above hard limit {limit.hard}")
        seen.add(limit.type)


def _version(version: str) -> None:
    """semver.org 2.0.0, of major version 1."""
    core, _, build = version.partition("+")
    core, dash, pre = core.partition("-")
    numbers = core.split(".")
    ok = (
        len(numbers) == 3
        and all(n.isdecimal() and n.isascii() and (n == "0" or n[0] != "0") for n in numbers)
        and (not dash or all(_identifier(p) for p in pre.split(".")))
        and ("+" not in version or all(_identifier(p) for p in build.split(".")))
    )
    if not ok:
        raise ConfigError(f"{version!r} is not a semantic version", pointer="/ociVersion")
    if numbers[0] != "1":
        raise ConfigError(f"version {version} is not supported, only 1.x is", pointer="/ociVersion")


def _identifier(text: str) -> bool:
    return text.isascii() and text.replace("-", "a").isalnum()


def _hooks(hooks: Hooks) -> None:
    names = {
        "create_runtime": "createRuntime",
        "create_container": "createContainer",
        "start_container": "startContainer",
    }
    for field, entries in hooks:
        for i, hook in enumerate(entries):
            at = f"/hooks/{names.get(field, field)}/{i}"
            _absolute(hook.path, at + "/path")


def _absolute(path: str, pointer: str) -> None:
    if path[:1] != "/":
        raise ConfigError(f"expected an absolute path, found {path!r}", pointer=pointer)


def _absolutes(paths: Iterable[str], pointer: str) -> None:
    for i, path in enumerate(paths):
        _absolute(path, f"{pointer}/{i}")


def _namespaces(spec: Spec) -> None:
    linux = spec.linux
    have: set[str] = set()
    for i, ns in enumerate(linux.namespaces):
        at = f"/linux/namespaces/{i}"
        if ns.type not in NAMESPACES:
            raise ConfigError(f"unknown namespace {ns.type!r}", pointer=at + "/type")
        if ns.type in have:
            raise ConfigError(f"duplicate namespace {ns.type!r}", pointer=at + "/type")
        if ns.path:
            _absolute(ns.path, at + "/path")
        have.add(ns.type)
    for wanted, kind, pointer, what in (
        (spec.hostname, "uts", "/hostname", "a hostname"),
        (spec.domainname, "uts", "/domainname", "a domainname"),
        (linux.uid_mappings, "user", "/linux/uidMappings", "uidMappings"),
        (linux.gid_mappings, "user", "/linux/gidMappings", "gidMappings"),
        (linux.masked_paths, "mount", "/linux/maskedPaths", "maskedPaths"),
        (linux.readonly_paths, "mount", "/linux/readonlyPaths", "readonlyPaths"),
        (linux.time_offsets, "time", "/linux/timeOffsets", "timeOffsets"),
        (linux.net_devices, "network", "/linux/netDevices", "netDevices"),
    ):
        if wanted and kind not in have:
            raise ConfigError(f"{what} needs a {kind} namespace of the container's own", pointer=pointer)


def _mappings(linux: Linux) -> None:
    ns = linux.namespace("user")
    for mappings, name in ((linux.uid_mappings, "uidMappings"), (linux.gid_mappings, "gidMappings")):
        if not mappings and ns is not None and not ns.path:
            raise ConfigError(f"a new user namespace needs {name}", pointer="/linux")
        _ranges(mappings, f"/linux/{name}")
        if mappings and not any(m.container_id == 0 for m in mappings):
            raise ConfigError("no mapping for the container's root (containerID 0)", pointer=f"/linux/{name}")


def _mounts(mounts: Sequence[Mount]) -> None:
    for i, mount in enumerate(mounts):
        if not mount.uid_mappings and not mount.gid_mappings:
            continue
        at = f"/mounts/{i}"
        for mappings, name in ((mount.uid_mappings, "uidMappings"), (mount.gid_mappings, "gidMappings")):
            if not mappings:
                raise ConfigError(f"an id-mapped mount needs {name}", pointer=at)
            _ranges(mappings, f"{at}/{name}")
        if mount.type != "bind" and "bind" not in mount.options and "rbind" not in mount.options:
            raise ConfigError("id mappings are for bind mounts", pointer=at)


def _ranges(mappings: Sequence[IDMapping], pointer: str) -> None:
    """user_namespaces(7): no empty range, none beyond 32 bits, no two that overlap on either side."""
    for i, m in enumerate(mappings):
        if m.size == 0:
            raise ConfigError("a mapping of size 0", pointer=f"{pointer}/{i}/size")
        for start, name in ((m.container_id, "containerID"), (m.host_id, "hostID")):
            if start + m.size > 1 << 32:
                raise ConfigError(f"{name} {start} plus size {m.size} passes 2^32", pointer=f"{pointer}/{i}")
    for side in ("container_id", "host_id"):
        ranges = sorted((getattr(m, side), m.size, i) for i, m in enumerate(mappings))
        end = 0
        for start, size, i in ranges:
            if start < end:
                raise ConfigError("overlaps with another mapping", pointer=f"{pointer}/{i}")
            end = start + size


def _linux(linux: Linux) -> None:
    _absolutes(linux.masked_paths, "/linux/maskedPaths")
    _absolutes(linux.readonly_paths, "/linux/readonlyPaths")
    for i, device in enumerate(linux.devices):
        _absolute(device.path, f"/linux/devices/{i}/path")
    if linux.resources is not None:
        for i, rule in enumerate(linux.resources.devices):
            # Other letters beside these are without effect, as in runc ("rwa" is found in the wild).
            if rule.access and not set(rule.access) & set("rwm"):
                raise ConfigError(
                    f"expected letters of 'rwm', found {rule.access!r}", pointer=f"/linux/resources/devices/{i}/access"
                )
    seccomp = linux.seccomp
    if seccomp is None:
        return
    if seccomp.default_action == "SCMP_ACT_NOTIFY":
        raise ConfigError("SCMP_ACT_NOTIFY cannot be the default action", pointer="/linux/seccomp/defaultAction")
    if not seccomp.listener_path:
        for i, rule_ in enumerate(seccomp.syscalls):
            if rule_.action == "SCMP_ACT_NOTIFY":
                raise ConfigError("SCMP_ACT_NOTIFY needs listenerPath", pointer=f"/linux/seccomp/syscalls/{i}/action")


def sysctl_path(name: str) -> str:
    """`name` relative to /proc/sys: `net.ipv4.ip_forward` and `net/ipv4/ip_forward` are the same.

    As in sysctl(8) the first separator decides: after a dot, `/` stands for a dot within a component
    (`net.ipv4.conf.eth0/1.forwarding`); after a slash, dots are themselves.
    """
    dot, slash = name.find("."), name.find("/")
    if dot == -1 or (slash != -1 and slash < dot):
        return name
    return name.translate(str.maketrans("./", "/."))


def sysctl_namespace(name: str) -> str:
    """The type of namespace that the setting `name` belongs to; "" for one that is the whole machine's."""
    parts = sysctl_path(name).split("/")
    dotted = ".".join(parts)
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        return "ipc"
    if parts[0] == "net" and len(parts) > 1:
        return "network"
    if dotted == "kernel.domainname":
        return "uts"
    return "user" if parts[0] == "user" and len(parts) > 1 else ""


def _sysctl(settings: Mapping[str, str], linux: Linux) -> None:
    """Only what lies in a namespace of the container's own may be set, as runc has it."""
    for name in settings:
        pointer = "/linux/sysctl/" + escape(name)
        parts = sysctl_path(name).split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ConfigError(f"invalid sysctl name {name!r}", pointer=pointer)
        if parts == ["kernel", "hostname"]:
            raise ConfigError("sysctl kernel.hostname: use the property hostname", pointer=pointer)
        kind = sysctl_namespace(name)
        if not kind:
            raise ConfigError(f"sysctl {name!r} is not in a separate kernel namespace", pointer=pointer)
        if linux.namespace(kind) is None:
            raise ConfigError(
                f"sysctl {name!r} is not allowed without a {kind} namespace of the container's own", pointer=pointer
            )


def _net_devices(devices: Mapping[str, NetDevice]) -> None:
    """dev_valid_name() of Linux, for both names; and no two devices under one name."""
    names: set[str] = set()
    for host_name, device in devices.items():
        pointer = "/linux/netDevices/" + escape(host_name)
        for name, at in ((host_name, pointer), (device.name or host_name, pointer + "/name")):
            bad = name in (".", "..") or any(c in "/:" or c.isspace() for c in name)
            if bad or not 0 < len(name.encode(errors="surrogateescape")) <= _IFNAMSIZ - 1 or "%" in name:
                raise ConfigError(f"{name!r} is not the name of a network device", pointer=at)
        wanted = device.name or host_name
        if wanted in names:
            raise ConfigError(f"two network devices would be called {wanted!r}", pointer=pointer)
        names.add(wanted)
