"""The instructions that may be moved from their place into a trampoline: a short table, not a disassembler.

What the table does not know is not moved. It is the trusted side's own opinion: images are built only from
windows that this module decodes, whatever the (confined) analysis claims. Only encodings that mean the same at any
address are known; nothing that faults by design, enters the kernel, or treats RIP as data.
Source: Intel SDM volume 2, appendix A (opcode maps) and section 2.1 (ModR/M and SIB).
"""

from __future__ import annotations

from typing import NamedTuple

PLAIN, RET, JMP, JCC = range(4)


class Moved(NamedTuple):
    size: int
    kind: int  # PLAIN; or RET, JMP, JCC: may only be the last of a window
    faults: bool  # reads or writes memory other than the stack or thread-local data: could raise SIGSEGV
    condition: int  # JCC: 0..15
    displacement: int  # JMP, JCC: relative to the end of the instruction


_MODRM, _IMM8, _IMM32, _BYTE = 1, 2, 4, 8  # _IMM32: 16 bits with the 66 prefix

_ONE: dict[int, int] = {}
for _row in range(8):  # add or adc sbb and sub xor cmp
    _ONE.update(dict.fromkeys(range(_row * 8, _row * 8 + 4), _MODRM))
    _ONE[_row * 8 + 4] = _IMM8
    _ONE[_row * 8 + 5] = _IMM32
_ONE.update(dict.fromkeys(range(0x50, 0x60), 0))  # push, pop
_ONE.update({0x63: _MODRM, 0x69: _MODRM | _IMM32, 0x6A: _IMM8, 0x6B: _MODRM | _IMM8})
_ONE.update({0x80: _MODRM | _IMM8, 0x81: _MODRM | _IMM32, 0x83: _MODRM | _IMM8})
_ONE.update(dict.fromkeys((0x84, 0x85, 0x88, 0x89, 0x8A, 0x8B, 0x8D), _MODRM))
_ONE.update({0x90: 0, 0x98: 0, 0x99: 0, 0xA8: _IMM8, 0xA9: _IMM32})
_ONE.update(dict.fromkeys(range(0xB0, 0xB8), _IMM8))
_ONE.update(dict.fromkeys(range(0xB8, 0xC0), _IMM32))
_ONE.update({0xC0: _MODRM | _IMM8, 0xC1: _MODRM | _IMM8, 0xD0: _MODRM, 0xD1: _MODRM, 0xD3: _MODRM})
_ONE.update({0xC6: _MODRM | _IMM8, 0xC7: _MODRM | _IMM32, 0xF6: _MODRM, 0xF7: _MODRM, 0xFE: _MODRM, 0xFF: _MODRM})

# Opcode extensions (ModR/M.reg) allowed where the opcode is a group.
_GROUP = {0xC6: (0,), 0xC7: (0,), 0xF6: (0, 2, 3, 4, 5), 0xF7: (0, 2, 3, 4, 5), 0xFE: (0, 1), 0xFF: (0, 1, 6)}

_TWO: dict[int, int] = {0x1F: _MODRM, 0xA3: _MODRM, 0xAF: _MODRM, 0xBA: _MODRM | _IMM8}
_TWO.update(dict.fromkeys(range(0x40, 0x50), _MODRM))  # cmovcc
_TWO.update(dict.fromkeys(range(0x90, 0xA0), _MODRM))  # setcc
_TWO.update(dict.fromkeys((0xB6, 0xB7, 0xBE, 0xBF), _MODRM))
# SSE moves and zeroing, with their mandatory prefixes
_SSE = dict.fromkeys((0x10, 0x11, 0x28, 0x29, 0x57, 0x6C, 0x6E, 0x6F, 0x7E, 0x7F, 0xD6, 0xEF), _MODRM)
_SSE_PREFIX = {
    0x10: (0, 0x66, 0xF3, 0xF2),
    0x11: (0, 0x66, 0xF3, 0xF2),
    0x28: (0, 0x66),
    0x29: (0, 0x66),
    0x57: (0, 0x66),
    0x6C: (0x66,),
    0x6E: (0, 0x66),
    0x6F: (0, 0x66, 0xF3),
    0x7E: (0, 0x66, 0xF3),
    0x7F: (0, 0x66, 0xF3),
    0xD6: (0x66,),
    0xEF: (0, 0x66),
}


