"""Builds the root file systems that tests, benchmarks and the demo run: `rootfs.py busybox|debian...`

    build/rootfs/busybox    static busybox with its applets, 2 MB
    build/rootfs/debian     Debian 12 with shells, python3, node, perl, git, gcc, and two static programs in /opt
                            (hello-musl, hello-go)

Made from Debian packages through the mirror this machine is configured for; needs root, no container engine. A root file
system is rebuilt when its recipe changes and appears under its name only when it is complete. Downloaded packages stay
in build/cache/deb.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
OUTPUT = TOP / "build" / "rootfs"
CACHE = TOP / "build" / "cache" / "deb"
PROGRAMS = TOP / "hack" / "rootfs_programs"

RELEASE = "bookworm"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = """
    bash coreutils dash diffutils findutils gcc git grep gzip iproute2 libc6-dev nodejs perl procps python3 sed tar
""".split()

# Documentation and translations are half of many packages and no test reads them.
DPKG_CONFIG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
"""
APT_CONFIG = """\
APT::Install-Recommends "false";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
DPkg::Use-Pty "false";
"""
DROPPED = ["usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "var/lib/apt/lists"]


class Failure(Exception):
    """A step that did not work; the message is for the user."""


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Runs a command quietly; its output is shown, at the end, only when it fails."""
    null, pipe, with_stdout = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, stdin=null, stdout=pipe, stderr=with_stdout, env=env, check=False)
    if done.returncode != 0:
        tail = b"\n".join(done.stdout.splitlines()[-25:]).decode(errors="replace")
        raise Failure(f"{tail}\n{Path(command[0]).name} failed with status {done.returncode}")


# --- Debian mirror ---------------------------------------------------------------------------------------------------


def apt_sources(etc: Path = Path("/etc/apt")) -> Iterator[tuple[str, str]]:
    """Pairs of mirror and suite this machine uses, from both formats of apt's sources (sources.list(5))."""
    one_line = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]
    for path in one_line:
        if path.is_file():
            for line in path.read_text(errors="replace").splitlines():
                if match := re.match(r"deb\s+(?:\[[^]]*]\s+)?(\S+)\s+(\S+)\s", line):
                    yield match[1], match[2]
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(errors="replace")):
            fields = {
                key.lower(): value.split()
                for key, value in re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M)
            }
            if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
                for uri in fields.get("uris", []):
                    for suite in fields.get("suites", []):
                        yield uri, suite


