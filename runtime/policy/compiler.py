"""Compile `linux.seccomp` into the monitor's table, with the semantics of runc and libseccomp.

Source: OCI runtime specification, config-linux, "Seccomp"; seccomp(2). For what the specification leaves open, the
behaviour of runc: conditions on the same argument are alternatives; rules equal to the default action are no rules;
names that x86-64 does not have are left out; in a profile that lists x86-64, numbers above all named ones fail with
ENOSYS, unless the default is to allow.
"""

from __future__ import annotations

from pysandbox.oci.errors import ConfigError
from pysandbox.runtime import abi
from pysandbox.runtime.policy.precedence import Conflict, TooComplex, Tree
from pysandbox.runtime.syscall_names import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.oci.spec import Seccomp
    from pysandbox.runtime.policy.precedence import Condition, Outcome

EPERM = 1
ENOSYS = 38
ERRNO_END = 4095  # libseccomp takes smaller ones only; the kernel's MAX_ERRNO
U64 = 0xFFFFFFFFFFFFFFFF

ACTIONS = {
    "SCMP_ACT_ALLOW": abi.VERDICT_ALLOW,
    "SCMP_ACT_ERRNO": abi.VERDICT_ERRNO,
    "SCMP_ACT_KILL": abi.VERDICT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": abi.VERDICT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": abi.VERDICT_KILL_PROCESS,
    "SCMP_ACT_TRAP": abi.VERDICT_TRAP,
    "SCMP_ACT_TRACE": abi.VERDICT_TRACE,
    "SCMP_ACT_LOG": abi.VERDICT_LOG,
    "SCMP_ACT_NOTIFY": abi.VERDICT_NOTIFY,
}
OPERATORS = {
    "SCMP_CMP_NE": abi.CMP_NE,
    "SCMP_CMP_LT": abi.CMP_LT,
    "SCMP_CMP_LE": abi.CMP_LE,
    "SCMP_CMP_EQ": abi.CMP_EQ,
    "SCMP_CMP_GE": abi.CMP_GE,
    "SCMP_CMP_GT": abi.CMP_GT,
    "SCMP_CMP_MASKED_EQ": abi.CMP_MASKED_EQ,
}
_ARCH_NAMES = (
    "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
    "PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
)
ARCHITECTURES = frozenset(["SCMP_ARCH_" + name for name in _ARCH_NAMES.split()])
FLAGS = frozenset(
    "SECCOMP_FILTER_FLAG_" + name for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
)
_WITH_DATA = (abi.VERDICT_ERRNO, abi.VERDICT_TRACE)
_ALLOWING = (abi.VERDICT_ALLOW, abi.VERDICT_LOG, abi.VERDICT_TRACE)


def compile_policy(seccomp: Seccomp | Mapping[str, Any] | None, *, warnings: list[str] | None = None) -> bytes:
    """The blob (`struct psb_policy` and what follows it) for a profile; None allows everything.

    `seccomp` is the typed section or the JSON object. Names that x86-64 does not have go into `warnings`.
    `ConfigError` for unknown actions, operators, architectures and flags, for combinations that the other runtimes
    refuse, and for rules of one call that contradict each other.
    """
    if seccomp is None:
        return build(Table(abi.VERDICT_ALLOW, 0))
    return build(make_table(seccomp, warnings=warnings))


class Table:
    """A profile, understood: the default and for each number the rules in order, the first that matches decides."""

    __slots__ = ("calls", "data", "flags", "verdict")

    def __init__(self, verdict: int, data: int) -> None:
        self.verdict, self.data, self.flags = verdict, data, 0
        self.calls: dict[int, list[tuple[list[Condition], Outcome]]] = {}