def decode(code: bytes, at: int) -> Moved | None:
    """The movable instruction at `code[at:]`, or None if it is not one (or not whole)."""
    try:
        return _decode(code, at)
    except IndexError:
        return None


def _decode(code: bytes, start: int) -> Moved | None:
    at = start
    prefix = 0
    local = False
    while code[at] in (0x66, 0xF2, 0xF3, 0x64):
        if code[at] == 0x64 and not local:
            local = True
        elif code[at] != 0x64 and not prefix:
            prefix = code[at]
        else:
            return None
        at += 1
    rex = 0
    if code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    op = code[at]
    at += 1
    if not prefix and not local and (branch := _branch(code, start, at, op, rex)) is not None:
        return branch
    if op == 0x0F:
        op = code[at]
        at += 1
        if op in _SSE:
            if prefix not in _SSE_PREFIX[op]:
                return None
            shape = _SSE[op]
        elif op in _TWO and prefix in (0, 0x66):
            shape = _TWO[op]
        else:
            return None
        two = True
    else:
        if op not in _ONE or prefix not in (0, 0x66):
            return None
        shape = _ONE[op]
        two = False
    faults = False
    if shape & _MODRM:
        modrm = code[at]
        group = None if two else _GROUP.get(op)
        reg = modrm >> 3 & 7
        if (group is not None and reg not in group) or (two and op == 0xBA and reg < 4):
            return None
        if not two and op == 0x8D and modrm >= 0xC0:  # lea wants memory
            return None
        if not two and op in (0xF6, 0xF7) and reg == 0:  # test with an immediate
            shape |= _IMM8 if op == 0xF6 else _IMM32
        end, stack = _operand(code, at, rex)
        if end < 0:
            return None
        at = end
        touches = modrm < 0xC0 and (two or op != 0x8D) and not (two and op == 0x1F)
        faults = touches and not stack and not local
    if shape & _IMM8:
        at += 1
    elif shape & _IMM32:
        wide = bool(rex & 8)
        if prefix == 0x66 and not wide:
            at += 2
        elif not two and 0xB8 <= op < 0xC0 and wide:
            at += 8
        else:
            at += 4
    if at > len(code) or at - start > 15:
        return None
    return Moved(at - start, PLAIN, faults, 0, 0)


def _branch(code: bytes, start: int, at: int, op: int, rex: int) -> Moved | None:
    if rex:
        return None
    if op == 0xC3:
        return Moved(at - start, RET, False, 0, 0)
    kind, condition, width = JCC, op & 15, 1
    if op == 0xEB:
        kind = JMP
    elif op == 0xE9:
        kind, width = JMP, 4
    elif op == 0x0F and code[at] & 0xF0 == 0x80:
        condition, width = code[at] & 15, 4
        at += 1
    elif op & 0xF0 != 0x70:
        return None
    if at + width > len(code):
        return None
    rel = int.from_bytes(code[at : at + width], "little", signed=True)
    return Moved(at + width - start, kind, False, condition if kind == JCC else 0, rel)


def _operand(code: bytes, at: int, rex: int) -> tuple[int, bool]:
    """End of ModR/M, SIB and displacement (-1: RIP-relative), and whether it addresses the stack."""
    modrm = code[at]
    at += 1
    mod, rm = modrm >> 6, modrm & 7
    if mod == 3:
        return at, False
    stack = False
    disp = {0: 0, 1: 1, 2: 4}[mod]
    if rm == 4:
        sib = code[at]
        at += 1
        stack = sib & 0x3F == 0x24 and not rex & 3  # base RSP, no index
        if sib & 7 == 5 and mod == 0:
            disp = 4
    elif rm == 5 and mod == 0:
        return -1, False
    return at + disp, stack
