"""Where functions begin and end: symbol tables, `.eh_frame`, Go's pclntab. Untrusted side (runs confined).

Sources: gABI (symbols), LSB 5.0 "DWARF Extensions" (.eh_frame, .eh_frame_hdr), the LSDA layout of the Itanium C++ ABI,
Go's runtime/symtab.go (pcHeader).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from struct import Struct, error, unpack_from
from typing import Any, NamedTuple

from .elf import PT_GNU_EH_FRAME, Elf

_SYM = Struct("<IBBHQQ")
_RELA = Struct("<QQq")
_STT_NOTYPE, _STT_FUNC, _STT_IFUNC = 0, 2, 10
_R_RELATIVE, _R_IRELATIVE = 8, 37
_GO_MAGIC = {b"\xf0\xff\xff\xff", b"\xf1\xff\xff\xff"}  # Go 1.18 and 1.20


class Fde(NamedTuple):
    start: int
    end: int
    lsda: int  # address of its exception table, 0: none
    signal_frame: bool


class Functions:
    """What is known of an object's functions. Ranges are half open, addresses are link-time ones."""

    def __init__(self) -> None:
        self.fdes: list[Fde] = []  # by start
        self.ranges: list[tuple[int, int]] = []  # functions with a size from symbols or pclntab, by start
        self.starts: set[int] = set()  # addresses known to begin a function (or to be called or jumped to)
        self.names: list[tuple[int, int, str]] = []  # address, size, name
        self._fde_starts: list[int] = []
        self._range_starts: list[int] = []
        self._name_starts: list[int] = []

    def finish(self) -> None:
        """Sorts; call it once, before the queries."""
        self.fdes.sort()
        self.ranges = sorted(set(self.ranges))
        self.names.sort()
        self._fde_starts = [f.start for f in self.fdes]
        self._range_starts = [r[0] for r in self.ranges]
        self._name_starts = [n[0] for n in self.names]

    def fde(self, addr: int) -> Fde | None:
        i = bisect_right(self._fde_starts, addr) - 1
        return self.fdes[i] if i >= 0 and addr < self.fdes[i].end else None

    def enclosing(self, addr: int) -> tuple[int, int] | None:
        """The function with known bounds around `addr`. An FDE wins: the assembler wrote it."""
        fde = self.fde(addr)
        if fde is not None:
            return fde.start, fde.end
        i = bisect_right(self._range_starts, addr) - 1
        while i >= 0 and self._range_starts[i] == self.ranges[i][0] and addr - self.ranges[i][0] < 1 << 20:
            if addr < self.ranges[i][1]:
                return self.ranges[i]
            i -= 1
            if i < 0 or self.ranges[i][0] < addr - (1 << 16):
                break
        return None

    def name(self, addr: int) -> str | None:
        i = bisect_right(self._name_starts, addr) - 1
        return self.names[i][2] if i >= 0 and addr < self.names[i][0] + (self.names[i][1] or 1) else None


def find_functions(elf: Elf, lief_elf: Any) -> Functions:
    """Collects all sources. `lief_elf`: lief's view (sections, dynamic symbols, arrays)."""
    found = Functions()
    text = [(s.vaddr, s.vaddr + s.filesz) for s in elf.loads if s.executable]

    def in_text(addr: int) -> bool:
        return any(lo <= addr < hi for lo, hi in text)

    sections = {s.name: s for s in lief_elf.sections}
    for name, strings in ((".symtab", ".strtab"), (".dynsym", ".dynstr")):
        if name in sections and strings in sections:
            _symbols(elf, sections[name], sections[strings], found, in_text)
    if ".dynsym" not in sections:
        for symbol in lief_elf.dynamic_symbols:
            if symbol.shndx and int(symbol.type.value) in (_STT_FUNC, _STT_IFUNC) and in_text(symbol.value):
                _add(found, symbol.value, symbol.size, str(symbol.name))
    found.fdes = [f for f in _eh_frame(elf, sections) if in_text(f.start) and f.start < f.end and in_text(f.end - 1)]
    found.starts.update(f.start for f in found.fdes)
    if ".gopclntab" in sections:
        _go_functions(elf, sections[".gopclntab"], found, in_text)
    if in_text(elf.entry):
        found.starts.add(elf.entry)
    for s in (sections.get(".init"), sections.get(".fini")):
        if s is not None and in_text(s.virtual_address):
            found.starts.add(s.virtual_address)
    found.finish()
    return found


