"""What a profile says about a call, and which of its rules says it."""

from __future__ import annotations

from pysandbox.oci.errors import UsageError
from pysandbox.runtime import abi
from pysandbox.runtime.policy.compiler import ENOSYS, make_table
from pysandbox.runtime.syscall_names import name_of, number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.oci.spec import Seccomp
    from pysandbox.runtime.policy.precedence import Condition, Outcome

VERDICTS = (
    "allow",
    "errno",
    "kill-thread",
    "kill",
    "trap",
    "trace",
    "log",
    "notify",
    "unsupported",
    "refused",
)
_OPERATORS = {
    abi.CMP_NE: "!=",
    abi.CMP_LT: "<",
    abi.CMP_LE: "<=",
    abi.CMP_EQ: "==",
    abi.CMP_GE: ">=",
    abi.CMP_GT: ">",
}
_X32_BIT = 0x40000000
_NO_CALL = 0xFFFFFFFF  # what a tracer writes to skip a call; it has the x32 bit by accident


def explain(
    profile: Seccomp | Mapping[str, Any] | None, name: str, args: Sequence[int] | None = None
) -> dict[str, object]:
    """The decision for the call `name` (or its number, as text).

    With `args` (missing ones are 0): `verdict`, `errno` or `data`, `rule` (1-based index into `seccomp.syscalls`,
    None: the default). Without: `outcomes`, all that may come out, in the order in which their `when` is tried.
    """
    number = number_of(name)
    if number is None and name.isdecimal():
        number = int(name)
    if number is None or number > 0xFFFFFFFF:
        raise UsageError(f"unknown system call {name!r}")
    out: dict[str, object] = {"name": name_of(number) or name, "nr": number}
    if profile is None:
        return {**out, "verdict": "allow", "rule": None}
    table = make_table(profile)
    listed = _outside(table.flags, number) if number >= abi.POLICY_NRS else table.calls.get(number, [])
    default = (table.verdict, table.data, 0)
    if args is not None:
        if len(args) > 6:
            raise UsageError("a system call has six arguments")
        six = [*args, *[0] * (6 - len(args))]
        for conditions, outcome in listed:
            if all(holds(condition, six) for condition in conditions):
                return {**out, **_outcome(outcome)}
        return {**out, **_outcome(default)}
    outcomes: list[dict[str, object]] = [
        {"when": " && ".join(_text(c) for c in conditions) or "always", **_outcome(outcome)}
        for conditions, outcome in listed
    ]
    if not listed or listed[-1][0]:
        outcomes.append({"when": "otherwise" if listed else "always", **_outcome(default)})
    return {**out, "outcomes": outcomes}


def _outside(flags: int, number: int) -> list[tuple[list[Condition], Outcome]]:
    """What is said of a number that the table has no entry for, as `policy_decide` in runtime/monitor/policy.c."""
    if number & _X32_BIT and number != _NO_CALL and flags & abi.POLICY_KILL_X32:
        return [([], (abi.VERDICT_KILL_THREAD, 0, 0))]
    if flags & abi.POLICY_ENOSYS_ABOVE:
        return [([], (abi.VERDICT_ERRNO, ENOSYS, 0))]
    return []


def holds(condition: Condition, args: Sequence[int]) -> bool:
    """The condition, for these arguments (unsigned, 64 bits)."""
    arg, op, value, mask = condition
    given = args[arg] & 0xFFFFFFFFFFFFFFFF
    if op == abi.CMP_MASKED_EQ:
        return given & mask == value
    return {
        abi.CMP_NE: given != value,
        abi.CMP_LT: given < value,
        abi.CMP_LE: given <= value,
        abi.CMP_EQ: given == value,
        abi.CMP_GE: given >= value,
        abi.CMP_GT: given > value,
    }[op]


def _text(condition: Condition) -> str:
    arg, op, value, mask = condition
    if op == abi.CMP_MASKED_EQ:
        return f"arg{arg} & {mask:#x} == {value:#x}"
    return f"arg{arg} {_OPERATORS[op]} {value:#x}"


def _outcome(outcome: tuple[int, int, int]) -> dict[str, object]:
    verdict, data, rule = outcome
    out: dict[str, object] = {"verdict": VERDICTS[verdict], "rule": rule or None}
    if verdict == abi.VERDICT_ERRNO:
        from errno import errorcode

        out["errno"] = errorcode.get(data, str(data))
    elif verdict == abi.VERDICT_TRACE:
        out["data"] = data
    return out
