"""Recorded config.json files, fitted to this machine, run under runc and pysandbox; what the container sees is compared.

`python tests/config_lab.py FILE...` does so outside of pytest, for any number of files.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
BUSYBOX = TOP / "build" / "rootfs" / "busybox"
Config = dict[str, Any]

# Everything a container can see of what its config.json asked for, by busybox alone. Device and mount numbers differ between
# any two runs; pysandbox sets no_new_privs always, and its seccomp is not the kernel's.
OBSERVE = r"""
echo "[id]"; id; umask; pwd; hostname; cat /proc/sys/kernel/domainname
echo "[env]"; env | sort
echo "[status]"; grep -E '^(Cap|Groups|Uid|Gid|Umask|Cpus_allowed_list)' /proc/self/status
echo "[limits]"; cut -c1-65 /proc/self/limits
echo "[oom]"; cat /proc/self/oom_score_adj
echo "[maps]"; cat /proc/self/uid_map /proc/self/gid_map
echo "[cgroup]"; cat /proc/self/cgroup
echo "[mounts]"; cut -d' ' -f4- /proc/self/mountinfo
echo "[dev]"; ls -l /dev | sed -E 's/ +[A-Z][a-z]{2} +[0-9]+ +[0-9:]{4,5} / /'
echo "[cgroupfs]"; ls /sys/fs/cgroup 2>&1
echo "[net]"; ls /sys/class/net 2>&1; ip addr 2>&1 | grep -E '^[0-9]+: lo|inet '
echo "[sysctl]"; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start \
    /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax 2>&1
echo "[masked]"; for f in /proc/kcore /proc/keys /proc/timer_list /proc/acpi /proc/scsi /sys/firmware; do
    [ -d $f ] && echo "$f $(ls $f 2>&1 | wc -l)"; [ -c $f ] && ls -l $f | cut -c1-10; done
echo "[write]"; for f in /proc/sys/kernel/panic /proc/sysrq-trigger /root-is-writable /dev/null /dev/shm/x /tmp/x; do
    (: >$f) 2>&1 && echo "$f ok"; done
