"""Namespaces made and entered by programs: what a container with CAP_SYS_ADMIN may, beside runc; what stays refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_programs import Result, build_programs, compare, make_bundle, pysandbox, run_bundle, show_trace

pytestmark = [pytest.mark.kvm, pytest.mark.root]

ADMIN = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_SETUID"]


def bundle(
    where: Path, rootfs: Path, args: list[str], *, admin: bool = True, dispatch: str = "auto", built: Path | None = None
) -> Path:
    annotations = {"dev.pysandbox.dispatch": dispatch, "dev.pysandbox.trace": "full" if not admin else "ring"}
    made = make_bundle(where / "bundle", rootfs, args, built=built, annotations=annotations)
    config = json.loads((made / "config.json").read_text())
    if admin:
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind] = ADMIN
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["mounts"].append({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]})
    (made / "config.json").write_text(json.dumps(config))
    return made


def same(where: Path, rootfs: Path, script: str, *, dispatch: str = "auto") -> Result:
    return compare(bundle(where, rootfs, ["/bin/bash", "-c", script], dispatch=dispatch))


@pytest.mark.parametrize("dispatch", ["ring", "exit"])
def test_each_kind(tmp_path: Path, debian_rootfs: Path, dispatch: str) -> None:
    """unshare(1): each kind alone and all together; the program below is in it, the shell is not."""
    script = """
        unshare --mount sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt && wc -l </proc/self/mountinfo'; ls /mnt
        unshare --uts sh -c 'hostname inner; hostname; uname -n'; hostname
        unshare --net sh -c 'ls /sys/class/net; wc -l </proc/net/dev; ip link set lo up && ip -br addr'
        unshare --ipc ipcmk -M 1000 >/dev/null && ipcs -m | wc -l
        unshare --cgroup sh -c 'cut -d: -f3 /proc/self/cgroup | sort -u'
        unshare --mount --uts --ipc --net --cgroup sh -c 'mount -t tmpfs none /mnt; ls /sys/class/net
            for i in ipc mnt net uts cgroup; do
            [ $(readlink /proc/self/ns/$i) = $(readlink /proc/$PPID/ns/$i) ] || echo $i differs; done' 2>/dev/null
        unshare --mount --propagation shared sh -c 'mount --make-rprivate / && mount --bind /etc /mnt && ls /mnt/passwd'
        unshare --mount --root=/ --wd=/etc sh -c 'pwd; ls passwd'
    """
    assert b"inner" in same(tmp_path, debian_rootfs, script, dispatch=dispatch).stdout


def test_network_namespaces_with_names(tmp_path: Path, debian_rootfs: Path) -> None:
    """`ip netns`: a name is a bind mount of a namespace, entered by setns(2)."""
    script = """
        ip netns add one; ip netns add two; ip netns list | cut -d' ' -f1 | sort
        ip netns exec one sh -c 'ip link set lo up; ip -br addr show lo; ls /sys/class/net'
        ip link add v0 type veth peer name v1 netns one && ip -n one -br link show v1 | cut -c1-2
        nsenter --net=/run/netns/two sh -c 'ip -br link | cut -c1-9'
        ip netns del one; ls /run/netns
    """
    assert b"127.0.0.1" in same(tmp_path, debian_rootfs, script).stdout


def test_namespaces_of_other_processes(tmp_path: Path, debian_rootfs: Path) -> None:
    """nsenter(1) and lsns(1): by /proc/PID/ns, by a pidfd, and what namespaces say of themselves."""
    script = """
        unshare -m -u -n -i sh -c 'mount -t tmpfs none /opt && touch /opt/x; hostname inner; echo >/run/ready; exec sleep 600' &
        while [ ! -e /run/ready ]; do sleep 0.05; done; P=$!
        nsenter -t $P -m -u -n -i sh -c 'ls /opt; hostname; ls /sys/class/net'; ls /opt; hostname
        nsenter -t $P -u hostname; nsenter -t $P --all hostname; ls /proc/$P/ns | wc -l
        [ $(readlink /proc/$P/ns/uts) != $(readlink /proc/self/ns/uts) ] && echo other
        lsns -t uts -n -o NPROCS | wc -l; lsns -t net -n -o NPROCS,USER | wc -l
        python3 - $P <<'END'
