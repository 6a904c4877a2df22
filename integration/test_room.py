"""The room itself: what is done in it does not reach the host, and it ends completely."""

from __future__ import annotations

import os
from pathlib import Path

from room import ADDRESS, MakeRoom, Room
from terminal import Terminal


def test_a_room_has_its_own_etc_run_network_and_processes(make_room: MakeRoom) -> None:
    room = make_room("apart")
    room.run("sh", "-c", "echo mine >/etc/psb-room-test && echo mine >/run/psb-room-test")
    assert not Path("/etc/psb-room-test").exists()
    assert not Path("/run/psb-room-test").exists()
    room.run("touch", "/var/lib/pysandbox/install/psb-room-test")
    assert not Path("/var/lib/pysandbox/install/psb-room-test").exists()
    assert room.run("cat", "/etc/psb-room-test").stdout == "mine\n"
    assert ADDRESS in room.run("ip", "-4", "addr", "show", "eth0").stdout
    assert room.run("sh", "-c", "echo $$").stdout.strip() != str(os.getpid())
    assert "eth0" in room.run("ls", "/sys/class/net").stdout


def test_a_terminal_in_a_room(make_room: MakeRoom) -> None:
    terminal = Terminal(make_room("tty"), "sh", size=(30, 90))
    terminal.send("stty size; exit 3\n")
    terminal.expect("30 90")
    assert terminal.finish() == 3


def test_what_was_started_ends_with_the_room_and_groups_are_removed(tmp_path: Path) -> None:
    room = Room(tmp_path, "end")
    room.start("setsid", "sleep", "1000", log=tmp_path / "log")
    while not room.children():
        pass
    (child,) = room.children()
    groups = [path / room.cgroup[1:] / "deeper" for path in Path("/sys/fs/cgroup").iterdir() if (path / "tasks").exists()]
    for group in groups:
        group.mkdir(parents=True)
    room.close()
    assert not Path(f"/proc/{child}").exists()
    assert not [group for group in groups if group.parent.exists()]
