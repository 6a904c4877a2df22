"""mounts of config.json: options, types, errors; each mount table beside runc's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_lab
import pytest

TOP = Path(__file__).resolve().parent.parent
Config = dict[str, Any]
Mount = dict[str, Any]
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc to compare with: apt-get install runc"),
]
TABLE = "cut -d' ' -f4- /proc/self/mountinfo | grep -v ' - ext4'"
FLAGS = (
    "acl async atime dev diratime dirsync exec iversion lazytime loud mand noacl noatime nodev nodiratime noexec noiversion "
    "nolazytime nomand norelatime nostrictatime nosuid relatime ro rw silent strictatime suid sync "
    "private shared slave unbindable rprivate rshared rslave runbindable"
).split()
# runc 1.1 passes the kernel a mask it refuses for `ratime` and `rnostrictatime`, and ignores all of them but on bind mounts.
RECURSIVE = (
    "rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime rstrictatime"
).split()


def mount(destination: str, kind: str, source: str = "", *options: str) -> Mount:
    out: Mount = {"destination": destination, "type": kind}
    if source:
        out["source"] = source
    if options:
        out["options"] = list(options)
    return out


class Lab:
    """One bundle whose mounts change."""

    def __init__(self, top: Path, pysandbox: str) -> None:
        self.top = top
        self.pysandbox = pysandbox
        self.name = f"mounts-{os.getpid()}-{top.name}"

    def prepare(self, mounts: list[Mount], script: str, change: Callable[[Config], object] | None) -> Path:
        config = json.loads((TOP / "tests/data/configs/docker-run.json").read_text())
        config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev", "/dev/pts", "/sys")]
        bundle = config_lab.prepare(config, self.top, self.name, ["/bin/sh", "-c", script])
        config = json.loads((bundle / "config.json").read_text())
        config["mounts"] += mounts
        config["linux"]["resources"] = {}
        for name in ("seccomp", "sysctl"):
            config["linux"].pop(name, None)
        if change:
            change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def run(
        self, mounts: list[Mount], script: str = TABLE, change: Callable[[Config], object] | None = None
    ) -> config_lab.Seen:
        return config_lab.run(self.pysandbox, self.prepare(mounts, script, change))

    def compare(
        self, mounts: list[Mount], script: str = TABLE, change: Callable[[Config], object] | None = None
    ) -> list[str]:
        """The lines of the output, which are the same under both."""
        theirs = config_lab.run("runc", self.prepare(mounts, script, change))
        ours = self.run(mounts, script, change)
        lines = [re.sub(r"(shared|master):\d+", r"\1:N", seen.stdout).splitlines() for seen in (theirs, ours)]
        assert lines[1] == lines[0], ours.stderr + theirs.stderr
        assert ours.status == theirs.status, ours.stderr + theirs.stderr
        assert lines[0], theirs.stderr
        return lines[0]


@pytest.fixture
def lab(busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Lab]:
    del busybox_rootfs  # config_lab copies it
    with tempfile.TemporaryDirectory(prefix="mounts-") as top:
        yield Lab(Path(top), pysandbox_command[0])


@pytest.fixture
def source(tmp_path: Path) -> Iterator[str]:
    """A mount with another one below it, with other flags."""
    place = tmp_path / "source"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "outer", place], check=True)
    (place / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,noatime", "inner", place / "sub"], check=True)
    yield str(place)
    subprocess.run(["umount", place / "sub", place], check=True)


def private_cgroup(config: Config) -> None:
    config["linux"]["namespaces"].append({"type": "cgroup"})


def test_flags_on_tmpfs(lab: Lab) -> None:
    lines = lab.compare([mount(f"/m/{option}", "tmpfs", "tmpfs", option) for option in FLAGS])
    assert len([line for line in lines if " /m/" in line]) == len(FLAGS)


@pytest.mark.parametrize("bind", ["bind", "rbind"])
@pytest.mark.parametrize("base", [(), ("ro", "nosuid", "nodev", "noexec")], ids=["plain", "restricted"])
def test_options_on_bind_mounts(lab: Lab, source: str, bind: str, base: tuple[str, ...]) -> None:
    options = [*FLAGS, *RECURSIVE, "unknown=1"]
    lines = lab.compare([mount(f"/m/{option}", "none", source, bind, *base, option) for option in options])
    assert len([line for line in lines if " /m/" in line]) == len(options) * (2 if bind == "rbind" else 1)


def test_recursive_options_on_new_file_systems(lab: Lab) -> None:
    """The specification does not restrict them to bind mounts, and crun does not either."""
    seen = lab.run([mount(f"/m/{option}", "tmpfs", "tmpfs", option) for option in ("rro", "rnosuid", "rnoexec", "rnoatime")])
    flags = [line.split()[2] for line in seen.stdout.splitlines() if " /m/" in line]
    assert flags == ["ro,relatime", "rw,nosuid,relatime", "rw,noexec,relatime", "rw,noatime"], seen.stderr


def test_nosymfollow(lab: Lab) -> None:
    """Younger than Debian's runc."""
    script = "ln -s /etc/passwd /m/link; cat /m/link; ln -s /etc/passwd /n/link; cat /n/link | head -1"
    seen = lab.run([mount("/m", "tmpfs", "t", "nosymfollow"), mount("/n", "tmpfs", "t", "rnosymfollow", "rsymfollow")], script)
    assert seen.stdout.startswith("root:")
    assert "Too many levels of symbolic links" in seen.stderr


