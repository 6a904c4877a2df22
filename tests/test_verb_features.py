"""features: the form of the specification, and that it says what is true."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pysandbox.oci import mounts
from pysandbox.oci.spec import Seccomp, SeccompArg, SeccompRule
from pysandbox.runtime.features import features
from pysandbox.runtime.policy import compile_policy
from verb_lab import Runtime, both, missing

HOOK_KINDS = {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
live = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


@pytest.fixture
def runtime(tmp_path: Path, busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Runtime]:
    ours = both(tmp_path, busybox_rootfs, pysandbox_command)[0]
    yield ours
    ours.clean()


def test_the_form_is_runcs(pysandbox_command: list[str]) -> None:
    """The same properties with values of the same types; ours has those of later versions of the specification, too."""
    done = subprocess.run([*pysandbox_command, "features"], capture_output=True, text=True, check=True, timeout=60)
    ours: dict[str, Any] = json.loads(done.stdout)
    assert ours == features()
    if missing():
        pytest.skip(missing())
    theirs = json.loads(subprocess.run(["runc", "features"], capture_output=True, text=True, check=True, timeout=60).stdout)
    for mine, runcs in ((ours, theirs), (ours["linux"], theirs["linux"]), (ours["linux"]["seccomp"], theirs["linux"]["seccomp"])):
        assert [key for key in mine if key in runcs] == list(runcs)
        for key, value in runcs.items():
            assert type(mine[key]) is type(value), key
    assert ours["linux"]["capabilities"] == theirs["linux"]["capabilities"]
    assert set(theirs["mountOptions"]) <= set(ours["mountOptions"])


def test_every_mount_option_is_one() -> None:
    """What the runtime does not know it hands to the file system as data."""
    for option in features()["mountOptions"]:
        assert mounts.parse_options((option,)).data == (), option


def test_every_action_operator_and_architecture_compiles() -> None:
    seccomp = features()["linux"]["seccomp"]
    for action in seccomp["actions"]:
        rule = SeccompRule(names=("mkdir",), action=action)
        assert compile_policy(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,)))
    for operator in seccomp["operators"]:
        argument = SeccompArg(index=0, value=1, op=operator, value_two=1)
        rule = SeccompRule(names=("mkdir",), action="SCMP_ACT_ERRNO", args=(argument,))
        assert compile_policy(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,)))
    profile = Seccomp(
        default_action="SCMP_ACT_ALLOW", architectures=tuple(seccomp["archs"]), flags=tuple(seccomp["supportedFlags"])
    )
    assert compile_policy(profile)


class TestLive:
    pytestmark = live

    @pytest.mark.parametrize("kind", sorted(HOOK_KINDS))
    def test_hooks_are_run(self, runtime: Runtime, kind: str) -> None:
        note = runtime.bundle / "note"
        path = "/bin/sh" if kind == "startContainer" else "/bin/touch"
        hook = {"path": path, "args": ["touch", str(note)]}
        if kind == "startContainer":  # runs in the container's root, which cannot be written to
            hook = {"path": path, "args": ["sh", "-c", "echo hook ran >&2; exit 1"]}
        runtime.configure(["true"], lambda config: config.update(hooks={kind: [hook]}))
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert kind in features()["hooks"]
        if kind == "startContainer":
            assert done.returncode != 0
        else:
            assert done.returncode == 0, done.stderr
            assert note.exists()

    def test_namespaces_are_new(self, runtime: Runtime) -> None:
        """All that are claimed, at once; a user namespace needs mappings."""
        kinds = [kind for kind in features()["linux"]["namespaces"] if kind != "user"]
        runtime.configure("ls -l /proc/self/ns", lambda c: c["linux"].update(namespaces=[{"type": kind} for kind in kinds]))
        done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
        assert done.returncode == 0, done.stderr
        for kind in kinds:
            name = {"network": "net", "mount": "mnt"}.get(kind, kind)
            mine = (Path("/proc/self/ns") / name).readlink()
            assert str(mine) not in done.stdout, kind
            assert f"{name}:[" in done.stdout
