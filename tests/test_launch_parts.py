"""Parts of the launcher that need no container: programs, vault, start record, options, paths in hostile roots, BPF."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from pathlib import Path

import pytest
from pysandbox.oci import cgroups, mounts, process, rootfs
from pysandbox.oci.copytree import copy_tree
from pysandbox.oci.errors import Error, LaunchError, ResourceError
from pysandbox.oci.spec import Capabilities
from pysandbox.runtime import abi, launch_channel, launch_follow, launch_program, launch_traces, launch_vault, native

root_only = pytest.mark.root


# --- programs ---------------------------------------------------------------------------------------------------------


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def elf(*, machine: int = 62, bits: int = 2, kind: int = 2, interp: bytes = b"", truncate: int = 0) -> bytes:
    """A minimal ELF: header, PT_INTERP if given, one PT_LOAD of the whole file."""
    segments = 1 + bool(interp)
    body = 64 + 56 * segments
    out = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    out += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0x400000, 64, 0, 0, 64, 56, segments, 0, 0, 0)
    if interp:
        out += struct.pack("<IIQQQQQQ", 3, 4, body, 0, 0, len(interp) + 1, len(interp) + 1, 1)
    size = body + len(interp) + 1
    out += struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0, size, size, 4096) + interp + b"\0"
    return out[: len(out) - truncate]


def test_find_program(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    (first / "tool").write_text("not executable")
    (first / "dir").mkdir()
    executable(second / "tool", b"x")
    env = {"PATH": f"{first}:{second}"}
    assert launch_program.find_program("tool", env) == str(second / "tool")
    assert launch_program.find_program(str(second / "tool"), {}) == str(second / "tool")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", 'exec: "nope": executable file not found in $PATH'),
        ("dir", 'exec: "dir": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("{}/text", 'exec: "{}/text": permission denied'),
        ("{}/dir", 'exec: "{}/dir": is a directory: permission denied'),
        ("{}/text/x", 'exec: "{}/text/x": stat {}/text/x: not a directory'),
    ],
)
def test_missing_program_in_the_words_engines_search_for(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text").write_text("x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(LaunchError) as caught:
        launch_program.find_program(name.format(tmp_path), {"PATH": str(tmp_path)})
    assert caught.value.message == message.format(tmp_path, tmp_path)


def test_formats_that_run(tmp_path: Path) -> None:
    launch_program.check_format("/bin/sh")
    launch_program.check_format(str(executable(tmp_path / "static", elf())))
    launch_program.check_format(str(executable(tmp_path / "script", b"#! /bin/sh -e\nexit 0\n")))
    launch_program.check_format(str(executable(tmp_path / "script2", b"#!%s/script\n" % os.fsencode(tmp_path))))


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"", errno.ENOEXEC),
        (b"echo hello\n", errno.ENOEXEC),
        (b"\x7fELF", errno.ENOEXEC),
        (b"#!\n", errno.ENOEXEC),
        (elf(bits=1), errno.ENOEXEC),
        (elf(machine=183), errno.ENOEXEC),
        (elf(kind=1), errno.ENOEXEC),
        (elf(truncate=1), errno.ENOEXEC),
        (elf(truncate=60), errno.ENOEXEC),
        (elf(interp=b"/no/such/ld.so"), errno.ENOENT),
        (elf(interp=b"/etc/passwd"), errno.EACCES),
        (b"#!/no/such\n", errno.ENOENT),
        (b"#!/etc\n", errno.EISDIR),
    ],
)
def test_formats_that_do_not(tmp_path: Path, content: bytes, number: int) -> None:
    with pytest.raises(LaunchError) as caught:
        launch_program.check_format(str(executable(tmp_path / "x", content)))
    assert caught.value.errno == number


def test_interpreter_loop(tmp_path: Path) -> None:
    path = executable(tmp_path / "x", b"#!%s/x\n" % os.fsencode(tmp_path))
    with pytest.raises(LaunchError, match="too many levels of symbolic links"):
        launch_program.check_format(str(path))


# --- vault, start record, channel -------------------------------------------------------------------------------------


def test_vault_survives_peeking(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    policy, control = launch_vault.sealed_memfd("p", b"policy"), launch_vault.control_file(directory)
    os.close(directory)
    fd = launch_vault.make_vault({abi.FD_POLICY: policy, abi.FD_CTL: control})
    os.close(policy)
    sock = socket.socket(fileno=fd)
    for _ in range(3):
        # Not recv_fds: in Python 3.11 it drops the flags.
        data, ancillary, _, _ = sock.recvmsg(4096, socket.CMSG_LEN(4 * abi.VAULT_MAX), socket.MSG_PEEK)
        fds = array.array("i", ancillary[0][2])
        vault = abi.Vault.unpack(data)
        assert (vault.magic, vault.nfds) == (abi.VAULT_MAGIC, 2)
        assert vault.role[:2] == (abi.FD_POLICY, abi.FD_CTL)
        assert os.pread(fds[0], 100, 0) == b"policy"
        assert abi.Ctl.unpack(os.pread(fds[1], abi.Ctl.SIZE, 0)).ncpus == len(os.sched_getaffinity(0))
        for number in fds:
            os.close(number)
    sock.close()
    os.close(control)


def test_sealed_memfd_cannot_change() -> None:
    fd = launch_vault.sealed_memfd("x", b"content")
    with pytest.raises(OSError):
        os.pwrite(fd, b"y", 0)
    with pytest.raises(OSError):
        os.ftruncate(fd, 0)
    with pytest.raises(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
    os.close(fd)


def test_start_record() -> None:
    fd = launch_vault.start_record(
        path="/bin/busybox",
        execfn="/bin/sh",
        fds=[0, 1, 2, 5, 70],
        dispatch=1,
        trace=2,
        pin=1,
        stack_limit=8 << 20,
        nofile=(3, 9),
    )
    data = os.read(fd, 65536)
    os.close(fd)
    start = abi.Start.unpack(data)
    assert (start.magic, start.size, start.is_exec) == (abi.START_MAGIC, len(data), 0)
    assert data[start.path_off : data.index(b"\0", start.path_off)] == b"/bin/busybox"
    assert data[start.execfn_off : data.index(b"\0", start.execfn_off)] == b"/bin/sh"
    assert (start.fds_off % 8, start.nfds) == (0, 128)
    assert struct.unpack_from("<2Q", data, start.fds_off) == (0b100111, 1 << 6)
    assert (start.nofile_soft, start.nofile_hard) == (3, 9)
    assert (start.dispatch, start.trace, start.pin, start.stack_limit) == (1, 2, 1, 8 << 20)


@pytest.mark.parametrize(("limit", "first", "number"), [(20000, 3, 1064), (256, 3, 251), (4, 3, 64), (64, 200, 200)])
def test_monitor_number_stays_out_of_the_way(limit: int, first: int, number: int) -> None:
    assert launch_vault.monitor_number(limit, first) == number


def test_channel_carries_errors_and_descriptors() -> None:
    one, other = launch_channel.channel_pair()
    r, w = os.pipe()
    one.send(launch_channel.ROOT, "sh", (r, w))
    one.send_error(ResourceError("mount: no", errno=errno.EPERM, status=3))
    one.close()
    message = other.receive()
    assert message is not None
    assert message[:2] == (launch_channel.ROOT, "sh")
    assert len(message[2]) == 2
    message2 = other.receive()
    assert message2 is not None
    error = launch_channel.error_from(message2[1])
    assert (type(error), error.message, error.errno, error.status) == (ResourceError, "mount: no", errno.EPERM, 3)
    assert other.receive() is None
    assert other.closed()
    for fd in (r, w, *message[2]):
        os.close(fd)


# --- mounts and paths -------------------------------------------------------------------------------------------------


def test_mount_options() -> None:
    parsed = mounts.parse_options(("rbind", "ro", "rw", "nosuid", "rprivate", "size=64k", "rro", "rrw", "rnoexec", "tmpcopyup"))
    assert parsed.flags == native.MS_BIND | native.MS_REC | native.MS_NOSUID
    assert parsed.propagation == (native.MS_PRIVATE | native.MS_REC,)
    assert parsed.data == ("size=64k",)
    assert (parsed.set_attr, parsed.clear_attr) == (native.MOUNT_ATTR_NOEXEC, native.MOUNT_ATTR_RDONLY)
    assert parsed.copy_up
    assert not parsed.recursive_idmap
    assert mounts.parse_options(("ridmap",)).recursive_idmap


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root whose owner wishes us ill."""
    top = tmp_path / "rootfs"
    (top / "dir").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (top / "absolute").symlink_to("/outside")
    (top / "relative").symlink_to("../outside")
    (top / "climb").symlink_to("../../../../../../.." + str(tmp_path / "outside"))
    (top / "dangling").symlink_to("/made/by/link")
    (top / "loop").symlink_to("loop")
    (top / "file").write_text("x")
    return top


