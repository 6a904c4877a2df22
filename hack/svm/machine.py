"""Runs a command in an emulated machine with AMD SVM, so that /dev/kvm exists where the real machine has none.

    hack/svm/run [--memory MB] [--timeout SECONDS] [--share DIR] [--] COMMAND [ARGS...]

QEMU (TCG, no hardware help) boots Debian's own kernel package with kvm-amd. Inside, the root file system is this
machine's, at the same paths, read-only below a private writable layer in memory: the command sees the same
repository, virtual environment and root file systems, and what it writes is gone afterwards. Only the directory given
by --share is written through. Standard output and error arrive here; the exit status is the command's, or 125 when
the machine itself failed. About twenty times slower than hardware; what it proves is correctness on SVM with nested paging.

Needs root, and the packages of `hack/system-packages svm`; the kernel package is downloaded and unpacked below
build/svm, not installed.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import lzma
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

TOP = Path(__file__).resolve().parent.parent.parent
WORK = TOP / "build" / "svm"
KERNEL_PACKAGE = "linux-image-amd64"
# What the initial file system loads, with what these depend on. Built-in ones are left out by depmod's own list.
MODULES = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm_amd", "veth", "fuse"]
MACHINE_FAILED = 125
KVM_CREATE_VM = 0xAE01
# Passed on besides what the command line says; everything else stays outside.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "PYTEST_ADDOPTS")


class Failure(Exception):
    """The machine could not be built or started; the message is for the user."""


# --- Kernel ----------------------------------------------------------------------------------------------------------


def kernel() -> Path:
    """Directory with the unpacked kernel package (boot/, lib/modules/), fetched on first use."""
    unpacked = WORK / "kernel"
    if unpacked.is_dir():
        return unpacked
    depends = subprocess.run(["apt-cache", "depends", KERNEL_PACKAGE], capture_output=True, text=True, check=False).stdout
    names = [line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends: linux-image-")]
    if not names:
        raise Failure(f"apt knows no package {KERNEL_PACKAGE}: run apt-get update")
    with tempfile.TemporaryDirectory(dir=WORK) as work:
        os.chmod(work, 0o755)  # apt fetches as its own user
        done = subprocess.run(["apt-get", "-q", "download", names[0]], cwd=work, capture_output=True, text=True, check=False)
        packages = list(Path(work).glob("*.deb"))
        if done.returncode != 0 or len(packages) != 1:
            raise Failure(f"apt-get download {names[0]}: {done.stderr.strip().splitlines()[-1:]}")
        root = Path(work) / "root"
        subprocess.run(["dpkg-deb", "-x", packages[0], root], check=True)
        version = next((root / "lib/modules").iterdir()).name
        subprocess.run(["depmod", "-b", root, version], check=True)
        root.rename(unpacked)
    return unpacked


def modules_in_order(directory: Path) -> list[Path]:
    """Files of MODULES and their dependencies, each after what it needs (modules.dep lists the nearest first)."""
    needs: dict[str, list[str]] = {}
    path_of: dict[str, str] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        path_of[Path(path).name.split(".")[0].replace("-", "_")] = path
    built_in = {
        Path(line).name.split(".")[0].replace("-", "_") for line in (directory / "modules.builtin").read_text().splitlines()
    }
    order: list[str] = []

    def add(path: str) -> None:
        for other in reversed(needs[path]):
            add(other)
        if path not in order:
            order.append(path)

    for name in MODULES:
        if name in path_of:
            add(path_of[name])
        elif name not in built_in:
            raise Failure(f"the kernel package has no module {name}")
    return [directory / path for path in order]


# --- Initial file system ---------------------------------------------------------------------------------------------

INIT = r"""#!/bin/busybox sh
# First program of the emulated machine: modules, then this machine's root file system, then the command.
bb=/bin/busybox
fail() { $bb echo "svm: $*"; echo b >/proc/sysrq-trigger; }
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /modules/order); do $bb insmod /modules/$module || fail "cannot load $module"; done
options=trans=virtio,version=9p2000.L,msize=524288,cache=loose
$bb mount -t 9p -o ro,$options root /lower || fail 'cannot mount the root file system'
$bb mount -t tmpfs -o size=60% layer /layer
$bb mkdir /layer/upper /layer/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /new || fail 'no overlay'
cd /new
$bb mount -t proc proc proc
$bb mount -t sysfs sysfs sys
$bb mount -t devtmpfs dev dev
$bb mkdir -p dev/pts dev/shm
$bb mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
$bb mount -t tmpfs shm dev/shm
$bb mount -t tmpfs -o mode=755 run run
$bb mount -t cgroup2 cgroup2 sys/fs/cgroup
$bb ln -s /proc/self/fd dev/fd
$bb ln -s fd/0 dev/stdin; $bb ln -s fd/1 dev/stdout; $bb ln -s fd/2 dev/stderr
$bb mkdir run/lock run/svm run/share
$bb mount -t 9p -o ro,$options job run/svm || fail 'cannot mount the job'
$bb mount -t 9p -o $options,cache=none result run/share || fail 'cannot mount the result directory'
$bb ifconfig lo 127.0.0.1 up
$bb hostname svm
exec $bb switch_root /new /bin/sh /run/svm/job
"""

JOB = """\
# Written by hack/svm/machine.py: the command, its environment, its answer.
{environment}
{mounts}cd {directory}
exec 3<>/dev/hvc0
stty -opost <&3
# A virtual machine that lasts: at the first one and behind the last the kernel rewrites its own text (docs/testing.md).
{python} -c 'import fcntl, os, signal; vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), {create_vm}, 0); signal.pause()' &
# Through cat: the command's output is a pipe, as it is outside, not a terminal.
{{ {command} </dev/null 2>&1; echo $? >/run/share/status; }} | cat >&3
sync
echo b >/proc/sysrq-trigger
sleep 60
"""


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive in the kernel's format ("newc", initramfs buffer format) of (path, mode, content)."""
    out = io.BytesIO()

    def pad() -> None:
        out.write(b"\0" * (-out.tell() % 4))

    for number, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        pad()
        out.write(content)
        pad()
    return out.getvalue()


