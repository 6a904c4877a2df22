"""Options of `docker run` beside runc: files, rights, limits, namespaces, seccomp. What a program sees is the same under both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from docker_lab import IMAGE, RUNTIMES, Docker

CAPS = "grep Cap /proc/self/status"
# Mount ids and the names of layers differ between two containers of the same kind.
MOUNTS = (
    "cut -d' ' -f4- /proc/self/mountinfo"
    " | sed -E 's/[0-9a-f]{64}/ID/g; s/[A-Z0-9]{26}/LAYER/g; s/(upper|work)dir=[^, ]*//g; s/(shared|master):[0-9]+/\\1/'"
)


def test_the_default_container(docker: Docker) -> None:
    """Mounts, devices, masked files, rights, limits, environment: dockerd's defaults."""
    script = f"""{MOUNTS}; ls -l /dev | cut -c1-46,59-; {CAPS}; cat /proc/self/limits; env | sort; id; hostname; umask
        ls /proc/acpi /sys/firmware; head -c 1 /proc/kcore | wc -c; grep Seccomp: /proc/self/status; cat /proc/self/oom_score_adj
        sed 's/^[0-9.]*/ADDRESS/' /etc/hosts; cat /etc/resolv.conf; cut -d: -f2 /proc/self/cgroup; cat /proc/self/uid_map
        cat /proc/sys/kernel/hostname; ls /proc/sys/net"""
    assert "Max open files" in docker.sh(script)


def test_what_a_container_may_not_do(docker: Docker) -> None:
    script = """mount -t tmpfs x /mnt; mount -o remount,rw /sys; unshare -n true; dmesg | head; echo x >/proc/sys/kernel/hostname
        echo b >/proc/sysrq-trigger; mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda; hostname other
        ip link add d0 type veth peer name d1; chroot / true; chown 1:1 /tmp; nice -n -5 true; swapoff -a; echo $?"""
    docker.same(IMAGE, "sh", "-c", script)


def test_read_only_and_tmpfs(docker: Docker) -> None:
    script = "touch /x; touch /dev/shm/x && echo shm; touch /scratch/x; stat -c '%a %u' /scratch; df /scratch; mount | grep scr"
    options = ["--read-only", "--tmpfs", "/scratch:size=1m,mode=1770,uid=7,noexec"]
    assert "1024" in docker.sh(script, *options)
    done = docker.same("--read-only", *options, IMAGE, "dd", "if=/dev/zero", "of=/scratch/x", "bs=1k", "count=2000")
    assert "No space left on device" in done.stderr
    mount = ["--mount", "type=tmpfs,destination=/m,tmpfs-size=64k,tmpfs-mode=0700"]
    docker.sh("mount | grep ' /m '; stat -c %a /m", *mount)


def test_volumes(docker: Docker) -> None:
    host = docker.room.scratch / "volume"
    host.mkdir()
    (host / "file").write_text("from the host\n")
    (host / "link").symlink_to("file")
    read = f"cat /v/file /v/link; ls -la /v | wc -l; touch /v/new && rm /v/new; echo $?; {MOUNTS} | grep ' /v '"
    for mode in ("", ":ro", ":rshared", ":rslave", ":ro,private"):
        docker.sh(read, "--volume", f"{host}:/v{mode}")
    docker.sh("head -1 /one; echo x >>/one; tail -1 /one", "--volume", f"{host}/file:/one")
    assert (host / "file").read_text() == "from the host\nx\nx\n"
    docker.sh("cat /deep/in/here/file", "--mount", f"type=bind,source={host},target=/deep/in/here,readonly")
    assert docker.same("--mount", f"type=bind,source={host}/none,target=/x", IMAGE, "true").returncode == 125


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_named_volumes_keep_and_share(docker: Docker, runtime: str) -> None:
    name = f"volume-{runtime}"
    assert docker.run(runtime, "-v", f"{name}:/etc", IMAGE, "sh", "-c", "ls /etc/passwd; echo kept >/etc/kept").returncode == 0
    with docker.container(runtime, "-v", f"{name}:/data", IMAGE, "sleep", "1000") as box:
        done = docker.run(runtime, "--volumes-from", box.name, IMAGE, "sh", "-c", "cat /data/kept; echo more >/data/more")
        assert done.stdout == "kept\n"
        assert box.exec("cat", "/data/more").stdout == "more\n"
    docker("volume", "rm", name)


