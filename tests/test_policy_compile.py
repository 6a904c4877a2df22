"""Profiles in, tables out: what the compiler accepts, refuses and makes, and what the monitor's evaluator accepts."""

from __future__ import annotations

import errno
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from policy_lab import Blob
from pysandbox.oci.errors import ConfigError, UsageError
from pysandbox.runtime import abi
from pysandbox.runtime.policy import compile_policy, explain
from pysandbox.runtime.policy.explainer import VERDICTS
from pysandbox.runtime.syscall_names import all_names, name_of, number_of

UNISTD = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
CONFIGS = Path(__file__).parent / "data" / "configs"
EQ = "SCMP_CMP_EQ"
NATIVE = ["SCMP_ARCH_X86_64"]


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def rule(names: str, action: str = "SCMP_ACT_ALLOW", *args: tuple[int | str, ...], **more: Any) -> dict[str, Any]:
    listed = [dict(zip(("index", "op", "value", "valueTwo"), arg, strict=False)) for arg in args]
    return {"names": names.split(), "action": action, "args": listed, **more}


def decide(spec: dict[str, Any] | None, name: str, *args: int) -> tuple[int, int, int]:
    number = number_of(name)
    assert number is not None
    blob = Blob(compile_policy(spec))
    assert blob.check()
    return blob.decide(number, args)


def test_no_profile_allows_everything() -> None:
    blob = Blob(compile_policy(None))
    assert blob.check()
    for number in (0, 59, 511, 512, 0x40000000, 0xFFFFFFFF):
        assert blob.decide(number) == (abi.VERDICT_ALLOW, 0, 0)


@pytest.mark.parametrize(
    ("action", "errno_ret", "expected"),
    [
        ("SCMP_ACT_KILL", None, (abi.VERDICT_KILL_THREAD, 0)),
        ("SCMP_ACT_KILL_THREAD", None, (abi.VERDICT_KILL_THREAD, 0)),
        ("SCMP_ACT_KILL_PROCESS", None, (abi.VERDICT_KILL_PROCESS, 0)),
        ("SCMP_ACT_TRAP", None, (abi.VERDICT_TRAP, 0)),
        ("SCMP_ACT_ERRNO", None, (abi.VERDICT_ERRNO, 1)),
        ("SCMP_ACT_ERRNO", 38, (abi.VERDICT_ERRNO, 38)),
        ("SCMP_ACT_ERRNO", 0, (abi.VERDICT_ERRNO, 0)),
        ("SCMP_ACT_TRACE", None, (abi.VERDICT_TRACE, 1)),
        ("SCMP_ACT_TRACE", 77, (abi.VERDICT_TRACE, 77)),
        ("SCMP_ACT_LOG", None, (abi.VERDICT_LOG, 0)),
        ("SCMP_ACT_NOTIFY", None, (abi.VERDICT_NOTIFY, 0)),
    ],
)
def test_actions(action: str, errno_ret: int | None, expected: tuple[int, int]) -> None:
    spec = profile(rule("mkdir", action, errnoRet=errno_ret), rule("rmdir"), default="SCMP_ACT_ALLOW")
    assert decide(spec, "mkdir") == (*expected, 1)
    assert decide(spec, "rmdir") == (abi.VERDICT_ALLOW, 0, 0)


def test_default_errno() -> None:
    assert decide(profile(rule("openat"), defaultErrnoRet=95), "read") == (abi.VERDICT_ERRNO, 95, 0)


def test_conditions_on_one_argument_are_alternatives() -> None:
    spec = profile(rule("socket", "SCMP_ACT_ALLOW", (0, EQ, 1), (0, EQ, 2), (1, EQ, 9)))
    for args, verdict in (((1,), 0), ((2,), 0), ((7, 9), 0), ((3, 3), abi.VERDICT_ERRNO)):
        assert decide(spec, "socket", *args)[0] == verdict, args


def test_conditions_on_several_arguments_hold_together() -> None:
    spec = profile(rule("socket", "SCMP_ACT_ALLOW", (0, EQ, 1), (1, EQ, 2)))
    assert decide(spec, "socket", 1, 2)[0] == abi.VERDICT_ALLOW
    assert decide(spec, "socket", 1, 3)[0] == abi.VERDICT_ERRNO


