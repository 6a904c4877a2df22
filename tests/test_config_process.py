"""The rest of config.json that a process sees or an error shows: scheduling, limits, sysctls, time, labels, devices, ..."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_lab
import pytest

TOP = Path(__file__).resolve().parent.parent
Config = dict[str, Any]
Change = Callable[[Config], object]
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc to compare with: apt-get install runc"),
]
_libc = ctypes.CDLL(None, use_errno=True)
SYS_IOPRIO_GET = 252


class Lab:
    def __init__(self, top: Path, pysandbox: str) -> None:
        self.top = top
        self.pysandbox = pysandbox
        self.name = f"process-{os.getpid()}-{top.name}"

    def prepare(self, args: str | list[str], change: Change | None = None) -> Path:
        config = json.loads((TOP / "tests/data/configs/docker-run.json").read_text())
        config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev", "/dev/pts", "/sys")]
        argv = ["/bin/sh", "-c", args] if isinstance(args, str) else args
        bundle = config_lab.prepare(config, self.top, self.name, argv)
        config = json.loads((bundle / "config.json").read_text())
        config["linux"]["resources"] = {}
        config["linux"].pop("seccomp")
        config["linux"].pop("sysctl")
        if change:
            change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def run(self, args: str | list[str], change: Change | None = None) -> config_lab.Seen:
        return config_lab.run(self.pysandbox, self.prepare(args, change))

    def compare(self, args: str | list[str], change: Change | None = None) -> str:
        theirs = config_lab.run("runc", self.prepare(args, change))
        ours = self.run(args, change)
        assert (ours.status, ours.stdout) == (theirs.status, theirs.stdout), f"{ours}\n{theirs}"
        return ours.stdout

    def error(self, change: Change, *, runc_refuses: bool = True) -> str:
        """The one line of an error; what was begun is gone."""
        if runc_refuses:
            assert config_lab.run("runc", self.prepare("true", change)).status == 1
        seen = self.run("true", change)
        assert (seen.status, seen.stdout) == (1, ""), seen
        assert seen.stderr.startswith("pysandbox: ")
        assert seen.stderr.count("\n") == 1, seen.stderr
        assert not list(Path("/sys/fs/cgroup").glob(f"*/pysandbox-test/{self.name}"))
        return seen.stderr

    def detached(self, change: Change) -> int:
        """Host pid of a container that sleeps; `delete` ends it."""
        bundle = self.prepare(["/bin/sleep", "1000"], change)
        pid_file = bundle / "pid"
        root = bundle / "state-pysandbox"
        command = [self.pysandbox, "--root", root, "run", "-d", "--pid-file", pid_file, "-b", bundle, self.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        assert done.returncode == 0
        return int(pid_file.read_text())

    def delete(self) -> None:
        root = self.top / self.name / "state-pysandbox"
        subprocess.run([self.pysandbox, "--root", root, "delete", "--force", self.name], check=True)


@pytest.fixture
def lab(busybox_rootfs: Path, pysandbox_command: list[str]) -> Iterator[Lab]:
    del busybox_rootfs  # config_lab copies it
    with tempfile.TemporaryDirectory(prefix="process-") as top:
        yield Lab(Path(top), pysandbox_command[0])


def process(**changes: Any) -> Change:
    return lambda config: config["process"].update(changes)


def linux(**changes: Any) -> Change:
    return lambda config: config["linux"].update(changes)


# --- scheduling (younger than Debian's runc): seen from the host ------------------------------------------------------


def scheduling(pid: int) -> tuple[int, int, int]:
    """(policy, real-time priority, nice) of the first thread: proc(5), /proc/pid/stat, fields 41, 40, 19."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[38]), int(fields[37]), int(fields[16])


SCHEDULERS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"policy": "SCHED_OTHER", "nice": 7}, (os.SCHED_OTHER, 0, 7)),
    ({"policy": "SCHED_BATCH", "nice": 3}, (os.SCHED_BATCH, 0, 3)),
    ({"policy": "SCHED_IDLE"}, (os.SCHED_IDLE, 0)),
]


@pytest.mark.parametrize(("scheduler", "expected"), SCHEDULERS, ids=[case[0]["policy"] for case in SCHEDULERS])
def test_scheduler(lab: Lab, scheduler: dict[str, Any], expected: tuple[int, ...]) -> None:
    pid = lab.detached(process(scheduler=scheduler))
    try:
        assert scheduling(pid)[: 2 if scheduler["policy"] == "SCHED_IDLE" else 3] == expected
    finally:
        lab.delete()


