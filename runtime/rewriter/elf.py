"""What the trusted side reads of an ELF file: program headers and the dynamic section. Standard library only.

The input comes from a container, so every offset is checked; whatever is wrong is an `ElfError`.
Sources: System V ABI (gABI) chapters 4 and 5, Linux fs/binfmt_elf.c for how segments become mappings.
"""

from __future__ import annotations

from _struct import Struct

from pysandbox.oci.errors import Error

PAGE = 4096
ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_GNU_EH_FRAME = 1, 2, 3, 0x6474E550
PF_X, PF_W = 1, 2
DT_NEEDED, DT_STRTAB, DT_SONAME, DT_RPATH, DT_RUNPATH, DT_FLAGS_1 = 1, 5, 14, 15, 29, 0x6FFFFFFB
DF_1_PIE = 0x08000000

_EHDR = Struct("<16sHHIQQQIHHHHHH")
_PHDR = Struct("<IIQQQQQQ")
_DYN = Struct("<qQ")
MAX_PHDRS = 128
MAX_DYNAMIC = 4096


class ElfError(Error):
    """Not an x86-64 ELF program or library, or a damaged one."""


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Bytes(Protocol):
        """bytes, bytearray, mmap, or something that reads a file."""

        def __len__(self) -> int: ...
        def __getitem__(self, key: slice, /) -> bytes | bytearray: ...


class Segment:
    """A program header. Addresses and sizes in bytes, `kind` is p_type."""

    __slots__ = ("filesz", "flags", "kind", "memsz", "offset", "vaddr")

    def __init__(self, kind: int, flags: int, offset: int, vaddr: int, filesz: int, memsz: int) -> None:
        self.kind = kind
        self.flags = flags
        self.offset = offset
        self.vaddr = vaddr
        self.filesz = filesz
        self.memsz = memsz

    @property
    def executable(self) -> bool:
        return self.kind == PT_LOAD and bool(self.flags & PF_X)


def page_down(n: int) -> int:
    return n & -PAGE


def page_up(n: int) -> int:
    return (n + PAGE - 1) & -PAGE


def looks_like_elf(head: bytes) -> bool:
    """Whether the first 20 bytes are of a little-endian 64-bit x86-64 program or library."""
    return head[:6] == b"\x7fELF\x02\x01" and head[16:20] in (b"\x02\x00\x3e\x00", b"\x03\x00\x3e\x00")


class Elf:
    """A parsed file over `data` (kept, not copied)."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.size = len(data)
        if self.size < _EHDR.size or not looks_like_elf(bytes(data[0:20])):
            raise ElfError("not an x86-64 ELF program or library")
        head = _EHDR.unpack(data[0 : _EHDR.size])
        self.type: int = head[1]
        self.entry: int = head[4]
        phoff, phentsize, phnum = head[5], head[9], head[10]
        if phentsize != _PHDR.size or not 0 < phnum <= MAX_PHDRS or phoff + phnum * phentsize > self.size:
            raise ElfError("ELF program headers are damaged")
        self.segments: list[Segment] = []
        for i in range(phnum):
            at = phoff + i * phentsize
            kind, flags, offset, vaddr, _, filesz, memsz, _ = _PHDR.unpack(data[at : at + phentsize])
            if kind == PT_LOAD and (
                filesz > memsz or offset + filesz > self.size or vaddr + memsz > 1 << 47 or (vaddr - offset) % PAGE
            ):
                raise ElfError("ELF segment lies outside of the file or is misaligned")
            self.segments.append(Segment(kind, flags, offset, vaddr, filesz, memsz))
        self.loads = [s for s in self.segments if s.kind == PT_LOAD and s.memsz]
        if not self.loads:
            raise ElfError("ELF file has nothing to load")
        self.base = min(page_down(s.vaddr) for s in self.loads)
        self.end = max(page_up(s.vaddr + s.memsz) for s in self.loads)

    @property
    def text(self) -> list[Segment]:
        """Segments that may be patched: executable, never writable, all of it from the file.

        Text that is also writable may change under a plan; the raw door serves it.
        """
        return [s for s in self.loads if s.flags & PF_X and not s.flags & PF_W and s.filesz == s.memsz]

    def read(self, vaddr: int, size: int) -> bytes:
        """`size` bytes at a link-time address, from the file; fewer where the segment's file part ends."""
        for s in self.loads:
            if s.vaddr <= vaddr < s.vaddr + s.filesz:
                at = s.offset + vaddr - s.vaddr
                return bytes(self.data[at : min(at + size, s.offset + s.filesz)])
        return b""

    def _first(self, kind: int) -> Segment | None:
        for s in self.segments:
            if s.kind == kind and s.offset + s.filesz <= self.size:
                return s
        return None

    @property
    def interpreter(self) -> str | None:
        s = self._first(PT_INTERP)
        if s is None or not 1 < s.filesz <= 4096:
            return None
        return bytes(self.data[s.offset : s.offset + s.filesz]).split(b"\0")[0].decode("utf-8", "surrogateescape")

    def dynamic(self) -> list[tuple[int, int]]:
        """(tag, value) of the dynamic section, without the terminator; empty for static programs."""
        s = self._first(PT_DYNAMIC)
        if s is None:
            return []
        out = []
        raw = bytes(self.data[s.offset : s.offset + min(s.filesz, MAX_DYNAMIC * _DYN.size)])
        for tag, value in _DYN.iter_unpack(raw[: len(raw) // _DYN.size * _DYN.size]):
            if tag == 0:
                break
            out.append((tag, value))
        return out

    def dynamic_strings(self, *tags: int) -> list[str]:
        """Strings that entries with these tags name, in order."""
        entries = self.dynamic()
        table = next((v for t, v in entries if t == DT_STRTAB), None)
        if table is None:
            return []
        out = []
        for tag, value in entries:
            if tag in tags:
                raw = self.read(table + value, 4096)
                if b"\0" in raw:
                    out.append(raw.split(b"\0")[0].decode("utf-8", "surrogateescape"))
        return out

    @property
    def kind(self) -> str:
        """`static` (fixed address, no interpreter), `exec` (fixed address), `pie` or `shared`."""
        if self.type == ET_EXEC:
            return "static" if self.interpreter is None else "exec"
        entries = dict(self.dynamic())
        if entries.get(DT_FLAGS_1, 0) & DF_1_PIE:
            return "pie"
        return "shared" if self.interpreter is None or DT_SONAME in entries else "pie"
