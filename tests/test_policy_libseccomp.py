"""Random profiles: the monitor's evaluator, on our table, decides as the real libseccomp's filter does.

Where libseccomp's filter gives a verdict of no rule that matches (it does, for rare mixtures of conditions), ours must
still be one that the profile justifies. A filter that goes wrong for some arguments has its rules in another order for
others too; only for such profiles may two justified decisions differ.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from policy_lab import Blob, Refused, action_of, as_kernel, libseccomp, reference_filter, run_filter
from pysandbox.oci.errors import ConfigError
from pysandbox.runtime.policy import compile_policy
from pysandbox.runtime.syscall_names import number_of

pytestmark = pytest.mark.skipif(libseccomp() is None, reason="libseccomp2 is not installed")

NAMES = ["read", "openat", "socket", "clone", "ioctl", "personality", "prctl"]
ACTIONS = [
    ("SCMP_ACT_ALLOW", None),
    ("SCMP_ACT_ERRNO", None),
    ("SCMP_ACT_ERRNO", 38),
    ("SCMP_ACT_KILL_PROCESS", None),
    ("SCMP_ACT_TRAP", None),
    ("SCMP_ACT_TRACE", 7),
    ("SCMP_ACT_LOG", None),
]
EQUALITY = ["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ"]
ORDER = ["SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_GT"]
SAMPLES = 60  # arguments tried for each call of a profile
SEARCH = 20_000  # at most, where two justified decisions differ
VALUES = [0, 1, 2, 5, 7, 40, 0x7E020000, 0xFFFFFFFF, 0x100000000, 0x100000005, 0x500000001, (1 << 64) - 1]


def condition(rng: random.Random, index: int, operators: list[str]) -> dict[str, Any]:
    op = rng.choice(operators)
    out = {"index": index, "op": op, "value": rng.choice(VALUES)}
    if op == "SCMP_CMP_MASKED_EQ":
        out["valueTwo"] = rng.choice(VALUES) & out["value"]
    return out


def profile(rng: random.Random, operators: list[str], names: list[str], rules: int, max_args: int) -> dict[str, Any]:
    actions = rng.sample(ACTIONS, rng.choice([2, 2, 3, 4]))
    default, errno_ret = actions[0]
    out: dict[str, Any] = {"defaultAction": default, "syscalls": [], "architectures": ["SCMP_ARCH_X86_64"]}
    if errno_ret is not None:
        out["defaultErrnoRet"] = errno_ret
    for _ in range(rng.randint(1, rules)):
        action, value = rng.choice(actions)
        rule: dict[str, Any] = {"names": rng.sample(names, rng.randint(1, min(2, len(names)))), "action": action}
        if value is not None:
            rule["errnoRet"] = value
        count = rng.choice([0, 1, 1, 1, 2, 2, 3][: 4 + max_args])
        indexes = [rng.randrange(3) for _ in range(count)]
        if rng.random() < 0.8:
            indexes = sorted(set(indexes))
        rule["args"] = [condition(rng, index, operators) for index in indexes]
        out["syscalls"].append(rule)
    return out


def interesting(rng: random.Random) -> int:
    value = rng.choice(VALUES)
    return (value + rng.choice([0, 0, 0, 1, -1, 1 << 32, -(1 << 32), rng.getrandbits(64)])) & ((1 << 64) - 1)


def holds(condition: dict[str, Any], args: tuple[int, ...]) -> bool:
    value, wanted = args[condition["index"]], condition["value"]
    match condition["op"]:
        case "SCMP_CMP_NE":
            return value != wanted
        case "SCMP_CMP_LT":
            return value < wanted
        case "SCMP_CMP_LE":
            return value <= wanted
        case "SCMP_CMP_EQ":
            return value == wanted
        case "SCMP_CMP_GE":
            return value >= wanted
        case "SCMP_CMP_GT":
            return value > wanted
        case _:
            return value & wanted == condition["valueTwo"] & wanted or wanted == 0


def justified(spec: dict[str, Any], name: str, args: tuple[int, ...]) -> set[int]:
    """The decisions that some reading of the profile gives: of a rule that matches, or the default when none does."""
    default = action_of(spec["defaultAction"], spec.get("defaultErrnoRet"))
    out = set()
    for rule in spec["syscalls"]:
        action = action_of(rule["action"], rule.get("errnoRet"))
        if name not in rule["names"] or action == default:
            continue
        each = [holds(condition, args) for condition in rule["args"]]
        twice = len({c["index"] for c in rule["args"]}) < len(rule["args"])
        if any(each) if twice else all(each):
            out.add(action)
    return out or {default}


def compare(seed: int, operators: list[str], names: list[str], rules: int, max_args: int) -> str:
    """One random profile: "same" decisions, "refused" (by both), or "unjustified" (libseccomp's filter contradicts the
    profile, ours does not). Anything else is a failed assertion."""
    rng = random.Random(seed)
    spec = profile(rng, operators, names, rules, max_args)
    try:
        program = reference_filter(spec)
    except Refused:
        with pytest.raises(ConfigError):
            compile_policy(spec)
        return "refused"
    blob = Blob(compile_policy(spec))
    assert blob.check()
    named = max(number_of(name) or 0 for rule in spec["syscalls"] for name in rule["names"])
    allows = spec["defaultAction"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    result = "same"
    for name in names:
        different: str | None = None
        unjustified = False
        number = number_of(name)
        assert number is not None
        for sample in range(SEARCH):
            if sample >= SAMPLES and (unjustified or not different):
                break
            args = (*(interesting(rng) for _ in range(3)), 0, 0, 0)
            verdict, data, _rule = blob.decide(number, args)
            ours = as_kernel(verdict, data)
            if number > named > 0 and not allows:
                assert ours == 0x00050026  # runc puts this in front of the filter: ENOSYS
                continue
            theirs, right = run_filter(program, number, args), justified(spec, name, args)
            assert ours in right, (hex(ours), [hex(x) for x in right], name, args, spec)
            if theirs not in right:
                unjustified = True
            elif ours != theirs:
                different = f"{ours:#x}, libseccomp {theirs:#x}: {name}{args} {spec}"
        assert unjustified or not different, different
        result = "unjustified" if unjustified else result
    return result


@pytest.mark.parametrize(
    ("operators", "names", "rules", "max_args", "lost"),
    [
        pytest.param(EQUALITY, NAMES, 8, 1, 0, id="equality, as real profiles have it"),
        pytest.param(EQUALITY, ["read", "ioctl"], 6, 3, 8, id="equality of several arguments"),
        pytest.param(ORDER, ["read", "ioctl"], 6, 0, 12, id="order"),
        pytest.param(EQUALITY + ORDER, ["read", "ioctl"], 5, 3, 20, id="everything"),
    ],
)
def test_decisions_are_libseccomps(
    operators: list[str], names: list[str], rules: int, max_args: int, lost: int
) -> None:
    """300 profiles each; `lost`: how many of them libseccomp may get wrong (a better version is welcome)."""
    count = Counter(compare(seed, operators, names, rules, max_args) for seed in range(300))
    assert count["unjustified"] <= lost
    assert count["same"] >= 270


def test_numbers_outside_the_table() -> None:
    """What the kernel's filter says of x32 numbers and of numbers that do not exist."""
    for default in ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"):
        spec = {
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["openat"], "action": "SCMP_ACT_LOG"}],
        }
        program, blob = reference_filter(spec), Blob(compile_policy(spec))
        for number in (0x40000000, 0x40000001, 0xFFFFFFFE, 0xFFFFFFFF, 511, 512, 600, 0x3FFFFFFF):
            ours, theirs = as_kernel(*blob.decide(number, (0,) * 6)[:2]), run_filter(program, number, (0,) * 6)
            if default == "SCMP_ACT_ERRNO" and theirs == 0x00050001:
                theirs = 0x00050026  # runc's ENOSYS for what the profile does not know
            assert ours == theirs, (default, number)
