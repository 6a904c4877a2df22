"""Namespaces that the host or somebody else owns: none asked for, or one given by its path. Each command runs under runc and
pysandbox, in a mount namespace that stands for the host's, because runc leaves there what it mounts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from verb_lab import Config, Runtime, both, missing, reap_orphans, subreaper, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

LOOK = "readlink /proc/self/ns/mnt; ls /; umask; cut -d' ' -f 4-6 /proc/self/mountinfo | grep -v /rootfs"


@contextmanager
def holder(*options: str, script: str = "") -> Iterator[int]:
    """A process in new namespaces (options of unshare(1)); its pid."""
    command = ["unshare", *options, "sh", "-c", f"{script}\necho ready; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pids = [*map(int, children), process.pid]
        if "--user" in options:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pids[0]}/{name}").write_text("0 100000 65536\n")
        try:
            yield pids[0]
        finally:
            for pid in pids:
                os.kill(pid, 9)


class Host:
    """The mount namespace that is the host's for these runtimes: everything is shared, as systemd leaves it."""

    def __init__(self, pid: int, runtimes: list[Runtime]) -> None:
        self.pid = pid
        self.ours, self.runc = runtimes
        for runtime in runtimes:
            runtime.command = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", *runtime.command]

    def mounts(self) -> list[str]:
        return Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path, busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Host]:
    subreaper(True)
    with holder("--mount", script="mount --make-rshared /") as pid:
        one = Host(pid, both(tmp_path, busybox_rootfs, pysandbox_command))
        for runtime in (one.ours, one.runc):  # what is made in a root is not made in the shared one
            runtime.rootfs = runtime.bundle / "rootfs"
            subprocess.run(["cp", "-a", busybox_rootfs, runtime.rootfs], check=True)
        yield one
        one.ours.clean()
        one.runc.clean()
    reap_orphans()
    subreaper(False)


def spaces(kinds: dict[str, str | None], *, masks: bool = False, **more: Any) -> Callable[[Config], None]:
    """Kind -> path of the namespace, None for none at all."""

    def change(config: Config) -> None:
        kept = [space for space in config["linux"]["namespaces"] if space["type"] not in kinds]
        config["linux"]["namespaces"] = kept + [{"type": kind, "path": path} for kind, path in kinds.items() if path]
        if not masks:
            config["linux"].update(maskedPaths=[], readonlyPaths=[])
        config["root"]["readonly"] = False
        config.update(more)

    return change


def run(runtime: Runtime) -> tuple[int, str, str]:
    done = runtime.call("run", "--bundle", str(runtime.bundle), runtime.id)
    return done.returncode, done.stdout, done.stderr


def test_without_a_mount_namespace(host: Host) -> None:
    """The program sees what it sees under runc, and the host's mounts and their propagation are untouched by it."""
    seen = []
    for runtime in (host.ours, host.runc):
        runtime.configure(LOOK + "; touch /made; exit 3", spaces({"mount": None}))
        before = host.mounts()
        status, out, err = run(runtime)
        assert (status, err) == (3, "")
        assert (runtime.rootfs / "made").exists()
        seen.append(out.replace(runtime.id, "ID").splitlines())
        if runtime.ours:
            assert host.mounts() == before
    assert seen[0] == seen[1]
    assert seen[0][0] == os.readlink(f"/proc/{host.pid}/ns/mnt")
    assert host.ours.left_over() == []


