"""The text pool: read-only pages of files are shown from memory that a container's monitors share, and nobody can tell."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support_programs import SLOWNESS, build_programs, compare, container_id, make_bundle, pysandbox

POOL = "/memfd:pysandbox-pool"


def resident(pid: int) -> int:
    """Bytes of the pool that this process has in its page tables."""
    mappings = re.split(r"^(?=[0-9a-f]+-)", Path(f"/proc/{pid}/smaps").read_text(), flags=re.M)
    found = [re.search(r"^Rss: +(\d+) kB", text, re.M) for text in mappings if POOL in text.partition("\n")[0]]
    return sum(int(match.group(1)) << 10 for match in found if match)


@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.parametrize("library", ["/lib/x86_64-linux-gnu/libm.so.6", "/bin/busybox"])
def test_pages_are_the_files(tmp_path: Path, debian_rootfs: Path, busybox_rootfs: Path, library: str) -> None:
    """A library whose text is its own, and a program whose text is rewritten."""
    built = build_programs(tmp_path / "built", text_pages="text_pages.c")
    rootfs = busybox_rootfs if library == "/bin/busybox" else debian_rootfs
    bundle = make_bundle(tmp_path / "bundle", rootfs, ["/tmp/built/text_pages", library, "/tmp"], built=built)
    assert len(compare(bundle).stdout.splitlines()) > 40


@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.parametrize("where", ["/tmp", "/tmp/disk"])
def test_changes_without_a_sign(tmp_path: Path, debian_rootfs: Path, where: str) -> None:
    """Writing to a shared mapping leaves the times of a file in memory alone, and of one on disk while the page is dirty."""
    built = build_programs(tmp_path / "built", text_stale="text_stale.c")
    args = ["/tmp/built/text_stale", "/lib/x86_64-linux-gnu/libm.so.6", where]
    bundle = make_bundle(tmp_path / "bundle", debian_rootfs, args, built=built)
    config = json.loads((bundle / "config.json").read_text())
    (tmp_path / "disk").mkdir()
    config["mounts"].append({"destination": "/tmp/disk", "type": "bind", "source": str(tmp_path / "disk"), "options": ["bind"]})
    (bundle / "config.json").write_text(json.dumps(config))
    assert len(compare(bundle).stdout.splitlines()) == 3


@pytest.mark.kvm
@pytest.mark.root
def test_nobody_shows_others_what_is_not_the_file(tmp_path: Path, debian_rootfs: Path) -> None:
    """The calls are made by the threads themselves, so that they race."""
    built = build_programs(tmp_path / "built", text_race="text_race.c")
    args = ["/tmp/built/text_race", "/lib/x86_64-linux-gnu/libc.so.6", "/tmp/forged"]
    annotations = {"dev.pysandbox.dispatch": "exit"}
    for n in range(3):
        compare(make_bundle(tmp_path / f"bundle{n}", debian_rootfs, args, built=built, annotations=annotations))


@pytest.mark.kvm
@pytest.mark.root
def test_no_number_left(tmp_path: Path, debian_rootfs: Path) -> None:
    """With threads, a mapping takes a descriptor of the monitor's own, where there is one."""
    built = build_programs(tmp_path / "built", map_full="map_full.c")
    args = ["/tmp/built/map_full", "/lib/x86_64-linux-gnu/libm.so.6"]
    compare(make_bundle(tmp_path / "bundle", debian_rootfs, args, built=built))


@pytest.mark.kvm
@pytest.mark.root
@pytest.mark.parametrize("limit", [None, 16 << 20])
def test_pool_is_used_and_small(tmp_path: Path, debian_rootfs: Path, limit: int | None) -> None:
    bundle = make_bundle(tmp_path / "bundle", debian_rootfs, ["/bin/bash", "-c", "/bin/sleep 100; true"])
    config = json.loads((bundle / "config.json").read_text())
    if limit:
        config["linux"]["resources"]["memory"] = {"limit": limit}
    (bundle / "config.json").write_text(json.dumps(config))
    name, root = container_id(bundle), str(tmp_path / "root")
    with subprocess.Popen([pysandbox(), "--root", root, "run", "-b", bundle, name], stdin=subprocess.DEVNULL) as run:
        try:
            end = time.monotonic() + 20 * SLOWNESS
            pids: list[int] = []
            while len(pids) < 2 and time.monotonic() < end:
                time.sleep(0.1)
                command = [pysandbox(), "--root", root, "ps", "-f", "json", name]
                listed = subprocess.run(command, capture_output=True, text=True, check=False)
                pids = (json.loads(listed.stdout) or []) if listed.returncode == 0 else []  # null: in no group yet
            assert len(pids) >= 2
            time.sleep(0.3 * SLOWNESS)
            sizes = [resident(pid) for pid in pids]
            if limit:
                assert max(sizes) <= limit // 16, sizes
            else:
                assert min(sizes) > 100 << 10, sizes
        finally:
            subprocess.run([pysandbox(), "--root", root, "kill", name, "KILL"], capture_output=True, check=False)
            assert run.wait() == 128 + signal.SIGKILL