@pytest.mark.parametrize(
    "options",
    [
        ["--cap-drop", "ALL"],
        ["--cap-drop", "ALL", "--cap-add", "CHOWN"],
        ["--cap-add", "NET_ADMIN"],
        ["--user", "1000"],
        ["--user", "1000", "--cap-add", "SYS_ADMIN"],
        ["--security-opt", "no-new-privileges"],
    ],
)
def test_capabilities(docker: Docker, options: list[str]) -> None:
    script = f"{CAPS}; chown 1:1 /tmp; echo $?; ip link add d0 type veth peer name d1 2>/dev/null; echo $?; kill -0 1; echo $?"
    script += "; ifconfig lo mtu 1400 2>/dev/null; echo $?; route add -net 9.9.9.0/24 dev eth0 2>/dev/null; route -n"
    docker.same(*options, IMAGE, "sh", "-c", script)


def test_capabilities_that_this_machine_has_not(docker: Docker) -> None:
    """They are left out; runc 1.1 refuses to start where it lacks one."""
    for options in (["--privileged"], ["--cap-add", "ALL"]):
        theirs, ours = (docker.run(name, *options, IMAGE, "sh", "-c", f"{CAPS}; test -e /dev/full") for name in RUNTIMES)
        assert ours.returncode == 0, ours.stderr
        assert ours.stdout == theirs.stdout or theirs.returncode == 125