SAME: list[tuple[str, list[Mount], str, Callable[[Config], object] | None]] = [
    ("mqueue", [mount("/dev/mqueue", "mqueue", "mqueue", "nosuid")], "ls -ld /dev/mqueue | cut -c1-20", None),
    ("devpts", [mount("/pts2", "devpts", "devpts", "mode=600", "gid=7", "max=100")], "ls -l /pts2", None),
    ("proc with options", [mount("/p2", "proc", "proc", "ro", "hidepid=2")], "true", None),
    ("overlay", [mount("/ov", "overlay", "overlay", "lowerdir=/bin:/sbin")], "ls /ov | head -3", None),
    ("no type but bind", [mount("/x", "none", "/etc", "bind")], "true", None),
    ("device", [mount("/a/dev", "bind", "/dev/null", "bind")], "echo x > /a/dev; ls -l /a | cut -c1-40", None),
    ("relative source", [mount("/m", "bind", "rootfs/bin", "bind")], "ls /m | head -3", None),
    ("relative target", [mount("relative", "tmpfs", "t")], "ls -d /relative", None),
    ("dots", [mount("/x/../../y", "tmpfs", "t")], "ls -d /y", None),
    (
        "made directories",
        [mount("/t/new/x", "tmpfs", "t"), mount("/t/new/x/z", "tmpfs", "t", "mode=0710", "uid=5", "gid=6")],
        "ls -ldn /t /t/new /t/new/x /t/new/x/z | cut -c1-30",
        None,
    ),
    ("tmpfs over a file's name", [mount("/etc/hostname", "tmpfs", "t")], "ls -ld /etc/hostname | cut -c1-10", None),
    ("file in /proc", [mount("/proc/uptime", "bind", "/etc/hostname", "bind")], "cat /proc/uptime", None),
    ("remount", [mount("/x", "tmpfs", "t"), mount("/x", "none", "t", "remount", "ro")], "true", None),
    ("remount with data", [mount("/x", "tmpfs", "t"), mount("/x", "tmpfs", "t", "remount", "size=4k")], "true", None),
    ("copy up", [mount("/etc", "tmpfs", "t", "tmpcopyup")], "ls -ln /etc | cut -c1-30; stat -c %a /etc", None),
    (
        "copy up to a made directory",
        [mount("/new1", "tmpfs", "t", "tmpcopyup", "mode=700"), mount("/new2", "tmpfs", "t", "tmpcopyup")],
        "ls -ldn /new1 /new2 | cut -c1-30",
        None,
    ),
    ("empty options", [mount("/m", "tmpfs", "t", "", "nosuid", ""), mount("/n", "bind", "/etc", "bind", "")], "ls /n", None),
    ("several in one", [mount("/m", "tmpfs", "t", "size=1m,mode=700,uid=5")], "ls -ldn /m | cut -c1-30", None),
    ("read-only below /dev", [mount("/dev/foo", "tmpfs", "t", "ro")], "touch /dev/foo/x", None),
    ("read-only /dev", [], "touch /dev/x; ls /dev", lambda c: c["mounts"][1]["options"].append("ro")),
    (
        "host's /dev",
        [mount("/dev", "bind", "/dev", "rbind", "ro")],
        "ls -l /dev/null | cut -c1-40; ls /dev/fd >/dev/null && echo fd",
        lambda c: c.update(mounts=[m for m in c["mounts"] if not m["destination"].startswith("/dev/") and m["type"] != "tmpfs"]),
    ),
    (
        "host's /sys",
        [mount("/sys", "bind", "/sys", "rbind", "ro")],
        "true",
        lambda c: c.update(mounts=[m for m in c["mounts"] if m["type"] != "sysfs"]),
    ),
]