def test_life_without_a_mount_namespace(host: Host) -> None:
    """All verbs. What `exec` starts is in the container's root as well: under runc 1.1 it has the host's."""
    before = host.mounts()
    runtime = host.ours
    runtime.configure(["sleep", "1000"], spaces({"mount": None}))
    assert runtime.create() == 0
    assert runtime.call("start", runtime.id).returncode == 0
    place = runtime.root / runtime.id / "rootfs"
    made = [line.split()[4] for line in host.mounts() if line not in before]
    assert str(place) in made
    assert f"{place}/proc" in made
    assert not [path for path in made if not path.startswith(str(place))]
    done = runtime.call("exec", runtime.id, "sh", "-c", "ls /; readlink /proc/self/ns/mnt; echo $(readlink /proc/1/exe)")
    assert done.stderr == ""
    assert done.stdout.splitlines()[:-2] == sorted(os.listdir(runtime.rootfs))
    assert done.stdout.splitlines()[-2] == os.readlink(f"/proc/{host.pid}/ns/mnt")
    assert not (runtime.rootfs / "proc" / "self").exists()  # nothing is mounted over the bundle's files
    assert runtime.call("delete", "--force", runtime.id).returncode == 0
    assert host.mounts() == before
    assert runtime.left_over() == []


def test_terminal_and_hooks_without_a_mount_namespace(host: Host) -> None:
    """The order of hooks (runc runs createRuntime twice then), and what they see; a terminal of the container's own devpts."""
    seen = []
    for runtime in (host.ours, host.runc):
        note = f"cat >/dev/null; [ -e {runtime.bundle}/config.json ] && echo"
        kinds = ["createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        hooks = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"{note} {kind} >>{runtime.bundle}/hooks.out"]}] for kind in kinds
        }
        hooks["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "touch /started"]}]

        def change(config: Config, hooks: dict[str, Any] = hooks) -> None:
            spaces({"mount": None}, hooks=hooks)(config)
            config["process"]["terminal"] = True

        runtime.configure("tty; ls -l /dev/console | cut -c1; ls /started; exit 4", change)
        command = " ".join(runtime.argv("run", "--bundle", str(runtime.bundle), runtime.id))
        done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env=runtime.env, check=False)  # fmt: skip
        shown = done.stdout.replace("^@", "")  # the end of script(1)'s input, whenever it comes; runc may write line ends twice
        ran = (runtime.bundle / "hooks.out").read_text().split()
        assert ran == ["createRuntime", "createContainer", "poststart", "poststop"] or not runtime.ours
        seen.append((done.returncode, shown.split(), list(dict.fromkeys(ran))))
    assert seen[0] == seen[1]
    assert seen[0][:2] == (4, ["/dev/pts/0", "c", "/started"])


def test_a_killed_launcher_leaves_no_mounts(host: Host) -> None:
    before = host.mounts()
    runtime = host.ours
    runtime.configure(["sleep", "1000"], spaces({"mount": None}))
    with subprocess.Popen(runtime.argv("run", "-b", str(runtime.bundle), runtime.id), env=runtime.env) as launcher:
        wait_for(lambda: runtime.call("state", runtime.id).stdout.count("running"), "the container")
        assert host.mounts() != before
        launcher.kill()
    wait_for(lambda: runtime.call("list", "-q").stdout == "", "the container's end")
    assert host.mounts() == before
    assert runtime.left_over() == []


def test_readonly_root_without_a_mount_namespace(host: Host) -> None:
    """runc 1.1 forgets it. The file system is the host's and stays writable there."""
    change = spaces({"mount": None}, root={"path": "rootfs", "readonly": True})
    host.ours.configure("touch /made; echo $?", change)
    status, out, err = run(host.ours)
    assert (status, out) == (0, "1\n")
    assert "Read-only file system" in err
    (host.ours.rootfs / "made").touch()


def test_what_a_bundle_mounts_stays_inside(host: Host, tmp_path: Path) -> None:
    """What the container mounts in a bound directory does not come out at the directory."""
    source = tmp_path / "source"
    source.mkdir()
    bind = {"destination": "/bound", "type": "bind", "source": str(source), "options": ["rbind"]}

    def change(config: Config) -> None:
        spaces({"mount": None})(config)
        config["mounts"].append(bind)
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")

    shown = []
    for runtime in (host.ours, host.runc):
        runtime.configure("mount -t tmpfs none /bound && touch /bound/inside && ls /bound && sleep 1000", change)
        assert runtime.create() == 0
        assert runtime.call("start", runtime.id).returncode == 0
        wait_for(lambda runtime=runtime: runtime.out, "the mount")
        outside = subprocess.run(
            ["nsenter", f"--mount=/proc/{host.pid}/ns/mnt", "ls", source], capture_output=True, text=True, check=True
        )
        shown.append((runtime.out, outside.stdout))
        runtime.clean()
    assert shown == [("inside\n", "")] * 2


