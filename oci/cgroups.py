"""Control groups: which ones a container gets, making, joining and removing them (config-linux.md, "Control groups").

Where the host has version 2 at /sys/fs/cgroup that is used, otherwise the version 1 hierarchies that are mounted; of a
"hybrid" host the version 2 part only tracks processes. Limits are in `cgroups_v1` and `cgroups_v2`, device rules in
`cgroups_devices` and `cgroups_bpf`, the systemd driver in `cgroups_systemd`.

Order in the life of a container: `plan` (nothing is made), `footprint` (recorded before it is made), `create`, `apply`,
`join`. With the systemd driver the group begins with its first process, and `join` does all of it.
"""

from __future__ import annotations

import errno
import os

from pysandbox.oci import cgroups_files as files
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import ConfigError, ResourceError, UnsupportedError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from pysandbox.oci.spec import Resources, Spec
    from pysandbox.oci.state import State

MANAGERS = ("cgroupfs", "systemd", "disabled")
"""Who makes the groups; names as crun's --cgroup-manager has them."""

TOP = "/sys/fs/cgroup"
_REFUSED = (errno.EPERM, errno.EACCES, errno.EROFS)
_V1 = frozenset(
    [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "net_cls",
        "net_prio",
        "perf_event",
        "hugetlb",
        "rdma",
        "misc",
        "name=systemd",
    ]
)


class Layout(Struct):
    """The host's hierarchies. `mounts`: controller -> mount point ("" for version 2); `own`: controller -> the caller's
    group below that mount point. `hybrid`: mount point of a version 2 hierarchy beside version 1 ones, else ""."""

    unified: bool
    mounts: dict[str, str]
    own: dict[str, str]
    hybrid: str = ""

    def own_group(self, controller: str) -> str:
        """The caller's group: that of a container without any of its own."""
        return os.path.normpath(os.path.join(self.mounts[controller], self.own[controller]))


class Cgroup(Struct):
    """A container's groups: controller -> absolute directory ("" for version 2, "unified" for the version 2 part of a
    hybrid host, which only tracks processes). Several may share one directory; none at all with the manager
    "disabled".

    `unit`, `slice`: of the systemd driver, else ""; `slice` only until the unit is started. `properties`: what
    annotations say about the unit, as `org.systemd.property.NAME`. `chosen`: config.json says where; a refusal by the
    host is then an error, where an unprivileged caller would otherwise do without. `owner`: host uid that is given the
    group (version 2, systemd).
    """

    paths: dict[str, str]
    unit: str = ""
    slice: str = ""
    properties: Mapping[str, str] | None = None
    chosen: bool = False
    owner: int | None = None

    def record(self) -> dict[str, Any]:
        """JSON for the state directory (`of_state` reads it)."""
        out: dict[str, Any] = {"paths": self.paths}
        if self.unit:
            out["unit"] = self.unit
        return out


# --- the host ---------------------------------------------------------------------------------------------------------

_layout: Layout | None = None


def host_layout() -> Layout:
    """Read once per process: a mount made later is the container's."""
    global _layout
    if _layout is None:
        with open("/proc/self/cgroup") as groups, open("/proc/self/mountinfo") as mounts:
            _layout = read_layout(groups, mounts, _is_seen)
    return _layout


def _is_seen(place: str, device: str) -> bool:
    """Mounts below something that was mounted over are listed, too: what is found at the place decides."""
    try:
        found = os.stat(place).st_dev
    except OSError:
        return False
    return device == f"{os.major(found)}:{os.minor(found)}"


