"""Lists the files of one package directory that get installed: `package_files.py SOURCE_ROOT DIRECTORY`.

Modules, type information and the data they load; not C sources, not what only the build uses. One path a line,
relative to the source root, sorted.
"""

from __future__ import annotations

import os
import sys

INSTALLED = (".py", ".pyi", ".json", "py.typed")
BUILD_ONLY = {"_build.py"}


def package_files(root: str, package: str) -> list[str]:
    found: list[str] = []
    for directory, subdirectories, names in os.walk(os.path.join(root, package)):
        subdirectories[:] = [d for d in subdirectories if d != "__pycache__" and not d.startswith(".")]
        found += [
            os.path.relpath(os.path.join(directory, name), root)
            for name in names
            if name.endswith(INSTALLED) and name not in BUILD_ONLY and not name.startswith(".")
        ]
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(package_files(sys.argv[1], sys.argv[2])))
