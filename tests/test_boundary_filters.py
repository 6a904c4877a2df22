"""Filters that programs give themselves (seccomp(2)): run by the monitor, compared with the kernel's under runc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_programs import build_programs, compare, compile_program, make_bundle, pysandbox, run_bundle

PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}],
}


def bundle(where: Path, rootfs: Path, **options: object) -> Path:
    """Without no_new_privs: a program has to set it before it may give itself a filter."""
    built = where / "built"
    built.mkdir()
    compile_program(built / "own_filter", "own_filter.c")
    made = make_bundle(where / "bundle", rootfs, ["/tmp/built/own_filter"], built=built, **options)  # type: ignore[arg-type]
    config = json.loads((made / "config.json").read_text())
    config["process"]["noNewPrivileges"] = False
    (made / "config.json").write_text(json.dumps(config))
    return made


@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.parametrize("profile", [None, PROFILE], ids=["no profile", "profile"])
def test_own_filters(tmp_path: Path, debian_rootfs: Path, profile: dict[str, object] | None) -> None:
    """Actions, arguments, precedence, strict mode, threads (TSYNC), fork and exec, and what is refused."""
    compare(bundle(tmp_path, debian_rootfs, seccomp=profile))


@pytest.mark.kvm
@pytest.mark.root
def test_own_filters_on_every_door(tmp_path: Path, debian_rootfs: Path) -> None:
    outputs = []
    for dispatch in ("ring", "exit"):
        (tmp_path / dispatch).mkdir()
        made = bundle(tmp_path / dispatch, debian_rootfs, annotations={"dev.pysandbox.dispatch": dispatch})
        result = run_bundle(pysandbox(), made)
        assert result.status == 0, result
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1]
    assert b"strict\nwritten\n" in outputs[0].replace(b": 0 ", b"")


@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_a_filter_is_not_lost_by_an_execve(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    built = build_programs(tmp_path / "built", program="own_filter_exec.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    compare(make_bundle(tmp_path / "bundle", busybox_rootfs, ["/tmp/built/program"], built=built, annotations=annotations))
