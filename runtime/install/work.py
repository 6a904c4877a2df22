"""Installing and undoing: files are replaced in one step, and a record is written first, so that whatever stops half-way can
be undone.
"""

from __future__ import annotations

import json
import os
import stat

from pysandbox.oci.errors import from_os_error
from pysandbox.runtime.install import Change, Installed, InstallError, Place, Wanted, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.install import Engine

_NEW_FILE = 0o644


def install(engine: Engine, place: Place, wanted: Wanted, *, dry_run: bool) -> Change:
    """Plans and, unless `dry_run`, writes. The change's `after` equals `before` where there is nothing to do. `InstallError`."""
    installed = load_record(engine, place)
    if installed is not None:
        wanted = wanted.replace(ours=installed.names.get(wanted.name, ""))
    change = engine.plan(place, wanted)
    _inside(place, change.path)
    if dry_run or change.after == change.before:
        return change
    before, edits, names = change.before, change.edits, {wanted.name: wanted.command}
    directories = _missing(change.path, _record_path(engine, place))
    if installed is not None:
        before, names = _original(engine, installed, change.before), {**installed.names, **names}
        edits, directories = (*installed.edits, *edits), (*installed.directories, *directories)
    record = Installed(
        path=change.path, before=before, after=change.after, edits=edits, names=names, directories=directories
    )
    _save_record(engine, place, record)
    try:
        replace_file(change.path, change.after)
    except InstallError:
        if installed is None:
            _forget(engine, place, record)
        else:
            _save_record(engine, place, installed)
        raise
    return change


def _original(engine: Engine, installed: Installed, now: str | None) -> str | None:
    """What undoing shall bring back when something was installed before, and others may have changed the file since."""
    if now is None or now == installed.after:
        return installed.before if now is not None else None
    return engine.take_back(now, installed)


def undo(engine: Engine, place: Place, *, dry_run: bool) -> Change:
    """Takes back what was installed: exactly, if the file is as we left it, else only our part. The change from what is there to
    what will be (`after` "" for a file that is removed). `InstallError` where nothing was installed.
    """
    installed = load_record(engine, place)
    if installed is None:
        raise InstallError(f"{engine.NAME}: nothing to undo: no record of an installation in {place.records}")
    now = read(installed.path)
    target = now if now is None else installed.before
    if now is not None and now not in (installed.after, installed.before):
        target = engine.take_back(now, installed)
    change = Change(path=installed.path, before=now, after=target or "", edits=())
    _inside(place, installed.path)
    if dry_run:
        return change
    if target is None:
        _remove(installed.path)
    elif target != now:
        replace_file(installed.path, target)
    _forget(engine, place, installed)
    return change


def _forget(engine: Engine, place: Place, installed: Installed) -> None:
    """Removes the record, and the directories that were made, as far as they are empty."""
    _remove(_record_path(engine, place))
    for directory in reversed(installed.directories):
        try:
            os.rmdir(directory)
        except OSError:
            pass  # something else lives there


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise from_os_error(f"remove {path}", error, InstallError) from None


def _inside(place: Place, path: str) -> None:
    """With a prefix, a link must not lead out of it."""
    if place.prefix and not (os.path.realpath(path) + "/").startswith(os.path.realpath(place.prefix) + "/"):
        raise InstallError(f"{path}: leads out of {place.prefix}")


def _missing(*paths: str) -> tuple[str, ...]:
    """The directories that have to be made for `paths`, outer ones first."""
    missing: list[str] = []
    for path in paths:
        directory = os.path.dirname(os.path.realpath(path))
        start = len(missing)
        while not os.path.exists(directory):
            if directory not in missing:
                missing.insert(start, directory)
            directory = os.path.dirname(directory)
    return tuple(missing)


def replace_file(path: str, text: str, mode: int = _NEW_FILE) -> None:
    """Old or new content at any time, also after a crash; mode and owner of an old file stay, a link stays a link."""
    real = os.path.realpath(path)
    directory, name = os.path.split(real)
    temporary = os.path.join(directory, f".{name}.pysandbox-{os.getpid()}")
    try:
        os.makedirs(directory, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(text.encode())
            old = os.stat(real) if os.path.exists(real) else None
            os.fchmod(fd, stat.S_IMODE(old.st_mode) if old else mode)
            if old and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, old.st_uid, old.st_gid)
            os.fsync(fd)
            os.rename(temporary, real)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        above = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)
    except OSError as error:
        raise from_os_error(f"write {path}", error, InstallError) from None


# --- The record --------------------------------------------------------------------------------------------------------


def _record_path(engine: Engine, place: Place) -> str:
    return os.path.join(place.records, f"{engine.NAME}.json")


def _save_record(engine: Engine, place: Place, record: Installed) -> None:
    replace_file(_record_path(engine, place), json.dumps(dict(record), indent=1) + "\n", 0o600)


def load_record(engine: Engine, place: Place) -> Installed | None:
    path = _record_path(engine, place)
    text = read(path)
    if text is None:
        return None
    try:
        fields = json.loads(text)
        edits = tuple((str(new), str(old)) for new, old in fields.pop("edits"))
        return Installed(edits=edits, directories=tuple(fields.pop("directories")), **fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InstallError(f"{path}: damaged; restore the engine's configuration by hand and remove it") from None
