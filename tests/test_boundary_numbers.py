"""Descriptor numbers: what was checked is what is used, whatever other threads do with the number meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_programs import build_programs, compare, make_bundle, pysandbox, run_bundle

pytestmark = [pytest.mark.kvm, pytest.mark.root]


def prepare(where: Path, rootfs: Path, *args: str, dispatch: str = "auto") -> Path:
    built = build_programs(where / "built", program="bnd_numbers.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    return make_bundle(where / "bundle", rootfs, ["/tmp/built/program", *args], built=built, annotations=annotations)


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_select_while_the_table_grows(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """How many numbers are looked at is decided once: the copies of the sets are as long as that."""
    result = compare(prepare(tmp_path, busybox_rootfs, "select", dispatch=dispatch))
    assert result.stdout == b"select 0\n"


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_one_table_for_all_threads_of_a_process(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """A process that parts from another one's descriptors takes its ring server along."""
    result = compare(prepare(tmp_path, busybox_rootfs, "part", dispatch=dispatch))
    assert result.stdout == b"part 0 0\n"


def test_more_uses_than_a_counter_holds(tmp_path: Path, busybox_rootfs: Path) -> None:
    """A number that calls use is not given away. (Under the kernel it may be: there a call has the file, not the number.)"""
    result = run_bundle(pysandbox(), prepare(tmp_path, busybox_rootfs, "holds"))
    lines = ["one more than a message takes: 1", "given to another file: 0", "free again: 1"]
    assert (result.status, result.stdout.decode().splitlines()) == (0, lines), result


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_a_directory_that_becomes_another(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """Listings of /proc/self/fd leave out the monitor's numbers, under whatever number the directory comes to be read."""
    result = compare(prepare(tmp_path, busybox_rootfs, "swap", dispatch=dispatch))
    assert result.stdout == b"strange numbers: 0 0\n"


def test_numbers_that_an_execve_uses(tmp_path: Path, busybox_rootfs: Path) -> None:
    """The start record and the monitor's file are put at numbers that no open() is ever given."""
    result = compare(prepare(tmp_path, busybox_rootfs, "exec"))
    assert result.stdout == b"other files: 0\n"


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_closing_without_a_number_to_spare(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    compare(prepare(tmp_path, busybox_rootfs, "full", dispatch=dispatch))


@pytest.mark.parametrize("mode", ["ioctl", "mount"])
def test_a_file_system_of_the_programs_own(tmp_path: Path, busybox_rootfs: Path, mode: str) -> None:
    """Its server answers as it likes, and mount() is told its connection by number: neither reaches what is not published."""
    built = build_programs(tmp_path / "built", program="bnd_fuse.c")
    bundle = make_bundle(tmp_path / "bundle", busybox_rootfs, ["/tmp/built/program", mode], built=built)
    config = json.loads((bundle / "config.json").read_text())
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
    config["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}]
    config["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    (bundle / "config.json").write_text(json.dumps(config))
    result = compare(bundle)
    assert result.stdout == (b"file 1, new numbers 0, lost or won 0\n111\n" if mode == "ioctl" else b"mounted 0, 0\n")


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_numbers_that_an_execve_has_closed(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """What the next monitor opens for itself at its start stands at the lowest numbers: they are not the program's for that."""
    result = compare(prepare(tmp_path, busybox_rootfs, "cloexec", dispatch=dispatch))
    assert result.stdout == b"seen: 0\n"


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_nothing_forbidden_under_any_number(tmp_path: Path, busybox_rootfs: Path, dispatch: str) -> None:
    """Threads open what they must not have, shuffle numbers, and read and map whatever is there."""
    built = build_programs(tmp_path / "built", program="bnd_hammer.c")
    annotations = {"dev.pysandbox.dispatch": dispatch}
    args = ["/tmp/built/program", "4"]
    result = compare(make_bundle(tmp_path / "bundle", busybox_rootfs, args, built=built, annotations=annotations))
    assert result.stdout == b"stolen 0, idle 0\n"