def test_docker_keeps_vsock_and_clone_of_namespaces_out() -> None:
    """The two conditions that nearly every container of the world runs under."""
    spec = profile(
        rule("clone", "SCMP_ACT_ALLOW", (0, "SCMP_CMP_MASKED_EQ", 0x7E020000, 0)),
        rule("socket", "SCMP_ACT_ALLOW", (0, "SCMP_CMP_NE", 40)),
    )
    assert decide(spec, "clone", 0x11)[0] == abi.VERDICT_ALLOW
    assert decide(spec, "clone", 0x10000011)[0] == abi.VERDICT_ERRNO
    assert decide(spec, "socket", 2)[0] == abi.VERDICT_ALLOW
    assert decide(spec, "socket", 40)[0] == abi.VERDICT_ERRNO
    assert decide(spec, "socket", 40 | 1 << 32)[0] == abi.VERDICT_ALLOW


def test_an_unconditional_rule_wins_over_conditional_ones_in_any_order() -> None:
    always, sometimes = rule("read"), rule("read", "SCMP_ACT_TRAP", (0, EQ, 3))
    assert decide(profile(always, sometimes), "read", 3) == (abi.VERDICT_ALLOW, 0, 1)
    assert decide(profile(sometimes, always), "read", 3) == (abi.VERDICT_ALLOW, 0, 2)


def test_numbers_the_profile_does_not_know_are_enosys() -> None:
    blob = Blob(compile_policy(profile(rule("openat"), architectures=NATIVE)))
    assert blob.decide(256)[:2] == (abi.VERDICT_ERRNO, 1)
    for number in (258, 470, 511, 512, 100000):
        assert blob.decide(number) == (abi.VERDICT_ERRNO, 38, 0), number
    allowing = profile(rule("openat", "SCMP_ACT_TRAP"), default="SCMP_ACT_ALLOW", architectures=NATIVE)
    assert Blob(compile_policy(allowing)).decide(470)[0] == abi.VERDICT_ALLOW
    assert Blob(compile_policy(allowing)).decide(100000)[0] == abi.VERDICT_ALLOW


@pytest.mark.parametrize("architectures", [[], ["SCMP_ARCH_X32"], ["SCMP_ARCH_AARCH64"]])
def test_a_profile_that_does_not_list_the_native_architecture_gets_no_enosys(architectures: list[str]) -> None:
    """Seen with runc 1.1.5: then unknown numbers have the default action."""
    blob = Blob(compile_policy(profile(rule("openat"), defaultErrnoRet=77, architectures=architectures)))
    for number in (258, 470, 511, 512, 100000, 0x3FFFFFFF):
        assert blob.decide(number) == (abi.VERDICT_ERRNO, 77, 0), number


