"""The rewriter's decisions: real binaries, properties of every window, hostile input."""

from __future__ import annotations

import functools
import random
import re
import struct
import subprocess
import time
from pathlib import Path

import capstone
import pytest
from pysandbox.runtime import abi
from pysandbox.runtime.rewriter import analysis, image, movable
from pysandbox.runtime.rewriter.elf import Elf, ElfError, page_down

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
LOADER = "/lib64/ld-linux-x86-64.so.2"
# Path, kind, and how many sites there are at least.
OBJECTS = [
    (LIBC, "shared", 500),
    (LOADER, "shared", 40),
    ("/bin/busybox", "static", 200),
    ("/usr/lib/x86_64-linux-musl/libc.so", "shared", 400),
    ("/usr/lib/go-1.19/bin/go", "exec", 40),
    ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "shared", 0),
]


@functools.cache
def report(path: str) -> analysis.Report:
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed")
    return analysis.analyse(path)


@functools.cache
def built(path: str) -> bytes:
    made = image.build_image(report(path))
    if made is None:
        pytest.skip(f"{path} has no sites")
    return made


@pytest.mark.parametrize(("path", "kind", "least"), OBJECTS)
def test_sites_are_found(path: str, kind: str, least: int) -> None:
    found = report(path)
    assert found.kind == kind
    calls = [s for s in found.sites if s.door != abi.DOOR_CPUID]
    assert len(calls) >= least
    jumps = sum(s.door == abi.DOOR_JUMP for s in calls)
    assert jumps >= 0.95 * len(calls)


def test_cpuid_gets_a_window(tmp_path: Path) -> None:
    """Of the loader all, and none where something jumps into every window there could be."""
    listing = subprocess.run(["objdump", "-d", LOADER], capture_output=True, text=True, check=True).stdout
    theirs = {int(m[1], 16) for m in re.finditer(r"^ *([0-9a-f]+):\t0f a2 +\tcpuid", listing, re.M)}
    ours = {s.vaddr for s in report(LOADER).sites if s.door == abi.DOOR_CPUID}
    assert ours <= theirs
    assert len(ours) >= 0.9 * len(theirs) > 5
    alone = function("jmp 1f\n .balign 16\n 1: cpuid\n jmp *%rdx")
    assert analysis.analyse(str(build(tmp_path, alone))).sites == []


def test_libc_agrees_with_objdump() -> None:
    """Every `syscall` that objdump shows inside a function is a site of ours, and no other."""
    listing = subprocess.run(["objdump", "-d", LIBC], capture_output=True, text=True, check=True).stdout
    theirs = {int(m[1], 16) for m in re.finditer(r"^ *([0-9a-f]+):\t0f 05 +\tsyscall", listing, re.M)}
    ours = {s.vaddr for s in report(LIBC).sites if s.door != abi.DOOR_CPUID}
    assert len(theirs ^ ours) <= 5  # objdump decodes in a line over data and padding too
    assert len(theirs & ours) > 500


def test_numbers_are_right_where_the_name_tells() -> None:
    numbers: dict[str, set[int]] = {}
    for site in report(LIBC).sites:
        if site.function:
            numbers.setdefault(site.function, set()).add(site.nr)
    for name, nr in (("getppid", 110), ("getuid", 102), ("umask", 95), ("setsid", 112), ("sync", 162)):
        assert numbers[name] == {nr}
    assert numbers["syscall"] == {-1}  # the number is the caller's


def test_libc_is_quick() -> None:
    analysis.analyse(LOADER)  # imports
    begin = time.perf_counter()
    analysis.analyse(LIBC)
    assert time.perf_counter() - begin < 1.0  # 0.13 s on an idle machine; the goal is 0.5


