"""Packs the package's modules, compiled, into one file: `pack_modules.py OUTPUT SOURCE_ROOT`.

The command loads its modules from it: looking for thirty files, with the directory reads and stat calls that takes, is a fifth of
the time of a short verb. Layout, numbers as eight decimal digits:

    the interpreter's cache tag (16 bytes, padded with spaces): code of another one is not used, the files are imported then
    length, code object of runtime/boot.py
    length of the index, length of the first part
    index (marshal): {module: (offset, length, is package)}, offsets from the end of the index
    code objects: the first part, then those of `COLD`
"""

from __future__ import annotations

import marshal
import os
import sys

from package_files import package_files

PACKAGE = "pysandbox"
BOOT = "runtime/boot.py"
# What create, start, run, state, kill and delete do without: read when it is asked for.
COLD = (
    "oci.cgroups_bpf", "oci.cgroups_dbus", "oci.cgroups_stats", "oci.cgroups_systemd", "oci.cgroups_update", "oci.userns",
    "runtime.cli.doctor", "runtime.cli.install", "runtime.cli.spec", "runtime.do", "runtime.doctor", "runtime.features",
    "runtime.install", "runtime.planner", "runtime.rewriter.analysis", "runtime.rewriter.cli", "runtime.rewriter.confine",
    "runtime.rewriter.functions", "runtime.rewriter.image", "runtime.rewriter.movable", "runtime.rewriter.planner",
    "runtime.syscall_names", "runtime.trace",
)  # fmt: skip


def compiled(root: str, path: str) -> bytes:
    with open(os.path.join(root, path), "rb") as file:
        # Relative: tracebacks find the source through sys.path.
        return marshal.dumps(compile(file.read(), f"{PACKAGE}/{path}", "exec", dont_inherit=True))


def is_cold(name: str) -> bool:
    return any(f"{name}.".startswith(f"{PACKAGE}.{cold}.") for cold in COLD)


def pack(root: str) -> bytes:
    index: dict[str, tuple[int, int, bool]] = {PACKAGE: (0, 0, True)}
    parts = [b"", b""]
    modules: list[tuple[bool, str, bool, bytes]] = []
    for part in ("oci", "runtime"):
        for path in package_files(root, part):
            if path.endswith(".py") and path != BOOT:
                name = f"{PACKAGE}.{path[:-3].replace('/', '.')}"
                is_package = name.endswith(".__init__")
                name = name.removesuffix(".__init__")
                modules.append((is_cold(name), name, is_package, compiled(root, path)))
    modules.sort(key=lambda module: module[0])
    for cold, name, is_package, body in modules:
        index[name] = (sum(map(len, parts)), len(body), is_package)
        parts[cold] += body
    boot, head = compiled(root, BOOT), marshal.dumps(index)
    tag = sys.implementation.cache_tag.ljust(16).encode()
    return b"%s%08d%s%08d%08d%s%s" % (tag, len(boot), boot, len(head), len(parts[0]), head, b"".join(parts))


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as output:
        output.write(pack(sys.argv[2]))
