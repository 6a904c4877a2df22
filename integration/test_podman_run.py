"""`podman run` with one option after the other: under pysandbox a container sees what it sees under runc."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines_podman import DEBIAN, IMAGE, Podman, rootful
from room import MakeRoom, need_programs

CGROUP = "cd /sys/fs/cgroup; cat"


@pytest.fixture(scope="module")
def podmans(make_room: MakeRoom, pysandbox: str, busybox_tar: Path) -> Iterator[dict[str, Podman]]:
    need_programs("podman", "runc", "crun", "iptables")
    yield from rootful(make_room("podman-run"), pysandbox, {IMAGE: busybox_tar})


@pytest.fixture(scope="module")
def volume(podmans: dict[str, Podman]) -> Path:
    """A directory of user 1000 with a file; and what else the cases name by VOLUME."""
    path = podmans["runc"].room.scratch / "volume"
    path.mkdir()
    (path / "a").write_text("A\n")
    os.chown(path, 1000, 1000)
    rule = '{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}'
    profile = f'{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{rule}]}}'
    (path.parent / "seccomp.json").write_text(profile)
    podmans["runc"]("secret", "create", "sec", "-", input="s3cret")
    return path


@dataclass(frozen=True)
class Case:
    """`options` of `podman run`; `command`: a shell script, or a program and its arguments."""

    options: str
    command: str | tuple[str, ...]
    status: int = 0
    peer: str = "runc"

    @property
    def name(self) -> str:
        return self.options or (self.command if isinstance(self.command, str) else " ".join(self.command))


MAPPED = "--uidmap 0:100000:1000 --gidmap 0:100000:1000"
CASES = [
    Case("", ("echo", "hi")),
    Case("", "exit 42", 42),
    Case("--init", "kill -9 $$", 137),
    Case("", "kill -TERM $$; echo not reached as 1, the signal is ignored"),
    Case("", ("nosuch",), 127),
    Case("", ("/nonexistent",), 127),
    Case("", ("/etc/passwd",), 126),
    Case("", ("/etc",), 126),
    Case("-w /nodir", ("pwd",), 126),
    Case("-w /etc", ("pwd",)),
    Case("-e A=b --unsetenv container", "env | grep -v HOSTNAME | sort"),
    Case("-u 1000:1000", ("id",)),
    Case("-u nobody", ("id",)),
    Case("-u 7:8 --group-add 33", ("id",)),
    Case("--passwd-entry x:*:5:5::/:/bin/sh -u 5", ("tail", "-1", "/etc/passwd")),
    Case("--umask 0077", "umask"),
    Case("--read-only", "touch /x; touch /tmp/x /run/x /dev/shm/x; echo $?"),
    Case("--read-only --read-only-tmpfs=false", "touch /x; touch /tmp/x; echo $?"),
    Case("--tmpfs /t:size=1m,mode=700", "df -k /t | tail -1; stat -c %a /t; mount | grep ' /t '"),
    Case("--tmpfs /t", "stat -c %a /t"),
    Case("--tmpfs /etc", "ls -l /etc | cut -c1-30; mount | grep ' /etc '"),
    Case("--mount type=tmpfs,dst=/tt,tmpfs-size=1m", "mount | grep /tt"),
    Case("--mount type=devpts,dst=/dp", "mount | grep /dp"),
    Case(f"--mount type=image,src={IMAGE},dst=/img", "ls /img"),
    Case("-v VOLUME:/v:ro", "cat /v/a; touch /v/b", 1),
    Case("-v VOLUME:/v", "cat /v/a; touch /v/b; stat -c %u /v; rm /v/b"),
    Case("-v VOLUME:/v:rshared", "grep ' /v ' /proc/self/mountinfo | grep -c shared"),
    Case("-v VOLUME:/v:rslave,noexec,nosuid", "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f5-7 | sed 's/:.*//'"),
    Case("-v VOLUME:/v:O", "touch /v/new; ls /v"),
    Case("-v VOLUME:/v:U", "stat -c %u:%g /v"),
    Case("-v vol-RUNTIME:/n", "echo x >>/n/f; wc -l </n/f"),
    Case("-v etc-RUNTIME:/etc", "ls /etc"),
    Case("--mount type=bind,src=VOLUME,dst=/v,bind-propagation=rprivate,ro", "ls /v; touch /v/x", 1),
    Case("--secret sec", "cat /run/secrets/sec"),
    Case("--cap-drop ALL", "grep Cap /proc/self/status; chown 1 /etc/passwd", 1),
    Case("--cap-add NET_ADMIN --cap-drop CHOWN", "grep Cap /proc/self/status; ip link set lo down && echo down"),
    Case("--cap-add SYS_ADMIN", "mount -t tmpfs x /tmp && echo mounted; umount /tmp"),
    Case("-u 1000 --cap-add NET_ADMIN", "grep Cap /proc/self/status"),
    Case("--privileged", "mkdir -p /mnt; unshare -m sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt'; ls /mnt"),
    Case("--privileged", "unshare -n ls /sys/class/net"),
    Case("--privileged", "unshare -u sh -c 'hostname inner; hostname'; unshare -i ls /dev/mqueue"),
    Case("--privileged", "grep Cap /proc/self/status; ls /dev | wc -l; mount | grep -c ' /sys'"),
    Case("--security-opt no-new-privileges", "grep NoNew /proc/self/status"),
    Case("--security-opt seccomp=SECCOMP", "mkdir /tmp/x", 1),
    Case("--security-opt seccomp=unconfined", "echo unconfined"),
    Case("--security-opt unmask=ALL", "ls /proc/acpi /sys/firmware 2>&1 | head -3; mount | grep -c ' /proc/'", 1),
    Case("--security-opt unmask=/proc/kcore", "ls -l /proc/kcore | cut -c1-10; mount | grep ' /proc/' | cut -d' ' -f3"),
    Case("--security-opt mask=/etc/passwd:/var", "cat /etc/passwd; ls /var"),
    Case("--security-opt label=disable --security-opt apparmor=unconfined", "true"),
    Case("", "mount | sort"),
    Case("", "ls -l /dev /dev/fd /dev/pts | sed -E 's/ [A-Z][a-z]{2} +[0-9]+ +[0-9:]+ / /'"),
    Case("", "for f in /proc/kcore /proc/keys /proc/timer_list; do cat $f | wc -c; done; ls /proc/acpi /sys/firmware"),
    Case("--memory 64m --memory-swap 128m", f"{CGROUP} memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes"),
    Case("--memory 20m", "tail /dev/zero", 137),
    Case("--memory-reservation 32m", f"{CGROUP} memory/memory.soft_limit_in_bytes"),
    Case("--cpus 0.5 --cpu-shares 512", f"{CGROUP} cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares"),
    Case("--cpuset-cpus 0", f"{CGROUP} cpuset/cpuset.cpus; nproc; grep Cpus_allowed_list /proc/self/status"),
    Case("--pids-limit 33", f"{CGROUP} pids/pids.max"),
    Case("--device-read-bps /dev/vda:1mb", f"{CGROUP} blkio/blkio.throttle.read_bps_device"),
    Case("--blkio-weight 200", "true"),
    Case("--cpu-rt-runtime 1000", "true", 126),
    Case("--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=32768:32768", "ulimit -n; ulimit -Hn; ulimit -c"),
    Case("--oom-score-adj 100", "cat /proc/self/oom_score_adj"),
    Case("--shm-size 5m", "df -k /dev/shm | tail -1"),
    Case("--init", "ps -o pid,args | sed -n 2p; exit 3", 3),
    Case("--network host", "ip -o link | cut -d' ' -f2"),
    Case("--network none", "ip link; ls /sys/class/net"),
    Case("--hostname hn --add-host q:1.2.3.4 --dns 9.9.9.9", "hostname; cat /etc/resolv.conf; grep 1.2.3.4 /etc/hosts"),
    Case("--pid host", "ps -o args | grep -c '[r]oom_init'"),
    Case("--ipc host", "mount | grep -E 'shm|mqueue'"),
    Case("--uts host", "hostname"),
    Case("--cgroupns private", "cat /proc/self/cgroup; cut -d' ' -f4,5 /proc/self/mountinfo | grep cgroup"),
    Case("--cgroupns host", "cut -d/ -f1-2 /proc/self/cgroup"),
    Case("--sysctl net.core.somaxconn=77 --sysctl kernel.msgmax=1234", "cd /proc/sys; cat net/core/somaxconn kernel/msgmax"),
    Case("--device /dev/fuse", "ls -l /dev/fuse | cut -c1-34"),
    Case(
        "--device /dev/fuse:/dev/x:r --device-cgroup-rule c\\ 10:200\\ rw --cap-add MKNOD",
        "ls -l /dev/x | cut -c1-34; mknod /dev/t c 10 200; : <>/dev/t; echo $?; mknod /dev/k c 1 11; cat /dev/k",
        1,
    ),
    Case("--entrypoint [\"echo\",\"x\"]", ("y",)),
    Case("--annotation a=b --label c=d --no-hosts --tz local", "ls /etc | sort"),
    Case("--systemd always", "mount | grep -E ' /run | /tmp | /sys/fs/cgroup/systemd' | cut -d' ' -f1-5; echo $container"),
    Case("--timeout 1", ("sleep", "20"), 255),
    Case(MAPPED, "id; cat /proc/self/uid_map; stat -c %u /etc /proc /dev/null; touch /x && echo ok"),
    Case(f"{MAPPED} -v VOLUME:/v", "stat -c %u /v; ls /v"),
    Case(f"{MAPPED} -v VOLUME:/v:idmap", "stat -c %u /v; ls /v", peer="crun"),
    Case(f"{MAPPED} --network none", "ip link; mount | grep -E ' /sys | /proc ' | cut -d' ' -f1-5"),
    Case(f"{MAPPED} -u 5:6 --cap-add NET_ADMIN", "id; grep Cap /proc/self/status"),
    Case("--userns auto:size=2000", "id; cut -c1-11 /proc/self/uid_map; touch /x && echo ok"),
    Case("--personality LINUX32", "uname -m", peer="crun"),
]


def words(text: str, values: dict[str, str]) -> list[str]:
    """Split at spaces, except escaped ones; names in capitals get their values."""
    found = []
    for word in re.split(r"(?<!\\) ", text) if text else []:
        for name, value in values.items():
            word = word.replace(name, value)
        found.append(word.replace("\\ ", " "))
    return found


def normal(text: str) -> str:
    """Without what differs between any two containers: ids, storage layers."""
    text = re.sub(r"overlay/l/[A-Z0-9:/l]+|overlay/[0-9a-f]{64}", "LAYER", text)
    return re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "ID", text)


def run(podman: Podman, case: Case, volume: Path, image: str) -> tuple[int, str, str]:
    values = {"VOLUME": str(volume), "RUNTIME": podman.runtime, "SECCOMP": str(volume.parent / "seccomp.json")}
    command = ("sh", "-c", case.command) if isinstance(case.command, str) else case.command
    # A SIGCONT from outside must not be passed on: podman loses the exit status over it.
    done = podman.call("run", "--rm", "--sig-proxy=false", *words(case.options, values), image, *command)
    return done.returncode, normal(done.stdout), normal(done.stderr)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_run(podmans: dict[str, Podman], volume: Path, case: Case) -> None:
    theirs = run(podmans[case.peer], case, volume, IMAGE)
    ours = run(podmans["pysandbox"], case, volume, IMAGE)
    assert ours[:2] == theirs[:2], (ours, theirs)
    assert theirs[0] == case.status, theirs


def test_messages(podmans: dict[str, Podman], volume: Path) -> None:
    """What the user reads is what runc says, but for its first words."""
    for command in (("nosuch",), ("/nonexistent",), ("/etc/passwd",)):
        theirs, ours = (run(podmans[name], Case("", command), volume, IMAGE)[2] for name in ("runc", "pysandbox"))
        assert ours.startswith("Error: pysandbox: exec: ")
        assert theirs.endswith(ours.removeprefix("Error: pysandbox: "))


@pytest.mark.parametrize("runtime", ["runc", "pysandbox"])
def test_root_file_system_without_image(podmans: dict[str, Podman], busybox_rootfs: Path, runtime: str) -> None:
    podman = podmans[runtime]
    root = podman.room.scratch / f"root-{runtime}"  # a copy: podman makes mount points
    subprocess.run(["cp", "-a", f"{busybox_rootfs}/.", root], check=True)
    assert podman("run", "--rm", "--rootfs", f"{root}:O", "sh", "-c", "touch /new && ls /new") == "/new"
    assert podman("run", "--rm", "--read-only", "--rootfs", str(root), "sh", "-c", "touch /new || echo rootfs") == "rootfs"
    assert not (root / "new").exists()


@pytest.mark.parametrize("runtime", ["runc", "pysandbox"])
def test_descriptors_are_passed(podmans: dict[str, Podman], runtime: str, tmp_path: Path) -> None:
    (tmp_path / "three").write_text("through three\n")
    command = " ".join(podmans[runtime].argv("run", "--rm", "--preserve-fds", "1", IMAGE, "cat", "/proc/self/fd/3"))
    done = podmans[runtime].room.run("sh", "-c", f"exec 3<{tmp_path}/three; {command}")
    assert done.stdout == "through three\n"


DEBIAN_CASES = [
    Case("", ("python3", "-c", "import os, json, ssl; print(sum(range(10)), os.getuid())")),
    Case("-u daemon", "id; seq 1 1000 | sort -n | tail -1 | sha256sum"),
    Case("--memory 100m --cpuset-cpus 1", ("python3", "-c", "import os; print(os.sched_getaffinity(0), os.cpu_count())")),
    Case("", "cd /tmp; echo 'int main(void){return 7;}' >a.c; gcc -o a a.c; ./a", 7),
    Case("", ("perl", "-e", "print join(',', map { $_ * 2 } 1..5), qq(\\n)")),
]


@pytest.mark.slow
def test_debian(podmans: dict[str, Podman], volume: Path, debian_tar: Path) -> None:
    from engines_podman import import_image

    import_image(podmans["runc"], debian_tar, DEBIAN)
    for case in DEBIAN_CASES:
        ours, theirs = (run(podmans[name], case, volume, DEBIAN) for name in ("pysandbox", "runc"))
        assert ours == theirs
        assert theirs[0] == case.status, theirs