import ctypes, fcntl, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def enter(fd, kinds):
    done = libc.setns(fd, kinds)
    return "entered" if not done else os.strerror(ctypes.get_errno())
fd = os.pidfd_open(int(sys.argv[1]))
print(enter(fd, 0), enter(fd, 0x44020000), socket.gethostname(), os.listdir("/opt"))
own = os.open("/proc/self/ns/pid", os.O_RDONLY)
print(hex(fcntl.ioctl(own, 0xB703)), enter(own, 0), enter(own, 0x20000000), enter(own, 0x04000000))
user = fcntl.ioctl(own, 0xB701)
print(hex(fcntl.ioctl(user, 0xB703)), int.from_bytes(fcntl.ioctl(user, 0xB704, bytes(4)), "little"))
END
        kill $P
    """
    assert b"other" in same(tmp_path, debian_rootfs, script).stdout


def test_procfs_at_other_places(tmp_path: Path, debian_rootfs: Path) -> None:
    """As sandboxes and chroot scripts do it: the container's bound elsewhere, and a new one over the old."""
    look = "cat self/comm meminfo sys/kernel/ostype | grep -v kB; readlink self/cwd self/exe; ls self/fd; grep -c cat self/maps"
    script = f"""
        mkdir /tmp/r; mount --rbind / /tmp/r; mount --rbind /proc /tmp/r/proc; cd /tmp/r/proc; {look}; ls -l self/fd | wc -l
        chroot /tmp/r sh -c 'cd /proc; {look}'; cd /
        umount -R /tmp/r/proc; ls /tmp/r/proc/self/comm
        unshare --mount --mount-proc sh -c 'cd /proc; {look}; cat self/status | head -1; cat net/dev | wc -l'
        cat /proc/self/comm
    """
    same(tmp_path, debian_rootfs, script)


def test_procfs_keeps_its_rules_elsewhere(tmp_path: Path, debian_rootfs: Path) -> None:
    """No name gives away a monitor: neither of the container's procfs at another place, nor of a new one."""
    script = """
        mkdir /tmp/p /tmp/q; mount --bind /proc /tmp/p; mount -t proc proc /tmp/q
        for d in /tmp/p /tmp/q; do for f in mem pagemap syscall fd/3 map_files stack; do
            cat $d/1/$f >/dev/null 2>&1 && echo "$d other $f"; done
            cat $d/1/maps 2>/dev/null | grep -E 'memfd|kvm|^7[0-9a-f]{11}-' && echo "$d maps of the monitor"; done
        for f in mem pagemap syscall stack personality; do cat /tmp/p/self/$f >/dev/null 2>&1 && echo "own $f"; done
        for f in kcore kmsg kallsyms keys; do head -c1 /tmp/p/$f >/dev/null 2>&1 && echo "top $f"; done
        touch /tmp/f; mount --bind /proc/self/mem /tmp/f 2>/dev/null && echo bound
        mount --bind /proc/1 /mnt 2>/dev/null && echo bound
        for fd in $(seq 3 1100); do readlink /tmp/p/self/fd/$fd /tmp/q/self/fd/$fd; done
        mount -t proc proc /proc; cat /proc/self/mem >/dev/null 2>&1 && echo "over mem"
        cat /proc/1/maps 2>/dev/null | grep monitor; head -1 /proc/self/status
    """
    result = run_bundle(pysandbox(), bundle(tmp_path, debian_rootfs, ["/bin/bash", "-c", script]))
    assert (result.status, result.stdout) == (0, b"Name:\thead\n"), result


@pytest.mark.parametrize("dispatch", ["ring", "auto", "exit"])
def test_threads(tmp_path: Path, debian_rootfs: Path, dispatch: str) -> None:
    built = build_programs(tmp_path / "built", program="bnd_spaces.c")
    made = bundle(tmp_path, debian_rootfs, ["/tmp/built/program"], dispatch=dispatch, built=built)
    run = run_bundle(pysandbox(), made)
    assert run.stdout.count(b"wrong 0\n") == 5, run
    native = run_bundle("runc", made)
    refused = {b"/proc/self/ns/user 0": b"EPERM", b"/proc/self/ns/user 10000000": b"EPERM"}
    expected = []
    for line in native.stdout.split(b"\n"):
        what, colon, _ = line.partition(b": ")
        expected.append(what + colon + refused[what] if what in refused else line)
    assert sorted(run.stdout.split(b"\n")) == sorted(expected)