def read_layout(
    cgroup_lines: Iterable[str], mountinfo_lines: Iterable[str], seen: Callable[[str, str], bool] = lambda place, device: True
) -> Layout:
    """The layout that /proc/self/cgroup and /proc/self/mountinfo describe (cgroups(7), proc(5)). `seen`: whether the file system
    with this device number is what a mount point shows."""
    groups: dict[str, str] = {}
    for line in cgroup_lines:
        _, controllers, path = line.rstrip("\n").split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    mounts: dict[str, str] = {}
    roots: dict[str, str] = {}
    second = ""
    for line in mountinfo_lines:
        if " - cgroup" not in line:
            continue
        left, _, right = line.rstrip("\n").partition(" - ")
        fields = left.split(" ")
        kind, _, options = right.split(" ", 2)
        place, root = _unescape(fields[4]), _unescape(fields[3])
        # The same hierarchy may be mounted again elsewhere, for a container say: the usual place is preferred.
        usual = place == TOP or place.startswith(TOP + "/")
        if not seen(place, fields[2]):
            continue
        if kind == "cgroup2":
            if not second or (usual and not second.startswith(TOP)):
                second, roots[""] = place, root
            continue
        for option in options.split(","):
            if option in groups and option in _V1 and (option not in mounts or (usual and not mounts[option].startswith(TOP))):
                mounts[option], roots[option] = place, root
    unified = bool(second) and (second == TOP or not mounts)
    if unified:
        mounts = {"": second}
    own = {controller: _below(groups.get(controller, "/"), roots.get(controller, "/")) for controller in (*mounts, "")}
    return Layout(unified=unified, mounts=mounts, own=own, hybrid="" if unified else second)


def _below(path: str, root: str) -> str:
    """`path` as seen in a mount of `root`. Outside of it (another cgroup namespace) the mount's root has to do."""
    above = root.rstrip("/") + "/"
    if not path.startswith(above) or ".." in path.split("/"):
        return "."
    return path[len(above) :] or "."


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text


# --- which groups -----------------------------------------------------------------------------------------------------


def plan(spec: Spec, container_id: str, manager: str = "cgroupfs") -> Cgroup:
    """Where the container's groups will be. An absolute cgroupsPath starts at the hierarchy's root, anything else at
    the caller's own group (with version 2 beside it: a group with processes has no groups below). Nothing is made yet,
    so that the state can record it first. `ConfigError`, `ResourceError`, `UnsupportedError`.
    """
    if manager == "disabled":
        return Cgroup(paths={})
    layout = host_layout()
    check(spec.linux.resources, layout)
    if manager == "systemd":
        from pysandbox.oci import cgroups_systemd

        return cgroups_systemd.plan(spec, container_id, layout)
    wanted = spec.linux.cgroups_path
    path = os.path.normpath("/" + (wanted or container_id)).lstrip("/")
    if not path:
        raise ConfigError(f"{wanted!r} is not a group of the container's own", pointer="/linux/cgroupsPath")
    absolute = wanted.startswith("/")
    paths = {}
    for controller, mount in layout.mounts.items():
        own = layout.own[controller]
        base = "." if absolute else os.path.dirname(own) if layout.unified else own
        paths[controller] = os.path.normpath(os.path.join(mount, base, path))
    if layout.hybrid:
        base = "." if absolute else layout.own[""]
        paths["unified"] = os.path.normpath(os.path.join(layout.hybrid, base, path))
    return Cgroup(paths=paths, chosen=bool(wanted))


def check(resources: Resources | None, layout: Layout) -> None:
    """What cannot be on this host, before anything is made."""
    if not layout.unified and "devices" not in layout.mounts and not _rootless():
        # Without it a container could open every device of the host.
        raise ResourceError("mountpoint for devices not found: is the cgroup file system mounted?", errno=errno.ENOENT)
    if resources is None:
        return
    if resources.unified is not None and not layout.unified:
        raise UnsupportedError("invalid configuration: cannot use unified on cgroup v1")
    if resources.devices:
        from pysandbox.oci import cgroups_devices

        cgroups_devices.check(resources.devices)
    for page in resources.hugepage_limits:
        if not page.page_size.isalnum():
            raise ConfigError(f"{page.page_size!r} is not a page size", pointer="/linux/resources/hugepageLimits")


def _rootless() -> bool:
    """Whether refusals by the host are to be expected: not root, or root of a user namespace only."""
    if os.geteuid() != 0:
        return True
    from pysandbox.oci.userns import in_user_namespace

    return in_user_namespace()


def of_state(state: State) -> Cgroup:
    """The groups of a container that exists already."""
    data = state.data.get("cgroup")
    if isinstance(data, dict) and isinstance(data.get("paths"), dict):
        paths = {name: path for name, path in data["paths"].items() if isinstance(path, str) and path.startswith("/")}
        return Cgroup(paths=paths or _by_place(state), unit=str(data.get("unit", "")))
    return Cgroup(paths=_by_place(state))