def test_real_time_scheduler(lab: Lab) -> None:
    change = process(scheduler={"policy": "SCHED_RR", "priority": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})
    if os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        # Real-time time is dealt out by cgroup here, and a new one has none.
        assert lab.error(change, runc_refuses=False) == "pysandbox: set scheduler: operation not permitted\n"
        return
    pid = lab.detached(change)
    try:
        assert scheduling(pid)[:2] == (os.SCHED_RR, 5)
    finally:
        lab.delete()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="takes two CPUs")
def test_deadlines_on_some_cpus(lab: Lab) -> None:
    """The kernel refuses them, and its EPERM says little."""
    deadline = {"policy": "SCHED_DEADLINE", "runtime": 42000, "deadline": 1000000, "period": 1000000}
    change = process(scheduler=deadline)

    def one_cpu(config: Config) -> None:
        change(config)
        config["linux"]["resources"]["cpu"] = {"cpus": "0"}

    expected = "pysandbox: process scheduler can't be used together with AllowedCPUs\n"
    assert lab.error(one_cpu, runc_refuses=False) == expected


def test_scheduler_that_cannot_be(lab: Lab) -> None:
    change = process(scheduler={"policy": "SCHED_FIFO", "priority": 100})
    assert lab.error(change, runc_refuses=False) == "pysandbox: set scheduler: invalid argument\n"
    change = process(scheduler={"policy": "SCHED_NONE"})
    assert "/process/scheduler/policy: expected one of 'SCHED_OTHER'" in lab.error(change, runc_refuses=False)


@pytest.mark.parametrize(("name", "number"), [("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)])
def test_io_priority(lab: Lab, name: str, number: int) -> None:
    pid = lab.detached(process(ioPriority={"class": name, "priority": 6}))
    try:
        value = _libc.syscall(SYS_IOPRIO_GET, 1, pid)
        assert value >> 13 == number
        assert value & 7 == (6 if number == 2 else value & 7)
    finally:
        lab.delete()


# --- time, personality, names -----------------------------------------------------------------------------------------


def test_time_offsets(lab: Lab) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 2000000}, "monotonic": {"secs": 5, "nanosecs": 7}}

    seen = lab.run("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime", change)
    words = seen.stdout.split()
    assert words[:6] == ["monotonic", "5", "7", "boottime", "2000000", "0"], seen
    assert 2000000 < int(words[6]) - time.clock_gettime(time.CLOCK_BOOTTIME) + 60 < 2000120


def test_time_offset_before_boot(lab: Lab) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": -(10**9)}}

    assert lab.error(change, runc_refuses=False) == "pysandbox: set time offset of boottime: numerical result out of range\n"


def test_personality(lab: Lab) -> None:
    """uname(2) tells PER_LINUX32 from PER_LINUX."""
    for domain, machine in (("LINUX", "x86_64"), ("LINUX32", "i686")):
        assert lab.run("uname -m", linux(personality={"domain": domain})).stdout == f"{machine}\n"
    change = linux(personality={"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})
    assert "personality.flags are not supported" in lab.error(change, runc_refuses=False)


def test_names(lab: Lab) -> None:
    change = lambda c: c.update(hostname="a-host", domainname="a.domain")  # noqa: E731
    assert lab.run("hostname; cat /proc/sys/kernel/domainname", change).stdout == "a-host\na.domain\n"
    assert lab.error(lambda c: c.update(hostname="x" * 65)) == "pysandbox: sethostname: invalid argument\n"


# --- limits, ids, capabilities ----------------------------------------------------------------------------------------


def test_every_rlimit(lab: Lab) -> None:
    limits = [
        ("CPU", 1000), ("FSIZE", 10**9), ("DATA", 2**40), ("STACK", 1 << 22), ("CORE", 0), ("RSS", 2**40), ("NPROC", 999),
        ("NOFILE", 777), ("MEMLOCK", 65536), ("AS", 2**64 - 1), ("LOCKS", 55), ("SIGPENDING", 66), ("MSGQUEUE", 1234),
        ("NICE", 0), ("RTPRIO", 0), ("RTTIME", 10**6),
    ]  # fmt: skip
    change = process(rlimits=[{"type": f"RLIMIT_{name}", "soft": value, "hard": value} for name, value in limits])
    out = lab.compare("cat /proc/self/limits", change)
    assert "Max file locks            55" in out


def test_little_address_space_and_a_large_stack(lab: Lab) -> None:
    """The kernel's stack takes address space as it grows: a limit above RLIMIT_AS is none."""
    limits = [("STACK", 9 << 30), ("AS", 1 << 30)]
    change = process(rlimits=[{"type": f"RLIMIT_{name}", "soft": value, "hard": value} for name, value in limits])
    assert lab.compare("ulimit -v; ulimit -s; sh -c 'head -c 1000000 /dev/zero | wc -c'", change) == "1048576\n9437184\n1000000\n"


@pytest.mark.parametrize(("soft", "hard"), [(2**64 - 1, 2**64 - 1), (1 << 46, 2**64 - 1), (1 << 46, 1 << 46)])
def test_a_stack_without_bounds(lab: Lab, soft: int, hard: int) -> None:
    """As by `docker run --ulimit stack=-1`. The kernel would move the monitor down for it, into the program's addresses."""
    change = process(rlimits=[{"type": "RLIMIT_STACK", "soft": soft, "hard": hard}])
    assert lab.compare("ulimit -s; ulimit -H -s; sh -c 'ulimit -s'; grep stack /proc/self/limits", change)


def test_hard_limit_that_may_not_be_raised(lab: Lab) -> None:
    change = process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**40}])
    assert lab.error(change) == "pysandbox: error setting rlimit RLIMIT_NOFILE: operation not permitted\n"


