"""Finds the package's modules in one file. Executed by the command (`pysandbox.in`) with `LIB`, the directory of the package, and
`file`, the file (hack/pack_modules.py describes it), read up to the end of this code.

What a module imports in its first lines is known from the file and loaded ahead, by a shorter way than the import statement's,
which takes as long as the modules' own code.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec, _ModuleLockManager  # type: ignore[attr-defined]
from _frozen_importlib_external import ExtensionFileLoader
from gc import set_threshold
from marshal import loads
from posix import O_CLOEXEC, O_RDONLY, close, pread, stat
from posix import open as open_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, BinaryIO

modules = sys.modules
Module = type(sys)


class Modules:
    """A finder and loader."""

    def __init__(self, lib: str, path: str, file: BinaryIO) -> None:
        length = int(file.read(8))
        self._lib = lib
        self._path = path
        self._index: dict[str, tuple[int, int, bool, tuple[str, ...]]]
        self._files: dict[str, str]
        self._index, self._files = loads(file.read(length))
        self._start = file.tell()

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name not in self._index:
            return self._compiled(name) if name in self._files else None
        _, _, package, first = self._index[name]
        for other in first:
            if other not in modules:
                self._load(other)
        # Without an origin: the import system would work out the place of a compiled file.
        spec: Any = ModuleSpec(name, self, is_package=package)  # type: ignore[arg-type]
        if package:
            spec.submodule_search_locations = [self._place(name)]
        return spec

    def _compiled(self, name: str) -> Any:
        file = self._files[name]
        place = file if file.startswith("/") else f"{self._lib}/{file}"
        try:
            stat(place)
        except OSError:
            return None  # to be looked for
        return ModuleSpec(name, ExtensionFileLoader(name, place), origin=place)

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__file__ = self._file(name)
        offset, length, _, _ = self._index[name]
        if length:
            exec(loads(self._code(offset, length)), module.__dict__)

    def _load(self, name: str) -> None:
        """What the import of a module and of those that it imports comes to. Other threads wait for it as for any import."""
        offset, length, package, first = self._index[name]
        parent, _, own = name.rpartition(".")
        with _ModuleLockManager(name):
            if name in modules or (parent and parent not in modules):  # its package is what is being looked for: in its turn
                return
            module = Module(name)
            spec: Any = ModuleSpec(name, self, is_package=package)  # type: ignore[arg-type]
            spec._initializing = True
            space = module.__dict__
            space.update(__package__=name if package else parent, __loader__=self, __spec__=spec, __file__=self._file(name))
            if package:
                space["__path__"] = spec.submodule_search_locations = [self._place(name)]
            modules[name] = module
            try:
                for other in first:
                    if other not in modules:
                        self._load(other)
                if length:
                    exec(loads(self._code(offset, length)), space)
            except BaseException:
                del modules[name]
                raise
            if parent:
                setattr(modules[parent], own, module)
            spec._initializing = False

    def _place(self, name: str) -> str:
        return f"{self._lib}/{name.replace('.', '/')}"

    def _file(self, name: str) -> str:
        return self._place(name) + ("/__init__.py" if self._index[name][2] else ".py")

    def _code(self, offset: int, length: int) -> bytes:
        fd = open_file(self._path, O_RDONLY | O_CLOEXEC)  # kept open it would stand at a number that a caller may mean
        try:
            return pread(fd, length, self._start + offset)
        finally:
            close(fd)


given = globals()
sys.meta_path.insert(0, Modules(given["LIB"], given["file"].name, given["file"]))
set_threshold(20000)  # the default looks for garbage some thirty times while modules load
if not {"create", "exec", "run"}.isdisjoint(sys.argv):  # a wrong guess costs a thread
    from pysandbox.runtime.launch_early import begin

    begin()
