"""What a profile says about a call, and which of its rules says it."""

from __future__ import annotations

from pysandbox.oci.errors import UsageError
from pysandbox.runtime import abi
from pysandbox.runtime.policy.compiler import make_table
from pysandbox.runtime.syscall_names import name_of, number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.oci.spec import Seccomp
    from pysandbox.runtime.policy.precedence import Condition

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
    if number is None:
        raise UsageError(f"unknown system call {name!r}")
    out: dict[str, object] = {"name": name_of(number) or name, "nr": number}
    if profile is None:
        return {**out, "verdict": "allow", "rule": None}
    table = make_table(profile)
    listed = table.calls.get(number, [])
    if number >= abi.POLICY_NRS and table.flags & abi.POLICY_ENOSYS_ABOVE:
        listed = [([], (abi.VERDICT_ERRNO, 38, 0))]
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