def debian_suites() -> list[tuple[str, str]]:
    """(mirror, suite) for the release itself (first) and its updates."""
    wanted = (RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security")
    found = {suite: uri for uri, suite in apt_sources() if suite in wanted}
    found.setdefault(RELEASE, DEFAULT_MIRROR)
    return [(found[suite], suite) for suite in wanted if suite in found]


def apt_transport_config() -> str:
    """This machine's settings for fetching (proxies, certificates), for the apt inside."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(line + "\n" for line in dump.splitlines() if re.match(r"Acquire::(http|https)::\S+ \"", line))


# --- Recipes ---------------------------------------------------------------------------------------------------------


def build_busybox(root: Path) -> None:
    for directory in ("bin", "sbin", "usr/bin", "usr/sbin", "etc", "root", "proc", "sys", "dev", "var"):
        (root / directory).mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Failure("no busybox on this machine: apt-get install busybox-static")
    shutil.copy(busybox, root / "bin" / "busybox")
    run("chroot", root, "/bin/busybox", "--install", "-s")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")


def build_debian(root: Path) -> None:
    if not Path(KEYRING).exists():
        raise Failure(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    suites = debian_suites()
    CACHE.mkdir(parents=True, exist_ok=True)
    run("debootstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--cache-dir={CACHE}", RELEASE, root, suites[0][0])

    dpkg_config = root / "etc/dpkg/dpkg.cfg.d/slim"
    dpkg_config.write_text(DPKG_CONFIG)
    apt_config = root / "etc/apt/apt.conf.d/90build"
    apt_config.write_text(APT_CONFIG + apt_transport_config())
    (root / "etc/apt/sources.list").write_text(
        "".join(f"deb [signed-by={KEYRING}] {uri} {suite} main\n" for uri, suite in suites)
    )
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    inside = root / certificates.relative_to("/")
    if certificates.exists() and not inside.exists():  # for mirrors and proxies reached by TLS
        inside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(certificates, inside)

    # Mounts are private to this process (see main) and disappear with it.
    run("mount", "--bind", CACHE, root / "var/cache/apt/archives")
    run("mount", "-t", "proc", "proc", root / "proc")
    environment = {
        **{key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")},
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
    }
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")  # no services start in here
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    run("chroot", root, "apt-get", "-q", "update", env=environment)
    run("chroot", root, "apt-get", "-q", "-y", "install", *PACKAGES, env=environment)
    run("umount", root / "var/cache/apt/archives")
    run("umount", root / "proc")

    for path in (dpkg_config, apt_config, root / "usr/sbin/policy-rc.d"):
        path.unlink()
    for directory in DROPPED:
        shutil.rmtree(root / directory, ignore_errors=True)
        (root / directory).mkdir()
    for pattern in ("var/cache/apt/*.bin", "var/cache/debconf/*-old", "var/log/*.log", "var/log/apt/*"):
        for path in root.glob(pattern):
            path.unlink()

    run("musl-gcc", "-O2", "-static", "-pthread", "-o", root / "opt/hello-musl", PROGRAMS / "hello.c")
    go_environment = {
        **os.environ, "CGO_ENABLED": "0", "GOCACHE": str(TOP / "build/cache/go"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off",
    }
    run("go", "build", "-o", root / "opt/hello-go", PROGRAMS / "hello.go", env=go_environment)


RECIPES: dict[str, Callable[[Path], None]] = {"busybox": build_busybox, "debian": build_debian}


def recipe_version(name: str) -> str:
    """Changes when the root file system has to be built again."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    if name == "debian":
        for program in sorted(PROGRAMS.iterdir()):
            digest.update(program.read_bytes())
    return digest.hexdigest()


# --- Front -----------------------------------------------------------------------------------------------------------


def remove_tree(path: Path) -> None:
    # Modes without owner write do not stop root, and nothing is mounted below (mounts are private to the builder).
    if path.exists():
        shutil.rmtree(path)


def build(name: str) -> None:
    """Brings build/rootfs/NAME up to date; does nothing when it is."""
    final, stamp = OUTPUT / name, OUTPUT / f"{name}.version"
    version = recipe_version(name)
    if final.is_dir() and stamp.is_file() and stamp.read_text() == version:
        return
    started = time.monotonic()
    partial = OUTPUT / f".{name}.partial"
    remove_tree(partial)
    partial.mkdir(mode=0o755)
    RECIPES[name](partial)
    stamp.unlink(missing_ok=True)
    remove_tree(final)
    partial.rename(final)
    stamp.write_text(version)
    size = subprocess.run(["du", "-sm", final], capture_output=True, text=True, check=True).stdout.split()[0]
    print(f"rootfs {name}: {size} MB, {time.monotonic() - started:.0f} s")


def main(argv: list[str]) -> int:
    names = argv or list(RECIPES)
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        print(f"rootfs.py: no recipe for {unknown[0]}; there are {', '.join(RECIPES)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("rootfs.py: building root file systems needs root (chroot, device nodes)", file=sys.stderr)
        return 1
    if os.environ.get("PSB_ROOTFS_PRIVATE") != "1":
        os.environ["PSB_ROOTFS_PRIVATE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, *argv])
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with open(OUTPUT / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for name in names:
                build(name)
        except (Failure, OSError) as error:
            print(f"rootfs.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
