"""Device rules: what they come to, how a version 1 group is changed, and the program for version 2 (interpreted)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pysandbox.oci import cgroups_bpf, cgroups_devices
from pysandbox.oci.cgroups_devices import DeviceRules
from pysandbox.oci.errors import ConfigError
from pysandbox.oci.spec import DeviceRule

BLOCK, CHAR = 1, 2  # BPF_DEVCG_DEV_*
MKNOD, READ, WRITE = 1, 2, 4  # BPF_DEVCG_ACC_*
DENY_ALL = DeviceRule(allow=False, type="a", access="rwm")
ALLOW_ALL = DeviceRule(allow=True, type="a", access="rwm")


def rule(text: str, *, allow: bool = True) -> DeviceRule:
    kind, numbers, access = text.split()
    major, minor = (None if n == "*" else int(n) for n in numbers.split(":"))
    return DeviceRule(allow=allow, type=kind, major=major, minor=minor, access=access)


def run_bpf(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """The instructions `device_program` uses, interpreted."""
    context = struct.pack("<III", access << 16 | kind, major, minor)
    register = [0] * 11
    at = 0
    while True:
        code, registers, offset, immediate = struct.unpack_from("<BBhI", program, at * 8)
        at += 1
        dst = registers & 15
        if code == 0x61:
            register[dst] = struct.unpack_from("<I", context, offset)[0]
        elif code == 0x54:
            register[dst] &= immediate
        elif code == 0x74:
            register[dst] >>= immediate
        elif code == 0xB4:
            register[dst] = immediate
        elif code == 0x56:
            at += offset if register[dst] != immediate else 0
        elif code == 0x46:
            at += offset if register[dst] & immediate else 0
        elif code == 0x05:
            at += offset
        else:
            assert code == 0x95
            return register[0]


def test_what_is_not_allowed_is_denied() -> None:
    program = cgroups_bpf.device_program((DENY_ALL, rule("c 5:9 rw"), rule("b 8:* r"), rule("c 7:* rw")))
    for arguments, allowed in (
        ((CHAR, READ | WRITE | MKNOD, 1, 3), 1),  # by default
        ((CHAR, READ, 1, 4), 0),
        ((BLOCK, READ, 1, 3), 0),
        ((CHAR, READ | WRITE, 5, 9), 1),
        ((CHAR, MKNOD, 5, 77), 1),  # by default
        ((CHAR, READ, 5, 7), 0),
        ((CHAR, READ, 7, 4000000000), 1),
        ((BLOCK, READ, 8, 1), 1),
        ((BLOCK, WRITE, 8, 1), 0),
        ((BLOCK, READ | WRITE, 8, 1), 0),
    ):
        assert run_bpf(program, *arguments) == allowed, arguments


def test_exceptions_to_allow_all() -> None:
    program = cgroups_bpf.device_program((ALLOW_ALL, rule("c 10:229 rwm", allow=False), rule("b 8:* w", allow=False)))
    for arguments, allowed in (
        ((CHAR, READ, 1, 4), 1),
        ((CHAR, READ, 10, 229), 0),
        ((BLOCK, READ, 8, 1), 1),
        ((BLOCK, WRITE, 8, 1), 0),
        ((BLOCK, READ | WRITE, 8, 1), 0),  # any access that is denied denies the request
        ((BLOCK, MKNOD, 8, 1), 1),
    ):
        assert run_bpf(program, *arguments) == allowed, arguments


def test_without_rules_there_are_the_default_nodes() -> None:
    program = cgroups_bpf.device_program(())
    assert run_bpf(program, CHAR, READ | WRITE, 1, 3) == 1
    assert run_bpf(program, CHAR, READ, 1, 1) == 0
    assert run_bpf(program, BLOCK, MKNOD, 8, 1) == 1


def test_a_later_rule_overrides_an_earlier_one() -> None:
    rules = DeviceRules.of((DENY_ALL, rule("c 9:9 rw"), rule("c 9:9 w", allow=False), rule("c 9:8 r"), rule("c 9:8 w")))
    assert rules.exceptions["c", 9, 9] == "r"
    assert rules.exceptions["c", 9, 8] == "rw"
    rules = DeviceRules.of((rule("c 9:9 rw"), ALLOW_ALL))
    assert rules.allow
    assert not rules.exceptions


@pytest.mark.parametrize(
    "rules",
    [
        (DENY_ALL, rule("c *:* rwm"), rule("c 1:3 rw", allow=False)),
        (DENY_ALL, rule("c 5:* rw"), rule("c 5:7 w", allow=False)),
        (ALLOW_ALL, rule("c 1:* rwm", allow=False)),  # the default rules would cut into it
    ],
)
def test_holes_in_wildcards_are_refused(rules: tuple[DeviceRule, ...]) -> None:
    with pytest.raises(ConfigError, match="cuts a hole"):
        cgroups_devices.check(rules)


def test_other_letters_of_access_are_without_effect() -> None:
    rules = [rule("c 9:9 rwma"), rule("c 9:9 wx", allow=False)]
    assert DeviceRules.of(rules).exceptions["c", 9, 9] == "rm"


def test_a_rule_without_access_is_refused() -> None:
    with pytest.raises(ConfigError, match="device access at 1 field cannot be empty"):
        cgroups_devices.check((DENY_ALL, DeviceRule(allow=True, type="c", major=1)))


def test_changes_never_take_away_what_stays(tmp_path: Path) -> None:
    (tmp_path / "devices.list").write_text("c 1:3 rwm\nb *:* m\nc 5:1 rw\n")
    old = DeviceRules.read(str(tmp_path))
    new = DeviceRules()
    for text in ("c 1:3 rwm", "c 5:1 r", "c 7:* rw"):
        new.add(rule(text))
    assert new.changes_from(old) == [
        ("devices.deny", "b *:* m"), ("devices.deny", "c 5:1 w"), ("devices.allow", "c 7:* rw"),
    ]  # fmt: skip
    assert new.changes_from(new) == []


def test_changes_of_the_default(tmp_path: Path) -> None:
    (tmp_path / "devices.list").write_text("a *:* rwm\n")
    everything = DeviceRules.read(str(tmp_path))
    nothing = DeviceRules()
    nothing.add(rule("c 1:3 rwm"))
    assert nothing.changes_from(everything) == [("devices.deny", "a"), ("devices.allow", "c 1:3 rwm")]
    some = DeviceRules.of(())
    some.add(ALLOW_ALL)
    some.add(rule("b 8:0 w", allow=False))
    assert some.changes_from(nothing) == [("devices.allow", "a"), ("devices.deny", "b 8:0 w")]