def module_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    return lzma.decompress(raw) if path.suffix == ".xz" else raw


def initramfs(unpacked: Path) -> Path:
    """The initial file system, made again when this file is newer than it."""
    image = WORK / "initramfs"
    if image.exists() and image.stat().st_mtime > Path(__file__).stat().st_mtime:
        return image
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Failure("no busybox on this machine: hack/system-packages svm")
    modules = modules_in_order(next((unpacked / "lib/modules").iterdir()))
    names = [path.name.split(".")[0] + ".ko" for path in modules]
    directory, executable, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    content = cpio(
        [
            *[(name, directory, b"") for name in ("bin", "dev", "proc", "lower", "layer", "new", "modules")],
            ("bin/busybox", executable, Path(busybox).read_bytes()),
            ("init", executable, INIT.encode()),
            ("modules/order", plain, "\n".join(names).encode()),
            *[(f"modules/{name}", plain, module_bytes(path)) for name, path in zip(names, modules, strict=True)],
        ]
    )
    partial = image.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(image)
    return image


# --- Machine ---------------------------------------------------------------------------------------------------------


def qemu_command(unpacked: Path, image: Path, job: Path, share: Path, log: Path, memory: int) -> list[str]:
    def shared(tag: str, path: Path, access: str) -> list[str]:
        return [
            "-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{access}",
            "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
        ]  # fmt: skip

    # One CPU more than is used, and isolcpus=0: what runs virtual machines must stay off the first (docs/testing.md).
    return [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt",
        "-smp", str(min(2, os.cpu_count() or 1) + 1), "-m", str(memory), "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-nic", "none",
        "-kernel", str(next((unpacked / "boot").glob("vmlinuz-*"))), "-initrd", str(image),
        "-append", "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off isolcpus=0 tsc=reliable random.trust_cpu=on",
        "-serial", f"file:{log}",
        "-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off", "-device", "virtconsole,chardev=out",
        "-device", "virtio-rng-pci",
        *shared("root", Path("/"), ",readonly=on"),
        *shared("job", job, ",readonly=on"),
        *shared("result", share, ""),
    ]  # fmt: skip


def job_script(command: list[str], share: Path | None) -> str:
    environment = [f"export {key}={shlex.quote(os.environ[key])}" for key in ENVIRONMENT if key in os.environ]
    mounts = ""
    if share is not None:  # at its own path too, so that arguments mean the same inside
        mounts = f"mkdir -p {shlex.quote(str(share))}\nmount --bind /run/share {shlex.quote(str(share))}\n"
    return JOB.format(
        environment="\n".join([*environment, "export PSB_SVM=1 TERM=dumb"]),
        mounts=mounts,
        directory=shlex.quote(os.getcwd()),
        command=shlex.join(command),
        python=shlex.quote(sys.executable),
        create_vm=KVM_CREATE_VM,
    )


def run(
    command: list[str],
    *,
    memory: int = 2048,
    timeout: float = 1800,
    share: Path | None = None,
    output: BinaryIO | None = None,
) -> int:
    """Runs a command inside and returns its exit status; its output goes to `output`, or this process' standard output.

    Raises Failure when the machine cannot be built, does not come up, or does not finish within `timeout` seconds.
    """
    if os.geteuid() != 0:
        raise Failure("needs root: it shows the whole root file system to the emulated machine")
    if shutil.which("qemu-system-x86_64") is None:
        raise Failure("QEMU is missing: hack/system-packages svm")
    WORK.mkdir(parents=True, exist_ok=True)
    with open(WORK / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unpacked = kernel()
        image = initramfs(unpacked)

    with tempfile.TemporaryDirectory(prefix="run-", dir=WORK) as work:
        job, log = Path(work) / "job", Path(work) / "console"
        job.mkdir()
        result = share
        if result is None:
            result = Path(work) / "result"
            result.mkdir()
        (result / "status").unlink(missing_ok=True)
        (job / "job").write_text(job_script(command, share))
        qemu = qemu_command(unpacked, image, job, result, log, memory)
        with (
            open(Path(work) / "qemu", "w+b") as errors,
            subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=output, stderr=errors) as process,
        ):
            try:
                process.wait(timeout)
                problem = "the machine stopped before the command had ended"
            except subprocess.TimeoutExpired:
                problem = f"no end after {timeout:.0f} s"
            finally:
                process.kill()
            errors.seek(0)
            said = errors.read()
        try:
            return int((result / "status").read_text())
        except (OSError, ValueError):
            console = log.read_bytes() if log.exists() else b""
            tail = (said + console).decode(errors="replace").splitlines()[-30:]
            raise Failure("\n".join([*tail, problem])) from None
        finally:
            (result / "status").unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hack/svm/run", description="Run a command in an emulated machine with AMD SVM.")
    parser.add_argument("--memory", type=int, default=2048, metavar="MB")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS")
    parser.add_argument("--share", type=Path, metavar="DIR", help="directory the command may write to")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command")
    share = options.share.resolve() if options.share else None
    try:
        return run(command, memory=options.memory, timeout=options.timeout, share=share)
    except Failure as error:
        print(f"svm: {error}", file=sys.stderr)
        return MACHINE_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
