"""Reading a bundle: directory and config.json in, checked and typed spec out."""

from __future__ import annotations

import os
import stat

from pysandbox.oci import decode, jsontext, validate
from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import BundleError, host_reason
from pysandbox.oci.spec import Process, Resources, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONFIG_NAME = "config.json"


class Bundle(Struct):
    """`dir`: absolute path of the bundle, symbolic links kept. `raw`: config.json as parsed, without nulls."""

    dir: str
    spec: Spec
    raw: Mapping[str, Any]

    @property
    def rootfs(self) -> str:
        """Absolute path of the root file system; it need not exist."""
        return os.path.normpath(os.path.join(self.dir, self.spec.root.path))


def load_bundle(path: str = ".", config: str = "") -> Bundle:
    """The bundle in directory `path`. `config`: a file to read instead of its config.json.

    `BundleError`: no such directory, config.json missing, unreadable, too large or not a file.
    `ConfigError`: config.json is not JSON, not of the schema's shape, or asks for what cannot be.
    """
    directory = os.path.abspath(path or ".")
    try:
        mode = os.stat(directory).st_mode
    except OSError as e:
        raise BundleError(f"chdir {directory}: {host_reason(e.errno)}", errno=e.errno) from None
    except ValueError:
        raise BundleError(f"chdir {directory!r}: invalid argument") from None
    if not stat.S_ISDIR(mode):
        raise BundleError(f"chdir {directory}: not a directory")
    document = os.path.basename(config) or CONFIG_NAME
    raw = jsontext.parse(jsontext.read(config or os.path.join(directory, CONFIG_NAME), document), document)
    return Bundle(dir=directory, spec=parse_config(raw), raw=raw)


def parse_config(raw: Mapping[str, Any]) -> Spec:
    """A parsed config.json, checked and typed. `ConfigError`."""
    validate.config(raw)
    spec = decode.config(raw)
    validate.meaning(spec)
    return spec


def load_process(path: str) -> Process:
    """The file of `exec --process`, checked and typed. `BundleError`, `ConfigError`."""
    document = os.path.basename(path) or path
    return parse_process(jsontext.parse(jsontext.read(path, document, pipe=True), document), document)


def parse_process(raw: Mapping[str, Any], document: str = "process.json") -> Process:
    """A parsed process object, checked and typed. `ConfigError`."""
    validate.process(raw, document)
    process = decode.process(raw)
    validate.process_meaning(process, document)
    return process


def parse_resources(data: bytes, document: str = "resources") -> Resources:
    """What `update` reads from `--resources`, checked and typed. `ConfigError`."""
    raw = jsontext.parse(data, document)
    validate.resources(raw, document)
    return decode.resources(raw)