def test_groups_and_umask(lab: Lab) -> None:
    user = {"uid": 33, "gid": 44, "umask": 0o077, "additionalGids": [1, 2, 3, 44]}
    assert lab.compare("id; umask; touch /tmp/x; ls -ln /tmp/x | cut -c1-30", process(user=user))
    for name in ("uid", "gid"):  # -1 would mean "leave it" to setresuid(2)
        assert f"/process/user/{name}: 4294967295 is not an id" in lab.error(process(user={"uid": 0, "gid": 0, name: 2**32 - 1}))


def test_ambient_capabilities(lab: Lab) -> None:
    names = ["CAP_NET_RAW", "CAP_KILL", "CAP_CHOWN"]
    kinds = dict.fromkeys(("bounding", "permitted", "effective", "inheritable", "ambient"), names)
    change = process(capabilities=kinds, user={"uid": 5, "gid": 5})
    assert "CapAmb:\t0000000000002021" in lab.compare("grep Cap /proc/self/status", change)


def test_capability_that_the_host_lacks(lab: Lab) -> None:
    """Given what there is, with a word about the rest: engines ask for more than the machine has."""
    have = config_lab.own_bounding()
    from pysandbox.oci.process import CAPABILITIES

    lacking = [f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if number not in have]
    if not lacking:
        pytest.skip("this machine lacks no capability")
    change = process(capabilities={kind: [lacking[0], "CAP_KILL"] for kind in ("bounding", "permitted", "effective")})
    seen = lab.run("grep CapEff /proc/self/status", change)
    assert seen.stdout == "CapEff:\t0000000000000020\n"
    expected = f"pysandbox: warning: capability {lacking[0]} is not in this host's bounding set and was not given\n"
    assert (seen.status, seen.stderr) == (0, expected)


def test_original_groups(lab: Lab) -> None:
    """crun's annotation: the caller's groups stay."""
    for value, groups in (("1", "9 11 12"), ("0", "9")):
        bundle = lab.prepare("grep Groups /proc/self/status", process(user={"uid": 0, "gid": 0, "additionalGids": [9]}))
        config = json.loads((bundle / "config.json").read_text())
        config["annotations"] = {"run.oci.keep_original_groups": value}
        (bundle / "config.json").write_text(json.dumps(config))
        command = [lab.pysandbox, "--root", bundle / "state", "run", "-b", bundle, lab.name]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, extra_groups=[11, 12], check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["Groups:", *groups.split()]


def test_unknown_capability(lab: Lab) -> None:
    """Not an error, says the specification, so that a newer engine can ask."""
    change = process(capabilities={kind: ["CAP_FLY", "CAP_KILL", "KILL"] for kind in ("bounding", "permitted", "effective")})
    assert lab.compare("grep Cap /proc/self/status", change).count("0000000000000020\n") == 3
    seen = lab.run("true", change)
    expected = "pysandbox: warning: ignoring unknown or unavailable capabilities: [CAP_FLY KILL]\n"
    assert (seen.status, seen.stderr) == (0, expected)