def make_table(seccomp: Seccomp | Mapping[str, Any], *, warnings: list[str] | None = None) -> Table:
    """See `compile_policy`."""
    profile = _Profile(seccomp)
    table = Table(*_action(profile.default_action, profile.default_errno, "/linux/seccomp/defaultAction"))
    if table.verdict == abi.VERDICT_NOTIFY:
        raise ConfigError("SCMP_ACT_NOTIFY cannot be the default action", pointer="/linux/seccomp/defaultAction")
    _known(profile.architectures, ARCHITECTURES, "architectures", "architecture")
    _known(profile.flags, FLAGS, "flags", "flag")
    # The native architecture is always part of the filter, listed or not; of the others only x32 can be asked for here.
    if "SCMP_ARCH_X32" not in profile.architectures:
        table.flags |= abi.POLICY_KILL_X32

    plain: dict[int, Outcome] = {}
    trees: dict[int, Tree] = {}
    last = 0
    for index, (names, action, errno_ret, args) in enumerate(profile.rules):
        where = f"/linux/seccomp/syscalls/{index}"
        verdict, data = _action(action, errno_ret, where + "/action")
        outcome = (verdict, data, index + 1)
        redundant = (verdict, data) == (table.verdict, table.data)
        alternatives = _alternatives(args, where)
        if not names:
            raise ConfigError("no names", pointer=where + "/names")
        for name in names:
            number = number_of(name)
            if number is None:
                if not name:
                    raise ConfigError("an empty string is not a system call", pointer=where + "/names")
                if warnings is not None:
                    warnings.append(f"unknown system call {name} ignored")
                continue
            if number > last:
                last = number
            if verdict == abi.VERDICT_NOTIFY and name == "write":
                raise ConfigError("SCMP_ACT_NOTIFY cannot be used for the write syscall", pointer=where)
            if redundant:
                continue
            tree = trees.get(number)
            # An unconditional rule wins over conditional ones, wherever it stands; the first of several wins.
            if number in plain or (tree is not None and tree.always is not None):
                continue
            if alternatives == [[]]:  # nearly all rules of nearly all profiles
                plain[number] = outcome
                continue
            if tree is None:
                tree = trees[number] = Tree()
            try:
                for conditions in alternatives:
                    tree.add(conditions, outcome)
            except Conflict:
                raise ConfigError(f"contradicts an earlier rule for {name}", pointer=where) from None
    _fill(table, plain, trees)
    if (
        last
        and "SCMP_ARCH_X86_64" in profile.architectures
        and table.verdict not in _ALLOWING
        and (table.verdict, table.data) != (abi.VERDICT_ERRNO, ENOSYS)
    ):
        # A libc newer than the profile probes calls the profile's author never heard of: the probe must see ENOSYS.
        # runc does so for the listed architectures only, although the filter covers the native one anyway.
        table.flags |= abi.POLICY_ENOSYS_ABOVE
        unknown: Outcome = (abi.VERDICT_ERRNO, ENOSYS, 0)
        for number in range(last + 1, abi.POLICY_NRS):
            table.calls[number] = [([], unknown)]
    return table


def _fill(table: Table, plain: dict[int, Outcome], trees: dict[int, Tree]) -> None:
    try:
        for number, tree in trees.items():
            table.calls[number] = tree.rules()
    except TooComplex:
        raise ConfigError("the conditions of one system call are too many", pointer="/linux/seccomp/syscalls") from None
    for number, outcome in plain.items():
        table.calls[number] = [([], outcome)]