def _add(found: Functions, addr: int, size: int, name: str) -> None:
    found.starts.add(addr)
    found.names.append((addr, size, name))
    if size:
        found.ranges.append((addr, addr + size))


def _content(elf: Elf, section: Any) -> bytes:
    return bytes(elf.data[section.offset : min(section.offset + section.size, elf.size)])


def _symbols(elf: Elf, table: Any, strings: Any, found: Functions, in_text: Any) -> None:
    raw = _content(elf, table)
    names = _content(elf, strings)
    for name, info, _, shndx, value, size in _SYM.iter_unpack(raw[: len(raw) // _SYM.size * _SYM.size]):
        kind = info & 15
        if not shndx or kind not in (_STT_FUNC, _STT_IFUNC, _STT_NOTYPE) or not in_text(value):
            continue
        if kind == _STT_NOTYPE:  # a label: a place control may reach, or data; says nothing about extent
            continue
        _add(found, value, size, names[name : names.find(b"\0", name)].decode("utf-8", "replace"))


def labels(elf: Elf, lief_elf: Any) -> set[int]:
    """Addresses of untyped symbols: assembler labels that something may jump to."""
    out: set[int] = set()
    for section in lief_elf.sections:
        if section.name == ".symtab":
            raw = _content(elf, section)
            for _, info, _, shndx, value, _ in _SYM.iter_unpack(raw[: len(raw) // _SYM.size * _SYM.size]):
                if shndx and info & 15 == _STT_NOTYPE:
                    out.add(value)
    return out


def data_pointers(elf: Elf, lo: int, hi: int) -> set[int]:
    """Addresses in [lo, hi) that the object's data holds or will hold after relocation: code whose address is taken.

    Fixed-address programs keep them as plain words; others as addends of RELATIVE relocations (or, with DT_RELR, as
    words again). Words are looked for in every case: a coincidence only costs a jump door.
    """
    out: set[int] = set()
    for s in elf.loads:
        if s.flags & 1:
            continue
        raw = memoryview(bytes(elf.data[s.offset : s.offset + s.filesz]))
        skip = -s.vaddr % 8
        words = raw[skip : skip + (len(raw) - skip) // 8 * 8].cast("Q") if len(raw) > skip + 8 else ()
        out.update(w for w in words if lo <= w < hi)
    entries = dict(elf.dynamic())
    raw_rela = elf.read(entries.get(7, 0), entries.get(8, 0)) if 7 in entries else b""
    for _, info, addend in _RELA.iter_unpack(raw_rela[: len(raw_rela) // _RELA.size * _RELA.size]):
        if info & 0xFFFFFFFF in (_R_RELATIVE, _R_IRELATIVE) and lo <= addend < hi:
            out.add(addend)
    return out


# --- .eh_frame -----------------------------------------------------------------------------------


class _Reader:
    def __init__(self, data: bytes, base: int) -> None:
        self.data = data
        self.base = base  # address of data[0]

    def uleb(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value, at
            if shift > 63:
                raise ValueError("LEB128 too long")

    def encoded(self, at: int, encoding: int) -> tuple[int, int]:
        """A DW_EH_PE pointer; indirect ones are returned as the address of the pointer."""
        form = encoding & 15
        size = {0: 8, 2: 2, 3: 4, 4: 8, 10: 2, 11: 4, 12: 8}.get(form)
        if form == 1:
            value, end = self.uleb(at)
        elif size is None or at + size > len(self.data):
            raise ValueError("bad pointer encoding")
        else:
            value = int.from_bytes(self.data[at : at + size], "little", signed=form >= 8)
            end = at + size
        if encoding & 0x70 == 0x10 and value:
            value += self.base + at
        return value & (1 << 64) - 1, end


def _eh_frame(elf: Elf, sections: dict[Any, Any]) -> list[Fde]:
    addr = size = 0
    for s in elf.segments:
        if s.kind == PT_GNU_EH_FRAME:
            head = elf.read(s.vaddr, 16)
            if len(head) == 16 and head[0] == 1:
                try:
                    addr, _ = _Reader(head, s.vaddr).encoded(4, head[1])
                except ValueError:
                    addr = 0
                size = 1 << 30
    if ".eh_frame" in sections:
        addr, size = sections[".eh_frame"].virtual_address, sections[".eh_frame"].size
    return parse_eh_frame(elf.read(addr, size), addr) if addr else []


def parse_eh_frame(data: bytes, base: int) -> list[Fde]:
    """All FDEs; stops at the terminator and at the first damaged entry."""
    reader = _Reader(data, base)
    cies: dict[int, tuple[int, int, bool, bool]] = {}
    out: list[Fde] = []
    at = 0
    try:
        while at + 8 <= len(data):
            length, cie_off = unpack_from("<II", data, at)
            if length == 0:
                at += 4
                if data[at : at + 4] == b"\0\0\0\0" or at + 8 > len(data):
                    break
                continue
            if length >= 0xFFFFFFF0 or at + 4 + length > len(data):
                break
            if cie_off:
                cie = at + 4 - cie_off
                if cie not in cies:
                    cies[cie] = _cie(reader, cie)
                out.append(_fde(reader, at, cies[cie]))
            at += 4 + length
    except (error, ValueError, IndexError):
        pass  # what was read so far is right; the rest stays unknown and is left to the raw door
    return out


def _cie(reader: _Reader, at: int) -> tuple[int, int, bool, bool]:
    """Encodings of pointers and LSDA of a CIE (255: no LSDA), whether FDEs have augmentation data, signal frame."""
    data = reader.data
    if at < 0 or unpack_from("<I", data, at + 4)[0] != 0:
        raise ValueError("not a CIE")
    version = data[at + 8]
    end = data.index(b"\0", at + 9)
    augmentation = data[at + 9 : end]
    pos = end + 1
    if augmentation.startswith(b"eh"):
        raise ValueError("ancient CIE")
    _, pos = reader.uleb(pos)
    _, pos = reader.uleb(pos)
    if version == 1:
        pos += 1
    else:
        _, pos = reader.uleb(pos)
    pointer, lsda, signal = 0, 255, False
    if augmentation[:1] == b"z":
        _, pos = reader.uleb(pos)
        for letter in augmentation[1:]:
            if letter == ord("L"):
                lsda = data[pos]
                pos += 1
            elif letter == ord("R"):
                pointer = data[pos]
                pos += 1
            elif letter == ord("P"):
                encoding = data[pos]
                _, pos = reader.encoded(pos + 1, encoding)
            elif letter == ord("S"):
                signal = True
    return pointer, lsda, augmentation[:1] == b"z", signal


def _fde(reader: _Reader, at: int, cie: tuple[int, int, bool, bool]) -> Fde:
    pointer, lsda_encoding, augmented, signal = cie
    start, pos = reader.encoded(at + 8, pointer)
    size, pos = reader.encoded(pos, pointer & 15)
    lsda = 0
    if augmented:
        length, pos = reader.uleb(pos)
        if lsda_encoding != 255 and length:
            lsda, _ = reader.encoded(pos, lsda_encoding)
    return Fde(start, start + size, lsda, signal)


def landing_pads(elf: Elf, fde: Fde) -> set[int] | None:
    """Where the unwinder may enter this function; None if its exception table cannot be read."""
    if not fde.lsda:
        return set()
    reader = _Reader(elf.read(fde.lsda, 1 << 16), fde.lsda)
    try:
        base, at = fde.start, 1
        if reader.data[0] != 255:
            base, at = reader.encoded(1, reader.data[0])
        encoding = reader.data[at]
        at += 1
        if encoding != 255:
            _, at = reader.uleb(at)
        encoding = reader.data[at]
        length, at = reader.uleb(at + 1)
        end = at + length
        out = set()
        while at < end:
            _, at = reader.encoded(at, encoding)
            _, at = reader.encoded(at, encoding)
            pad, at = reader.encoded(at, encoding)
            _, at = reader.uleb(at)
            if pad:
                out.add(base + pad)
    except (ValueError, IndexError):
        return None
    return out


# --- Go ------------------------------------------------------------------------------------------


def _go_functions(elf: Elf, section: Any, found: Functions, in_text: Any) -> None:
    """Function starts of a Go program; there is no data between them, so each ends where the next begins."""
    raw = _content(elf, section)
    if raw[:4] not in _GO_MAGIC or len(raw) < 72 or raw[7] != 8:
        return
    count, _, text, _, _, _, _, table = unpack_from("<8Q", raw, 8)
    if table + 8 * count + 4 > len(raw):
        return
    starts = [text + unpack_from("<I", raw, table + 8 * i)[0] for i in range(count + 1)]
    for start, end in pairwise(starts):
        if start < end and in_text(start):
            found.starts.add(start)
            found.ranges.append((start, end))