echo "[pids]"; [ -e /proc/1/comm ] && [ "$(readlink /proc/self)" -lt 400 ] && echo small
exit 3
"""


@dataclass(frozen=True)
class Seen:
    """What one run showed."""

    status: int
    stdout: str
    stderr: str


def own_bounding() -> set[int]:
    text = Path("/proc/self/status").read_text()
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)", text, re.M)
    assert found
    mask = int(found[1], 16)
    return {number for number in range(64) if mask >> number & 1}


def adapt(config: Config, bundle: Path, name: str, args: list[str] | None = None) -> Config:
    """A recorded config.json that can run here: paths of the recording machine are replaced, what this machine (or runc on
    it) cannot do is left out. Private copies of everything that a run writes to."""
    config = copy.deepcopy(config)
    linux, process = config["linux"], config["process"]
    config["root"]["path"] = str(bundle / "rootfs")
    config.pop("hooks", None)
    process["terminal"] = False
    process["args"] = args or ["/bin/sh", "-c", OBSERVE]
    linux["cgroupsPath"] = f"/pysandbox-test/{name}"
    for namespace in linux["namespaces"]:
        namespace.pop("path", None)
    for number, mount in enumerate(config["mounts"]):
        if "bind" in mount.get("options", []) or "rbind" in mount.get("options", []):
            mount["source"] = _bind_source(mount, bundle, number)
    _fit_process(process)
    _fit_resources(linux)
    return config


def _bind_source(mount: Config, bundle: Path, number: int) -> str:
    """Something of the same kind and name as what was bound on the recording machine."""
    source = mount["source"]
    if source.startswith(("/dev/", "/sys", "/proc")) and source != "/dev/shm" and os.path.exists(source):
        return str(source)
    place = bundle / "sources" / f"{number}-{Path(source).name}"
    place.parent.mkdir(exist_ok=True)
    destination = mount["destination"]
    is_file = destination.startswith(("/etc/", "/run/.containerenv", "/sbin/", "/dev/init")) or "." in Path(source).name
    if destination in ("/dev/shm", "/dev/mqueue") or not is_file:
        place.mkdir(exist_ok=True)
        (place / "file").write_text("bound\n")
    else:
        place.write_text(f"bound at {mount['destination']}\n")
    return str(place)


def _fit_process(process: Config) -> None:
    from pysandbox.oci.process import CAPABILITIES

    have = own_bounding()
    allowed = {f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if number in have}
    for kind, names in (process.get("capabilities") or {}).items():
        process["capabilities"][kind] = [name for name in names or [] if name in allowed]
    import resource

    for limit in process.get("rlimits") or []:
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], hard)
    if process.get("oomScoreAdj", 0) < 0:
        process["oomScoreAdj"] = 0


def _fit_resources(linux: Config) -> None:
    resources = linux.get("resources") or {}
    block = resources.get("blockIO") or {}
    resources.pop("blockIO", None) if block else None
    for key in ("realtimeRuntime", "realtimePeriod"):
        (resources.get("cpu") or {}).pop(key, None)
    (resources.get("memory") or {}).pop("kernel", None)


def prepare(config: Config, top: Path, name: str, args: list[str] | None = None) -> Path:
    """A bundle with a root file system of its own; its directory."""
    bundle = top / name
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir(parents=True)
    shutil.copytree(BUSYBOX, bundle / "rootfs", symlinks=True)
    adapted = adapt(config, bundle, name, args)
    for mapping in adapted["linux"].get("uidMappings") or []:
        if mapping["containerID"] == 0:
            _give_to(bundle / "rootfs", mapping["hostID"])
            for place in (top, bundle):
                place.chmod(0o755)
    (bundle / "config.json").write_text(json.dumps(adapted))
    return bundle


def _give_to(tree: Path, owner: int) -> None:
    for place, directories, files in os.walk(tree):
        for entry in (".", *directories, *files):
            os.chown(Path(place) / entry, owner, owner, follow_symlinks=False)


def run(runtime: str, bundle: Path, timeout: float = 60, command: Sequence[str] = ("run",), **environment: str) -> Seen:
    done = subprocess.run(
        [runtime, "--root", str(bundle / f"state-{Path(runtime).name}"), *command, "-b", str(bundle), bundle.name],
        capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=timeout, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    return Seen(done.returncode, done.stdout, done.stderr)


def normal(text: str, any_order: bool) -> list[str]:
    """Lines without what no two runs have in common. `any_order`: mount tables are listed in the order in which mounts got
    their numbers, which sources that were opened beforehand have early.
    """
    lines = []
    if any_order:
        head, _, rest = text.partition("[mounts]\n")
        table, _, tail = rest.partition("[dev]\n")
        text = head + "[mounts]\n" + "\n".join(sorted(table.splitlines())) + "\n[dev]\n" + tail
    for line in text.splitlines():
        # The root's own propagation: runc before 1.1.8 forgets it, the specification and later versions do not.
        line = re.sub(r"^(\S+/rootfs / .*) shared:\d+ - ", r"\1 - ", line)
        lines.append(line)
    return lines


def differences(config: Config, top: Path, name: str, pysandbox: str, runc: str = "runc") -> list[str]:
    """A unified diff of what the container saw under runc and under pysandbox; empty when it is the same."""
    bundle = prepare(config, top, name)
    theirs = run(runc, bundle)
    bundle = prepare(config, top, name)
    ours = run(pysandbox, bundle)
    any_order = "uidMappings" in config["linux"]
    shown = [normal(seen.stdout, any_order) for seen in (theirs, ours)]
    out = list(difflib.unified_diff(*shown, "runc", "pysandbox", lineterm="", n=0))
    if "[pids]" not in theirs.stdout:
        out.append("the observation did not run to its end under runc")
    if ours.status != theirs.status:
        out.append(f"status {theirs.status} under runc, {ours.status} under pysandbox")
    if out:
        out += ["--- runc, stderr", theirs.stderr[-1500:], "--- pysandbox, stderr", ours.stderr[-1500:]]
    shutil.rmtree(bundle, ignore_errors=True)
    return out


def main(files: list[str]) -> int:
    command = str(Path(sys.executable).parent / "pysandbox")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="config-lab-") as top:
        for number, file in enumerate(files):
            config = json.loads(Path(file).read_text())
            found = differences(config, Path(top), f"lab-{os.getpid()}-{number}", command)
            if found:
                failed += 1
                print("=" * 20, file)
                print("\n".join(found))
    print(f"{failed} of {len(files)} differ")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