def test_oom_score(lab: Lab) -> None:
    assert lab.compare("cat /proc/self/oom_score_adj", process(oomScoreAdj=321)) == "321\n"
    seen = lab.run("cat /proc/self/oom_score_adj", process(oomScoreAdj=-500))
    if 24 in config_lab.own_bounding():  # CAP_SYS_RESOURCE
        assert (seen.stdout, seen.stderr) == ("-500\n", "")
    else:
        assert seen.stdout == "0\n"
        assert seen.stderr == "pysandbox: warning: oomScoreAdj -500 needs CAP_SYS_RESOURCE and was not applied\n"


@pytest.mark.parametrize("flag", [False, True])
def test_no_new_privileges(lab: Lab, flag: bool) -> None:
    """The program, its children and those of exec see the flag that was asked for. New privileges are never given: a set-uid
    program runs as on a file system mounted nosuid."""
    change = process(noNewPrivileges=flag)
    seen = lab.compare("grep NoNewPrivs /proc/self/status; sh -c 'exec grep NoNewPrivs /proc/self/status'", change)
    assert seen == f"NoNewPrivs:\t{int(flag)}\n" * 2


def test_no_new_privileges_is_set_for_good(lab: Lab, debian_rootfs: Path) -> None:
    """As the kernel has it: inherited, never cleared, other arguments refused."""
    script = """
import ctypes, os
prctl = ctypes.CDLL(None, use_errno=True).prctl
print(prctl(39, 0, 0, 0, 0), prctl(38, 0, 0, 0, 0), prctl(38, 1, 1, 0, 0), prctl(39, 1, 0, 0, 0), prctl(39, 0, 0, 0, 0))
print(prctl(38, 1, 0, 0, 0), prctl(39, 0, 0, 0, 0), prctl(38, 0, 0, 0, 0), flush=True)
os.execv("/usr/bin/python3", ["python3", "-c", "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))"])
"""

    def change(config: Config) -> None:
        config["process"].update(noNewPrivileges=False)
        config["root"] = {"path": str(debian_rootfs.resolve()), "readonly": True}

    seen = lab.compare(["python3", "-c", script], change)
    assert seen == "0 -1 -1 -1 0\n0 1 -1\n1\n"


def test_home_is_not_read_from_a_fifo(lab: Lab) -> None:
    bundle = lab.prepare("echo $HOME", process(env=["PATH=/bin"]))
    (bundle / "rootfs/etc/passwd").unlink()
    os.mkfifo(bundle / "rootfs/etc/passwd")
    assert config_lab.run(lab.pysandbox, bundle).stdout == "/\n"


# --- sysctl -----------------------------------------------------------------------------------------------------------


def test_sysctls(lab: Lab) -> None:
    settings = {
        "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/forwarding": "1", "kernel.msgmax": "9999", "kernel.shm_rmid_forced": "1",
        "kernel.sem": "250 32000 100 128", "kernel.domainname": "d.example", "fs.mqueue.msg_max": "11",
        "net.ipv4.ping_group_range": "0 100",
    }  # fmt: skip
    script = "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/conf/lo/forwarding kernel/msgmax kernel/shm_rmid_forced kernel/sem"
    script += " kernel/domainname fs/mqueue/msg_max net/ipv4/ping_group_range"
    assert "9999" in lab.compare(script, linux(sysctl=settings))


SYSCTL_ERRORS: list[tuple[dict[str, str], str]] = [
    ({"vm.swappiness": "1"}, "sysctl 'vm.swappiness' is not in a separate kernel namespace"),
    ({"kernel.panic": "1"}, "sysctl 'kernel.panic' is not in a separate kernel namespace"),
    ({"kernel.hostname": "h"}, "sysctl kernel.hostname: use the property hostname"),
    ({"net.no.such.thing": "1"}, "set sysctl net.no.such.thing=1: no such file or directory"),
    ({"net.ipv4.ip_forward": "many"}, "set sysctl net.ipv4.ip_forward=many: invalid argument"),
]


