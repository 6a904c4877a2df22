"""What a container's first monitor finds out about the host, later containers are told (runtime/monitor/facts.c)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from pysandbox.runtime import abi, launch_vault
from pysandbox.runtime.rewriter.store import Store
from support_programs import make_bundle, pysandbox, run_bundle


def facts(store: Path) -> list[Path]:
    return sorted(store.glob("v*/facts.*"))


def length(path: Path) -> int:
    return abi.Facts.unpack(path.read_bytes()).len


@pytest.mark.kvm
@pytest.mark.root
def test_told_is_as_good_as_asked(tmp_path: Path, debian_rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library's view of the CPU: asked by a program whose monitor asked itself, by those that were told, and by one whose
    file is damaged."""
    store = tmp_path / "plans"
    monkeypatch.setenv("PSB_PLAN_DIR", str(store))
    bundle = make_bundle(tmp_path / "bundle", debian_rootfs, ["/lib64/ld-linux-x86-64.so.2", "--list-diagnostics"])
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["rlimits"] = [{"type": "RLIMIT_FSIZE", "hard": 0, "soft": 0}]  # nothing is written on the program's account
    (bundle / "config.json").write_text(json.dumps(config))

    def seen() -> str:
        result = run_bundle(pysandbox(), bundle)
        assert result.status == 0, result
        lines = re.findall(r"^x86\.cpu_features.*\n", result.stdout.decode(), re.M)
        return "".join(line for line in lines if "features[0x0].cpuid[0x1]" not in line)  # names the processor

    asked = seen()
    assert asked.count("\n") > 50
    (path,) = facts(store)
    size = length(path)
    assert size > 0
    content = path.read_bytes()
    assert seen() == asked
    assert path.read_bytes() == content
    damaged = bytearray(content)
    damaged[size // 2] ^= 1
    path.write_bytes(damaged)
    assert seen() == asked
    os.truncate(path, 100)  # as a full disk may leave it
    assert seen() == asked
    assert length(path) == size
    path.unlink()
    path.mkdir()
    assert seen() == asked


def test_one_file_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSB_PLAN_DIR", str(tmp_path))
    assert launch_vault.open_facts() == -1  # no store yet
    store = Path(Store().path)
    store.mkdir(parents=True)
    (store / "facts.another-boot.0").write_bytes(b"old")
    if not Path("/sys/devices/virtual/misc/kvm").exists():
        assert launch_vault.open_facts() == -1
        return
    fd = launch_vault.open_facts()
    assert fd >= 0
    (path,) = facts(tmp_path)
    assert path.stat().st_size == abi.FACTS_SIZE
    assert launch_vault.read_facts(fd) == b""
    os.close(fd)
    fd = launch_vault.open_facts()
    assert facts(tmp_path) == [path]
    os.close(fd)
