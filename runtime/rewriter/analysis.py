"""Which byte pairs are `syscall` instructions, which door each gets, which number each issues. Runs confined.

Candidates come from bytes (0F 05 in executable segments); the decision comes from disassembly:

- inside a function with known bounds (FDE, sized symbol, pclntab), the whole function is decoded in a line from its
  start. The decoding counts when it ends exactly at the function's end and no direct branch in it leads into the middle
  of an instruction: data between instructions would break one or the other;
- elsewhere, only what control flow reaches from known starts counts.

A jump door needs a window of five bytes whose *interior* nothing jumps to. What could: direct branches with 32-bit
displacement (found as bytes in all text, every alignment, so cold parts in other functions are seen), short branches
(decoded in the function; as bytes in the neighbourhood), exception landing pads, code addresses kept in data, taken by
`lea`, or offset tables of indirect jumps. Where an indirect jump cannot be explained by these, the site gets the trap
door, which replaces its own two bytes only and is safe wherever the instruction itself is proven.

`cpuid` (0F A2) is looked for in the same way: every one of them leaves the VM, and C libraries start with dozens. It gets a
window of its own or stays as it is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import pairwise
from time import monotonic
from typing import Any, NamedTuple

from .. import abi
from . import functions as fn
from . import movable
from .elf import Elf, ElfError, Segment

JUMP_SIZE = 5
MAX_RUN = 5  # instructions considered for moving on either side
SPAN = 64  # bytes on either side of a candidate in which a window can lie
FUNCTION_LIMIT = 1 << 20
REACH_LIMIT = 8 << 20  # bytes of text in which code without known bounds is searched by control flow
REACH_SECONDS = 4.0
RT_SIGRETURN = 15
_SIGRETURN_CODE = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
_DIRECT = re.compile(r"0x[0-9a-f]+\Z|[0-9]\Z")
_RIP = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|[0-9])\]")
_FLOW_ENDS = frozenset(("jmp", "notrack jmp", "ret", "ud2", "hlt", "int3", "iretq", "bnd jmp", "repz ret", "bnd ret"))

_WANTED = frozenset(("syscall", "cpuid"))
_JUMPS = frozenset(("jmp", "notrack jmp", "bnd jmp"))

Insn = tuple[int, int, str, str]  # address, size, mnemonic, operands


class Site(NamedTuple):
    """A patched instruction. `vaddr` as linked; `nr` -1: not proven; windows in bytes (both 0 for the trap door)."""

    vaddr: int
    nr: int
    door: int
    before: int
    after: int
    function: str | None = None


class Report(NamedTuple):
    kind: str  # static, exec, pie, shared
    sites: list[Site]
    skipped: list[tuple[int, str]]  # candidates left to the raw door, with the reason
    data: Any  # the file analysed


class _Flow(NamedTuple):
    """Decoded code around some candidates."""

    insns: list[Insn]  # by address
    at: dict[int, int]  # address -> index
    targets: set[int]
    resolved: bool  # every indirect jump is explained
    lo: int
    hi: int


def analyse(source: Any) -> Report:
    """Analyses an ELF given as a path, bytes or mmap. Raises ElfError for anything that is not an x86-64 ELF."""
    if isinstance(source, str):
        try:
            with open(source, "rb") as f:
                source = f.read()
        except OSError as e:
            raise ElfError(f"{source}: {(e.strerror or 'cannot be read').lower()}", errno=e.errno) from e
    return _Analysis(source).run()


class _Analysis:
    def __init__(self, data: Any) -> None:
        import capstone

        self.elf = Elf(data)
        self.data = data
        self.cs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self.detail = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self.detail.detail = True
        self.text = [(s, bytes(data[s.offset : s.offset + s.filesz])) for s in self.elf.text]
        self.targets: set[int] = set()  # branch targets and address-taken code near candidates
        self.skipped: list[tuple[int, str]] = []
        self.taken: list[tuple[int, int]] = []  # windows, for overlap
        self.flows: dict[int, _Flow | None] = {}  # by start of function; None: cannot be decoded in a line
        self.reached: dict[int, _Flow] = {}  # by start of what control flow reached

    def run(self) -> Report:
        candidates = [(s, m.start() + s.vaddr) for s, code in self.text for m in re.finditer(rb"(?=\x0f[\x05\xa2])", code)]
        for s in self.elf.loads:
            if s.executable and s not in self.elf.text:
                found = bytes(self.data[s.offset : s.offset + s.filesz]).count(b"\x0f\x05")
                self.skipped += [(s.vaddr, "text is writable or not all from the file")] * min(found, 1)
        sites: list[Site] = []
        if candidates:
            self._prepare([a for _, a in candidates])
            proven = self._prove([a for _, a in candidates])
            everywhere = sorted(proven)
            for segment, code in self.text:
                for addr in everywhere:
                    if segment.vaddr <= addr < segment.vaddr + segment.filesz:
                        self._choose(segment, code, addr, proven[addr], sites, everywhere)
        return Report(self.elf.kind, sites, self.skipped, self.data)

    # -- facts about the whole object ---------------------------------------------------------------

    def _prepare(self, candidates: list[int]) -> None:
        import lief

        config = lief.ELF.ParserConfig()
        config.parse_relocations = config.parse_symbol_versions = config.parse_notes = False
        config.parse_overlay = config.parse_symtab_symbols = False
        lief.logging.disable()
        parsed = lief.ELF.parse(bytes(self.data), config)
        if parsed is None:
            raise ElfError("ELF file is damaged")
        self.functions = fn.find_functions(self.elf, parsed)
        self.near = {b for a in candidates for b in ((a - SPAN) >> 6, a >> 6, (a + SPAN) >> 6)}
        keep = self.near
        for s, code in self.text:
            base, size = s.vaddr, len(code)
            for m in re.finditer(rb"[\xe8\xe9]|\x0f(?=[\x80-\x8f])", code):
                at = m.start() + (1 if code[m.start()] != 0x0F else 2)
                if at + 4 <= size:
                    to = base + at + 4 + int.from_bytes(code[at : at + 4], "little", signed=True)
                    if to >> 6 in keep:
                        self.targets.add(to)
        lo = min(s.vaddr for s, _ in self.text)
        hi = max(s.vaddr + s.filesz for s, _ in self.text)
        for addr in fn.data_pointers(self.elf, lo, hi) | self.functions.starts | fn.labels(self.elf, parsed):
            if addr >> 6 in keep:
                self.targets.add(addr)

    # -- instructions -------------------------------------------------------------------------------

    def _prove(self, candidates: list[int]) -> dict[int, _Flow]:
        """Candidates that are instructions, each with the decoded code around it."""
        out: dict[int, _Flow] = {}
        rest: list[int] = []
        for addr in candidates:
            bounds = self.functions.enclosing(addr)
            flow = None
            if bounds is not None:
                flow = self._decoded(*bounds)
            if flow is None:
                rest.append(addr)
            elif (i := flow.at.get(addr)) is not None and flow.insns[i][2] in _WANTED:
                out[addr] = flow
            else:
                self._skip(addr, "bytes inside another instruction")
        if rest:
            out.update(self._reach(rest))
        return out

    def _segment(self, addr: int) -> tuple[Segment, bytes] | None:
        for s, code in self.text:
            if s.vaddr <= addr < s.vaddr + len(code):
                return s, code
        return None

    def _decoded(self, start: int, end: int) -> _Flow | None:
        if start not in self.flows:
            self.flows[start] = self._linear(start, end) if end - start <= FUNCTION_LIMIT else None
        return self.flows[start]

    def _linear(self, start: int, end: int) -> _Flow | None:
        found = self._segment(start)
        if found is None or end > found[0].vaddr + found[0].filesz:
            return None
        s, code = found
        insns: list[Insn] = list(self.cs.disasm_lite(code[start - s.vaddr : end - s.vaddr], start))
        if not insns or insns[-1][0] + insns[-1][1] != end:
            return None
        at = {insn[0]: i for i, insn in enumerate(insns)}
        targets: set[int] = set()
        for insn in insns:
            to = _target(insn)
            if to is not None:
                if start <= to < end and to not in at:
                    return None  # a branch into the middle of what was decoded: some of it is data
                targets.add(to)
        fde = self.functions.fde(start)
        pads = fn.landing_pads(self.elf, fde) if fde is not None else set()
        resolved = pads is not None
        targets |= pads or set()
        resolved = self._indirect(insns, targets, start, end) and resolved
        return _Flow(insns, at, targets, resolved, start, end)

    def _indirect(self, insns: list[Insn], targets: set[int], lo: int, hi: int) -> bool:
        """Adds where indirect jumps of a function may lead; False if one of them is unexplained."""
        jumps = [i for i, insn in enumerate(insns) if insn[2] in _JUMPS and not _direct(insn)]
        tables = False
        for insn in insns:
            if insn[2] == "lea" and (m := _RIP.search(insn[3])):
                to = insn[0] + insn[1] + (int(m[2], 0) if m[1] == "+" else -int(m[2], 0))
                targets.add(to)  # an address taken; calls and data among them do no harm
                if jumps and self._segment(to) is None:
                    tables = self._offset_table(to, targets, lo, hi) or tables
        return all(self._explained(insns, i, tables) for i in jumps)

    def _offset_table(self, table: int, targets: set[int], lo: int, hi: int) -> bool:
        """Reads 32-bit offsets relative to the table, as long as they lead into text. True: one led into [lo, hi)."""
        raw = self.elf.read(table, 4 * 4096)
        inside = False
        for i in range(0, len(raw) - 3, 4):
            to = table + int.from_bytes(raw[i : i + 4], "little", signed=True)
            if self._segment(to) is None:
                return inside
            inside = inside or lo <= to < hi
            targets.add(to)
        return False  # no end found: not a table we understand

    def _explained(self, insns: list[Insn], i: int, tables: bool) -> bool:
        operand = insns[i][3]
        if "[" in operand:
            return True  # the address lies in memory: a word of data, known from data_pointers, or set at run time
        loaded_offset = False
        for insn in reversed(insns[max(0, i - 8) : i]):
            first = insn[3].split(",")[0]
            if insn[2] == "movsxd" and "[" in insn[3]:
                loaded_offset = True
            if insn[2] == "mov" and first == operand:
                return "[" in insn[3]  # as above
            if insn[2] == "add" and first == operand:
                continue
            if _direct(insn) and insn[2] != "call" and loaded_offset:
                break
        return loaded_offset and tables

    def _reach(self, candidates: list[int]) -> dict[int, _Flow]:
        """Candidates that control flow reaches from known starts, with the code reached from the same start.

        A function that could not be decoded in a line is followed from its own start only; code of no known function
        is looked for from everywhere, within limits.
        """
        owner: dict[int, int] = {}
        bodies: dict[int, list[Insn]] = {}
        loose: list[int] = []
        for addr in candidates:
            bounds = self.functions.enclosing(addr)
            if bounds is None:
                loose.append(addr)
            elif bounds[0] not in owner:
                bodies[bounds[0]] = self._body(bounds[0], owner, set())
        text = sum(len(code) for _, code in self.text)
        # Where unwind tables describe most of the text, what they leave out is not compiled: not worth seconds.
        if loose and text <= REACH_LIMIT and sum(f.end - f.start for f in self.functions.fdes) < text // 2:
            self._reach_all(owner, bodies)
        starts = sorted(self.functions.starts)
        for addr in loose:
            # Assembly ends its FDE early where unwinding must stop (clone), and runs on.
            i = bisect_right(starts, addr) - 1
            if i >= 0 and starts[i] not in owner and addr - starts[i] < 4096:
                bodies[starts[i]] = self._body(starts[i], owner, set())
        out: dict[int, _Flow] = {}
        for addr in candidates:
            start = owner.get(addr)
            if start is None:
                self._skip(addr, "not reached by known control flow")
                continue
            if start not in self.reached:
                self.reached[start] = self._flow_of(bodies[start])
            flow = self.reached[start]
            if flow.insns[flow.at[addr]][2] in _WANTED:
                out[addr] = flow
        return out

    def _skip(self, addr: int, reason: str) -> None:
        """A candidate left as it is; of system calls only, the report says so."""
        found = self._segment(addr)
        if found is not None and found[1][addr - found[0].vaddr + 1] == 0x05:
            self.skipped.append((addr, reason))

    def _reach_all(self, owner: dict[int, int], bodies: dict[int, list[Insn]]) -> None:
        queued = set(self.functions.starts)
        roots = sorted(queued)
        deadline = monotonic() + REACH_SECONDS
        while roots and monotonic() < deadline:
            root = roots.pop()
            if root not in owner:
                calls: set[int] = set()
                bodies[root] = self._body(root, owner, calls)
                roots += calls - queued
                queued |= calls

    def _flow_of(self, body: list[Insn]) -> _Flow:
        insns = sorted(body)
        lo, hi = insns[0][0], insns[-1][0] + insns[-1][1]
        targets = {t for insn in insns if (t := _target(insn)) is not None}
        resolved = self._indirect(insns, targets, lo, hi)
        clean = all(a[0] + a[1] <= b[0] for a, b in pairwise(insns))
        fde = self.functions.fde(lo)
        pads = fn.landing_pads(self.elf, fde) if fde is not None else set()
        targets |= pads or set()
        at = {insn[0]: i for i, insn in enumerate(insns)}
        return _Flow(insns, at, targets, resolved and clean and pads is not None, lo, hi)

    def _body(self, root: int, owner: dict[int, int], calls: set[int]) -> list[Insn]:
        """Instructions that direct branches reach from `root`, calls apart; marks them in `owner`."""
        work = [root]
        body: list[Insn] = []
        while work:
            addr = work.pop()
            found = self._segment(addr)
            if found is None or addr in owner:
                continue
            s, code = found
            done = False
            while not done:
                chunk = code[addr - s.vaddr : addr - s.vaddr + 1024]
                progress = False
                for insn in self.cs.disasm_lite(chunk, addr):
                    if insn[0] in owner:
                        done = True
                        break
                    progress = True
                    owner[insn[0]] = root
                    body.append(insn)
                    addr = insn[0] + insn[1]
                    to = _target(insn)
                    if to is not None:
                        if insn[2].endswith("call"):
                            calls.add(to)
                        else:
                            work.append(to)
                    if insn[2] in _FLOW_ENDS:
                        done = True
                        break
                done = done or not progress
        return body

    # -- doors --------------------------------------------------------------------------------------

    def _choose(
        self, segment: Segment, code: bytes, addr: int, flow: _Flow, sites: list[Site], everywhere: list[int]
    ) -> None:
        name = self.functions.name(addr)
        at = addr - segment.vaddr
        if code[at + 1] == 0xA2:
            window = self._window(segment, code, addr, flow, everywhere) if flow.resolved else None
            if window is not None:
                self.taken.append((addr - window[0], addr + 2 + window[1]))
                sites.append(Site(addr, -1, abi.DOOR_CPUID, *window, name))
            return
        nr = self._number(flow, addr) if flow.resolved else -1
        if code[at - 7 : at + 2] == _SIGRETURN_CODE and at >= 7:
            fde = self.functions.fde(addr)
            if fde is None:
                # Unwinders without an FDE know a signal frame by exactly these bytes (libgcc's x86-64 fallback).
                self.skipped.append((addr, "signal return recognised by its bytes"))
                return
            self._trap(addr, RT_SIGRETURN, name, sites)
            return
        window = self._window(segment, code, addr, flow, everywhere) if flow.resolved and nr != RT_SIGRETURN else None
        if window is None:
            self._trap(addr, nr, name, sites)
            return
        before, after = window
        self.taken.append((addr - before, addr + 2 + after))
        sites.append(Site(addr, nr, abi.DOOR_JUMP, before, after, name))

    def _trap(self, addr: int, nr: int, name: str | None, sites: list[Site]) -> None:
        self.taken.append((addr, addr + 2))
        sites.append(Site(addr, nr, abi.DOOR_TRAP, 0, 0, name))

    def _runs(self, code: bytes, base: int, addr: int, flow: _Flow) -> tuple[list[movable.Moved], list[movable.Moved]]:
        """Movable instructions directly in front of the site (nearest first) and behind it."""
        i = flow.at[addr]
        before: list[movable.Moved] = []
        at = addr
        for insn in reversed(flow.insns[max(0, i - MAX_RUN) : i]):
            moved = movable.decode(code, insn[0] - base)
            if insn[0] + insn[1] != at or moved is None or moved.size != insn[1] or moved.kind != movable.PLAIN:
                break
            before.append(moved)
            at = insn[0]
        after: list[movable.Moved] = []
        at = addr + 2
        for insn in flow.insns[i + 1 : i + 1 + MAX_RUN]:
            moved = movable.decode(code, insn[0] - base)
            if insn[0] != at or moved is None or moved.size != insn[1]:
                break
            after.append(moved)
            at += insn[1]
            if moved.kind != movable.PLAIN:
                break
        return before, after

    def _window(
        self, segment: Segment, code: bytes, addr: int, flow: _Flow, everywhere: list[int]
    ) -> tuple[int, int] | None:
        before, after = self._runs(code, segment.vaddr, addr, flow)
        options: list[tuple[int, int, int, int]] = []
        for nb in range(len(before) + 1):
            for na in range(len(after) + 1):
                moved = before[:nb] + after[:na]
                lead, trail = sum(m.size for m in before[:nb]), sum(m.size for m in after[:na])
                # Faulting accesses would show a strange RIP to a SIGSEGV handler (Go turns some into panics).
                if lead + 2 + trail >= JUMP_SIZE and not any(m.faults for m in moved):
                    options.append((nb > 0, lead + trail, lead, trail))
        for _, _, lead, trail in sorted(options):
            lo, hi = addr - lead, addr + 2 + trail
            if lo < segment.vaddr or hi > segment.vaddr + len(code):
                continue
            if any(lo < end and start < hi for start, end in self.taken[-4:]):
                continue
            j = bisect_right(everywhere, addr)
            if j < len(everywhere) and everywhere[j] < hi:
                continue
            if not self._entered(segment, code, lo, hi, flow):
                return lead, trail
        return None

    def _entered(self, segment: Segment, code: bytes, lo: int, hi: int, flow: _Flow) -> bool:
        """Whether anything may jump to an address strictly between lo and hi."""
        for to in range(lo + 1, hi):
            if to in self.targets or to in flow.targets:
                return True
        # Short branches from bytes around that this function's decoding does not cover.
        base = segment.vaddr
        for at in range(max(base, lo - 130), min(base + len(code) - 1, hi + 130)):
            op = code[at - base]
            if not (op & 0xF0 == 0x70 or op == 0xEB or 0xE0 <= op <= 0xE3):
                continue
            to = at + 2 + int.from_bytes(code[at - base + 1 : at - base + 2], "little", signed=True)
            if lo < to < hi and not self._known(flow, at) and not self._known(self._around(at), at):
                return True
        return False

    def _around(self, addr: int) -> _Flow | None:
        """Decoding of the neighbouring function with this byte."""
        bounds = self.functions.enclosing(addr)
        flow = self._decoded(*bounds) if bounds is not None else None
        # An instruction of the neighbour that begins here and branches is the very thing looked for.
        return None if flow is not None and addr in flow.at else flow

    @staticmethod
    def _known(flow: _Flow | None, addr: int) -> bool:
        """Whether the byte belongs to a decoded instruction (whose own targets are known)."""
        if flow is None or not flow.lo <= addr < flow.hi:
            return False
        return any(addr - back in flow.at and flow.insns[flow.at[addr - back]][1] > back for back in range(15))

    # -- numbers ------------------------------------------------------------------------------------

    def _number(self, flow: _Flow, addr: int) -> int:
        """The constant in EAX at the site, if the basic block in front of it proves one; else -1."""
        wanted, i = "rax", flow.at[addr]
        here = addr
        for _ in range(40):
            if here in flow.targets or here in self.targets or i == 0:
                return -1
            addr_before, size, mnemonic, operands = flow.insns[i - 1]
            if addr_before + size != here or mnemonic in _FLOW_ENDS or mnemonic in ("call", "syscall"):
                return -1
            i, here = i - 1, addr_before
            if mnemonic.startswith(("j", "loop")):
                continue  # falls through: nothing is written
            found = self._segment(here)
            assert found is not None
            raw = found[1][here - found[0].vaddr : here - found[0].vaddr + size]
            insn = next(self.detail.disasm(raw, here))
            written = {_FAMILY.get(insn.reg_name(r), insn.reg_name(r)) for r in insn.regs_access()[1]}
            if wanted not in written:
                continue
            dest, _, source = (part.strip() for part in operands.partition(","))
            if dest not in _WIDE[wanted]:
                return -1
            if mnemonic in ("mov", "movabs") and _DIRECT.match(source):
                value = int(source, 0) & 0xFFFFFFFF
                return value if value < 1 << 16 else -1
            if mnemonic in ("xor", "sub") and dest == source:
                return 0
            if mnemonic == "mov" and source in _REGISTERS:
                wanted = _FAMILY.get(source, source)
                continue
            return -1
        return -1


_FAMILY: dict[str, str] = {}
_WIDE: dict[str, tuple[str, str]] = {}
for _r in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
    _WIDE["r" + _r] = ("r" + _r, "e" + _r)
    low = (_r[0] + "l", _r[0] + "h") if _r[1] == "x" else (_r + "l",)
    _FAMILY.update(dict.fromkeys(("r" + _r, "e" + _r, _r, *low), "r" + _r))
for _n in range(8, 16):
    _WIDE[f"r{_n}"] = (f"r{_n}", f"r{_n}d")
    _FAMILY.update(dict.fromkeys((f"r{_n}", f"r{_n}d", f"r{_n}w", f"r{_n}b"), f"r{_n}"))
_REGISTERS = frozenset(r for pair in _WIDE.values() for r in pair)


def _direct(insn: Insn) -> bool:
    return bool(_DIRECT.match(insn[3]))


def _target(insn: Insn) -> int | None:
    """Where a direct jump, call or loop leads."""
    if not insn[2].startswith(("j", "call", "loop", "bnd j", "bnd call", "notrack j", "xbegin")) or not _direct(insn):
        return None
    return int(insn[3], 0)
