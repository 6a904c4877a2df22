"""Packs the package's modules, compiled, into one file: `pack_modules.py OUTPUT SOURCE_ROOT`.

The command loads its modules from it: looking for thirty files, with the directory reads and stat calls that takes, is a fifth of
the time of a short verb. Layout, numbers as eight decimal digits:

    the interpreter's cache tag (16 bytes, padded with spaces): code of another one is not used, the files are imported then
    length, code object of runtime/boot.py
    length of the index, length of the first part
    index (marshal): {module: (offset, length, is package, modules that it imports at its top)}, offsets from the end of the index
    code objects: the first part, then those of `COLD`
"""

from __future__ import annotations

import ast
import marshal
import os
import sys
from collections.abc import Iterator

from package_files import package_files

PACKAGE = "pysandbox"
BOOT = "runtime/boot.py"
# What create, start, run, state, kill and delete do without: read when it is asked for.
COLD = (
    "oci.cgroups_bpf", "oci.cgroups_dbus", "oci.cgroups_stats", "oci.cgroups_systemd", "oci.cgroups_update", "oci.userns",
    "runtime.cli.doctor", "runtime.cli.install", "runtime.cli.spec", "runtime.do", "runtime.doctor", "runtime.features",
    "runtime.install", "runtime.planner", "runtime.rewriter.analysis", "runtime.rewriter.cli", "runtime.rewriter.confine",
    "runtime.rewriter.functions", "runtime.rewriter.image", "runtime.rewriter.movable", "runtime.rewriter.planner",
    "runtime.trace",
)  # fmt: skip


def compiled(root: str, path: str) -> bytes:
    with open(os.path.join(root, path), "rb") as file:
        # Relative: tracebacks find the source through sys.path.
        return marshal.dumps(compile(file.read(), f"{PACKAGE}/{path}", "exec", dont_inherit=True))


def imports(root: str, path: str, name: str, is_package: bool) -> Iterator[str]:
    """Names of what a module's top level imports, in order: modules, or what is in them."""
    with open(os.path.join(root, path), "rb") as file:
        body = ast.parse(file.read()).body
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - statement.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in statement.names)


def with_parents(names: Iterator[str], known: set[str]) -> Iterator[str]:
    """Those of the package, each behind the packages it is in."""
    for name in names:
        if name in known:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def is_cold(name: str) -> bool:
    return any(f"{name}.".startswith(f"{PACKAGE}.{cold}.") for cold in COLD)


def pack(root: str) -> bytes:
    index: dict[str, tuple[int, int, bool, tuple[str, ...]]] = {PACKAGE: (0, 0, True, ())}
    parts = [b"", b""]
    modules: list[tuple[bool, str, bool, bytes, list[str]]] = []
    for part in ("oci", "runtime"):
        for path in package_files(root, part):
            if path.endswith(".py") and path != BOOT:
                name = f"{PACKAGE}.{path[:-3].replace('/', '.')}"
                is_package = name.endswith(".__init__")
                name = name.removesuffix(".__init__")
                first = list(imports(root, path, name, is_package))
                modules.append((is_cold(name), name, is_package, compiled(root, path), first))
    modules.sort(key=lambda module: module[0])
    known = {module[1] for module in modules} | {PACKAGE}
    for cold, name, is_package, body, first in modules:
        needed = dict.fromkeys(other for other in with_parents(iter(first), known) if not f"{name}.".startswith(f"{other}."))
        index[name] = (sum(map(len, parts)), len(body), is_package, tuple(needed))
        parts[cold] += body
    boot, head = compiled(root, BOOT), marshal.dumps(index)
    tag = sys.implementation.cache_tag.ljust(16).encode()
    return b"%s%08d%s%08d%08d%s%s" % (tag, len(boot), boot, len(head), len(parts[0]), head, b"".join(parts))


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as output:
        output.write(pack(sys.argv[2]))
