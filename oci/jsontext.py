"""JSON texts that others wrote: read with limits, parsed as Go's decoder would take them, errors with line and column.

The accelerator behind the standard `json` module is used directly, since `json` itself imports `re` and costs
more than reading the file; `json` is imported when there is an error to explain.
"""

from __future__ import annotations

import os
import stat

from pysandbox.oci.errors import BundleError, ConfigError, host_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 16 << 20
"""Largest document that is read, in bytes. Engines write at most some 100 KiB."""

_SPACE = " \t\n\r"


def read(path: str, document: str, *, pipe: bool = False) -> bytes:
    """Contents of a regular file of at most `MAX_BYTES`; `BundleError` otherwise. Follows symbolic links. `pipe`: a pipe
    will do, too (`--process <(...)`): the caller of the runtime has named it, and is waited for."""
    try:
        # O_NONBLOCK: a FIFO in the place of the file must not hold up the runtime.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as e:
        raise BundleError(
            f"JSON specification file {document} not found: open {path}: no such file or directory", errno=e.errno
        ) from None
    except OSError as e:
        raise BundleError(f"open {path}: {host_reason(e.errno)}", errno=e.errno) from None
    except ValueError:
        raise BundleError(f"open {path!r}: invalid argument") from None
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise BundleError(f"read {path}: is a directory")
        if pipe and stat.S_ISFIFO(info.st_mode):
            os.set_blocking(fd, True)
        elif not stat.S_ISREG(info.st_mode):
            raise BundleError(f"read {path}: not a regular file")
        return read_fd(fd, path, info.st_size)
    finally:
        os.close(fd)


def read_fd(fd: int, name: str, size_hint: int = 65536) -> bytes:
    """Everything up to end of file, from a pipe too; `BundleError` beyond `MAX_BYTES`."""
    chunks: list[bytes] = []
    total = 0
    want = min(max(size_hint, 0), MAX_BYTES) + 1
    try:
        while chunk := os.read(fd, want):
            chunks.append(chunk)
            total += len(chunk)
            if total > MAX_BYTES:
                raise BundleError(f"{name}: larger than {MAX_BYTES >> 20} MiB")
            want = 65536
    except OSError as e:
        raise BundleError(f"read {name}: {host_reason(e.errno)}", errno=e.errno) from None
    return b"".join(chunks)


def parse(data: bytes, document: str) -> dict[str, Any]:
    """The JSON object in `data`; `ConfigError` if it is anything else.

    As with Go's decoder a repeated key counts once, with its last value, and a null property is an absent one.
    Unlike there, invalid UTF-8, lone surrogates, NUL characters (no path, argument or variable can hold
    one) and anything after the object are refused.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"not JSON: invalid UTF-8 in line {line}", document=document) from None
    try:
        value = _scan(text, document)
        if value is None:
            raise ConfigError("cannot be null", document=document)
        if not isinstance(value, dict):
            raise ConfigError(f"expected an object, found {kind_of(value)}", document=document)
        # Escapes are the only way for these characters to get past the decoder and the scanner.
        if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
            _check_characters(value, "", document)
        if "null" in text:
            _drop_nulls(value)
    except RecursionError:
        raise ConfigError("nested too deeply", document=document) from None
    return value


def _scan(text: str, document: str) -> Any:
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scanner()(text, start)
    except (ValueError, StopIteration, OverflowError, SystemError) as e:
        # SystemError: up to Python 3.11 the accelerator only finds its exception class if `json` is imported already,
        # and otherwise fails without one.
        raise _explain(text, document, e) from None
    if text[end:].strip(_SPACE):
        raise _explain(text, document, None)
    return value


class _Context:
    """What the scanner asks for; see `json.decoder.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None

    @staticmethod
    def parse_int(digits: str) -> int:
        if len(digits) > 40:
            raise ValueError("number with more than 40 digits")
        return int(digits)

    @staticmethod
    def parse_float(digits: str) -> int | float:
        """1.0 and 1e3 are integers to JSON; they have to be to Python, or they end up in a struct as floats."""
        value = float(digits)
        return int(value) if value.is_integer() else value

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON value")


def _scanner() -> Any:
    try:
        from _json import make_scanner
    except ImportError:  # not CPython
        from json.decoder import JSONDecoder

        decoder: Any = JSONDecoder(
            parse_int=_Context.parse_int, parse_float=_Context.parse_float, parse_constant=_Context.parse_constant
        )
        return decoder.scan_once
    context: Any = _Context
    return make_scanner(context)


def _explain(text: str, document: str, error: BaseException | None) -> ConfigError:
    """The slow path: the same text through `json`, which knows line and column."""
    import json

    try:
        json.loads(text, parse_int=_Context.parse_int, parse_float=_Context.parse_float)
    except json.JSONDecodeError as e:
        where = f"line {e.lineno} column {e.colno}"
        return ConfigError(f"not JSON: {e.msg} at {where}", document=document)
    except (ValueError, OverflowError) as e:
        return ConfigError(f"not JSON: {e}", document=document)
    return ConfigError(f"not JSON: {error or 'data after the object'}", document=document)


def dump(value: Any) -> str:
    """Compact JSON on one line, without importing `json`. Keys must be strings."""
    try:
        from _json import encode_basestring_ascii, make_encoder
    except ImportError:  # not CPython
        import json

        return json.dumps(value, separators=(",", ":"))
    # Arguments: markers (for cycles), default, encoder, indent, separators, sort_keys, skipkeys, allow_nan.
    encode = make_encoder({}, _cannot, encode_basestring_ascii, None, ":", ",", False, False, False)
    return "".join(encode(value, 0))


def _cannot(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _check_characters(value: Any, pointer: str, document: str) -> None:
    if isinstance(value, str):
        for c in value:
            if c == "\0":
                raise ConfigError("NUL character in a string", pointer=pointer, document=document)
            if "\ud800" <= c <= "\udfff":
                raise ConfigError("half of a surrogate pair in a string", pointer=pointer, document=document)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_characters(item, f"{pointer}/{i}", document)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_characters(key, pointer, document)
            _check_characters(item, f"{pointer}/{escape(key)}", document)


def _drop_nulls(value: Any) -> None:
    if isinstance(value, dict):
        for key in [k for k, v in value.items() if v is None]:
            del value[key]
        for item in value.values():
            _drop_nulls(item)
    elif isinstance(value, list):
        for item in value:
            _drop_nulls(item)


def escape(token: str) -> str:
    """One reference token of a JSON pointer (RFC 6901, section 3)."""
    return token.replace("~", "~0").replace("/", "~1")


def kind_of(value: object) -> str:
    """JSON's name for the type of a parsed value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"