@pytest.mark.parametrize(("mounts", "script", "change"), [case[1:] for case in SAME], ids=[case[0] for case in SAME])
def test_types(lab: Lab, mounts: list[Mount], script: str, change: Callable[[Config], object] | None) -> None:
    lab.compare(mounts, f"{TABLE}; {script}", change)


def test_destinations_by_their_path_on_the_host(lab: Lab) -> None:
    """What begins with the root's path means the place in the root; a source there shows what was mounted before."""
    root = f"{lab.top}/{lab.name}/rootfs"
    (lab.top / "inner").mkdir()
    (lab.top / "inner/file").write_text("inner\n")
    inner = mount("/mnt/below", "bind", f"{lab.top}/inner", "rbind", "ro")
    mounts = [mount("/mnt", "tmpfs", "t", "mode=711"), inner, mount(f"{root}/var", "bind", f"{root}/mnt", "rbind")]
    seen = lab.compare(mounts, f"{TABLE}; stat -c %a /var; cat /var/below/file")
    assert seen[-2:] == ["711", "inner"]
    made = lab.run([mount(f"{root}/new/made", "tmpfs", "t")], f"grep '^t ' /proc/mounts; ls {root}")
    assert (made.stdout, made.status) == ("t /new/made tmpfs rw,relatime 0 0\n", 1)


def test_masked_directories_share_what_covers_them(lab: Lab) -> None:
    def change(config: Config) -> None:
        config["linux"]["maskedPaths"] = ["/etc", "/usr", "/proc/keys"]

    seen = lab.run([], "stat -c %d /etc /usr | uniq | wc -l; ls /etc /usr; touch /usr/x", change)
    assert seen.stdout == "1\n/etc:\n\n/usr:\n", seen.stderr
    assert "Read-only file system" in seen.stderr


@pytest.mark.parametrize("private", [None, private_cgroup], ids=["host", "private"])
@pytest.mark.parametrize("options", [(), ("ro",), ("rw", "nosuid", "rprivate")], ids=["none", "ro", "rw"])
def test_cgroup(lab: Lab, options: tuple[str, ...], private: Callable[[Config], object] | None) -> None:
    script = f"{TABLE}; ls -l /sys/fs/cgroup | awk '{{print $1, $9, $10, $11}}'; cat /proc/self/cgroup"
    lab.compare([mount("/sys/fs/cgroup", "cgroup", "cgroup", *options)], script, private)


def test_cgroup2_shows_the_containers_part(lab: Lab) -> None:
    """runc mounts the whole hierarchy where there is no cgroup namespace; the container's group is what is meant."""
    script = "cat /cg2/cgroup.procs | grep -c . ; cut -d' ' -f5,6,9 /proc/self/mountinfo | grep cg2"
    for change in (None, private_cgroup):
        seen = lab.run([mount("/cg2", "cgroup2", "cgroup2", "ro", "nosuid", "nodev", "noexec")], script, change)
        lines = seen.stdout.splitlines()
        assert int(lines[0]) <= 8, seen
        assert lines[1].startswith("/cg2 ro,nosuid,nodev,noexec"), seen