@pytest.mark.parametrize("path", [o[0] for o in OBJECTS[:5]])
def test_windows_move_exactly_what_capstone_sees(path: str) -> None:
    """No window overlaps another; what is moved decodes to the same lengths; nothing depends on RIP."""
    found, elf = report(path), Elf(report(path).data)
    cs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    end_of_last = 0
    for site in sorted(found.sites):
        start, end = site.vaddr - site.before, site.vaddr + 2 + site.after
        assert start >= end_of_last
        end_of_last = end
        assert elf.read(site.vaddr, 2) == (b"\x0f\xa2" if site.door == abi.DOOR_CPUID else b"\x0f\x05")
        assert (site.door == abi.DOOR_TRAP) == (end - start == 2)
        window = list(cs.disasm(elf.read(start, end - start), start))
        assert sum(i.size for i in window) == end - start
        assert site.vaddr in {i.address for i in window}
        for insn in window:
            assert "rip" not in insn.op_str
            assert not insn.mnemonic.startswith(("call", "loop"))
            if insn.mnemonic.startswith("j"):
                assert insn.address + insn.size == end


@pytest.mark.parametrize("path", [o[0] for o in OBJECTS[:5]])
def test_no_branch_leads_into_a_window(path: str) -> None:
    """Independent check: a linear disassembly of all text, resuming after bad bytes, has no target inside a window."""
    found, elf = report(path), Elf(report(path).data)
    inside = {
        a for s in found.sites for a in range(s.vaddr - s.before + 1, s.vaddr + 2 + s.after) if s.door != abi.DOOR_TRAP
    }
    cs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    cs.skipdata = True
    branches = 0
    for segment in elf.text:
        code = bytes(elf.data[segment.offset : segment.offset + segment.filesz])
        for _, _, mnemonic, operands in cs.disasm_lite(code, segment.vaddr):
            if mnemonic[0] == "j" and operands.startswith("0x"):
                branches += 1
                assert int(operands, 16) not in inside
    assert branches > 1000


@pytest.mark.parametrize("path", [o[0] for o in OBJECTS[:5]])
def test_images_differ_in_windows_only(path: str) -> None:
    found, elf, made = report(path), Elf(report(path).data), built(path)
    head = image.check_header(made, len(made))
    assert head is not None
    assert head.nsites == len(found.sites)
    assert head.tramp_vaddr >= head.base_vaddr + head.span
    sites = [abi.PlanSite.unpack(made, head.sites_off + i * abi.PlanSite.SIZE) for i in range(head.nsites)]
    assert [s.vaddr for s in sites] == sorted(s.vaddr for s in found.sites)
    covered = {a for s in sites for a in range(s.vaddr - s.window_before, s.vaddr + 2 + s.window_after)}
    for seg in head.seg[: head.nsegs]:
        original = bytes(elf.data[seg.file_off : seg.file_off + seg.len]).ljust(seg.len, b"\0")
        patched = made[seg.image_off : seg.image_off + seg.len]
        changed = {seg.vaddr + i for i in range(seg.len) if original[i] != patched[i]}
        assert changed <= covered


@pytest.mark.parametrize("path", [o[0] for o in OBJECTS[:5]])
def test_trampolines_do_what_the_abi_says(path: str) -> None:
    made = built(path)
    head = abi.PlanImage.unpack(made)
    cs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    seg = {s.vaddr: s for s in head.seg[: head.nsegs]}
    for i in range(head.nsites):
        site = abi.PlanSite.unpack(made, head.sites_off + i * abi.PlanSite.SIZE)
        home = next(s for v, s in seg.items() if v <= site.vaddr < v + s.len)
        start = site.vaddr - site.window_before
        at = home.image_off + start - home.vaddr
        if site.door == abi.DOOR_TRAP:
            assert made[at : at + 2] == bytes((0xE7, abi.PORT_TRAP))
            continue
        assert made[at] == 0xE9
        tramp = head.tramp_vaddr + site.tramp
        assert start + 5 + struct.unpack_from("<i", made, at + 1)[0] == tramp
        code = made[head.tramp_off + site.tramp : head.tramp_off + site.tramp + 96]
        back = site.tramp_back
        register, entry = ("rbx", abi.SLOT_CPUID) if site.door == abi.DOOR_CPUID else ("rcx", abi.SLOT_ENTRY)
        enter = list(cs.disasm_lite(code[site.window_before : back], tramp + site.window_before))
        assert [(m, o) for _, _, m, o in enter] == [
            ("lea", f"{register}, [rip + 8]"),
            ("jmp", f"qword ptr gs:[{entry:#x}]"),
        ]
        if site.door == abi.DOOR_CPUID:
            continue
        assert code[back : back + 3] == b"\x48\x8d\x0d"
        assert tramp + back + 7 + struct.unpack_from("<i", code, back + 3)[0] == site.vaddr + 2