@pytest.mark.parametrize(
    ("kinds", "more", "words"),
    [
        ({"mount": None}, {"masks": True}, ""),
        ({"mount": "/proc/self/ns/mnt"}, {"masks": True}, "unable to restrict sys entries without a private MNT namespace"),
        ({"mount": "/proc/self/ns/net"}, {}, "/proc/self/ns/net is not a namespace of type mount"),
        ({"mount": "/proc/self/ns/none"}, {}, "/proc/self/ns/none: no such file"),
    ],
)
def test_refused(host: Host, kinds: dict[str, str | None], more: dict[str, Any], words: str) -> None:
    """runc refuses them, too, but for the caller's own namespace: there it would replace the caller's root."""
    before = host.mounts()
    runtimes = [host.ours] if kinds["mount"] == "/proc/self/ns/mnt" else [host.ours, host.runc]
    for runtime in runtimes:
        runtime.configure("true", spaces(kinds, **more))
        status, out, err = run(runtime)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1 or not runtime.ours
        assert words in err or not runtime.ours
        assert host.mounts() == before
        assert runtime.left_over() == []


def test_user_namespace_without_a_mount_namespace(host: Host) -> None:
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    def change(config: Config) -> None:
        spaces({"mount": None})(config)
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"].update(uidMappings=maps, gidMappings=maps)

    before = host.mounts()
    for runtime in (host.ours, host.runc):
        runtime.configure("true", change)
        assert run(runtime)[:2] == (1, "")
        if runtime.ours:
            assert host.mounts() == before
            assert runtime.left_over() == []


def test_own_mount_namespace_by_path(host: Host) -> None:
    """It is the caller's: nothing is pivoted, as if there were no entry."""
    before = host.mounts()
    host.ours.configure(LOOK, spaces({"mount": "/proc/self/ns/mnt"}))
    status, out, err = run(host.ours)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == os.readlink(f"/proc/{host.pid}/ns/mnt")
    assert host.mounts() == before


@pytest.mark.parametrize("masks", [False, True])
def test_mount_namespace_by_path(host: Host, masks: bool) -> None:
    """The namespace gets the container's root, as with runc; `exec` finds it; other namespaces are as before."""
    seen = []
    for runtime in (host.ours, host.runc):
        with holder("--mount") as pid:
            before = host.mounts()
            runtime.configure(["sleep", "1000"], spaces({"mount": f"/proc/{pid}/ns/mnt"}, masks=masks))
            assert runtime.create() == 0, runtime.last_error()
            assert runtime.call("start", runtime.id).returncode == 0
            done = runtime.call("exec", runtime.id, "sh", "-c", LOOK)
            assert (done.returncode, done.stderr) == (0, "")
            lines = done.stdout.replace(runtime.id, "ID").splitlines()
            assert lines[0] == os.readlink(f"/proc/{pid}/ns/mnt")
            seen.append(sorted(lines[1:]))
            assert sorted(os.listdir(f"/proc/{pid}/root")) == sorted(os.listdir(runtime.rootfs))
            runtime.clean()
            assert host.mounts() == before
    # A mount's parent may be another where masks are made in another order; the set is the same.
    assert seen[0] == seen[1]