ERRORS: list[tuple[str, list[Mount], str]] = [
    ("unknown type", [mount("/x", "nosuchfs", "s")], "mount 's' at '/x': no such device"),
    ("no type", [mount("/x", "", "/etc")], "/mounts: mount at '/x' has no type and is not a bind mount"),
    ("unknown option", [mount("/x", "tmpfs", "t", "nope")], "mount 't' at '/x': invalid argument"),
    ("bad value", [mount("/x", "tmpfs", "t", "size=banana")], "mount 't' at '/x': invalid argument"),
    ("no source", [mount("/x", "bind", "nothere", "bind")], "nothere: no such file or directory"),
    ("file as directory", [mount("/etc/passwd/x", "tmpfs", "t")], "mount 't' at '/etc/passwd/x': not a directory"),
    ("file on a directory", [mount("/bin", "bind", "/etc/hostname", "bind")], "at '/bin': not a directory"),
    ("directory on a file", [mount("/etc/passwd", "bind", "/etc", "bind")], "at '/etc/passwd': not a directory"),
    ("inside proc", [mount("/proc/1", "bind", "/etc", "bind")], "'/proc/1' cannot be mounted because it is inside /proc"),
    ("no proc on /proc", [mount("/proc", "bind", "/tmp", "rbind")], "'/proc' cannot be mounted because it is not of type proc"),
    ("remount of nothing", [mount("/nothing", "none", "t", "remount", "ro")], "at '/nothing': no such file or directory"),
]


@pytest.mark.parametrize(("mounts", "message"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS])
def test_errors(lab: Lab, mounts: list[Mount], message: str) -> None:
    """runc refuses the same, in other words."""
    assert config_lab.run("runc", lab.prepare(mounts, "true", None)).status == 1
    seen = lab.run(mounts, "true")
    assert (seen.status, seen.stdout) == (1, "")
    assert seen.stderr.startswith("pysandbox: ")
    assert seen.stderr.endswith(message + "\n")
    assert seen.stderr.count("\n") == 1
    assert not list(Path("/sys/fs/cgroup").glob(f"*/pysandbox-test/{lab.name}"))


@pytest.mark.parametrize("root", ["", "private", "rprivate", "slave", "rslave", "shared", "rshared"])
def test_propagation(lab: Lab, tmp_path: Path, root: str) -> None:
    """What the host mounts below a bind mount appears in the container where that is a slave or shared, and what the root of
    the container is itself."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "outer", place], check=True)
    try:
        subprocess.run(["mount", "--make-shared", place], check=True)
        options = [["bind", option] for option in ("rslave", "rshared", "rprivate", "private", "slave", "shared")] + [["rbind"]]
        mounts = [mount(f"/m/{'-'.join(o)}", "bind", str(place), *o) for o in options]
        lab.compare(
            mounts,
            "cut -d' ' -f5- /proc/self/mountinfo | grep ' - tmpfs outer' | sed 's/ - .*//'",
            lambda c: c["linux"].update(rootfsPropagation=root),
        )
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("root", ["", "private", "rprivate", "slave", "rslave", "shared", "rshared"])
def test_roots_below_shared_mounts(lab: Lab, tmp_path: Path, root: str) -> None:
    """As systemd leaves the host's tree, and with an engine's mount at the root file system."""
    seen = []
    for name in ("runc", lab.pysandbox):
        wrapper = tmp_path / os.path.basename(name)
        bundle = lab.prepare([], "ls /; cut -d' ' -f5 /proc/self/mountinfo", lambda c: c["linux"].update(rootfsPropagation=root))
        mount_root = f"mount --bind {bundle}/rootfs {bundle}/rootfs"
        script = f'mount --make-rshared / && {mount_root} && exec {name} "$@"'
        wrapper.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{script}' sh \"$@\"\n")
        wrapper.chmod(0o755)
        seen.append(config_lab.run(str(wrapper), bundle))
    assert seen[1] == seen[0]
    assert seen[0].status == 0


def test_propagation_of_the_root_itself(lab: Lab) -> None:
    found = {}
    for root in ("", "private", "rslave", "rshared", "unbindable"):
        change = lambda c, root=root: c["linux"].update(rootfsPropagation=root)  # noqa: E731
        line = lab.run([], "grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo", change).stdout.split(" - ")[0]
        found[root] = re.sub(r":\d+", "", " ".join(line.split()[6:]))
    assert found == {"": "", "private": "", "rslave": "", "rshared": "shared", "unbindable": "unbindable"}
