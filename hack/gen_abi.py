#!/usr/bin/env python3
"""Generate `runtime/abi.py` and `runtime/abi_rare.py`, the Python view of `shim/abi.h`.

    hack/gen_abi.py            write them
    hack/gen_abi.py --check    exit 1 when a checked-in file is not current

Classes that the start of a container does without are in the second file, which the first one imports when one is asked for.

The header keeps to a small language so that this parser can be small: `#define PSB_NAME NUMBER`, and below the
`PSB_ABI_DECLS` line `struct psb_name { fixed-width integers, their arrays, earlier structs and their arrays };`
without implicit padding. Anything else is an error here, not a guess.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "shim" / "abi.h"
OUTPUT = ROOT / "runtime" / "abi.py"
RARE_OUTPUT = ROOT / "runtime" / "abi_rare.py"
# What a container is started with, and what these are made of.
STARTING = ("vault", "start", "facts", "ctl", "trace_header", "plan_key", "plan_index_entry", "plan_index", "pool")
MARK = "/* PSB_ABI_DECLS */"

CODES = {
    "uint8_t": ("B", 1),
    "int8_t": ("b", 1),
    "uint16_t": ("H", 2),
    "int16_t": ("h", 2),
    "uint32_t": ("I", 4),
    "int32_t": ("i", 4),
    "uint64_t": ("Q", 8),
    "int64_t": ("q", 8),
}


class AbiError(Exception):
    """The header leaves the language this generator understands."""


class Field(NamedTuple):
    """One member: `ctype` is a key of CODES or a struct name without `psb_`; `length` 0 means not an array."""

    name: str
    ctype: str
    length: int
    offset: int
    size: int


class Struct(NamedTuple):
    name: str
    fields: tuple[Field, ...]
    size: int
    align: int


def parse_constants(text: str) -> list[tuple[str, int]]:
    """`#define PSB_NAME NUMBER` lines, in order, without the prefix."""
    found: list[tuple[str, int]] = []
    for match in re.finditer(r"^#define[ \t]+PSB_(\w+)(\S*)[ \t]*(.*)$", text, re.M):
        name, glued, rest = match.groups()
        value = re.sub(r"/\*.*", "", rest).strip()
        if not value and not glued:  # the include guard
            continue
        if glued or not re.fullmatch(r"0x[0-9a-fA-F]+|\d+", value):
            raise AbiError(f"PSB_{name}: not a plain number: {value or glued}")
        found.append((name, int(value, 0)))
    return found


def parse_structs(text: str) -> list[Struct]:
    """Structures below the mark, with offsets by natural alignment; implicit padding is an error."""
    if MARK not in text:
        raise AbiError(f"{MARK} is missing")
    body = re.sub(r"/\*.*?\*/", " ", text.split(MARK, 1)[1], flags=re.S)
    body = re.sub(r"^#.*$", "", body, flags=re.M)
    structs: dict[str, Struct] = {}
    pattern = re.compile(r"\s*struct\s+psb_(\w+)\s*\{([^}]*)\}\s*;")
    position = 0
    while match := pattern.match(body, position):
        position = match.end()
        struct = lay_out(match.group(1), match.group(2), structs)
        structs[struct.name] = struct
    if body[position:].strip():
        raise AbiError(f"cannot parse: {body[position:].strip()[:60]!r}")
    return list(structs.values())


def lay_out(name: str, body: str, known: dict[str, Struct]) -> Struct:
    fields: list[Field] = []
    offset, widest = 0, 1
    for line in filter(None, (part.strip() for part in body.split(";"))):
        match = re.fullmatch(r"(?:struct\s+psb_)?(\w+)\s+(\w+)\s*(?:\[(\w+)\])?", line)
        if not match:
            raise AbiError(f"struct psb_{name}: cannot parse member {line!r}")
        ctype, member, count_text = match.groups()
        count = int(count_text, 0) if count_text else 0
        if ctype in CODES:
            align = unit = CODES[ctype][1]
        elif ctype in known:
            align, unit = known[ctype].align, known[ctype].size
        else:
            raise AbiError(f"struct psb_{name}: unknown type of {member!r}: {ctype}")
        if offset % align:
            raise AbiError(f"struct psb_{name}: implicit padding in front of {member}")
        size = unit * (count or 1)
        fields.append(Field(member, ctype, count, offset, size))
        offset += size
        widest = max(widest, align)
    if offset % widest:
        raise AbiError(f"struct psb_{name}: implicit padding at its end")
    return Struct(name, tuple(fields), offset, widest)


def class_name(struct: str) -> str:
    return "".join(part.capitalize() for part in struct.split("_"))


def is_bytes(field: Field) -> bool:
    return field.ctype == "uint8_t" and field.length > 0


def annotation(field: Field, *, argument: bool) -> str:
    if is_bytes(field):
        return "bytes"
    inner = "int" if field.ctype in CODES else class_name(field.ctype)
    if not field.length:
        return inner
    return f"Sequence[{inner}]" if argument else f"tuple[{inner}, ...]"


def struct_format(struct: Struct) -> str:
    out = "<"
    for field in struct.fields:
        if is_bytes(field) or field.ctype not in CODES:
            out += f"{field.size}s"
        else:
            out += (str(field.length) if field.length else "") + CODES[field.ctype][0]
    return out


def emit_class(struct: Struct) -> list[str]:
    name = class_name(struct.name)
    slots = "".join(f'"{field.name}", ' for field in struct.fields).rstrip()
    out = ["", "", f"class {name}:", f'    """`struct psb_{struct.name}`, {struct.size} bytes."""', ""]
    out += [f"    __slots__ = ({slots})", f"    SIZE = {struct.size}", "    OFFSET = {"]
    out += [f'        "{field.name}": {field.offset},' for field in struct.fields]
    out += ["    }", f'    _layout = Struct("{struct_format(struct)}")', ""]

    out += ["    def __init__(", "        self,", "        *,"]
    body: list[str] = []
    for field in struct.fields:
        kind = annotation(field, argument=True)
        if is_bytes(field):
            default, value = 'b""', f'_padded({field.name}, {field.length}, "{field.name}")'
        elif field.ctype in CODES:
            default, value = "0", field.name
            if field.length:
                default, value = "()", f'_filled({field.name}, {field.length}, "{field.name}")'
        elif field.length:
            inner = class_name(field.ctype)
            default, value = "()", f'_filled_with({inner}, {field.name}, {field.length}, "{field.name}")'
        else:
            kind += " | None"
            default, value = "None", f"{class_name(field.ctype)}() if {field.name} is None else {field.name}"
        out.append(f"        {field.name}: {kind} = {default},")
        body.append(f"        self.{field.name}: {annotation(field, argument=False)} = {value}")
    out += ["    ) -> None:", *body, ""]

    packed: list[str] = []
    for field in struct.fields:
        if is_bytes(field):
            packed.append(f"self.{field.name}")
        elif field.ctype in CODES:
            packed.append(f"*self.{field.name}" if field.length else f"self.{field.name}")
        elif field.length:
            packed.append(f'b"".join([item.to_bytes() for item in self.{field.name}])')
        else:
            packed.append(f"self.{field.name}.to_bytes()")
    out += ["    def to_bytes(self) -> bytes:", "        return self._layout.pack("]
    out += [f"            {item}," for item in packed]
    out += ["        )", ""]

    out += ["    @classmethod", "    def pack(", "        cls,", "        *,"]
    for field in struct.fields:
        kind = annotation(field, argument=True)
        default = "0"
        if is_bytes(field):
            default = 'b""'
        elif field.length:
            default = "()"
        elif field.ctype not in CODES:
            kind, default = f"{kind} | None", "None"
        out.append(f"        {field.name}: {kind} = {default},")
    out += ["    ) -> bytes:", "        return cls("]
    out += [f"            {field.name}={field.name}," for field in struct.fields]
    out += ["        ).to_bytes()", ""]

    out += ["    @classmethod", f"    def unpack(cls, buf: Buffer, offset: int = 0) -> {name}:"]
    out += ["        values = cls._layout.unpack_from(buf, offset)", "        new = cls.__new__(cls)"]
    index = 0
    for field in struct.fields:
        if is_bytes(field) or (field.ctype in CODES and not field.length):
            value, width = f"values[{index}]", 1
        elif field.ctype in CODES:
            value, width = f"values[{index}:{index + field.length}]", field.length
        elif field.length:
            inner = class_name(field.ctype)
            steps = f"range(0, {field.size}, {inner}.SIZE)"
            value, width = f"tuple([{inner}.unpack(values[{index}], at) for at in {steps}])", 1
        else:
            value, width = f"{class_name(field.ctype)}.unpack(values[{index}])", 1
        out.append(f"        new.{field.name} = {value}")
        index += width
    out += ["        return new"]
    return out


PROLOGUE = '''\
"""The Python view of `shim/abi.h`: constants without their `PSB_` prefix, one class a structure.

