"""Builds the image of shim/abi.h ("Plan store") from an ELF and a site table, after checking the table. Trusted side.

The site table comes from a process that read hostile bytes, so nothing in it is believed: a site must be 0F 05 (or 0F A2) in
text that can be patched, windows must decode as movable instructions exactly and must not overlap. A wrong table
can then at worst break the program whose file it describes.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

from .. import abi
from . import movable
from .analysis import Report, Site
from .elf import PAGE, Elf, ElfError, Segment, page_down, page_up

MAX_SITES = 1 << 16
MAX_IMAGE = 512 << 20
MAX_TRAMPOLINES = 64 << 20
MIN_WINDOW = 5
MAX_WINDOW = 48

_ENTER = b"\x65\xff\x24\x25" + pack("<I", abi.SLOT_ENTRY)  # jmp *%gs:PSB_SLOT_ENTRY
_LEA_RCX = b"\x48\x8d\x0d"  # lea disp32(%rip), %rcx
_TRAP = bytes((0xE7, abi.PORT_TRAP))  # out %eax, $PSB_PORT_TRAP
_LEA_RBX = b"\x48\x8d\x1d"  # lea disp32(%rip), %rbx
_ENTER_CPUID = b"\x65\xff\x24\x25" + pack("<I", abi.SLOT_CPUID)  # jmp *%gs:PSB_SLOT_CPUID
_INSTRUCTION = {abi.DOOR_JUMP: b"\x0f\x05", abi.DOOR_TRAP: b"\x0f\x05", abi.DOOR_CPUID: b"\x0f\xa2"}


class PlanError(ElfError):
    """A site table that does not fit its file."""


def build_image(report: Report, sha256: bytes = b"") -> bytes | None:
    """The image for a report of `analyse`; None where there is nothing to patch.

    `sha256`: digest of the file, computed here when left out.
    """
    if not sha256:
        import hashlib

        sha256 = hashlib.sha256(report.data).digest()
    return image_of(Elf(report.data), report.sites, sha256)


def image_of(elf: Elf, sites: Iterable[Site], sha256: bytes) -> bytes | None:
    """As `build_image`, from a parsed file."""
    ordered = sorted(sites)
    if not ordered:
        return None
    if len(ordered) > MAX_SITES:
        raise PlanError("too many sites")
    by_segment = {s: [site for site in ordered if s.vaddr <= site.vaddr < s.vaddr + s.filesz] for s in elf.text}
    if sum(len(group) for group in by_segment.values()) != len(ordered):
        raise PlanError("site outside of patchable text")
    segments = [s for s in sorted(by_segment, key=lambda s: s.vaddr) if by_segment[s]]
    if len(segments) > abi.PLAN_MAX_SEGS:
        raise PlanError("too many executable segments")
    tramp_vaddr = elf.end
    trampolines = bytearray()
    records: list[bytes] = []
    texts: list[bytearray] = []
    for segment in segments:
        text = segment_pages(elf, segment)
        _patch(segment, text, by_segment[segment], tramp_vaddr, trampolines, records)
        texts.append(text)
    return _assemble(elf, segments, texts, trampolines, records, sha256)


def segment_pages(elf: Elf, segment: Segment) -> bytearray:
    """The whole pages that mapping the segment shows: its neighbours in the file too, zeros behind the end of file."""
    start = page_down(segment.offset)
    end = page_up(segment.offset + segment.filesz)
    raw = bytearray(elf.data[start : min(end, elf.size)])
    raw += bytes(end - start - len(raw))
    return raw


def _assemble(
    elf: Elf,
    segments: list[Segment],
    texts: list[bytearray],
    trampolines: bytearray,
    records: list[bytes],
    sha256: bytes,
) -> bytes:
    sites_off = abi.PlanImage.SIZE
    at = page_up(sites_off + len(records) * abi.PlanSite.SIZE)
    described = []
    for segment, text in zip(segments, texts, strict=True):
        described.append(
            abi.PlanSeg(vaddr=page_down(segment.vaddr), file_off=page_down(segment.offset), len=len(text), image_off=at)
        )
        at += len(text)
    tramp_len = page_up(len(trampolines))
    total = at + tramp_len
    if total > MAX_IMAGE or tramp_len > MAX_TRAMPOLINES:
        raise PlanError("image too large")
    header = abi.PlanImage.pack(
        magic=abi.PLAN_IMAGE_MAGIC,
        version=abi.ABI_VERSION,
        nsegs=len(segments),
        sha256=sha256,
        total_len=total,
        span=elf.end - elf.base,
        base_vaddr=elf.base,
        tramp_vaddr=elf.end,
        tramp_len=tramp_len,
        tramp_off=at if tramp_len else 0,
        nsites=len(records),
        sites_off=sites_off,
        seg=described,
    )
    head = header + b"".join(records)
    parts: list[bytes | bytearray] = [
        head.ljust(page_up(len(head)), b"\0"),
        *texts,
        trampolines.ljust(tramp_len, b"\0"),
    ]
    return b"".join(parts)


def _patch(
    segment: Segment, text: bytearray, sites: list[Site], tramp_vaddr: int, trampolines: bytearray, records: list[bytes]
) -> None:
    """Patches the pages of one segment in place; appends trampolines and site records."""
    base = page_down(segment.vaddr)
    lo, hi = segment.vaddr - base, segment.vaddr - base + segment.filesz
    original = bytes(text)
    free_from = lo  # everything below is taken by earlier windows
    for site in sites:
        at = site.vaddr - base
        start, end = at - site.before, at + 2 + site.after
        if start < free_from or end > hi or original[at : at + 2] != _INSTRUCTION.get(site.door) or not -1 <= site.nr < 1 << 16:
            raise PlanError(f"site {site.vaddr:#x} does not fit the file")
        free_from = end
        tramp = tramp_back = 0
        if site.door == abi.DOOR_TRAP and end - start == 2:
            text[at : at + 2] = _TRAP
        elif site.door != abi.DOOR_TRAP and MIN_WINDOW <= end - start <= MAX_WINDOW:
            tramp = len(trampolines)
            code, tramp_back = _trampoline(original, base, start, at, end, tramp_vaddr + tramp, site.door)
            trampolines += code
            trampolines += b"\xcc" * (-len(trampolines) % 16)
            text[start:end] = b"\xe9" + _rel32(tramp_vaddr + tramp, base + start + 5) + b"\x90" * (end - start - 5)
        else:
            raise PlanError(f"site {site.vaddr:#x} has an impossible window")
        records.append(
            abi.PlanSite.pack(
                vaddr=site.vaddr,
                nr=site.nr,
                door=site.door,
                window_before=site.before,
                window_after=site.after,
                tramp=tramp,
                tramp_back=tramp_back,
            )
        )


def _rel32(to: int, after: int) -> bytes:
    distance = to - after
    if not -(1 << 31) <= distance < 1 << 31:
        raise PlanError("trampoline out of reach")
    return pack("<i", distance)


def _trampoline(text: bytes, base: int, start: int, site: int, end: int, here: int, door: int) -> tuple[bytes, int]:
    """Code of one trampoline at address `here` for the window text[start:end]; and the offset of `back`."""
    out = bytearray(text[start:site])
    at = start
    while at < site:
        moved = movable.decode(text, at)
        if moved is None or moved.kind != movable.PLAIN or at + moved.size > site:
            raise PlanError(f"window at {base + start:#x} cannot be moved")
        at += moved.size
    # lea back(%rip), %rcx ; jmp *%gs:entry : neither touches flags, stack or another register.
    if door == abi.DOOR_CPUID:
        out += _LEA_RBX + pack("<i", len(_ENTER_CPUID)) + _ENTER_CPUID
        back = len(out)
    else:
        out += _LEA_RCX + pack("<i", len(_ENTER)) + _ENTER
        back = len(out)
        out += _LEA_RCX + _rel32(base + site + 2, here + len(out) + 7)  # RCX as the instruction leaves it
    at = site + 2
    done = False
    while at < end:
        moved = movable.decode(text, at)
        if moved is None or at + moved.size > end or (moved.kind != movable.PLAIN and at + moved.size != end):
            raise PlanError(f"window at {base + start:#x} cannot be moved")
        to = base + at + moved.size + moved.displacement
        if moved.kind == movable.JMP:
            out += b"\xe9" + _rel32(to, here + len(out) + 5)
        elif moved.kind == movable.JCC:
            out += bytes((0x0F, 0x80 | moved.condition)) + _rel32(to, here + len(out) + 6)
        else:
            out += text[at : at + moved.size]
        done = moved.kind in (movable.JMP, movable.RET)
        at += moved.size
    if not done:
        out += b"\xe9" + _rel32(base + end, here + len(out) + 5)
    return bytes(out), back


def check_header(head: bytes, length: int) -> abi.PlanImage | None:
    """The header of a stored image of `length` bytes, if it is whole and its parts lie inside."""
    if len(head) < abi.PlanImage.SIZE:
        return None
    image = abi.PlanImage.unpack(head)
    if (
        image.magic != abi.PLAN_IMAGE_MAGIC
        or image.version != abi.ABI_VERSION
        or image.total_len != length
        or image.nsegs > abi.PLAN_MAX_SEGS
        or image.tramp_off + image.tramp_len > length
        or image.sites_off + image.nsites * abi.PlanSite.SIZE > length
        or any(s.image_off + s.len > length or s.image_off % PAGE for s in image.seg[: image.nsegs])
    ):
        return None
    return image
