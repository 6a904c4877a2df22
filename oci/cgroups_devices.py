"""Which devices a container may use: the rules of linux.resources.devices, reduced to what the kernel keeps.

A version 1 group has a default (allow or deny) and exceptions, and so has `DeviceRules`: rules are applied in order, as the
kernel would apply them, and what comes out can be written as the shortest change to an existing group, or compiled
into one program for version 2. The kernel ignores a rule that would cut a hole into an exception with a wildcard; that
is an error here, because the caller would believe in a protection that is not there (runc does the same).
"""

from __future__ import annotations

import errno

from pysandbox.oci import cgroups_files as files
from pysandbox.oci.errors import ConfigError, ResourceError
from pysandbox.oci.spec import DeviceRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Node = tuple[str, int, int]
"""Type (`b` or `c`), major, minor; -1 for all."""

ANY = -1

# Nodes every container may use, whatever its rules say; runc has the same list.
DEFAULT_RULES = tuple(
    DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)
    for kind, major, minor, access in (
        ("c", None, None, "m"), ("b", None, None, "m"), ("c", 1, 3, "rwm"), ("c", 1, 8, "rwm"), ("c", 1, 7, "rwm"),
        ("c", 5, 0, "rwm"), ("c", 1, 5, "rwm"), ("c", 1, 9, "rwm"), ("c", 136, None, "rwm"), ("c", 5, 2, "rwm"),
        ("c", 10, 200, "rwm"),
    )
)  # fmt: skip


class DeviceRules:
    """A default and the exceptions to it: node -> letters of `rwm`."""

    def __init__(self, allow: bool = False) -> None:
        self.allow = allow
        self.exceptions: dict[Node, str] = {}

    @classmethod
    def of(cls, rules: Iterable[DeviceRule]) -> DeviceRules:
        """What these rules, in order and with the defaults behind them, come to. A group starts as deny-all."""
        out = cls()
        for rule in rules:
            out.add(rule)
        for rule in DEFAULT_RULES:
            out.add(rule)
        return out

    @classmethod
    def read(cls, directory: str) -> DeviceRules:
        """The present state of a version 1 group, from `devices.list`. `OSError`."""
        out = cls()
        for line in files.read(directory, "devices.list").splitlines():
            kind, numbers, access = line.split(" ")
            if kind == "a":
                return cls(allow=True)  # exceptions to allow-all are not listed
            major, minor = (ANY if n == "*" else int(n) for n in numbers.split(":"))
            out.exceptions[kind, major, minor] = _letters(access)
        return out

    def add(self, rule: DeviceRule) -> None:
        """`ConfigError` for a rule the kernel would ignore."""
        if rule.type not in ("b", "c"):
            # For "all devices" the kernel ignores numbers and access, and forgets every exception.
            self.allow = rule.allow
            self.exceptions = {}
            return
        node = (rule.type, _number(rule.major), _number(rule.minor))
        access = _letters(rule.access or "rwm")
        if rule.allow != self.allow:
            self.exceptions[node] = _letters(self.exceptions.get(node, "") + access)
            return
        kind, major, minor = node
        for wider in ((kind, ANY, minor), (kind, major, ANY), (kind, ANY, ANY)):
            if wider != node and set(self.exceptions.get(wider, "")) & set(access):
                raise ConfigError(
                    f"device rule {rule_text(node, access)!r} is not supported: it cuts a hole into the rule "
                    f"{rule_text(wider, self.exceptions[wider])!r}, which the kernel would ignore",
                    pointer="/linux/resources/devices",
                )
        left = "".join(c for c in self.exceptions.get(node, "") if c not in access)
        if left:
            self.exceptions[node] = left
        else:
            self.exceptions.pop(node, None)

    def changes_from(self, old: DeviceRules) -> list[tuple[str, str]]:
        """(file, text) to write to a version 1 group in the state `old`. Nothing that both allow is denied meanwhile,
        unless the default changes.
        """
        out = []
        before = old.exceptions
        name, back = ("devices.deny", "devices.allow") if self.allow else ("devices.allow", "devices.deny")
        if old.allow != self.allow or self.allow:
            # Exceptions to allow-all cannot be read back, so that case starts from the beginning, too.
            out.append((back, "a"))
            before = {}
        for node in sorted(before):
            gone = "".join(c for c in before[node] if c not in self.exceptions.get(node, ""))
            if gone:
                out.append((back, rule_text(node, gone)))
        for node in sorted(self.exceptions):
            new = "".join(c for c in self.exceptions[node] if c not in before.get(node, ""))
            if new:
                out.append((name, rule_text(node, new)))
        return out


def _number(value: int | None) -> int:
    return ANY if value is None or value < 0 else value


def _letters(access: str) -> str:
    return "".join(c for c in "rwm" if c in access)


def rule_text(node: Node, access: str) -> str:
    """`c 1:3 rwm`, as the files of the controller have it."""
    kind, major, minor = node
    return f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"


def check(rules: Iterable[DeviceRule]) -> None:
    """`ConfigError` before anything is made."""
    for index, rule in enumerate(rules):
        if not rule.access:
            raise ConfigError(
                f"device access at {index} field cannot be empty", pointer=f"/linux/resources/devices/{index}/access"
            )
    DeviceRules.of(rules)


def apply(directory: str, rules: Iterable[DeviceRule]) -> None:
    """Writes the rules to a version 1 group. `ResourceError` if the group is not what was asked for afterwards: a
    parent that denies more makes the kernel refuse, or keep quiet.
    """
    wanted = DeviceRules.of(rules)
    try:
        present = DeviceRules.read(directory)
        for name, text in wanted.changes_from(present):
            files.write(directory, name, text)
        result = DeviceRules.read(directory)
    except OSError as error:
        from pysandbox.oci.errors import from_os_error

        raise from_os_error(f"restrict devices in {directory}", error) from None
    if result.allow != wanted.allow or (not wanted.allow and result.exceptions != wanted.exceptions):
        raise ResourceError("resulting devices cgroup doesn't precisely match target", errno=errno.EPERM)