@pytest.mark.parametrize("admin", [False, True])
def test_refused(tmp_path: Path, debian_rootfs: Path, admin: bool) -> None:
    """User, pid and time namespaces always, all of them without CAP_SYS_ADMIN: as by a kernel that finds no right to it."""
    script = """
        for kind in user pid time; do unshare --$kind true; done
        for kind in mount uts ipc net cgroup; do unshare --$kind true && echo $kind; done
        nsenter --uts=/proc/self/ns/uts true && echo entered
    """
    made = bundle(tmp_path, debian_rootfs, ["/bin/bash", "-c", script], admin=admin)
    result = run_bundle(pysandbox(), made)
    kinds = ["mount", "uts", "ipc", "net", "cgroup", "entered"]
    assert result.stdout.decode().split() == (kinds if admin else [])
    assert result.stderr.count(b"Operation not permitted") == (3 if admin else 9)
    if not admin:
        answers = {(r["verdict"], r["errno"]) for r in show_trace(made) if r["name"] in ("unshare", "setns")}
        assert answers == {("refused", "EPERM"), ("allow", "EPERM")}


def test_mount_program(tmp_path: Path, debian_rootfs: Path) -> None:
    script = r"""
        t() { echo "-- $*"; "$@" 2>&1; echo "= $?"; }
        mkdir a b c d e f; root=$(findmnt -n -o PROPAGATION /)
        t mount -t tmpfs -o size=1m,ro,nosuid none /tmp/a; findmnt -n -o FSTYPE,OPTIONS /tmp/a
        t mount -o remount,rw /tmp/a; findmnt -n -o OPTIONS /tmp/a
        t mount -o remount,bind,ro,noexec /tmp/a; findmnt -n -o OPTIONS /tmp/a
        t mount --bind /etc /tmp/b; ls /tmp/b/passwd
        t mount -o bind,ro /etc /tmp/c; touch /tmp/c/x; findmnt -n -o OPTIONS /tmp/c | cut -d, -f1
        t mount --rbind /sys /tmp/d; ls /tmp/d | head -1
        t mount --make-rprivate /tmp/d; t mount --make-shared /tmp/a; findmnt -n -o PROPAGATION /tmp/a /tmp/d
        t mount --move /tmp/b /tmp/e; ls /tmp/e/passwd
        t mount -t proc proc /proc; cat /proc/self/comm
        t umount /tmp/a; t umount -R /tmp/d; t umount -l /tmp/e
        mkdir u w; t mount -t tmpfs none /tmp/f; mkdir /tmp/f/u /tmp/f/w
        t mount -t overlay -o lowerdir=/etc:/usr,upperdir=/tmp/f/u,workdir=/tmp/f/w none /tmp/b; ls /tmp/b/passwd
        t mount /nonexistent /tmp/b; t mount -t nothing none /tmp/b
    """
    assert same(tmp_path, debian_rootfs, script).stdout.count(b"= 0\n") == 15


def test_newer_mount_calls_are_not_there(tmp_path: Path, debian_rootfs: Path) -> None:
    """mount(8) 2.39 and later takes EPERM for the last word; what it finds missing it does by mount(2)."""
    script = """
import ctypes, errno
call = ctypes.CDLL(None, use_errno=True).syscall
for number in (428, 429, 430, 431, 432, 433, 442, 457, 458, 467):
    ctypes.set_errno(0)
    print(number, call(number, -100, b"tmpfs", 0, 0, 0, 0), errno.errorcode[ctypes.get_errno()])
"""
    for admin in (True, False):
        made = bundle(tmp_path / str(admin), debian_rootfs, ["/usr/bin/python3", "-c", script], admin=admin)
        result = run_bundle(pysandbox(), made)
        assert result.stdout.split()[2::3] == [b"ENOSYS"] * 10, result
