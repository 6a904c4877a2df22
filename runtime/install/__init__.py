"""`pysandbox install ENGINE`: writes an engine's configuration, and takes back exactly what it wrote.

One module an engine: `plan` reads what is there, refuses what is broken, and says what the file shall contain; `entries` says
what is configured, for `doctor`. `work.py` does the writing and the record that undoing goes by.
"""

from __future__ import annotations

import os

from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import Error, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Engine(Protocol):
        """`NAME`: what users call it. `PROGRAM`: what shows that it is installed. `SERVICE`: what makes it read its
        configuration again. `take_back`: the file's text, changed since, without what was installed; None if nothing is left.
        """

        NAME: str
        PROGRAM: str
        SERVICE: str

        def plan(self, place: Place, wanted: Wanted) -> Change: ...
        def entries(self, place: Place) -> list[Entry]: ...
        def take_back(self, text: str, installed: Installed) -> str | None: ...


ENGINES = ("docker", "podman", "containerd", "crio")


class InstallError(Error):
    """The engine's configuration cannot be changed: broken, in conflict, or changed by somebody else meanwhile."""


class Place:
    """Where configurations are: a root directory, and whose they are. Paths given to `at` are those of a host of its own."""

    def __init__(self, prefix: str = "", home: str = "") -> None:
        """`home`: of a user who is not root, "" for the system's configuration."""
        self.prefix = os.path.abspath(prefix) if prefix else ""
        self.home = home

    def at(self, path: str) -> str:
        return self.prefix + path

    @property
    def records(self) -> str:
        """The directory that remembers what was installed."""
        return self.at(f"{self.home}/.local/share/pysandbox/install" if self.home else "/var/lib/pysandbox/install")


class Wanted(Struct):
    """`name`: of the runtime in the engine's configuration. `command`: absolute path of pysandbox. `default`: it becomes the
    engine's default runtime. `ours`: the command that an earlier installation wrote under this name, "" if none.
    """

    name: str
    command: str
    default: bool
    ours: str = ""


class Change(Struct):
    """What becomes of a file. `before` None: it did not exist. `edits`: (new, old) pieces of text, from which the old file can
    be had again even if other parts of it were changed since.
    """

    path: str
    before: str | None
    after: str
    edits: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


class Installed(Struct):
    """What the record says. `before`: the file's text before the first installation, None if there was none; `after`: as the last
    one left it; `edits`: of all; `names`: runtime -> command; `directories`: that were made.
    """

    path: str
    before: str | None
    after: str
    edits: tuple[tuple[str, str], ...]
    names: dict[str, str]
    directories: tuple[str, ...]


class Entry(Struct):
    """A runtime in an engine's configuration. `default`: containers get it without being asked."""

    name: str
    command: str
    default: bool


def engine(name: str) -> Engine:
    if name not in ENGINES:
        raise UsageError(f"no such engine: {name!r} (one of: {', '.join(ENGINES)})")
    from importlib import import_module

    module: Engine = import_module(f"{__name__}.{name}")
    return module


def conflict(where: str, name: str, command: str) -> InstallError:
    return InstallError(f"{where}: a runtime {name!r} is there already, for {command}: remove it or choose another --name")


HEADER = "# Written by `pysandbox install"


def drop_in(path: str, lines: list[str], engine_name: str) -> Change:
    """A file that is ours alone. `InstallError` if somebody else wrote one of that name."""
    before = read(path)
    if before is not None and not before.startswith(HEADER):
        raise InstallError(f"{path}: is there already and was not written by pysandbox; nothing was changed")
    first = f"{HEADER} {engine_name}`; `pysandbox install {engine_name} --undo` removes it."
    return Change(path=path, before=before, after="\n".join([first, *lines]) + "\n", edits=())


def whole_file(text: str, installed: Installed) -> str | None:
    """`take_back` of a drop-in: there is nothing in it to be kept apart."""
    raise InstallError(f"{installed.path}: was changed since it was written; remove it by hand")


def read(path: str) -> str | None:
    """A configuration file's text, None if there is no such file. `InstallError`."""
    from pysandbox.oci import jsontext
    from pysandbox.oci.errors import BundleError

    if not os.path.lexists(path):
        return None
    try:
        return jsontext.read(path, path).decode()
    except UnicodeDecodeError:
        raise InstallError(f"{path}: not UTF-8") from None
    except BundleError as error:
        raise InstallError(error.message, errno=error.errno) from None