def test_nothing_is_imported_from_a_joined_namespace(host: Host, pysandbox_command: list[str]) -> None:
    """The files there may be another's: whatever Python would load from them would run with the launcher's rights."""
    package = Path(pysandbox_command[0]).resolve().parent.parent / "lib"
    evil = "import os\nopen('/tmp-evil', 'w').close()\nos.write(2, b'evil')\n"
    script = f"""
        for place in /usr/lib/python3* {package} /usr/lib/x86_64-linux-gnu; do
            mount -t tmpfs none $place || exit; done
        for place in /usr/lib/python3* ; do
            for name in copy select subprocess termios traceback struct time encodings; do
                echo "{evil}" >$place/$name.py; done; done
        echo ready; read line
    """
    with subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        hook = {"path": "/bin/true", "args": ["true"]}
        tmpfs = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}

        def change(config: Config) -> None:
            spaces({"mount": f"/proc/{process.pid}/ns/mnt"}, masks=True)(config)
            config["hooks"] = {"createContainer": [{**hook, "path": "/bin/none"}]}
            config["mounts"].append(tmpfs)
            config["linux"]["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]
            config["linux"]["rootfsPropagation"] = "slave"

        host.ours.configure("ls -l /dev/kmsg; echo ran", change)
        status, out, err = run(host.ours)
        assert (status, out) == (1, "")
        assert "error running createContainer hook #0: /bin/none: no such file or directory" in err
        assert "evil" not in err
        assert "internal error" not in err
        process.kill()


KINDS = ["ipc", "uts", "network", "pid", "cgroup", "time", "user"]
NAMES = {"network": "net"}


def by_path(kinds: tuple[str, ...], pid: int) -> Callable[[Config], None]:
    paths: dict[str, str | None] = {kind: f"/proc/{pid}/ns/{NAMES.get(kind, kind)}" for kind in kinds}

    def change(config: Config) -> None:
        spaces(paths)(config)
        config["linux"]["namespaces"] = [
            space for space in config["linux"]["namespaces"] if "path" in space or space["type"] not in kinds
        ]
        config.pop("hostname")
        if "user" in kinds:
            # What the mapped root may not change.
            config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in ("cgroup", "mqueue", "sysfs")]

    return change


@pytest.mark.parametrize(
    "kinds",
    [
        *[(kind,) for kind in KINDS],
        ("ipc", "uts"),
        ("pid", "time"),
        ("network", "cgroup"),
        ("user", "network"),
        ("user", "pid", "time"),
        ("ipc", "uts", "network", "pid", "cgroup"),
        tuple(KINDS),
    ],
    ids="+".join,
)
def test_by_path(host: Host, kinds: tuple[str, ...]) -> None:
    """The first process and what `exec` starts are in exactly these."""
    options = ["--mount", "--ipc", "--uts", "--net", "--pid", "--fork", "--cgroup", "--time"]
    wanted = "; ".join(f"readlink /proc/self/ns/{NAMES.get(kind, kind)}" for kind in kinds)
    with holder(*options, *(["--user"] if "user" in kinds else [])) as pid:
        expected = "".join(os.readlink(f"/proc/{pid}/ns/{NAMES.get(kind, kind)}") + "\n" for kind in kinds)
        known = "time" not in kinds and "user" not in kinds  # runc 1.1 has no time namespaces
        for runtime in (host.ours, host.runc) if known else (host.ours,):
            runtime.configure(wanted + "; exec sleep 1000", by_path(kinds, pid))
            if "user" in kinds:
                subprocess.run(["chown", "-R", "100000:100000", runtime.rootfs], check=True)
                for place in (runtime.bundle, runtime.bundle.parent, *runtime.bundle.parents[1:3]):
                    place.chmod(0o755)
            assert runtime.create() == 0, runtime.last_error()
            assert runtime.call("start", runtime.id).returncode == 0
            wait_for(lambda runtime=runtime: runtime.out.count("\n") == len(kinds), "the first process")
            assert runtime.out == expected
            done = runtime.call("exec", runtime.id, "sh", "-c", wanted)
            assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
            runtime.clean()
            if runtime.ours:
                assert runtime.left_over() == []
