"""TOML files of engines: read with the standard library, changed as text so that comments and order stay, and read again.

A change is only made if the new text means exactly what was intended.
"""

from __future__ import annotations

import json
import os
import tomllib

from pysandbox.runtime.install import InstallError, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse(text: str | None, path: str) -> dict[str, Any]:
    """`InstallError` in one line, with the place."""
    try:
        return tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise InstallError(f"{path}: not TOML: {error}; nothing was changed") from None


def quote(text: str) -> str:
    """A basic string: JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def table(config: dict[str, Any], path: str, *keys: str) -> dict[str, Any]:
    """The table at `keys`, an empty one if it is not there."""
    found: Any = config
    for number, key in enumerate(keys):
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise InstallError(f"{path}: {'.'.join(keys[: number + 1])}: expected a table; nothing was changed")
    return dict(found)


def files(main: str, directory: str) -> list[tuple[str, str]]:
    """(path, text) of a configuration file and of the drop-ins in `directory`, those that exist, in the order engines read."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    paths = [main, *(os.path.join(directory, name) for name in names)]
    return [(path, text) for path in paths if (text := read(path)) is not None]


def set_key(text: str, header: str, key: str, value: str) -> tuple[str, str, str]:
    """`key = value` in the table that `header` (`[a.b]`, its spelling in the file may differ) begins; the table is appended where
    it is missing. (Text, new piece, old piece).
    """
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if _same_header(line, header)), None)
    if start is None:
        piece = f"\n{header}\n{key} = {value}\n"
        return _end(text) + piece, piece, ""
    for number in range(start + 1, len(lines)):
        stripped = lines[number].lstrip()
        if stripped.startswith("["):
            break
        if stripped.split("=")[0].strip() == key:
            space = lines[number][: len(lines[number]) - len(stripped)]
            return _replaced(lines, number, f"{space}{key} = {value}\n", lines[number])
    below = lines[start + 1] if start + 1 < len(lines) else ""
    space = below[: len(below) - len(below.lstrip())] if not below.lstrip().startswith("[") else ""
    if not lines[start].endswith("\n"):
        lines[start] += "\n"
    return _replaced(lines, start, f"{lines[start]}{space}{key} = {value}\n", lines[start])


def _replaced(lines: list[str], number: int, new: str, old: str) -> tuple[str, str, str]:
    return "".join([*lines[:number], new, *lines[number + 1 :]]), new, old


def append(text: str, block: str) -> tuple[str, str, str]:
    """As `set_key`, for whole tables at the end."""
    piece = ("\n" if text.strip() else "") + block
    return _end(text) + piece, piece, ""


def _end(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _same_header(line: str, header: str) -> bool:
    """Whether a line begins the table; quotes and white space may differ."""
    stripped = line.split("#")[0].strip()
    if not stripped.startswith("[") or stripped.startswith("[["):
        return False
    try:
        return tomllib.loads(stripped) == tomllib.loads(header)
    except tomllib.TOMLDecodeError:
        return False


def check(text: str, intended: dict[str, Any], path: str, by_hand: str) -> None:
    """`InstallError` unless `text` means `intended`."""
    try:
        if tomllib.loads(text) == intended:
            return
    except tomllib.TOMLDecodeError:
        pass
    raise InstallError(f"{path}: its tables are written in a way that is not edited here; add by hand: {by_hand}")