@pytest.mark.parametrize(
    "path", ["/absolute/x", "/relative/x", "/climb/x", "/dangling/x", "/dir/../../outside/x", "/../outside/x"]
)
def test_nothing_is_made_outside_of_the_root(tree: Path, path: str) -> None:
    root = os.open(tree, os.O_PATH)
    fd = rootfs.ensure_dir(root, path)
    found = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    os.close(root)
    assert found.startswith(f"{tree}/")
    assert os.path.isdir(found)
    assert os.listdir(tree.parent / "outside") == []


def test_paths_that_cannot_be(tree: Path) -> None:
    root = os.open(tree, os.O_PATH)
    with pytest.raises(NotADirectoryError):
        rootfs.ensure_dir(root, "/file/below")
    with pytest.raises(OSError, match="loop"):
        rootfs.ensure_dir(root, "/loop/x")
    fd = rootfs.ensure_file(root, "/dir/new/file")
    assert stat.S_ISREG(os.fstat(fd).st_mode)
    os.close(fd)
    os.close(root)


def test_copy_tree(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "sub/file").write_bytes(os.urandom(3 << 20))
    (source / "sub/file").chmod(0o4711)
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "fifo", 0o600)
    os.utime(source / "sub/file", (1, 2))
    one, other = os.open(source, os.O_PATH), os.open(target, os.O_PATH)
    copy_tree(one, other)
    os.close(one)
    os.close(other)
    assert (target / "sub/file").read_bytes() == (source / "sub/file").read_bytes()
    assert stat.S_IMODE((target / "sub/file").stat().st_mode) == 0o4711
    assert (target / "sub/file").stat().st_mtime == 2
    assert os.readlink(target / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((target / "fifo").stat().st_mode)


# --- process, cgroups -------------------------------------------------------------------------------------------------


def test_capabilities_are_cut_to_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_own_bounding", lambda: process._CAP_BIT["CAP_KILL"])
    names = ("CAP_KILL", "CAP_SYS_RESOURCE")
    sets = process.CapabilitySets(Capabilities(bounding=names, effective=names, permitted=names, ambient=names))
    assert sets.bounding == sets.effective == sets.permitted == 1 << 5
    assert sets.ambient == 0  # not inheritable
    assert sets.missing == ("CAP_SYS_RESOURCE",)
    sets = process.CapabilitySets(Capabilities(bounding=("CAP_NOPE",)))
    assert (sets.bounding, sets.missing, sets.unknown) == (0, (), ("CAP_NOPE",))


def test_layout_of_this_host() -> None:
    layout = cgroups.host_layout()
    assert layout.mounts
    for mount in layout.mounts.values():
        assert os.path.exists(os.path.join(mount, "cgroup.procs"))


# --- traces -----------------------------------------------------------------------------------------------------------


def test_retention_beside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "traces" / name).mkdir(parents=True)
        (tmp_path / "traces" / name / "trace.psb").write_bytes(b"x")

    def removed_meanwhile(name: str) -> bool:
        (tmp_path / "traces" / name / "trace.psb").unlink()
        return False

    monkeypatch.setenv("PSB_TRACE_KEEP_COUNT", "1")
    launch_traces.prune(str(tmp_path), "new", alive=removed_meanwhile)
    assert len(list(tmp_path.glob("traces/*/trace.psb"))) == 1