Generated by hack/gen_abi.py; do not edit. A class packs and unpacks the little-endian bytes of its structure:
`X.pack(field=...)` or `X(field=...).to_bytes()` give `X.SIZE` bytes, `X.unpack(buf, offset)` an object with the
fields as attributes (arrays of bytes as `bytes`, other arrays as tuples; missing ones are zero, short ones are
filled with zero). `X.OFFSET[field]` is a field's place. A value out of range is a `struct.error`, an array too long
a `ValueError`.
"""
# ruff: noqa

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False  # the same as typing's, without the cost of importing it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap
    from typing import TypeVar

    Buffer = bytes | bytearray | memoryview | mmap
    T = TypeVar("T")


def _padded(value: bytes, size: int, name: str) -> bytes:
    if len(value) > size:
        raise ValueError(f"{name}: {len(value)} bytes do not fit into {size}")
    return value.ljust(size, b"\\0")


def _filled(value: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    if len(value) > count:
        raise ValueError(f"{name}: {len(value)} items do not fit into {count}")
    return (*value, *(0,) * (count - len(value)))


def _filled_with(kind: type[T], value: Sequence[T], count: int, name: str) -> tuple[T, ...]:
    if len(value) > count:
        raise ValueError(f"{name}: {len(value)} items do not fit into {count}")
    return (*value, *[kind() for _ in range(count - len(value))])

'''


LAZY = '''

if TYPE_CHECKING:
    from pysandbox.runtime.abi_rare import (
{names}
    )


def __getattr__(name: str) -> object:
    """A class that is rarely needed."""
    from pysandbox.runtime import abi_rare

    if name.startswith("_") or name not in vars(abi_rare):
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    return getattr(abi_rare, name)
'''

RARE_PROLOGUE = '''\
"""More of `pysandbox.runtime.abi`, where these classes are found, too. Generated by hack/gen_abi.py; do not edit."""
# ruff: noqa

from __future__ import annotations

from _struct import Struct

from pysandbox.runtime.abi import _filled, _filled_with, _padded, {needed}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.runtime.abi import Buffer
'''


def generate(text: str) -> dict[Path, str]:
    """The content of each file."""
    lines = [f"{name} = {value if value < 4096 else hex(value)}" for name, value in parse_constants(text)]
    rare_lines: list[str] = []
    structs = parse_structs(text)
    rare = [struct for struct in structs if struct.name not in STARTING]
    for struct in structs:
        (rare_lines if struct in rare else lines).extend(emit_class(struct))
    names = "\n".join(f"        {class_name(struct.name)} as {class_name(struct.name)}," for struct in rare)
    inner = {field.ctype for struct in rare for field in struct.fields if field.ctype in STARTING}
    needed = ", ".join(class_name(name) for name in STARTING if name in inner)
    return {
        OUTPUT: PROLOGUE + "\n" + "\n".join(lines) + LAZY.format(names=names),
        RARE_OUTPUT: RARE_PROLOGUE.format(needed=needed).replace(", \n", "\n") + "\n".join(rare_lines) + "\n",
    }


def main(argv: list[str]) -> int:
    try:
        files = generate(HEADER.read_text())
    except AbiError as error:
        print(f"{HEADER}: {error}", file=sys.stderr)
        return 1
    if argv == ["--check"]:
        stale = [path for path, new in files.items() if not path.exists() or path.read_text() != new]
        for path in stale:
            print(f"{path} is not current: run hack/gen_abi.py", file=sys.stderr)
        return 1 if stale else 0
    if argv:
        print("usage: gen_abi.py [--check]", file=sys.stderr)
        return 2
    for path, new in files.items():
        path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