def test_movable_agrees_with_capstone() -> None:
    """What the trusted table accepts, capstone decodes with the same length and without RIP."""
    rng = random.Random(7)
    cs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    accepted = 0
    for i in range(60000):
        code = bytearray(rng.randbytes(16))
        if i % 3 == 0:
            code[0] = rng.choice((0x48, 0x0F, 0x66, 0x4C, 0x64, 0xF3, 0x49))
        if i % 5 == 0:
            code[1] = 0x0F
        moved = movable.decode(bytes(code), 0)
        if moved is None:
            continue
        accepted += 1
        theirs = next(cs.disasm_lite(bytes(code), 0), None)
        assert theirs is not None, code.hex()
        assert theirs[1] == moved.size, (code.hex(), theirs)
        assert "rip" not in theirs[3]
        assert theirs[2] not in ("syscall", "call", "int", "out", "in", "hlt")
    assert accepted > 10000


@pytest.mark.parametrize(
    "code", ["0f05", "e800000000", "488d0500000000", "ff25", "cd80", "f4", "ffe0", "e700", "c8", "67"]
)
def test_unmovable(code: str) -> None:
    assert movable.decode(bytes.fromhex(code).ljust(16, b"\0"), 0) is None


# --- small objects made for the purpose -----------------------------------------------------------


def build(tmp_path: Path, source: str, *flags: str) -> Path:
    (tmp_path / "a.S").write_text(source)
    out = tmp_path / "a.out"
    subprocess.run(["gcc", "-nostdlib", "-static", "-o", out, tmp_path / "a.S", *flags], check=True)
    return out


def function(body: str) -> str:
    return (
        f".globl _start\n.type _start,@function\n_start:\n.cfi_startproc\n{body}\n.cfi_endproc\n.size _start,.-_start\n"
    )


def only_site(path: Path) -> analysis.Site:
    (site,) = analysis.analyse(str(path)).sites
    return site


def test_a_jump_target_is_never_moved_over(tmp_path: Path) -> None:
    body = "test %edi,%edi\n jz 1f\n mov $39,%eax\n nop\n1: syscall\n2: cmp $-4095,%rax\n jae 2b\n ret"
    site = only_site(build(tmp_path, function(body)))
    # `1` (the site) and `2` (behind it) are both targets: no room for five bytes on either side.
    assert site.door == abi.DOOR_TRAP


def test_a_jump_from_far_away_counts(tmp_path: Path) -> None:
    far = ".section .text.cold\n.type cold,@function\ncold: .cfi_startproc\n jmp inner\n .cfi_endproc\n"
    far += ".size cold,.-cold\n"
    body = "mov $39,%eax\n syscall\ninner: xchg %rax,%rbx\n nop\n ud2"
    site = only_site(build(tmp_path, function(body) + far))
    assert (site.before, site.after) == (5, 0)  # `inner` stays where it is


def test_number_stops_at_a_join(tmp_path: Path) -> None:
    body = "mov $39,%eax\n jmp 1f\n mov $60,%eax\n1: xor %edi,%edi\n xor %esi,%esi\n syscall\n ud2"
    assert only_site(build(tmp_path, function(body))).nr == -1


def test_number_follows_registers(tmp_path: Path) -> None:
    body = "mov $231,%r12d\n xor %edi,%edi\n mov %r12,%rax\n syscall\n ud2"
    assert only_site(build(tmp_path, function(body))).nr == 231


def test_unexplained_indirect_jump_means_trap_door(tmp_path: Path) -> None:
    body = "mov $39,%eax\n syscall\n cmp $-4095,%rax\n add %rdx,%rcx\n jmp *%rcx"
    site = only_site(build(tmp_path, function(body)))
    assert (site.door, site.nr) == (abi.DOOR_TRAP, -1)


