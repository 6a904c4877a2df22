"""Finds the package's modules in one file. Executed by the command (`pysandbox.in`) with `LIB`, the directory of the package, and
`file`, the file (hack/pack_modules.py describes it), read up to the end of this code.

The modules that most verbs need stand first and are read at once; the rest when one of it is asked for.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec
from gc import set_threshold
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, BinaryIO


class Modules:
    """A finder and loader."""

    def __init__(self, lib: str, path: str, file: BinaryIO) -> None:
        length, self._rest = (int(file.read(8)) for _ in range(2))
        self._lib = lib
        self._path = path
        self._index: dict[str, tuple[int, int, bool]] = loads(file.read(length))
        self._start = file.tell()
        self._hot = memoryview(file.read(self._rest))
        self._cold = memoryview(b"")

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name not in self._index:
            return None
        file = f"{self._lib}/{name.replace('.', '/')}"
        package = self._index[name][2]
        loader: Any = self
        spec: Any = ModuleSpec(name, loader, origin=file + ("/__init__.py" if package else ".py"), is_package=package)
        if package:
            spec.submodule_search_locations = [file]
        spec.has_location = True
        return spec

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        offset, length, _ = self._index[module.__name__]
        if length:
            exec(loads(self._code(offset, length)), module.__dict__)

    def _code(self, offset: int, length: int) -> memoryview:
        if offset < self._rest:
            return self._hot[offset : offset + length]
        if not self._cold:
            with open(self._path, "rb", 0) as file:
                file.seek(self._start + self._rest)
                self._cold = memoryview(file.read())
        return self._cold[offset - self._rest : offset - self._rest + length]


given = globals()
sys.meta_path.insert(0, Modules(given["LIB"], given["file"].name, given["file"]))
set_threshold(20000)  # the default looks for garbage some thirty times while modules load
if not {"create", "exec", "run"}.isdisjoint(sys.argv):  # a wrong guess costs a thread
    from pysandbox.runtime.launch_early import begin

    begin()
