"""Packs the package's modules, compiled, into one file: `pack_modules.py OUTPUT SOURCE_ROOT`.

The command loads its modules from it: looking for thirty files, with the directory reads and stat calls that takes, is a fifth of
the time of a short verb. Layout, numbers as eight decimal digits:

    the interpreter's cache tag (16 bytes, padded with spaces): code of another one is not used, the files are imported then
    length, code object of runtime/boot.py
    length of the index
    index (marshal): {module: (offset, length, is package, modules that it imports at its top)}, offsets from the end of the
        index, and {compiled module: its file}, relative to the package's directory or absolute
    code objects
"""

from __future__ import annotations
import __future__ as future

import ast
import importlib.util
import marshal
import os
import sys
import sysconfig
from collections.abc import Iterator

from package_files import package_files

PACKAGE = "pysandbox"
BOOT = "runtime/boot.py"
# Compiled modules that a start needs: looking for one reads directories and takes as long as loading it.
EXTENSIONS = ("_json", "resource")
OWN_EXTENSIONS = ("_cffi_backend", "pysandbox.runtime.native._host")


def extensions() -> dict[str, str]:
    found = {name: importlib.util.find_spec(name) for name in EXTENSIONS}
    files = {name: spec.origin for name, spec in found.items() if spec and spec.origin and spec.has_location}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return files | {name: name.replace(".", "/") + suffix for name in OWN_EXTENSIONS}


def compiled(root: str, path: str) -> bytes:
    with open(os.path.join(root, path), "rb") as file:
        tree = ast.parse(file.read())
    # `from __future__ import annotations` is a wish to the compiler, but also an import that costs as much as any.
    ahead = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if [alias.name for node in ahead for alias in node.names] not in ([], ["annotations"]):
        raise ValueError(f"{path}: only `annotations` of __future__ is understood")
    tree.body = [node for node in tree.body if node not in ahead]
    flags = future.annotations.compiler_flag if ahead else 0
    # Relative: tracebacks find the source through sys.path.
    return marshal.dumps(compile(tree, f"{PACKAGE}/{path}", "exec", flags=flags, dont_inherit=True))


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


def pack(root: str) -> bytes:
    index: dict[str, tuple[int, int, bool, tuple[str, ...]]] = {PACKAGE: (0, 0, True, ())}
    codes = b""
    modules: list[tuple[str, bool, str]] = []
    for part in ("oci", "runtime"):
        for path in package_files(root, part):
            if path.endswith(".py") and path != BOOT:
                name = f"{PACKAGE}.{path[:-3].replace('/', '.')}"
                modules.append((name.removesuffix(".__init__"), name.endswith(".__init__"), path))
    known = {module[0] for module in modules} | {PACKAGE}
    for name, is_package, path in modules:
        body = compiled(root, path)
        first = with_parents(imports(root, path, name, is_package), known)
        needed = dict.fromkeys(other for other in first if not f"{name}.".startswith(f"{other}."))
        index[name] = (len(codes), len(body), is_package, tuple(needed))
        codes += body
    boot, head = compiled(root, BOOT), marshal.dumps((index, extensions()))
    tag = sys.implementation.cache_tag.ljust(16).encode()
    return b"%s%08d%s%08d%s%s" % (tag, len(boot), boot, len(head), head, codes)


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as output:
        output.write(pack(sys.argv[2]))