class _Profile:
    """The section's parts, from the typed spec or from JSON."""

    __slots__ = ("architectures", "default_action", "default_errno", "flags", "rules")

    def __init__(self, seccomp: Seccomp | Mapping[str, Any]) -> None:
        self.default_errno: int | None
        self.rules: list[tuple[Sequence[str], str, int | None, Sequence[tuple[int, int, int, str]]]]
        if not isinstance(seccomp, dict):
            typed: Any = seccomp
            self.default_action = typed.default_action
            self.default_errno = typed.default_errno_ret
            self.architectures, self.flags = typed.architectures, typed.flags
            self.rules = [
                (r.names, r.action, r.errno_ret, [(a.index, a.value, a.value_two, a.op) for a in r.args])
                for r in typed.syscalls
            ]
            return
        self.default_action = seccomp.get("defaultAction", "")
        self.default_errno = seccomp.get("defaultErrnoRet")
        self.architectures = tuple(seccomp.get("architectures") or ())
        self.flags = tuple(seccomp.get("flags") or ())
        self.rules = [
            (
                tuple(r.get("names") or ()),
                r.get("action", ""),
                r.get("errnoRet"),
                [(a["index"], a["value"], a.get("valueTwo", 0), a["op"]) for a in r.get("args") or ()],
            )
            for r in seccomp.get("syscalls") or ()
        ]


def _action(name: str, errno_ret: int | None, pointer: str) -> tuple[int, int]:
    verdict = ACTIONS.get(name)
    if verdict is None:
        raise ConfigError(f"unknown seccomp action {name!r}", pointer=pointer)
    if verdict not in _WITH_DATA:
        return verdict, 0
    data = EPERM if errno_ret is None else errno_ret & 0xFFFF
    if verdict == abi.VERDICT_ERRNO and data >= ERRNO_END:
        raise ConfigError(f"errno {data} is not below {ERRNO_END}", pointer=pointer)
    return verdict, data


def _known(values: Sequence[str], known: frozenset[str], key: str, what: str) -> None:
    for index, value in enumerate(values):
        if value not in known:
            raise ConfigError(f"unknown seccomp {what} {value!r}", pointer=f"/linux/seccomp/{key}/{index}")


def _alternatives(args: Sequence[tuple[int, int, int, str]], where: str) -> list[list[Condition]]:
    """Conjunctions, any of which makes the rule match: one with all conditions, or, when an argument occurs twice,
    one for each condition."""
    conditions: list[Condition] = []
    for place, (index, value, value_two, op_name) in enumerate(args):
        pointer = f"{where}/args/{place}"
        op = OPERATORS.get(op_name)
        if op is None:
            raise ConfigError(f"unknown seccomp operator {op_name!r}", pointer=pointer + "/op")
        if not 0 <= index <= 5:
            raise ConfigError(f"system calls have six arguments, 0 to 5, not {index}", pointer=pointer + "/index")
        if op == abi.CMP_MASKED_EQ:
            conditions.append((index, op, value_two & U64, value & U64))
        else:
            conditions.append((index, op, value & U64, U64))
    if len({condition[0] for condition in conditions}) < len(conditions):
        return [[condition] for condition in conditions]
    return [conditions]


def build(table: Table) -> bytes:
    """The blob. Not by `abi.Policy`, whose five hundred entries would be objects, in every container's start."""
    rules: list[tuple[int, int, int, int, int]] = []
    conds: list[Condition] = []
    entries = [(0, 0)] * abi.POLICY_NRS
    shared: dict[tuple[int, int, int], int] = {}  # unconditional outcomes, one rule for all numbers
    for number, listed in table.calls.items():
        if len(listed) == 1 and not listed[0][0]:
            outcome = listed[0][1]
            at = shared.get(outcome)
            if at is None:
                at = shared[outcome] = len(rules)
                rules.append((*outcome, 0, 0))
            entries[number] = (at, 1)
            continue
        entries[number] = (len(rules), len(listed))
        for conditions, outcome in listed:
            rules.append((*outcome, len(conds), len(conditions)))
            conds += conditions
    from _struct import pack

    head = pack("<Q6I", abi.POLICY_MAGIC, abi.ABI_VERSION, table.verdict, table.data, len(rules), len(conds), table.flags)
    flat = pack(f"<{2 * len(entries)}I", *[n for entry in entries for n in entry])
    parts = [head, flat]
    parts += [pack("<6I", *rule, 0) for rule in rules]
    parts += [pack("<IIQQ", arg, op, mask, value) for arg, op, value, mask in conds]
    return b"".join(parts)