def _by_place(state: State) -> dict[str, str]:
    """Controllers of the directories that were made for a container, by the hierarchy they are in."""
    layout = host_layout()
    places = {**layout.mounts, **({"unified": layout.hybrid} if layout.hybrid else {})}
    made = [made.path for made in state.made if made.kind == "cgroup"]
    return {name: path for name, mount in places.items() for path in made if path.startswith(mount + "/")}


def directories(cgroup: Cgroup) -> list[str]:
    return list(dict.fromkeys(cgroup.paths.values()))


def footprint(cgroup: Cgroup) -> list[tuple[str, str]]:
    """(kind, path) of what making these groups will leave on the host, outermost first; kinds as `state.Made` has them.

    A group that exists and is empty becomes the container's own; one with processes is joined, and stays. Groups above
    that do not exist are removed again if nothing else has come to live in them.
    """
    out: list[tuple[str, str]] = []
    if cgroup.unit:
        out.append(("unit", "/" + cgroup.unit))
    seen = set()
    for path in cgroup.paths.values():
        if path in seen:
            continue
        seen.add(path)
        if not os.path.isdir(path):
            if not cgroup.unit:
                out += [("cgroup-above", above) for above in _missing_above(path, seen)]
            out.append(("cgroup", path))
        elif not _occupied(path):
            out.append(("cgroup", path))
    return out


def _missing_above(path: str, seen: set[str]) -> list[str]:
    missing: list[str] = []
    while (path := os.path.dirname(path)) not in seen and not os.path.isdir(path):
        seen.add(path)
        missing.insert(0, path)
    return missing


def _occupied(path: str) -> bool:
    try:
        return bool(files.read(path, "cgroup.procs"))
    except OSError as error:
        # A threaded group answers EOPNOTSUPP, and has threads of others.
        return error.errno == errno.EOPNOTSUPP


# --- making, joining --------------------------------------------------------------------------------------------------


def create(cgroup: Cgroup, resources: Resources | None = None, warn: Callable[[str], None] = lambda message: None) -> None:
    """Makes the groups. `ResourceError`. One with processes in it is joined, with a warning."""
    if cgroup.unit:
        return
    layout = host_layout()
    occupied = False
    for controller, path in list(cgroup.paths.items()):
        try:
            if controller == "":
                existed = os.path.isdir(path)
                from pysandbox.oci import cgroups_v2

                cgroups_v2.create(path, layout.mounts[""], resources)
            else:
                existed = not _make(path, controller, resources)
            if existed and controller in ("devices", "") and not occupied and (count := len(_members(path))):
                occupied = True
                warn(f"container's cgroup is not empty: {count} process(es) found")
        except OSError as error:
            if error.errno in _REFUSED and not cgroup.chosen and _rootless():
                # Limits that need this group fail by name.
                del cgroup.paths[controller]
                continue
            raise from_os_error(f"mkdir {path}", error) from None


def may_be_refused(cgroup: Cgroup) -> bool:
    """Whether `create` may leave groups out, as without the rights for them."""
    return not cgroup.chosen and _rootless()


def refuse_frozen(cgroup: Cgroup) -> None:
    """`ResourceError` for a group that exists and is frozen: the container would never start. To be asked before anything
    is recorded as made, so that the group stays as it is."""
    if os.path.isdir(cgroup.paths.get("freezer") or cgroup.paths.get("") or "/nonexistent"):
        from pysandbox.oci import cgroups_freezer

        if cgroups_freezer.is_frozen(cgroup.paths):
            raise ResourceError("container's cgroup unexpectedly frozen", errno=errno.EBUSY)


def _members(path: str) -> list[str]:
    try:
        return files.read(path, "cgroup.procs").split()
    except OSError:
        return []


def _make(path: str, controller: str, resources: Resources | None) -> bool:
    """A version 1 group and those above it; whether it was made now. `OSError`."""
    try:
        os.mkdir(path, 0o755)
        made = True
    except FileExistsError:
        made = False
    except FileNotFoundError:
        _make(os.path.dirname(path), controller, None)
        return _make(path, controller, resources)
    if controller == "cpuset":
        _fill_cpuset(path, resources)
    return made