def test_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for number in range(8):
        place = tmp_path / "traces" / f"c{number}"
        place.mkdir(parents=True)
        (place / "trace.psb").write_bytes(b"x" * 4096)
        os.utime(place / "trace.psb", (now - 86400 * number, now - 86400 * number))
    monkeypatch.setenv("PSB_TRACE_KEEP_DAYS", "6")
    removed = launch_traces.prune(str(tmp_path), "c7", alive=lambda name: name == "c6")
    assert removed == []  # c7 is the new container's, c6 lives
    removed = launch_traces.prune(str(tmp_path), "x", alive=lambda name: name == "c6")
    assert removed == [str(tmp_path / "traces/c7/trace.psb")]
    assert not (tmp_path / "traces/c7").exists()
    monkeypatch.setenv("PSB_TRACE_KEEP_COUNT", "3")
    launch_traces.prune(str(tmp_path), "x", alive=lambda name: False)
    assert sorted(os.listdir(tmp_path / "traces")) == ["c0", "c1", "c2"]
    monkeypatch.setenv("PSB_TRACE_KEEP_BYTES", "5000")
    launch_traces.prune(str(tmp_path), "x", alive=lambda name: False)
    assert os.listdir(tmp_path / "traces") == ["c0"]
    monkeypatch.setenv("PSB_TRACE_KEEP_COUNT", "many")
    with pytest.raises(LaunchError, match="PSB_TRACE_KEEP_COUNT"):
        launch_traces.prune(str(tmp_path), "x")


@pytest.mark.parametrize("error", [None, OSError(28, "No space left on device"), KeyError("x"), ResourceError("no group")])
def test_joiner_tells_of_every_error(error: Exception | None) -> None:
    """The process waits for a message: whatever prevents it ends the process, and is the launcher's error."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    moved: list[bool] = []

    def move() -> None:
        time.sleep(0.2)
        if error is not None:
            raise error
        moved.append(True)

    ours, theirs = launch_channel.channel_pair()
    joiner = launch_follow.Joiner(move, pid, ours)
    joiner.wait()
    try:
        if error is None:
            assert moved
            joiner.finish()
            received = theirs.receive()
            assert received is not None
            assert received[0] == launch_channel.JOINED
        else:
            assert os.waitpid(pid, 0)[1] == 9
            with pytest.raises(Error):
                joiner.finish()
    finally:
        ours.close()
        theirs.close()
        if error is None:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
