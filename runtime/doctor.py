"""`pysandbox doctor`: what this host offers, what is missing, and the mend. One function a check; a check is a row."""

from __future__ import annotations

import os

from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import Error, host_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.runtime.install import Engine, Place

OK, WARN, FAIL = "ok", "warn", "fail"

# Extensions of KVM that the monitor uses: name -> number (include/uapi/linux/kvm.h).
KVM_CAPS = {
    "KVM_CAP_USER_MEMORY": 3,
    "KVM_CAP_XSAVE": 55,
    "KVM_CAP_XCRS": 56,
    "KVM_CAP_SYNC_REGS": 74,
    "KVM_CAP_READONLY_MEM": 81,
    "KVM_CAP_IMMEDIATE_EXIT": 136,
}
_KVM_CHECK_EXTENSION = 0xAE03
_KVM_CREATE_VM = 0xAE01
_OLDEST_KERNEL = (5, 12)


class Finding(Struct):
    """`status`: ok, warn (works, with something less) or fail (containers do not run). `mend`: what to do, "" when
    ok.
    """

    name: str
    status: str
    detail: str
    mend: str = ""


def examine() -> list[Finding]:
    """Runs all checks. Nothing is changed on the host."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check()
        except OSError as error:
            name = check.__name__.removeprefix("_")
            findings.append(Finding(name=name, status=FAIL, detail=host_reason(error.errno), mend="run as root"))
    return findings


def _kernel() -> list[Finding]:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if os.uname().machine != "x86_64":
        return [Finding(name="kernel", status=FAIL, detail=os.uname().machine, mend="pysandbox runs on x86-64 only")]
    if numbers < _OLDEST_KERNEL:
        return [Finding(name="kernel", status=FAIL, detail=release, mend="needs Linux 5.12 or later (mount_setattr)")]
    return [Finding(name="kernel", status=OK, detail=release)]


def _user() -> list[Finding]:
    if os.geteuid() != 0:
        return [_ordinary_user()]
    from pysandbox.oci.process import CAPABILITIES
    from pysandbox.runtime import native

    held = native.capget()[1]
    missing = [name for number, name in enumerate(CAPABILITIES) if not held >> number & 1]
    needed = {"SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "MKNOD", "CHOWN", "DAC_OVERRIDE", "SYS_CHROOT"} & set(missing)
    if needed:
        return [
            Finding(
                name="user",
                status=FAIL,
                detail=f"root without {', '.join(sorted(needed))}",
                mend="start with these capabilities",
            )
        ]
    if missing:
        detail = f"root without {', '.join(missing)}"
        return [Finding(name="user", status=WARN, detail=detail, mend="containers that ask for these run without them")]
    return [Finding(name="user", status=OK, detail="root with all capabilities")]


def _ordinary_user() -> Finding:
    """Containers of such a user live in a user namespace, which is to be allowed; ids besides his own come from
    /etc/subuid by newuidmap."""
    import shutil

    detail = f"uid {os.geteuid()}"
    try:
        with open("/proc/sys/user/max_user_namespaces") as limit, open("/proc/sys/kernel/unprivileged_userns_clone") as allowed:
            forbidden = int(limit.read()) == 0 or allowed.read().strip() == "0"
    except OSError:
        forbidden = False  # the second file is Debian's
    if forbidden:
        mend = "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, or run as root"
        return Finding(name="user", status=FAIL, detail=f"{detail}, user namespaces are forbidden", mend=mend)
    if shutil.which("newuidmap") is None:
        mend = "only one id in containers: apt-get install uidmap, and lines in /etc/subuid and /etc/subgid, for more"
        return Finding(name="user", status=WARN, detail=f"{detail}, without newuidmap", mend=mend)
    return Finding(name="user", status=OK, detail=f"{detail}, containers in user namespaces")


def _kvm() -> list[Finding]:
    import fcntl

    from pysandbox.runtime.launch_plan import open_kvm

    try:
        fd = open_kvm()
    except Error as error:
        detail, _, mend = error.message.partition(": ")
        return [Finding(name="kvm", status=FAIL, detail=detail, mend=mend or "enable virtualization")]
    try:
        findings = [Finding(name="kvm", status=OK, detail=f"/dev/kvm, API version 12{_module()}")]
        for name, number in KVM_CAPS.items():
            if fcntl.ioctl(fd, _KVM_CHECK_EXTENSION, number) > 0:
                findings.append(Finding(name=name, status=OK, detail="there"))
            else:
                mend = "needs a newer kernel, or another KVM module"
                findings.append(Finding(name=name, status=FAIL, detail="missing", mend=mend))
        try:
            os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
            findings.append(Finding(name="kvm-vm", status=OK, detail="a VM can be created"))
        except OSError as error:
            mend = "another hypervisor may hold the virtualization extensions; see the kernel's log"
            findings.append(
                Finding(name="kvm-vm", status=FAIL, detail=f"create VM: {host_reason(error.errno)}", mend=mend)
            )
        return findings
    finally:
        os.close(fd)


def _module() -> str:
    names = [name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.isdir(f"/sys/module/{name}")]
    return f" ({', '.join(names)})" if names else ""


def _monitor() -> list[Finding]:
    from pysandbox.runtime import launch_vault

    try:
        fd = launch_vault.monitor_memfd()
    except Error as error:
        return [Finding(name="monitor", status=FAIL, detail=error.message, mend="install pysandbox again (make build)")]
    try:
        if os.pread(fd, 4, 0) != b"\x7fELF":
            return [
                Finding(
                    name="monitor", status=FAIL, detail="not an ELF file", mend="install pysandbox again (make build)"
                )
            ]
        return [Finding(name="monitor", status=OK, detail=f"{os.fstat(fd).st_size} bytes")]
    finally:
        os.close(fd)


def _namespaces() -> list[Finding]:
    from pysandbox.oci.namespaces import KINDS

    missing = [kind for kind, (_, name) in KINDS.items() if not os.path.exists(f"/proc/self/ns/{name}")]
    needed = {"mount", "pid"} & set(missing)
    if needed:
        return [
            Finding(
                name="namespaces", status=FAIL, detail=f"missing: {', '.join(missing)}", mend="needs a kernel with them"
            )
        ]
    if missing:
        mend = "containers that ask for these do not start"
        return [Finding(name="namespaces", status=WARN, detail=f"missing: {', '.join(missing)}", mend=mend)]
    return [Finding(name="namespaces", status=OK, detail=", ".join(KINDS))]


def _cgroups() -> list[Finding]:
    from pysandbox.oci import cgroups

    layout = cgroups.host_layout()
    if not layout.mounts:
        mend = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        return [Finding(name="cgroups", status=FAIL, detail="no hierarchy is mounted", mend=mend)]
    kind = "version 2" if layout.unified else "version 1 and 2 (hybrid)" if layout.hybrid else "version 1"
    if layout.unified:
        with open(os.path.join(layout.mounts[""], "cgroup.controllers")) as text:
            controllers = text.read().split()
    else:
        controllers = [name for name in layout.mounts if not name.startswith("name=")]
    missing = [name for name in ("memory", "pids", "cpu") if name not in controllers]
    detail = f"{kind}: {', '.join(controllers) or 'no controllers'}"
    if missing:
        return [
            Finding(
                name="cgroups",
                status=WARN,
                detail=detail,
                mend=f"no limits for {', '.join(missing)}: enable the controllers",
            )
        ]
    return [Finding(name="cgroups", status=OK, detail=detail)]


def _filesystems() -> list[Finding]:
    with open("/proc/filesystems") as text:
        known = {line.split()[-1] for line in text}
    findings = []
    for name, need, use in (
        ("proc", FAIL, "containers"), ("tmpfs", FAIL, "containers"), ("sysfs", WARN, "containers with /sys"),
        ("devpts", WARN, "terminals"), ("mqueue", WARN, "POSIX message queues"), ("overlay", WARN, "`pysandbox do`"),
    ):  # fmt: skip
        if name in known:
            findings.append(Finding(name=name, status=OK, detail="known to the kernel"))
        else:
            mend = f"modprobe {name} (needed for {use})"
            findings.append(Finding(name=name, status=need, detail="not known to the kernel (yet)", mend=mend))
    return findings


def _seccomp() -> list[Finding]:
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as text:
            return [Finding(name="seccomp", status=OK, detail=text.read().strip())]
    except FileNotFoundError:
        mend = "needs CONFIG_SECCOMP_FILTER: monitors confine themselves with it"
        return [Finding(name="seccomp", status=FAIL, detail="missing", mend=mend)]


def _packages() -> list[Finding]:
    from importlib import util

    findings = []
    for name, need, use in (
        ("lief", WARN, "rewriting: without it every system call takes the slow door"),
        ("capstone", WARN, "rewriting: without it every system call takes the slow door"),
        ("jsonschema", WARN, "precise messages about config.json"),
    ):
        if util.find_spec(name):
            findings.append(Finding(name=f"python:{name}", status=OK, detail="installed"))
        else:
            findings.append(
                Finding(name=f"python:{name}", status=need, detail="missing", mend=f"pip install {name} ({use})")
            )
    return findings


def _engines() -> list[Finding]:
    """Engines that are installed, and whether they know this runtime (`pysandbox install`)."""
    from shutil import which

    from pysandbox.runtime import install

    findings = []
    place = install.Place(home="" if os.geteuid() == 0 else os.path.expanduser("~"))
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    for name in install.ENGINES:
        engine = install.engine(name)
        if which(engine.PROGRAM, path=path):
            findings.append(_engine(engine, place))
    return findings or [Finding(name="engines", status=OK, detail="none is installed")]


def _engine(engine: Engine, place: Place) -> Finding:
    name, mend = f"engine:{engine.NAME}", f"pysandbox install {engine.NAME}"
    try:
        entries = [entry for entry in engine.entries(place) if os.path.basename(entry.command) == "pysandbox"]
    except Error as error:
        return Finding(name=name, status=WARN, detail=error.message, mend="mend the engine's configuration")
    if not entries:
        need = f"{mend} (needed for Kubernetes only)" if engine.NAME == "containerd" else mend
        return Finding(name=name, status=WARN, detail="installed, does not know pysandbox", mend=need)
    gone = [entry.command for entry in entries if not os.access(entry.command, os.X_OK)]
    if gone:
        return Finding(name=name, status=WARN, detail=f"configured, but {gone[0]} is not a program", mend=f"{mend} --undo")
    named = ", ".join(f"{entry.name}{' (default)' if entry.default else ''}" for entry in entries)
    return Finding(name=name, status=OK, detail=f"configured as {named}")


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _kernel, _user, _kvm, _monitor, _namespaces, _cgroups, _filesystems, _seccomp, _packages, _engines,
)  # fmt: skip