def profile(docker: Docker, name: str, content: dict[str, object]) -> Path:
    path = docker.room.scratch / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def test_seccomp_profiles(docker: Docker) -> None:
    """A profile's verdicts, arguments, errnoRet and defaultErrnoRet."""
    deny: list[dict[str, object]] = [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"},
    ]
    usr1 = [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]
    deny.append({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": usr1})
    path = profile(docker, "deny", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": deny})
    script = "mkdir /tmp/d; chmod 700 /tmp; hostname x; sync; echo $?; kill -USR1 $$; kill -0 $$; echo $?"
    done = docker.same("--security-opt", f"seccomp={path}", IMAGE, "sh", "-c", script)
    assert "Operation not permitted" in done.stderr
    assert "Not supported" in done.stderr or "Operation not supported" in done.stderr
    assert "Function not implemented" in done.stderr or "not implemented" in done.stderr
    assert done.stdout.startswith("159\n")  # 128 + SIGSYS


def test_seccomp_default_action(docker: Docker) -> None:
    """All calls but those that are named are refused. (This dockerd does not pass defaultErrnoRet on; the others do.)"""
    allowed = [{"names": NEEDED.split(), "action": "SCMP_ACT_ALLOW"}]
    path = profile(docker, "default", {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": allowed})
    done = docker.same("--security-opt", f"seccomp={path}", IMAGE, "sh", "-c", "echo runs; mkdir /tmp/x; chmod 1 /tmp")
    assert done.stdout == "runs\n"
    assert len(done.stderr.splitlines()) == 2


def test_no_seccomp(docker: Docker) -> None:
    out = docker.sh("mkdir /tmp/x && echo made; grep Seccomp /proc/self/status", "--security-opt", "seccomp=unconfined")
    assert out == "made\nSeccomp:\t0\nSeccomp_filters:\t0\n"


NEEDED = """execve exit exit_group write read brk mmap munmap mprotect arch_prctl set_tid_address set_robust_list rseq
    prlimit64 rt_sigaction rt_sigprocmask rt_sigreturn getpid getppid getuid geteuid getgid getegid openat open close fstat
    stat lstat newfstatat clock_gettime fcntl dup2 dup readlink ioctl fork vfork clone wait4 getcwd getpgrp uname prctl
    getrandom lseek poll capget setuid setgid setgroups chdir fchdir futex statx access faccessat faccessat2 getdents64 umask
    sched_yield kill tgkill gettid nanosleep capset clock_nanosleep sendto recvfrom socketpair sysinfo getpgid setpgid setsid
    time fchown chown utimensat fstatfs statfs"""


def test_limits_are_visible_to_the_program(docker: Docker) -> None:
    memory = "limit_in_bytes memsw.limit_in_bytes soft_limit_in_bytes swappiness"
    files = [f"memory/memory.{name}" for name in memory.split()]
    files += "cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus pids/pids.max".split()
    script = f"cd /sys/fs/cgroup && cat {' '.join(files)}; nproc; grep Cpus_allowed_list /proc/self/status; ulimit -n; ulimit -Hn"
    script += "; ulimit -c; cat /proc/self/oom_score_adj; head -1 /proc/meminfo; grep -c processor /proc/cpuinfo"
    options = "--memory 64m --memory-swap 96m --memory-reservation 32m --memory-swappiness 10 --cpus 0.5 --cpu-shares 300"
    options += " --cpuset-cpus 0 --pids-limit 77 --ulimit nofile=100:200 --ulimit core=0 --oom-score-adj 500"
    out = docker.sh(script, *options.split()).split()
    assert out[:10] == ["67108864", "100663296", "33554432", "10", "50000", "100000", "300", "0", "77", "1"]


def test_limits_bind(docker: Docker) -> None:
    assert docker.same("--memory", "32m", IMAGE, "tail", "/dev/zero").returncode == 137
    script = "i=0; while test $i -lt 60; do sleep 5 & i=$((i + 1)); done; echo all"
    for runtime in RUNTIMES:  # under the limit of 20 tasks not all of 60 processes can be
        done = docker.run(runtime, "--pids-limit", "20", IMAGE, "sh", "-c", script)
        assert "all" not in done.stdout
        assert done.returncode != 0
    script = "ulimit -n 6; exec 3</dev/null 4</dev/null 5</dev/null; (exec 6</dev/null)"
    assert "Too many open files" in docker.same(IMAGE, "sh", "-c", script).stderr
    dd = ["dd", "if=/dev/zero", "of=/tmp/x", "bs=4096", "count=4"]
    assert "File too large" in docker.same("--ulimit", "fsize=1024", IMAGE, *dd).stderr


def test_devices(docker: Docker) -> None:
    script = "ls -l /dev/xx | cut -c1-46; : </dev/xx && echo readable; (: >/dev/xx) || echo refused"
    docker.sh(script, "--device", "/dev/fuse:/dev/xx:r")
    docker.sh("cat /sys/fs/cgroup/devices/devices.list", "--device", "/dev/fuse")
    assert docker.same("--device", "/dev/none", IMAGE, "true").returncode == 127


@pytest.mark.parametrize(
    "options",
    [
        ["--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.msgmax=1000"],
        ["--shm-size", "8m"],
        ["--pid", "host"],
        ["--ipc", "host"],
        ["--ipc", "none"],
        ["--cgroupns", "private"],
        ["--cgroupns", "host"],
        ["--init"],
        ["--domainname", "example.test"],
        ["--dns", "1.2.3.4", "--dns-search", "x.test", "--dns-option", "ndots:3", "--add-host", "foo:9.9.9.9"],
        ["--mac-address", "02:42:ac:11:00:99"],
        ["--ulimit", "stack=1000000"],
        ["--group-add", "5", "--user", "3:4"],
        ["--stop-signal", "INT"],
        ["--device-cgroup-rule", "c 10:* rwm"],
        ["--env-file", "/etc/os-release"],
        ["--security-opt", "label=disable"],
        ["--security-opt", "systempaths=unconfined"],
        ["--cpu-period", "50000", "--cpu-quota", "20000"],
        ["--entrypoint", "/usr/bin/env"],
    ],
    ids=" ".join,
)
def test_more_options(docker: Docker, options: list[str]) -> None:
    script = """cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; df /dev/shm | tail -1; ps | head -1; ulimit -s; id
        cut -d: -f2 /proc/self/cgroup; readlink /proc/self/exe; hostname -f; cat /etc/resolv.conf; grep foo /etc/hosts; env | sort
        ls /proc/sys /proc/asound 2>&1; test "$(ls /proc | grep -c '^[0-9]')" -gt 20; echo $?
        cat /sys/fs/cgroup/devices/devices.list; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us
        mount | grep -c /proc; tr '\\0' ' ' </proc/1/cmdline | cut -c1-40"""
    words = [IMAGE, "sh", "-c", script]
    if options[0] == "--init" or options[:2] == ["--pid", "host"]:
        words = [IMAGE, "sh", "-c", script.replace("tr ", "echo ")]
    done = docker.same(*options, *words)
    assert done.returncode in (0, 1)


def test_process_namespaces_shared_between_containers(docker: Docker) -> None:
    for runtime in RUNTIMES:
        with docker.container(runtime, IMAGE, "sleep", "1234") as box:
            target = f"container:{box.name}"
            script = "ps | grep -c 'sleep 123[4]'; ip -4 addr show eth0 | grep -c inet; ls /proc/1/root >/dev/null 2>&1; kill 1"
            done = docker.run(runtime, "--pid", target, "--network", target, "--ipc", "shareable", IMAGE, "sh", "-c", script)
            assert done.stdout == "1\n1\n", done.stderr