def test_bytes_in_data_and_in_instructions_are_left_alone(tmp_path: Path) -> None:
    body = "mov $0x050f,%eax\n mov $60,%eax\n syscall\n ud2"
    data = ".text\n.type table,@object\ntable: .byte 1,2,0x0f,5,0x0f,5,3\n.size table,7\n"
    found = analysis.analyse(str(build(tmp_path, function(body) + data)))
    assert [s.nr for s in found.sites] == [60]
    assert {reason for _, reason in found.skipped} == {
        "bytes inside another instruction",
        "not reached by known control flow",
    }


def test_stripped_program_without_unwind_tables(tmp_path: Path) -> None:
    source = (
        ".globl _start\n_start: mov $39,%eax\n syscall\n call 1f\n ud2\n.byte 0x0f,5\n1: mov $60,%eax\n syscall\n ud2\n"
    )
    found = analysis.analyse(str(build(tmp_path, source, "-s")))
    assert [s.nr for s in found.sites] == [39, 60]
    assert [reason for _, reason in found.skipped] == ["not reached by known control flow"]


def test_signal_return_known_by_its_bytes_stays(tmp_path: Path) -> None:
    source = ".globl _start\n.type _start,@function\n_start: mov $15,%rax\n syscall\n.size _start,.-_start\n"
    found = analysis.analyse(str(build(tmp_path, source, "-Wa,-O0")))
    assert found.sites == []
    assert [reason for _, reason in found.skipped] == ["signal return recognised by its bytes"]


def test_writable_text_is_left_alone(tmp_path: Path) -> None:
    found = analysis.analyse(str(build(tmp_path, function("mov $60,%eax\n syscall\n ud2"), "-Wl,-N")))
    assert found.sites == []
    assert [reason for _, reason in found.skipped] == ["text is writable or not all from the file"]


# --- what the trusted side refuses ----------------------------------------------------------------


@pytest.mark.parametrize(
    "site",
    [
        analysis.Site(0, 0, abi.DOOR_TRAP, 0, 0),  # not in text
        analysis.Site(-1, 1, abi.DOOR_TRAP, 0, 0),  # not a syscall instruction
        analysis.Site(-2, 0, abi.DOOR_JUMP, 0, 0),  # jump without room
        analysis.Site(-2, 0, abi.DOOR_JUMP, 3, 0),  # window begins inside an instruction that cannot move
        analysis.Site(-2, 0, abi.DOOR_TRAP, 5, 0),  # trap door with a window
        analysis.Site(-2, 0, abi.DOOR_RAW, 0, 0),  # no such door to build
        analysis.Site(-2, -1, abi.DOOR_CPUID, 5, 0),  # not a cpuid instruction
        analysis.Site(-2, 1 << 20, abi.DOOR_TRAP, 0, 0),  # no such number
        analysis.Site(-2, 0, abi.DOOR_JUMP, 5, 4000),  # beyond the segment
    ],
)
def test_a_lying_site_table_is_refused(tmp_path: Path, site: analysis.Site) -> None:
    path = build(tmp_path, function("lea 0(%rip),%rax\n mov $60,%eax\n syscall\n ud2"))
    elf, true = Elf(path.read_bytes()), only_site(path)
    lie = site._replace(vaddr=true.vaddr + site.vaddr + 2) if site.vaddr < 0 else site
    with pytest.raises(ElfError):
        image.image_of(elf, [lie], bytes(32))
    with pytest.raises(ElfError):
        image.image_of(elf, [true, true], bytes(32))


def test_damaged_files_raise_one_kind_of_error() -> None:
    rng = random.Random(3)
    good = Path(LOADER).read_bytes()
    outcomes = set()
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 40)):
            bad[rng.randrange(rng.choice((64, 1024, len(bad))))] = rng.randrange(256)
        if rng.random() < 0.2:
            bad = bad[: rng.randrange(len(bad))]
        try:
            elf = Elf(bytes(bad))
            elf.dynamic_strings(1)
            outcomes.add(elf.kind)
        except ElfError:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert len(outcomes) > 1


def test_image_shows_whole_pages_of_the_file() -> None:
    elf = Elf(Path(LIBC).read_bytes())
    for segment in elf.text:
        pages = image.segment_pages(elf, segment)
        begin = page_down(segment.offset)
        assert len(pages) % 4096 == 0
        assert bytes(pages) == bytes(elf.data[begin : begin + len(pages)]).ljust(len(pages), b"\0")