def _fill_cpuset(path: str, resources: Resources | None) -> None:
    """Version 1: a new group may use no CPU and no memory node until told otherwise, and takes no process."""
    cpu = resources.cpu if resources is not None else None
    parent = os.path.dirname(path)
    for name, wanted in (("cpuset.cpus", cpu and cpu.cpus), ("cpuset.mems", cpu and cpu.mems)):
        if not wanted and not files.read(path, name).strip():
            inherited = files.read(parent, name).strip()
            if not inherited and os.path.exists(f"{parent}/cgroup.procs"):
                # Made by something that did not care, like `mkdir -p`.
                _fill_cpuset(parent, None)
                inherited = files.read(parent, name).strip()
            files.write(path, name, inherited)


def apply(cgroup: Cgroup, resources: Resources | None) -> None:
    """Writes the limits of linux.resources, and the rules for devices, which every container has. `ResourceError`
    naming the file that refused."""
    if cgroup.unit or not cgroup.paths:
        return
    set_limits(cgroup, resources, files.Setter())


def set_limits(cgroup: Cgroup, resources: Resources | None, setter: files.Setter, *, devices: bool = True) -> None:
    """`apply`, through a setter of the caller's; `devices` False leaves the rules for devices as they are."""
    rules = resources.devices if resources is not None else ()
    paths = cgroup.paths
    if "" in paths:
        if devices:
            _filter_devices(paths[""], rules)
        if resources is not None:
            from pysandbox.oci import cgroups_v2

            cgroups_v2.apply(paths[""], resources, setter)
        return
    if devices:
        from pysandbox.oci import cgroups_devices

        try:
            if "devices" not in paths:
                raise files.missing("devices")
            cgroups_devices.apply(paths["devices"], rules)
        except ResourceError:
            if not _rootless():
                raise
    if resources is not None:
        from pysandbox.oci import cgroups_v1

        cgroups_v1.apply(paths, resources, setter)


def _filter_devices(path: str, rules: tuple[Any, ...]) -> None:
    from pysandbox.oci import cgroups_bpf

    try:
        cgroups_bpf.attach(path, rules)
    except ResourceError:
        # In a user namespace nodes of devices cannot be made or opened anyway; and who allows everything needs no filter.
        harmless = all(rule.allow and set("rwm") <= set(rule.access) for rule in rules)
        if not _rootless() and not (rules and harmless):
            raise


def join(cgroup: Cgroup, pid: int, resources: Resources | None = None) -> None:
    """Moves a container's first process into its groups. The first write waits for other processors (a grace period,
    some 10 ms), without using any. `ResourceError`."""
    if cgroup.slice:
        from pysandbox.oci import cgroups_systemd

        cgroups_systemd.start(cgroup, pid, resources)
        return
    for path in directories(cgroup):
        _move(path, pid)


def enter(cgroup: Cgroup, pid: int, init: int = 0) -> None:
    """Moves a further process (`exec`) into a container's groups. `init`: the container's first process; when programs
    inside have moved it to a group below (version 2: systemd, nested containers), its group is the one to enter.
    """
    for path in directories(cgroup):
        try:
            _move(path, pid)
        except ResourceError as error:
            if "" not in cgroup.paths or not init or error.errno not in (errno.EBUSY, errno.EOPNOTSUPP, errno.ENOENT):
                raise ResourceError(f"adding pid {pid} to cgroups: {error.message}", errno=error.errno) from None
            with open(f"/proc/{init}/cgroup") as lines:
                own = next((line.rstrip("\n")[3:] for line in lines if line.startswith("0::")), "")
            place = os.path.normpath(host_layout().mounts[""] + own)
            if not place.startswith(path + "/"):
                raise
            _move(place, pid)


def _move(path: str, pid: int) -> None:
    for attempt in range(5):
        try:
            files.write(path, "cgroup.procs", str(pid))
            return
        except OSError as error:
            # EINVAL: a process so new that it has not run yet.
            if error.errno != errno.EINVAL or attempt == 4:
                raise from_os_error(f"failed to write {pid}: write {path}/cgroup.procs", error) from None
            import time

            time.sleep(0.03)


# --- afterwards -------------------------------------------------------------------------------------------------------


def processes(cgroup_paths: list[str]) -> list[int]:
    """Host pids in the groups, those below included."""
    found: set[int] = set()
    for path in cgroup_paths:
        for group in files.each_group(path):
            found.update(files.members(group))
    return sorted(found)