def test_x32_numbers_are_killed_unless_the_profile_knows_x32() -> None:
    without = Blob(compile_policy(profile(rule("openat"), architectures=["SCMP_ARCH_X86_64"])))
    with_x32 = Blob(compile_policy(profile(rule("openat"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"])))
    assert without.decide(0x40000000)[0] == abi.VERDICT_KILL_THREAD
    assert with_x32.decide(0x40000000)[:2] == (abi.VERDICT_ERRNO, 38)


def test_the_native_architecture_needs_no_mention() -> None:
    assert decide(profile(rule("read"), architectures=["SCMP_ARCH_AARCH64"]), "read")[0] == abi.VERDICT_ALLOW


def test_unknown_names_are_left_out_with_a_warning() -> None:
    warnings: list[str] = []
    compile_policy(profile(rule("chown32 read no_such_call")), warnings=warnings)
    assert warnings == ["unknown system call chown32 ignored", "unknown system call no_such_call ignored"]


@pytest.mark.parametrize(
    ("spec", "pointer", "text"),
    [
        (profile(default="SCMP_ACT_NOTIFY"), "/linux/seccomp/defaultAction", "cannot be the default"),
        (profile(default="ALLOW"), "/linux/seccomp/defaultAction", "unknown seccomp action 'ALLOW'"),
        (profile(rule("read", "SCMP_ACT_X")), "/linux/seccomp/syscalls/0/action", "unknown seccomp action"),
        (profile(rule("write", "SCMP_ACT_NOTIFY")), "/linux/seccomp/syscalls/0", "write"),
        (profile(rule("read", "SCMP_ACT_ALLOW", (6, EQ, 1))), "/linux/seccomp/syscalls/0/args/0/index", "six"),
        (profile(rule("read", "SCMP_ACT_ALLOW", (0, "EQ", 1))), "/linux/seccomp/syscalls/0/args/0/op", "operator"),
        (profile(rule("")), "/linux/seccomp/syscalls/0/names", "no names"),
        (profile(architectures=["x86"]), "/linux/seccomp/architectures/0", "architecture 'x86'"),
        (profile(defaultErrnoRet=4095), "/linux/seccomp/defaultAction", "errno 4095 is not below 4095"),
        (profile(rule("read", "SCMP_ACT_ERRNO", errnoRet=5000)), "/linux/seccomp/syscalls/0/action", "errno 5000"),
        (profile(flags=["X"]), "/linux/seccomp/flags/0", "flag 'X'"),
        (
            profile(rule("read", "SCMP_ACT_ALLOW", (0, EQ, 1)), rule("read", "SCMP_ACT_TRAP", (0, EQ, 1))),
            "/linux/seccomp/syscalls/1",
            "contradicts an earlier rule for read",
        ),
    ],
)
def test_refusals(spec: dict[str, Any], pointer: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_policy(spec)
    assert caught.value.pointer == pointer
    assert text in caught.value.message


def test_too_many_conditions_are_an_error() -> None:
    rules = [
        rule("read", "SCMP_ACT_ALLOW", *[(arg, "SCMP_CMP_NE", (1 << 32) + number + arg) for arg in range(6)])
        for number in range(40)
    ]
    with pytest.raises(ConfigError, match="too many"):
        compile_policy(profile(*rules))


def test_typed_and_json_profiles_give_the_same_table() -> None:
    from pysandbox.oci.spec import Seccomp, SeccompArg, SeccompRule

    spec = profile(rule("read write", "SCMP_ACT_TRACE", (1, "SCMP_CMP_MASKED_EQ", 6, 2), errnoRet=5), rule("openat"))
    typed = Seccomp(
        default_action="SCMP_ACT_ERRNO",
        syscalls=(
            SeccompRule(
                names=("read", "write"),
                action="SCMP_ACT_TRACE",
                errno_ret=5,
                args=(SeccompArg(index=1, value=6, value_two=2, op="SCMP_CMP_MASKED_EQ"),),
            ),
            SeccompRule(names=("openat",), action="SCMP_ACT_ALLOW"),
        ),
    )
    assert compile_policy(typed) == compile_policy(spec)


def test_captured_profiles_compile() -> None:
    seen = 0
    for path in sorted(CONFIGS.glob("*.json")):
        seccomp = (json.loads(path.read_text()).get("linux") or {}).get("seccomp")
        if seccomp:
            seen += 1
            blob = Blob(compile_policy(seccomp))
            assert blob.check(), path.name
            assert blob.decide(0)[0] == abi.VERDICT_ALLOW, path.name  # read
    assert seen >= 5


def test_damaged_blobs_are_refused() -> None:
    good = compile_policy(profile(rule("socket", "SCMP_ACT_ALLOW", (0, "SCMP_CMP_NE", 40)), rule("read")))
    assert Blob(good).check()
    for size in (0, 8, abi.Policy.SIZE - 1, len(good) - 1):
        assert not Blob(good[:size]).check(), size
    assert not Blob(good + bytes(8)).check()
    rules = abi.Policy.SIZE
    conds = rules + abi.Policy.unpack(good).nrules * abi.PolicyRule.SIZE
    entry = abi.Policy.OFFSET["entry"] + 8 * 41
    for at in (0, 8, 12, 20, 24, 28, entry, entry + 4, rules, rules + 12, rules + 16, conds, conds + 4):
        bad = bytearray(good)
        bad[at : at + 4] = b"\xff\xff\xff\xff"
        assert not Blob(bytes(bad)).check(), at


def test_no_blob_that_passes_the_check_makes_the_evaluator_stray() -> None:
    """Random damage; what is still accepted is evaluated for every number (under a sanitiser this finds wild reads)."""
    good = compile_policy(profile(rule("socket", "SCMP_ACT_ALLOW", (0, "SCMP_CMP_NE", 40)), rule("read")))
    rng = random.Random(5)
    accepted = 0
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        blob = Blob(bytes(bad))
        if blob.check():
            accepted += 1
            for number in range(512):
                assert blob.decide(number, (1, 2, 3, 4, 5, 6))[0] <= abi.VERDICT_NOTIFY
    assert 0 < accepted < 300


def test_names_and_numbers() -> None:
    assert (number_of("openat"), name_of(257), number_of("nonsense"), name_of(400)) == (257, "openat", None, None)
    names = all_names()
    assert len(names) > 370
    assert all(name_of(number) == name for name, number in names.items())


@pytest.mark.skipif(not UNISTD.exists(), reason=f"{UNISTD} is missing (linux-libc-dev)")
def test_names_are_the_kernels() -> None:
    ours, seen = all_names(), 0
    for name, number in re.findall(r"^#define __NR_(\w+) (\d+)$", UNISTD.read_text(), re.MULTILINE):
        seen += 1
        assert ours.get(name, -1) == int(number), name
    assert seen > 350


def test_explain() -> None:
    spec = profile(rule("read"), rule("socket", "SCMP_ACT_ALLOW", (0, EQ, 1)))
    assert explain(spec, "socket", [1]) == {"name": "socket", "nr": 41, "verdict": "allow", "rule": 2}
    assert explain(spec, "41", [2]) == {"name": "socket", "nr": 41, "verdict": "errno", "errno": "EPERM", "rule": None}
    assert explain(spec, "socket")["outcomes"] == [
        {"when": "arg0 == 0x1", "verdict": "allow", "rule": 2},
        {"when": "otherwise", "verdict": "errno", "errno": "EPERM", "rule": None},
    ]
    assert explain(None, "socket")["verdict"] == "allow"
    with pytest.raises(UsageError, match="sokcet"):
        explain(spec, "sokcet")
    with pytest.raises(UsageError, match="4294967296"):
        explain(spec, "4294967296")
    with pytest.raises(UsageError, match="six"):
        explain(spec, "read", [0] * 7)


@pytest.mark.parametrize("architectures", [[], NATIVE, [*NATIVE, "SCMP_ARCH_X32"]])
def test_explanations_are_the_monitors_decisions(architectures: list[str]) -> None:
    spec = profile(
        rule("read personality", "SCMP_ACT_ALLOW", (0, EQ, 8), (0, "SCMP_CMP_GT", 1 << 40)),
        rule("personality", "SCMP_ACT_TRACE", (1, "SCMP_CMP_LE", 5), errnoRet=9),
        rule("clone", "SCMP_ACT_LOG", (0, "SCMP_CMP_MASKED_EQ", 0x7E020000, 0)),
        architectures=architectures,
    )
    blob = Blob(compile_policy(spec))
    rng = random.Random(3)
    for number in (0, 135, 56, 57, 136, 400, 511, 512, 0x3FFFFFFF, 0x40000000, 0x40000087, 0xFFFFFFFF):
        for _ in range(40):
            args = tuple(rng.choice([0, 5, 6, 8, 1 << 40, (1 << 40) + 1, 0x20000, (1 << 64) - 1]) for _ in range(6))
            verdict, data, by = blob.decide(number, args)
            told = explain(spec, str(number), args)
            assert told["verdict"] == VERDICTS[verdict], (number, args)
            assert told["rule"] == (by or None), (number, args)
            if verdict == abi.VERDICT_ERRNO:
                assert told["errno"] == errno.errorcode[data], (number, args)