@pytest.mark.parametrize(("settings", "message"), SYSCTL_ERRORS, ids=[next(iter(case[0])) for case in SYSCTL_ERRORS])
def test_sysctl_errors(lab: Lab, settings: dict[str, str], message: str) -> None:
    assert lab.error(linux(sysctl=settings)).endswith(f"{message}\n")


def test_sysctl_in_the_hosts_namespace_by_path(lab: Lab) -> None:
    """A path that leads to the caller's own network namespace: the setting would be the host's."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "network"]
        config["linux"]["namespaces"].append({"type": "network", "path": f"/proc/{os.getpid()}/ns/net"})
        config["linux"]["sysctl"] = {"net.ipv4.ip_default_ttl": "99"}

    before = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()
    assert "is not allowed in the host's network namespace" in lab.error(change)
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == before


# --- security labels, Intel RDT ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.path.isdir("/sys/kernel/security/apparmor"), reason="AppArmor is enabled here")
def test_apparmor_where_there_is_none(lab: Lab) -> None:
    error = lab.error(process(apparmorProfile="docker-default"))
    assert error == "pysandbox: process.apparmorProfile is set, but AppArmor is not enabled on this host\n"
    assert lab.run("echo ran", process(apparmorProfile="unconfined")).stdout == "ran\n"


@pytest.mark.skipif(os.path.isdir("/sys/fs/selinux"), reason="SELinux is enabled here")
def test_selinux_where_there_is_none(lab: Lab) -> None:
    label = "system_u:system_r:container_t:s0"
    assert "process.selinuxLabel is set, but SELinux is not enabled" in lab.error(process(selinuxLabel=label))
    assert "linux.mountLabel is set, but SELinux is not enabled" in lab.error(linux(mountLabel=label), runc_refuses=False)


@pytest.mark.skipif(os.path.isdir("/sys/fs/resctrl"), reason="resctrl exists here")
def test_intel_rdt_where_there_is_none(lab: Lab) -> None:
    change = linux(intelRdt={"closID": "c", "l3CacheSchema": "L3:0=f"})
    assert "linux.intelRdt is set, but resctrl is not mounted" in lab.error(change)


# --- network devices --------------------------------------------------------------------------------------------------


@pytest.fixture
def veth() -> Iterator[str]:
    """A pair of devices of the host; the name of the one with addresses. Gone with the container, or removed here."""
    name = f"pv{os.getpid() % 100000}"
    subprocess.run(["ip", "link", "add", f"{name}a", "mtu", "1400", "type", "veth", "peer", "name", f"{name}b"], check=True)
    subprocess.run(["ip", "addr", "add", "10.99.7.1/24", "dev", f"{name}a"], check=True)
    subprocess.run(["ip", "link", "set", f"{name}a", "address", "02:00:00:00:00:77", "up"], check=True)
    yield f"{name}a"
    subprocess.run(["ip", "link", "del", f"{name}b"], check=False, capture_output=True)


def test_network_device_moves_in(lab: Lab, veth: str) -> None:
    script = "cd /sys/class/net; ls; cat eth0/mtu eth0/address; ip addr show eth0 | grep -o 'UP\\|inet [^ ]*'"
    seen = lab.run(script, linux(netDevices={veth: {"name": "eth0"}}))
    assert seen.stdout.split() == ["eth0", "lo", "1400", "02:00:00:00:00:77", "UP", "inet", "10.99.7.1/24"], seen
    assert not os.path.exists(f"/sys/class/net/{veth}")


def test_network_device_keeps_its_name(lab: Lab, veth: str) -> None:
    assert veth in lab.run("ls /sys/class/net", linux(netDevices={veth: {}})).stdout.split()


def test_network_device_errors(lab: Lab, veth: str) -> None:
    missing = lab.error(linux(netDevices={"nosuchdev": {"name": "eth0"}}), runc_refuses=False)
    assert missing == "pysandbox: network device 'nosuchdev' does not exist\n"
    taken = lab.error(linux(netDevices={veth: {"name": "lo"}}), runc_refuses=False)
    assert taken == f"pysandbox: move network device '{veth}' into the container: a device of this name exists there\n"
    assert os.path.exists(f"/sys/class/net/{veth}")
    bad = lab.error(linux(netDevices={veth: {"name": "a/b"}}), runc_refuses=False)
    assert bad == f"pysandbox: config.json: /linux/netDevices/{veth}/name: 'a/b' is not the name of a network device\n"
